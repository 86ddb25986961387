"""Readers of the owners' own picture releases, each on a miniature of made-up items in the release's layout."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from data_cards.readers.chest_releases import (
    CHEXPERT_OBSERVATIONS,
    read_chexpert,
    read_mimic_cxr_jpg,
    read_nih14_radiologist_labels,
    read_nih14_release,
)
from data_cards.readers.pneumothorax_masks import decode_run_lengths, read_siim_pneumothorax
from data_cards.readers.tissue_and_skin import read_ham10000, read_lc25000, read_nct_crc, read_pad_ufes
from tests.data_cards.made import put, refuses

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)

# --- chest films


def test_nih14(tmp_path: Path) -> None:
    rows = [
        "00000011_000.png,Mass|Nodule,0,11,58,M,PA,2682,2749,0.143,0.143",
        "00000011_001.png,No Finding,1,11,059Y,M,AP,2682,2749,0.143,0.143",
    ]
    put(tmp_path / "Data_Entry_2017_v2020.csv", "\n".join([NIH_HEADER, *rows]) + "\n")
    put(tmp_path / "test_list.txt", "00000011_001.png\n")
    put(tmp_path / "images_002" / "images" / "00000011_001.png", "")
    first, second = read_nih14_release(tmp_path)
    assert first.group == second.group == "nih_00011"
    assert (first.labels["Mass"], first.labels["Hernia"], first.labels["no_finding"]) == ("1", "0", "0")
    assert (second.labels["no_finding"], second.labels["age"], second.labels["view"]) == ("1", "59", "AP")
    assert (first.labels["official_split"], second.labels["official_split"]) == ("", "test")
    assert second.path.is_file() and first.path == tmp_path / "images" / "00000011_000.png"
    put(tmp_path / "Data_Entry_2017_v2020.csv", "\n".join([NIH_HEADER, rows[0].replace("Nodule", "Flu")]) + "\n")
    refuses(lambda: read_nih14_release(tmp_path), r"v2020.csv: record 1 has the finding 'Flu'; expected Atelectasis")
    put(tmp_path / "Data_Entry_2017_v2020.csv", "\n".join([NIH_HEADER, rows[0].replace(",11,", ",x,")]) + "\n")
    refuses(lambda: read_nih14_release(tmp_path), "record 1 has Patient ID 'x'")


def test_the_table_of_2017_ends_its_lines_with_a_comma(tmp_path: Path) -> None:
    row = "00000011_000.png,Hernia,0,11,058Y,M,PA,2682,2749,0.143,0.143,"
    put(tmp_path / "Data_Entry_2017.csv", f"{NIH_HEADER},\n{row}\n")
    (film,) = read_nih14_release(tmp_path)
    assert film.labels["Hernia"] == "1" and film.labels["age"] == "58"


def test_nih14_radiologist_labels(tmp_path: Path) -> None:
    header = "Image Index,Patient ID,Fracture,Pneumothorax,Airspace opacity,Nodule or mass,Set Id"
    table = put(tmp_path / "labels.csv", f"{header}\n00000013_008.png,13,NO,YES,NO,NO,test\n")
    (film,) = read_nih14_radiologist_labels(table)
    assert film.group == "nih_00013" and film.labels["Pneumothorax"] == "YES" and film.labels["set"] == "test"
    put(table, f"{header}\n00000013_008.png,13,NO,maybe,NO,NO,test\n")
    refuses(lambda: read_nih14_radiologist_labels(table), "record 1 has Pneumothorax 'maybe'; expected YES, NO")


CHEXPERT_HEADER = "Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(CHEXPERT_OBSERVATIONS)


def observations(**values: str) -> str:
    return ",".join(values.get(name.replace(" ", "_"), "") for name in CHEXPERT_OBSERVATIONS)


def test_chexpert_keeps_uncertain_and_not_mentioned_apart(tmp_path: Path) -> None:
    labels = observations(Edema="-1.0", Pneumothorax="0.0", Fracture="1.0")
    path = "CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg"
    put(tmp_path / "train.csv", f"{CHEXPERT_HEADER}\n{path},Female,87,Frontal,AP,{labels}\n")
    (film,) = read_chexpert(tmp_path, "train")
    assert film.path == tmp_path / "train/patient00002/study2/view1_frontal.jpg"
    assert film.group == "chexpert_patient00002"
    found = [film.labels[name] for name in ("Edema", "Pneumothorax", "Fracture", "Pneumonia")]
    assert found == ["-1", "0", "1", ""]
    put(tmp_path / "train.csv", f"{CHEXPERT_HEADER}\n{path},Female,87,Frontal,AP,{labels.replace('-1.0', '2')}\n")
    refuses(lambda: read_chexpert(tmp_path, "train"), r"train.csv: record 1 has Edema '2'; expected 1.0, 0.0, -1.0")
    put(tmp_path / "train.csv", f"{CHEXPERT_HEADER}\nCheXpert-v1.0/x.jpg,Female,87,Frontal,AP,{labels}\n")
    refuses(lambda: read_chexpert(tmp_path, "train"), "record 1 has Path 'CheXpert-v1.0/x.jpg'")


def mimic(folder: Path, splits: str = "d1,50000001,10000001,test\nd2,50000002,10000002,train\n") -> Path:
    def packed(kind: str, text: str) -> None:
        (folder / f"mimic-cxr-2.0.0-{kind}.csv.gz").write_bytes(gzip.compress(text.encode()))

    packed("metadata", "dicom_id,subject_id,study_id,ViewPosition\nd1,10000001,50000001,PA\nd2,10000002,50000002,\n")
    packed("split", "dicom_id,study_id,subject_id,split\n" + splits)
    names = ",".join(sorted(CHEXPERT_OBSERVATIONS))
    values = ",".join("1.0" if name == "Edema" else "" for name in sorted(CHEXPERT_OBSERVATIONS))
    packed("chexpert", f"subject_id,study_id,{names}\n10000001,50000001,{values}\n")
    return folder


def test_mimic_cxr_jpg_joins_its_tables_and_counts_studies_without_labels(tmp_path: Path) -> None:
    test = read_mimic_cxr_jpg(mimic(tmp_path), "test")
    (film,) = test.films
    assert film.path == tmp_path / "files/p10/p10000001/s50000001/d1.jpg"
    assert film.group == "mimic_10000001" and test.num_without_labels == 0
    assert (film.labels["Edema"], film.labels["Pneumonia"], film.labels["view"]) == ("1", "", "PA")
    train = read_mimic_cxr_jpg(tmp_path, "train")
    assert train.num_without_labels == 1 and train.films[0].labels["Edema"] == ""
    refuses(lambda: read_mimic_cxr_jpg(tmp_path, "validate"), "has no films of the split 'validate'")
    mimic(tmp_path, splits="d9,50000001,10000001,test\n")
    refuses(lambda: read_mimic_cxr_jpg(tmp_path), "the split table names d9, the metadata does not")


# --- masks


def test_run_lengths_by_hand() -> None:
    """4 rows, 3 columns: skip 1, draw 2 (column 0, rows 1-2); skip 3, draw 3 (pixels 6-8: column 1 rows 2-3, column 2
    row 0)."""
    expected = np.array([[0, 0, 1], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=bool)
    assert (decode_run_lengths("1 2 3 3", rows=4, columns=3) == expected).all()
    assert not decode_run_lengths("-1", rows=4, columns=3).any()


def encoded(mask: np.ndarray) -> str:
    """Pixel by pixel, by the competition's description; shares nothing with the decoder."""
    code, skipped, drawn = [], 0, 0
    for column in range(mask.shape[1]):
        for row in range(mask.shape[0]):
            if mask[row, column]:
                drawn += 1
            elif drawn:
                code += [skipped, drawn]
                skipped, drawn = 1, 0
            else:
                skipped += 1
    return " ".join(map(str, [*code, *([skipped, drawn] if drawn else [])])) or "-1"


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_undo_an_independent_encoder(seed: int) -> None:
    generator = np.random.default_rng(seed)
    mask = generator.random((int(generator.integers(1, 40)), int(generator.integers(1, 30)))) < generator.random()
    assert (decode_run_lengths(encoded(mask), *mask.shape) == mask).all()


