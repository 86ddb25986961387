"""Tables as public data sets really have them: columns guessed, labels and groups right."""

from pathlib import Path

import pytest

from data_cards.table import Box, Columns, read_table
from tests.data_cards.table.made import names, pictures, read, table_file


def test_chexpert_train_csv_names_its_pictures_from_the_folder_above(tmp_path: Path) -> None:
    folder = tmp_path / "CheXpert-v1.0-small"
    paths = [f"train/patient0000{n}/study1/view1_frontal.jpg" for n in (1, 1, 2, 3)]
    paths[1] = "train/patient00001/study2/view1_frontal.jpg"
    pictures(folder, *paths)
    rows = ["Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly,Edema"]
    values = ["1.0,,", ",1.0,-1.0", ",0.0,", ",-1.0,1.0"]
    rows += [f"CheXpert-v1.0-small/{path},Male,68,Frontal,AP,{said}" for path, said in zip(paths, values, strict=True)]
    table = read(folder, "\n".join(rows), name="train.csv")
    assert table.columns.files == ("Path",)
    assert table.columns.label == ("No Finding", "Cardiomegaly", "Edema")
    assert (table.columns.group, table.columns.group_pattern != "") == ("Path", True)
    assert [row.group for row in table.rows] == ["patient00001", "patient00001", "patient00002", "patient00003"]
    assert [row.labels["labels"] for row in table.rows] == [
        {"No Finding": True},
        {"Cardiomegaly": True},
        {"Cardiomegaly": False},
        {"Edema": True},
    ]
    assert table.target().unknown == {"No Finding": 3, "Cardiomegaly": 2, "Edema": 3}


@pytest.mark.parametrize(
    ("missing", "uncertain", "expected"),
    [
        ("left-out", "left-out", {"Edema": True}),
        ("zero", "left-out", {"Edema": True, "No Finding": False}),
        ("left-out", "one", {"Edema": True, "Cardiomegaly": True}),
        ("one", "zero", {"Edema": True, "Cardiomegaly": False, "No Finding": True}),
    ],
)
def test_missing_and_uncertain_labels_by_policy(
    tmp_path: Path, missing: str, uncertain: str, expected: dict[str, bool]
) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    text = "Path,No Finding,Cardiomegaly,Edema\na.jpg,,-1.0,1.0\nb.jpg,1.0,0.0,0.0\n"
    table = read(tmp_path, text, Columns(missing=missing, uncertain=uncertain))  # type: ignore[arg-type]
    assert table.rows[0].labels["labels"] == expected
    assert table.rows[1].labels["labels"] == {"No Finding": True, "Cardiomegaly": False, "Edema": False}


def test_nih_joins_labels_by_bars_and_no_finding_is_none(tmp_path: Path) -> None:
    pictures(
        tmp_path, "images_001/images/00000001_000.png", "images_002/images/00000002_000.png", "images_002/c_000.png"
    )
    text = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"
        "00000001_000.png,Cardiomegaly|Emphysema,0,1,58,M,PA\n"
        "00000002_000.png,No Finding,0,2,81,M,PA\n"
        "c_000.png,Emphysema,1,2,81,M,PA\n"
    )
    table = read(tmp_path, text, name="Data_Entry_2017.csv")
    assert (table.columns.files, table.columns.label, table.columns.group) == (
        ("Image Index",),
        ("Finding Labels",),
        "Patient ID",
    )
    assert [row.labels["Finding Labels"] for row in table.rows] == [
        {"Cardiomegaly": True, "Emphysema": True},
        {"Cardiomegaly": False, "Emphysema": False},
        {"Cardiomegaly": False, "Emphysema": True},
    ]
    assert [row.group for row in table.rows] == ["1", "2", "2"]


def test_rsna_boxes_of_one_film_come_together_and_names_have_no_extension(tmp_path: Path) -> None:
    pictures(tmp_path, "stage_2_train_images/0004cfab.dcm", "stage_2_train_images/00436515.dcm")
    text = (
        "patientId,x,y,width,height,Target\n"
        "0004cfab,,,,,0\n"
        "00436515,264.0,152.0,213.0,379.0,1\n"
        "00436515,562.0,152.0,256.0,453.0,1\n"
    )
    table = read(tmp_path, text, name="stage_2_train_labels.csv")
    assert names(table) == ["0004cfab.dcm", "00436515.dcm"]
    assert table.rows[0].labels["boxes"] == ()
    assert table.rows[1].labels["boxes"] == (
        Box("", 152, 264, 531, 477, "px"),
        Box("", 152, 562, 605, 818, "px"),
    )
    assert [row.place for row in table.rows] == ["stage_2_train_labels.csv row 2", "stage_2_train_labels.csv row 3"]


