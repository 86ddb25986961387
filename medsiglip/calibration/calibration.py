"""A calibration: map to probabilities and decisions, with the label set, encoder, pixels and site they belong to.

Letters: N pictures, C labels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medsiglip.calibration.decisions import positives_needed, set_threshold, threshold_at
from medsiglip.calibration.fitting import METHODS, Curve, Method, ProbabilityMap, fit_map
from medsiglip.prompts import CONVENTIONS, Convention, LabelSet
from medsiglip.zero_shot import ZeroShotClassifier, ZeroShotResult, softmax

FORM = 1
NUM_FOLDS = 5


@dataclass(frozen=True)
class Calibration:
    """What was learned from a labelled split."""

    label_set: str
    label_set_sha256: str
    convention: Convention
    labels: tuple[str, ...]
    """Those that were calibrated, in the order of the set."""
    encoder: str
    """Identity: whose scores these are."""
    pixels: str
    """Pixel and resize policy, such as "voi+huggingface"."""
    site: str
    map: ProbabilityMap
    level: float
    """Of the conformal sets of exclusive labels."""
    set_threshold: float
    """What the encoder's own softmax must reach for a label to be in the set."""
    sensitivity: float
    """Wanted of the thresholds of independent labels."""
    thresholds: Mapping[str, float | None]
    """Label to the logit from which it counts as present; None where there were too few positives."""
    n: int
    n_groups: int
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Of pictures that the fit had not seen: "before" and "after"."""

    def check(self, classifier: ZeroShotClassifier, pixels: str) -> None:
        """Refuse another label set, another encoder, or other pixels.

        Raises:
            ValueError: naming both.
        """
        if pixels != self.pixels:
            raise ValueError(f"the calibration is of the pixels {self.pixels}, not of {pixels}; give it that --policy")
        if classifier.label_set.sha256 != self.label_set_sha256:
            raise ValueError(
                f"the calibration is of {self.label_set or 'other labels'} ({self.label_set_sha256}), not of "
                f"{classifier.label_set.name or 'these labels'} ({classifier.label_set.sha256}): labels or prompts "
                "differ; calibrate again"
            )
        if classifier.encoder.identity != self.encoder:
            raise ValueError(
                f"the calibration is of the encoder {self.encoder}, not of {classifier.encoder.identity}; "
                "calibrate again"
            )

    def probabilities(self, result: ZeroShotResult) -> np.ndarray:
        """(N, C) float32; of labels that were not calibrated as they were."""
        columns = [result.labels.index(label) for label in self.labels]
        probabilities = result.probabilities.copy()
        probabilities[:, columns] = self.map.probabilities(result.logits[:, columns])
        return probabilities

    def decisions(self, result: ZeroShotResult) -> list[list[str]]:
        """N rows of C words: "in set" or "out"; of independent labels "present", "absent", or "" without threshold."""
        if self.convention == "softmax":
            inside = softmax(result.logits.astype(np.float64)) >= self.set_threshold
            return [["in set" if cell else "out" for cell in row] for row in inside]
        found = [self.thresholds.get(label) for label in result.labels]
        return [[_word(x, t) for x, t in zip(row, found, strict=True)] for row in result.logits.tolist()]


def _word(logit: float, threshold: float | None) -> str:
    return "" if threshold is None else "present" if logit >= threshold else "absent"


def calibrate(
    label_set: LabelSet,
    labels: Sequence[str],
    logits: np.ndarray,
    truth: np.ndarray,
    groups: Sequence[str],
    *,
    method: Method = "temperature",
    encoder: str,
    pixels: str,
    site: str = "",
    level: float = 0.9,
    sensitivity: float = 0.95,
    weights: np.ndarray | None = None,
) -> Calibration:
    """Fit map, thresholds and sets; measure nothing.

    Args:
        label_set: the set.
        labels: those of its labels that the columns are of.
        logits: (N, C) the classifier's.
        truth: (N, C) 1, 0 or NaN.
        groups: N patients or cases.
        method: "temperature", "platt" or "isotonic".
        encoder: identity.
        pixels: policy.
        site: whose pictures these are.
        level: of conformal sets.
        sensitivity: wanted of thresholds.
        weights: (N,) how much each picture counts in the map.

    Raises:
        ValueError: as `fit_map`, or level or sensitivity is not between 0 and 1.
    """
    for name, share in (("level", level), ("sensitivity", sensitivity)):
        if not 0 < share < 1:
            raise ValueError(f"{name} {share} is not between 0 and 1; give a share such as 0.95")
    exclusive = label_set.exclusive
    own = softmax(logits.astype(np.float64)) if exclusive else logits
    thresholds = (
        {} if exclusive else {x: threshold_at(sensitivity, own[:, j], truth[:, j]) for j, x in enumerate(labels)}
    )
    return Calibration(
        label_set=label_set.name,
        label_set_sha256=label_set.sha256,
        convention=label_set.convention,
        labels=tuple(labels),
        encoder=encoder,
        pixels=pixels,
        site=site,
        map=fit_map(method, logits, truth, exclusive=exclusive, weights=weights),
        level=level,
        set_threshold=set_threshold(level, own, truth) if exclusive else 0.0,
        sensitivity=sensitivity,
        thresholds=thresholds,
        n=len(logits),
        n_groups=len(set(groups)),
    )


def held_out_probabilities(
    method: Method, logits: np.ndarray, truth: np.ndarray, groups: Sequence[str], *, exclusive: bool
) -> np.ndarray:
    """(N, C): each picture's by a map fitted without its group, in five folds (fewer with fewer groups).

    Raises:
        ValueError: one group alone, or a fold leaves a label without a positive or a negative.
    """
    from sklearn.model_selection import GroupKFold

    num_groups = len(set(groups))
    if num_groups < 2:
        raise ValueError("all rows are of one group; a calibration is measured on groups that it has not seen")
    folds = GroupKFold(min(NUM_FOLDS, num_groups), shuffle=True, random_state=0)
    found = np.empty(logits.shape)
    for fitted, held_out in folds.split(logits, groups=groups):
        fit = fit_map(method, logits[fitted], truth[fitted], exclusive=exclusive)
        found[held_out] = fit.probabilities(logits[held_out])
    return found


def few_positives(calibration: Calibration) -> list[str]:
    """Independent labels without a threshold, said in words."""
    needed = positives_needed(calibration.sensitivity)
    without = [label for label, threshold in calibration.thresholds.items() if threshold is None]
    return [
        f"{x}: no threshold at sensitivity {calibration.sensitivity}; that takes {needed} positives" for x in without
    ]


def write_calibration(calibration: Calibration, out: Path) -> None:
    """Write YAML; the file appears under its name only when it is whole."""
    import yaml

    facts = {"form": FORM, **asdict(calibration)}
    text = yaml.safe_dump(_plain(facts), sort_keys=False, allow_unicode=True, width=120)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(out)


def read_calibration(path: Path) -> Calibration:
    """Read what `write_calibration` wrote.

    Raises:
        ValueError: the file is missing, or is no calibration.
    """
    import yaml

    try:
        facts = yaml.safe_load(path.read_text(encoding="utf-8"))
        if facts.pop("form") != FORM or facts["convention"] not in CONVENTIONS or facts["map"]["method"] not in METHODS:
            raise ValueError("it is of another form")
        curves = tuple(Curve(tuple(c["logits"]), tuple(c["probabilities"])) for c in facts["map"].pop("curves"))
        slopes, intercepts = (tuple(facts["map"].pop(name)) for name in ("slopes", "intercepts"))
        facts["map"] = ProbabilityMap(**facts["map"], slopes=slopes, intercepts=intercepts, curves=curves)
        facts["labels"] = tuple(facts["labels"])
        return _checked(Calibration(**facts))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); give what medsiglip calibrate wrote") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: no calibration ({reason}); write it again with medsiglip calibrate") from error


def _checked(found: Calibration) -> Calibration:
    parts = {"temperature": 0, "platt": len(found.map.slopes), "isotonic": len(found.map.curves)}
    numbers = [found.map.temperature, found.set_threshold, *found.map.slopes, *found.map.intercepts]
    if parts[found.map.method] not in (0, len(found.labels)) or not all(map(math.isfinite, numbers)):
        raise ValueError("its map does not fit its labels")
    if found.map.temperature <= 0:
        raise ValueError("its temperature is not above 0")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value
