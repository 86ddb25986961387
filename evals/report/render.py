"""Writing the report: DIR/report.html, or a Markdown table for a page."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evals.reliability.running import read_results
from evals.report import charts
from evals.report.content import Figure, Section, Shown, remarks_of, sections_of
from evals.results.scores import Scores

NOTICE = "Research software. Not a medical device: not for diagnosis, treatment or any clinical decision."
THUMBNAIL_PX = 160
BEGIN, END = "<!-- begin {name}: written by medgemma-eval report -->", "<!-- end {name} -->"


def read_scores(out_dir: Path) -> Scores:
    """Read scores.json.

    Raises:
        ValueError: It is missing, broken or empty.
    """
    path = out_dir / "scores.json"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; make it: medgemma-eval score {out_dir}")
    try:
        found: Scores = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as fault:
        raise ValueError(f"{path}: is no JSON ({fault}); make it anew: medgemma-eval score {out_dir}") from fault
    if not any(found.values()):
        raise ValueError(f"{path}: holds no figure; finish a run first")
    return found


def write_html(out_dir: Path, pictures: bool = False) -> Path:
    """Write DIR/report.html, one file without any other, and return its path.

    Args:
        out_dir: The --out of runs.
        pictures: Show the pictures of the worst items, small.

    Raises:
        ValueError: scores.json or a file of a run is missing or broken.
    """
    from jinja2 import Environment

    scores = read_scores(out_dir)
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters.update(figure=said, number=number, interval=_interval, readable=readable, thumbnails=_thumbnails)
    sections = list(sections_of(out_dir, scores))
    text = page.from_string((Path(__file__).parent / "page.html").read_text(encoding="utf-8")).render(
        notice=NOTICE,
        name=out_dir.resolve().name,
        sections=sections,
        remarks=remarks_of(out_dir, scores),
        models=sorted({str(section.record.get("model", "")) for section in sections}),
        pictures=pictures,
    )
    path = out_dir / "report.html"
    draft = path.with_suffix(".partial")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
    return path


def markdown(out_dir: Path) -> str:
    """Return a table of every task's main metric, with how it came about below.

    Raises:
        ValueError: scores.json or a file of a run is missing or broken.
    """
    scores = read_scores(out_dir)
    sections = list(sections_of(out_dir, scores))
    probed = read_results(out_dir)
    lines = [
        "| task | metric | value [95 % interval] | commonest answer | n | groups | needs the picture | holds under "
        "rewording |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for section in sections:
        baseline = "" if section.baseline is None else number(section.baseline)
        n, n_groups = section.main["n"], section.main["n_groups"]
        lines.append(
            f"| {section.name} | {section.main_metric} | {said(section.main)} | {baseline} | {n} | {n_groups} "
            f"| {_probed(probed.get(section.name, {}), 'needs_picture')} "
            f"| {_probed(probed.get(section.name, {}), 'stable')} |"
        )
    record = sections[0].record
    lines += [
        "",
        f"Model {_once(sections, 'model')}, weights {_once(sections, 'model_fingerprint')}; package at commit "
        f"{_once(sections, 'commit') or 'unknown'}; seed {_once(sections, 'seed')}; "
        f"{str(record.get('started_utc'))[:10]}. "
        "Intervals resample groups; `commonest answer` is what always giving it scores."
        + (f" {_PROBED}" if probed else ""),
        *(f"- {remark}" for remark in remarks_of(out_dir, scores)),
    ]
    return "\n".join(lines) + "\n"


def write_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between the two marks of a name in a Markdown file.

    Raises:
        ValueError: The file or a mark is missing.
    """
    begin, end = BEGIN.format(name=name), END.format(name=name)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{path}: lacks the lines {begin!r} and {end!r}; add both where the table should stand")
    draft = path.with_name(path.name + ".partial")
    draft.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", encoding="utf-8")
    draft.replace(path)


def said(figure: Figure) -> str:
    """Return "0.512 [0.431, 0.590]"."""
    if figure["value"] is None:
        return "undefined"
    low, high = figure["ci95"]
    return number(figure["value"]) + ("" if low is None else f" [{number(low)}, {number(high)}]")


def number(value: float | None) -> str:
    """Return three decimals, fewer for what is large."""
    if value is None:
        return "undefined"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def readable(value: Any) -> str:
    """Return a setting as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {held}" for key, held in value.items() if held not in ("", False, None))
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


_PROBED = (
    "`needs the picture` is the share of the items whose answer changes with another picture, a grey one or none, "
    "`holds under rewording` the share whose answer means the same in other words or orders of the options "
    "(`medgemma-eval reliability`); n says of how many, and a task where nothing can be changed has none."
)


def _probed(result: Mapping[str, Any], name: str) -> str:
    """A share of reliability.json with its n; empty where the task has none."""
    return f"{said(result[name])} n={result[name]['n']}" if result.get(name) else ""


def _once(sections: Sequence[Section], key: str) -> str:
    return ", ".join(dict.fromkeys(str(section.record.get(key, "")) for section in sections))


def _interval(section: Section) -> Any:
    if section.main["value"] is None:
        return ""
    low, high = section.main["ci95"]
    return charts.interval(section.main["value"], low, high, section.baseline)


def _thumbnails(shown: Shown) -> list[str]:
    """Return data URIs of an item's pictures, small; none for one that cannot be read."""
    from PIL import Image

    from medsiglip.imaging import read_pictures

    urls = []
    for file in shown.files[:4]:
        try:
            picture = Image.fromarray(read_pictures(file)[0].pixels)
        except (ValueError, OSError):
            continue
        picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        urls.append("data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode())
    return urls
