import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from medsiglip import embedded_rows
from medsiglip.embed import embed_files, readable_pictures
from medsiglip.encoder import MedSigLIP
from medsiglip.imaging.workers.pool import DecoderPool


class Stop(Exception):
    """The power goes."""


@pytest.fixture
def archive(films, arrays):
    """Nine films with a five-page TIFF among them: 14 frames in ten files."""
    pages = [Image.fromarray(pixels) for pixels in arrays[:5]]
    path = films[0].parent / "pages.tiff"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    return [*films[:3], path, *films[3:]]


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(embedded_rows, "ROWS_PER_PART", 3)


def embed(encoder, files, out, **kwargs):
    problems = []
    added = embed_files(encoder, files, out, on_problem=problems.append, batch_size=2, **kwargs)
    assert not problems
    assert not Path(f"{out}.parts").exists()
    return added


def embed_until(encoder, files, out, num_rows):
    """Interrupt a run once it has embedded `num_rows` rows; True if there were that many."""
    seen = 0

    def on_progress(rows):
        nonlocal seen
        seen += rows
        if seen >= num_rows:
            raise Stop

    try:
        embed(encoder, files, out, on_progress=on_progress)
    except Stop:
        assert not out.exists()
        return True
    return False


def keys_of(out):
    table = pq.read_table(out)
    return list(zip(table["file"].to_pylist(), table["frame"].to_pylist(), strict=True))


def vectors_of(out):
    return np.array(pq.read_table(out)["embedding"].to_pylist(), np.float32)


def assert_same_rows(out, expected):
    """Same rows in the same order; vectors to rounding, for their batches were others."""
    assert keys_of(out) == keys_of(expected)
    plain = ["file", "frame", "sha256", "model", "policy"]
    assert pq.read_table(out, columns=plain).equals(pq.read_table(expected, columns=plain))
    np.testing.assert_allclose(vectors_of(out), vectors_of(expected), atol=1e-6)


@pytest.fixture
def whole(encoder, archive, tmp_path):
    """An uninterrupted run."""
    out = tmp_path / "whole.parquet"
    assert embed(encoder, archive, out) == 14
    return out


# The file


def test_the_schema_is_exactly_this(whole):
    schema = pq.read_schema(whole)
    assert schema.names == ["file", "frame", "sha256", "embedding", "model", "policy", "findings"]
    text, findings = pa.string(), pa.list_(pa.string())
    assert schema.types == [text, pa.int32(), text, pa.list_(pa.float32(), 16), text, text, findings]


def test_rows_are_one_a_frame_in_order_with_their_sources(whole, encoder, archive):
    frames = {path: 5 if path.suffix == ".tiff" else 1 for path in archive}
    assert keys_of(whole) == [(str(path), frame) for path in archive for frame in range(frames[path])]
    table = pq.read_table(whole)
    np.testing.assert_allclose(vectors_of(whole), encoder.encode_images(archive), atol=1e-6)
    digests = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in archive}
    assert table["sha256"].to_pylist() == [digests[file] for file in table["file"].to_pylist()]
    assert set(table["model"].to_pylist()) == {f"{Path(encoder.name).name}@{encoder.identity}"}
    assert set(table["policy"].to_pylist()) == {"stored+huggingface"}


def test_part_size_changes_nothing(encoder, archive, whole, tmp_path, small_parts):
    assert embed(encoder, archive, tmp_path / "parts.parquet") == 14
    assert_same_rows(tmp_path / "parts.parquet", whole)


def test_a_file_named_twice_is_embedded_once(encoder, archive, whole, tmp_path):
    assert embed(encoder, [*archive, archive[0], archive[3]], tmp_path / "twice.parquet") == 14
    assert_same_rows(tmp_path / "twice.parquet", whole)


def test_a_bad_file_is_reported_and_the_others_are_written(encoder, archive, tmp_path):
    archive[2].write_bytes(archive[2].read_bytes()[:60])
    problems, out = [], tmp_path / "rest.parquet"
    assert embed_files(encoder, [*archive, tmp_path / "none.png"], out, on_problem=problems.append) == 13
    assert [Path(problem.file).name for problem in problems] == ["film2.png", "none.png"]
    assert "truncated" in problems[0].reason
    assert "no such file" in problems[1].reason
    assert str(archive[2]) not in {file for file, _ in keys_of(out)}


def test_no_readable_file_gives_an_empty_file_with_the_schema(encoder, tmp_path):
    problems, out = [], tmp_path / "new" / "empty.parquet"
    assert embed_files(encoder, [tmp_path / "none.png"], out, on_problem=problems.append) == 0
    assert pq.read_table(out).num_rows == 0
    assert pq.read_schema(out).names[3] == "embedding"


