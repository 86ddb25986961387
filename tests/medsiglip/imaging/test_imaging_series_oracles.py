"""A thousand DICOM series made by seed, with the oddities of real ones, against what was written, ITK (GDCM) and DCMTK.

A voxel's value says of which acquisition and which slice it is. Each series must come out as one volume of one
acquisition in the order of its positions, with the values that ITK reads; or be refused by name; or be single pictures
that say why. A mixture, another order or another value without a word fails.
"""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from medsiglip.imaging.dicom.instance import read_header
from medsiglip.imaging.source import Source
from medsiglip.imaging.units import HU, HU_UNPROVEN
from medsiglip.imaging.volumes.read_series import read_volume
from medsiglip.imaging.volumes.series import LooseSlice, RefusedSeries, Series, group_series
from tests.medsiglip.imaging.conftest import run_dcmtk
from tests.medsiglip.imaging.made_series import InProcessPool, ct_file

NUM_SERIES = 1000
TOLD_BY = (
    "echo time", "echo number", "time", "acquisition", "b-value", "image type", "flip angle", "phase", "kernel",
    "instance number", "number order", "number turns", "uid order", "acquisition time", "content time", "nothing",
)  # fmt: skip
ORDERS = ("number order", "number turns", "uid order")  # which say nothing of few positions
AXIAL, CORONAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)
FEET_FIRST, TURNED = (-1, 0, 0, 0, 1, 0), (0.6, 0.8, 0, -0.8, 0.6, 0)


def one_of(random, *choices):
    return choices[random.integers(len(choices))]


def told(kind, acquisition, place, num_places, num_acquisitions):
    """What the tags of one image say of its acquisition, from 0, at a place, from 0."""
    in_order = acquisition * num_places + place
    in_turn = place * num_acquisitions + acquisition
    odd_even = [*range(0, num_places, 2), *range(1, num_places, 2)].index(place)
    seconds = acquisition * 30 + odd_even
    return {
        "echo time": {"EchoTime": 10.0 + 7 * acquisition},
        "echo number": {"EchoNumbers": acquisition + 1},
        "time": {"TemporalPositionIdentifier": acquisition + 1},
        "acquisition": {"AcquisitionNumber": acquisition + 1},
        "b-value": {"DiffusionBValue": 500.0 * acquisition},
        "image type": {"ImageType": ["ORIGINAL", "PRIMARY", "DIXON", ["W", "F", "IN_PHASE"][acquisition]]},
        "flip angle": {"FlipAngle": 5.0 + 10 * acquisition},
        "phase": {"TriggerTime": 100.0 * acquisition},
        "kernel": {"ConvolutionKernel": ["B30f", "B60f", "B80f"][acquisition]},
        "instance number": {"InstanceNumber": acquisition + 1},
        "number order": {"InstanceNumber": in_order + 1},
        "number turns": {"InstanceNumber": in_turn + 1},
        "uid order": {"SOPInstanceUID": f"1.2.840.99.7.{in_order + 1}"},
        "acquisition time": {"AcquisitionTime": f"10{seconds // 60:02d}{seconds % 60:02d}.000000"},
        "content time": {"ContentTime": f"10{seconds // 60:02d}{seconds % 60:02d}.000000"},
        "nothing": {},
    }[kind]


