"""Named label sets for `medsiglip classify --task`."""

from typing import NamedTuple

NO_PROCESS = "no acute cardiopulmonary process"


class PresentAbsent(NamedTuple):
    """Prompts that state a finding, and prompts that rule it out."""

    present: tuple[str, ...]
    absent: tuple[str, ...]


TASKS: dict[str, dict[str, tuple[str, ...]]] = {
    "modality": {
        "X-ray": ("an X-ray", "a plain radiograph"),
        "CT": ("a CT slice", "computed tomography"),
        "MRI": ("an MRI slice", "magnetic resonance imaging"),
        "histology": ("a histology slide", "H&E stained tissue under the microscope"),
    },
    "body-part": {
        "head": ("a picture of the head", "the head"),
        "chest": ("a picture of the chest", "the chest"),
        "abdomen": ("a picture of the abdomen", "the abdomen"),
        "breast": ("a picture of the breast", "the breast"),
        "hand": ("a picture of the hand", "the hand"),
    },
    "lung-histology": {
        "benign lung tissue": ("benign lung tissue", "histology of benign lung tissue"),
        "lung adenocarcinoma": ("lung adenocarcinoma", "histology of lung adenocarcinoma"),
        "lung squamous cell carcinoma": (
            "lung squamous cell carcinoma",
            "histology of lung squamous cell carcinoma",
        ),
    },
}
"""Exclusive labels: task to label to prompts."""

PRESENT_ABSENT_TASKS: dict[str, dict[str, PresentAbsent]] = {
    "chest-xray-findings": {
        "atelectasis": PresentAbsent(
            ("adjacent atelectasis", "bibasilar atelectasis", "there is atelectasis"),
            ("no atelectasis", NO_PROCESS),
        ),
        "cardiomegaly": PresentAbsent(
            (
                "mild cardiomegaly",
                "moderate cardiomegaly",
                "severe cardiomegaly",
                "enlarged cardiac silhouette",
            ),
            (
                "heart size is normal",
                "cardiac size is within normal limits",
                "cardiothoracic ratio within normal limits",
                NO_PROCESS,
                "normal study",
                "no evidence of cardiomegaly",
            ),
        ),
        "consolidation": PresentAbsent(
            (
                "alveolar consolidation",
                "densely consolidated",
                "lobe consolidation",
                "airspace consolidation",
                "bibasilar consolidations",
                "suggestive of consolidation",
            ),
            ("no focal consolidation", NO_PROCESS, "normal study"),
        ),
        "edema": PresentAbsent(
            ("mild pulmonary edema", "moderate pulmonary edema", "severe pulmonary edema"),
            ("no pulmonary edema", NO_PROCESS, "normal study"),
        ),
        "enlarged cardiomediastinum": PresentAbsent(
            ("widened cardiomediastinum",), (NO_PROCESS, "cardiomediastinal silhouette is normal")
        ),
        "fracture": PresentAbsent(("rib fractures", "rib fracture"), (NO_PROCESS, "normal study")),
        "lung lesion": PresentAbsent(("lytic lesion", "cavitary lesion", "parenchymal lesion"), (NO_PROCESS,)),
        "lung opacity": PresentAbsent(
            (
                "bilateral opacities",
                "basal opacities",
                "opacification is present",
                "bibasilar opacities",
                "increased opacification",
                "consolidative opacity",
                "parenchymal opacities",
                "airspace opacification cannot be excluded",
                "there is airspace opacification",
            ),
            (
                "no focal opacity",
                "lung volumes are normal",
                "normal study",
                "normal lung volumes",
                "lungs are clear",
                "no focal consolidation",
                "no evidence of airspace consolidation",
                "no infiltrate",
                "no airspace opacity",
                "pulmonary parenchyma is clear",
            ),
        ),
        "pleural effusion": PresentAbsent(
            ("left pleural effusion", "right pleural effusion", "bilateral pleural effusions"),
            ("no evidence of pleural effusion", NO_PROCESS, "normal study"),
        ),
        "pleural other": PresentAbsent(("blunting of costophrenic angle", "pleural thickening"), (NO_PROCESS,)),
        "pneumonia": PresentAbsent(("suggestive of pneumonia",), ("lungs are clear", NO_PROCESS)),
        "pneumothorax": PresentAbsent(("apical pneumothorax",), ("no pneumothorax", NO_PROCESS, "normal study")),
        "support devices": PresentAbsent(
            ("monitoring and support devices", "NG tube", "ET tube", "catheter", "PIC line"), (NO_PROCESS,)
        ),
    },
}
"""The report's 13 chest X-ray findings, present against absent. Source: arXiv:2507.05201, Table A4."""
