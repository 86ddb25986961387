import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from typer.testing import CliRunner

from data_cards.check import MOST_LINES, check_copy, table_sha256
from data_cards.cli import app, main
from data_cards.schema import DataCard, Split, list_cards, load_card

TABLE = "file,group,licence\na.png,g1,CC0\nb.png,g1,CC0\n"
OTHER = "file,group,licence\nc.png,g2,CC0\n"
TEXT_FIELDS = ("title", "version", "licence", "citation", "source", "how_to_get", "description", "url", "group_is")


def kit_names(kit: Path) -> list[str]:
    return sorted(folder.name for folder in kit.iterdir() if folder.is_dir())


def make_card(folder: Path, name: str = "x") -> DataCard:
    """A set of two tables and three pictures with its card."""
    folder.mkdir(exist_ok=True)
    (folder / "train.csv").write_text(TABLE)
    (folder / "test.csv").write_text(OTHER)
    for picture in ("a.png", "b.png", "c.png"):
        (folder / picture).write_bytes(b"")
    train = Split(file="train.csv", sha256=table_sha256(folder / "train.csv"), items=2, groups=1)
    test = Split(file="test.csv", sha256=table_sha256(folder / "test.csv"), items=1, groups=1)
    return DataCard(
        **{**dict.fromkeys(TEXT_FIELDS, "x"), "name": name},
        year=2020,
        tasks=("classification",),
        access="open",
        licence_allows_training_shipped_weights=True,
        splits={"train": train, "test": test},
        columns={"file": "f", "group": "g", "licence": "l"},
        item_column="file",
        group_column="group",
        pictures=3,
        counts={"group": {"g1": 2}},
    )


@pytest.mark.parametrize("name", list_cards())
def test_card_is_whole(name: str) -> None:
    card = load_card(name)
    assert card.name == name
    columns = set(card.columns).union(*(split.columns for split in card.splits.values()))
    assert {card.group_column, card.item_column} - {""} <= columns or not columns
    assert set(card.counts) <= columns and set(card.overlaps) <= set(list_cards()) - {name}
    for split in card.splits.values():
        assert split.group_column in ("", *card.columns_of(split)), split
        assert set(split.counts) <= set(card.columns_of(split)), split
    if columns and "fixture" not in card.tasks:
        assert card.group_column, "group keys are always present"
    if card.reader:
        module, function = card.reader.split(":")
        assert callable(getattr(importlib.import_module(module), function))
    assert not card.reader_checked_on or card.reader


def test_every_set_of_the_kit_has_a_card(kit: Path) -> None:
    assert set(kit_names(kit)) <= set(list_cards())


@pytest.mark.kit
@pytest.mark.parametrize("name", list_cards())
def test_card_describes_the_kit(kit: Path, name: str) -> None:
    if not (kit / name).is_dir():
        return
    card = load_card(name)
    assert check_copy(card, kit / name) == []
    assert all(split.sha256 for split in card.splits.values())
    assert len(card.splits) == len([f for f in (kit / name).rglob("*") if f.is_file() and table_like(f)])
    if card.columns and "fixture" not in card.tasks:
        assert all(split.items and split.groups for split in card.splits.values())


def table_like(path: Path) -> bool:
    return path.name != "CARD.md" and path.parent.name != "images"


@pytest.mark.kit
@pytest.mark.parametrize("name", ["cxr-nih14", "medmcqa", "k-qa"])
def test_what_the_card_says_is_compared_and_not_taken_for_granted(kit: Path, name: str) -> None:
    card = load_card(name)
    first, split = next(iter(card.splits.items()))
    wrong = {"sha256": "0" * 64, "items": (split.items or 0) + 1, "groups": (split.groups or 0) + 1}
    for field, value in wrong.items():
        splits = {**card.splits, first: split.model_copy(update={field: value})}
        assert check_copy(card.model_copy(update={"splits": splits}), kit / name), field


def test_figures_carry_their_source() -> None:
    for card in map(load_card, list_cards()):
        for figure in card.reference_figures:
            assert re.search(r"\bTR\b|TR15|CARD|doi|arXiv|Table|^measured", figure.source), (card.name, figure)
            assert figure.protocol and figure.model


def test_the_leaks_that_users_fall_into_are_named() -> None:
    def leaks(name: str) -> str:
        card = load_card(name)
        return " ".join((*card.leaks, *card.overlaps, *card.overlaps.values()))

    assert "not disjoint by picture" in leaks("vqa-rad") and "share pictures" in leaks("vqa-rad-full")
    assert load_card("vqa-rad").shared_groups == 108  # of 219 cases, by the published mark; the check counts them
    assert "MedSigLIP's training data" in leaks("scin")
    assert any(use.model == "MedSigLIP" and use.stage == "vision encoder" for use in load_card("scin").used_by)
    assert "AgentClinic" in leaks("medqa")
    assert "test split" in leaks("agentclinic-medqa") and "medqa" in load_card("agentclinic-medqa").overlaps
    assert "medqa-usmle" in load_card("mediq-interactive").overlaps


