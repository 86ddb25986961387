"""Label sets: labels, the prompts that state them, and what a probability over them means.

A set is a YAML file. Those that ship lie in `medsiglip/label_sets`; `--prompts F.yaml` reads a user's own:

    convention: present against absent       # or softmax, or sigmoid
    made_for: [chest X-ray]                  # kinds of picture, for `medsiglip gate`; may be left out
    labels:
      edema:
        present: [mild pulmonary edema, severe pulmonary edema]
        absent: [no pulmonary edema]

With softmax and sigmoid a label has a list of prompts, or nothing, which makes its name the prompt.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from medsiglip.label_sets import LABEL_SETS_FOLDER

Convention = Literal["softmax", "sigmoid", "present against absent"]
"""softmax: the labels exclude each other, their probabilities add up to 1. sigmoid: each label alone, by the encoder's
own scale and bias. present against absent: each label alone, softmax over the prompts that state and that deny it."""
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)

Prompts = Mapping[str, tuple[str, ...]]
"""Label to the texts that are averaged for it."""


@dataclass(frozen=True)
class LabelSet:
    """Labels with their prompts; read one with `label_set` or `read_label_set`, or make one with `of_labels`.

    Raises:
        ValueError: no label, a label without a prompt, or denying prompts that do not go with the convention.
    """

    name: str
    convention: Convention
    prompts: Prompts
    absent: Prompts = field(default_factory=dict)
    """Of the convention "present against absent": the texts that deny each label."""
    made_for: tuple[str, ...] = ()
    """Kinds of picture that the set speaks of, by a gate's names; empty: any."""
    source: str = ""

    def __post_init__(self) -> None:
        if not self.prompts or not all(self.prompts.values()):
            raise ValueError("no labels given, or a label has no prompt; give at least one non-empty label")
        paired = self.convention == "present against absent"
        if set(self.absent) != (set(self.prompts) if paired else set()) or not all(self.absent.values()):
            raise ValueError(
                f"absent prompts are for {sorted(self.absent)}, labels {sorted(self.prompts)}; give one for each"
            )

    @classmethod
    def of_labels(cls, labels: Sequence[str], *, independent: bool = False) -> "LabelSet":
        """Label names as their own prompts.

        Raises:
            ValueError: there are none, or one is given twice.
        """
        names = [label.strip() for label in ([labels] if isinstance(labels, str) else labels) if label.strip()]
        if len(set(names)) < len(names):
            raise ValueError(f"a label is given twice in {names}; give each label once")
        return cls("", "sigmoid" if independent else "softmax", {name: (name,) for name in names})

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of the file."""
        return tuple(self.prompts)

    @property
    def exclusive(self) -> bool:
        """Whether a picture has exactly one of the labels."""
        return self.convention == "softmax"

    @property
    def sha256(self) -> str:
        """Of the convention and every prompt: what a calibration belongs to."""
        said = [self.convention, *([label, list(texts)] for label, texts in self.prompts.items())]
        said += [[label, list(self.absent[label])] for label in self.prompts if self.absent]
        return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()[:16]

    def with_prompts_of(self, other: "LabelSet") -> "LabelSet":
        """This set with other prompts for some of its labels.

        Raises:
            ValueError: the other has a label that is not here, or another convention.
        """
        if unknown := sorted(set(other.prompts) - set(self.prompts)):
            raise ValueError(
                f"{other.name}: {_quoted(unknown)} is no label of {self.name}; use {'; '.join(self.labels)}"
            )
        if other.convention != self.convention:
            raise ValueError(
                f"{other.name}: is by {other.convention}, {self.name} by {self.convention}; use the latter"
            )
        prompts, absent = {**self.prompts, **other.prompts}, {**self.absent, **other.absent}
        return replace(self, name=f"{self.name}+{other.name}", prompts=prompts, absent=absent)


def task_names() -> list[str]:
    """The names of the sets that ship."""
    return sorted(path.stem for path in LABEL_SETS_FOLDER.glob("*.yaml"))


@cache
def label_set(name: str) -> LabelSet:
    """A set that ships.

    Raises:
        ValueError: there is none of that name; the names are listed.
    """
    if name not in task_names():
        raise ValueError(f"task {name!r} is unknown; choose one of {', '.join(task_names())}")
    return read_label_set(LABEL_SETS_FOLDER / f"{name}.yaml")


def read_label_set(path: Path) -> LabelSet:
    """Read a label set from YAML.

    Raises:
        ValueError: the file is missing or no YAML, a key is missing or unknown, or a label is not of the convention's
            form; the message says where and what is expected.
    """
    facts = _read_yaml(path)
    if unknown := sorted(set(facts) - {"title", "source", "convention", "made_for", "labels"}):
        raise ValueError(f"{path}: unknown key {_quoted(unknown)}; use convention, labels, made_for, title, source")
    convention, labels = facts.get("convention"), facts.get("labels")
    if convention not in CONVENTIONS:
        raise ValueError(f"{path}: convention is {convention!r}; use one of {', '.join(CONVENTIONS)}")
    if not isinstance(labels, dict) or not labels:
        raise ValueError(f"{path}: labels is {type(labels).__name__}; expected labels with their prompts below them")
    paired = convention == "present against absent"
    prompts, absent = {}, {}
    for label, given in labels.items():
        name, where = str(label), f"{path}: label {label!r}"
        if not paired:
            prompts[name] = _texts([name] if given is None else given, where)
        elif isinstance(given, dict) and set(given) == {"present", "absent"}:
            prompts[name], absent[name] = (_texts(given[side], f"{where}, {side}") for side in ("present", "absent"))
        else:
            raise ValueError(f"{where}: give the two lists present and absent, which this convention compares")
    kinds = _texts(facts["made_for"], f"{path}: made_for") if facts.get("made_for") else ()
    return LabelSet(path.stem, convention, prompts, absent, kinds, str(facts.get("source", "")))


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        facts = yaml.load(path.read_text(encoding="utf-8"), Loader=_one_key_once())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); give a YAML file of prompts") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no valid YAML ({' '.join(str(error).split())}); mend it") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{path}: got {type(facts).__name__}, expected the keys convention and labels")
    return facts


def _one_key_once() -> Any:
    """A safe loader that refuses a key given twice, which YAML's own would let the last one win."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [str(key.value) for key, _ in node.value]
            if twice := sorted({key for key in keys if keys.count(key) > 1}):
                raise yaml.YAMLError(f"{_quoted(twice)} is given twice{node.start_mark}")
            mapping: dict[Any, Any] = super().construct_mapping(node, deep)
            return mapping

    return Loader


def _texts(given: Any, where: str) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"{where}: got {given!r}; expected a list of non-empty texts")
    return tuple(texts)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
