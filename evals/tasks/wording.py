"""The wording of questions and captions about labelled pictures, as plain data.

Each attribute has wordings for training and others held out: a recipe that uses `train` only can be measured
on phrasings it never saw. `{a}` stands for the claimed value with its article, `{value}` for the value
itself.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Wordings = Literal["train", "held-out"]


class Phrasings(NamedTuple):
    """The phrasings of one question or caption."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    def of(self, wordings: Wordings) -> tuple[str, ...]:
        """Return the training or the held-out phrasings."""
        return self.train if wordings == "train" else self.held_out


VALUES: dict[str, tuple[str, ...]] = {
    "modality": ("X-ray", "CT", "MRI", "histology"),
    "body_part": ("abdomen", "breast", "chest", "hand", "head", "lung"),
    "tissue": ("benign lung tissue", "lung adenocarcinoma", "lung squamous cell carcinoma"),
    "view": ("PA", "AP"),
}
"""Attributes with one value of several: asked both openly and as yes/no."""

FINDINGS: dict[str, str] = {
    "pneumonia": "pneumonia",
    "effusion": "a pleural effusion",
    "infiltration": "infiltration",
    "atelectasis": "atelectasis",
    "cardiomegaly": "cardiomegaly",
    "edema": "pulmonary edema",
    "consolidation": "consolidation",
    "nodule": "a lung nodule",
    "mass": "a lung mass",
}
"""Chest findings, `present` or `absent`: asked as yes/no. Fact name to how a sentence names it."""

NO_FINDING = "no finding"
"""The fact that no finding is labelled (`present`), or some is (`absent`)."""

FINDING_PREVALENCE: dict[str, float] = {
    "pneumonia": 353 / 698,
    "effusion": 63 / 698,
    "infiltration": 139 / 698,
    "atelectasis": 84 / 698,
    "cardiomegaly": 10 / 698,
    "edema": 69 / 698,
    "consolidation": 13 / 698,
    "nodule": 17 / 698,
    "mass": 11 / 698,
    NO_FINDING: 345 / 698,
}
"""Share of the pictures of cxr-nih14 that have the finding (its card)."""

OVERLAPPING = (frozenset({"chest", "lung"}), frozenset({"chest", "breast"}), frozenset({"chest", "abdomen"}))
"""Body parts that lie in one picture: a picture of the one is never asked about with a claim of the other."""

ARTICLES: dict[str, str] = {
    "X-ray": "an X-ray",
    "CT": "a CT scan",
    "MRI": "an MRI scan",
    "histology": "a histology image",
    "abdomen": "the abdomen",
    "breast": "the breast",
    "chest": "the chest",
    "hand": "a hand",
    "head": "the head",
    "lung": "the lung",
    "PA": "a PA view",
    "AP": "an AP view",
}

OPEN_QUESTIONS: dict[str, Phrasings] = {
    "modality": Phrasings(
        train=(
            "Which imaging modality is this?",
            "What kind of image is this?",
            "What type of imaging was used?",
            "Name the imaging modality.",
        ),
        held_out=("By which imaging technique was this picture made?", "What modality do we see?"),
    ),
    "body_part": Phrasings(
        train=(
            "Which body part is shown?",
            "What part of the body is this?",
            "Which part of the body was imaged?",
            "Name the body part.",
            "What organ or region is shown?",
        ),
        held_out=("Which region of the body do we see?", "From which body part is this picture?"),
    ),
    "tissue": Phrasings(
        train=(
            "What does this lung tissue show?",
            "Which tissue class is this?",
            "What is the histological diagnosis?",
            "Name the type of lung tissue.",
        ),
        held_out=("How would you classify this lung specimen?",),
    ),
    "view": Phrasings(
        train=(
            "Which view is this?",
            "What projection is this chest X-ray?",
            "Is this film PA or AP?",
            "Name the projection.",
        ),
        held_out=("In which projection was the film taken?",),
    ),
}

