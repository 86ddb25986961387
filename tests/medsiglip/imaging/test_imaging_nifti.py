"""NIfTI files written by nibabel or by hand, read again and compared with nibabel and SimpleITK."""

import gzip
import io
import struct
import tracemalloc

import nibabel
import numpy as np
import pytest
import SimpleITK

from medsiglip.imaging.frame import ImageError
from medsiglip.imaging.volumes.geometry import LPS_TO_RAS
from medsiglip.imaging.volumes.nifti import decode_nifti, is_nifti
from medsiglip.imaging.volumes.voxels import grey_volume as nifti_volume

# Fields of the NIfTI-1 header: offset and struct format (nifti1.h)
FIELDS = {
    "sizeof_hdr": (0, "i"),
    "dim": (40, "8h"),
    "datatype": (70, "h"),
    "bitpix": (72, "h"),
    "pixdim": (76, "8f"),
    "vox_offset": (108, "f"),
    "scl_slope": (112, "f"),
    "scl_inter": (116, "f"),
    "xyzt_units": (123, "b"),
    "qform_code": (252, "h"),
    "sform_code": (254, "h"),
    "quatern_b": (256, "f"),
    "quatern_bcd": (256, "3f"),
    "srow_x": (280, "4f"),
    "magic": (344, "4s"),
}
SHAPE = (5, 4, 3)  # columns, rows, slices as nibabel has them
RAS = np.array([[-0.7, 0, 0, 40], [0, -0.8, 0, 30], [0, 0, 2.5, -20], [0, 0, 0, 1.0]])  # to left, posterior, superior


def made_values(shape=SHAPE, dtype=np.int16):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def made_nifti(values=None, affine=RAS, kind=nibabel.Nifti1Image, **fields) -> bytes:
    """The bytes of an uncompressed file, with header fields overwritten afterwards."""
    values = made_values() if values is None else values
    data = bytearray(kind(values, affine, dtype=values.dtype).to_bytes())
    for name, value in fields.items():
        offset, code = FIELDS[name]
        struct.pack_into(f"<{code}", data, offset, *(value if isinstance(value, tuple) else (value,)))
    return bytes(data)


def decode(data):
    return decode_nifti(data, "scan.nii")


def refusal(data) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert caught.value.file == "scan.nii"
    return caught.value.reason


def kinds(decoded):
    return [finding.kind for finding in decoded.findings]


def same_in_space(decoded, array, affine_ras):
    """Every voxel lies where nibabel's array and affine have it; RAS mm."""
    slices, rows, columns = np.indices(decoded.values.shape).reshape(3, -1)
    ones = np.ones(slices.size)
    points = LPS_TO_RAS @ decoded.affine_lps_mm @ [slices, rows, columns, ones]
    index = np.linalg.inv(affine_ras) @ points
    assert np.abs(index - np.rint(index)).max() < 1e-3
    i, j, k = np.rint(index[:3]).astype(int)
    np.testing.assert_array_equal(decoded.values.ravel(), array[i, j, k])


# The right values in the right place


def test_axes_by_hand():
    # Columns run to the left, rows to posterior, slices to superior: already as a radiologist looks at them.
    decoded = decode(made_nifti())
    assert decoded.values.shape == (3, 4, 5) and decoded.values.dtype == np.int16
    np.testing.assert_array_equal(decoded.values, made_values().transpose(2, 1, 0))
    expected_lps = [[0, 0, 0.7, -40], [0, 0.8, 0, -30], [2.5, 0, 0, -20], [0, 0, 0, 1]]
    np.testing.assert_allclose(decoded.affine_lps_mm, expected_lps, atol=1e-6)
    assert decoded.findings == ()


def test_a_volume_towards_right_and_anterior_is_not_shown_upside_down():
    ras = np.diag([0.7, 0.8, 2.5, 1])
    decoded = decode(made_nifti(affine=ras))
    # i grows to the right and j to anterior, so the picture's first pixel is the last of both
    np.testing.assert_array_equal(decoded.values, made_values()[::-1, ::-1].transpose(2, 1, 0))
    same_in_space(decoded, made_values(), ras)
    assert nifti_volume(decoded, "scan.nii").axis_codes == "SPL"


