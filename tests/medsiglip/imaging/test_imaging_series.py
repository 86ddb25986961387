"""Grouping and sorting, on made-up headers whose right order is known by hand."""

import random
from dataclasses import replace

import numpy as np
import pytest
from pydicom.uid import generate_uid

from medsiglip.imaging.dicom.padding import Padding
from medsiglip.imaging.frame import Plane
from medsiglip.imaging.source import Source
from medsiglip.imaging.volumes.series import LooseSlice, Series, group_series
from tests.medsiglip.imaging.made_series import AXIAL, made_header, named

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def axial(heights_mm, **fields):
    return [made_header((0.0, 0.0, float(height)), **fields) for height in heights_mm]


def only_series(entries) -> Series:
    (series,) = [entry for entry in entries if isinstance(entry, Series)]
    return series


def heights(series):
    return [item.plane.position_mm[2] for item in series.slices]


def kinds(series):
    return [finding.kind for finding in series.findings]


def finding(series, kind):
    (found,) = [finding for finding in series.findings if finding.kind == kind]
    return found


# Order


def test_slices_are_sorted_by_position_not_by_name_or_number():
    shuffled = [3, 1, 4, 0, 2]
    headers = [replace(header, instance_number=9 - n) for n, header in enumerate(axial(shuffled))]
    series = only_series(group_series(named(headers)))
    assert heights(series) == [0, 1, 2, 3, 4]
    assert [item.source.name for item in series.slices] == [f"scan/{number:03d}.dcm" for number in (3, 1, 4, 0, 2)]
    assert kinds(series) == []


def test_the_order_does_not_follow_one_coordinate():
    # Sagittal slices: row A→P (+y), column S→I (-z), so the normal is y x -z = -x: from left to right.
    headers = [made_header((float(x), 0.0, 0.0), SAGITTAL) for x in (10, 30, 20)]
    series = only_series(group_series(named(headers)))
    assert [item.plane.position_mm[0] for item in series.slices] == [30, 20, 10]
    np.testing.assert_allclose(series.affine_lps_mm[:3, 0], (-10, 0, 0))
    assert kinds(series) == ["not-axial"]
    assert finding(series, "not-axial").text == "slices are sagittal"


def test_the_affine_by_hand():
    # 2 mm apart, rows 0.7 mm apart downwards (+y), columns 0.3 mm apart (+x), first pixel at (-10, -20, 5)
    headers = [made_header((-10.0, -20.0, z), tags={"spacing_mm": (0.7, 0.3)}) for z in (7.0, 5.0, 9.0)]
    series = only_series(group_series(named(headers)))
    expected = [[0, 0, 0.3, -10], [0, 0.7, 0, -20], [2, 0, 0, 5], [0, 0, 0, 1]]
    np.testing.assert_allclose(series.affine_lps_mm, expected, atol=1e-12)
    assert series.shape == (3, 4, 5)
    assert series.unit == "HU"


# What is one series


def test_series_stand_at_their_first_file_and_other_files_between_them():
    first, second = axial([0, 1, 2], series_uid="1.1"), axial([5, 4], series_uid="1.2")
    film = made_header(None, tags={"modality": "DX"}, series_uid="1.3")
    entries = group_series(named([film, second[0], first[2], film, first[0], first[1], second[1]]))
    assert [type(entry) for entry in entries] == [Source, Series, Series, Source]
    assert entries[0].name == "scan/000.dcm" and entries[3].name == "scan/003.dcm"
    assert heights(entries[1]) == [4, 5] and heights(entries[2]) == [0, 1, 2]
    # one folder, two series: each is called after its first file
    assert [entries[1].file, entries[2].file] == ["scan/001.dcm", "scan/002.dcm"]


def test_one_series_of_a_folder_is_called_after_it():
    assert only_series(group_series(named(axial([0, 1]), "study/s1"))).file == "study/s1"
    in_zip = [(Source("study.zip", f"s1/{n}.dcm"), header) for n, header in enumerate(axial([0, 1]))]
    assert only_series(group_series(in_zip)).file == "study.zip/s1"


