"""Recipe configuration: pydantic models from YAML, overridden by `--set section.key=value`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class Section(BaseModel):
    """A frozen part of a configuration; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Config = TypeVar("Config", bound=Section)


def load_config(config_class: type[Config], files: Sequence[Path], overrides: Sequence[str]) -> Config:
    """Read YAML files, later ones over earlier ones, then `key=value` overrides.

    Raises:
        ValueError: a file is missing or no mapping, a key is unknown, or a value does not fit; the key is named.
    """
    values: dict[str, Any] = {}
    for file in files:
        values = _merged(values, _read(file))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"--set {override}: expected key=value, such as contrastive.steps=200")
        values = _merged(values, _nested(key.strip(), _parsed(text, f"--set {override}")))
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(f"configuration {key}: {first['msg']}; got {first.get('input')!r}") from error


def keep_config(config: BaseModel, out: Path, learned: str = "") -> None:
    """Write the resolved configuration as OUT/config.yaml.

    Args:
        config: of the recipe.
        out: the run's folder.
        learned: what identifies the data, a line; kept as a comment.

    Raises:
        ValueError: OUT holds a run of another configuration or other data, which this one must not go on with.
    """
    out.mkdir(parents=True, exist_ok=True)
    path, text = out / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    text = f"# {learned}\n{text}" if learned else text
    has_run = any(entry.name != path.name and not entry.name.endswith(".partial") for entry in out.iterdir())
    before = path.read_text(encoding="utf-8") if path.is_file() and has_run else text
    if before != text:
        differs = [line for line in before.splitlines() if line not in text.splitlines()][:3]
        raise ValueError(
            f"{path}: another run is here, with {'; '.join(line.strip(' #') for line in differs) or 'fewer settings'}; "
            "repeat it as it was, or give another --out"
        )
    partial = path.with_suffix(f".{os.getpid()}.partial")  # several processes of one run write it at once
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{file}: no such configuration file")
    values = _parsed(file.read_text(encoding="utf-8"), str(file)) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{file}: expected a mapping of sections at the top")
    return values


def _parsed(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{source}: is no YAML ({' '.join(str(error).split())}); mend it") from error


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        out[key] = _merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out
