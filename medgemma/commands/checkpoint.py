"""The `medgemma` commands about checkpoints: info, convert, merge, plug."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medsiglip.command import Quiet, progress, say, spread_options

if TYPE_CHECKING:
    from medgemma.checkpoints.info import ModelInfo

Folder = Annotated[Path, typer.Option("--out", help="New folder, in the Hub's layout.")]
Written = Annotated[
    str, typer.Option("--dtype", help="float32 or bfloat16, GGUF also float16 or q8_0; auto keeps what is stored.")
]
ShardSize = Annotated[str, typer.Option(help="A larger weight file is written as several: 5GB, 500MB.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is there.")]
Source = Annotated[str, typer.Argument(help="'nano', a local folder, or a Hub id.")]
HEAD_APART = "the output head was trained apart from the embeddings; the result keeps both (tie_word_embeddings: false)"
UNITS = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "KB": 10**3, "TIB": 2**40, "GIB": 2**30, "MIB": 2**20, "KIB": 2**10}


@dataclass(frozen=True)
class WriteOptions:
    """How a folder is written."""

    dtype: Written = "auto"
    shard_size: ShardSize = "5GB"
    overwrite: Overwrite = False

    def settings(self) -> dict[str, Any]:
        """As convert, merge and plug take them.

        Raises:
            ValueError: the shard size is no size.
        """
        dtype = None if self.dtype == "auto" else self.dtype
        return {"dtype": dtype, "max_shard_bytes": num_bytes(self.shard_size), "overwrite": self.overwrite}


def info(
    model: Source,
    check: Annotated[
        bool, typer.Option("--check", help="Compare every tensor's name and shape with the config (loads torch).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """What a checkpoint is: parameters, layout, layers, memory, missing files. Reads headers only; fetches nothing."""
    from medgemma.checkpoints.info import inspect

    found = inspect(model)
    if as_json:
        typer.echo(json.dumps(asdict(found), ensure_ascii=False))
    else:
        typer.echo("\n".join(_described(found)))
    if check:
        from medgemma.checkpoints.layouts import matched_folder

        matched_folder(Path(found.folder))
        say("every tensor is what config.json asks for")
    for problem in found.problems:
        say(f"error: {problem}")
    if found.problems:
        raise typer.Exit(1)


@spread_options
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="'nano', a local folder, or a Hub id.")],
    out: Annotated[Path, typer.Argument(metavar="DST", help="New folder.")],
    to: Annotated[str, typer.Option("--to", help="hub, or gguf for llama.cpp, Ollama and LM Studio.")] = "hub",
    base: Annotated[str, typer.Option(help="With --to gguf, of an adapter SRC: what it was trained on.")] = "",
    *,
    writing: WriteOptions,
    quiet: Quiet = False,
) -> None:
    """Write a checkpoint of any transformers version in the Hub's layout, which 4.57 and 5 read alike, or as GGUF."""
    from medgemma.checkpoints.convert import convert as convert_folder

    settings = writing.settings()
    if to == "gguf":
        _convert_to_gguf(source, out, base, writing, quiet)
        return
    if to != "hub" or base:
        raise ValueError(f"--to {to}: give hub or gguf" if to != "hub" else "--base is for --to gguf")
    with progress(None, "tensors", quiet) as advance:
        tensors = convert_folder(
            _folder(source),
            out,
            **settings,
            advance=advance,
        )
    typer.echo(f"{out}\t{tensors} tensors")


@spread_options
def merge(
    base: Annotated[str, typer.Argument(metavar="BASE", help="'nano', a local folder, or a Hub id.")],
    adapters: Annotated[
        list[Path],
        typer.Argument(metavar="ADAPTER...", help="A PEFT LoRA folder; with --slerp several, or checkpoints."),
    ],
    out: Folder,
    slerp: Annotated[
        bool,
        typer.Option("--slerp", help="Average versions tuned from BASE on the sphere, layer by layer (WARP)."),
    ] = False,
    toward_base: Annotated[
        float, typer.Option(help="With --slerp: how far back to BASE, from 0 (the mean) to 1 (1 - eta of WARP's LITI).")
    ] = 0.0,
    *,
    writing: WriteOptions,
    quiet: Quiet = False,
) -> None:
    """Merge a LoRA adapter into its base, every tensor of it accounted for, the vision tower's too."""
    from medgemma.checkpoints.adapters.merge import merge as merge_folders
    from medgemma.checkpoints.adapters.slerp import slerp_merge

    settings = writing.settings()
    if slerp:
        with progress(None, "tensors", quiet) as advance:
            done = slerp_merge(_folder(base), adapters, out, toward_base=toward_base, **settings, advance=advance)
        if done.head_apart:
            say(HEAD_APART)
        least, middle, largest = done.degrees
        angles = f"angles {least:.0f} to {largest:.0f} degrees, the middle one {middle:.0f}"
        typer.echo(f"{out}\t{done.versions} versions\t{done.layers} layers\t{angles}\t{done.tensors} tensors")
        return
    if len(adapters) > 1 or toward_base:
        raise ValueError("several adapters, or --toward-base, want --slerp; without it give one adapter")
    with progress(None, "tensors", quiet) as advance:
        merged = merge_folders(
            _folder(base),
            adapters[0],
            out,
            **settings,
            advance=advance,
        )
    if merged.head_apart:
        say(HEAD_APART)
    if merged.trained_on:
        say(f"the adapter says that it was trained on {merged.trained_on}")
    typer.echo(f"{out}\t{merged.updated} weights updated\t{merged.replaced} replaced\t{merged.tensors} tensors")