def test_vindr_boxes_by_corners_with_their_names(tmp_path: Path) -> None:
    pictures(tmp_path, "train/a.dicom", "train/b.dicom")
    text = "image_id,class_name,x_min,y_min,x_max,y_max\na,Nodule,1,2,3,5\nb,No finding,,,,\n"
    table = read(tmp_path, text, name="train.csv")
    assert table.rows[0].labels["boxes"] == (Box("Nodule", 2, 1, 5, 3, "px"),)
    assert table.rows[1].labels["boxes"] == ()


def test_ham10000_metadata(tmp_path: Path) -> None:
    pictures(tmp_path, "HAM10000_images_part_1/ISIC_1.jpg", "HAM10000_images_part_2/ISIC_2.jpg")
    text = "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset\n"
    text += "HAM_1,ISIC_1,bkl,histo,80.0,male,scalp,vidir_modern\nHAM_2,ISIC_2,nv,histo,,male,scalp,rosendahl\n"
    table = read(tmp_path, text, name="HAM10000_metadata.csv")
    assert (table.columns.files, table.columns.label, table.columns.group) == (("image_id",), ("dx",), "lesion_id")
    assert table.columns.split == ""
    assert table.target().kind == "class"


def test_isic_ground_truth_of_which_one_column_is_1_is_one_class(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    text = "image,MEL,NV,BCC\na,0.0,1.0,0.0\nb,1.0,0.0,0.0\nc,0.0,0.0,1.0\n"
    table = read(tmp_path, text)
    assert [row.labels for row in table.rows] == [{"label": "NV"}, {"label": "MEL"}, {"label": "BCC"}]
    assert table.target().classes == ("BCC", "MEL", "NV")
    several = read(tmp_path, text, Columns(kind="multi-label"))
    assert several.rows[0].labels["labels"] == {"MEL": False, "NV": True, "BCC": False}


def test_vqa_rad_json(tmp_path: Path) -> None:
    pictures(tmp_path, "VQA_RAD Image Folder/synpic1.jpg")
    text = (
        '[{"qid": 0, "image_name": "synpic1.jpg", "question": "Is it normal?", "answer": "No", "image_organ": "CHEST"},'
        '{"qid": 1, "image_name": "synpic1.jpg", "question": "How many ribs?", "answer": 12, "image_organ": "CHEST"}]'
    )
    table = read(tmp_path, text, name="VQA_RAD Dataset Public.json")
    assert [(row.question, row.answer) for row in table.rows] == [("Is it normal?", "No"), ("How many ribs?", "12")]
    assert table.rows[0].group == table.rows[1].group, "two questions of one picture are one group"
    assert "no group column" in table.findings[0]


def test_kaggle_class_folders_with_sides(tmp_path: Path) -> None:
    root = tmp_path / "chest_xray"
    pictures(root, "train/NORMAL/a.jpeg", "train/PNEUMONIA/b.jpeg", "val/NORMAL/c.jpeg", "test/PNEUMONIA/d.jpeg")
    pictures(root, "train/NORMAL/.DS_Store", "__MACOSX/x/NORMAL/e.jpeg")
    table = read_table(root)
    assert [(row.files[0].name, row.labels["label"], row.split) for row in table.rows] == [
        ("d.jpeg", "PNEUMONIA", "test"),
        ("a.jpeg", "NORMAL", "train"),
        ("b.jpeg", "PNEUMONIA", "train"),
        ("c.jpeg", "NORMAL", "validation"),
    ]
    assert table.given_splits == ("train", "validation", "test")


def test_class_folders_without_sides(tmp_path: Path) -> None:
    root = tmp_path / "NCT"
    pictures(root, "ADI/a.tif", "TUM/b.tif", "TUM/sub/c.tif")
    table = read_table(root)
    assert [row.labels["label"] for row in table.rows] == ["ADI", "TUM", "TUM"]
    assert table.given_splits == ()


def test_spreadsheet_of_another_country(tmp_path: Path) -> None:
    """A byte order mark, semicolons, spaces in headers, decimal commas, Windows paths."""
    pictures(tmp_path, "Bilder/a.png", "Bilder/b.png", "Bilder/c.png")
    text = "\ufeff Bild Pfad ;Patient ID; Volumen ml\r\n"
    text += "D:\\Studie\\Bilder\\a.png;7;12,5\r\nBilder\\b.png;8;1200\r\n.\\Bilder\\c.png;8;0,25\r\n"
    table = read(tmp_path, text, Columns(label=("Volumen ml",)))
    assert table.columns.files == ("Bild Pfad",)
    assert names(table) == ["a.png", "b.png", "c.png"]
    assert [row.labels["Volumen ml"] for row in table.rows] == [12.5, 1200.0, 0.25]
    assert table.target().kind == "number"


def test_utf_16_as_a_spreadsheet_saves_unicode_text(tmp_path: Path) -> None:
    pictures(tmp_path, "ä.png", "b.png")
    path = table_file(tmp_path, "file\tlabel\nä.png\tmälignant\nb.png\tbenign\n", "T.tsv", "utf-16")
    assert [row.labels["label"] for row in read_table(path).rows] == ["mälignant", "benign"]


def test_several_picture_columns_and_several_files_in_a_cell(tmp_path: Path) -> None:
    pictures(tmp_path, "1.png", "2.png", "3.png", "4.png")
    text = "case_id,image_1_path,image_2_path,label\nx,1.png,2.png,a\ny,3.png,,b\n"
    table = read(tmp_path, text)
    assert [[f.name for f in row.files] for row in table.rows] == [["1.png", "2.png"], ["3.png"]]
    listed = read(tmp_path, "images,label\n\"['1.png', '2.png']\",a\n3.png;4.png,b\n")
    assert [[f.name for f in row.files] for row in listed.rows] == [["1.png", "2.png"], ["3.png", "4.png"]]


def test_study_folders_and_volumes(tmp_path: Path) -> None:
    pictures(tmp_path, "dicom/1.2.840.1/a.dcm", "dicom/1.2.840.2/b.dcm", "scans/p1.nii.gz", "scans/p2.nii.gz")
    table = read(tmp_path, "StudyInstanceUID,label\n1.2.840.1,a\n1.2.840.2,b\n")
    assert [row.files[0].is_dir() for row in table.rows] == [True, True]
    assert names(read(tmp_path, "scan,label\np1,a\np2,b\n")) == ["p1.nii.gz", "p2.nii.gz"]


def test_several_label_columns_of_several_kinds(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    text = "file,dr_grade,referable,area_mm2\na.png,0,0,1.5\nb.png,2,1,\nc.png,,1,2.5\n"
    table = read(tmp_path, text, Columns(label=("dr_grade", "referable", "area_mm2")))
    kinds = {name: target.kind for name, target in table.targets.items()}
    assert kinds == {"referable": "multi-label", "dr_grade": "class", "area_mm2": "number"}
    assert table.rows[1].labels == {"referable": {"referable": True}, "dr_grade": "2"}
    assert table.rows[2].labels == {"referable": {"referable": True}, "area_mm2": 2.5}


def test_choices_in_columns_and_in_a_list_name_the_answer_by_letter_place_or_text(tmp_path: Path) -> None:
    text = "question,A,B,C,answer\nWhich?,one,none,three,B\nWhat?,x,y,z,z\n"
    table = read(tmp_path, text)
    assert table.rows[0].choices == ("one", "none", "three")
    assert [row.answer for row in table.rows] == ["none", "z"]
    listed = read(tmp_path, "question,options,answer\nWhich?,\"['one', 'two']\",1\n")
    assert (listed.rows[0].choices, listed.rows[0].answer) == (("one", "two"), "two")


def test_a_question_for_all_rows(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    columns = Columns(question="Describe the film.", answer="report")
    table = read(tmp_path, "file,report\na.png,Clear.\nb.png,Cardiomegaly.\n", columns)
    assert {row.question for row in table.rows} == {"Describe the film."}
    assert [row.answer for row in table.rows] == ["Clear.", "Cardiomegaly."]


def test_tables_of_one_folder_are_its_sides(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    table_file(tmp_path, "file,label\na.png,x\nb.png,y\n", "train.csv")
    table_file(tmp_path, "file,label\nc.png,x\n", "valid.csv")
    table = read_table(tmp_path)
    assert [(row.place, row.split) for row in table.rows] == [
        ("train.csv row 2", "train"),
        ("train.csv row 3", "train"),
        ("valid.csv row 2", "validation"),
    ]


def test_pictures_only_to_be_asked_about_need_no_label(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    assert names(read(tmp_path, "file,note\na.png,x\n", labelled=False)) == ["a.png"]
