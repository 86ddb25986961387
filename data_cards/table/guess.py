"""Telling what the columns of a table mean, by their names and by what they hold."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_cards.table.files import is_picture_name, parts_of
from data_cards.table.records import split_named
from data_cards.table.rows import NONE, Columns, Kind, with_guesses
from data_cards.table.values import UNCERTAIN, boxes_in, class_of, is_missing, number_of, presence_of, text_of

MOST_VALUES = 2000
"""Distinct values of a column that are kept apart."""
MOST_SAMPLES = 30
FEWEST_FINDINGS = 3
"""So many columns of present or absent are taken for labels; fewer may say anything (smoker, treated)."""
MOST_GRADES = 10
"""A column of more distinct whole numbers is a number, of fewer a class."""

_FILES = (
    "file filename file_name filepath file_path image images image_path image_file image_id image_index image_name img "
    "img_path img_name img_id path paths picture pictures dicom dicom_path dicom_id scan scan_path volume nifti "
    "id_code isic_id study_path png_path jpg_path sop_instance_uid series_instance_uid study_instance_uid patient_id"
)
_LABEL = (
    "label labels class class_name classes target diagnosis dx finding_labels findings finding category grade level "
    "disease pathology y severity report impression caption boxes box_2d bounding_boxes bbox count"
)
_GROUP = (
    "group group_id patient_id patientid patient patient_number subject_id subjectid subject participant_id "
    "participant person_id mrn case_id case lesion_id study_id study_instance_uid study accession slide_id stay_id"
)
_SPLIT = "split subset partition set fold_name official_split data_split dataset_split usage dataset phase"
_QUESTION, _ANSWER = "question questions prompt query instruction", "answer answers completion response output"
_CHOICES, _MESSAGES = "choices options answer_choices candidates", "messages conversations conversation"
_BOX_COLUMNS = (("x", "y", "width", "height"), ("x_min", "y_min", "x_max", "y_max"), ("xmin", "ymin", "xmax", "ymax"))
_GENERIC = frozenset(["label", "labels", "class", "target", "y", "category", "dx", "diagnosis"])


@dataclass
class Profile:
    """What one column holds."""

    name: str
    num_filled: int = 0
    num_missing: int = 0
    num_characters: int = 0
    values: Counter[str] = field(default_factory=Counter)
    """Of at most MOST_VALUES values."""
    samples: list[Any] = field(default_factory=list)
    all_presence: bool = True
    all_numbers: bool = True
    all_whole: bool = True
    num_joined: int = 0
    """Cells with "|" or ";" between names."""
    num_lists: int = 0

    @property
    def key(self) -> str:
        """The name in lower case, with one underscore for what is no letter or digit."""
        return key_of(self.name)

    @property
    def is_presence(self) -> bool:
        """Whether every cell says present, absent, uncertain or nothing."""
        return self.all_presence and self.num_filled > 0

    @property
    def is_free_text(self) -> bool:
        """Whether the cells are sentences, or hardly one is there twice."""
        if not self.num_filled or self.all_numbers:
            return False
        return self.num_characters > 60 * self.num_filled or len(self.values) > max(50, 0.5 * self.num_filled)

    def add(self, cell: Any) -> None:
        """Take one more cell in."""
        if is_missing(cell):
            self.num_missing += 1
            return
        text = "(picture)" if _holds_bytes(cell) else class_of(cell)
        self.num_filled += 1
        self.num_characters += len(text)
        if len(self.samples) < MOST_SAMPLES:
            self.samples.append(cell)
        known = text in self.values
        if known or len(self.values) < MOST_VALUES:
            self.values[text] += 1
        if known:
            return
        number = number_of(cell)
        self.all_presence = self.all_presence and presence_of(cell) is not None
        self.all_numbers = self.all_numbers and number is not None
        self.all_whole = self.all_whole and number is not None and number.is_integer()
        self.num_joined += isinstance(cell, str) and bool(re.search(r"[|;]", cell))
        self.num_lists += isinstance(cell, list | tuple)


def key_of(name: str) -> str:
    """A column's name as guesses compare it: `Patient ID` is `patient_id`."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()).strip("_")


def profiles_of(names: Sequence[str], rows: Iterable[Any]) -> dict[str, Profile]:
    """Take all rows (mappings of column to cell) in, once."""
    profiles = {name: Profile(name) for name in names}
    for row in rows:
        for name, profile in profiles.items():
            profile.add(row.get(name))
    return profiles


def guessed(columns: Columns, profiles: dict[str, Profile], is_file: Callable[[Any], bool]) -> Columns:
    """Fill in what the user left open.

    Args:
        columns: As given.
        profiles: Of all columns.
        is_file: Whether a cell names a file that is there.
    """
    messages = _named(profiles, _MESSAGES)
    files = _files(profiles, is_file)
    question, answer = _named(profiles, _QUESTION), _named(profiles, _ANSWER)
    given = with_guesses(columns, messages=messages, files=files)
    if given.messages and given.messages != NONE:
        question = answer = ""
    taken = {*given.files, given.messages}
    group = columns.group or _named(profiles, _GROUP)
    split = columns.split or _split(profiles)
    found = with_guesses(
        given,
        question=question,
        answer=answer if columns.question or question else "",
        choices=_choices(profiles, taken) if question or columns.question else (),
        group=group,
        split=split,
    )
    if not found.group and found.files and (pattern := _pattern_in_paths(profiles, found.files)):
        found = with_guesses(found, group=found.files[0], group_pattern=pattern)
    if found.label or found.answer not in ("", NONE) or found.messages not in ("", NONE):
        return found
    taken |= {found.question, found.group, found.split}
    return with_guesses(found, label=_label(profiles, taken))


