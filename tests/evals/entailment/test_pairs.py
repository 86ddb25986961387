import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from evals.entailment.pairs import PHENOMENA, report_pairs, written_pairs


def test_written_pairs_are_balanced_and_no_text_lies_in_both_halves() -> None:
    rows = written_pairs()
    assert len(rows) == 240
    assert Counter(row.label for row in rows) == {"entailment": 80, "neutral": 80, "contradiction": 80}
    assert {row.phenomenon for row in rows} == set(PHENOMENA)
    halves = {half: {row.group for row in written_pairs(half)} for half in ("development", "held-back")}
    assert not halves["development"] & halves["held-back"]
    assert len({(row.premise, row.hypothesis) for row in rows}) == 240


@pytest.mark.kit
def test_report_pairs_find_their_texts(kit: Path) -> None:
    rows = report_pairs(kit)
    assert len(rows) == 243
    assert Counter(row.label for row in rows) == {"entailment": 81, "neutral": 81, "contradiction": 81}
    halves = {half: {row.group for row in report_pairs(kit, half)} for half in ("development", "held-back")}
    assert not halves["development"] & halves["held-back"]
    assert sum(len(groups) for groups in halves.values()) == 59
    sentence = next(row for row in rows if row.pair_id == "report-001")
    whole = next(row for row in rows if row.pair_id == "report-007")
    assert sentence.premise.count(".") == 1 and whole.premise.count(".") > 3


@pytest.mark.kit
def test_another_text_of_a_report_is_refused(kit: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        with gzip.open(kit / "iu-xray-reports" / f"{split}.jsonl.gz", "rt") as lines:
            rows = [json.loads(line) for line in lines]
        changed = [{**row, "findings": row["findings"] + " No change."} for row in rows]
        (tmp_path / "iu-xray-reports").mkdir(exist_ok=True)
        with gzip.open(tmp_path / "iu-xray-reports" / f"{split}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in changed)
    with pytest.raises(ValueError, match="has not the text that pair report-"):
        report_pairs(tmp_path)
