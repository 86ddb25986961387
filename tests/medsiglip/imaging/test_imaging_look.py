import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from medgemma.nano import NANO_FOLDER as DECODER_FOLDER
from medgemma.prompts.content import pictures_of, study_parts
from medsiglip.cli import main
from medsiglip.imaging import ImageError, Picture, open_images, read_pictures, resize
from medsiglip.imaging.drawing import GAP_PX, MARGIN_PX, Line, save_png, text_block
from medsiglip.imaging.frame import Finding, TechnicalTags
from medsiglip.imaging.look import (
    MAX_PAIRS,
    MAX_VOLUMES,
    Pair,
    View,
    draw,
    draw_pair,
    draw_volume,
    evenly_kept,
    opened,
    volume_heading,
)
from medsiglip.imaging.volumes.presets import ct_rgb
from medsiglip.imaging.volumes.volume import Volume
from medsiglip.nano import NANO_FOLDER as ENCODER_FOLDER

VIEW = View("nano", 112, "huggingface", "gemma3")
SIDE = 448  # 112 px enlarged four times


def noise(*shape):
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


def drawn(items, **options):
    """The sheet of items that all can be shown."""
    problems = []
    sheet = draw(items, VIEW, on_problem=problems.append, **options)
    assert problems == []
    return sheet


def pair_of(pixels, file="film.png"):
    picture = Picture.from_array(pixels, file)
    return Pair(picture, picture)


def blocks(pixels, times):
    """Every pixel as a block of times x times."""
    return np.kron(pixels, np.ones((times, times, 1), np.uint8))


@pytest.fixture
def look(monkeypatch, capsys, tmp_path):
    """Runs the command on --out look.png: (exit status, lines of stderr, the PNG's pixels without its margin)."""

    def run(*words, out=tmp_path / "look.png"):
        monkeypatch.setattr(sys, "argv", ["medsiglip", "look", *map(str, words), "--out", str(out), "--quiet"])
        with pytest.raises(SystemExit) as exited:
            main()
        captured = capsys.readouterr()
        assert captured.out == ""
        inner = slice(MARGIN_PX, -MARGIN_PX)
        pixels = np.asarray(Image.open(out))[inner, inner] if out.is_file() else None
        return exited.value.code or 0, captured.err.splitlines(), pixels

    return run


def model_square(sheet, top=0, side=SIDE):
    """The right-hand square of the row that begins at `top`."""
    return sheet[top : top + side, side + GAP_PX : 2 * side + GAP_PX]


# One row


@pytest.mark.parametrize("policy", ["huggingface", "report", "container"])
@pytest.mark.parametrize("shape", [(300, 300, 3), (90, 200, 3), (700, 400)])
def test_the_right_hand_square_is_what_the_model_sees_pixel_for_pixel(policy, shape):
    pixels = noise(*shape)
    sheet = np.asarray(draw_pair(pair_of(pixels), VIEW._replace(resize_policy=policy)))
    expected = resize(Picture.from_array(pixels).pixels, 112, policy)
    np.testing.assert_array_equal(model_square(sheet), blocks(expected, 4))
    assert sheet.shape[1] == 2 * SIDE + GAP_PX