def test_two_series_in_folders_of_their_own_keep_the_folders_names():
    headers = named(axial([0, 1], series_uid="1.1"), "a") + named(axial([0, 1], series_uid="1.2"), "b")
    assert [entry.file for entry in group_series(headers)] == ["a", "b"]


@pytest.mark.parametrize(
    "fields",
    [
        {"series_uid": "9.9"},
        {"rows": 8},
        {"columns": 8},
        {"frame_of_reference_uid": "9.9"},
        {"tags": {"modality": "US"}},
        {"tags": {"modality": None}},
        {"tags": {"spacing_mm": None}},
        {"tags": {"spacing_mm": (0.6, 0.5)}},
        {"tags": {"plane": None}},
        {"tags": {"plane": Plane((0.0, 0.0, 1e8), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))}},
        {"orientation": CORONAL},
        {"tags": {"photometric_interpretation": "RGB"}, "samples_per_pixel": 3},
        {"tags": {"photometric_interpretation": "PALETTE COLOR"}},
        {"tags": {"photometric_interpretation": "MONOCHROME1"}},
        {"series_uid": None},
        {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.7"},
        {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.7.3"},
        {"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")},
        {"image_type": ("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 TOP")},
        {"image_type": ("ORIGINAL", "SECONDARY", "SCREEN SAVE")},
        {"num_frames": 2},
    ],
    ids=str,
)
def test_what_does_not_belong_is_a_picture_of_its_own(fields):
    stranger = made_header((0.0, 0.0, 3.0), **fields)
    entries = group_series(named([*axial([0, 1, 2]), stranger]))
    assert [type(entry) for entry in entries] == [Series, Source]
    assert heights(entries[0]) == [0, 1, 2]
    assert entries[1].name == "scan/003.dcm"


