"""The `medgemma` command: the demo, questions, conversations and reports about pictures, batches, and checkpoints."""

from medgemma.commands import checkpoint
from medgemma.commands.ask import ask
from medgemma.commands.batch import batch
from medgemma.commands.chat import chat
from medgemma.commands.demo import demo
from medgemma.commands.film import compare, locate, report
from medgemma.commands.serve import serve
from medgemma.commands.verify import verify
from medsiglip.command import new_app, run

app = new_app("MedGemma: questions about medical pictures. Not a medical device.")


for command in (
    demo,
    ask,
    batch,
    chat,
    report,
    locate,
    compare,
    serve,
    checkpoint.info,
    verify,
    checkpoint.convert,
    checkpoint.merge,
    checkpoint.plug,
):
    app.command()(command)


def main() -> None:
    """Entry point of the `medgemma` script."""
    run(app)
