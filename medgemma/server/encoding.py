"""MedSigLIP behind the server: vectors and label probabilities of what requests bring."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medgemma.openai_content import Intake, TextPart, opened
from medgemma.prompts.content import finding_lines, pictures_of, study_parts
from medsiglip import MedSigLIP, ZeroShotClassifier
from medsiglip.imaging import Picture
from medsiglip.imaging.frame import VOI
from medsiglip.probing.head import ProbeHead, read_head
from medsiglip.zero_shot import ZeroShotResult


class Encoded(NamedTuple):
    """One vector."""

    vector: np.ndarray
    """(D,) float32, of length 1."""
    item: int
    """Which of the inputs it is of; a file of several pictures gives several."""
    frame: int | None
    """Which picture of it; None for a text."""


@dataclass
class Encoding:
    """One encoder, used by one thread at a time."""

    encoder: MedSigLIP
    probes: Mapping[str, ProbeHead] = field(default_factory=dict)
    """By the names that requests call them."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """Of the model; nano's says which of the two it is."""
        name = self.encoder.name
        return "medsiglip-nano" if name == "nano" else Path(name).name

    def encode(self, items: Sequence[Any], intake: Intake) -> tuple[list[Encoded], list[str]]:
        """Vectors of texts and content parts, in order, and what a user should know of the pictures.

        Raises:
            ImageError, ValueError: see `medgemma.openai_content.opened`; a text that is too long.
        """
        found: list[Encoded] = []
        lines: list[str] = []
        for number, item in enumerate(items):
            if isinstance(item, str | TextPart):
                text = item if isinstance(item, str) else item.text
                with self.lock:
                    found.append(Encoded(self.encoder.encode_texts([text])[0], number, None))
                continue
            pictures = self.pictures(item, f"input {number + 1}", intake)
            lines += finding_lines(pictures)
            with self.lock:
                vectors = self.encoder.encode_images(pictures)
            found += [Encoded(vector, number, frame) for frame, vector in enumerate(vectors)]
        return found, lines

    def classify(
        self, items: Sequence[Any], intake: Intake, labels: Sequence[str], task: str, independent: bool, probe: str = ""
    ) -> tuple[ZeroShotResult, list[tuple[int, int]], list[str]]:
        """Probabilities of each picture, zero-shot or a probe's, with its (input, frame), and what a user should know.

        Raises:
            As `encode`; ValueError: no labels, one twice, or an unknown task or probe.
        """
        classifier = self._probe(probe) if probe else self._zero_shot(labels, task, independent)
        encoded, lines = self.encode(items, intake)
        vectors = np.stack([one.vector for one in encoded])
        return classifier.classify_vectors(vectors), [(one.item, one.frame or 0) for one in encoded], lines

    def _zero_shot(self, labels: Sequence[str], task: str, independent: bool) -> ZeroShotClassifier:
        with self.lock:
            if task:
                return ZeroShotClassifier.for_task(self.encoder, task)
            return ZeroShotClassifier(self.encoder, labels, independent=independent)

    def _probe(self, name: str) -> ProbeHead:
        if name not in self.probes:
            advice = f"ask for {', '.join(self.probes)}" if self.probes else "start the server with --probe"
            raise ValueError(f"probe: no such probe here; {advice}")
        return self.probes[name]

    @staticmethod
    def pictures(part: Any, name: str, intake: Intake) -> list[Picture]:
        """A part's pictures; of a volume the slices that a prompt would show."""
        found = pictures_of(study_parts(opened(part, name, intake), intake.view))
        if intake.max_images is not None and len(found) > intake.max_images:
            raise ValueError(f"{name}: more pictures than a request may bring; send fewer pictures or slices")
        return found


def read_probes(given: Sequence[str], encoder: MedSigLIP) -> dict[str, ProbeHead]:
    """Read probes that are given as NAME=FOLDER.

    Raises:
        ValueError: one is of another form, twice of a name, or of another encoder or other pixels.
    """
    probes: dict[str, ProbeHead] = {}
    for text in given:
        name, _, folder = text.partition("=")
        if not name or not folder or name in probes:
            raise ValueError(f"--probe {text}: give each as NAME=FOLDER, with a name of its own")
        probes[name] = read_head(Path(folder))
        try:
            probes[name].check(encoder.identity, f"{VOI}+{encoder.preprocessing.policy}")
        except ValueError as error:
            raise ValueError(f"--probe {text}: {error}") from error
    return probes