def kind_of(profile: Profile) -> Kind:
    """What a label column holds, by its values."""
    if profile.samples and all(boxes_in(cell) is not None for cell in profile.samples):
        return "boxes"
    if profile.is_presence and profile.key not in _GENERIC:
        return "multi-label"
    if profile.num_lists or _is_joined(profile):
        return "multi-label"
    if profile.all_numbers and (not profile.all_whole or len(profile.values) > MOST_GRADES):
        return "number"
    return "text" if profile.is_free_text else "class"


def box_columns(names: Iterable[str]) -> tuple[str, ...]:
    """The four columns of a box in pixels, in the order of its form (x, y, width, height or two corners)."""
    by_key = {key_of(name): name for name in names}
    return next((tuple(by_key[key] for key in keys) for keys in _BOX_COLUMNS if by_key.keys() >= set(keys)), ())


def _named(profiles: dict[str, Profile], names: str) -> str:
    by_key = {profile.key: name for name, profile in profiles.items() if profile.num_filled}
    return next((by_key[key] for key in names.split() if key in by_key), "")


def _files(profiles: dict[str, Profile], is_file: Callable[[Any], bool]) -> tuple[str, ...]:
    filled = [profile for profile in profiles.values() if profile.num_filled and not _is_mask(profile.key)]
    known = _FILES.split()
    likely = [p for p in filled if p.key in known or _is_numbered(p.key) or _looks_like_pictures(p)]
    there = [p for p in likely if any(is_file(cell) for cell in p.samples[:5])]
    there = there or [p for p in filled if p not in likely and any(is_file(cell) for cell in p.samples[:2])]
    found = there or [p for p in likely if _looks_like_pictures(p)]
    several = [p for p in found if _looks_like_pictures(p)]
    if len(several) > 1:
        return tuple(p.name for p in several)
    found.sort(key=lambda p: known.index(p.key) if p.key in known else len(known))
    return tuple(p.name for p in found[:1])


def _looks_like_pictures(profile: Profile) -> bool:
    parts = [part for cell in profile.samples for part in parts_of(cell)]
    return bool(parts) and all(
        "bytes" in part or "path" in part if isinstance(part, dict) else is_picture_name(str(part)) for part in parts
    )


def _holds_bytes(cell: Any) -> bool:
    first = cell[0] if isinstance(cell, list) and cell else cell
    return isinstance(first, bytes) or (isinstance(first, dict) and isinstance(first.get("bytes"), bytes))


def _is_numbered(key: str) -> bool:
    return re.fullmatch(r"(image|img|picture|file|scan)_?\d+(_path)?", key) is not None


def _is_mask(key: str) -> bool:
    return bool({"mask", "seg", "segmentation", "source", "url", "heatmap"} & set(key.split("_")))


def _split(profiles: dict[str, Profile]) -> str:
    for key in _SPLIT.split():
        for name, profile in profiles.items():
            if profile.key == key and profile.values and all(split_named(value) for value in profile.values):
                return name
    return ""


def _choices(profiles: dict[str, Profile], taken: set[str]) -> tuple[str, ...]:
    if one := _named(profiles, _CHOICES):
        return (one,)
    for prefix in ("", "option_", "choice_", "op", "opt_", "ending"):
        for first in ("a", "0", "1"):
            keys = [f"{prefix}{chr(ord(first) + place)}" for place in range(10)]
            by_key = {p.key: name for name, p in profiles.items() if name not in taken}
            found = [by_key[key] for key in keys if key in by_key]
            if len(found) > 1 and keys[0] in by_key:
                return tuple(found)
    return ()


def _pattern_in_paths(profiles: dict[str, Profile], files: tuple[str, ...]) -> str:
    """A pattern that finds the patient in every path sampled, such as CheXpert's patient00001; empty if none does."""
    paths = (
        [str(part) for cell in profiles[files[0]].samples for part in parts_of(cell)] if files[0] in profiles else []
    )
    for pattern in (r"(?i)(?:patient|subject|sub|case|pat)[-_ ]?\d+", r"(?<=/)p\d{8}(?=/)"):
        keys = [re.search(pattern, path) for path in paths]
        if paths and all(keys) and len({found.group() for found in keys if found}) > 1:
            return pattern
    return ""


def _label(profiles: dict[str, Profile], taken: set[str]) -> tuple[str, ...]:
    left = {name: profile for name, profile in profiles.items() if name not in taken}
    if boxes := box_columns(left):
        return boxes
    if named := _named(left, _LABEL):
        return (named,)
    present = [
        name
        for name, profile in left.items()
        if profile.is_presence and profile.key not in ("sex", "gender") and not profile.key.startswith("unnamed")
    ]
    says_uncertain = any(UNCERTAIN in map(presence_of, profiles[name].values) for name in present)
    return tuple(present) if len(present) >= FEWEST_FINDINGS or says_uncertain else ()


def _is_joined(profile: Profile) -> bool:
    """Whether several names stand in one cell: fewer names than cells with a mark would have apart."""
    if not profile.num_joined or profile.is_free_text:
        return False
    parts = {part.strip() for value in profile.values for part in re.split(r"[|;]", value)}
    return len(parts) < len(profile.values) + profile.num_joined and all(len(part) < 60 for part in parts)


def described(cell: Any) -> str:
    """A cell for a message, short."""
    text = text_of(cell)
    return repr(text if len(text) <= 40 else text[:40] + "...")