CLOSED_QUESTIONS: dict[str, Phrasings] = {
    "modality": Phrasings(
        train=("Is this {a}?", "Is the picture {a}?", "Is the image shown {a}?", "Was this made as {a}?"),
        held_out=("Would you call this {a}?", "Are we looking at {a}?"),
    ),
    "body_part": Phrasings(
        train=(
            "Is this {a}?",
            "Does the picture show {a}?",
            "Is {a} shown?",
            "Is this a picture of {a}?",
        ),
        held_out=("Do we see {a} here?", "Was {a} imaged?"),
    ),
    "tissue": Phrasings(
        train=(
            "Is this {value}?",
            "Does the slide show {value}?",
            "Is the diagnosis {value}?",
            "Do you see {value}?",
        ),
        held_out=("Would you classify this as {value}?",),
    ),
    "view": Phrasings(
        train=(
            "Is this {a}?",
            "Is the film {a}?",
            "Was the chest X-ray taken in {a}?",
            "Is the projection {a}?",
        ),
        held_out=("Would you call this film {a}?",),
    ),
    "finding": Phrasings(
        train=(
            "Is there {value}?",
            "Is {value} present?",
            "Does this film show {value}?",
            "Can {value} be seen?",
            "Is there any sign of {value}?",
        ),
        held_out=("Would you report {value} here?", "Does the chest X-ray suggest {value}?"),
    ),
    NO_FINDING: Phrasings(
        train=(
            "Is this chest X-ray normal?",
            "Is the film free of findings?",
            "Is this a normal chest film?",
            "Is nothing abnormal seen?",
        ),
        held_out=("Would you report this chest X-ray as normal?",),
    ),
}


class CaptionWording(NamedTuple):
    """Captions that all state the same facts."""

    facts: Mapping[str, str]
    phrasings: Phrasings


def _finding_captions(fact: str, name: str) -> CaptionWording:
    bare = name.removeprefix("a ")
    return CaptionWording(
        {"modality": "X-ray", "body_part": "chest", fact: "present"},
        Phrasings(
            train=(f"chest X-ray with {name}", f"{bare}", f"a chest film showing {bare}", f"there is {name}"),
            held_out=(f"suggestive of {bare}", f"radiograph of the chest, findings of {bare}"),
        ),
    )


def _single_fact_captions(fact: str, value: str, train: tuple[str, ...], held_out: str) -> CaptionWording:
    return CaptionWording({fact: value}, Phrasings(train=train, held_out=(held_out,)))


