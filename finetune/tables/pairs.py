"""The rows of a table as pictures with captions, and which caption is true of which picture.

Letters: N rows, n and m some of them, F findings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch

from data_cards.table import Label, Row, Table, Target
from finetune.training import named_places
from medsiglip.encoder import TEXT_LENGTH, MedSigLIP

LongCaptions = Literal["refused", "left-out", "cut"]
"""What becomes of captions of more than 64 tokens; cut drops words from the end."""
NO_FINDING = "no finding"
"""The caption of a row that denies every finding."""


class Captioned(NamedTuple):
    """A row with what its caption says."""

    row: Row
    caption: str
    class_name: str = ""
    """Rows of one class are no negatives of each other; empty: of none."""
    findings: tuple[int, ...] = ()
    """(F,) of the picture: 1 present, -1 absent, 0 not known."""
    stated: tuple[int, ...] = ()
    """(F,) by the caption: 1 present, -1 absent, 0 not stated."""


@dataclass(frozen=True)
class Pairs:
    """N pictures with captions, and what is needed to tell which captions are true of which pictures."""

    pictures: Sequence[tuple[int, ...]]
    """Numbers of each row's pictures; a row's vector is the mean over them."""
    texts: Sequence[str]
    """All different captions."""
    captions: torch.Tensor
    """(N,) int64, each row's among `texts`."""
    classes: torch.Tensor
    """(N,) int64, -1 where there is none."""
    findings: torch.Tensor
    """(N, F) float, as in `Captioned`."""
    stated: torch.Tensor
    """(N, F) float."""
    sources: torch.Tensor
    """(N,) int64: the table that a row is from; of another table nothing is known, and its captions count as false."""
    places: Sequence[str]
    groups: Sequence[str]

    def __len__(self) -> int:
        return len(self.places)

    def relations(self, pictures: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        """(n, m) float: 1 where a row's caption is true of a picture, -1 where it is false, 0 where neither is known.

        True are identical captions, and those whose every finding the picture has. Neither true nor false are captions
        of another row of the picture's class, and those of findings that the row does not tell.

        Args:
            pictures: (n,) int64 rows.
            captions: (m,) int64 rows whose captions are meant.
        """
        same_text = self.captions[pictures][:, None] == self.captions[captions]
        same_source = self.sources[pictures][:, None] == self.sources[captions]
        classes, others = self.classes[pictures][:, None], self.classes[captions]
        found = torch.where(same_source & (classes == others) & (classes >= 0), 0.0, -1.0)
        states_some = self.stated[captions].any(1)
        if states_some.any():
            found = torch.where(same_source & states_some, self._by_findings(pictures, captions), found)
        return torch.where(same_text, 1.0, found)

    def _by_findings(self, pictures: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        known, stated = self.findings[pictures], self.stated[captions]
        agreeing_less_differing, both = known @ stated.T, known.abs() @ stated.abs().T
        found = torch.where(both == stated.abs().sum(1), 1.0, 0.0)
        return torch.where(agreeing_less_differing < both, -1.0, found)

    def shuffled(self, seed: int) -> "Pairs":
        """The control: captions, with all that they are known to mean, go to other pictures."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).tolist()
        return replace(self, pictures=[self.pictures[place] for place in order])

    def with_more(self, other: "Pairs") -> "Pairs":
        """These rows, then those of another table."""
        texts = [*dict.fromkeys([*self.texts, *other.texts])]
        place = {text: number for number, text in enumerate(texts)}
        renumbered = torch.tensor([place[text] for text in other.texts])[other.captions]
        zeros = torch.zeros(len(other), self.findings.shape[1])
        return Pairs(
            [*self.pictures, *other.pictures],
            texts,
            torch.cat([self.captions, renumbered]),
            torch.cat([self.classes, torch.full_like(other.classes, -1)]),
            torch.cat([self.findings, zeros]),
            torch.cat([self.stated, zeros]),
            torch.cat([self.sources, other.sources + 1]),
            [*self.places, *other.places],
            [*self.groups, *other.groups],
        )


def captioned_rows(table: Table, caption: str, same_class: str, template: str) -> tuple[list[Captioned], list[str]]:
    """The rows with a caption: a text as it stands, a class or the findings that are present in the template.

    Args:
        table: with pictures.
        caption: name of the target that says the captions; empty where there is one.
        same_class: name of a target of classes whose rows are no negatives of each other; empty: none.
        template: with one {}.

    Returns:
        The rows, and a line on those that are left out.

    Raises:
        ValueError: a target is not there or of another kind, the template has no {}, or no row has a caption.
    """
    if template.count("{}") != 1:
        raise ValueError(f"template is {template!r}; expected one {{}} for the label, such as 'a chest X-ray of {{}}'")
    target = caption_target(table, caption, same_class)
    if same_class and table.target(same_class).kind != "class":
        raise ValueError(
            f"{table.source}: {same_class} is of the kind {table.target(same_class).kind}; expected classes"
        )
    rows = [row for row in table.rows if row.files]
    found = [_captioned(row, target, row.labels.get(same_class), template) for row in rows if target.name in row.labels]
    kept = [one for one in found if one.caption]
    if not kept:
        raise ValueError(f"{table.source}: no row has both pictures and {target.name}; name other columns")
    reasons = {"have no picture": len(table.rows) - len(rows), f"say no {target.name}": len(rows) - len(found)}
    reasons["deny some findings, state none, and leave others open"] = len(found) - len(kept)
    return kept, [f"{count} rows {reason}, and are left out" for reason, count in reasons.items() if count]


def caption_target(table: Table, caption: str, same_class: str) -> Target:
    """The target that says the captions: the one that is named, or the only one beside `same_class`.

    Raises:
        ValueError: there is none of that name, there are several, or it is a number or a box.
    """
    others = [name for name in table.targets if name != same_class]
    target = table.target(caption or (others[0] if len(others) == 1 else ""))
    if target.kind not in ("class", "multi-label", "text"):
        raise ValueError(
            f"{table.source}: {target.name} is of the kind {target.kind}; expected texts, classes or findings"
        )
    return target


def caption_of(names: Sequence[str], template: str) -> str:
    """A caption of labels; an underscore in a name stands for a space."""
    return template.format(", ".join(names).replace("_", " "))


def fitting(rows: Sequence[Captioned], encoder: MedSigLIP, long_captions: LongCaptions) -> tuple[list[Captioned], str]:
    """The rows whose captions fit the 64 tokens that the encoder reads, and a line on the others.

    Raises:
        ValueError: there are others, and they are refused; the first rows are named.
    """
    lengths = token_lengths(encoder, [*{row.caption: 0 for row in rows}])
    long = [row for row in rows if lengths[row.caption] > TEXT_LENGTH]
    if not long:
        return list(rows), ""
    said = f"{len(long)} of {len(rows)} captions are longer than the {TEXT_LENGTH} tokens that the encoder reads"
    if long_captions == "refused":
        raise ValueError(
            f"{said}: {named_places([one.row.place for one in long])}; shorten them, or --set long_captions=cut, which "
            "drops words from their ends, or left-out"
        )
    if long_captions == "left-out":
        kept = [row for row in rows if lengths[row.caption] <= TEXT_LENGTH]
        return kept, f"{said}, and are left out"
    cut = {row.caption: _cut(encoder, row.caption) for row in long}
    return [row._replace(caption=cut.get(row.caption, row.caption)) for row in rows], f"{said}, and are cut there"


def token_lengths(encoder: MedSigLIP, texts: Sequence[str]) -> dict[str, int]:
    """Text to its number of tokens, the one at its end included."""
    ids = encoder.tokenizer(list(texts), verbose=False)["input_ids"]
    return dict(zip(texts, map(len, ids), strict=True))


def paired(rows: Sequence[Captioned], numbers: Sequence[tuple[int, ...]], classes: Sequence[str]) -> Pairs:
    """Rows with the numbers of their pictures as pairs; `classes` are all there are."""
    texts = [*{row.caption: 0 for row in rows}]
    place, number = {text: n for n, text in enumerate(texts)}, {name: n for n, name in enumerate(classes)}
    width = len(rows[0].findings) if rows else 0
    return Pairs(
        list(numbers),
        texts,
        torch.tensor([place[row.caption] for row in rows], dtype=torch.int64),
        torch.tensor([number.get(row.class_name, -1) for row in rows], dtype=torch.int64),
        torch.tensor([row.findings for row in rows], dtype=torch.float32).reshape(len(rows), width),
        torch.tensor([row.stated for row in rows], dtype=torch.float32).reshape(len(rows), width),
        torch.zeros(len(rows), dtype=torch.int64),
        [row.row.place for row in rows],
        [row.row.group for row in rows],
    )


def _captioned(row: Row, target: Target, class_name: Label | None, template: str) -> Captioned:
    label = row.labels[target.name]
    name = class_name if isinstance(class_name, str) else ""
    if isinstance(label, str):
        return Captioned(row, label if target.kind == "text" else caption_of([label], template), name)
    assert isinstance(label, dict)
    known = tuple((1 if label[finding] else -1) if finding in label else 0 for finding in target.classes)
    present = [finding for finding in target.classes if label.get(finding)]
    if present:
        stated = tuple(max(value, 0) for value in known)
        return Captioned(row, caption_of(present, template), name, known, stated)
    caption = caption_of([NO_FINDING], template) if all(known) else ""
    return Captioned(row, caption, name, known, known)


def _cut(encoder: MedSigLIP, text: str) -> str:
    """As many words from the beginning as fit."""
    words = text.split()
    fits, too_many = 0, len(words)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        beginning = " ".join(words[:middle])
        fits, too_many = (
            (middle, too_many) if token_lengths(encoder, [beginning])[beginning] <= TEXT_LENGTH else (fits, middle)
        )
    return " ".join(words[:fits])
