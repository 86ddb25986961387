"""Volumes read from files that were written at a known affine, against SimpleITK, scipy and single slices."""

import io
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK
from pydicom import dcmread, dcmwrite
from scipy.ndimage import map_coordinates

from medsiglip.imaging.dicom.lut import Window
from medsiglip.imaging.dicom.padding import Padding
from medsiglip.imaging.frame import Finding, ImageError, TechnicalTags
from medsiglip.imaging.picture import Square
from medsiglip.imaging.resize import resize
from medsiglip.imaging.volumes.geometry import LPS_TO_RAS, axis_codes, orientation, turn_to
from medsiglip.imaging.volumes.presets import ct_rgb
from medsiglip.imaging.volumes.read_series import read_volume, series_pictures
from medsiglip.imaging.volumes.rendering import SliceDisplay
from medsiglip.imaging.volumes.series import Series, group_series
from medsiglip.imaging.volumes.volume import Volume
from medsiglip.imaging.workers.pool import DecoderPool
from tests.medsiglip.imaging.dicom_writer import lut
from tests.medsiglip.imaging.made_series import CT_IMAGE_STORAGE, InProcessPool, ct_file, headers_of, write_series

SHAPE = (30, 12, 16)


WINDOW = Window(40.0, 400.0, "LINEAR")


def made_affine(slice_step, row_step, column_step, origin=(-11.0, 7.5, 31.0)):
    affine = np.eye(4)
    affine[:3] = np.stack([slice_step, row_step, column_step, origin], axis=1)
    return affine


def rotated(affine, degrees):
    """The affine turned about the axes x, y and z."""
    turned = affine.copy()
    for axis, angle in enumerate(np.radians(degrees)):
        rotation = np.eye(3)
        one, other = [n for n in range(3) if n != axis]
        rotation[[one, other], [one, other]] = np.cos(angle)
        rotation[one, other], rotation[other, one] = -np.sin(angle), np.sin(angle)
        turned[:3] = rotation @ turned[:3]
    return turned


AXIAL = made_affine((0, 0, 2.5), (0, 0.7, 0), (0.6, 0, 0))
AFFINES = {
    "axial": AXIAL,
    "oblique": rotated(AXIAL, (12, -7, 25)),
    "coronal": made_affine((0, 3, 0), (0, 0, -0.7), (0.6, 0, 0)),
    "sagittal": made_affine((-3, 0, 0), (0, 0, -0.7), (0, 0.6, 0)),
    "tilted": made_affine((0, 0.9, 2.5), (0, 0.7, 0), (0.6, 0, 0)),
}


def made_hu(shape=SHAPE, seed=1):
    """Smooth in every direction, so that a swapped or flipped axis shows, with noise on top."""
    slices, rows, columns = np.indices(shape)
    noise = np.random.default_rng(seed).integers(-20, 20, shape)
    return (40 * slices - 17 * rows + 29 * columns - 900 + noise).astype(np.int16)


def only_series(paths, pool=None) -> Series:
    (series,) = group_series(headers_of(paths, pool))
    return series


def read(paths) -> Volume:
    return read_volume(only_series(paths), InProcessPool())


def made_volume(voxels=None, affine=AXIAL, unit="HU", **fields):
    voxels = made_hu() if voxels is None else voxels
    tags = TechnicalTags(modality="CT" if unit == "HU" else None)
    return Volume(voxels, unit, affine, "scan", "0" * 64, **{"tags": tags, **fields})


def itk_affine(image):
    """(slice, row, column, 1) to LPS, from SimpleITK's (column, row, slice) geometry."""
    direction = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction[:, ::-1], image.GetOrigin()
    return affine


def itk_series(folder):
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


# Against SimpleITK


@pytest.mark.parametrize("name", AFFINES)
def test_voxels_and_affine_are_those_that_were_written(tmp_path, name):
    voxels = made_hu()
    volume = read(write_series(tmp_path, voxels, AFFINES[name]))
    np.testing.assert_array_equal(volume.voxels, voxels)
    np.testing.assert_allclose(volume.affine_lps_mm, AFFINES[name], atol=1e-5)
    assert volume.voxels.dtype == np.int16 and volume.unit == "HU"
    assert volume.values_hu is volume.voxels
    assert volume.file == str(tmp_path)
    assert len(set(volume.files)) == 30


