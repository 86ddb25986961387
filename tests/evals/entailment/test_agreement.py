import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_cards.readers.text import ScoredSummary, read_factuality_scores
from evals.cli import app
from evals.entailment.agreement import agreement
from evals.stress.preferences import StressMetric


def scored(number: int, precision: float, summary: str) -> ScoredSummary:
    return ScoredSummary(
        f"s{number}", f"dialogue {number}", "reference", summary, precision, 0.5, 0.5, 1 - precision, 0.1, f"g{number}"
    )


SUMMARIES = [scored(number, number / 10, "x" * (number + 1)) for number in range(10)]


def test_a_metric_that_orders_as_people_do_agrees_wholly() -> None:
    length = StressMetric("length", "1", lambda said, _: [len(text) ** 2 for text in said])
    found = agreement(length, SUMMARIES)
    assert found.spearman["precision"].value == pytest.approx(1)
    assert found.spearman["hallucination"].value == pytest.approx(-1)
    assert found.spearman["recall"].value != found.spearman["recall"].value  # all equal: undefined
    shuffled = StressMetric("other", "1", lambda said, _: [(len(text) * 7) % 11 for text in said])
    by_hand = 1 - 6 * 198 / 990  # sums of squared rank differences of 7, 3, 10, 6, 2, 9, 5, 1, 8, 4
    assert agreement(shuffled, SUMMARIES).spearman["precision"].value == pytest.approx(by_hand)


def test_what_a_summary_is_measured_against() -> None:
    seen: list[str] = []

    def remembers(said: object, texts: list[str]) -> list[float]:
        seen.extend(texts)
        return list(range(len(texts)))

    agreement(StressMetric("m", "1", remembers), SUMMARIES, "dialogue")  # type: ignore[arg-type]
    assert seen[:2] == ["dialogue 0", "dialogue 1"]


def test_ties_are_ranked_as_scipy_does() -> None:
    from scipy.stats import spearmanr

    values = [0.0, 0.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.2, 0.0, 1.0]
    found = agreement(StressMetric("ties", "1", lambda said, _: values), SUMMARIES).spearman["precision"]
    assert found.value == pytest.approx(spearmanr(values, range(10)).statistic)
    assert found.ci95.low <= found.value <= found.ci95.high


@pytest.mark.kit
def test_the_scores_of_the_kit(kit: Path, tmp_path: Path) -> None:
    rows = read_factuality_scores(kit / "mts-dialog")
    assert len(rows) == 300 and len({row.group for row in rows}) == 75
    assert (rows[0].precision, rows[0].recall, rows[0].omission) == (1.0, 0.3, 0.7)
    with gzip.open(kit / "mts-dialog" / "factuality-scores.jsonl.gz", "rt") as lines:
        first = json.loads(next(lines))
    with gzip.open(tmp_path / "factuality-scores.jsonl.gz", "wt") as file:
        file.write(json.dumps({**first, "factualrecall": "high"}) + "\n")
    with pytest.raises(ValueError, match="record 1 has factualrecall 'high'; expected a number"):
        read_factuality_scores(tmp_path)


@pytest.mark.kit
def test_the_command_prints_metrics_beside_rouge(kit: Path) -> None:
    done = CliRunner().invoke(app, ["agreement", "rouge_l_f1", "entailment", "--data", str(kit), "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [(row["metric"], row["against"]) for row in told] == [
        (name, against) for name in ("rouge_l_f1", "entailment") for against in ("reference", "dialogue")
    ]
    assert all(-1 <= row["spearman"]["precision"]["value"] <= 1 for row in told)
    assert told[0]["spearman"]["recall"]["ci95"][0] > 0.1  # overlap of words follows recall