@pytest.mark.parametrize(
    ("codes", "shown"),
    [
        ("RAS", "SPL"),
        ("LPS", "SPL"),
        ("ALS", "SPL"),
        ("ARI", "SPL"),
        ("RSA", "PIL"),
        ("LIP", "PIL"),
        ("PIR", "RIP"),
        ("ASL", "RIP"),
    ],
)
def test_slices_stay_slices_and_are_shown_the_usual_way(codes, shown):
    """The last axis of the file is the slice axis, whichever way the patient lies in it."""
    vectors = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    affine = np.eye(4)
    affine[:3, :3] = np.stack([vectors[code] for code in codes], axis=1) * (0.7, 0.8, 2.5)
    affine[:3, 3] = (3, -4, 5)
    decoded = decode(made_nifti(affine=affine))
    volume = nifti_volume(decoded, "scan.nii")
    assert volume.axis_codes == shown
    assert len(volume.voxels) == SHAPE[2]
    same_in_space(decoded, made_values(), affine)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_an_oblique_affine_with_shear_keeps_every_voxel_in_place(kind):
    affine = np.array([[0.7, 0.1, -0.2, 4], [-0.1, 0.8, 0.3, -5], [0.1, -0.2, 2.5, 6], [0, 0, 0, 1]])
    decoded = decode(made_nifti(affine=affine, kind=kind))
    same_in_space(decoded, made_values(), affine)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_whole_numbers_that_fit_are_int16(dtype, kind, compressed):
    data = made_nifti(made_values(dtype=dtype), kind=kind)
    decoded = decode(gzip.compress(data) if compressed else data)
    assert decoded.values.dtype == np.int16
    np.testing.assert_array_equal(decoded.values, made_values().transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (32767, np.int16),
        (32768, np.float32),
        (-32768, np.int16),
        (-32769, np.float32),
        (0.5, np.float32),
        (np.nan, np.float32),
        (np.inf, np.float32),
    ],
)
@pytest.mark.parametrize("stored", [np.float32, np.float64])
def test_floats_are_int16_only_where_that_is_exact(value, dtype, stored):
    values = made_values(dtype=stored)
    values[1, 2, 2] = value  # in the last slice, when the first two already are int16
    decoded = decode(made_nifti(values))
    assert decoded.values.dtype == dtype
    np.testing.assert_array_equal(decoded.values, values.transpose(2, 1, 0))
    assert kinds(decoded) == ([] if np.isfinite(value) else ["not-finite"])


def test_integers_beyond_int16_become_float():
    decoded = decode(made_nifti(made_values(dtype=np.uint16) + np.uint16(40000)))
    assert decoded.values.dtype == np.float32
    assert (decoded.values.min(), decoded.values.max()) == (40000, 40059)


def test_what_float32_cannot_hold_is_reported():
    values = made_values(dtype=np.float64)
    values[0, 0, 0], values[1, 0, 0] = 1e300, np.nan
    decoded = decode(made_nifti(values))
    assert decoded.findings[0].text.startswith("2 voxels are not finite")


def test_big_endian_files():
    image = nibabel.Nifti1Image(made_values(), RAS, nibabel.Nifti1Header(endianness=">"))
    data = image.to_bytes()
    assert data[:4] == (348).to_bytes(4, "big") and is_nifti(data)
    decoded = decode(data)
    np.testing.assert_array_equal(decoded.values, made_values().transpose(2, 1, 0))
    assert decoded.values.dtype == np.int16 and decoded.values.dtype.isnative


@pytest.mark.parametrize(
    ("slope", "intercept", "expected", "dtype"),
    [
        (2.0, -1024.0, lambda v: 2 * v - 1024, np.int16),
        (0.5, 0.0, lambda v: 0.5 * v, np.float32),
        (1.0, 0.25, lambda v: v + 0.25, np.float32),
        (1000.0, 0.0, lambda v: 1000.0 * v, np.float32),
        (0.0, 5.0, lambda v: v, np.int16),
        (float("nan"), 5.0, lambda v: v, np.int16),
        (float("inf"), 0.0, lambda v: v, np.int16),
        (2.0, float("nan"), lambda v: v, np.int16),
        (-1.0, 0.0, lambda v: -v, np.int16),
    ],
)
def test_slope_and_intercept(slope, intercept, expected, dtype):
    decoded = decode(made_nifti(scl_slope=slope, scl_inter=intercept))
    np.testing.assert_array_equal(decoded.values, expected(made_values().transpose(2, 1, 0).astype(np.float64)))
    assert decoded.values.dtype == dtype


# Against nibabel and SimpleITK


