"""DICOM to model-ready tensors: our worker processes against pydicom + PIL, and against MONAI's LoadImage chain.

    python -m benchmarks.imaging --data ../shared/data --repeats 5

Jobs. *films*: grey single-frame DICOM files of the kit, compressed and not, to (N, 3, 448, 448) float32. *volume*: a
folder of 300 CT slices (512 × 512, made here from the kit's three consecutive slices, names shuffled), uncompressed
or in lossless JPEG 2000, to 85 slices in three HU windows, (85, 3, 448, 448) float32. Both sides must give the same
tensors before their times mean anything. Beside them the limits: reading the bytes, and the codecs alone. Peak memory
is measured in processes of its own, ours with its workers.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Neighbours, append, machine, medians, provenance, seconds_of
from medsiglip.imaging import DecoderPool, Source, open_series, series_pictures
from medsiglip.preprocess import Preprocessing

SIZE_PX = 448
NUM_SLICES = 300
BUDGET = 85
TARGET = 1.8
"""Times as fast as the better peer."""
MEMORY_TARGET = 1.5
"""Peak memory while a volume is read, as a multiple of the volume's own size."""
PREPROCESSING = Preprocessing(SIZE_PX, "huggingface")
WINDOWS_HU = ((-1225, 1025), (-135, 215), (0, 80))
LARGEST_DIFFERENCE = 2 / 127.5
"""Two grey levels of 8 bits on the scale of pixel values: rounded before the resize and after it."""

JOBS = ("films", "volume", "volume, JPEG 2000")
HEADERS_FIRST = "pydicom + PIL, headers first"
"""A loop that first reads all headers, and then the pixels of the sampled slices alone."""

Cases = dict[str, Callable[[], Any]]


def main() -> None:
    """Measure, print tables, append a record; the exit status is 1 if the two sides disagree."""
    options = _options()
    films = kit_films(options.data) * options.copies
    with tempfile.TemporaryDirectory() as folder, DecoderPool(workers=options.workers) as pool:
        series = write_series(options.data, Path(folder, "plain"), NUM_SLICES)
        num_compressed = NUM_SLICES if JOBS[2] in options.jobs else 0
        compressed = write_series(options.data, Path(folder, "jpeg-2000"), num_compressed, compress=True)
        jobs: dict[str, Cases] = {
            JOBS[0]: film_cases(films, pool),
            JOBS[1]: volume_cases(series, pool),
            JOBS[2]: volume_cases(compressed, pool),
        }
        jobs = {job: cases for job, cases in jobs.items() if job in options.jobs}
        agreement = {job: largest_differences(cases) for job, cases in jobs.items()}
        jobs["limits"] = limit_cases(films, series)
        neighbours = Neighbours()
        seconds = {job: seconds_of(cases, options.repeats) for job, cases in jobs.items()}
        share = neighbours.share()
        memory = [peak_memory(reader, series) for reader in ("ours", "simpleitk", "monai")]
    record = {
        "benchmark": "imaging",
        **provenance(),
        "machine": machine(),
        "share_of_other_programs": share,
        "films": len(films),
        "slices": NUM_SLICES,
        "workers": options.workers,
        "repeats": options.repeats,
        "seconds": seconds,
        "ratios": {job: ratio(cases) for job, cases in seconds.items() if job != "limits"},
        "largest_difference": agreement,
        "memory": memory,
    }
    append(record, options.out)
    print(table(record))
    for job, differences in agreement.items():
        if max(differences.values()) > LARGEST_DIFFERENCE:
            sys.exit(f"{job}: the sides disagree ({differences}): their times do not compare")


# The work


def kit_films(data: Path) -> list[Path]:
    """Grey single-frame DICOM files of the kit that every side reads."""
    folder = data / "dicom-real"
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    grey = [row for row in rows if row["photometric"].startswith("MONOCHROME") and row["frames"] == "1"]
    return [folder / row["file"] for row in grey]


