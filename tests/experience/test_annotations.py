from pathlib import Path

import duckdb
import pytest

from experience import EpisodeDataset, write_episodes
from experience.annotations import annotate, annotated, annotation_names, annotations
from tests.experience.storage.test_dataset import control


def test_annotations_are_kept_beside_the_episodes_with_author_and_time(tmp_path: Path) -> None:
    write_episodes(tmp_path, [control(1), control(2)])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    dataset = EpisodeDataset(tmp_path)
    annotate(dataset, "quality", "reader-1", [("c1", None, "good"), ("c1", 2, "slip")])
    annotate(dataset, "quality", "reader-2", [("c1", 2, "no slip"), ("c2", None, {"why": "cut"})])
    assert {path: path.read_bytes() for path in before} == before and annotation_names(dataset) == ["quality"]
    found = annotations(dataset, "quality")
    assert [one[:4] for one in found] == [
        ("c1", None, "good", "reader-1"),
        ("c1", 2, "slip", "reader-1"),
        ("c1", 2, "no slip", "reader-2"),
        ("c2", None, {"why": "cut"}, "reader-2"),
    ]
    assert found[0].time_utc.tzinfo and found[1].time_utc < found[2].time_utc
    episode = annotated(dataset["c1"], "quality", found)
    assert episode.metadata["quality"] == "good"
    assert [step.metadata["quality"] for step in episode.steps] == [None, None, "no slip", None, None, None]
    steps, added = f"'{tmp_path}/steps/*.parquet'", f"'{tmp_path}/annotations/quality.parquet'"
    joined = f"SELECT step, author FROM {steps} JOIN {added} USING (episode_id, step) ORDER BY time_utc"
    assert duckdb.sql(joined).fetchall() == [(2, "reader-1"), (2, "reader-2")]


def test_what_is_refused(tmp_path: Path) -> None:
    write_episodes(tmp_path, [control(1)])
    dataset = EpisodeDataset(tmp_path)
    for name, author, place, message in [
        ("reward", "r", ("c1", 0, 1), "none of the columns' names"),
        ("a/b", "r", ("c1", 0, 1), "letters, digits"),
        ("x", "", ("c1", 0, 1), "who annotates"),
        ("x", "r", ("c1", 6, 1), "has no step 6; expected 0 to 5"),
        ("x", "r", ("c9", 0, 1), "holds no episode 'c9'"),
    ]:
        with pytest.raises(ValueError, match=message):
            annotate(dataset, name, author, [place])
    assert annotation_names(dataset) == []