@spread_options
def plug(
    encoder: Annotated[str, typer.Option(help="Whose vision tower: a SigLIP or Gemma 3 folder, or a Hub id.")],
    decoder: Annotated[str, typer.Option(help="A Gemma 3 folder, with a tower or text only, or a Hub id.")],
    out: Folder,
    image_size: Annotated[
        int | None, typer.Option(help="Side in pixels that the tower will see; the decoder's without it.")
    ] = None,
    image_tokens: Annotated[int | None, typer.Option(help="Tokens an image; the decoder's without it.")] = None,
    keep_projector: Annotated[
        bool, typer.Option("--keep-projector", help="Keep the decoder's; for a tuned version of its own tower.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the new projector.")] = 0,
    *,
    writing: WriteOptions,
    quiet: Quiet = False,
) -> None:
    """Put an encoder's vision tower into a Gemma 3 decoder; a new projector has learned nothing yet."""
    from medgemma.checkpoints.plug import plug_folders

    settings = writing.settings()
    with progress(None, "tensors", quiet) as advance:
        plugged = plug_folders(
            _folder(encoder),
            _folder(decoder),
            out,
            image_size_px=image_size,
            image_tokens=image_tokens,
            keep_projector=keep_projector,
            seed=seed,
            **settings,
            advance=advance,
        )
    typer.echo(str(out))
    typer.echo("\n".join(_counted(plugged.parameters)))
    typer.echo(f"position table\t{plugged.patches_before:,} to {plugged.patches:,} patches")
    typer.echo(f"pooling head\t{plugged.dropped_parameters:,} parameters dropped")
    typer.echo(f"projector\t{plugged.projector}{'; train it' if plugged.projector == 'new' else ''}")


def num_bytes(size: str) -> int:
    """Bytes of a text such as "5GB" or "500 MiB".

    Raises:
        ValueError: it is no size.
    """
    text = size.strip().upper().replace(" ", "")
    unit = next((unit for unit in UNITS if text.endswith(unit)), "")
    number = text.removesuffix(unit)
    if not number.replace(".", "", 1).isdigit() or not float(number):
        raise ValueError(f"shard size {size!r}: give a number and a unit, such as 5GB or 500MB")
    return int(float(number) * UNITS.get(unit, 1))


def _convert_to_gguf(source: str, out: Path, base: str, writing: WriteOptions, quiet: bool) -> None:
    from medgemma.checkpoints.adapters.checks import CONFIG_FILE
    from medgemma.checkpoints.gguf.adapter import adapter_to_gguf
    from medgemma.checkpoints.gguf.model import convert_to_gguf

    if writing.shard_size != WriteOptions.shard_size:
        raise ValueError("--shard-size is for the Hub's layout; a GGUF file is one")
    settings: dict[str, Any] = {name: value for name, value in writing.settings().items() if name != "max_shard_bytes"}
    is_adapter = (Path(source) / CONFIG_FILE).is_file()
    if is_adapter != bool(base):
        raise ValueError(
            f"{source}: an adapter; say with --base what it was trained on"
            if is_adapter
            else "--base is for an adapter SRC"
        )
    with progress(None, "tensors", quiet) as advance:
        if is_adapter:
            written = adapter_to_gguf(_folder(base), Path(source), out, **settings, advance=advance)
        else:
            written = convert_to_gguf(_folder(source), out, **settings, advance=advance)
    for file in written:
        typer.echo(f"{file.path}\t{file.tensors} tensors")


def _folder(model: str) -> Path:
    from medgemma.nano import NANO_FOLDER
    from medsiglip.checkpoints.folders import resolve_model

    return resolve_model(model, NANO_FOLDER)


def _described(info: "ModelInfo") -> list[str]:
    lines = [f"folder\t{info.folder}", f"class\t{info.model_class}", *_counted(info.parameters_by_part)]
    dtypes = ", ".join(f"{name} {count:,}" for name, count in info.parameters_by_dtype.items())
    lines += [f"dtype\t{dtypes}", f"layout\t{info.layout}"]
    if info.quantised:
        lines += [f"quantised\tby {info.quantised}; the parameters above are the numbers that are stored"]
    lines += [f"weights\t{info.weight_bytes:,} bytes, {info.tensors} tensors, {info.weight_files} files"]
    if info.image_size_px:
        lines += [f"image size\t{info.image_size_px} px"]
    if decoder := info.decoder:
        lines += [
            f"layers\t{decoder.layers_local} local (window {decoder.sliding_window:,}), {decoder.layers_global} global",
            f"context\t{decoder.context_tokens:,} tokens",
            f"cache\t{decoder.kv_cache_bytes_per_token:,} bytes a token, "
            f"{decoder.kv_cache_bytes_per_token_past_window:,} past the window",
        ]
        lines += [f"image\t{decoder.image_tokens} tokens"] if decoder.image_tokens else []
    if info.weight_bytes_by_dtype:
        sizes = ", ".join(f"{dtype} {size / 1e9:.3g} GB" for dtype, size in info.weight_bytes_by_dtype.items())
        memory = "unknown" if info.memory_bytes is None else f"{info.memory_bytes / 1e9:.3g} GB"
        room = ", ".join(info.dtypes_that_fit) or "none"
        lines += [f"memory\t{sizes}; this machine has {memory}; fit with room to spare: {room}"]
    return [*lines, f"missing\t{'; '.join(info.files_missing) or 'nothing'}"]


def _counted(parameters: Mapping[str, int]) -> list[str]:
    return [
        f"parameters\t{sum(parameters.values()):,}",
        *(f"  {part}\t{count:,}" for part, count in parameters.items()),
    ]