def write_series(data: Path, folder: Path, num_slices: int, *, compress: bool = False) -> Path:
    """A CT series of `num_slices` files, 1 mm apart, under shuffled names; uncompressed or lossless JPEG 2000."""
    from pydicom import dcmread
    from pydicom.uid import JPEG2000Lossless, generate_uid

    folder.mkdir()

    originals = [dcmread(data / f"dicom-real/images/CT_series3_0{i}.dcm") for i in (1, 2, 3)]
    names = list(range(num_slices))
    random.Random(0).shuffle(names)
    series_uid = generate_uid(entropy_srcs=["benchmark"])
    first = [float(value) for value in originals[0].ImagePositionPatient]
    for k in range(num_slices):
        dataset = originals[k % 3]
        # The kit's three slices in turn, each time moved by other columns, so that no two slices are the same.
        stored = np.roll(np.frombuffer(dataset.PixelData, np.int16).reshape(512, 512), k, axis=1)
        copy = dcmread(dataset.filename)
        copy.PixelData = stored.tobytes()
        copy.SeriesInstanceUID = series_uid
        copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(k)])
        copy.InstanceNumber = k + 1  # MONAI sorts by it
        copy.ImagePositionPatient = [first[0], first[1], first[2] + k]
        if compress:
            copy.BitsStored, copy.HighBit = 16, 15
            copy.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
        copy.save_as(folder / f"{names[k]:04d}.dcm")
    return folder


# Ours and the peers


def film_cases(films: Sequence[Path], pool: DecoderPool) -> Cases:
    """Files to (N, 3, 448, 448) float32."""
    return {
        "ours": lambda: ours_films(films, pool),
        "ours, one worker, started for it": lambda: _in_new_pool(ours_films, films, 1),
        "ours, two workers, started for it": lambda: _in_new_pool(ours_films, films, 2),
        "pydicom + PIL": lambda: _stacked([pydicom_film(film) for film in films]),
        "MONAI LoadImage": lambda: _stacked([monai_film(film) for film in films]),
    }


def volume_cases(series: Path, pool: DecoderPool) -> Cases:
    """A folder of slices to (85, 3, 448, 448) float32."""
    return {
        "ours": lambda: ours_volume(series, pool),
        "ours, two workers, started for it": lambda: _in_new_pool(ours_volume, series, 2),
        "pydicom + PIL": lambda: pydicom_volume(series),
        HEADERS_FIRST: lambda: pydicom_volume(series, headers_first=True),
        "MONAI LoadImage": lambda: monai_volume(series),
    }


def limit_cases(films: Sequence[Path], series: Path) -> Cases:
    """What no reader passes on one core: the bytes, and the codecs."""
    import pydicom

    slices = sorted(series.iterdir())
    return {
        "films: read the bytes": lambda: [film.read_bytes() for film in films],
        "films: decode only, one core": lambda: [pydicom.dcmread(film).pixel_array for film in films],
        "volume: read the bytes": lambda: [file.read_bytes() for file in slices],
    }


def ours_films(films: Sequence[Path], pool: DecoderPool) -> Any:
    """Through worker processes, which decode, window and resize."""
    sources = [Source(str(film)) for film in films]
    return PREPROCESSING.pixel_values(
        [_whole(found) for found in pool.pictures(sources, "voi", square=PREPROCESSING.square)]
    )


def ours_volume(series: Path, pool: DecoderPool) -> Any:
    """Headers, one sort, and only the sampled slices' pixels."""
    (found,) = open_series(series, pool)
    pictures = series_pictures(found, pool, "report", BUDGET, square=PREPROCESSING.square)
    return PREPROCESSING.pixel_values([picture.pixels for picture in pictures])


def pydicom_film(film: Path) -> np.ndarray:
    """(3, 448, 448) as a careful user writes it: modality LUT, window or full range, MONOCHROME1, PIL's resize."""
    import pydicom
    from pydicom.pixels import apply_modality_lut

    dataset = pydicom.dcmread(film)
    stored = dataset.pixel_array
    padding = stored == dataset.PixelPaddingValue if "PixelPaddingValue" in dataset else np.zeros(stored.shape, bool)
    values = apply_modality_lut(stored, dataset)
    if "WindowCenter" in dataset:
        center, width = _first(dataset.WindowCenter), _first(dataset.WindowWidth)
        grey = ((values - (center - 0.5)) / (width - 1) + 0.5) * 255
    elif dataset.BitsStored == 8:
        grey = values.astype(np.float64)
    else:
        low, high = values[~padding].min(), values[~padding].max()
        grey = (values.astype(np.float64) - low) / (high - low) * 255
    pixels = np.round(np.clip(grey, 0, 255)).astype(np.uint8)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = 255 - pixels
    pixels[padding] = 0
    return _pil_square(pixels)