def test_the_kits_ct(kit):
    path = kit / "wsi-nifti-real" / "images" / "totalseg_example_ct_sm.nii.gz"
    data = path.read_bytes()
    assert is_nifti(data)
    decoded = decode_nifti(data, str(path))
    image = nibabel.load(path)
    same_in_space(decoded, np.asarray(image.dataobj), image.affine)
    assert decoded.findings == ()
    volume = nifti_volume(decoded, str(path))
    assert (volume.unit, volume.orientation, volume.axis_codes) == ("unknown", "axial", "SPL")
    assert volume.as_hu().values_hu.min() >= -1100  # air
    itk = SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(path)), "LPS")
    np.testing.assert_array_equal(volume.voxels, SimpleITK.GetArrayFromImage(itk))
    np.testing.assert_allclose(volume.affine_lps_mm[:3, 3], itk.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(volume.spacing_mm[::-1], itk.GetSpacing(), atol=1e-5)


@pytest.mark.parametrize(("code", "scale"), [(0, 1), (1, 1000), (2, 1), (3, 0.001), (2 + 8, 1)])
def test_units_of_length_as_simpleitk_takes_them(tmp_path, code, scale):
    data = made_nifti(xyzt_units=code)
    decoded = decode(data)
    np.testing.assert_allclose(decoded.affine_lps_mm[:3, 3], np.array([-40, -30, -20]) * scale, rtol=1e-6)
    (tmp_path / "scan.nii").write_bytes(data)
    itk = SimpleITK.ReadImage(str(tmp_path / "scan.nii"))
    np.testing.assert_allclose(decoded.affine_lps_mm[:3, 3], itk.GetOrigin(), rtol=1e-5)


def with_forms(sform_code, qform_code):
    image = nibabel.Nifti1Image(made_values(), None)
    image.set_sform(RAS, sform_code)
    shifted = RAS.copy()
    shifted[:3, 3] = (1, 2, 3)
    image.set_qform(shifted, qform_code)
    image.header.set_zooms((0.7, 0.8, 2.5))
    return image.to_bytes()


@pytest.mark.parametrize(
    ("sform_code", "qform_code", "origin_lps"),
    [(1, 1, (-40, -30, -20)), (0, 1, (-1, -2, 3)), (2, 0, (-40, -30, -20))],
)
def test_the_sform_goes_before_the_qform(sform_code, qform_code, origin_lps):
    decoded = decode(with_forms(sform_code, qform_code))
    np.testing.assert_allclose(decoded.affine_lps_mm[:3, 3], origin_lps, atol=1e-5)
    assert kinds(decoded) == (["sform-qform"] if sform_code and qform_code else [])


def test_sform_and_qform_that_turn_the_patient_round_are_said():
    image = nibabel.Nifti1Image(made_values(), None)
    image.set_sform(RAS, 4)
    image.set_qform(RAS @ np.diag([-1, -1, 1, 1]), 1)
    decoded = decode(image.to_bytes())
    same_in_space(decoded, made_values(), RAS)
    assert kinds(decoded) == ["sform-qform"] and "the sform is used" in decoded.findings[0].text
    image.set_qform(RAS, 1)  # an atlas and a scanner that agree
    assert kinds(decode(image.to_bytes())) == []


def test_without_either_the_spacing_is_left_and_reported():
    decoded = decode(with_forms(0, 0))
    assert kinds(decoded) == ["no-orientation"]
    assert nifti_volume(decoded, "").spacing_mm == pytest.approx((2.5, 0.8, 0.7))
    # as nibabel takes it: towards left, anterior, superior; shown with posterior below
    np.testing.assert_array_equal(decoded.values, made_values()[:, ::-1].transpose(2, 1, 0))


# Headers with one reading in the standard (nifti1.h, method 2) in spite of what was written

QFORM = np.diag([-0.7, -0.8, 2.5, 1.0])


def made_qform(affine=QFORM, **fields):
    image = nibabel.Nifti1Image(made_values(), affine)
    image.set_sform(None, 0)
    image.set_qform(affine, 1)
    data = bytearray(image.to_bytes())
    for name, value in fields.items():
        offset, code = FIELDS[name]
        struct.pack_into(f"<{code}", data, offset, *(value if isinstance(value, tuple) else (value,)))
    return bytes(data)


@pytest.mark.parametrize(
    ("qfac", "slice_mm", "found"),
    [(1, 2.5, []), (-1, -2.5, []), (0, 2.5, []), (3, 2.5, ["repaired-header"]), (-3, -2.5, ["repaired-header"])],
)
def test_qfac(qfac, slice_mm, found):
    decoded = decode(made_qform(pixdim=(qfac, 0.7, 0.8, 2.5, 0, 0, 0, 0)))
    same_in_space(decoded, made_values(), np.diag([-0.7, -0.8, slice_mm, 1.0]))
    assert kinds(decoded) == found


@pytest.mark.parametrize("spacing", [(-0.7, 0.8, 2.5), (0.7, 0.8, 0.0), (float("nan"), 0.8, 2.5)])
def test_spacings_that_are_no_lengths_are_repaired_and_said(spacing):
    decoded = decode(made_qform(pixdim=(1, *spacing, 0, 0, 0, 0)))
    lengths = [abs(value) if np.isfinite(value) and value else 1.0 for value in spacing]
    same_in_space(decoded, made_values(), np.diag([-lengths[0], -lengths[1], lengths[2], 1.0]))
    assert kinds(decoded) == ["repaired-header"]


def test_a_quaternion_that_is_longer_than_one_is_normalised():
    # (0, 0, 0, 1.0001) turns by 180 degrees about z; rounding makes such lengths
    turned = decode(made_qform(quatern_bcd=(0.0, 0.0, 1.0001)))
    same_in_space(turned, made_values(), QFORM)
    assert kinds(turned) == []
    # far from one: (1, 1, 0) / sqrt(2) exchanges x and y
    longer = decode(made_qform(quatern_bcd=(0.8, 0.8, 0.0)))
    exchanged = np.array([[0, 0.8, 0, 0], [0.7, 0, 0, 0], [0, 0, -2.5, 0], [0, 0, 0, 1.0]])
    same_in_space(longer, made_values(), exchanged)
    assert kinds(longer) == ["repaired-header"]


def test_a_quaternion_with_no_number_is_taken_as_the_reference_reader_does():
    decoded = decode(made_qform(quatern_bcd=(0.0, float("nan"), 1.0)))
    same_in_space(decoded, made_values(), QFORM)
    assert kinds(decoded) == ["repaired-header"]


@pytest.mark.parametrize("row", [(0.0, 0.0, 0.0, 0.0), (float("nan"), 0.0, 0.0, 0.0), (0.0, -0.8, 0.0, 30.0)])
def test_an_sform_that_is_no_affine_is_reported(row):
    # zero, NaN, or (nearly) the row of y twice
    decoded = decode(made_nifti(srow_x=row))
    assert "damaged-affine" in kinds(decoded)
    assert np.isfinite(decoded.affine_lps_mm).all()


# Shapes


def test_one_volume_in_four_or_five_dimensions_is_squeezed():
    for shape in ((*SHAPE, 1), (*SHAPE, 1, 1)):
        decoded = decode(made_nifti(made_values().reshape(shape)))
        np.testing.assert_array_equal(decoded.values, made_values().transpose(2, 1, 0))


def test_two_dimensions_are_one_slice():
    assert decode(made_nifti(made_values((5, 4)))).values.shape == (1, 4, 5)


def test_several_volumes_are_refused_until_one_is_chosen():
    reason = refusal(made_nifti(made_values((5, 4, 3, 2))))
    assert reason.startswith("holds 2 volumes (2 time points), and one is read; choose it by time=1 to time=2: ")
    assert '--select time=1, or select={"time": 1} in Python' in reason
    assert "holds 6 volumes (2 time points x 3 channels)" in refusal(made_nifti(made_values((5, 4, 3, 2, 3))))


@pytest.mark.parametrize("compressed", [False, True])
def test_a_chosen_volume_is_that_of_nibabel(compressed):
    values = made_values((5, 4, 3, 2, 3))
    data = made_nifti(values)
    data = gzip.compress(data) if compressed else data
    for time in (1, 2):
        for channel in (1, 2, 3):
            chosen = decode_nifti(data, "scan.nii", (("time", str(time)), ("channel", str(channel))))
            np.testing.assert_array_equal(chosen.values, values[..., time - 1, channel - 1].transpose(2, 1, 0))


@pytest.mark.parametrize(("asked", "reason"), [("3", "there are time=1 to time=2"), ("0", "there are"), ("x", "there")])
def test_a_volume_that_is_not_there(asked, reason):
    with pytest.raises(ImageError, match=f"--select time={asked}: {reason}"):
        decode_nifti(made_nifti(made_values((5, 4, 3, 2))), "scan.nii", (("time", asked),))
    with pytest.raises(ImageError, match="there is time=1 alone"):
        decode_nifti(made_nifti(), "scan.nii", (("time", "2"),))


def test_a_damaged_end_behind_the_chosen_volume_is_seen():
    data = bytearray(gzip.compress(made_nifti(made_values((5, 4, 3, 2)))))
    data[-6] ^= 0xFF  # of the checksum
    with pytest.raises(ImageError, match="gzip"):
        decode_nifti(bytes(data), "scan.nii", (("time", "1"),))


# Lies and damage


def made_colour(channels="RGB"):
    colour = np.zeros(SHAPE, [(channel, "u1") for channel in channels])
    for place, channel in enumerate(channels):
        colour[channel] = (made_values() * (place + 1)) % 256
    return colour


def test_colour_is_colour_slices_the_right_way_round():
    decoded = decode(made_nifti(made_colour()))
    assert decoded.is_colour and decoded.values.dtype == np.uint8
    expected = np.stack([made_colour()[channel] for channel in "RGB"], axis=-1).transpose(2, 1, 0, 3)
    np.testing.assert_array_equal(decoded.values, expected)


def test_transparent_colour_lies_over_black():
    colour = made_colour("RGBA")
    colour["A"] = 255
    colour["A"][1, 2, 2] = 0
    decoded = decode(made_nifti(colour))
    assert decoded.values[2, 2, 1].tolist() == [0, 0, 0]
    assert decoded.values[2, 2, 2].tolist() == [int(colour[c][2, 2, 2]) for c in "RGB"]


def test_types_that_are_no_picture_are_refused_by_name():
    reason = refusal(made_nifti(made_values(dtype=np.complex64)))
    assert "complex64" in reason and "save them as int16 or float32" in reason
    assert decode(made_nifti(made_values(dtype=np.complex64).real.astype(np.float32))).values.shape == (3, 4, 5)
    assert "an unknown type (datatype 77)" in refusal(made_nifti(datatype=77))


def made_pair(kind=nibabel.Nifti1Pair):
    buffers = {name: nibabel.FileHolder(fileobj=io.BytesIO()) for name in ("header", "image")}
    kind(made_values(), RAS).to_file_map(buffers)
    return buffers["header"].fileobj.getvalue(), {"scan.img": buffers["image"].fileobj.getvalue()}


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair])
def test_a_pair_is_read_as_one(kind):
    header, folder = made_pair(kind)
    assert is_nifti(header)
    decoded = decode_nifti(header, "study/scan.hdr", (), folder.__getitem__)
    same_in_space(decoded, made_values(), RAS)
    assert decoded.findings == ()