CAPTIONS: tuple[CaptionWording, ...] = (
    _single_fact_captions("modality", "X-ray", ("an X-ray", "a plain radiograph", "X-ray"), "a plain film"),
    _single_fact_captions("modality", "CT", ("a CT scan", "a CT slice", "computed tomography"), "a CT image"),
    _single_fact_captions(
        "modality", "MRI", ("an MRI scan", "an MRI slice", "magnetic resonance imaging"), "an MR image"
    ),
    _single_fact_captions(
        "modality",
        "histology",
        ("a histology slide", "H&E stained tissue", "a microscopy image"),
        "a photomicrograph",
    ),
    _single_fact_captions("body_part", "head", ("the head", "a picture of the head", "brain"), "an image of the skull"),
    _single_fact_captions(
        "body_part", "chest", ("the chest", "a picture of the chest", "thorax"), "an image of the thorax"
    ),
    _single_fact_captions(
        "body_part", "abdomen", ("the abdomen", "a picture of the abdomen", "belly"), "an abdominal image"
    ),
    _single_fact_captions(
        "body_part", "breast", ("the breast", "a picture of the breast", "breast"), "an image of a breast"
    ),
    _single_fact_captions("body_part", "hand", ("the hand", "a picture of a hand", "hand"), "an image of a hand"),
    CaptionWording(
        {"modality": "CT", "body_part": "abdomen"},
        Phrasings(
            train=(
                "abdominal CT",
                "a CT scan of the abdomen",
                "axial CT slice through the abdomen",
                "CT of the abdomen",
            ),
            held_out=("computed tomography, abdominal slice", "CT image: abdomen"),
        ),
    ),
    CaptionWording(
        {"modality": "MRI", "body_part": "breast"},
        Phrasings(
            train=(
                "breast MRI",
                "an MRI scan of the breast",
                "magnetic resonance image of the breast",
                "MRI of the breast",
            ),
            held_out=("magnetic resonance mammography", "MR image: breast"),
        ),
    ),
    CaptionWording(
        {"modality": "X-ray", "body_part": "chest"},
        Phrasings(
            train=("chest X-ray", "an X-ray of the chest", "a frontal chest film", "chest radiograph"),
            held_out=("radiograph of the chest, frontal", "X-ray image: chest"),
        ),
    ),
    CaptionWording(
        {"modality": "CT", "body_part": "chest"},
        Phrasings(
            train=(
                "chest CT",
                "a CT scan of the chest",
                "axial CT slice through the chest",
                "CT of the thorax",
            ),
            held_out=("computed tomography, thoracic slice", "CT image: chest"),
        ),
    ),
    CaptionWording(
        {"modality": "X-ray", "body_part": "hand"},
        Phrasings(
            train=("hand X-ray", "an X-ray of the hand", "a film of the hand bones", "hand radiograph"),
            held_out=("radiograph of a hand", "X-ray image: hand"),
        ),
    ),
    CaptionWording(
        {"modality": "CT", "body_part": "head"},
        Phrasings(
            train=("head CT", "a CT scan of the head", "axial CT slice through the head", "CT of the brain"),
            held_out=("computed tomography, cranial slice", "CT image: head"),
        ),
    ),
    CaptionWording(
        {"modality": "histology", "body_part": "lung"},
        Phrasings(
            train=(
                "lung histology",
                "H&E stained lung tissue",
                "a microscopy image of lung tissue",
                "lung biopsy, H&E",
            ),
            held_out=("photomicrograph of a lung specimen",),
        ),
    ),
    CaptionWording(
        {"modality": "histology", "body_part": "lung", "tissue": "benign lung tissue"},
        Phrasings(
            train=(
                "benign lung tissue",
                "histology of benign lung tissue",
                "H&E of normal lung with open alveoli",
                "lung tissue without tumour",
                "a slide of benign lung",
            ),
            held_out=("lung parenchyma, no malignancy", "H&E image: benign lung tissue"),
        ),
    ),
    CaptionWording(
        {"modality": "histology", "body_part": "lung", "tissue": "lung adenocarcinoma"},
        Phrasings(
            train=(
                "lung adenocarcinoma",
                "histology of lung adenocarcinoma",
                "H&E of a gland forming lung cancer",
                "adenocarcinoma of the lung",
                "a slide of lung adenocarcinoma",
            ),
            held_out=("lung cancer, adenocarcinoma type", "H&E image: lung adenocarcinoma"),
        ),
    ),
    CaptionWording(
        {"modality": "histology", "body_part": "lung", "tissue": "lung squamous cell carcinoma"},
        Phrasings(
            train=(
                "lung squamous cell carcinoma",
                "histology of lung squamous cell carcinoma",
                "H&E of a squamous lung cancer",
                "squamous cell carcinoma of the lung",
                "a slide of lung squamous cell carcinoma",
            ),
            held_out=("lung cancer, squamous cell type", "H&E image: lung squamous cell carcinoma"),
        ),
    ),
    CaptionWording(
        {"modality": "X-ray", "body_part": "chest", "view": "PA"},
        Phrasings(
            train=("PA chest X-ray", "posteroanterior chest film", "chest X-ray, PA view"),
            held_out=("PA film",),
        ),
    ),
    CaptionWording(
        {"modality": "X-ray", "body_part": "chest", "view": "AP"},
        Phrasings(
            train=("AP chest X-ray", "anteroposterior chest film", "chest X-ray, AP view"),
            held_out=("AP film",),
        ),
    ),
    CaptionWording(
        {"modality": "X-ray", "body_part": "chest", NO_FINDING: "present"},
        Phrasings(
            train=(
                "normal chest X-ray",
                "chest X-ray with no finding",
                "clear lungs on a chest film",
                "no abnormality",
            ),
            held_out=("the lungs are clear", "radiograph of the chest, normal study"),
        ),
    ),
    *(_finding_captions(fact, name) for fact, name in FINDINGS.items()),
)
