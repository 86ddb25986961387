"""An episode to look at: as text, or as one HTML page that needs nothing else."""

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

import numpy as np

from experience.annotations import annotated, annotation_names, annotations
from experience.dataset import EpisodeDataset
from experience.episode import CORE_FIELDS, Episode, Step

PICTURES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"BM": "image/bmp"}
"""First bytes of a picture that browsers show, to its type."""

MOST_NUMBERS = 8
"""Of an array, printed."""


def text_of(dataset: EpisodeDataset, key: int | str) -> str:
    """Return an episode as text, a step a paragraph."""
    episode = _annotated(dataset, key)
    lines = [f"episode {episode.episode_id}: {_summary(episode)}"]
    lines += [f"  {name}: {_line(value)}" for name, value in episode.metadata.items()]
    for number, step in enumerate(episode.steps):
        lines.append(f"step {number}{_marks(step)}")
        lines += [f"  {name}: {_line(value)}" for name, value in _leaves(_told(step))]
    return "\n".join(lines) + "\n"


def page_of(dataset: EpisodeDataset, key: int | str) -> str:
    """Return an episode as an HTML page: its steps with pictures, texts, tool calls and rewards."""
    from jinja2 import Environment

    episode = _annotated(dataset, key)
    steps = [
        {"number": number, "marks": _marks(step), "rows": [_row(*leaf) for leaf in _leaves(_told(step))]}
        for number, step in enumerate(episode.steps)
    ]
    page = resources.files("experience").joinpath("page.html").read_text(encoding="utf-8")
    metadata = [(name, _line(value)) for name, value in episode.metadata.items()]
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(page)
    return template.render(name=episode.episode_id, summary=_summary(episode), metadata=metadata, steps=steps)


def _annotated(dataset: EpisodeDataset, key: int | str) -> Episode:
    episode = dataset[key]
    for name in annotation_names(dataset):
        episode = annotated(episode, name, annotations(dataset, name))
    return episode


def _summary(episode: Episode) -> str:
    end = "invalid" if episode.is_invalid else "truncated" if episode.is_truncated else "ended"
    rewards = [step.reward for step in episode.steps[:-1] if step.reward is not None]
    total = f", total reward {np.sum(rewards):g}" if rewards and all(np.ndim(one) == 0 for one in rewards) else ""
    return f"{len(episode.steps)} steps, {end}{total}"


def _marks(step: Step) -> str:
    return "".join(f", {name}" for name in ("first", "last", "terminal") if getattr(step, f"is_{name}"))


def _told(step: Step) -> dict[str, Any]:
    """What there is to see of a step: nothing that is null."""
    fields = step.fields().items()
    return {name: value for name, value in fields if value is not None and name not in CORE_FIELDS[4:]}


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values; messages and tool calls whole, under their own names."""
    if isinstance(value, Mapping) and value and set(value) == {"role", "content"}:
        yield f"{name} ({value['role']})", value["content"]
    elif isinstance(value, Mapping) and value and set(value) == {"name", "arguments"}:
        yield f"{name} ({value['name']})", value["arguments"]
    elif isinstance(value, Mapping) and value:
        for key, one in value.items():
            yield from _leaves(one, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(one, Mapping | bytes) for one in value):
        for place, one in enumerate(value):
            yield from _leaves(one, f"{name}[{place}]")
    elif value is not None and value != [] and not (isinstance(value, str) and not value):
        yield name, value


def _line(value: Any) -> str:
    if isinstance(value, np.ndarray):
        numbers = ", ".join(str(one) for one in value.ravel()[:MOST_NUMBERS])
        more = ", ..." if value.size > MOST_NUMBERS else ""
        return f"{value.dtype} {value.shape} [{numbers}{more}]"
    if isinstance(value, bytes):
        return f"{_picture_type(value) or 'bytes'}, {len(value)} bytes"
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=_line)
    return str(value)


def _row(name: str, value: Any) -> dict[str, str]:
    """A row of the page: its name, and a text or a picture."""
    kind = _picture_type(value) if isinstance(value, bytes) else _pixels(value)
    if kind:
        data = value if isinstance(value, bytes) else _png(value)
        return {"name": name, "picture": f"data:{kind};base64,{b64encode(data).decode()}", "text": _line(value)}
    return {"name": name, "picture": "", "text": _line(value)}


def _picture_type(data: bytes) -> str:
    return next((kind for begin, kind in PICTURES.items() if data.startswith(begin)), "")


def _pixels(value: Any) -> str:
    looks = isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.size and min(value.shape[:2]) > 1
    return "image/png" if looks and (value.ndim == 2 or value.ndim == 3 and value.shape[2] in (3, 4)) else ""


def _png(pixels: Any) -> bytes:
    from io import BytesIO

    from PIL import Image

    file = BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()
