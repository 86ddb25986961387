import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from data_cards.check import check_copy
from data_cards.cli import app
from data_cards.schema import DataCard, Split, list_cards, load_card

NAMES = [
    "cxr-nih14",
    "cxr-nih14-64px",
    "histo-lc25000-lung",
    "medquad",
    "modality-mednist",
    "mts-dialog",
    "pubmedqa",
    "vqa-rad",
]


def small_card(folder: Path, table: str = "file,group,licence\na.png,g1,CC0\nb.png,g1,CC0\n") -> DataCard:
    from data_cards.check import table_sha256

    (folder / "labels.csv").write_text(table)
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"")
    known = {"sha256": table_sha256(folder / "labels.csv"), "items": 2, "groups": 1}
    fields = dict.fromkeys(("name", "title", "version", "licence", "citation", "source", "how_to_get"), "x")
    return DataCard(
        **fields,
        licence_allows_training_shipped_weights=True,
        splits={"all": Split(file="labels.csv", **known)},
        columns={"file": "f", "group": "g", "licence": "l"},
        group_column="group",
        pictures=2,
        counts={"group": {"g1": 2}},
    )


def test_every_card_loads_and_bears_the_name_of_its_file() -> None:
    assert set(NAMES) <= set(list_cards())
    for name in list_cards():
        card = load_card(name)
        assert card.name == name
        assert card.group_column in card.columns and set(card.counts) <= set(card.columns)


def test_unknown_card_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="expected one of the cards cxr-nih14, .*vqa-rad"):
        load_card("vqarad")


def test_cards_are_frozen_and_take_no_unknown_field(tmp_path: Path) -> None:
    card = small_card(tmp_path)
    with pytest.raises(ValidationError):
        card.name = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="colour"):
        DataCard.model_validate({**card.model_dump(), "colour": "red"})


@pytest.mark.kit
@pytest.mark.parametrize("name", NAMES)
def test_card_describes_the_kit(kit: Path, name: str) -> None:
    assert check_copy(load_card(name), kit / name) == []


def test_check_finds_what_differs(tmp_path: Path) -> None:
    card = small_card(tmp_path)
    assert check_copy(card, tmp_path) == []
    (tmp_path / "b.png").unlink()
    (tmp_path / "labels.csv").write_text("file,group,licence\na.png,g1,CC0\nb.png,g2,\nc.png,g2,CC0\n")
    found = "\n".join(check_copy(card, tmp_path))
    for part in (
        "SHA-256",
        "3 items, the card 2",
        "2 groups",
        "'g1': has 1",
        "3 pictures",
        "b.png",
        "no licence",
    ):
        assert part in found


def test_check_of_a_missing_table_says_so_once(tmp_path: Path) -> None:
    card = small_card(tmp_path)
    (tmp_path / "labels.csv").unlink()
    (line,) = check_copy(card, tmp_path)
    assert "no such file" in line


@pytest.mark.kit
def test_command_checks_a_copy(kit: Path, tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["check", "vqa-rad", str(kit)]).exit_code == 0
    assert CliRunner().invoke(app, ["check", "vqa-rad", str(kit / "vqa-rad")]).exit_code == 0
    (tmp_path / "vqa-rad").mkdir()
    result = CliRunner().invoke(app, ["check", "vqa-rad", str(tmp_path)])
    assert result.exit_code == 1 and "labels.csv" in result.output


def test_command_lists_and_shows() -> None:
    assert "vqa-rad" in CliRunner().invoke(app, ["list"]).output
    assert "licence: CC0 1.0" in CliRunner().invoke(app, ["show", "vqa-rad"]).output


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
