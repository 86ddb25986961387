"""The card of a model of inference that was trained here: whether it reads the premise, so whether it may reward.

A model that sees the hypothesis alone is right far more often than by chance, since pairs were written with habits. A
scorer that does not beat such a control rewards how a text is written, whatever its source says.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

CARD_FILE = "nli_card.json"


@dataclass(frozen=True)
class Share:
    """A share of held-out pairs with its 95 % interval over premises."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class NliCard:
    """What was measured on held-out pairs."""

    accuracy: Share
    hypothesis_only: Share
    """The same network, trained and measured on hypotheses alone."""
    difference: Share
    """Accuracy above the control's, paired."""
    num_pairs: int
    """Held-out pairs."""
    trained_on: tuple[str, ...]
    """Cards of the sets."""

    @property
    def beats_control(self) -> bool:
        """Whether the whole interval of the difference is above 0."""
        return self.difference.low > 0

    def lines(self) -> list[str]:
        """The card as text."""
        shown = {"accuracy": self.accuracy, "hypothesis alone": self.hypothesis_only, "difference": self.difference}
        return [
            *(f"{name:<17}{share.value:6.3f}  [{share.low:.3f}, {share.high:.3f}]" for name, share in shown.items()),
            f"of {self.num_pairs} held-out pairs; trained on {', '.join(self.trained_on)}",
            "may reward: it beats its control" if self.beats_control
            else "may not reward: its interval does not lie above its control's",
        ]  # fmt: skip


def write_card(card: NliCard, folder: Path) -> None:
    """Write a card beside its model."""
    (folder / CARD_FILE).write_text(json.dumps(asdict(card), indent=1) + "\n", encoding="utf-8")


def read_card(folder: Path) -> NliCard | None:
    """Return the card of a folder; None where there is none.

    Raises:
        ValueError: It is damaged.
    """
    file = folder / CARD_FILE
    if not file.is_file():
        return None
    try:
        row = json.loads(file.read_text(encoding="utf-8"))
        shares = {name: Share(**row.pop(name)) for name in ("accuracy", "hypothesis_only", "difference")}
        return NliCard(**shares, num_pairs=row.pop("num_pairs"), trained_on=tuple(row.pop("trained_on")))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: not a card of a model of inference ({error}); train the model again") from error


def demand_beats_control(folder: Path) -> None:
    """Refuse a folder as a reward whose card says that its model does not beat its hypothesis-only control.

    Raises:
        ValueError: It does not; the figures are given.
    """
    card = read_card(folder)
    if card and not card.beats_control:
        apart = card.difference
        raise ValueError(
            f"{folder} may not reward: right on {card.accuracy.value:.3f} of held-out pairs, and its hypothesis-only "
            f"control on {card.hypothesis_only.value:.3f} (difference {apart.value:+.3f}, 95 % interval "
            f"{apart.low:+.3f} to {apart.high:+.3f}); take the scorer rules, or a model that beats its control"
        )
