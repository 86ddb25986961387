"""Small charts as SVG text. Colours are CSS variables of the page: --ink, --soft, --line, --accent and --c0 to --c7."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import ArrayLike, NDArray

from medsiglip.metrics.calibration import bins_of_equal_width

SIDE_PX, MARGIN_PX = 250, 34
COLOURS = 8


@dataclass(frozen=True)
class Curve:
    """A line over the unit square."""

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    note: str = ""
    """Behind the name in the legend: area, interval."""


def roc(scores: ArrayLike, is_positive: ArrayLike, name: str, note: str) -> Curve:
    """Return the ROC curve: false positive rate to sensitivity."""
    from sklearn.metrics import roc_curve

    x, y, _ = roc_curve(is_positive, scores)
    return Curve(name, x, y, note)


def precision_recall(scores: ArrayLike, is_positive: ArrayLike, name: str, note: str) -> Curve:
    """Return the curve of recall to precision, as steps: precision is not linear between two thresholds."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(is_positive, scores)
    return Curve(name, np.repeat(recall, 2)[1:], np.repeat(precision, 2)[:-1], note)


def curves(found: Sequence[Curve], title: str, x: str, y: str, diagonal: bool) -> Markup:
    """Draw curves with a legend below."""
    lines = [_diagonal()] if diagonal else []
    lines += [_polyline(curve, number % COLOURS) for number, curve in enumerate(found)]
    legend = [
        f'<li><i style="background:var(--c{number % COLOURS})"></i>{escape(curve.name)} '
        f'<span class="soft">{escape(curve.note)}</span></li>'
        for number, curve in enumerate(found)
    ]
    return _figure(title, _square(x, y, "".join(lines)), f'<ul class="legend">{"".join(legend)}</ul>')


def reliability(probability: ArrayLike, right: ArrayLike, title: str, note: str) -> Markup:
    """Draw, for ten bins of probability, the share of events over the mean probability; the area is the bin's items."""
    n_bins = 10
    columns = bins_of_equal_width(probability, right, n_bins).columns.sum(axis=0)
    counts, probabilities, events = np.split(columns, 3)
    marks = [_diagonal()]
    for count, total, hits in zip(counts, probabilities, events, strict=True):
        if count:
            x, y = _at(total / count, hits / count)
            radius = 2.5 + 8 * np.sqrt(count / counts.sum())
            said = f"{count:.0f} items, mean probability {total / count:.3f}, right {hits / count:.3f}"
            marks.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" class="dot"><title>{said}</title></circle>'
            )
    drawn = _square("mean probability", "share right", "".join(marks))
    return _figure(title, drawn, f'<p class="small soft">{escape(note)}</p>')


def interval(value: float, low: float | None, high: float | None, baseline: float | None) -> Markup:
    """Draw a value of 0 to 1 with its interval on a line; a tick marks the baseline."""
    width = 150
    marks = f'<line x1="0" x2="{width}" y1="9" y2="9" class="grid"/>'
    if baseline is not None:
        marks += f'<line x1="{baseline * width:.1f}" x2="{baseline * width:.1f}" y1="3" y2="15" class="tick"/>'
    if low is not None and high is not None:
        left, right = (min(max(bound, 0.0), 1.0) * width for bound in (low, high))
        marks += f'<rect x="{left:.1f}" y="6" width="{max(right - left, 1):.1f}" height="6" rx="3" class="span"/>'
    marks += f'<circle cx="{min(max(value, 0.0), 1.0) * width:.1f}" cy="9" r="4" class="dot solid"/>'
    return Markup(f'<svg class="interval" viewBox="-5 0 {width + 10} 18" role="img">{marks}</svg>')


def _square(x: str, y: str, inside: str) -> str:
    size = SIDE_PX + 2 * MARGIN_PX
    grid = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        across, down = _at(share, share)
        grid.append(
            f'<line x1="{across:.1f}" x2="{across:.1f}" y1="{MARGIN_PX}" y2="{MARGIN_PX + SIDE_PX}" class="grid"/>'
        )
        grid.append(f'<line y1="{down:.1f}" y2="{down:.1f}" x1="{MARGIN_PX}" x2="{MARGIN_PX + SIDE_PX}" class="grid"/>')
        grid.append(f'<text x="{across:.1f}" y="{size - 19}" text-anchor="middle">{share:g}</text>')
        grid.append(f'<text x="{MARGIN_PX - 6}" y="{down + 3:.1f}" text-anchor="end">{share:g}</text>')
    names = (
        f'<text x="{size / 2}" y="{size - 4}" text-anchor="middle">{escape(x)}</text>'
        f'<text x="9" y="{size / 2}" text-anchor="middle" transform="rotate(-90 9 {size / 2})">{escape(y)}</text>'
    )
    return f'<svg class="chart" viewBox="0 0 {size} {size}" role="img">{"".join(grid)}{names}{inside}</svg>'


def _figure(title: str, drawn: str, below: str) -> Markup:
    return Markup(f"<figure><figcaption>{escape(title)}</figcaption>{drawn}{below}</figure>")


def _polyline(curve: Curve, colour: int) -> str:
    points = " ".join("{:.1f},{:.1f}".format(*_at(x, y)) for x, y in zip(curve.x, curve.y, strict=True))
    return f'<polyline points="{points}" style="stroke:var(--c{colour})"/>'


def _diagonal() -> str:
    (x1, y1), (x2, y2) = _at(0, 0), _at(1, 1)
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="chance"/>'


def _at(x: float, y: float) -> tuple[float, float]:
    return MARGIN_PX + SIDE_PX * float(x), MARGIN_PX + SIDE_PX * (1 - float(y))