def test_run_lengths_refuse_what_they_cannot_draw() -> None:
    for code, message in (("1 2 3", "pairs"), ("a b", "pairs"), ("-3 2", "pairs"), ("10 3", "runs up to pixel 13")):
        with pytest.raises(ValueError, match=message):
            decode_run_lengths(code, rows=4, columns=3)


def test_siim_joins_the_regions_of_a_film(tmp_path: Path) -> None:
    put(tmp_path / "train-rle.csv", "ImageId, EncodedPixels\n1.2.3,5 2\n1.2.3,90 4\n1.2.4,-1\n")
    put(tmp_path / "dicom" / "a" / "1.2.3.dcm", "")
    first, second = read_siim_pneumothorax(tmp_path)
    assert first.masks == ("5 2", "90 4") and first.pneumothorax and first.path.is_file()
    assert not second.pneumothorax and first.group != second.group
    put(tmp_path / "train-rle.csv", "ImageId, EncodedPixels\n1.2.3,5 2\n1.2.3,-1\n")
    refuses(lambda: read_siim_pneumothorax(tmp_path), "train-rle.csv: record 2 contradicts an earlier row")


# --- tissue and skin


def test_nct_crc(tmp_path: Path) -> None:
    put(tmp_path / "CRC-VAL-HE-7K" / "TUM" / "TUM-TCGA-AAA.tif", "")
    put(tmp_path / "CRC-VAL-HE-7K" / "ADI" / "ADI-TCGA-BBB.tif", "")
    first, second = read_nct_crc(tmp_path)
    assert (first.labels["label"], second.labels["label_text"]) == ("ADI", "colorectal adenocarcinoma epithelium")
    assert first.path.is_file() and first.group != second.group
    put(tmp_path / "CRC-VAL-HE-7K" / "OTHER" / "x.tif", "")
    refuses(lambda: read_nct_crc(tmp_path), "OTHER/x.tif: lies in no folder of ADI")
    refuses(lambda: read_nct_crc(tmp_path, "NCT-CRC-HE-100K"), "NCT-CRC-HE-100K: no such folder")