@pytest.mark.parametrize("name", ["axial", "oblique", "coronal", "sagittal"])
def test_simpleitk_reads_the_same_series(tmp_path, name):
    volume = read(write_series(tmp_path, made_hu(), AFFINES[name]))
    image = itk_series(tmp_path)
    np.testing.assert_array_equal(volume.voxels, SimpleITK.GetArrayFromImage(image))
    np.testing.assert_allclose(volume.affine_lps_mm, itk_affine(image), atol=1e-4)
    np.testing.assert_allclose(volume.spacing_mm[::-1], image.GetSpacing(), atol=1e-4)


def test_simpleitk_reads_a_tilted_series_upright_and_ours_is_sheared(tmp_path):
    volume = read(write_series(tmp_path, made_hu(), AFFINES["tilted"]))
    image = itk_series(tmp_path)
    np.testing.assert_array_equal(volume.voxels, SimpleITK.GetArrayFromImage(image))
    # SimpleITK knows no shear: its last slice lies 29 * 0.9 mm beside its own header
    beside = (volume.affine_lps_mm - itk_affine(image)) @ [29, 0, 0, 1]
    assert abs(beside[1]) > 20
    last = dcmread(volume.files[-1])
    np.testing.assert_allclose((volume.affine_lps_mm @ [29, 0, 0, 1])[:3], last.ImagePositionPatient, atol=1e-4)
    np.testing.assert_allclose((volume.affine_lps_mm @ [0, 0, 0, 1])[:3], image.GetOrigin(), atol=1e-4)
    (finding,) = volume.findings
    assert finding.kind == "gantry-tilt" and "19.8 degrees" in finding.text  # atan(0.9 / 2.5)


def test_reversed_numbers_change_nothing(tmp_path):
    forwards = read(write_series(tmp_path / "a", made_hu(), AXIAL, seed=1))
    backwards = read(write_series(tmp_path / "b", made_hu(), AXIAL, seed=2)[::-1])
    np.testing.assert_array_equal(forwards.voxels, backwards.voxels)
    np.testing.assert_array_equal(forwards.affine_lps_mm, backwards.affine_lps_mm)


def test_a_missing_slice_and_a_copy(tmp_path):
    paths = write_series(tmp_path, made_hu(), AXIAL, skip=(7,))
    copy = tmp_path / "copy.dcm"
    copy.write_bytes(paths[3].read_bytes())
    volume = read([*paths, copy])
    np.testing.assert_array_equal(volume.voxels, np.delete(made_hu(), 7, axis=0))
    assert [finding.kind for finding in volume.findings] == ["duplicate", "gap"]
    np.testing.assert_allclose(volume.spacing_mm, (2.5, 0.7, 0.6))


def test_the_kits_three_slices(kit):
    paths = sorted((kit / "dicom-real" / "images").glob("CT_series3_0*.dcm"))
    assert len(paths) == 3
    volume = read(paths)
    reader = SimpleITK.ImageSeriesReader()
    names = sorted(map(str, paths), key=lambda name: float(dcmread(name).ImagePositionPatient[2]))
    reader.SetFileNames(names)
    image = reader.Execute()
    np.testing.assert_array_equal(volume.voxels, SimpleITK.GetArrayFromImage(image))
    np.testing.assert_allclose(volume.affine_lps_mm, itk_affine(image), atol=1e-3)
    assert volume.files == tuple(names)
    assert (volume.orientation, volume.axis_codes, volume.unit) == ("axial", "SPL", "HU")


# Reading


def test_real_workers_give_the_same_volume(tmp_path):
    paths = write_series(tmp_path, made_hu(), AXIAL)
    with DecoderPool(2) as pool:
        series = only_series(paths, pool)
        volume = read_volume(series, pool)
        shown = list(series_pictures(series, pool, "report", 5, square=Square(32, "report")))
    np.testing.assert_array_equal(volume.voxels, made_hu())
    assert volume.sha256 == read(paths).sha256
    for index, picture in zip((3, 9, 15, 21, 27), shown, strict=True):
        assert picture.frame == index
        np.testing.assert_array_equal(picture.pixels, resize(ct_rgb(made_hu()[index], "report"), 32, "report"))