def pydicom_volume(series: Path, *, headers_first: bool = False) -> Any:
    """Read, sort by the slice normal, rescale to HU, sample, window, resize, one by one."""
    import pydicom

    files = sorted(series.iterdir())
    datasets = [pydicom.dcmread(file, stop_before_pixels=headers_first) for file in files]
    normal = np.cross(*np.reshape(datasets[0].ImageOrientationPatient, (2, 3)))
    order = np.argsort([float(np.dot(normal, dataset.ImagePositionPatient)) for dataset in datasets])
    squares = []
    for k in _sampled(order):
        dataset = pydicom.dcmread(files[k]) if headers_first else datasets[k]
        values_hu = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        squares.append(_pil_square(_windowed(values_hu)))
    return _stacked(squares)


def monai_film(film: Path) -> np.ndarray:
    """MONAI's usual chain; it knows neither the file's window nor MONOCHROME1, so its pixels are its own."""
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage, RepeatChannel, Resize, ScaleIntensity

    chain = Compose(
        [
            LoadImage(reader="PydicomReader", image_only=True),
            EnsureChannelFirst(),
            ScaleIntensity(-1.0, 1.0),
            Resize((SIZE_PX, SIZE_PX), mode="bilinear", anti_aliasing=False),
            RepeatChannel(3),
        ]
    )
    found = np.asarray(chain(film), np.float32)
    return found.reshape(-1, SIZE_PX, SIZE_PX)[:3].swapaxes(1, 2)


def monai_volume(series: Path) -> Any:
    """LoadImage on the folder, then the windows, the sampling and the resize on its array."""
    from monai.transforms import LoadImage

    volume = np.asarray(LoadImage(reader="PydicomReader", image_only=True)(series))  # (columns, rows, slices)
    slices = [volume[:, :, k].T for k in _sampled(np.arange(volume.shape[2]))]
    return _stacked([_pil_square(_windowed(values_hu)) for values_hu in slices])


def _windowed(values_hu: np.ndarray) -> np.ndarray:
    channels = [np.clip((values_hu - low) / (high - low), 0, 1) * 255 for low, high in WINDOWS_HU]
    return np.round(np.stack(channels, axis=2)).astype(np.uint8)


def _sampled(order: np.ndarray) -> list[int]:
    return [int(order[int((i + 0.5) * len(order) / BUDGET)]) for i in range(BUDGET)]


def _pil_square(pixels: np.ndarray) -> np.ndarray:
    """(3, 448, 448) float32 as transformers' processor makes it."""
    from PIL import Image

    squashed = Image.fromarray(pixels).resize((SIZE_PX, SIZE_PX), Image.Resampling.BILINEAR).convert("RGB")
    return ((np.asarray(squashed, np.float32) / 255 - 0.5) / 0.5).transpose(2, 0, 1)


def _stacked(squares: Sequence[np.ndarray]) -> Any:
    import torch

    return torch.from_numpy(np.stack(squares))


def _in_new_pool(job: Callable[[Any, DecoderPool], Any], work: Any, workers: int) -> Any:
    with DecoderPool(workers=workers) as pool:
        return job(work, pool)


def _whole(found: Any) -> np.ndarray:
    if isinstance(found, ValueError):
        raise found
    return np.asarray(found[0].pixels)


def _first(value: Any) -> float:
    return float(value if isinstance(value, str | int | float) else value[0])


# Agreement, memory, tables


