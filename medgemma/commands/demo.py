"""The demo: real pictures that installed packages carry, labelled, questioned and shown in one HTML file.

It asks only what the shipped models' cards measured (modality, body part, tissue against other modalities); for the
other pictures it shows the decoding alone.
"""

import base64
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from medsiglip.command import Device, Dtype, Model, Quiet
from medsiglip.imaging import Picture, read_pictures

if TYPE_CHECKING:
    from medgemma.model import MedGemma
    from medsiglip.encoder import MedSigLIP
    from medsiglip.preprocess import Preprocessing

NOTICE = "Research software. Not a medical device: not for diagnosis, treatment or any clinical decision."
SHORT_ANSWER = "Answer with one word or a short phrase."
"""The instruction that nano was trained with (evals.tasks.vqa_rad.INSTRUCTION, on a floor above)."""
QUESTIONS = {
    "modality": ("Which imaging modality is this?", "Is this an X-ray?", "Is this a CT scan?", "Is this an MRI scan?"),
    "body-part": ("Which body part is shown?", "Is this the abdomen?"),
}
"""Zero-shot task to the questions on the same matter, in the form that the card measured."""


@dataclass(frozen=True)
class DemoPicture:
    """A picture that an installed package carries."""

    package: str
    path: str
    truth: str
    """What the file or its documentation says it is."""
    asked: tuple[str, ...] = ()
    """Keys of QUESTIONS whose true answer is among the classes nano was measured on; none: decoding only."""

    @property
    def title(self) -> str:
        """The file's name."""
        return Path(self.path).name


DICOM_FOLDER = "data/test_files"
PICTURES = (
    DemoPicture("pydicom", f"{DICOM_FOLDER}/CT_small.dcm", "CT, a vertebra in an axial slice", ("modality",)),
    DemoPicture("pydicom", f"{DICOM_FOLDER}/MR_small.dcm", "MR, a small cut-out", ("modality",)),
    DemoPicture("pydicom", f"{DICOM_FOLDER}/examples_overlay.dcm", "MR, abdomen", ("modality", "body-part")),
    DemoPicture("skimage", "data/ihc.png", "immunohistochemistry of the colon", ("modality",)),
    DemoPicture("pydicom", f"{DICOM_FOLDER}/JPEG2000.dcm", "nuclear medicine, JPEG 2000"),
    DemoPicture("pydicom", f"{DICOM_FOLDER}/examples_ybr_color.dcm", "echocardiography, YBR"),
    DemoPicture("skimage", "data/retina.jpg", "fundus photograph"),
)


TELLING_SIDE = "final"
TELLING = {
    ("zero-shot-lung-histology", "accuracy"): "Names lung tissue, one of three kinds, by captions",
    ("zero-shot-lung-histology", "accuracy, nano minus raw pixels"): "... more than raw pixels with labels reach",
    ("zero-shot-mednist", "accuracy"): "Names small pictures of six kinds (MedNIST) by captions",
    ("zero-shot-mednist on black", "accuracy"): "... with the grey around the body made black",
    ("zero-shot-nih-pneumonia", "macro_auroc_one_vs_rest"): "Tells pneumonia from no finding on chest films (AUROC)",
    ("linear probe of cxr-nih14", "accuracy, nano minus raw pixels"): "... as a probe, more than raw pixels reach",
    ("picture-questions-new-wordings", "closed_accuracy"): "Yes or no about such pictures, in words it was not taught",
    ("outside-questions", "open_exact_match_norm"): "Says that it cannot tell, where it was taught to",
    ("vqa-rad", "closed_accuracy"): "Yes or no about radiology pictures (VQA-RAD)",
    ("vqa-rad", "closed_accuracy, nano minus words alone"): "... more than the words of the questions alone reach",
    (
        "vqa-rad",
        "closed_accuracy_real_minus_shuffled, mean of 8 shuffles",
    ): "... more than with another patient's picture",
    ("vqa-rad", "open_token_f1_squad"): "Free answers about them (token F1)",
}
"""The figures that a stranger should see first, of TELLING_SIDE: task and metric to plain words."""


@dataclass(frozen=True)
class Labelled:
    """Zero-shot probabilities of one label set."""

    task: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    calibration: str
    """What they were calibrated by; empty: as the encoder gives them."""


