"""The command `medgemma-eval judge`: measure a judge on labelled texts before it grades."""

import json
from pathlib import Path
from typing import Annotated

import typer

from medsiglip.command import Device, Dtype, Quiet, progress, say, whole_file


def judge(
    labelled: Annotated[
        Path, typer.Argument(metavar="LABELLED.jsonl", help="Lines of text, question, label (true, false), group.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for judge.json and verdicts.jsonl; a stopped run goes on.")],
    judged_by: Annotated[
        str, typer.Option("--judge", metavar="JUDGE", help="URL[#NAME] of a server, 'nano', a local folder or Hub id.")
    ] = "nano",
    required: Annotated[
        float, typer.Option(min=0, max=1, help="Agreement that its 95 % interval must lie above.")
    ] = 0.8,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
) -> None:
    """Accept a judge or refuse it: its agreement with people's labels, with intervals; exit status 1 if refused.

    `medgemma-eval run --role judge=JUDGE --accepted DIR` then demands the file.
    """
    from evals.clinic.backends import local
    from evals.clinic.casting import ROLE_TOKENS, open_server
    from evals.clinic.dialogue import Meter
    from evals.generation import Generation
    from evals.judging.acceptance import RESULT, accept, as_json, judged_texts, labelled_texts
    from evals.results.tables import aligned

    texts = labelled_texts(labelled)
    if judged_by.startswith(("http://", "https://")):
        backend, identity = open_server(judged_by)
    else:
        from medgemma import MedGemma

        model = MedGemma.from_pretrained(judged_by, device=device, dtype=dtype)
        backend, identity = local(model, Generation(max_new_tokens=ROLE_TOKENS), Meter()), model.fingerprint
    with progress(len(texts), "texts", quiet) as advance:
        verdicts = judged_texts(backend, identity, texts, out, advance)
    found = accept(verdicts, [text.label for text in texts], [text.group for text in texts], required)
    with whole_file(out / RESULT) as file:
        file.write(json.dumps(as_json(identity, found, labelled), indent=1, allow_nan=False) + "\n")
    figures = (("agreement", found.agreement, found.interval), ("kappa", found.kappa, found.kappa.ci95))
    rows = [(name, f"{value.value:.3f} [{low:.3f}, {high:.3f}]") for name, value, (low, high) in figures]
    counted = f"{found.agreement.n} texts, {found.agreement.n_groups} groups"
    for line in aligned(
        [*rows, ("unparsed", f"{found.unparsed:.3f}"), ("required", f"{required:.3f}"), ("n", counted)]
    ):
        typer.echo(line)
    typer.echo(f"{identity}: {'accepted' if found.is_accepted else 'refused'}")
    if not found.is_accepted:
        say("the judge is refused: its agreement does not lie above what is required, or its kappa not above 0")
        raise typer.Exit(1)
