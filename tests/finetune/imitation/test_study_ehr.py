"""The expert of the small task with tools is right, and the table of its study is right by hand."""

import json
import math
from pathlib import Path

import pytest

from benchmarks import choosing_ehr
from experience import EpisodeDataset
from finetune.selection.dialogues import read_dialogues


@pytest.mark.kit
def test_the_expert_is_right_and_its_episodes_have_no_reward(kit: Path, tmp_path: Path) -> None:
    asked = choosing_ehr.cases(kit, "train", 40)
    assert {one.item.meta["category"] for one in asked} == set(choosing_ehr.KINDS)
    assert all(choosing_ehr.episodes_of(asked, choosing_ehr.Expert(), "expert", tmp_path))
    replies = read_dialogues(tmp_path).replies
    assert len(replies) == 5 * 40  # the five steps, without a mistake
    earned = [step.reward for one in EpisodeDataset(tmp_path) for step in one.steps[:-1]]
    assert all(one == 0 or math.isnan(one) for one in earned)
    never = choosing_ehr.episodes_of(asked[:3], lambda messages: "no", "parrot", tmp_path / "parrot")
    assert never == [False] * 3


def test_the_table_by_hand(tmp_path: Path) -> None:
    facts = {"proxies_sha256": "abc", "questions": 40, "kinds": []}
    lines = [
        {
            "draw": draw,
            "proxies": {
                "10": {"token_nll": 1.0, "state_distance": 1.0},
                "20": {"token_nll": 1 - 0.1 * draw, "state_distance": 1 + draw},
            },
            "success": {"10": 0.6, "20": 0.2 * draw},
        }
        for draw in range(4)
    ]
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in [facts, *lines]))
    text = choosing_ehr.page(path)
    nll, distance = ([cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines()[-2:])
    assert "success 0.00 to 0.60, mean 0.30 (a random choice), default 0.00; each run's best checkpoint 0.60" in text
    assert [nll[0], nll[1][:5], nll[2][:4], nll[3], nll[4]] == ["token_nll", "1.00 ", "0.00", "0.60", "0.45"]
    assert [distance[1][:5], distance[2][:4], distance[3], distance[4]] == ["-1.00", "1.00", "0.00", "0.60"]