def test_unknown_card_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="expected one of the cards .*cxr-nih14, .*vqa-rad"):
        load_card("vqarad")


def test_cards_are_frozen_and_take_no_unknown_field(tmp_path: Path) -> None:
    card = make_card(tmp_path)
    with pytest.raises(ValidationError):
        card.name = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="colour"):
        DataCard.model_validate({**card.model_dump(), "colour": "red"})


def test_a_copy_like_the_card_has_no_differences(tmp_path: Path) -> None:
    assert check_copy(make_card(tmp_path), tmp_path) == []


@pytest.mark.parametrize(
    ("table", "text", "lines"),
    [
        ("train.csv", TABLE.replace("b.png,g1", "b.png,g1 "), ["SHA-256", "2 groups", "g1' is|'g1': has 1"]),
        ("train.csv", OTHER, ["is the card's test, not train", "1 items, the card 2", "2 times", "lie on more than"]),
        ("train.csv", TABLE + "a.png,g1,CC0\n", ["SHA-256", r"3 items.*\(train\)", "item 'a.png' .* 2 times"]),
        ("test.csv", OTHER.replace("g2", "g1"), ["SHA-256", "1 groups .* on more than one", "g1.*in test and train"]),
        ("test.csv", OTHER.replace("c.png", "d.png"), ["SHA-256", "d.png: named in the table"]),
        ("train.csv", TABLE.replace("a.png,g1,CC0", "a.png,g1, "), ["SHA-256", "1 items name no licence"]),
        ("train.csv", TABLE.replace("group", "patient"), ["has no column group"]),
        ("train.csv", "", ["has no column"]),
    ],
    ids=["changed row", "wrong split", "duplicate", "both sides", "no picture", "no licence", "no column", "empty"],
)  # fmt: skip
def test_each_difference_is_one_line(tmp_path: Path, table: str, text: str, lines: list[str]) -> None:
    card = make_card(tmp_path)
    (tmp_path / table).write_text(text)
    found = check_copy(card, tmp_path)
    assert all("\n" not in line for line in found)
    for part in lines:
        assert sum(bool(re.search(part, line)) for line in found) == 1, (part, found)


def test_check_of_missing_tables_says_so_once_each(tmp_path: Path) -> None:
    card = make_card(tmp_path)
    (tmp_path / "train.csv").unlink()
    found = check_copy(card, tmp_path)
    assert [line for line in found if "train.csv: no such file" in line] and not [
        line for line in found if "g1" in line
    ]
    (tmp_path / "test.csv").unlink()
    assert len(check_copy(card, tmp_path)) == 2


def test_many_missing_pictures_are_counted(tmp_path: Path) -> None:
    card = make_card(tmp_path)
    rows = "".join(f"p{number}.png,g1,CC0\n" for number in range(50))
    (tmp_path / "train.csv").write_text("file,group,licence\n" + rows)
    found = check_copy(card, tmp_path)
    assert sum("no such file" in line for line in found) == MOST_LINES
    assert "... and 30 more like the last" in found


def test_group_keys_inside_a_column_and_class_folders(tmp_path: Path) -> None:
    card = make_card(tmp_path)
    for name in ("TUM/TUM-A.tif", "TUM/TUM-B.tif", "ADI/ADI-A.tif"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name).touch()
    folder = Split(file="train", items=3, groups=2, counts={"label": {"TUM": 2, "ADI": 1}})
    update = {
        "splits": {"train": folder},
        "columns": {"file": "f", "label": "l"},
        "group_column": "file",
        "group_pattern": r"[A-Z]+(?=/)",
        "counts": {},
    }
    card = card.model_copy(update=update)
    assert check_copy(card, tmp_path) == []
    (tmp_path / "train" / "TUM" / "TUM-B.tif").unlink()
    found = "\n".join(check_copy(card, tmp_path))
    assert "2 items, the card 3" in found and "label = 'TUM': has 1 items, the card 2" in found
    other = card.model_copy(update={"group_pattern": r"patient\d+"})
    assert "record 1 has no group key" in check_copy(other, tmp_path)[0]


def test_the_side_may_stand_in_a_column_or_nowhere(tmp_path: Path) -> None:
    card = make_card(tmp_path)
    (tmp_path / "all.csv").write_text("file,group,mark\na.png,g1,train\nb.png,g1,test\nc.png,g2,test\n")
    (tmp_path / "more.csv").write_text("group\ng1\ng2\n")
    splits = {
        "all": Split(file="all.csv", side_column="mark", columns={"file": "f", "group": "g", "mark": "m"}),
        "more": Split(file="more.csv", side="*", columns={"group": "g"}),
    }
    card = card.model_copy(update={"splits": splits, "counts": {}})
    head, line = check_copy(card, tmp_path)
    assert head.startswith("1 groups") and line == "the group 'g1' lies in test and train"
    assert check_copy(card.model_copy(update={"shared_groups": 1}), tmp_path) == []


