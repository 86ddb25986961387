"""Which metric may be a reward: metrics whose answer is known, RadEval as its pages describe it, and the command."""

import json
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from evals.cli import app
from evals.stress import metrics as stress_metrics
from evals.stress.metrics import installed, stress_metric
from evals.stress.preferences import StressMetric, preferences, stress_case
from evals.stress.verdict import demand_not_fooled, own_cases, stress_verdict
from finetune.rewards.named import reward_named

ORIGINALS = {case.report: case for case in own_cases()}


def knows_the_meaning(texts: Sequence[str], references: Sequence[str]) -> list[float]:
    """1 for what means the reference: itself or its paraphrase."""
    return [float(text in (ref, ORIGINALS[ref].paraphrase)) for text, ref in zip(texts, references, strict=True)]


def likes_length(texts: Sequence[str], references: Sequence[str]) -> list[float]:
    return [float(len(text)) for text in texts]


def test_a_metric_of_meaning_is_accepted_and_prefers_every_paraphrase() -> None:
    verdict = stress_verdict(StressMetric("meaning", "1", knows_the_meaning))
    assert verdict.is_accepted
    assert {found.right.value for found in verdict.preferences.values()} == {1.0}
    assert len(verdict.preferences) == 8


def test_a_metric_that_cannot_tell_is_refused() -> None:
    metric = StressMetric("constant", "1", lambda texts, references: [0.3] * len(texts))
    found = stress_verdict(metric).preferences["negation"]
    assert (found.right.value, found.ties) == (0.5, 1.0)
    with pytest.raises(ValueError, match=r"constant prefers the paraphrase to a flipped negation in 50% of 32 reports"):
        demand_not_fooled(metric)


@pytest.mark.parametrize("name", ["rouge_l_f1", "token_f1_squad"])
def test_overlap_of_words_prefers_the_flip_and_is_refused(name: str) -> None:
    assert stress_verdict(name).preferences["negation"].right.value < 0.1
    with pytest.raises(ValueError, match="a reward made from it teaches to copy words"):
        demand_not_fooled(name)


def test_preferences_of_three_cases_by_hand() -> None:
    texts = {
        "a": ("No effusion.", "Effusion is absent!"),  # flip "There is an effusion." (21) against 19: lost
        "b": ("No nodule.", "A nodule is not seen anywhere."),  # 30 against "There is a nodule." (18): won
        "c": ("No fracture.", "x" * len("There is a fracture.")),  # tie
    }
    cases = [stress_case(name, name, report, other) for name, (report, other) in texts.items()]
    found = preferences(StressMetric("length", "1", likes_length), [case for case in cases if case])["negation"]
    assert found.right.value == pytest.approx((0 + 1 + 0.5) / 3)
    assert found.ties == pytest.approx(1 / 3)
    assert (found.right.n, found.right.n_groups) == (3, 3)


def test_reports_of_a_group_are_resampled_together() -> None:
    case = stress_case("a", "one", "No effusion.", "Effusion is absent!")
    other = stress_case("b", "one", "No nodule.", "A nodule is not seen anywhere.")
    assert case and other
    found = preferences(StressMetric("length", "1", likes_length), [case, other])["negation"].right
    assert found.n_groups == 1
    assert found.note == "all items are of one group: no interval"


def test_a_verdict_is_computed_once_a_version() -> None:
    calls = []

    def counted(texts: Sequence[str], references: Sequence[str]) -> list[float]:
        calls.append(len(texts))
        return knows_the_meaning(texts, references)

    for _ in range(2):
        stress_verdict(StressMetric("counted", "1", counted))
    once = len(calls)
    stress_verdict(StressMetric("counted", "2", counted))
    assert len(calls) == 2 * once


def test_a_metric_that_gives_no_numbers_is_named() -> None:
    broken = StressMetric("broken", "1", lambda texts, references: [float("nan")] * len(texts))
    with pytest.raises(ValueError, match="metric broken: got 32 values for 32 pairs, or one that is not finite"):
        stress_verdict(broken)


def test_unknown_metrics_and_missing_packages_are_named() -> None:
    with pytest.raises(ValueError, match="got metric 'bleu'; expected one of rouge_l_f1, "):
        stress_metric("bleu")
    with pytest.raises(ValueError, match="needs the package radgraph, which is not there; run `pip install radgraph`"):
        stress_metric("radgraph_f1_partial")