@pytest.mark.parametrize("fractional", [0, 4])
def test_one_slice_with_a_fractional_slope_makes_the_volume_float(tmp_path, fractional):
    stored = np.arange(12, dtype=np.int16).reshape(3, 4)
    paths = []
    for index in range(5):
        paths.append(tmp_path / f"{index}.dcm")
        slope = 0.5 if index == fractional else 1
        paths[-1].write_bytes(ct_file(stored, (0, 0, index), RescaleSlope=slope, RescaleIntercept=-2))
    volume = read(paths)
    assert volume.voxels.dtype == np.float32
    for index in range(5):
        np.testing.assert_array_equal(volume.voxels[index], stored * (0.5 if index == fractional else 1) - 2)


def test_a_slice_beyond_int16_makes_the_volume_float(tmp_path):
    stored = np.full((3, 4), 32000, np.int16)
    paths = [tmp_path / f"{index}.dcm" for index in range(3)]
    for index, path in enumerate(paths):
        path.write_bytes(ct_file(stored, (0, 0, index), RescaleIntercept=1000 if index == 2 else -1024))
    volume = read(paths)
    assert volume.voxels.dtype == np.float32
    assert [plane[0, 0] for plane in volume.voxels] == [30976, 30976, 33000]


def test_a_damaged_slice_is_named_and_nothing_is_made_up(tmp_path):
    paths = write_series(tmp_path, made_hu(), AXIAL)
    series = only_series(paths)
    paths[5].write_bytes(paths[5].read_bytes()[:-100])
    with pytest.raises(ImageError) as caught:
        read_volume(series, InProcessPool())
    assert caught.value.file == str(paths[5])
    assert "truncated" in caught.value.reason and "the series" in caught.value.reason
    with pytest.raises(ImageError, match="gap"):
        list(series_pictures(series, InProcessPool(), "report"))


def test_a_slice_of_another_size_than_its_header_said_is_refused(tmp_path):
    paths = write_series(tmp_path, made_hu(), AXIAL)
    series = only_series(paths)
    paths[5].write_bytes(ct_file(np.zeros((12, 8), np.int16), (0, 0, 0)))
    with pytest.raises(ImageError, match=r"12 rows x 8 columns, its header says 12 x 16"):
        read_volume(series, InProcessPool())
    with pytest.raises(ImageError, match=r"12 rows x 8 columns, its header says 12 x 16"):
        list(series_pictures(series, InProcessPool(), "report"))


def enhanced_file(voxels_hu, heights_mm):
    """One enhanced multi-frame CT, its frames at the given heights."""
    from pydicom import Dataset, Sequence

    dataset = dcmread(io.BytesIO(ct_file(voxels_hu[0] + 1024, (0, 0, 0))))
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = f"{CT_IMAGE_STORAGE}.1"
    dataset.NumberOfFrames, dataset.PixelData = len(voxels_hu), (voxels_hu + 1024).astype("<i2").tobytes()
    shared, measures, orientation_item, rescale = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.5], 1
    orientation_item.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 1, -1024, "HU"
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation_item])
    shared.PixelValueTransformationSequence = Sequence([rescale])
    frames = []
    for height in heights_mm:
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, height]
        frame.PlanePositionSequence = Sequence([position])
        frames.append(frame)
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        delattr(dataset, keyword)
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def test_the_frames_of_an_enhanced_file_are_sorted_too(tmp_path):
    voxels = made_hu((4, 6, 5))
    path = tmp_path / "enhanced.dcm"
    path.write_bytes(enhanced_file(voxels[[2, 0, 3, 1]], [4, 0, 6, 2]))
    series = only_series([path])
    volume = read_volume(series, InProcessPool())
    np.testing.assert_array_equal(volume.voxels, voxels)
    np.testing.assert_allclose(volume.spacing_mm, (2, 0.5, 0.5))
    assert volume.file == str(path) and volume.files == (str(path),)
    pool = InProcessPool()
    shown = list(series_pictures(series, pool, "report", 2))
    assert pool.decoded == [str(path)]
    for index, picture in zip((1, 3), shown, strict=True):
        np.testing.assert_array_equal(picture.pixels, ct_rgb(voxels[index], "report"))


