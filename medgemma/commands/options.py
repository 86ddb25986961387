"""What the commands that ask share: options, studies from FILE arguments, and one line for what a user should know."""

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from medsiglip.command import Device, Model, Problems, Select, one_line, say, say_notes
from medsiglip.imaging import CT_WINDOWS, FileProblem, ImageError, Notes, Picture, Source, Volume, open_images
from medsiglip.imaging.volumes.select import parse_selection
from medsiglip.imaging.volumes.series import STACKED_MODALITIES

if TYPE_CHECKING:
    from medgemma.answers.constraints import Grammar
    from medgemma.asking import Asking, Thinking
    from medgemma.engine.request import Sampling
    from medgemma.model import MedGemma
    from medgemma.prompts.content import Part, VolumeView

MaxNewTokens = Annotated[int, typer.Option(min=1, help="An answer is cut here.")]
Policy = Annotated[str, typer.Option(help="Pixels of pictures: voi, full-range, percentile, ct-report, ...")]
Resize = Annotated[str, typer.Option(help="A resize policy instead of the model's own.")]
WindowPreset = Annotated[
    str,
    typer.Option(help=f"Volumes: {', '.join(CT_WINDOWS)}, min-max or voi; without it as MedGemma 1.5 was shown them."),
]
Slices = Annotated[int, typer.Option(min=1, help="Slices shown of a volume at most.")]
System = Annotated[str, typer.Option(help="A system turn.")]
ThinkingFlag = Annotated[
    bool | None, typer.Option("--thinking/--no-thinking", help="Reason first, or never; without it as the model likes.")
]
ThinkingBudget = Annotated[int | None, typer.Option(min=1, help="Tokens of reasoning at most; implies --thinking.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")]
TopK = Annotated[int | None, typer.Option(min=1, help="Draw from the k likeliest tokens.")]
TopP = Annotated[float, typer.Option(min=0, max=1, help="Draw from the likeliest tokens up to this probability.")]
Seed = Annotated[int, typer.Option(help="Of the draws.")]
Samples = Annotated[int, typer.Option(min=1, help="Answers to each question.")]
Adapter = Annotated[Path | None, typer.Option(help="A LoRA adapter's folder, as PEFT writes it.")]
Quantize = Annotated[str, typer.Option(help="int8, or with CUDA nf4: fewer bits for the decoder's linear layers.")]
DecoderDtype = Annotated[
    str, typer.Option(help="auto, float32 or bfloat16; float16 for cards without bfloat16 (T4, P100, V100).")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@dataclass(frozen=True)
class LoadOptions:
    """Which model answers, and how it is loaded."""

    resize: Resize = ""
    model: Model = "nano"
    adapter: Adapter = None
    quantize: Quantize = ""
    device: Device = "auto"
    dtype: DecoderDtype = "auto"

    def load(self) -> "MedGemma":
        """The model."""
        from medgemma.model import MedGemma

        return MedGemma.from_pretrained(
            self.model,
            device=self.device,
            dtype=self.dtype,
            policy=self.resize or None,
            quantize=self.quantize or None,
            adapter=self.adapter,
        )


@dataclass(frozen=True)
class VolumeOptions:
    """How volumes are shown."""

    window_preset: WindowPreset = ""
    slices: Slices = 85
    select: Select = None

    def view(self) -> "VolumeView":
        """As prompts take it.

        Raises:
            ValueError: no such preset, or key to select by.
        """
        from medgemma.prompts.content import VolumeView

        known = [*CT_WINDOWS, "min-max", "voi"]
        if self.window_preset and self.window_preset not in known:
            raise ValueError(f"--window-preset {self.window_preset}: use one of {', '.join(known)}")
        return VolumeView(self.window_preset or None, self.slices, select=parse_selection(self.select or []))


@dataclass(frozen=True)
class ThinkingOptions:
    """Whether the model reasons first."""

    thinking: ThinkingFlag = None
    thinking_budget: ThinkingBudget = None

    def chosen(self) -> "Thinking":
        """The two options as one.

        Raises:
            ValueError: a budget for no thinking.
        """
        if self.thinking_budget is None:
            return self.thinking
        if self.thinking is False:
            raise ValueError("--thinking-budget and --no-thinking contradict each other; give one of them")
        return self.thinking_budget


@dataclass(frozen=True)
class DrawOptions:
    """How tokens are drawn."""

    temperature: Temperature = 0.0
    top_k: TopK = None
    top_p: TopP = 1.0
    seed: Seed = 0

    def sampling(self, max_new_tokens: int, num_samples: int = 1) -> "Sampling":
        """As the engine takes it."""
        from medgemma.engine.request import Sampling

        return Sampling(max_new_tokens, self.temperature, self.top_k, self.top_p, self.seed, num_samples)


NANO_WAS_NOT_MEASURED = (
    "note: nano was not measured for {}, and was not taught it; its answer shows that the command works"
)


class Study(NamedTuple):
    """What one prompt is about."""

    files: tuple[str, ...]
    parts: "list[Part]"
    """Empty when nothing of it could be read."""


def studies(
    files: Sequence[Source], policy: str, view: "VolumeView", problems: Problems, *, each: bool, quiet: bool
) -> Iterator[Study]:
    """The study of each prompt: every file and volume by itself, or all together.

    What cannot be read is reported, and the others go on. Volumes are named on stderr with their windows.

    Args:
        files: from `files_of`.
        policy: of pictures.
        view: of volumes.
        problems: told of each file that cannot be read.
        each: one study a file or volume; else one of all.
        quiet: volumes are not named; warnings are.
    """
    items = open_images(list(files), policy, problems.add, select=dict(view.select))
    if each:
        for _, together in groupby(items, key=lambda item: item if isinstance(item, Volume) else item.file):
            yield from _study(together, view, problems, quiet, each)
    else:
        yield from _study(items, view, problems, quiet, each)


def form_of(asking: "Asking", choices: str, regex: str, json_schema: str) -> "Grammar | None":
    """The form that an answer must have.

    Raises:
        ValueError: more than one form, or one that cannot be met.
    """
    if bool(choices) + bool(regex) + bool(json_schema) > 1:
        raise ValueError("--choices, --regex and --json-schema exclude each other; give one of them")
    if choices:
        return asking.grammars.choices(split(choices))
    if regex:
        return asking.grammars.regex(regex)
    return asking.grammars.json_schema(_schema_text(json_schema)) if json_schema else None


def split(choices: str) -> list[str]:
    """The choices of "yes; no"."""
    return [choice.strip() for choice in choices.split(";")]


def note_unless_measured(gemma: "MedGemma", what: str) -> None:
    """Say what nano's card has no figure for."""
    from medgemma.nano import NANO_FOLDER

    if gemma.folder == NANO_FOLDER:
        say(NANO_WAS_NOT_MEASURED.format(what))


def _study(
    items: Iterable[Picture | Volume], view: "VolumeView", problems: Problems, quiet: bool, each: bool
) -> Iterator[Study]:
    from medgemma.prompts.content import study_parts

    read: list[Picture | Volume] = []
    parts: list[Part] = []
    notes = Notes()
    for item in items:
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                shown = study_parts([item], view)
        except ValueError as error:
            problems.add(FileProblem(item.file, error.reason if isinstance(error, ImageError) else one_line(error)))
            continue
        known = {f"{item.file}: {finding.text}" for finding in item.findings}
        for text in dict.fromkeys(one_line(w.message) for w in caught if isinstance(w.message, Warning)):
            if text not in known:
                say(f"warning: {text}")
        if isinstance(item, Volume) and not quiet:
            say(_described(item, shown))
        notes.add(item.file, item.findings)
        read.append(item)
        parts += shown
    say_notes(notes)
    files = tuple(dict.fromkeys(item.file for item in read))
    if reason := _idle_preset(read, view, each):
        problems.add(FileProblem(", ".join(files), reason))
    elif parts:
        yield Study(files, parts)


def _idle_preset(read: Sequence[Picture | Volume], view: "VolumeView", each: bool) -> str:
    """Why a preset for volumes changes nothing of what was read; "" where it does, or where none was asked for.

    Of studies that are asked one by one, films may stand among the volumes that the preset is for.
    """
    if not view.preset or any(isinstance(item, Volume) for item in read):
        return ""
    if not read or (each and not any(item.modality in STACKED_MODALITIES for item in read)):
        return ""
    policy = f"ct-{view.preset}" if view.preset in CT_WINDOWS else "full-range" if view.preset == "min-max" else "voi"
    what = f"--window-preset {view.preset} is for volumes, and nothing here is one"
    return f"{what}; leave it out, and for single pictures use --policy {policy}"


def _described(volume: Volume, parts: "Sequence[Part]") -> str:
    """A volume's name, how much of it is shown, and by which windows."""
    pictures = [part for part in parts if isinstance(part, Picture)]
    policy = pictures[0].policy
    windows = CT_WINDOWS.get(policy.removeprefix("ct-"))
    named = ", ".join(
        f"{colour} {w.low_hu:g} to {w.high_hu:g} HU"
        for colour, w in zip(("red", "green", "blue"), windows or (), strict=False)
    )
    count = f"{len(pictures)} of {len(volume.voxels)} slices shown"
    return f"{volume.file}: {volume.modality or 'a'} volume, {count}, {policy}" + (f" ({named})" if named else "")


def _schema_text(json_schema: str) -> str:
    """The schema itself, or the file that holds it."""
    if json_schema.lstrip().startswith("{"):
        return json_schema
    path = Path(json_schema)
    if not path.is_file():
        raise ValueError(f"--json-schema {json_schema}: no such file, and no JSON object")
    text = path.read_text(encoding="utf-8")
    try:
        json.loads(text)
    except ValueError as error:
        raise ValueError(f"--json-schema {json_schema}: not JSON ({error})") from error
    return text