@dataclass(frozen=True)
class Asked:
    """One question and its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class Shown:
    """One picture of the report."""

    title: str
    truth: str
    package: str
    decoded: str
    """How the stored values became pixels."""
    seen_png: str
    """Data URI of what the model sees."""
    zero_shot: tuple[Labelled, ...] = ()
    answers: tuple[Asked, ...] = ()


def demo(
    out: Annotated[Path, typer.Option(help="Folder for report.html and results.json.")],
    model: Model = "nano",
    encoder: Annotated[
        str, typer.Option(help="The encoder for zero-shot labels: 'nano', a folder, or a Hub id.")
    ] = "nano",
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
) -> None:
    """Label and question real pictures that the installed packages carry; offline, in half a minute."""
    typer.echo(str(run_demo(out, model, encoder, device, dtype, quiet)))


def run_demo(out: Path, model: str, encoder: str, device: str, dtype: str, quiet: bool) -> Path:
    """Write OUT/report.html and OUT/results.json; returns the report's path.

    Raises:
        ValueError: a model cannot be loaded, or a demo picture is missing from its package.
    """
    from medgemma.model import MedGemma
    from medsiglip.command import progress
    from medsiglip.encoder import MedSigLIP

    timings_s: dict[str, float] = {}
    started = time.perf_counter()
    pictures = [(demo, _picture(demo)) for demo in PICTURES]
    timings_s["decode the pictures"] = time.perf_counter() - started
    started = time.perf_counter()
    siglip = MedSigLIP.from_pretrained(encoder, device=device, dtype=dtype)
    gemma = MedGemma.from_pretrained(model, device=device, dtype=dtype)
    if gemma.preprocessing is None:
        raise ValueError(f"model {model}: of text alone, and the demo shows pictures; give a model that sees")
    timings_s["load both models"] = time.perf_counter() - started
    started = time.perf_counter()
    shown = []
    with progress(len(pictures), "pictures", quiet) as advance:
        for demo, picture in pictures:
            shown.append(_show(demo, picture, siglip, gemma, gemma.preprocessing))
            advance(1)
    timings_s["label and answer"] = time.perf_counter() - started
    return _write(out, shown, siglip, gemma, timings_s)


def figures_of(folder: Path) -> list[dict[str, Any]]:
    """The measured figures beside a checkpoint (measurements.json), rounded as on its card; empty without them."""
    path = folder / "measurements.json"
    if not path.is_file():
        return []
    measured = json.loads(path.read_text(encoding="utf-8"), parse_float=lambda text: round(float(text), 3))
    rows: list[dict[str, Any]] = measured["figures"]
    return rows


def telling(figures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The figures that matter most, as far as they are there, each with what it says in plain words."""
    on_side = {(row["task"], row["metric"]): row for row in figures if row["side"] == TELLING_SIDE}
    return [{**on_side[key], "says": says} for key, says in TELLING.items() if key in on_side]


def _picture(demo: DemoPicture) -> Picture:
    if find_spec(demo.package) is None:
        raise ValueError(f"{demo.title}: the package {demo.package} is not installed; run `make install`")
    return read_pictures(Path(str(files(demo.package).joinpath(demo.path))))[0]


def _show(
    demo: DemoPicture, picture: Picture, siglip: "MedSigLIP", gemma: "MedGemma", preprocessing: "Preprocessing"
) -> Shown:
    decoded = f"{picture.pixels.shape[1]} × {picture.pixels.shape[0]} px, pixels: {picture.policy}"
    seen = f"{decoded}; seen at {preprocessing.size_px} px, resize: {preprocessing.policy}"
    png = _png(preprocessing.resized(picture))
    if not demo.asked:
        return Shown(demo.title, demo.truth, demo.package, seen, png)
    questions = [question for task in demo.asked for question in QUESTIONS[task]]
    prompts = [f"{question}\n{SHORT_ANSWER}" for question in questions]
    replies = gemma.ask(picture, prompts, max_new_tokens=16)
    answers = tuple(Asked(question, reply.text) for question, reply in zip(questions, replies, strict=True))
    return Shown(demo.title, demo.truth, demo.package, seen, png, _labelled(siglip, picture, demo.asked), answers)


def _labelled(siglip: "MedSigLIP", picture: Picture, tasks: Sequence[str]) -> tuple[Labelled, ...]:
    from medsiglip.calibration.shipped import shipped_calibration
    from medsiglip.zero_shot import ZeroShotClassifier

    vectors, labelled = siglip.encode_images([picture]), []
    for task in tasks:
        classifier = ZeroShotClassifier.for_task(siglip, task)
        result = classifier.classify_vectors(vectors)
        calibrated = shipped_calibration(
            siglip.folder, classifier, f"{siglip.pixel_policy}+{siglip.preprocessing.policy}"
        )
        (probabilities,) = calibrated.probabilities(result) if calibrated else result.probabilities
        named = f"{calibrated.map.method}, {calibrated.site}" if calibrated else ""
        labelled.append(Labelled(task, result.labels, tuple(map(float, probabilities)), named))
    return tuple(labelled)


def _write(
    out: Path, shown: Sequence[Shown], siglip: "MedSigLIP", gemma: "MedGemma", timings_s: dict[str, float]
) -> Path:
    from jinja2 import Environment

    out.mkdir(parents=True, exist_ok=True)
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        (Path(__file__).parent / "demo.html").read_text(encoding="utf-8")
    )
    models = {
        "encoder": {"name": siglip.name, "fingerprint": siglip.fingerprint},
        "decoder": {"name": gemma.name, "fingerprint": gemma.fingerprint},
    }
    figures = [*figures_of(siglip.folder), *figures_of(gemma.folder)]
    page = template.render(
        notice=NOTICE, shown=shown, models=models, telling=telling(figures), figures=figures, timings_s=timings_s
    )
    results = {
        "notice": NOTICE,
        "models": models,
        "pictures": [{k: v for k, v in asdict(s).items() if k != "seen_png"} for s in shown],
        "timings_s": {name: round(seconds, 3) for name, seconds in timings_s.items()},
        "figures": figures,
    }
    (out / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "report.html").write_text(page, encoding="utf-8")
    return out / "report.html"


def _png(pixels: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