@pytest.mark.parametrize("what", ["TemporalPositionIndex", "FrameAcquisitionNumber", "EffectiveEchoTime"])
def test_one_time_point_of_an_enhanced_file_is_the_volume(tmp_path, what):
    from pydicom import Dataset, Sequence

    voxels = made_hu((6, 6, 5))
    dataset = dcmread(io.BytesIO(enhanced_file(voxels, [0, 0, 2, 2, 4, 4])))
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        item = Dataset()
        setattr(item, what, 2 - number % 2)  # the second frame of each pair comes first in time
        setattr(frame, "MREchoSequence" if what == "EffectiveEchoTime" else "FrameContentSequence", Sequence([item]))
    dcmwrite(tmp_path / "enhanced.dcm", dataset)
    series = only_series([tmp_path / "enhanced.dcm"])
    np.testing.assert_array_equal(read_volume(series, InProcessPool()).voxels, voxels[1::2])
    assert [(finding.kind, finding.text[:19]) for finding in series.findings] == [
        ("other-acquisition", "3 images left out: ")
    ]


# Pictures


def same_pictures(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        fields = [(each.file, each.frame, each.sha256, each.policy, each.tags) for each in (one, other)]
        assert fields[0] == fields[1]


@pytest.mark.filterwarnings("ignore:the preset google-container")
@pytest.mark.parametrize("budget", [None, 7, 100])
@pytest.mark.parametrize("sampling", ["even", "google"])
@pytest.mark.parametrize("preset", [None, "report", "medgemma-1.5", "google-container", "min-max", "voi"])
def test_a_series_shows_what_its_volume_shows(tmp_path, preset, sampling, budget):
    paths = write_series(tmp_path, made_hu(), AXIAL)
    series = only_series(paths)
    volume = read_volume(series, InProcessPool())
    expected = list(volume.pictures(preset, budget, sampling))
    same_pictures(series_pictures(series, InProcessPool(), preset, budget, sampling), expected)
    square = Square(20, "huggingface")
    squares = series_pictures(series, InProcessPool(), preset, budget, sampling, square)
    for picture, smaller in zip(expected, squares, strict=True):
        np.testing.assert_array_equal(smaller.pixels, resize(picture.pixels, 20, "huggingface"))
        assert (smaller.square, smaller.frame, smaller.policy) == (square, picture.frame, picture.policy)


def test_slices_that_are_not_shown_are_not_read(tmp_path):
    paths = write_series(tmp_path, made_hu(), AXIAL)
    series = only_series(paths)
    for preset in ("report", "voi"):
        pool = InProcessPool()
        list(series_pictures(series, pool, preset, 3))
        assert pool.decoded == [series.files[index] for index in (5, 15, 25)]
    pool = InProcessPool()
    list(series_pictures(series, pool, "min-max", 3))
    assert pool.decoded == list(series.files)


def test_pictures_of_a_ct_by_hand():
    voxels = np.array([[[-1225, 1025], [40, 0]], [[0, 80], [215, -135]]], np.int16)
    first, second = made_volume(voxels).pictures("report")
    assert first.pixels.tolist() == [[[0, 0, 0], [255, 255, 255]], [[143, 128, 128], [139, 98, 0]]]
    assert second.pixels[0, 1].tolist() == [148, 157, 255]  # 1305 / 2250, 215 / 350, 80 / 80 of 255
    assert [(first.frame, first.file, first.policy), (second.frame, second.file, second.policy)] == [
        (0, "scan", "ct-report"),
        (1, "scan", "ct-report"),
    ]
    np.testing.assert_allclose(second.tags.plane.position_mm, (-11, 7.5, 33.5))
    assert second.tags.spacing_mm == pytest.approx((0.7, 0.6))
    assert first.modality == "CT"


def test_an_mr_is_stretched_over_the_whole_volume():
    voxels = np.array([[[0, 100]], [[50, 200]]], np.int16)
    first, second = made_volume(voxels, unit="stored").pictures()
    # 100 / 200 is 127.5 and goes to the even 128; 50 / 200 is 63.75
    assert first.pixels[:, :, 1].tolist() == [[0, 128]] and second.pixels[:, :, 2].tolist() == [[64, 255]]
    assert first.policy == "min-max"


def test_small_values_of_monochrome1_are_bright():
    tags = TechnicalTags(modality="MR", photometric_interpretation="MONOCHROME1")
    voxels = np.array([[[0.0, 10.0, np.nan]]], np.float32)
    volume = made_volume(voxels, unit="stored", tags=tags)
    assert next(volume.pictures()).pixels[0, :, 0].tolist() == [255, 0, 0]
    constant = made_volume(np.full((1, 2, 2), 7, np.int16), unit="stored", tags=tags)
    assert not next(constant.pictures()).pixels.any()


def test_padding_is_black_and_no_part_of_the_range():
    voxels = np.array([[[-2000, 0, 100, 50]]], np.int16)
    shown = made_volume(voxels, unit="stored", displays=(SliceDisplay(None, Padding(-2000, -2000)),)).pictures()
    assert next(shown).pixels[0, :, 0].tolist() == [0, 0, 255, 128]
    white = made_volume(np.array([[[3000, 80]]], np.int16), displays=(SliceDisplay(None, Padding(3000, 3000)),))
    assert next(white.pictures()).pixels[0, :, 2].tolist() == [0, 255]


def test_a_range_of_padding_is_padding_whole():
    voxels = np.array([[[-2000, -1500, 0, 100]]], np.int16)
    shown = made_volume(voxels, unit="stored", displays=(SliceDisplay(None, Padding(-2000, -1500)),)).pictures()
    assert next(shown).pixels[0, :, 0].tolist() == [0, 0, 0, 255]


def test_voi_is_each_slices_own_window():
    voxels = np.array([[[-10, 0, 5]], [[0, 50, 100]]], np.int16)
    displays = (SliceDisplay(Window(0.5, 11.0, "LINEAR")), SliceDisplay(Window(50.0, 101.0, "LINEAR")))
    first, second = made_volume(voxels, displays=displays).pictures("voi")
    # LINEAR: ((v - (c - 0.5)) / (w - 1) + 0.5) * 255
    assert first.pixels[0, :, 0].tolist() == [0, 128, 255]
    assert second.pixels[0, :, 0].tolist() == [1, 129, 255]
    assert first.policy == "voi"


VOIS = {
    "LINEAR": {},
    "LINEAR_EXACT": {"VOILUTFunction": "LINEAR_EXACT"},
    "SIGMOID": {"VOILUTFunction": "SIGMOID"},
    "second window, the first without width": {"WindowCenter": [0, 30], "WindowWidth": [0, 200]},
    "table": {"VOILUTSequence": lut(-300, [n * n // 160 for n in range(800)], 12)},
    "table before window": {"VOILUTSequence": lut(100, [200, 50], 8), "WindowCenter": 1, "WindowWidth": 2},
}


@pytest.mark.parametrize("name", VOIS)
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_voi_of_a_volume_is_voi_of_its_files(tmp_path, name, photometric):
    voxels = made_hu((4, 6, 5)) + 900  # inside most of the windows
    write_series(tmp_path, voxels, AXIAL, PhotometricInterpretation=photometric, **VOIS[name])
    with DecoderPool(1) as pool:
        series = only_series(sorted(tmp_path.iterdir()), pool)
        expected = [next(iter(pool.pictures([item.source], "voi")))[0].pixels for item in series.slices]
        volume = read_volume(series, pool)
    assert len(np.unique(expected)) >= (2 if name == "table before window" else 20)
    for shown in (volume.pictures("voi"), volume.reoriented(volume.axis_codes).pictures("voi")):
        for picture, pixels in zip(shown, expected, strict=True):
            assert picture.policy == "voi"
            np.testing.assert_array_equal(picture.pixels, pixels)


def test_frames_of_an_enhanced_file_have_their_own_windows(tmp_path):
    from pydicom import Dataset, Sequence

    voxels = made_hu((3, 6, 5)) + 900
    dataset = dcmread(io.BytesIO(enhanced_file(voxels, [0, 2, 4])))
    for frame, center in zip(dataset.PerFrameFunctionalGroupsSequence, (40, 90, None), strict=True):
        window = Dataset()
        if center is not None:
            window.WindowCenter, window.WindowWidth, window.VOILUTFunction = center, 300, "SIGMOID"
            frame.FrameVOILUTSequence = Sequence([window])
    del dataset.WindowCenter, dataset.WindowWidth
    dcmwrite(tmp_path / "enhanced.dcm", dataset)
    with DecoderPool(1) as pool:
        series = only_series([tmp_path / "enhanced.dcm"], pool)
        (expected,) = pool.pictures([series.slices[0].source], "voi")
        shown = list(series_pictures(series, pool, "voi"))
    assert [display.voi.center for display in series.displays] == [40, 90, 40]  # a frame without one: the first's
    for picture, single in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(picture.pixels, single.pixels)


def test_voi_without_a_window_is_the_volumes_range():
    voxels = np.array([[[0, 50]], [[100, 200]]], np.int16)
    (first, second) = made_volume(voxels).pictures("voi")
    assert [first.policy, second.policy] == ["min-max", "min-max"]
    assert second.pixels[0, :, 0].tolist() == [128, 255]


def test_a_ct_preset_needs_hounsfield_units():
    with pytest.raises(ImageError, match=r"scan: the file does not say .* Volume\.as_hu\(\)"):
        made_volume(unit="unknown").pictures("report")
    with pytest.raises(ImageError, match="not Hounsfield units; use the preset min-max or voi"):
        made_volume(unit="stored").pictures("medgemma-1.5")
    with pytest.raises(ImageError, match="does not say"):
        _ = made_volume(unit="unknown").values_hu
    declared = made_volume(unit="unknown").as_hu()
    assert next(declared.pictures()).policy == "ct-medgemma-1.5"
    mr = made_volume(unit="stored", tags=TechnicalTags(modality="MR"))
    with pytest.raises(ImageError, match="a MR volume has no Hounsfield units"):
        mr.as_hu()


def test_unknown_names_are_refused_at_once():
    with pytest.raises(ValueError, match="'lung'; use one of report, medgemma-1.5, google-container, min-max, voi"):
        made_volume().pictures("lung")
    with pytest.raises(ValueError, match="budget"):
        made_volume().pictures(budget=0)
    with pytest.raises(ValueError, match="use one of even, google"):
        made_volume().pictures(budget=5, sampling="random")


@pytest.mark.parametrize(("name", "found"), [("coronal", "coronal"), ("sagittal", "sagittal")])
def test_slices_that_are_not_axial_warn(name, found):
    for preset in ("report", "min-max"):
        with pytest.warns(UserWarning, match=rf"scan: the slices are {found}, .* Volume\.reoriented\('SPL'\)"):
            made_volume(affine=AFFINES[name]).pictures(preset)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made_volume(affine=AFFINES[name]).pictures("voi")
        for axial in ("axial", "oblique", "tilted"):
            made_volume(affine=AFFINES[axial]).pictures("report")


def test_a_preset_for_parity_warns_once_however_many_slices():
    with pytest.warns(UserWarning, match="reproduce that container") as caught:
        assert len(list(made_volume().pictures("google-container"))) == 30
    assert len(caught) == 1


def test_rendering_does_not_write_into_the_volume():
    volume = made_volume()
    before = volume.voxels.copy()
    for preset in ("report", "min-max", "voi"):
        list(volume.pictures(preset))
    np.testing.assert_array_equal(volume.voxels, before)
    assert not volume.voxels.flags.writeable and not volume.affine_lps_mm.flags.writeable


def test_voxels_of_another_type_are_refused():
    with pytest.raises(ImageError, match=r"got float64 of shape .*, expected \(S, H, W\) int16 or float32"):
        made_volume(made_hu().astype(np.float64))
    with pytest.raises(ImageError, match="expected"):
        made_volume(made_hu()[0])


# Geometry


@pytest.mark.parametrize(
    ("name", "codes", "cut"),
    [
        ("axial", "SPL", "axial"),
        ("oblique", "SPL", "axial"),
        ("tilted", "SPL", "axial"),
        ("coronal", "PIL", "coronal"),
        ("sagittal", "RIP", "sagittal"),
    ],
)
def test_axis_codes_and_orientation(name, codes, cut):
    assert axis_codes(AFFINES[name]) == codes
    assert orientation(AFFINES[name]) == cut


@pytest.mark.parametrize("codes", ["SPL", "LSP", "PLS", "ARI", "IRA", "RIP"])
def test_a_turn_and_its_way_back(codes):
    turn = turn_to(codes, AFFINES["oblique"])
    turned = turn.values(made_hu())
    assert turned.shape == turn.shape(SHAPE)
    assert axis_codes(turn.affine(AFFINES["oblique"], SHAPE)) == codes
    np.testing.assert_array_equal(turn.back().values(turned), made_hu())
    np.testing.assert_allclose(turn.back().affine(turn.affine(AXIAL, SHAPE), turned.shape), AXIAL)


def test_half_way_between_two_cuts_is_oblique():
    assert orientation(rotated(AXIAL, (36, 0, 0))) == "axial"
    assert orientation(rotated(AXIAL, (45, 0, 0))) == "oblique"


def test_ras_is_lps_with_two_signs_changed():
    np.testing.assert_array_equal(made_volume().affine_ras_mm[:, 3], (11, -7.5, 31, 1))
    np.testing.assert_array_equal(made_volume().affine_ras_mm @ [1, 1, 1, 1], LPS_TO_RAS @ AXIAL @ [1, 1, 1, 1])


def value_at(volume, point_lps):
    """The voxel nearest to a point."""
    index = np.rint(np.linalg.inv(volume.affine_lps_mm) @ [*point_lps, 1])[:3].astype(int)
    return volume.voxels[tuple(index)]


@pytest.mark.parametrize("codes", ["SPL", "IAR", "PIL", "RSA", "LPS"])
@pytest.mark.parametrize("name", AFFINES)
def test_reorientation_moves_voxels_and_affine_together(name, codes):
    volume = made_volume(affine=AFFINES[name])
    turned = volume.reoriented(codes)
    assert turned.axis_codes == codes
    assert sorted(turned.voxels.shape) == sorted(SHAPE) and turned.voxels.dtype == np.int16
    for index in np.random.default_rng(5).integers(0, SHAPE, (20, 3)):
        point = (volume.affine_lps_mm @ [*index, 1])[:3]
        assert value_at(turned, point) == volume.voxels[tuple(index)]
    assert turned.sha256 != volume.sha256 and turned.unit == "HU"


def test_reorientation_is_simpleitks():
    image = SimpleITK.GetImageFromArray(made_hu())
    affine = AFFINES["sagittal"]
    image.SetOrigin(affine[:3, 3])
    image.SetSpacing((0.6, 0.7, 3))
    image.SetDirection((affine[:3, [2, 1, 0]] / (0.6, 0.7, 3)).ravel())
    theirs = SimpleITK.DICOMOrient(image, "LPS")  # fastest axis first, as for ours "SPL" the slowest
    ours = made_volume(affine=affine).reoriented("SPL")
    np.testing.assert_array_equal(ours.voxels, SimpleITK.GetArrayFromImage(theirs))
    np.testing.assert_allclose(ours.affine_lps_mm, itk_affine(theirs), atol=1e-9)


@pytest.mark.parametrize("codes", ["SPLX", "SP", "SSP", "SAP", "spl", "XYZ", ""])
def test_other_axis_codes_are_refused(codes):
    with pytest.raises(ValueError, match="one letter of each of L/R, A/P and S/I"):
        made_volume().reoriented(codes)


def test_a_window_of_all_slices_outlives_reorientation_and_others_do_not():
    same = made_volume(displays=(SliceDisplay(WINDOW),) * 30).reoriented("PIL")
    assert same.displays == (SliceDisplay(WINDOW),) * len(same.voxels)
    different = tuple(SliceDisplay(WINDOW._replace(center=float(n))) for n in range(30))
    assert set(made_volume(displays=different).reoriented("PIL").displays) == {SliceDisplay()}
    padded = tuple(display._replace(padding=Padding(-2000, -2000), inverted=True) for display in different)
    assert set(made_volume(displays=padded).reoriented("PIL").displays) == {SliceDisplay(None, (-2000, -2000), True)}


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("name", AFFINES)
def test_resampling_is_linear_interpolation(name, dtype):
    """scipy interpolates at the points where the new affine says that the new voxels lie."""
    volume = made_volume(made_hu().astype(dtype), AFFINES[name])
    resampled = volume.resampled((2.0, 1.1, 0.9))
    np.testing.assert_allclose(resampled.spacing_mm, (2.0, 1.1, 0.9))
    assert resampled.voxels.dtype == dtype
    to_old = np.linalg.inv(volume.affine_lps_mm) @ resampled.affine_lps_mm
    indices = np.indices(resampled.voxels.shape).reshape(3, -1)
    points = (to_old @ np.vstack([indices, np.ones(indices.shape[1])]))[:3]
    expected = map_coordinates(volume.voxels.astype(np.float64), points, order=1, mode="nearest")
    difference = np.abs(resampled.voxels.ravel() - expected)
    assert difference.max() <= (0.51 if dtype == np.int16 else 0.02)  # rounding; float32 sums near 1000
    assert np.linalg.det(resampled.affine_lps_mm[:3, :3]) != 0


def test_resampling_is_simpleitks_inside_the_volume():
    volume = made_volume(made_hu().astype(np.float32))
    resampled = volume.resampled((2.0, 1.1, 0.9))
    image = SimpleITK.GetImageFromArray(volume.voxels)
    image.SetOrigin(AXIAL[:3, 3])
    image.SetSpacing((0.6, 0.7, 2.5))
    shape = resampled.voxels.shape
    theirs = SimpleITK.Resample(
        image,
        shape[::-1],
        SimpleITK.Transform(),
        SimpleITK.sitkLinear,
        resampled.affine_lps_mm[:3, 3].tolist(),
        (0.9, 1.1, 2.0),
        (1, 0, 0, 0, 1, 0, 0, 0, 1),
        np.nan,
        SimpleITK.sitkFloat32,
    )
    theirs = SimpleITK.GetArrayFromImage(theirs)
    inside = np.isfinite(theirs)
    assert inside.mean() > 0.8
    np.testing.assert_allclose(resampled.voxels[inside], theirs[inside], atol=0.02)


def test_resampling_covers_the_volume_and_keeps_its_place():
    resampled = made_volume().resampled((5.0, 0.7, 0.6))
    corners = np.array([[0, 0, 0], [29, 11, 15]])
    old = (AXIAL @ np.vstack([corners.T, [1, 1]]))[:3]
    last = np.array(resampled.voxels.shape) - 1
    new = (resampled.affine_lps_mm @ np.vstack([np.stack([[0, 0, 0], last]).T, [1, 1]]))[:3]
    assert np.abs(old - new).max() <= 2.6  # half of the largest new voxel


def test_a_tilted_volume_is_upright_after_resampling():
    upright = made_volume(affine=AFFINES["tilted"]).resampled((2.5, 0.7, 0.6))
    steps = upright.affine_lps_mm[:3, :3] / upright.spacing_mm
    np.testing.assert_allclose(steps.T @ steps, np.eye(3), atol=1e-9)


@pytest.mark.parametrize("kind", ["gap", "uneven-spacing", "sideways-shift"])
def test_slices_on_no_grid_are_not_resampled(kind):
    volume = made_volume(findings=(Finding("localiser", "1 image"), Finding(kind, "steps differ")))
    with pytest.raises(ImageError, match="cannot be resampled: steps differ; add the missing slices"):
        volume.resampled((1, 1, 1))


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, -1, 1), (1, 1, float("nan"))])
def test_a_spacing_that_is_none_is_refused(spacing):
    with pytest.raises(ValueError, match="three lengths above 0"):
        made_volume().resampled(spacing)


# Memory

_MEASURE = """
import sys
from pathlib import Path
from medsiglip.imaging.volumes.read_series import read_volume
from medsiglip.imaging.volumes.series import group_series
from medsiglip.imaging.source import Source
from medsiglip.imaging.workers.pool import DecoderPool

def peak_bytes():
    # ru_maxrss would begin at the size of the process that started this one
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

sources = [Source(str(path)) for path in sorted(Path(sys.argv[1]).iterdir())]
with DecoderPool(2) as pool:
    (series,) = group_series(list(zip(sources, pool.headers(sources))))
    before = peak_bytes()
    volume = read_volume(series, pool)
    after = peak_bytes()
print((after - before) / volume.voxels.nbytes, volume.voxels.shape, int(volume.voxels[60, 5, 7]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("slope", [1, 0.5])
def test_reading_takes_half_a_volume_more_than_the_volume(tmp_path, repository, slope):
    values = np.random.default_rng(0).integers(-1000, 1000, (512, 512)).astype(np.int16)
    for index in range(120):
        tags = {"RescaleSlope": slope if index == 119 else 1, "RescaleIntercept": 0}
        (tmp_path / f"{index}.dcm").write_bytes(ct_file(values + index, (0, 0, index), **tags))
    result = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path)], cwd=repository, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    ratio, rest = result.stdout.split(" ", 1)
    assert rest.strip() == f"(120, 512, 512) {values[5, 7] + 60}"
    assert 0.9 < float(ratio) <= 1.5


def test_replace_keeps_what_as_hu_does_not_touch():
    volume = replace(made_volume(unit="unknown"), findings=(Finding("gap", "one"),))
    assert volume.as_hu().findings == volume.findings and volume.as_hu().sha256 == volume.sha256