@pytest.mark.parametrize(("size_px", "side"), [(7, 448), (224, 448), (448, 448), (896, 896), (300, 300)])
def test_the_square_is_enlarged_by_whole_numbers_only(size_px, side):
    pixels = noise(64, 64, 3)
    sheet = np.asarray(draw_pair(pair_of(pixels), VIEW._replace(size_px=size_px)))
    expected = blocks(resize(pixels, size_px, "huggingface"), side // size_px)
    np.testing.assert_array_equal(model_square(sheet, side=side), expected)


def test_the_left_hand_picture_keeps_its_aspect_and_its_pixels_where_it_fits():
    pixels = noise(100, 200, 3)  # twice as large: 200 x 400, in the middle of 448
    sheet = np.asarray(draw_pair(pair_of(pixels), VIEW))
    np.testing.assert_array_equal(sheet[124:324, 24:424], blocks(pixels, 2))
    assert len(np.unique(sheet[:124, :448].reshape(-1, 3), axis=0)) == 1  # nothing but the empty colour


def test_a_large_left_hand_picture_is_reduced_to_the_side():
    pixels = np.full((900, 450, 3), 255, np.uint8)
    sheet = np.asarray(draw_pair(pair_of(pixels), VIEW))
    white = (sheet[:448, :448] == 255).all(axis=2)
    assert white.sum() == 448 * 224
    assert white[:, 112:336].all()


def test_the_left_is_the_own_window_and_the_right_the_policy_of_the_model():
    own, given = Picture.from_array(noise(112, 112), "a.dcm"), Picture.from_array(noise(112, 112, 3), "a.dcm")
    sheet = np.asarray(draw_pair(Pair(own, given), VIEW))
    np.testing.assert_array_equal(sheet[:448, :448], blocks(own.pixels, 4))
    np.testing.assert_array_equal(model_square(sheet), blocks(given.pixels, 4))


# Several


def rows_of(sheet, count):
    """Heights at which the rows begin, from the heights of equal rows."""
    height = (sheet.shape[0] + GAP_PX) / count
    assert height == int(height)
    return [int(height) * i for i in range(count)]


def test_pictures_stand_below_one_another_in_order():
    films = [noise(112, 112, 3) for _ in range(3)]
    films = [film + np.uint8(i) for i, film in enumerate(films)]
    sheet = np.asarray(drawn([pair_of(film) for film in films]))
    for film, top in zip(films, rows_of(sheet, 3), strict=True):
        np.testing.assert_array_equal(model_square(sheet, top), blocks(film, 4))


def test_many_pictures_are_sampled_and_the_sheet_says_so():
    few = drawn([pair_of(noise(20, 20))] * MAX_PAIRS)
    many = drawn(pair_of(noise(20, 20)) for _ in range(100))
    assert many.height > few.height  # one more line
    assert (many.height - few.height) < 40


def test_nothing_to_draw_is_none():
    assert drawn([]) is None


@pytest.mark.parametrize("count", [0, 1, 11, 12, 13, 24, 25, 26, 49, 100, 1000, 1001])
def test_evenly_kept(count):
    kept, came = evenly_kept(iter(range(count)), 12)
    assert came == count
    assert len(kept) == min(count, 12) and kept == sorted(set(kept))
    if count > 12:
        gaps = np.diff(kept)
        assert kept[0] == 0 and kept[-1] >= count * 0.8
        assert gaps.max() <= 2 * gaps.min() + 1


def test_evenly_kept_holds_few():
    class Counted:
        alive = most = 0

        def __init__(self):
            Counted.alive += 1
            Counted.most = max(Counted.most, Counted.alive)

        def __del__(self):
            Counted.alive -= 1

    evenly_kept((Counted() for _ in range(500)), 12)
    assert Counted.most <= 2 * 12 + 2


# Volumes


AXIAL_LPS_MM = np.array([[0, 0, 0.7, 0], [0, 0.8, 0, 0], [2.5, 0, 0, 0], [0, 0, 0, 1.0]])
SAGITTAL_LPS_MM = np.array([[2.5, 0, 0, 0], [0, 0, 0.7, 0], [0, 0.8, 0, 0], [0, 0, 0, 1.0]])


def volume(num_slices=4, unit="HU", affine=AXIAL_LPS_MM, **fields):
    voxels = np.random.default_rng(1).integers(-1000, 1000, (num_slices, 112, 112)).astype(np.int16)
    return Volume(voxels, unit, affine, "/data/ct", "0" * 64, **fields)


def tiles(sheet, columns, count):
    """The pixels of each tile of 224 px, whose rows are as high as a tile with one line of text."""
    sheet = np.asarray(sheet)
    row_height = 224 + GAP_PX // 2 + 19 + GAP_PX
    first = sheet.shape[0] + GAP_PX - row_height * -(-count // columns)
    corners = [(first + row_height * (i // columns), (224 + GAP_PX) * (i % columns)) for i in range(count)]
    return [sheet[top : top + 224, left : left + 224] for top, left in corners]


def test_a_contact_sheet_shows_every_slice_as_the_model_sees_it():
    ct = volume()
    for i, tile in enumerate(tiles(draw_volume(ct, VIEW), columns=4, count=4)):
        np.testing.assert_array_equal(tile, blocks(ct_rgb(ct.voxels[i], "medgemma-1.5"), 2))


def test_a_contact_sheet_of_sampled_slices():
    ct = volume(30)
    sheet = draw_volume(ct, VIEW, num_slices=16, policy="ct-medgemma-1.5")
    # sixteen of thirty: the middles of sixteen equal parts
    indices = [int((part + 0.5) * 30 / 16) for part in range(16)]
    for index, tile in zip(indices, tiles(sheet, columns=4, count=16), strict=True):
        np.testing.assert_array_equal(tile, blocks(ct_rgb(ct.voxels[index], "medgemma-1.5"), 2))


def heading_of(given, **options):
    slices = list(given.pictures(options.pop("preset", None), options.pop("budget", None)))
    return [line.text for line in volume_heading(given, slices, VIEW, **options)]


def test_a_contact_sheet_names_policy_spacing_orientation_and_findings():
    findings = (Finding("gap", "5 mm between slices 2 and 3, 2.5 mm elsewhere", ()),)
    assert heading_of(volume(findings=findings, tags=TechnicalTags(modality="CT"))) == [
        "ct",
        "CT, 4 slices of 112 rows x 112 columns, unit HU, spacing 2.5 x 0.8 x 0.7 mm (slices, rows, columns), "
        "axial (SPL)",
        "what nano sees: all slices; policy ct-medgemma-1.5, resize huggingface to 112 x 112 px (shown x2)",
        "! gap: 5 mm between slices 2 and 3, 2.5 mm elsewhere",
    ]
    lines = heading_of(volume(30, unit="stored"), budget=16)
    assert lines[1].startswith("unknown modality, 30 slices")
    assert lines[2].startswith("what nano sees: 16 of 30 slices, evenly chosen; policy min-max, ")


def test_what_is_warned_of_stands_on_the_sheet():
    axial, sagittal = draw_volume(volume(), VIEW), draw_volume(volume(affine=SAGITTAL_LPS_MM), VIEW)
    assert sagittal.height > axial.height  # the warning that the volume is not axial


def test_a_ct_policy_takes_unknown_values_as_hounsfield_units_and_refuses_others():
    as_ct = draw_volume(volume(unit="unknown"), VIEW, policy="ct-report")
    assert as_ct.tobytes() == draw_volume(volume(), VIEW, policy="ct-report").tobytes()
    assert as_ct.tobytes() != draw_volume(volume(unit="unknown"), VIEW).tobytes()
    with pytest.raises(ImageError, match="Hounsfield"):
        draw_volume(volume(unit="stored", tags=TechnicalTags(modality="MR")), VIEW, policy="ct-report")


@pytest.mark.parametrize("policy", ["full-range", "percentile", "voi:2"])
def test_a_policy_of_films_is_refused_for_a_volume(policy):
    message = f"the policy '{policy}' is for single pictures; for a volume use one of voi, min-max, ct-report, ct-"
    with pytest.raises(ImageError, match=message):
        draw_volume(volume(), VIEW, policy)


def test_what_cannot_be_shown_is_reported_and_the_others_are_shown():
    problems, film = [], noise(112, 112, 3)
    strip = Picture.from_array(np.zeros((2, 40_000), np.uint8), "strip.png")
    items = [volume(unit="stored", tags=TechnicalTags(modality="MR")), Pair(strip, strip), pair_of(film)]
    view = VIEW._replace(resize_policy="container-medsiglip")
    sheet = draw(items, view, policy="ct-report", on_problem=problems.append)
    assert [problem.file for problem in problems] == ["/data/ct", "strip.png"]
    assert problems[1].reason.startswith("2 x 40000 pixels padded to a square of 40000 are too many; ")
    np.testing.assert_array_equal(model_square(np.asarray(sheet)), blocks(film, 4))


def test_pictures_and_volumes_on_one_sheet():
    film = noise(112, 112, 3)
    alone, one = drawn([pair_of(film)]), draw_volume(volume(), VIEW)
    sheet = np.asarray(drawn([volume(), pair_of(film), volume()]))
    np.testing.assert_array_equal(sheet[: alone.height, : alone.width], np.asarray(alone))
    for top in (alone.height + GAP_PX, alone.height + one.height + 2 * GAP_PX):
        np.testing.assert_array_equal(sheet[top : top + one.height, : one.width], np.asarray(one))


def test_many_volumes_are_left_out_and_the_sheet_says_so():
    one = draw_volume(volume(1), VIEW)
    sheet = drawn([volume(1)] * (MAX_VOLUMES + 1))
    assert sheet.height > MAX_VOLUMES * (one.height + GAP_PX)
    assert sheet.height < (MAX_VOLUMES + 1) * one.height


# Text


@pytest.mark.parametrize(
    "name", ["a" * 500, "two\nlines.png", "tab\t\x00.png", "\udcff.png", "肺 👁.png", "", " ", "a b " * 200]
)
def test_any_file_name_is_drawn_inside_its_column(name):
    block = np.asarray(text_block([Line(name, (255, 255, 255))], 200))
    assert block.shape[1] == 200
    row = np.asarray(draw_pair(pair_of(noise(8, 8), name or "x"), VIEW))
    assert row.shape[1] == 2 * SIDE + GAP_PX


@pytest.mark.parametrize("text", ["word " * 10, "w" * 60, "short " + "w" * 60])
def test_a_long_line_is_wrapped_not_cut(text):
    one, two = text_block([Line(text)], 10_000), text_block([Line(text)], 200)
    assert two.height > one.height
    ink = lambda block: (np.asarray(block).max(axis=2) > 100).sum()  # noqa: E731
    assert ink(two) == pytest.approx(ink(one), rel=0.1)


@pytest.mark.parametrize("character", ["\n", "\t", "\x00", "\x1b", "\udcff", "\u202e"])
def test_control_characters_in_a_name_are_question_marks(character):
    drawn_as = text_block([Line(f"two{character}lines.png")], 400)
    assert drawn_as.tobytes() == text_block([Line("two?lines.png")], 400).tobytes()


# The command


FILMS = [
    "CXR_SIIM_JPEGbaseline_MONO2.dcm",
    "RG1_J2KI.dcm",
    "MG1_J2KI.dcm",
    "US1_J2KI.dcm",
    "MR1_J2KI.dcm",
    "CT1_RLE.dcm",
]


@pytest.mark.kit
@pytest.mark.parametrize("name", FILMS)
def test_look_at_real_films(look, kit, name):
    path = kit / "dicom-real" / "images" / name
    status, err, sheet = look(path)
    assert (status, err) == (0, [])
    assert sheet.shape[1] == 2 * SIDE + GAP_PX
    [picture] = read_pictures(path)
    np.testing.assert_array_equal(model_square(sheet), blocks(resize(picture.pixels, 112, "huggingface"), 4))


@pytest.mark.kit
def test_look_at_every_frame_of_a_colour_ultrasound(look, kit):
    path = kit / "dicom-real" / "images" / "US_palette_RLE_2frame.dcm"
    status, _, sheet = look(path)
    assert status == 0
    for picture, top in zip(read_pictures(path), rows_of(sheet, 2), strict=True):
        np.testing.assert_array_equal(model_square(sheet, top), blocks(resize(picture.pixels, 112, "huggingface"), 4))


@pytest.mark.kit
def test_look_with_another_policy_resize_and_size(look, kit):
    path = kit / "dicom-real" / "images" / "RG1_J2KI.dcm"
    _, _, sheet = look(path, "--policy", "full-range", "--resize", "report", "--size-px", "224")
    [given] = read_pictures(path, "full-range")
    np.testing.assert_array_equal(model_square(sheet), blocks(resize(given.pixels, 224, "report"), 2))
    [own] = read_pictures(path)
    np.testing.assert_array_equal(sheet[:448, :448], np.asarray(draw_pair(Pair(own, own), VIEW))[:448, :448])
    assert not np.array_equal(own.pixels, given.pixels)


@pytest.mark.kit
def test_frames_stay_beside_their_own_window_when_a_file_between_them_fails(look, kit, tmp_path):
    folder = kit / "dicom-real" / "images"
    names = ["CT1_RLE.dcm", "RG1_J2KI.dcm", "CT_CQ500_J2KR.dcm"]
    status, err, sheet = look(*(folder / name for name in names), "--policy", "ct-report")
    assert (status, len(err)) == (1, 2)
    assert err[0].startswith(f"error: {folder / names[1]}: ")
    for name, top in zip((names[0], names[2]), rows_of(sheet, 2), strict=True):
        [own], [given] = read_pictures(folder / name), read_pictures(folder / name, "ct-report")
        row = np.asarray(draw_pair(Pair(own, given), VIEW))
        np.testing.assert_array_equal(sheet[top : top + row.shape[0]], row)
        assert not np.array_equal(own.pixels, given.pixels)


@pytest.mark.kit
def test_look_at_a_ct_series_is_a_contact_sheet(look, kit, tmp_path):
    slices = [kit / "dicom-real" / "images" / f"CT_series3_0{i}.dcm" for i in (3, 1, 2)]
    for number, path in enumerate(slices):
        (tmp_path / "ct").mkdir(exist_ok=True)
        (tmp_path / "ct" / f"{number}.dcm").write_bytes(path.read_bytes())
    status, err, sheet = look(tmp_path / "ct", "--policy", "ct-report")
    overlap = f"note: {tmp_path / 'ct'}: slices 1.25 mm thick overlap: the step is 1 mm"
    assert (status, err) == (0, [overlap])
    shown = tiles(sheet, columns=3, count=3)
    # slice 1 is the one lowest in the patient
    z_mm = {path: float(pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2]) for path in slices}
    for path, tile in zip(sorted(slices, key=z_mm.__getitem__), shown, strict=True):
        stored = pydicom.dcmread(path).pixel_array.astype(np.int16)
        inside = stored > -2000  # Pixel Padding Value
        given = resize(ct_rgb(np.where(inside, stored - 1024, -3000), "report"), 112, "huggingface")
        np.testing.assert_array_equal(tile, blocks(given, 2))


@pytest.mark.kit
def test_a_ct_is_shown_as_the_named_model_will_see_it(look, kit, tmp_path):
    """An encoder as `classify` reads the files, a decoder as `ask` puts them into its prompt."""
    (tmp_path / "ct").mkdir()
    for number in (1, 2, 3):
        path = kit / "dicom-real" / "images" / f"CT_series3_0{number}.dcm"
        (tmp_path / "ct" / path.name).write_bytes(path.read_bytes())
    (ct,) = open_images(tmp_path / "ct")
    # in the volume's order, which is the tiles'
    by_position = sorted((read_pictures(p)[0] for p in (tmp_path / "ct").iterdir()), key=lambda p: p.tags.plane[0][2])
    for model, seen in (
        (ENCODER_FOLDER, by_position),
        (DECODER_FOLDER, pictures_of(study_parts([ct]))),
    ):
        _, _, sheet = look(tmp_path / "ct", "--model", model)
        for picture, tile in zip(seen, tiles(sheet, columns=3, count=3), strict=True):
            np.testing.assert_array_equal(tile, blocks(resize(picture.pixels, 112, "huggingface"), 2))
    assert {picture.policy for picture in by_position} == {"voi"}
    assert {picture.policy for picture in seen} == {"ct-medgemma-1.5"}


@pytest.mark.kit
def test_look_at_a_nifti_volume(look, kit):
    path = kit / "wsi-nifti-real" / "images" / "totalseg_example_ct_sm.nii.gz"
    status, err, sheet = look(path, "--slices", "9", "--policy", "ct-medgemma-1.5")
    assert (status, err) == (0, [])
    shown = tiles(sheet, columns=4, count=9)
    assert sheet.shape[1] == 4 * 224 + 3 * GAP_PX
    import nibabel

    image = nibabel.as_closest_canonical(nibabel.load(path))  # right, anterior, superior
    values = np.asarray(image.dataobj)
    for part, tile in enumerate(shown):
        index = int((part + 0.5) * 30 / 9)
        axial = values[::-1, ::-1, index].T  # rows towards posterior, columns towards the patient's left
        given = resize(ct_rgb(np.rint(axial).astype(np.int16), "medgemma-1.5"), 112, "huggingface")
        np.testing.assert_array_equal(tile, blocks(given, 2))


@pytest.mark.kit
def test_a_png_holds_pixels_only_and_no_patient_data(look, kit, tmp_path):
    named = kit / "dicom-real" / "images" / "RG1_J2KI.dcm"
    path = tmp_path / "film.dcm"
    path.write_bytes(named.read_bytes())
    out = tmp_path / "look.png"
    look(path, out=out)
    image = Image.open(out)
    assert image.info == {} and image.getexif() == {} and image.mode == "RGB"
    kinds = set()
    data, at = out.read_bytes(), 8
    while at < len(data):
        kinds.add(data[at + 4 : at + 8])
        at += int.from_bytes(data[at : at + 4], "big") + 12
    assert kinds == {b"IHDR", b"IDAT", b"IEND"}
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "SOPInstanceUID"):
        assert str(dataset.get(keyword, "")) != ""
        assert str(dataset[keyword].value).encode() not in data


def bad_files(folder):
    (folder / "notes.dcm").write_text("The patient was well.\n")
    Image.fromarray(noise(30, 40, 3)).save(folder / "film.png")
    (folder / "cut.png").write_bytes((folder / "film.png").read_bytes()[:200])


def test_a_bad_file_is_one_line_and_the_others_are_shown(look, tmp_path):
    bad_files(tmp_path)
    status, err, sheet = look(*(tmp_path / name for name in ("notes.dcm", "film.png", "cut.png", "none.png")))
    assert status == 1
    assert [line.split(": ")[1] for line in err[:-1]] == [
        str(tmp_path / n) for n in ("notes.dcm", "cut.png", "none.png")
    ]
    assert err[-1] == "3 input(s) could not be handled; any others were"
    np.testing.assert_array_equal(model_square(sheet), blocks(resize(noise(30, 40, 3), 112, "huggingface"), 4))


def test_only_bad_files_write_nothing(look, tmp_path):
    bad_files(tmp_path)
    status, err, sheet = look(tmp_path / "notes.dcm")
    assert (status, len(err), sheet) == (1, 2, None)
    assert not list(tmp_path.glob("look.png*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--resize", "area"],
            "resize policy 'area' is unknown; choose one of huggingface, huggingface-bicubic, report, ",
        ),
        (["--policy", "bright"], "unknown pixel policy 'bright'"),
        (["--model", "my model"], "model my model: no such folder and not a Hub id"),
    ],
)
def test_wrong_options_are_one_line(look, tmp_path, words, message):
    bad_files(tmp_path)
    status, err, _ = look(tmp_path / "film.png", *words)
    assert (status, len(err)) == (1, 1)
    assert err[0].startswith(f"error: {message}")


@pytest.mark.parametrize("name", ["look.jpg", "look", "."])
def test_an_out_that_is_no_png_is_refused_before_anything_is_read(look, tmp_path, name):
    status, err, _ = look(tmp_path / "none.dcm", out=tmp_path / name)
    assert (status, len(err)) == (1, 1)
    assert err[0].endswith("give the name of a PNG file, such as look.png")


def test_a_png_appears_under_its_name_only_when_it_is_whole(tmp_path, monkeypatch):
    sheet, out = Image.new("RGB", (9, 9)), tmp_path / "new" / "look.png"

    def cut_off(image, file, *_):
        Path(file).write_bytes(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", cut_off)
        with pytest.raises(OSError, match="No space"):
            save_png(sheet, out)
    assert list(out.parent.iterdir()) == []
    save_png(sheet, out)
    assert [path.name for path in out.parent.iterdir()] == ["look.png"]


def test_min_max_is_a_policy_of_volumes(tmp_path):
    bad_files(tmp_path)
    problems = []
    assert list(opened([str(tmp_path / "film.png")], "min-max", on_problem=problems.append)) == []
    assert [str(problem) for problem in problems] == [
        f"{tmp_path / 'film.png'}: min-max is a policy of volumes; use voi or full-range"
    ]


def test_look_imports_no_network(repository, tmp_path):
    bad_files(tmp_path)
    script = """
import sys
from medgemma.nano import NANO_FOLDER as DECODER_FOLDER
from medgemma.prompts.content import pictures_of, study_parts
from medsiglip.cli import main
sys.argv = ["medsiglip", "look", "film.png", "--out", "look.png", "--quiet"]
try:
    main()
except SystemExit as exited:
    assert not exited.code
heavy = {"torch", "transformers", "monai"} & sys.modules.keys()
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "look.png").is_file()