# Resuming


def test_a_run_after_one_without_a_readable_file_goes_on(encoder, archive, whole, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    out = tmp_path / "some.parquet"
    for _ in range(2):
        assert embed_files(encoder, [text], out, on_problem=lambda problem: None) == 0
        assert keys_of(out) == []
    embed(encoder, archive, out)
    assert_same_rows(out, whole)


def assert_resumed_is_uninterrupted(encoder, archive, whole, out):
    """Interrupt after every possible number of rows, each time going on."""
    for num_rows in range(1, 15, 2):
        assert embed_until(encoder, archive, out, num_rows)
        embed(encoder, archive, out)
        assert_same_rows(out, whole)
        out.unlink()


def test_resumed_is_uninterrupted_wherever_it_stopped(encoder, archive, whole, tmp_path, small_parts):
    assert_resumed_is_uninterrupted(encoder, archive, whole, tmp_path / "out.parquet")


def test_a_resumed_run_embeds_only_the_rest(encoder, archive, tmp_path, small_parts):
    out = tmp_path / "out.parquet"
    assert embed_until(encoder, archive, out, 14)
    parts = [pq.read_table(path).num_rows for path in sorted(Path(f"{out}.parts").glob("*.parquet"))]
    assert sum(parts) >= 9
    assert embed(encoder, archive, out) == 14 - sum(parts)


def test_many_interruptions_in_a_row(encoder, archive, whole, tmp_path, small_parts):
    out = tmp_path / "out.parquet"
    interruptions = 0
    while embed_until(encoder, archive, out, 7):
        interruptions += 1
    assert interruptions >= 2
    assert_same_rows(out, whole)


def test_interrupted_between_writing_the_file_and_removing_its_parts(
    encoder, archive, whole, tmp_path, small_parts, monkeypatch
):
    out = tmp_path / "out.parquet"
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Path, "unlink", lambda path: (_ for _ in ()).throw(Stop))
        embed(encoder, archive, out)
    assert out.exists()
    assert embed(encoder, archive, out) == 0
    assert_same_rows(out, whole)


