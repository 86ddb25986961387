"""What every command of the package shares: options, FILE arguments, progress, one-line errors, exit status."""

import errno
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from data_cards.options import spread_options as spread_options  # part of what commands share
from medsiglip.imaging import FileProblem, Notes, list_files
from medsiglip.imaging.source import Source
from medsiglip.remarks import Remark

Files = Annotated[list[str], typer.Argument(metavar="FILE...", help="File, folder, quoted glob, @list.txt or -.")]
Model = Annotated[str, typer.Option(help="'nano', a local folder, or a Hub id.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Dtype = Annotated[str, typer.Option(help="auto, float32 or bfloat16.")]
Select = Annotated[
    list[str] | None,
    typer.Option(
        "--select", metavar="KEY=VALUE", help="Which volume of several: echo=2, time=3, b_value=1000, ...; repeatable."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]


OF_FILES = {
    errno.EEXIST: "a file; a folder is needed there, give another place",
    errno.ENOTDIR: "lies below a file, not a folder; give another place",
    errno.EISDIR: "a folder; give the name of a file",
}
"""What the system calls by other names."""


def new_app(summary: str) -> typer.Typer:
    """An app whose help is `summary`, with no shell-completion options and no local variables in tracebacks."""
    return typer.Typer(
        help=summary,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def run(app: typer.Typer) -> None:
    """Run an app: a user's mistake becomes one line on stderr and exit status 1, without a traceback."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.simplefilter("always", Remark)
    warnings.showwarning = _say_remark
    try:
        app()
    except (ValueError, OSError, FloatingPointError) as error:
        say(f"error: {one_line(error)}")
        sys.exit(1)
    except (ImportError, RuntimeError) as error:
        if not blames_torchvision(error):
            raise
        say(
            "error: the installed torchvision does not fit this torch, and transformers cannot load with it; "
            "run `pip uninstall torchvision` (this package needs none), or install the one built for your torch"
        )
        sys.exit(1)
    except KeyboardInterrupt:
        say("interrupted; what was finished is kept")
        sys.exit(130)


def _say_remark(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: IO[str] | None = None,
    line: str | None = None,
) -> None:
    """Our own remarks on stderr; other packages' warnings are for developers."""
    if issubclass(category, Remark):
        say(f"note: {' '.join(str(message).split())}")


def blames_torchvision(error: BaseException | None) -> bool:
    """Whether an import failed because torchvision's compiled operators are missing, wherever in the chain it says so.

    transformers looks only at whether torchvision is installed, imports it, and then fails itself.
    """
    while error is not None:
        if "torchvision::" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def say(line: str) -> None:
    """One line for the person at the terminal: stderr, so that results on stdout stay clean."""
    typer.echo(line, err=True)


def say_notes(notes: Notes) -> None:
    """What a user should know of the pictures, a line a finding."""
    for line in notes.lines():
        say(f"note: {line}")


def one_line(error: BaseException) -> str:
    """An error's text on one line; a file's without numbers: what, where, and what to do if that is known."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        where = error.filename2 or error.filename
        return f"{where}: {OF_FILES.get(error.errno or 0, error.strerror)}"
    return " ".join(str(error).split()) or type(error).__name__


class Problems:
    """Collects what could not be handled, says each once, and decides the exit status."""

    def __init__(self) -> None:
        self.found: list[FileProblem] = []

    def add(self, problem: FileProblem) -> None:
        """Report one input by name with its reason."""
        self.found.append(problem)
        say(f"error: {problem}")

    def exit(self) -> None:
        """Exit with status 1 if anything was reported."""
        if self.found:
            say(f"{len(self.found)} input(s) could not be handled; any others were")
            raise typer.Exit(1)


def files_of(sources: Sequence[str], problems: Problems) -> list[Source]:
    """Expand FILE arguments; what cannot be found is reported."""
    listed = list_files(sources)
    for problem in listed.problems:
        problems.add(problem)
    return list(listed.files)


@contextmanager
def whole_file(out: Path | None) -> Iterator[IO[str]]:
    """A text stream: stdout, or a file that appears under its name only when it is whole."""
    if out is None:
        yield sys.stdout
        return
    if out.is_dir():
        raise ValueError(f"{out}: a folder; give the name of a file to write")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        yield file
    partial.replace(out)


def refuse_input_as_out(out: Path, source: Path) -> None:
    """Refuse to write over the table that is read.

    Raises:
        ValueError: the two are one file.
    """
    if out.exists() and source.exists() and out.samefile(source):
        raise ValueError(f"{out}: the table's own file; give another --out")


class Advance:
    """Advances a progress bar when called."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def __call__(self, count: int) -> None:
        """So many more are done."""
        self._bar.update(count)

    def show(self, text: str) -> None:
        """Beside the bar, such as the loss."""
        self._bar.set_postfix_str(text, refresh=False)

    def expect(self, total: int) -> None:
        """So many there will be in all."""
        self._bar.reset(total)


@contextmanager
def progress(total: int | None, unit: str, quiet: bool) -> Iterator[Advance]:
    """A progress bar on stderr; yields what advances it."""
    from tqdm import tqdm

    with tqdm(total=total, unit=f" {unit}", disable=True if quiet else None, file=sys.stderr) as bar:
        yield Advance(bar)
