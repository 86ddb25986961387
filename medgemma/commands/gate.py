"""`--gate` of `ask` and `report`: only pictures of kinds that a gate knows are asked about."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from medgemma.commands.options import Study
from medsiglip.command import Problems
from medsiglip.imaging import FileProblem, Picture

if TYPE_CHECKING:
    from medsiglip.encoder import MedSigLIP
    from medsiglip.gate.gate import Gate

MOST_PICTURES = 16
"""Judged of a study, spread over its files: a volume's slices tell the same."""


@dataclass(frozen=True)
class GateOptions:
    """Which pictures may be asked about."""

    gate: Annotated[
        str, typer.Option(help="Hold back pictures of unknown kinds: a file of medsiglip gate-fit, or auto.")
    ] = ""
    gate_for: Annotated[
        list[str] | None, typer.Option(help="Kinds, modalities or body parts that may pass; repeatable.")
    ] = None
    gate_encoder: Annotated[str, typer.Option(help="The encoder of the gate: 'nano', a folder, or a Hub id.")] = "nano"
    gate_level: Annotated[float, typer.Option(help="Chance with which a picture's kind is in its set.")] = 0.95

    def keep(self, studies: Iterable[Study], problems: Problems) -> Iterator[Study]:
        """The studies that pass; each of the others is reported with the gate's reason.

        A study passes if half or more of its judged pictures do. Without --gate all pass.

        Raises:
            ValueError: the gate cannot be read, or does not belong to its encoder.
        """
        if not self.gate:
            yield from studies
            return
        from medsiglip.encoder import MedSigLIP
        from medsiglip.gate.files import gate_for

        encoder = MedSigLIP.from_pretrained(self.gate_encoder, device="cpu")
        pixels = f"{encoder.pixel_policy}+{encoder.preprocessing.policy}"
        gate = gate_for(self.gate, encoder.folder, encoder.identity, pixels)
        for study in studies:
            if reason := self._reason(study, gate, encoder):
                problems.add(FileProblem(", ".join(study.files), reason))
            else:
                yield study

    def _reason(self, study: Study, gate: "Gate", encoder: "MedSigLIP") -> str:
        """Why the study is held back; "" where it passes."""
        pictures, unread = _pictures(study, encoder.pixel_policy)
        if unread and not pictures:
            return f"the gate cannot read it ({unread[0].reason})"
        if not pictures:
            return ""
        verdicts = gate.judge(encoder.encode_images(pictures), self.gate_level, self.gate_for or [])
        held_back = Counter(verdict.decision for verdict in verdicts if not verdict.accepted)
        if 2 * held_back.total() <= len(verdicts):
            return ""
        return f"{held_back.most_common(1)[0][0]}; ask without --gate, or fit one on such pictures: medsiglip gate-fit"


def _pictures(study: Study, policy: str) -> tuple[list[Picture], list[FileProblem]]:
    """Some pictures of a study as the gate knows them; slices that are shown in other windows are read again."""
    from medsiglip.embed import readable_pictures

    shown = [part for part in study.parts if isinstance(part, Picture)]
    if all(picture.policy in (policy, "stored") for picture in shown):
        return _spread(shown), []
    unread: list[FileProblem] = []
    files = [Path(study.files[place]) for place in _places(len(study.files))]
    return _spread(list(readable_pictures(files, unread.append, policy=policy))), unread


def _spread(pictures: Sequence[Picture]) -> list[Picture]:
    return [pictures[place] for place in _places(len(pictures))]


def _places(count: int) -> list[int]:
    return np.linspace(0, count - 1, min(count, MOST_PICTURES)).round().astype(int).tolist() if count else []
