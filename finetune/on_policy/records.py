"""What every run leaves: reward_kl.jsonl, a line a step and an evaluation, and reward_kl.svg, drawn from it."""

import json
from collections.abc import Callable, Mapping, Sequence
from math import floor, log10
from pathlib import Path
from typing import Any

from markupsafe import escape

from finetune.training.logs import jsonl_writer

LINES, CHART = "reward_kl.jsonl", "reward_kl.svg"
WIDTH_PX, HEIGHT_PX, MARGIN_PX = 520, 360, 56
COLOURS = ("#2563eb", "#dc2626", "#059669", "#7c3aed", "#d97706", "#0891b2", "#be185d", "#4b5563")

Points = Sequence[tuple[float, float]]
"""(KL in nats, reward), in the order of the steps."""


class Records:
    """The lines of a run; those of steps that are run again are taken out first.

    Args:
        folder: of the stage.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._write: Callable[[int, Mapping[str, Any]], None] | None = None

    def write(self, step: int, side: str, updates: int, values: Mapping[str, float]) -> None:
        """Add a line.

        Args:
            step: it belongs to.
            side: train or held-out.
            updates: made to the weights that were sampled from.
            values: `reward` and `kl` among them.
        """
        if self._write is None:
            self._write = jsonl_writer(self.folder / LINES, step)
        self._write(step, {"side": side, "updates": updates, **values})

    def draw(self) -> None:
        """Draw the chart from the lines that there are."""
        curves = curves_of(self.folder)
        if curves:
            (self.folder / CHART).write_text(reward_kl_chart(curves), encoding="utf-8")


def curves_of(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """The curves of a run by side: KL to the reference, and the reward that was measured with it."""
    path = folder / LINES
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        said = json.loads(line)
        if "reward" in said and "kl" in said:
            curves.setdefault(said["side"], []).append((said["kl"], said["reward"]))
    return curves


def reward_kl_chart(curves: Mapping[str, Points]) -> str:
    """An SVG of reward over KL to the reference, a line a curve, its last point marked; names are escaped.

    Args:
        curves: by name, such as train, held-out, or runs side by side.
    """
    points = [point for curve in curves.values() for point in curve]
    across = _ticks([0.0, *(kl for kl, _ in points)])
    up = _ticks([reward for _, reward in points])

    def place(kl: float, reward: float) -> tuple[float, float]:
        x = (kl - across[0]) / (across[-1] - across[0])
        y = (reward - up[0]) / (up[-1] - up[0])
        return MARGIN_PX + x * (WIDTH_PX - 2 * MARGIN_PX), HEIGHT_PX - MARGIN_PX - y * (HEIGHT_PX - 2 * MARGIN_PX)

    drawn = [_grid(place(tick, up[0]), place(tick, up[-1]), f"{tick:g}", "middle", (0, 16)) for tick in across]
    drawn += [_grid(place(across[0], tick), place(across[-1], tick), f"{tick:g}", "end", (-6, 4)) for tick in up]
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in curve)
        x, y = place(*curve[-1])
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        drawn.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
        drawn.append(f'<text x="{MARGIN_PX + 8}" y="{20 + 14 * number}" fill="{colour}">{escape(name)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH_PX} {HEIGHT_PX}" role="img" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>{"".join(drawn)}'
        f'<text x="{WIDTH_PX / 2}" y="{HEIGHT_PX - 12}" text-anchor="middle">KL to the reference, nats</text>'
        f'<text transform="translate(14 {HEIGHT_PX / 2}) rotate(-90)" text-anchor="middle">reward</text></svg>\n'
    )


def _grid(
    start: tuple[float, float], end: tuple[float, float], said: str, anchor: str, shift: tuple[float, float]
) -> str:
    (x1, y1), (x2, y2) = start, end
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ddd"/>'
        f'<text x="{x1 + shift[0]:.1f}" y="{y1 + shift[1]:.1f}" text-anchor="{anchor}">{said}</text>'
    )


def _ticks(values: Sequence[float]) -> list[float]:
    """Four to eight round numbers that hold all values between the first and the last."""
    low, high = min(values), max(values)
    span = high - low or abs(high) or 1.0
    step = 10.0 ** floor(log10(span))
    step *= next(share for share in (0.2, 0.5, 1.0) if span / (step * share) <= 6 or share == 1.0)
    first = floor(low / step)
    count = max(1, -floor(-(high / step - first)))
    return [round((first + n) * step, 10) for n in range(count + 1)]