def test_killed_between_parts(encoder, archive, whole, tmp_path, repository):
    out = tmp_path / "out.parquet"
    script = f"""
import os, signal
from pathlib import Path
from medsiglip import embed, embedded_rows
from medsiglip.encoder import MedSigLIP

embedded_rows.ROWS_PER_PART, seen = 3, 0

def kill_at_ten(rows):
    global seen
    seen += rows
    if seen >= 10:
        os.kill(os.getpid(), signal.SIGKILL)

encoder = MedSigLIP.from_pretrained({encoder.name!r}, device="cpu")
files = [Path(file) for file in {[str(path) for path in archive]}]
embed.embed_files(encoder, files, Path({str(out)!r}), on_problem=print, batch_size=2, on_progress=kill_at_ten)
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=repository, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert run.returncode == -signal.SIGKILL
    assert not out.exists()
    assert list(Path(f"{out}.parts").glob("*.parquet"))
    assert 0 < embed(encoder, archive, out) < 14
    assert_same_rows(out, whole)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("_write_whole_files", lambda rows, parts, width: embedded_rows._write_part(rows, parts, width) or []),
        ("_write_whole_files", lambda rows, parts, width: []),
    ],
    ids=["a part ends inside a file", "a part is lost"],
)
def test_the_resume_test_sees_planted_faults(encoder, archive, whole, tmp_path, small_parts, monkeypatch, name, fault):
    with monkeypatch.context() as patch, pytest.raises(AssertionError):
        patch.setattr(embedded_rows, name, fault)
        assert_resumed_is_uninterrupted(encoder, archive, whole, tmp_path / "faulty.parquet")


# A second run


def test_a_second_run_adds_nothing_and_new_files_are_added(encoder, archive, whole, tmp_path):
    out = tmp_path / "out.parquet"
    assert embed(encoder, archive[:6], out) == 10
    assert embed(encoder, archive[:6], out) == 0
    assert embed(encoder, archive, out) == 4
    assert_same_rows(out, whole)


def change(path):
    Image.fromarray(np.full((30, 30, 3), 200, np.uint8)).save(path, "PNG")
    return path


def assert_changed_file_is_embedded_again(encoder, archive, out):
    before = dict(zip(keys_of(out), vectors_of(out), strict=True))
    changed = change(archive[3])  # five frames become one
    assert embed(encoder, archive, out) == 1
    after = dict(zip(keys_of(out), vectors_of(out), strict=True))
    assert len(keys_of(out)) == len(after) == 10
    assert {file for file, _ in after} == {str(path) for path in archive}
    np.testing.assert_allclose(after.pop((str(changed), 0)), encoder.encode_images(changed)[0], atol=1e-6)
    for key, vector in after.items():
        np.testing.assert_array_equal(vector, before[key])


def test_a_changed_file_is_embedded_again_and_its_old_rows_go(encoder, archive, whole):
    assert_changed_file_is_embedded_again(encoder, archive, whole)


def append_without_replacing(out, sources, schema):
    pq.write_table(pa.concat_tables([pq.read_table(path) for path in sources]), out)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("embedded_rows._merge", append_without_replacing),
        ("embed._sha256", lambda file: "0" * 64),
        ("embedded_rows._finished_files", lambda *_: {}),
    ],
    ids=["old rows stay", "everything looks changed", "finished files are forgotten"],
)
def test_the_changed_file_test_sees_planted_faults(encoder, archive, whole, monkeypatch, name, fault):
    with monkeypatch.context() as patch, pytest.raises(AssertionError):
        patch.setattr(f"medsiglip.{name}", fault)
        assert_changed_file_is_embedded_again(encoder, archive, whole)


def test_a_mended_model_embeds_anew_and_its_old_rows_are_kept(encoder, tiny_folder, archive, whole, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / encoder.folder.name)
    pixels = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**pixels, "image_mean": [0.1] * 3}))
    faulty, out = MedSigLIP.from_pretrained(folder, device="cpu"), tmp_path / "v.parquet"
    embed(faulty, archive[:2], out)
    aside = []
    assert embed_files(encoder, archive[1:], out, on_problem=pytest.fail, on_stale=aside.append) == 13
    assert aside == [tmp_path / "v.before-1.parquet"] and len(keys_of(aside[0])) == 2
    assert embed(encoder, archive, out) == 1  # the stale row of the first file is gone too
    order = [keys_of(out).index(key) for key in keys_of(whole)]
    np.testing.assert_allclose(vectors_of(out)[order], vectors_of(whole), atol=1e-6)


# Refusals


def test_another_model_is_refused_and_the_file_is_kept(encoder, edited, archive, whole):
    before = whole.read_bytes()
    other = MedSigLIP.from_pretrained(
        edited(lambda tensors: tensors.update(logit_bias=np.zeros(1, np.float32))), device="cpu"
    )
    with pytest.raises(
        ValueError, match=r"holds embeddings of .*@[\w+]{33} .*, not of .*edited@[\w+]{33} .*another --out"
    ):
        embed(other, archive, whole)
    assert whole.read_bytes() == before


def test_another_policy_is_refused(tiny_folder, archive, whole):
    other = MedSigLIP.from_pretrained(tiny_folder, device="cpu", policy="report")
    with pytest.raises(ValueError, match=r"\(voi\+huggingface\), not of .* \(voi\+report\); give another --out"):
        embed(other, archive, whole)


def test_parts_of_another_model_are_refused(tiny_folder, encoder, archive, tmp_path, small_parts):
    out = tmp_path / "out.parquet"
    assert embed_until(encoder, archive, out, 9)
    other = MedSigLIP.from_pretrained(tiny_folder, device="cpu", policy="report")
    with pytest.raises(ValueError, match="give another --out"):
        embed(other, archive, out)


@pytest.mark.parametrize("kind", ["text", "other columns"])
def test_a_file_that_holds_no_embeddings_is_refused_and_kept(encoder, archive, tmp_path, kind):
    out = tmp_path / "mine.parquet"
    if kind == "text":
        out.write_text("file,label\n")
    else:
        pq.write_table(pa.table({"file": ["a"], "label": ["b"]}), out)
    before = out.read_bytes()
    with pytest.raises(ValueError, match="mine.parquet: there already and not an embeddings file; give another --out"):
        embed(encoder, archive, out)
    assert out.read_bytes() == before


# Decoding ahead


def test_pictures_come_in_order_from_any_number_of_workers(archive):
    for workers in (1, 2, 5):
        with DecoderPool(workers) as pool:
            pictures = list(readable_pictures(archive * 3, pytest.fail, pool))
        one_pass = [(str(p), f) for p in archive for f in range(5 if p.suffix == ".tiff" else 1)]
        assert [(picture.file, picture.frame) for picture in pictures] == one_pass * 3