def test_a_localiser_and_another_angle_are_named():
    localiser = made_header((0.0, 0.0, 3.0), image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    coronal = made_header((0.0, 0.0, 3.0), CORONAL)
    series = only_series(group_series(named([localiser, *axial([0, 1, 2]), coronal])))
    assert kinds(series) == ["localiser", "other-orientation"]
    assert finding(series, "localiser").files == ("scan/000.dcm",)
    assert finding(series, "other-orientation").files == ("scan/004.dcm",)


def test_the_larger_of_two_orientations_is_the_stack():
    coronal = [made_header((0.0, float(y), 0.0), CORONAL) for y in (0, 3, 6)]
    entries = group_series(named([*axial([0, 1]), *coronal]))
    assert [type(entry) for entry in entries] == [Source, Source, Series]
    assert [item.plane.position_mm[1] for item in entries[2].slices] == [0, 3, 6]  # x cross -z is +y


def test_small_noise_in_the_cosines_is_one_orientation():
    noisy = (0.99999995, 0.0003, 0.0, -0.0003, 0.99999995, 0.0)
    series = only_series(group_series(named([*axial([0, 1]), made_header((0.0, 0.0, 2.0), noisy)])))
    assert heights(series) == [0, 1, 2]


def test_one_slice_is_a_picture_and_nothing_to_speak_of():
    assert [type(entry) for entry in group_series(named(axial([0])))] == [Source]


@pytest.mark.parametrize("headers", [axial([0, 0]), axial([0, 0.005])], ids=["same", "close"])
def test_fewer_than_two_positions_are_pictures_that_say_why(headers):
    entries = group_series(named(headers))
    assert [type(entry) for entry in entries] == [LooseSlice, LooseSlice]
    assert {entry.finding.kind for entry in entries} == {"not-a-volume"}
    assert "2 images of one series are single pictures" in entries[0].finding.text


def test_localisers_alone_are_pictures():
    headers = axial([0, 1, 2], image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    assert [entry.name for entry in group_series(named(headers))] == ["scan/000.dcm", "scan/001.dcm", "scan/002.dcm"]


def test_nothing_in_gives_nothing_out():
    assert group_series([]) == []


# What is dropped, and reported


def test_derived_images_leave_where_there_are_originals():
    derived = axial([0.5, 1.5], image_type=("DERIVED", "SECONDARY", "MPR"))
    entries = group_series(named([*axial([0, 1, 2]), *derived]))
    assert heights(only_series(entries)) == [0, 1, 2]
    assert len(entries) == 1
    assert kinds(entries[0]) == ["derived-dropped"]
    assert finding(entries[0], "derived-dropped").files == ("scan/003.dcm", "scan/004.dcm")
    assert finding(entries[0], "derived-dropped").text.startswith("2 images ")


def test_derived_images_stay_where_there_is_nothing_else():
    series = only_series(group_series(named(axial([0, 1], image_type=("DERIVED", "PRIMARY")))))
    assert heights(series) == [0, 1]
    assert kinds(series) == ["derived"]


def test_copies_are_kept_once():
    slices = axial([0, 1, 2])
    same_bytes = replace(slices[0], instance_uid=generate_uid())
    same_uid = replace(slices[1], sha256="another encoding")
    entries = group_series(named([*slices, same_bytes, same_uid]))
    assert heights(only_series(entries)) == [0, 1, 2]
    assert len(entries) == 1
    assert kinds(entries[0]) == ["duplicate"]
    assert finding(entries[0], "duplicate").text == "2 images left out: copies of slices already there"


@pytest.mark.parametrize("field", ["acquisition_number", "echo_number", "temporal_position", "diffusion_b_value"])
def test_of_acquisitions_at_the_same_positions_the_largest_stays(field):
    first, second = axial([0, 1, 2], **{field: 1}), axial([0, 1, 2, 3], **{field: 2})
    series = only_series(group_series(named([*first, *second])))
    assert heights(series) == [0, 1, 2, 3]
    assert series.files == ("scan/003.dcm", "scan/004.dcm", "scan/005.dcm", "scan/006.dcm")
    assert kinds(series) == ["other-acquisition"]
    assert finding(series, "other-acquisition").files == ("scan/000.dcm", "scan/001.dcm", "scan/002.dcm")


def test_of_equal_acquisitions_the_first_by_number_stays():
    late, early = axial([0, 1, 2], temporal_position=2), axial([0, 1, 2], temporal_position=1)
    assert only_series(group_series(named([*late, *early]))).files[0] == "scan/003.dcm"


def test_water_and_fat_are_not_mixed():
    water = [replace(header, instance_number=n) for n, header in enumerate(axial([0, 1, 2]))]
    fat = [replace(header, instance_number=9 - n) for n, header in enumerate(axial([0, 1, 2]))]
    water = [replace(header, image_type=("ORIGINAL", "PRIMARY", "DIXON", "WATER")) for header in water]
    fat = [replace(header, image_type=("ORIGINAL", "PRIMARY", "DIXON", "FAT")) for header in fat]
    series = only_series(group_series(named([*fat, *water])))
    assert series.files == ("scan/003.dcm", "scan/004.dcm", "scan/005.dcm")
    assert kinds(series) == ["other-acquisition"]


def test_acquisitions_that_follow_each_other_are_one_stack():
    steps = [*axial([0, 1, 2], acquisition_number=1), *axial([3, 4, 5], acquisition_number=2)]
    series = only_series(group_series(named(steps)))
    assert heights(series) == [0, 1, 2, 3, 4, 5]
    assert kinds(series) == ["joined-acquisitions"]


def test_acquisitions_that_share_a_seam_are_one_stack():
    slabs = [*axial([0, 1, 2, 3], acquisition_number=1), *axial([3, 4, 5, 6], acquisition_number=2)]
    series = only_series(group_series(named(slabs)))
    assert heights(series) == [0, 1, 2, 3, 4, 5, 6]
    assert kinds(series) == ["joined-acquisitions", "repeated-position"]


def test_interleaved_acquisitions_are_one_stack():
    turns = [*axial([0, 2, 4], acquisition_number=1), *axial([1, 3, 5], acquisition_number=2)]
    assert heights(only_series(group_series(named(turns)))) == [0, 1, 2, 3, 4, 5]


def test_an_acquisition_number_for_every_slice_is_one_stack():
    headers = [made_header((0.0, 0.0, float(z)), acquisition_number=n) for n, z in enumerate([0, 2, 4, 6, 1, 3, 5, 7])]
    assert heights(only_series(group_series(named(headers)))) == list(range(8))


def test_two_phases_beside_each_other_are_not_mixed():
    # the second phase lies 1.3 mm above the first, which would make steps of 1.3 and 3.7 mm
    first, second = axial([0, 5, 10, 15], acquisition_number=1), axial([1.3, 6.3, 11.3], acquisition_number=2)
    series = only_series(group_series(named([*first, *second])))
    assert heights(series) == [0, 5, 10, 15]
    assert kinds(series) == ["other-acquisition"]


def test_slices_with_numbers_of_their_own_are_one_stack_even_where_many_are_missing():
    headers = [made_header((0.0, 0.0, float(z)), acquisition_number=n) for n, z in enumerate([0, 200, 2, 4])]
    series = only_series(group_series(named(headers)))
    assert heights(series) == [0, 2, 4, 200]
    assert kinds(series) == ["joined-acquisitions", "gap"]


def test_time_points_with_an_instance_number_each_keep_the_first():
    headers = [
        *axial([0, 1, 2], instance_number=5),
        *axial([0, 1, 2], instance_number=4),
    ]
    series = only_series(group_series(named(headers)))
    assert series.files == ("scan/003.dcm", "scan/004.dcm", "scan/005.dcm")
    assert kinds(series) == ["other-acquisition"]
    assert finding(series, "other-acquisition").files == ("scan/000.dcm", "scan/001.dcm", "scan/002.dcm")


# Geometry


def test_missing_slices_are_counted():
    series = only_series(group_series(named(axial([0, 2, 4, 10, 12, 14, 16, 20]))))
    assert kinds(series) == ["gap"]
    assert finding(series, "gap").text == (
        "slices are missing, about 3: 2 gaps of up to 6 mm, where the median step is 2 mm"
    )
    np.testing.assert_allclose(series.affine_lps_mm[:3, 0], (0, 0, 2))


def test_one_far_slice_is_a_gap_and_not_the_step():
    series = only_series(group_series(named(axial([0, 2, 200]))))
    assert kinds(series) == ["gap"]
    assert "about 98: 1 gap of up to 198 mm, where the median step is 2 mm" in finding(series, "gap").text


def test_a_step_of_one_and_a_half_is_a_gap_and_a_smaller_one_is_uneven():
    assert kinds(only_series(group_series(named(axial([0, 2, 4, 6, 9]))))) == ["gap"]
    assert kinds(only_series(group_series(named(axial([0, 2, 4, 6, 8.98]))))) == ["uneven-spacing"]


@pytest.mark.parametrize(
    ("heights_mm", "expected"),
    [
        ([0, 2, 4, 6.019], []),  # 0.95 %
        ([0, 2, 4, 6.021], ["uneven-spacing"]),  # 1.05 %
        ([0, 0.5, 1.0, 1.509], []),  # 1.8 %, but 0.009 mm
        ([0, 0.5, 1.0, 1.511], ["uneven-spacing"]),
    ],
)
def test_uneven_spacing_begins_above_one_percent(heights_mm, expected):
    headers = axial(heights_mm, tags={"slice_thickness_mm": 0.5})
    assert kinds(only_series(group_series(named(headers)))) == expected


def tilted(degrees, num_slices=5):
    """Slices 2 mm apart along their normal z, each shifted along y."""
    shift = 2 * np.tan(np.radians(degrees))
    return [made_header((0.0, shift * n, 2.0 * n)) for n in range(num_slices)]


def test_gantry_tilt_is_reported_in_degrees_and_shears_the_affine():
    series = only_series(group_series(named(tilted(15))))
    assert kinds(series) == ["gantry-tilt"]
    assert "15.0 degrees" in finding(series, "gantry-tilt").text
    np.testing.assert_allclose(series.affine_lps_mm[:3, 0], (0, 2 * np.tan(np.radians(15)), 2))


@pytest.mark.parametrize(("degrees", "expected"), [(0.09, []), (0.11, ["gantry-tilt"])])
def test_tilt_counts_from_a_tenth_of_a_degree(degrees, expected):
    assert kinds(only_series(group_series(named(tilted(degrees))))) == expected


def test_a_slice_beside_the_others_is_reported():
    headers = [*axial([0, 1, 3, 4]), made_header((0.4, 0.3, 2.0))]
    series = only_series(group_series(named(headers)))
    assert kinds(series) == ["sideways-shift"]
    assert "0.5 mm" in finding(series, "sideways-shift").text


def test_thick_slices_overlap():
    series = only_series(group_series(named(axial([0, 1, 2], tags={"slice_thickness_mm": 2.5}))))
    assert kinds(series) == ["overlapping"]
    assert finding(series, "overlapping").text == "slices 2.5 mm thick overlap: the step is 1 mm"


def test_an_oblique_stack_of_an_enhanced_file():
    planes = tuple(Plane((0.0, 0.0, float(z)), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)) for z in (2, 0, 1))
    header = replace(made_header(None), num_frames=3, frame_planes=planes, sha256="of the file")
    entries = group_series([(Source("enhanced.dcm"), header)])
    series = only_series(entries)
    assert [item.frame for item in series.slices] == [1, 2, 0]
    assert (series.file, series.files, series.sha256) == ("enhanced.dcm", ("enhanced.dcm",), "of the file")


# Identity and units


def test_identity_depends_on_content_and_not_on_names_or_order():
    slices = axial([0, 1, 2, 3])
    one = only_series(group_series(named(slices, "a")))
    other = only_series(group_series(named(slices[::-1], "b")))
    assert one.sha256 == other.sha256 and len(one.sha256) == 64
    changed = [*slices[:3], replace(slices[3], sha256="changed")]
    assert only_series(group_series(named(changed, "a"))).sha256 != one.sha256


def test_the_outcome_does_not_depend_on_the_order_of_files():
    messy = [
        *axial([0, 1, 2, 3], acquisition_number=1, instance_number=1),
        *axial([0, 1, 2, 3], acquisition_number=2),
        *axial([2, 3], acquisition_number=1, instance_number=2),
        *axial([7], image_type=("DERIVED", "PRIMARY")),
        *[made_header((0.0, float(y), 0.0), CORONAL) for y in range(3)],
    ]
    messy.append(replace(messy[0], sha256="a second encoding"))
    expected = only_series(group_series(named(messy))).sha256
    for seed in range(10):
        shuffled = random.Random(seed).sample(messy, len(messy))
        assert only_series(group_series(named(shuffled))).sha256 == expected


@pytest.mark.parametrize(
    ("fields", "unit"),
    [
        ({}, "HU"),
        ({"rescale_type": None}, "HU"),
        ({"rescale_type": "US"}, "stored"),
        ({"tags": {"modality": "MR"}}, "stored"),
        ({"tags": {"modality": "PT"}}, "stored"),
    ],
    ids=str,
)
def test_units(fields, unit):
    assert only_series(group_series(named(axial([0, 1], **fields)))).unit == unit


def test_padding_is_in_the_volumes_unit():
    headers = axial([0, 1], padding=Padding(-2000, -1999), rescale_slope=2.0)
    assert only_series(group_series(named(headers))).displays[0].padding == (-2000 * 2 - 1024, -1999 * 2 - 1024)
    falling = axial([0, 1], padding=Padding(5, 7), rescale_slope=-1.0, rescale_intercept=0.0)
    assert only_series(group_series(named(falling))).displays[0].padding == (-7, -5)
    assert only_series(group_series(named(axial([0, 1], has_modality_lut=True)))).displays[0].padding is None


def test_thousands_of_slices_group_in_good_time():
    headers = [
        made_header((0.0, 0.0, float(n % 1500)), acquisition_number=n, orientation=AXIAL if n < 1500 else CORONAL)
        for n in range(3000)
    ]
    assert len(only_series(group_series(named(headers))).slices) == 1500


def test_findings_name_no_patient_data():
    stray = made_header((0.0, 0.0, 9.0), series_uid="1.2.3", instance_uid="9.8.7.6.5")
    series = only_series(group_series(named([*axial([0, 1, 2]), replace(stray, image_type=("DERIVED", "QUIMBY"))])))
    for found in series.findings:
        assert "9.8.7" not in found.text and "QUIMBY" not in found.text
