"""MedSigLIP against transformers' own pipelines: files on disk to vectors, and to 14 zero-shot probabilities.

    python -m benchmarks.encoder --data ../shared/data --model nano --images 256 --repeats 5

Both sides read the same files and the same weights in the same process, take turns, and must agree before
their times mean anything. The peer runs in several settings and the best of them counts. Beside both stand
the physical limits: the bare network on ready pixel values, and decoding alone.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Neighbours, append, machine, medians, provenance, seconds_of
from medsiglip import MedSigLIP, ZeroShotClassifier
from medsiglip.embed import readable_pictures
from medsiglip.imaging import list_files, read_pictures
from medsiglip.prompts import label_set

DATA_SETS = ("histo-lc25000-lung", "cxr-nih14", "modality-mednist")
LABELS = tuple(
    f"a chest X-ray with {finding}"
    for finding in (
        "atelectasis", "cardiomegaly", "consolidation", "edema", "effusion", "emphysema", "fibrosis", "hernia",
        "infiltration", "a mass", "a nodule", "pleural thickening", "pneumonia", "pneumothorax",
    )
)  # fmt: skip
TARGETS = {"embed": 2.0, "zero-shot": 3.0}
"""Images a second, as a multiple of the peer's."""
ENSEMBLE_TARGETS = {"peer, one call, 82 prompts": 4.5, "peer, a call a finding": 12.0}
"""The same of the 13 findings by all their prompts, with the peer's best batch of each way to call it."""
ENSEMBLE_IMAGES = 32
LEAST_COSINE = 0.9999
LARGEST_DIFFERENCE = {"float32": 1e-4, "bfloat16": 3e-2}
"""What counts as the same vectors and the same probabilities; a bfloat16 logit has eight bits."""

Cases = dict[str, Callable[[], Any]]
"""Name to work; a name is "float32 ours" or "bfloat16 peer, batch 32": the dtype, then who and how."""


def main() -> None:
    """Measure, print a table, append a record; the exit status is 1 if the two sides disagree."""
    options = _options()
    files = first_pictures(options.data, options.images)
    encoders = [MedSigLIP.from_pretrained(options.model, device=options.device, dtype=name) for name in options.dtypes]
    jobs: dict[str, Cases] = {"embed": {}, "zero-shot": {}, "13 findings": {}, "limits": {}}
    for encoder in encoders:
        jobs["embed"] |= embed_cases(encoder, files)
        jobs["zero-shot"] |= zero_shot_cases(encoder, files)
        jobs["13 findings"] |= ensemble_cases(encoder, files[:ENSEMBLE_IMAGES])
        jobs["limits"] |= network_cases(encoder, files)
    jobs["limits"] |= decode_cases(encoders[0], files)
    agreement = {dtype_of(encoder): agreement_of(encoder, jobs, files) for encoder in encoders}
    neighbours = Neighbours()
    seconds = {job: seconds_of(cases, options.repeats) for job, cases in jobs.items()}
    record = {
        "benchmark": "encoder",
        **provenance(),
        "machine": machine(),
        "share_of_other_programs": neighbours.share(),
        "model": options.model,
        "fingerprint": encoders[0].fingerprint,
        "device": str(encoders[0].model.device),
        "images": len(files),
        "labels": len(LABELS),
        "repeats": options.repeats,
        "seconds": seconds,
        "ratios": ratios(seconds),
        "agreement": agreement,
    }
    append(record, options.out)
    print(table(record))
    if not all(found["agrees"] for found in agreement.values()):
        sys.exit("the two sides disagree: their times do not compare")


def first_pictures(data: Path, count: int) -> list[Path]:
    """The first `count` pictures, taken in turn from each data set (sorted by name).

    Raises:
        ValueError: a data set is missing, or there are not enough pictures.
    """
    listed = [list_files([data / name / "images"]) for name in DATA_SETS]
    for problem in chain.from_iterable(found.problems for found in listed):
        raise ValueError(f"{problem}; give --data the folder of the real-data kit")
    turns = chain.from_iterable(zip_longest(*(found.files for found in listed)))
    files = [Path(source.path) for source in turns if source is not None][:count]
    if len(files) < count:
        raise ValueError(f"--images {count}: only {len(files)} pictures in {data}; ask for fewer")
    return files


def embed_cases(encoder: MedSigLIP, files: Sequence[Path]) -> Cases:
    """Files to vectors: ours through the Python call and through what `medsiglip embed` does, and the peer."""
    names = [str(file) for file in files]
    peer = feature_pipeline(encoder)

    def of_peer(**settings: int) -> Any:
        return peer(names, pool=True, return_tensors=True, **settings)

    return _of_dtype(
        encoder,
        {
            "ours": lambda: encoder.encode_images(names),
            "ours, command line": lambda: stream(encoder, files),
            "peer, batch 1": lambda: of_peer(batch_size=1),
            "peer, batch 32": lambda: of_peer(batch_size=32),
            "peer, batch 32, 2 workers": lambda: of_peer(batch_size=32, num_workers=2),
        },
    )