def test_pictures_that_lie_where_the_row_says(tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text("film,patient\n7,1234\n8,1299\n")
    (tmp_path / "files" / "p12").mkdir(parents=True)
    (tmp_path / "files" / "p12" / "7.jpg").touch()
    split = Split(file="split.csv", picture="files/p{patient:.2}/{film}.jpg", columns={"film": "f", "patient": "p"})
    update = {"splits": {"all": split}, "group_column": "patient", "item_column": "film", "counts": {}, "pictures": 0}
    found = check_copy(make_card(tmp_path).model_copy(update=update), tmp_path)
    assert found == [f"{tmp_path}/files/p12/8.jpg: named in the table, but there is no such file"]


def test_a_card_without_tables_says_so(tmp_path: Path) -> None:
    (line,) = check_copy(load_card("eyepacs"), tmp_path)
    assert "names no table" in line
    result = CliRunner().invoke(app, ["check", "eyepacs", str(tmp_path)])
    assert result.exit_code == 1 and "medgemma-data show eyepacs" in str(result.exception)


def test_check_counts_json_and_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "lines.json").write_text('{"id": "a"}\n{"id": "b"}\n')
    (tmp_path / "array.json").write_text(' [{"id": "c"}, {"id": "d"}, {"id": "e"}]')
    rows = [{"image": {"bytes": b"x", "path": None}, "id": "f"}, {"image": {"bytes": b"x", "path": None}, "id": "g"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t-0.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t-1.parquet")
    splits = {
        "lines": Split(file="lines.json", items=2),
        "array": Split(file="array.json", items=3),
        "table": Split(file="t-*.parquet", items=4, groups=1, group_column="image", columns={"id": "i", "image": "p"}),
    }
    update = {"splits": splits, "columns": {"id": "i"}, "group_column": "id", "item_column": "", "pictures": 0}
    card = make_card(tmp_path).model_copy(update={**update, "counts": {}})
    assert check_copy(card, tmp_path) == []
    (tmp_path / "t-1.parquet").unlink()
    assert check_copy(card, tmp_path) == [f"{tmp_path / 't-*.parquet'}: has 2 items, the card 4 (table)"]
    (tmp_path / "t-0.parquet").write_text("no parquet")
    assert "is no Parquet file" in check_copy(card, tmp_path)[0]


@pytest.mark.kit
def test_command_checks_a_copy(kit: Path, tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["check", "vqa-rad", str(kit)]).exit_code == 0
    assert CliRunner().invoke(app, ["check", "vqa-rad", str(kit / "vqa-rad")]).exit_code == 0
    (tmp_path / "vqa-rad").mkdir()
    result = CliRunner().invoke(app, ["check", "vqa-rad", str(tmp_path)])
    assert result.exit_code == 1 and "labels.csv" in result.output


def test_command_lists_filters_and_shows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    everything = CliRunner().invoke(app, ["list"]).output
    assert len(everything.splitlines()) == len(list_cards())
    some = CliRunner().invoke(app, ["list", "--task", "entailment"]).output
    assert "snli" in some and "vqa-rad" not in some
    private = CliRunner().invoke(app, ["list", "--access", "open", "--reader", "none"]).output
    assert "gemma3-special-tokens" in private and "no reader" in private and "snli" not in private
    monkeypatch.setattr(sys, "argv", ["medgemma-data", "list", "--task", "surgery"])
    with pytest.raises(SystemExit):
        main()
    assert "--task: got 'surgery'; expected one of agent, " in capsys.readouterr().err
    shown = yaml.safe_load(CliRunner().invoke(app, ["show", "vqa-rad"]).output)
    assert DataCard.model_validate(shown) == load_card("vqa-rad")


def test_a_reader_that_never_met_a_real_file_is_marked() -> None:
    lines = {line.split()[0]: line for line in CliRunner().invoke(app, ["list"]).output.splitlines()}
    assert " unverified " in lines["mimic-cxr-jpg"] and " verified " in lines["chexpert"]
    assert " no reader " in lines["eyepacs"]
    unverified = CliRunner().invoke(app, ["list", "--reader", "unverified"]).output.splitlines()
    assert len(unverified) == sum(" unverified " in line for line in lines.values()) > 0
    assert "never met a real file" in CliRunner().invoke(app, ["show", "mimic-cxr-jpg"]).output


def test_users_mistake_is_one_line(repository: Path) -> None:
    code = "from data_cards.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "show", "nosuch"], cwd=repository, capture_output=True, text=True
    )
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("error: got 'nosuch'") and result.stderr.count("\n") == 1


def test_help_does_not_import_pydantic(repository: Path) -> None:
    code = "import sys, data_cards.cli; assert not {'pydantic', 'yaml', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=repository, check=True)


def test_list_reads_every_card_without_heavy_imports(repository: Path) -> None:
    code = """
import sys
from typer.testing import CliRunner
from data_cards.cli import app
assert CliRunner().invoke(app, ["list"]).exit_code == 0
heavy = {"torch", "transformers", "numpy", "pyarrow", "pandas", "data_cards.check"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], cwd=repository, check=True)
