"""Two thousand NIfTI headers made by seed, with the oddities of real ones, against nibabel and SimpleITK (ITK).

Every voxel has the value, and lies at the point, that each of the two gives it; or the file carries a finding that says
what was repaired, chosen or is not known; or it is refused by name. A silent difference fails.
"""

import logging
import struct
from collections import Counter

import nibabel
import numpy as np
import pytest
import SimpleITK

from medsiglip.imaging.frame import ImageError
from medsiglip.imaging.volumes.geometry import LPS_TO_RAS
from medsiglip.imaging.volumes.nifti import decode_nifti

NUM_HEADERS = 2000
SHAPE = (5, 4, 3)
LPS = LPS_TO_RAS


def rotation(random):
    quaternion = random.normal(size=4)
    quaternion = quaternion / np.linalg.norm(quaternion)
    quaternion *= np.sign(quaternion[0]) or 1.0
    return quaternion


def one_of(random, *choices):
    return choices[random.integers(len(choices))]


def made_header(random):
    """(bytes, values): a file of one of the kinds that scanners, converters and careless scripts write."""
    dtype = one_of(random, np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64)
    values = random.integers(0, 200, SHAPE).astype(dtype)
    image = nibabel.Nifti1Image(values, np.eye(4), nibabel.Nifti1Header(endianness=one_of(random, "<", ">")))
    header = image.header
    order = header.endianness
    data = bytearray(image.to_bytes())
    spacing = np.round(random.uniform(0.4, 5.0, 3), 3)
    axis = one_of(random, (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    bcd = np.array(axis, float) if random.random() < 0.4 else rotation(random)[1:]
    qfac = one_of(random, 1.0, 1.0, 1.0, -1.0, -1.0, 0.0, 0.0, 3.0, -3.0, float("nan"))
    if random.random() < 0.1:
        spacing[random.integers(3)] *= -1
    if random.random() < 0.05:
        spacing[random.integers(3)] = one_of(random, 0.0, float("nan"))
    if random.random() < 0.15:
        bcd = bcd * one_of(random, 1.000001, 1.0001, 1.3)
    if random.random() < 0.02:
        bcd[random.integers(3)] = float("nan")
    offsets = np.round(random.uniform(-200, 200, 3), 2)
    lengths = np.abs(np.nan_to_num(spacing, nan=1.0)) + (spacing == 0)
    matrix = np.diag(lengths * one_of(random, (1, 1, 1), (-1, -1, 1)))
    if random.random() < 0.5:
        matrix = nibabel.quaternions.quat2mat(rotation(random)) @ matrix
    if random.random() < 0.1:
        matrix[0, 1] += 0.4 * spacing[0] if np.isfinite(spacing[0]) else 0.4
    if random.random() < 0.05:
        matrix = matrix * one_of(random, 0.0, float("nan"))
    srow = np.hstack([matrix, offsets[:, None]])
    slope, intercept = one_of(random, (1.0, 0.0), (0.0, 0.0), (2.0, -1024.0), (0.5, 0.0), (float("nan"), 0.0))
    unit = one_of(random, 0, 2, 2, 2, 3, 1)
    struct.pack_into(f"{order}8f", data, 76, qfac, *spacing, 0, 0, 0, 0)
    struct.pack_into(f"{order}2f", data, 112, slope, intercept)
    data[123] = unit
    codes = one_of(random, (0, 1), (0, 1), (1, 1), (2, 0), (4, 1), (0, 0), (1, 0), (0, 3))  # sform, qform
    if random.random() < 0.03:
        codes = one_of(random, (-1, 1), (0, 7), (0, -2))
    struct.pack_into(f"{order}2h", data, 252, codes[1], codes[0])
    struct.pack_into(f"{order}6f", data, 256, *bcd, *offsets)
    struct.pack_into(f"{order}12f", data, 280, *srow.ravel())
    return bytes(data), unit


def placed(decoded):
    """(N, 4) rows of x, y, z in LPS mm and the value, of all voxels, sorted by the file's own value order."""
    index = np.indices(decoded.values.shape).reshape(3, -1)
    points = (decoded.affine_lps_mm @ np.vstack([index, np.ones(index.shape[1])]))[:3]
    return points, decoded.values.reshape(-1)


def agrees(decoded, affine_lps, array):
    """Whether each voxel is where (i, j, k) of the array lies by the affine, and has its value."""
    if not np.isfinite(affine_lps).all() or abs(np.linalg.det(affine_lps[:3, :3])) < 1e-12:
        return False
    points, values = placed(decoded)
    index = (np.linalg.inv(affine_lps) @ np.vstack([points, np.ones(points.shape[1])]))[:3]
    nearest = np.rint(index)
    if np.abs(index - nearest).max() > 0.02 or nearest.min() < 0 or (nearest.max(axis=1) >= SHAPE).any():
        return False
    i, j, k = nearest.astype(int)
    return bool(np.allclose(values, array[i, j, k], rtol=1e-6, atol=1e-6))


def by_nibabel(data, unit):
    image = nibabel.Nifti1Image.from_bytes(data)
    scale = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}[unit]  # nibabel leaves units to its user
    return LPS @ np.diag([scale, scale, scale, 1.0]) @ image.affine, np.asarray(image.dataobj, np.float64)


def by_itk(path):
    image = SimpleITK.ReadImage(str(path), SimpleITK.sitkFloat64)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine, SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)


@pytest.fixture
def silent():
    """nibabel logs what it repairs, ITK prints what it dislikes."""
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_thousand_headers_lie_as_nibabel_and_itk_have_them(tmp_path, silent):
    random = np.random.default_rng(17)
    outcomes = Counter()
    path = tmp_path / "scan.nii"
    for number in range(NUM_HEADERS):
        data, unit = made_header(random)
        try:
            decoded = decode_nifti(data, "scan.nii")
        except ImageError:
            outcomes["refused"] += 1
            continue
        said = {finding.kind for finding in decoded.findings}
        path.write_bytes(data)
        for name, read in (("nibabel", lambda d=data, u=unit: by_nibabel(d, u)), ("itk", lambda: by_itk(path))):
            try:
                theirs = read()
            except Exception:  # a header that the other reader refuses
                outcomes[f"{name} refuses"] += 1
                continue
            same = agrees(decoded, *theirs)
            outcomes[f"{name} {'agrees' if same else 'differs'}"] += 1
            if name == "nibabel" and said == {"no-orientation"}:  # whose origin it takes for the middle
                theirs[0][:3, 3] = 0
                assert agrees(decoded, *theirs), f"header {number}: nibabel takes its axes otherwise"
            assert same or said, f"header {number}: {name} has it otherwise, and nothing is said of it here"
    assert outcomes["nibabel agrees"] > 0.7 * NUM_HEADERS, outcomes
    assert outcomes["itk agrees"] > 0.5 * NUM_HEADERS, outcomes
    assert outcomes["refused"] == 0, outcomes


@pytest.mark.filterwarnings("ignore")
def test_a_planted_turn_is_seen_as_a_difference(silent):
    data, unit = made_header(np.random.default_rng(3))
    decoded = decode_nifti(data, "scan.nii")
    theirs = by_nibabel(data, unit)
    assert agrees(decoded, *theirs)
    assert not agrees(decoded._replace(values=decoded.values[:, ::-1, ::-1]), *theirs)
