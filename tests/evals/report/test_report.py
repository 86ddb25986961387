"""The report: what it shows is what the runs say, and the page is one file that runs nothing."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

import evals.cli
from evals.items import Item
from evals.measures import Answered
from evals.outputs import Output
from evals.report import charts
from evals.report.content import Section, published_for, sections_of
from evals.report.predictions import commonest_share, predictions_of
from evals.report.render import markdown, read_scores, write_between, write_html
from evals.tasks.catalogue import TASKS
from medsiglip.metrics.ranking import auroc, average_precision
from tests.evals.runs import HELD_OUT_GROUPS, questions, write_label_run, write_run

CLASSES = ("no finding", "pneumonia")


class Page(HTMLParser):
    """Tags that are still open, and everything that would be fetched or run."""

    VOID = {"meta", "img", "br"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open += [] if tag in self.VOID else [tag]
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "onload")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def films(n: int = 40) -> list[Item]:
    """Zero-shot items, every second with pneumonia, two a patient; sex and view in turn."""
    return [
        Item(
            f"f{i}",
            (f"f{i}.png",),
            "captions",
            CLASSES[i % 2],
            "class",
            HELD_OUT_GROUPS[i // 2],
            {"card": "cxr-nih14", "sex": "FM"[i // 2 % 2], "view": "PA"},
        )
        for i in range(n)
    ]


def probability(item: Item) -> float:
    """0.9 for pneumonia, 0.2 for none; the first film of each class is the other way round."""
    number = int(item.item_id[1:])
    return (0.2, 0.9)[(number % 2) ^ (number < 2)]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A text task with a failed item and a question that looks like a script, and a zero-shot task."""
    items = questions()
    items[3] = replace(items[3], prompt="<script>alert(1)</script> Is finding 3 there?")
    write_run(tmp_path / "vqa-rad", items, lambda item: "!picture is cut" if item.item_id == "q2" else "Yes")
    return write_label_run(tmp_path / "zero-shot-nih-pneumonia", films(), probability, CLASSES)


def section(out: Path, name: str) -> Section:
    return {found.name: found for found in sections_of(out, read_scores(out))}[name]


def test_the_page_is_whole_and_fetches_and_runs_nothing(runs: Path) -> None:
    page = Page(write_html(runs).read_text())
    assert page.open == [] and "script" not in page.tags and "link" not in page.tags and "img" not in page.tags
    assert all(address.startswith("#") for address in page.fetched)
    text = " ".join(page.text)
    assert "<script>alert(1)</script> Is finding 3 there?" in text and "Not a medical device" in text
    for wanted in ("picture is cut", "vqa-rad: 1 of 40 items failed", "medgemma-eval run vqa-rad", "closed_accuracy"):
        assert wanted in text


def test_figures_are_those_of_scores_json(runs: Path) -> None:
    text = write_html(runs).read_text()
    for metrics in read_scores(runs).values():
        for figure in metrics.values():
            low, high = figure["ci95"]
            assert f"{figure['value']:.3f} [{low:.3f}, {high:.3f}]" in text


def test_published_figures_stand_beside_with_their_protocol(runs: Path) -> None:
    found = {(f.card, f.model, f.metric): f for f in published_for(TASKS["vqa-rad"])}
    medgemma = found["vqa-rad-balanced", "MedGemma 4B", "closed accuracy, percent"]
    assert (medgemma.value, medgemma.is_same_data) == (69.1, False) and medgemma.protocol
    assert found["vqa-rad", "majority answer", "closed exact match"].is_same_data
    page = " ".join(Page(write_html(runs).read_text()).text)
    assert "69.1" in page and "not the data run here" in page


def test_confusion_by_hand(runs: Path) -> None:
    """All 40 are answered yes but the failed one, which is none of the classes and was a yes."""
    found = section(runs, "vqa-rad").confusion
    assert found is not None
    assert (found.rows, found.columns) == (["no", "yes"], ["no", "yes", "none of these"])
    assert found.counts == [[0, 20, 0], [0, 19, 1]]
    films = section(runs, "zero-shot-nih-pneumonia").confusion
    assert films is not None and films.counts == [[19, 1], [1, 19]]


def test_the_commonest_answer_by_hand() -> None:
    answered = [Answered(item, Output(item.item_id, "", "m", text="no")) for item in questions(10)[:7]]
    assert commonest_share(TASKS["vqa-rad"], answered) == 4 / 7
    opened = [Answered(replace(item, kind="open"), output) for item, output in answered]
    assert commonest_share(TASKS["vqa-rad"], opened) is None