LC25000_LIST = """stem,filename,label,tissue,local_cluster_label,group_id
colonca7,colonca7.jpeg,colon_aca,colon,0,0
lungaca12,lungaca12.jpeg,lung_aca,lung,3,503
lungaca2,lungaca2.jpeg,lung_aca,lung,3,503
lungn1,lungn1.jpeg,lung_n,lung,3,753
"""


@pytest.mark.parametrize("inside", ["", "lung_colon_image_set"])
def test_lc25000_keeps_the_copies_of_a_tile_together(tmp_path: Path, inside: str) -> None:
    unpacked = tmp_path / inside
    for name in ("colon_image_sets/colon_aca/colonca7", "lung_image_sets/lung_aca/lungaca2"):
        put(unpacked / f"{name}.jpeg", "")
    put(unpacked / "lung_image_sets/lung_aca/lungaca12.jpeg", "")
    put(unpacked / "lung_image_sets/lung_n/lungn1.jpeg", "")
    refuses(lambda: read_lc25000(tmp_path), "so any split would leak; fetch it from github.com/GeorgeBatch")
    put(tmp_path / "lc25000_image_groups.csv", LC25000_LIST)
    found = {picture.path.name: picture for picture in read_lc25000(tmp_path)}
    assert all(picture.path.is_file() for picture in found.values())
    assert {name: picture.group for name, picture in found.items()} == {
        "colonca7.jpeg": "lc25000_colon_aca_tile000",
        "lungaca12.jpeg": "lc25000_lung_aca_tile003",  # as in the kit's lung part
        "lungaca2.jpeg": "lc25000_lung_aca_tile003",
        "lungn1.jpeg": "lc25000_lung_n_tile003",
    }
    assert sorted(found[name].labels["copy"] for name in ("lungaca12.jpeg", "lungaca2.jpeg")) == ["1", "2"]
    assert found["lungn1.jpeg"].labels["label_text"] == "benign lung tissue"
    put(unpacked / "lung_image_sets/lung_n/lungn9.jpeg", "")
    refuses(lambda: read_lc25000(tmp_path), "lungn9.jpeg: is not in lc25000_image_groups.csv")
    put(unpacked / "lung_image_sets/lung_bcca/x.jpeg", "")
    refuses(lambda: read_lc25000(tmp_path), "x.jpeg: lies in no folder of lung_n, lung_aca")


def test_lc25000_says_what_is_missing(tmp_path: Path) -> None:
    refuses(lambda: read_lc25000(tmp_path), "holds neither lung_image_sets nor colon_image_sets; unpack LC25000.zip")
    put(tmp_path / "lung_image_sets/lung_n/lungn1.jpeg", "")
    put(tmp_path / "lc25000_image_groups.csv", LC25000_LIST.replace("lung,3,753", "lung,x,753"))
    refuses(lambda: read_lc25000(tmp_path), "record 4 has local_cluster_label 'x'; expected a number")


def test_ham10000_and_pad_ufes(tmp_path: Path) -> None:
    header = "lesion_id,image_id,dx,dx_type,age,sex,localization"
    put(tmp_path / "HAM10000_metadata.csv", f"{header}\nHAM_1,ISIC_1,bkl,histo,,male,scalp\n")
    put(tmp_path / "HAM10000_images_part_1" / "ISIC_1.jpg", "")
    (lesion,) = read_ham10000(tmp_path)
    assert lesion.path.is_file() and lesion.group == "HAM_1" and lesion.labels["age"] == ""
    put(tmp_path / "HAM10000_metadata.csv", f"{header}\nHAM_1,ISIC_1,wart,histo,80,male,scalp\n")
    refuses(lambda: read_ham10000(tmp_path), "record 1 has dx 'wart'; expected akiec")

    put(
        tmp_path / "metadata.csv",
        "patient_id,lesion_id,smoke,region,diagnostic,img_id\nPAT_1,2,,NECK,BCC,PAT_1_2_3.png\n",
    )
    split = put(tmp_path / "pad_ufes_20_split.tsv", "PATIENT_ID\tSPLIT\nPAT_1\ttest\n")
    (picture,) = read_pad_ufes(tmp_path, split)
    assert picture.group == "pad_PAT_1" and picture.labels["official_split"] == "test"
    put(split, "PATIENT_ID\tSPLIT\nPAT_2\ttest\n")
    refuses(lambda: read_pad_ufes(tmp_path, split), "metadata.csv: record 1 is of a patient whom")