def test_metrics_of_entailment_prefer_what_is_right() -> None:
    for name in ("entailment", "no_contradiction"):
        found = stress_verdict(name)
        assert found.is_accepted
        assert all(found.preferences[kind].right.value > 0.85 for kind in ("negation", "side", "severity"))
    recall = stress_verdict("finding_recall").preferences
    assert recall["omission"].right.value > 0.9  # what entailment cannot see
    assert stress_metric("entailment:rules").score(["No mass.", ""], ["No mass.", "No mass."]) == [1.0, 0.0]


class FakeRadEval:
    """As docs/metrics.md of RadEval 2 says: flags in, with do_per_sample a list a name out."""

    made: list[dict[str, bool]] = []

    def __init__(self, **flags: bool) -> None:
        FakeRadEval.made.append(flags)
        print("RadEval talks while it loads")  # noqa: T201

    def __call__(self, *, refs: list[str], hyps: list[str]) -> dict[str, Any]:
        return {"rouge1": [0.0] * len(refs), "rouge2": [0.0] * len(refs), "rougeL": knows_the_meaning(hyps, refs)}


@pytest.fixture
def radeval(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("RadEval")
    module.RadEval = FakeRadEval  # type: ignore[attr-defined]
    module.__spec__ = ModuleSpec("RadEval", None)
    monkeypatch.setitem(sys.modules, "RadEval", module)
    FakeRadEval.made.clear()
    stress_metrics._radeval_scorer.cache_clear()


def test_radevals_metrics_come_through_its_package(radeval: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert "radeval:rougeL" in installed()
    assert "radeval:green" not in installed()  # 14 GB: only when it is named
    metric = stress_metric("radeval:rougeL")
    assert stress_verdict(StressMetric("fake rougeL", "1", metric.score)).is_accepted
    assert FakeRadEval.made == [{"do_rouge": True, "do_per_sample": True}]
    assert capsys.readouterr().out == ""


def test_a_reward_is_made_of_a_metric_that_is_not_fooled_only(radeval: None) -> None:
    graded = reward_named("metric:radeval:rougeL")
    case = own_cases()[0]
    said = [[{"role": "assistant", "content": case.paraphrase}], case.wrong["negation"]]
    assert graded(prompts=["", ""], completions=said, answer=[case.report] * 2, other=[1, 2]) == [1.0, 0.0]
    with pytest.raises(ValueError, match="rouge_l_f1 prefers the paraphrase to a flipped negation in 0% of 32 reports"):
        reward_named("metric:rouge_l_f1")
    with pytest.raises(ValueError, match="got metric 'bleu'; expected one of"):
        reward_named("metric:bleu")


def test_a_radeval_that_lacks_a_metric_is_named(radeval: None) -> None:
    with pytest.raises(ValueError, match="gives no 'bertscore'; run `pip install -U radeval`"):
        stress_metric("radeval:bertscore").score([own_cases()[0].report], [own_cases()[0].report])


def test_the_command_prints_a_table_and_writes_json_and_a_page(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["metrics", "rouge_l_f1", "--out", str(tmp_path), "--quiet"])
    assert ran.exit_code == 0
    assert [line.split() for line in ran.stdout.splitlines()][-1] == ["rouge_l_f1", "as", "a", "reward", "refused"]
    found = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert found["metrics"]["rouge_l_f1"]["is_accepted_as_reward"] is False
    assert found["n_reports"] == 32
    page = (tmp_path / "metrics.html").read_text(encoding="utf-8")
    assert "There is a pleural effusion." in page


@pytest.mark.kit
def test_on_the_kit_overlap_prefers_the_flip_and_no_report_is_written(kit: Path, tmp_path: Path) -> None:
    asked = ["metrics", "rouge_l_f1", "--data", str(kit), "--limit", "60", "--json", "--out", str(tmp_path), "--quiet"]
    ran = CliRunner().invoke(app, asked)
    found = json.loads(ran.stdout)
    assert found["n_reports"] == found["n_groups"] == 60
    low, high = found["metrics"]["rouge_l_f1"]["prefers_paraphrase"]["negation"]["ci95"]
    assert high < 0.5
    assert "pleural" not in (tmp_path / "metrics.html").read_text(encoding="utf-8")