def test_subgroups_by_hand(runs: Path) -> None:
    """Of 20 films of each sex, both wrong ones are of the first patient, a woman."""
    task = replace(TASKS["zero-shot-nih-pneumonia"], subgroups=("sex", "age_band", "view"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, task.name, task)
        found = {(part.key, part.value): part.figure for part in section(runs, task.name).subgroups}
    assert {name: (figure["value"], figure["n"], figure["n_groups"]) for name, figure in found.items()} == {
        ("sex", "F"): (0.9, 20, 10),
        ("sex", "M"): (1.0, 20, 10),
        ("view", "PA"): (0.95, 40, 20),
    }


def test_the_surest_mistakes_come_first(runs: Path) -> None:
    worst = section(runs, "zero-shot-nih-pneumonia").worst
    assert [(shown.item_id, shown.answer, shown.score) for shown in worst] == [
        ("f0", "pneumonia", "0.00, p = 0.900"),
        ("f1", "no finding", "0.00, p = 0.800"),
    ]
    assert [shown.item_id for shown in section(runs, "vqa-rad").failed] == ["q2"]
    assert "q2" not in [shown.item_id for shown in section(runs, "vqa-rad").worst]


def test_the_area_under_a_drawn_curve_is_the_metric() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(300) < 0.3
    scores = np.round(rng.random(300) + 0.5 * truth, 1)  # ties
    roc = charts.roc(scores, truth, "", "")
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(auroc(scores, truth))
    recall = charts.precision_recall(scores, truth, "", "")
    area = -np.sum(np.diff(recall.x) * recall.y[:-1])
    assert area == pytest.approx(average_precision(scores, truth))


def test_reliability_by_hand() -> None:
    """Ten items at 0.85 of which six are right, ten at 0.35 of which two are."""
    drawn = charts.reliability([0.85] * 10 + [0.35] * 10, [1] * 6 + [0] * 4 + [1] * 2 + [0] * 8, "", "")
    titles = re.findall("<title>(.*?)</title>", drawn)
    assert titles == ["10 items, mean probability 0.350, right 0.200", "10 items, mean probability 0.850, right 0.600"]
    x, y = (
        float(re.findall(f'<circle c{axis}="([0-9.]+)"' if axis == "x" else 'cy="([0-9.]+)"', drawn)[1])
        for axis in "xy"
    )
    assert (x - charts.MARGIN_PX) / charts.SIDE_PX == pytest.approx(0.85, abs=1e-3)
    assert 1 - (y - charts.MARGIN_PX) / charts.SIDE_PX == pytest.approx(0.6, abs=1e-3)


def test_likelihoods_become_probabilities_of_the_letters() -> None:
    task = TASKS["kit-medqa-likelihood"]
    item = Item("i", (), "q", "B", "closed", "g", {}, choices=(" one", " two", " three"))
    output = Output("i", "", "m", log_likelihoods=(-3.0, -1.0, -2.0))
    found = predictions_of(task, [Answered(item, output), Answered(replace(item, reference="A"), output)])
    assert found is not None and found.classes == ["A", "B", "C"] and found.predicted == ["B", "B"]
    assert found.probabilities is not None
    assert found.probabilities[0] == pytest.approx(np.exp([-3, -1, -2]) / np.exp([-3, -1, -2]).sum())


def test_pictures_are_shown_only_when_asked_for(tmp_path: Path) -> None:
    PIL.Image.new("L", (300, 200), 99).save(tmp_path / "film.png")
    items = [replace(item, files=(str(tmp_path / "film.png"),), group=HELD_OUT_GROUPS[0]) for item in questions(4)]
    items[3] = replace(items[3], files=(str(tmp_path / "gone.png"),))
    out = write_run(tmp_path / "out" / "vqa-rad", items, lambda item: "Yes")
    assert "data:image" not in write_html(out).read_text()
    page = Page(write_html(out, pictures=True).read_text())
    assert [address[:22] for address in page.fetched if not address.startswith("#")] == ["data:image/png;base64,"]


def test_markdown_and_its_place_in_a_file(runs: Path, tmp_path: Path) -> None:
    table = markdown(runs)
    row = next(line for line in table.splitlines() if line.startswith("| vqa-rad |"))
    assert row.startswith("| vqa-rad | closed_accuracy | 0.475 [") and row.endswith(" | 0.500 | 40 | 20 |  |  |")
    assert "- vqa-rad: 1 of 40 items failed" in table
    readme = tmp_path / "README.md"
    readme.write_text(
        "before\n<!-- begin kit table: written by medgemma-eval report -->\nearlier\n<!-- end kit table -->\nafter\n"
    )
    command = ["report", str(runs), "--markdown", "--into", str(readme)]
    assert CliRunner().invoke(evals.cli.app, command).exit_code == 0
    once = readme.read_text()
    assert row in once and "earlier" not in once and once.startswith("before\n") and once.endswith("\nafter\n")
    assert CliRunner().invoke(evals.cli.app, command).exit_code == 0 and readme.read_text() == once
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="lacks the lines"):
        write_between(readme, "kit table", table)


def test_what_is_missing_is_said(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="scores.json: no such file; make it: medgemma-eval score"):
        write_html(tmp_path / "nothing")
    (runs / "scores.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        write_html(runs)
    (runs / "scores.json").write_text('{"vqa-rad": {}}')
    with pytest.raises(ValueError, match="holds no figure"):
        write_html(runs)


def test_the_page_on_evaluations_names_options_and_files_that_are_there(repository: Path, runs: Path) -> None:
    page = (repository / "docs" / "evaluations.md").read_text()
    commands = ("run", "score", "compare", "reliability", "plan", "report", "show", "list", "metrics", "judge")
    helps = [CliRunner().invoke(evals.cli.app, [command, "--help"]).output for command in commands]
    known = set(re.findall(r"--[a-z][a-z-]+", " ".join(helps)))
    assert set(re.findall(r"--[a-z][a-z-]+", page)) <= known
    assert set(re.findall(r"^medgemma-eval (\w+)", page, flags=re.MULTILINE)) <= set(commands)
    write_html(runs)
    for name in ("items.jsonl", "outputs.jsonl", "run.json"):
        assert f"<task>/{name}" in page and (runs / "vqa-rad" / name).is_file()
    for name in ("scores.json", "report.html"):
        assert f"DIR/{name}" in page and (runs / name).is_file()
    figures = read_scores(runs)["vqa-rad"]["closed_accuracy"]
    assert {"n_failed", "value_of_answered", "n_unanswered"} <= set(figures)