def zero_shot_cases(encoder: MedSigLIP, files: Sequence[Path]) -> Cases:
    """Files to 14 probabilities; encoding the labels is part of both."""
    names = [str(file) for file in files]
    peer = zero_shot_pipeline(encoder, maskless=True)

    def of_peer(**settings: int) -> Any:
        return peer(names, candidate_labels=list(LABELS), hypothesis_template="{}", **settings)

    return _of_dtype(
        encoder,
        {
            "ours": lambda: ZeroShotClassifier(encoder, LABELS, independent=True).classify(names),
            "peer, batch 1": lambda: of_peer(batch_size=1),
            "peer, batch 16": lambda: of_peer(batch_size=16),
            "peer, batch 16, 2 workers": lambda: of_peer(batch_size=16, num_workers=2),
        },
    )


def ensemble_cases(encoder: MedSigLIP, files: Sequence[Path]) -> Cases:
    """Files to the report's 13 findings, present against absent, by its 82 prompts; no class vector is kept.

    The pipeline's scores of the prompts must still be put together; that is not counted against it.
    """
    names, findings = [str(file) for file in files], label_set("chest-xray-findings")
    by_finding = [[*findings.prompts[name], *findings.absent[name]] for name in findings.labels]
    every = [text for texts in by_finding for text in texts]
    peer = zero_shot_pipeline(encoder, maskless=True)

    def call(texts: Sequence[str]) -> Any:
        return peer(names, candidate_labels=list(texts), hypothesis_template="{}", batch_size=16)

    return _of_dtype(
        encoder,
        {
            "ours": lambda: ZeroShotClassifier(encoder, findings).classify(names),
            "peer, one call, 82 prompts": lambda: call(every),
            "peer, a call a finding": lambda: [call(texts) for texts in by_finding],
        },
    )


def network_cases(encoder: MedSigLIP, files: Sequence[Path]) -> Cases:
    """The compute bound: the bare network on ready pixel values, and the 14 labels once."""
    import torch

    prepare = encoder.preprocessing
    resized = [prepare.resized(picture) for file in files for picture in read_pictures(file)]
    values = prepare.pixel_values(resized).to(encoder.model.device, encoder.model.dtype)

    def network() -> None:
        with torch.inference_mode():
            for batch in values.split(32):
                encoder.model.get_image_features(batch).pooler_output.cpu()

    return _of_dtype(
        encoder,
        {"network alone, batch 32": network, "14 labels alone": lambda: encoder.encode_texts(LABELS)},
    )


def decode_cases(encoder: MedSigLIP, files: Sequence[Path]) -> Cases:
    """What must be done to the files whatever the network, on one core."""
    pictures = [picture for file in files for picture in read_pictures(file)]
    return {
        "decode alone, one core": lambda: [read_pictures(file) for file in files],
        "resize alone, one core": lambda: [encoder.preprocessing.resized(picture) for picture in pictures],
    }


def feature_pipeline(encoder: MedSigLIP) -> Any:
    """The peer for vectors: image-feature-extraction over the same weights, dtype and device.

    Given the folder alone, the pipeline loads the whole SiglipModel, whose forward asks for `input_ids`;
    a user must hand it the vision half and its image processor.
    """
    from transformers import AutoImageProcessor, SiglipVisionModel, pipeline

    tower = SiglipVisionModel.from_pretrained(encoder.folder, dtype=encoder.model.dtype)
    processor = AutoImageProcessor.from_pretrained(encoder.folder)
    return pipeline("image-feature-extraction", model=tower, image_processor=processor, device=encoder.model.device)


def zero_shot_pipeline(encoder: MedSigLIP, *, maskless: bool) -> Any:
    """The peer for labels: zero-shot-image-classification over the same weights, dtype and device.

    It pads texts to 64 for SigLIP by itself, but passes the attention mask on when the tokenizer hands one out,
    which SigLIP was never trained with. `maskless` is what a user must do about it; it changes nothing where
    tokenizer_config.json says `"model_input_names": ["input_ids"]`, as the published checkpoints do.
    """
    from transformers import AutoTokenizer, pipeline

    return pipeline(
        "zero-shot-image-classification",
        model=str(encoder.folder),
        tokenizer=AutoTokenizer.from_pretrained(encoder.folder, model_input_names=["input_ids"]) if maskless else None,
        dtype=encoder.model.dtype,
        device=encoder.model.device,
    )


def stream(encoder: MedSigLIP, files: Sequence[Path]) -> np.ndarray:
    """What `medsiglip embed` does, without writing the file."""

    def refuse(problem: object) -> None:
        raise ValueError(str(problem))

    readable = readable_pictures(files, refuse, square=encoder.preprocessing.square)
    return np.concatenate([vectors for _, vectors in encoder.stream_images(readable)])