def largest_differences(cases: Cases) -> dict[str, float]:
    """Of each side's tensors from ours, in pixel values (-1..1); MONAI's films are another picture (see there)."""
    ours = cases["ours"]()
    peers = [name for name in cases if name.startswith("pydicom") or (name.startswith("MONAI") and len(ours) == BUDGET)]
    return {name: float((cases[name]() - ours).abs().max()) for name in peers}


def peak_memory(reader: str, series: Path) -> dict[str, Any]:
    """Peak resident memory of one read of the whole volume, in a process of its own (Linux).

    Returns:
        reader; in MiB the volume, the process before reading, its growth to the peak, and the peak of all its worker
        processes together (0 without); ratio = growth / volume.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _MEMORY_SCRIPT, reader, str(series)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# VmHWM, not ru_maxrss: the latter of a new process begins at its parent's peak.
_MEMORY_SCRIPT = """
import json, os, pathlib, sys
import numpy as np

def mib(key, process="self"):
    lines = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024

def workers_mib():
    listed = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return sum(mib("VmHWM", child) for child in listed)

reader, folder = sys.argv[1:]
if reader == "ours":
    from medsiglip.imaging import DecoderPool, open_series, read_volume
    before = mib("VmRSS")
    with DecoderPool(workers=2) as pool:
        (series,) = open_series(folder, pool)
        voxels = read_volume(series, pool).voxels
        workers = workers_mib()
else:
    if reader == "simpleitk":
        import SimpleITK
        before = mib("VmRSS")
        image = SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(folder))
        voxels = SimpleITK.GetArrayViewFromImage(image)
    else:
        from monai.transforms import LoadImage
        load = LoadImage(reader="PydicomReader", image_only=True)
        before = mib("VmRSS")
        voxels = load(folder)
    workers = 0.0
volume = float(np.prod(voxels.shape)) * 2 / 2**20
growth = mib("VmHWM") - before
print(json.dumps({"reader": reader, "volume_mib": volume, "before_mib": before, "growth_mib": growth,
                  "workers_mib": workers, "ratio": growth / volume}))
"""


def ratio(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Ours against the faster peer, and beside it against a loop that reads only the sampled slices' pixels."""
    found = medians(seconds)
    peers = [name for name in found if not name.startswith("ours") and name != HEADERS_FIRST]
    peer = min(peers, key=lambda name: found[name])
    factor = found[peer] / found["ours"]
    beside = {HEADERS_FIRST: found[HEADERS_FIRST] / found["ours"]} if HEADERS_FIRST in found else {}
    return {"peer": peer, "ratio": factor, "target": TARGET, "met": factor >= TARGET, "beside": beside}


def table(record: dict[str, Any]) -> str:
    """Markdown tables of seconds, ratios and memory."""
    lines = ["| job | case | seconds, median (range) |", "|---|---|---|"]
    for job, cases in record["seconds"].items():
        for name, value in medians(cases).items():
            lines.append(f"| {job} | {name} | {value:.2f} ({min(cases[name]):.2f} to {max(cases[name]):.2f}) |")
    lines += ["", "| job | faster peer | ours / peer | target | |", "|---|---|---|---|---|"]
    for job, found in record["ratios"].items():
        verdict = "met" if found["met"] else "missed"
        lines.append(f"| {job} | {found['peer']} | {found['ratio']:.2f} | {found['target']} | {verdict} |")
        lines += [f"| {job} | {name} | {value:.2f} | | |" for name, value in found["beside"].items()]
    lines += ["", "| whole volume read by | volume, MiB | peak growth, MiB | ratio | its workers, MiB |"]
    lines += ["|---|---|---|---|---|"]
    for found in record["memory"]:
        size, growth, workers = (f"{found[key]:.0f}" for key in ("volume_mib", "growth_mib", "workers_mib"))
        lines.append(f"| {found['reader']} | {size} | {growth} | {found['ratio']:.2f} | {workers} |")
    return "\n".join([*lines, f"share of the machine that other programs used: {record['share_of_other_programs']}"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imaging", description="DICOM to model-ready tensors.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the real-data kit")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS, metavar="JOB", help=", ".join(JOBS))
    parser.add_argument("--copies", type=int, default=3, help="times the kit's films are read in one round")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "imaging.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    main()