def scaled(random):
    """Tags of the rescale, what becomes of a stored value, and whether tags make it HU."""
    return one_of(
        random,
        ({"RescaleIntercept": -1024}, lambda v: v - 1024.0, True),
        ({"RescaleIntercept": -1000, "RescaleSlope": 2}, lambda v: 2.0 * v - 1000, True),
        ({"RescaleSlope": 0}, lambda v: v - 1024.0, True),
        ({"RescaleSlope": 1, "RescaleIntercept": 0}, lambda v: 1.0 * v, False),
        ({"RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "US"}, lambda v: 1.0 * v, None),
        ({"RescaleSlope": 0.5, "RescaleIntercept": 0}, lambda v: 0.5 * v, True),
    )


class Made:
    """One series in a folder, and what is true of it."""

    def __init__(self, random, folder):
        self.kind = one_of(random, *TOLD_BY)
        self.num_acquisitions = int(one_of(random, 1, 2, 2, 3)) if self.kind != "nothing" else 2
        self.num_places = int(random.integers(3, 7))
        orientation = np.array(one_of(random, AXIAL, CORONAL, SAGITTAL, FEET_FIRST, TURNED), float)
        self.normal = np.cross(orientation[:3], orientation[3:])
        step_mm = round(float(random.uniform(0.8, 6)), 2)
        start = np.round(random.uniform(-100, 100, 3), 2)
        rescale, self.value_of, self.is_hu = scaled(random)
        uids = one_of(random, ("1.2.840.99.1", "1.2.4"), ("anonymized", "word"), ("2bfbb7fd2e8b", "1.2.4"))
        spacing = one_of(random, [0.5, 0.5], [0.5, 0.75])
        self.files = {}
        for acquisition in range(self.num_acquisitions):
            for place in range(self.num_places):
                position = start + place * step_mm * self.normal
                uid = f"2.25.{random.integers(2**62)}"  # of no order
                tags = {"InstanceNumber": place + 1, "AcquisitionNumber": 1, "SOPInstanceUID": uid, **rescale}
                tags |= told(self.kind, acquisition, place, self.num_places, self.num_acquisitions)
                stored = np.full((4, 5), acquisition * 100 + place, np.int16)
                stored[0] += np.arange(5, dtype=np.int16) * 1000
                data = ct_file(stored, position, orientation, spacing=spacing, uids=uids, **tags)
                self.files[data] = (acquisition, place, position)
        self.paths = {}
        for name, data in zip(random.permutation(len(self.files)), self.files, strict=True):
            path = folder / f"{name:03d}.dcm"
            path.write_bytes(data)
            self.paths[str(path)] = self.files[data]
        self.folder = folder

    @property
    def may_be_refused(self):
        few = self.kind in ORDERS and self.num_places < 4
        return self.num_acquisitions > 1 and (self.kind == "nothing" or few)


def opened(made):
    headers = [(Source(path), read_header(Path(path).read_bytes(), path)) for path in sorted(made.paths)]
    return group_series(headers)


def check(made, volume, outcomes):
    """Against what was written."""
    stored = [made.paths[path] for path in volume.files]
    assert len({acquisition for acquisition, _, _ in stored}) == 1, f"{made.kind}: acquisitions are mixed"
    along = [float(np.dot(position, made.normal)) for _, _, position in stored]
    assert along == sorted(along) and len(stored) == made.num_places, made.kind
    for index, (acquisition, place, position) in enumerate(stored):
        expected = made.value_of(acquisition * 100 + place + 1000.0 * np.arange(5))
        np.testing.assert_allclose(volume.voxels[index, 0], expected)
        np.testing.assert_allclose((volume.affine_lps_mm @ [index, 0, 0, 1])[:3], position, atol=1e-3)
    said = {finding.kind for finding in volume.findings}
    if made.is_hu is False:
        assert volume.unit == HU_UNPROVEN and "hu-unproven" in said
    else:
        assert volume.unit == (HU if made.is_hu else "stored")
    assert made.num_acquisitions == 1 or "other-acquisition" in said
    outcomes["volume"] += 1


def check_with_itk(volume):
    """GDCM's rescale and geometry of the same files in the same order."""
    image = SimpleITK.ReadImage(list(volume.files), SimpleITK.sitkFloat64)
    np.testing.assert_allclose(SimpleITK.GetArrayFromImage(image), volume.voxels, atol=1e-6)
    np.testing.assert_allclose(image.GetOrigin(), volume.affine_lps_mm[:3, 3], atol=1e-3)
    directions = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    np.testing.assert_allclose(directions[:, ::-1], volume.affine_lps_mm[:3, :3], atol=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_thousand_series_are_one_acquisition_in_order_or_refused_by_name(tmp_path):
    random = np.random.default_rng(17)
    outcomes, refused = Counter(), Counter()
    for number in range(NUM_SERIES):
        folder = tmp_path / str(number)
        folder.mkdir()
        made = Made(random, folder)
        for entry in opened(made):
            if isinstance(entry, RefusedSeries):
                assert made.may_be_refused, f"series {number}, told by {made.kind}: {entry.reason}"
                assert "nothing in the files tells apart; give the files of one acquisition alone" in entry.reason
                refused[made.kind] += 1
            else:
                assert isinstance(entry, Series), f"series {number}, told by {made.kind}: {entry}"
                assert made.kind != "nothing" or made.num_acquisitions == 1, f"series {number}: chosen by chance"
                volume = read_volume(entry, InProcessPool())
                check(made, volume, outcomes)
                check_with_itk(volume)
        shutil.rmtree(folder)
    assert outcomes["volume"] > 0.85 * NUM_SERIES and outcomes["volume"] + sum(refused.values()) == NUM_SERIES
    assert refused["nothing"] > 20


@pytest.mark.filterwarnings("ignore")
def test_positions_as_dcmdump_prints_them(tmp_path, dcmtk):
    """The order of a series by an independent reader of its headers."""
    random = np.random.default_rng(5)
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        made = Made(random, folder)
        for entry in (entry for entry in opened(made) if isinstance(entry, Series)):
            printed = run_dcmtk("dcmdump", "+P", "0020,0032", "-q", *entry.files).decode()
            positions = [line.split("[")[1].split("]")[0].split("\\") for line in printed.splitlines() if "[" in line]
            along = np.array(positions, float) @ made.normal
            assert len(along) == made.num_places and (np.diff(along) > 0).all()


@pytest.mark.filterwarnings("ignore")
def test_a_planted_mixture_is_seen(tmp_path):
    random = np.random.default_rng(0)
    made = Made(random, tmp_path)
    while made.num_acquisitions < 2 or made.may_be_refused:
        for path in made.paths:
            Path(path).unlink()
        made = Made(random, tmp_path)
    (series,) = (entry for entry in opened(made) if isinstance(entry, Series))
    volume = read_volume(series, InProcessPool())
    check(made, volume, Counter())
    other = next(path for path, (_, place, _) in made.paths.items() if place == 0 and path not in volume.files)
    with pytest.raises(AssertionError, match="mixed"):
        check(made, replace(volume, files=(other, *volume.files[1:])), Counter())


def test_slices_that_cannot_stack_say_why(tmp_path):
    for number in range(3):
        data = ct_file(np.zeros((4, 5), np.int16), (0, 0, number), ImagePositionPatient=None)
        (tmp_path / f"{number}.dcm").write_bytes(data)
    headers = [(Source(str(path)), read_header(path.read_bytes(), "")) for path in sorted(tmp_path.iterdir())]
    entries = group_series(headers)
    assert [type(entry) for entry in entries] == [LooseSlice] * 3
    expected = "3 files of one series are single pictures, not a volume: "
    assert {entry.finding.text for entry in entries} == {f"{expected}Image Position (Patient) (0020,0032) is missing"}