def agreement_of(encoder: MedSigLIP, jobs: dict[str, Cases], files: Sequence[Path]) -> dict[str, Any]:
    """Least cosine of vectors and largest difference of probabilities between the two sides.

    The pipeline knows only the sigmoid, so ours is asked for it too. `difference_as_loaded` is that of a
    pipeline given the folder alone (see `zero_shot_pipeline`), over the first pictures.
    """
    import torch

    dtype = dtype_of(encoder)
    embed, zero_shot = jobs["embed"], jobs["zero-shot"]
    vectors, peer_vectors = embed[f"{dtype} ours"](), torch.cat(embed[f"{dtype} peer, batch 32"]()).float().numpy()
    cosine = (vectors * peer_vectors).sum(axis=1) / np.linalg.norm(peer_vectors, axis=1)
    ours = zero_shot[f"{dtype} ours"]().probabilities
    peer = _in_label_order(zero_shot[f"{dtype} peer, batch 16"]())
    few = [str(file) for file in files[:16]]
    as_loaded = zero_shot_pipeline(encoder, maskless=False)(
        few, candidate_labels=list(LABELS), hypothesis_template="{}", batch_size=16
    )
    least, largest = float(cosine.min()), float(np.abs(ours - peer).max())
    return {
        "agrees": least >= LEAST_COSINE and largest <= LARGEST_DIFFERENCE[dtype],
        "least_cosine": least,
        "largest_difference": largest,
        "difference_as_loaded": float(np.abs(ours[: len(few)] - _in_label_order(as_loaded)).max()),
    }


def ratios(seconds: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """Images a second of ours over the peer's: its best setting at each dtype, and both sides without settings."""
    found = []
    for job, target in TARGETS.items():
        middle = medians(seconds[job])
        dtypes = list(dict.fromkeys(name.split()[0] for name in middle))
        for dtype in dtypes:
            peers = [name for name in middle if name.startswith(f"{dtype} peer")]
            best = min(peers, key=middle.__getitem__)
            found.append(_ratio(job, f"{dtype}, peer's best setting", f"{dtype} ours", best, middle, target))
        if job == "zero-shot":
            of_findings = medians(seconds["13 findings"])
            for dtype in dtypes:
                for way, wanted in ENSEMBLE_TARGETS.items():
                    ours, theirs = f"{dtype} ours", f"{dtype} {way}"
                    found.append(_ratio("13 findings", f"{dtype}, {way}", ours, theirs, of_findings, wanted))
        # without settings the pipeline takes one picture at a time, in the dtype that the weights are stored in
        if set(dtypes) == {"float32", "bfloat16"}:
            found.append(_ratio(job, "no settings", "float32 ours", "bfloat16 peer, batch 1", middle, target))
    return found


def table(record: dict[str, Any]) -> str:
    """The record as Markdown for README.md."""
    lines = ["| job | case | seconds, median (range) | images/s |", "|---|---|---|---|"]
    for job, cases in record["seconds"].items():
        for name, middle in medians(cases).items():
            spread = f"{middle:.3f} ({min(cases[name]):.3f} to {max(cases[name]):.3f})"
            count = ENSEMBLE_IMAGES if job == "13 findings" else record["images"]
            speed = "" if "labels" in name else f"{count / middle:.0f}"
            lines.append(f"| {job} | {name} | {spread} | {speed} |")
    lines += ["", "| job | comparison | peer's setting | ours / peer | target | |", "|---|---|---|---|---|---|"]
    for row in record["ratios"]:
        verdict = "met" if row["met"] else "missed"
        columns = [row["job"], row["comparison"], row["peer"], f"{row['ratio']:.2f}", f"{row['target']:g}", verdict]
        lines.append(f"| {' | '.join(columns)} |")
    lines += ["", *(f"{dtype}: {found}" for dtype, found in record["agreement"].items())]
    return "\n".join([*lines, f"share of the machine that other programs used: {record['share_of_other_programs']}"])


def dtype_of(encoder: MedSigLIP) -> str:
    """Such as "float32"."""
    return str(encoder.model.dtype).removeprefix("torch.")


def _of_dtype(encoder: MedSigLIP, cases: Cases) -> Cases:
    return {f"{dtype_of(encoder)} {name}": case for name, case in cases.items()}


def _ratio(job: str, comparison: str, ours: str, peer: str, middle: dict[str, float], target: float) -> dict[str, Any]:
    ratio = middle[peer] / middle[ours]
    return {
        "job": job,
        "comparison": comparison,
        "ours": ours,
        "peer": peer,
        "ratio": ratio,
        "target": target,
        "met": ratio >= target,
    }


def _in_label_order(answers: Sequence[Sequence[dict[str, Any]]]) -> np.ndarray:
    """(N, 14) probabilities of answers that the pipeline sorts by score."""
    scores = [{row["label"]: row["score"] for row in answer} for answer in answers]
    return np.array([[of_label[label] for label in LABELS] for of_label in scores])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoder", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the real-data kit")
    parser.add_argument("--model", default="nano", help="nano, a folder or a Hub id")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "encoder.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    main()