def test_an_analyze_pair_does_not_say_how_it_lies():
    header, folder = made_pair(nibabel.AnalyzeImage)
    decoded = decode_nifti(header, "scan.hdr", (), folder.__getitem__)
    assert kinds(decoded) == ["no-orientation"]
    spacings = nibabel.AnalyzeHeader(header).get_zooms()
    same_in_space(decoded, made_values(), np.diag([-spacings[0], spacings[1], spacings[2], 1.0]))


def test_a_header_without_its_voxels_is_refused_by_name():
    header, _ = made_pair()

    def nothing_there(name):
        raise ImageError(name, "no such file")

    with pytest.raises(ImageError, match="its voxels, scan.img, cannot be read; put the .img beside the .hdr"):
        decode_nifti(header, "scan.hdr", (), nothing_there)
    with pytest.raises(ImageError, match="give the path of the .hdr, beside its .img"):
        decode_nifti(header, "scan.hdr")
    assert "name the pair X.hdr and X.img" in refusal(made_nifti(magic=b"\0\0\0\0"))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"dim": (3, 5, 4, -3, 1, 1, 1, 1)}, "a dimension is below 1"),
        ({"dim": (3, 5, 0, 3, 1, 1, 1, 1)}, "a dimension is below 1"),
        ({"dim": (0, 5, 4, 3, 1, 1, 1, 1)}, "a dimension is below 1"),
        ({"dim": (9, 5, 4, 3, 1, 1, 1, 1)}, "a dimension is below 1"),
        ({"dim": (3, 5, 4, 4, 1, 1, 1, 1)}, "truncated: 120 of 160 bytes"),
        ({"dim": (3, 32767, 32767, 32767, 1, 1, 1, 1)}, "more than the limit of 1073741824"),
        ({"dim": (7, 5, 4, 3, 32767, 32767, 32767, 32767)}, "volumes"),
        ({"datatype": 64}, "truncated: 120 of 480 bytes"),
        ({"vox_offset": 1e30}, "vox_offset is no place"),
        ({"vox_offset": float("nan")}, "vox_offset is no place"),
        ({"vox_offset": -352.0}, "vox_offset is no place"),
        ({"vox_offset": 100.0}, "vox_offset is no place"),
        ({"vox_offset": 352.5}, "vox_offset is no place"),
        ({"vox_offset": 400.0}, "truncated: 72 of 120 bytes"),
        ({"xyzt_units": 7}, "spatial unit 7"),
        ({"sizeof_hdr": 7}, "no NIfTI header"),
    ],
    ids=str,
)
def test_lies_in_the_header(fields, reason):
    assert reason in refusal(made_nifti(**fields))


