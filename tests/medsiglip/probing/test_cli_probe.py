"""`probe`, then `classify --probe`: matching, missing labels, another encoder beside, and what is refused."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from medsiglip.labels_csv import read_rows
from medsiglip.probing.matching import match, read_embeddings
from tests.medsiglip.test_cli import rows_of


@pytest.fixture
def site(medsiglip, tmp_path):
    """60 pictures of 30 patients, dark and light, their embeddings and labels."""
    folder, random = tmp_path / "site", np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        write = csv.writer(file).writerow
        write(["file", "shade", "light", "striped", "patient", "side", "sex"])
        for i in range(60):
            pixels = (random.integers(0, 200, (40, 40, 3)) // (1 + 2 * (i % 2))).astype(np.uint8)
            striped = i // 2 % 2
            pixels[:: 2 if striped else 99] //= 4
            Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
            light = ["1", "0"][i % 2] if i % 7 else ["", "-1"][i % 2]
            side = "train" if i < 40 else "test"
            write([f"images/{i}.png", ["light", "dark"][i % 2], light, striped, i // 2, side, "FM"[i % 2]])
    assert medsiglip("embed", folder / "images", "--out", folder / "v.parquet")[0] == 0
    return folder


def probe(medsiglip, site, *words):
    return medsiglip("probe", site / "v.parquet", site / "labels.csv", "--out", site / "out", *words, model=None)


def test_probe_then_classify(medsiglip, site):
    status, _, err = probe(medsiglip, site, "--target", "shade", "--group", "patient", "--subgroup", "sex", "--quiet")
    assert status == 0 and err[-1].startswith("mean AUROC ")
    metrics = json.loads((site / "out" / "metrics.json").read_text())
    assert (metrics["rows"], metrics["groups"], metrics["split"]) == (60, 30, "5 folds over groups")
    assert metrics["mean_auroc"]["value"] > 0.9 and metrics["commonest_label"] == 0.5
    assert [point["rows"] for point in metrics["learning_curve"]][:2] == [16, 32]
    assert (site / "out" / "report.html").read_text().count("<svg") == 6
    (site / "v.parquet").unlink()
    (site / "labels.csv").unlink()
    status, out, _ = medsiglip("classify", site / "images", "--probe", site / "out")
    rows = rows_of(out)
    assert status == 0 and {row["convention"] for row in rows} == {"softmax of a probe"}
    right = [
        row["label"] == ("light", "dark")[int(row["file"].rpartition("/")[2][:-4]) % 2]
        for row in rows
        if float(row["probability"]) > 0.5
    ]
    assert np.mean(right) > 0.9


def test_several_targets_are_independent_and_know_missing_labels(medsiglip, site):
    words = ("--target", "light", "--target", "striped", "--group", "patient", "--no-curve", "--quiet")
    status, _, _ = probe(medsiglip, site, *words)
    assert status == 0
    metrics = json.loads((site / "out" / "metrics.json").read_text())
    assert {row["label"]: row["n"] for row in metrics["labels"]} == {"light": 51, "striped": 60}
    assert metrics["commonest_label"] is None and metrics["learning_curve"] == []
    rows = rows_of(medsiglip("classify", site / "images" / "0.png", "--probe", site / "out")[1])
    assert [row["label"] for row in rows] == ["light", "striped"]
    assert {row["convention"] for row in rows} == {"sigmoid of a probe"}


def test_a_split_of_the_table_and_a_network(medsiglip, site):
    words = ("--target", "shade", "--group", "patient", "--split", "side", "--head", "mlp", "--no-curve", "--quiet")
    status, _, _ = probe(medsiglip, site, *words)
    metrics = json.loads((site / "out" / "metrics.json").read_text())
    assert status == 0 and (metrics["rows"], metrics["head"], metrics["split"]) == (20, "mlp", "column side")


def test_another_encoder_stands_beside_on_the_same_rows(medsiglip, site, edited):
    other = edited(lambda tensors: tensors.update(
        {"vision_model.head.probe": np.zeros_like(tensors["vision_model.head.probe"])}
    ))  # fmt: skip
    medsiglip("embed", site / "images", "--out", site / "other.parquet", model=other)
    words = ("--target", "shade", "--group", "patient", "--no-curve", "--quiet")
    status, _, _ = probe(medsiglip, site, *words, "--beside", site / "other.parquet")
    beside = json.loads((site / "out" / "metrics.json").read_text())["beside"]["other"]
    mine = json.loads((site / "out" / "metrics.json").read_text())["mean_auroc"]["value"]
    assert status == 0
    assert beside["ours minus this"]["value"] == pytest.approx(mine - beside["mean_auroc"]["value"], abs=2e-6)
    status, _, err = medsiglip("classify", site / "images", "--probe", site / "out", model=other)
    assert status == 1 and "the probe is of the encoder" in err[0]


def test_rows_are_matched_by_path_then_by_bytes_then_by_a_name_that_is_unique(site):
    embedded = read_embeddings(site / "v.parquet")
    elsewhere = site / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "renamed.png").write_bytes((site / "images" / "3.png").read_bytes())
    table = elsewhere / "labels.csv"
    table.write_text("file,note\n../images/1.png,\nrenamed.png,\n5.png,\nnowhere.png,\n../images/1.png,\n,no file\n")
    problems = []
    found = match(read_rows(table), embedded, problems.append)
    assert [embedded.files[place].rpartition("/")[2] for _, place in found] == ["1.png", "3.png", "5.png"]
    assert [str(problem) for problem in problems] == [
        f"labels.csv row 5: nowhere.png: not among the files of {site / 'v.parquet'}; embed it",
        "labels.csv row 6: ../images/1.png is the file of labels.csv row 2 already; keep one row a file",
        f"labels.csv row 7: its file is empty: not among the files of {site / 'v.parquet'}; embed it",
    ]


def test_a_row_without_vectors_is_named_and_the_others_are_used(medsiglip, site):
    with (site / "labels.csv").open("a") as file:
        file.write("images/gone.png,light,1,0,99,train,F\n")
    status, _, err = probe(medsiglip, site, "--target", "shade", "--group", "patient", "--no-curve", "--quiet")
    assert status == 1 and "labels.csv row 62: images/gone.png: not among the files of" in err[0]
    assert json.loads((site / "out" / "metrics.json").read_text())["rows"] == 60


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "grade"], "has no column 'grade'; its columns are file, shade"),
        (["--target", "shade", "--head", "forest"], "head 'forest' is unknown; choose one of linear, mlp"),
        (["--target", "shade", "--split", "sex"], "the split has 0 rows 'train' and 0 'test'"),
        (
            ["--target", "shade", "--group", "sex", "--split", "side"],
            "(train) and labels.csv row 42 (test) are of one patient",
        ),
        (["--target", "shade", "--group", "shade"], "lies in one group only"),
        (["--target", "light", "--target", "shade"], "labels.csv row 2: shade is 'light'; expected 1, 0, or -1"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(medsiglip, site, words, message):
    status, _, err = probe(medsiglip, site, *words, "--no-curve", "--quiet")
    assert status == 1 and message in err[-1] and not (site / "out").exists()


def test_one_class_and_vectors_with_nan_are_refused(medsiglip, site):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (site / "labels.csv").write_text("file,shade\nimages/0.png,light\nimages/2.png,light\n")
    status, _, err = probe(medsiglip, site, "--target", "shade", "--quiet")
    assert status == 1 and "every row is 'light'; two labels at least are needed" in err[0]
    table = pq.read_table(site / "v.parquet")
    vectors = np.stack(table["embedding"].to_pylist()).astype(np.float32)
    vectors[3, 0] = np.nan
    broken = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(table.set_column(3, table.schema.field("embedding"), broken), site / "v.parquet")
    status, _, err = probe(medsiglip, site, "--target", "shade", "--quiet")
    assert status == 1 and "holds NaN or infinity; delete its row and embed it again" in err[0]


def test_a_probe_takes_no_labels_of_another_kind(medsiglip, site):
    status, _, err = medsiglip("classify", site / "images", "--probe", site, "--task", "modality")
    assert status == 1 and "no probe (" in err[0]