def test_an_offset_of_nought_is_right_behind_the_header():
    np.testing.assert_array_equal(decode(made_nifti(vox_offset=0.0)).values, made_values().transpose(2, 1, 0))


@pytest.mark.parametrize(
    "data", [b"", b"\x1f\x8b", b"\x1f\x8b" + bytes(40), bytes(1000), gzip.compress(b"hello", mtime=0)]
)
def test_what_is_no_nifti(data):
    assert not is_nifti(data)
    assert refusal(data)


def test_truncated_and_damaged_gzip():
    data = gzip.compress(made_nifti(np.random.default_rng(0).integers(0, 99, (30, 30, 30)).astype(np.int16)))
    for cut in (len(data) // 2, len(data) - 4000):
        assert "gzip" in refusal(data[:cut])
    for place in (len(data) // 2, len(data) - 6):  # voxels that still inflate, and the checksum
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        assert "gzip" in refusal(bytes(damaged))


def test_a_gzip_of_several_members_is_one_file():
    data = made_nifti()
    assert decode(gzip.compress(data[:400]) + gzip.compress(data[400:])).values[2, 3, 4] == 59


def test_a_bomb_is_refused_by_its_header_before_it_is_inflated():
    """1,000 x 1,000 x 2,000 int16 voxels, 4 GB of zeros that the header admits to."""
    header = made_nifti(dim=(3, 1000, 1000, 2000, 1, 1, 1, 1))[:352]
    bomb = gzip.compress(header + bytes(10**8))
    assert len(bomb) < 200_000
    tracemalloc.start()
    try:
        assert "4000000000 bytes, more than the limit" in refusal(bomb)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_bomb_that_lies_is_inflated_no_further_than_its_header_says():
    bomb = gzip.compress(made_nifti() + bytes(3 * 10**8), 1)
    tracemalloc.start()
    try:
        assert "more data than its header says" in refusal(bomb)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_a_little_padding_behind_the_voxels_is_no_fault():
    assert decode(gzip.compress(made_nifti() + bytes(1000))).values[2, 3, 4] == 59
    assert decode(made_nifti() + bytes(1000)).values[2, 3, 4] == 59


def test_more_slices_than_a_volume_has_are_refused():
    data = bytearray(made_nifti(kind=nibabel.Nifti2Image))
    struct.pack_into("<8q", data, 16, 3, 1, 1, 10**9, 1, 1, 1, 1)  # dim
    assert "1000000000 slices, more than the limit of 32767" in refusal(gzip.compress(bytes(data)))


def test_a_bomb_behind_an_offset_is_refused():
    assert "vox_offset" in refusal(gzip.compress(made_nifti(vox_offset=2.0**30)))


# As a volume


def test_pictures_of_a_nifti():
    decoded = decode(made_nifti())
    volume = nifti_volume(decoded, "scan.nii")
    assert [picture.policy for picture in volume.pictures()] == ["min-max"] * 3
    with pytest.raises(ImageError, match="as_hu"):
        volume.pictures("report")
    shown = list(volume.as_hu().pictures("report"))
    assert [(picture.file, picture.frame, picture.policy) for picture in shown] == [
        ("scan.nii", frame, "ct-report") for frame in range(3)
    ]
    assert {picture.sha256 for picture in shown} == {decoded.sha256}
    assert volume.files == ("scan.nii",) and volume.modality is None


def test_the_description_of_a_file_reaches_nothing():
    image = nibabel.Nifti1Image(made_values(), RAS)
    image.header["descrip"] = b"Zebedee^Quimby"
    decoded = decode(image.to_bytes())
    assert "Quimby" not in repr(decoded)
