"""What MedGemma is asked for reports, places and comparisons.

Source: technical report, appendix (findings after the indication), the anatomy localisation notebook (boxes from 0 to
1000, the patient's left) and the longitudinal notebook. The wording is ours, the interface strings are theirs.
"""

from collections.abc import Mapping
from typing import Any

COMPARISON = (
    "Compare the current image with the prior one. Say what is new, what has grown or shrunk, what has gone and "
    "what is unchanged, and name the side of the patient for each."
)
"""The question about a prior and a current study."""

_BOX_FORM = (
    "Boxes are [y0, x0, y1, x1], each number from 0 to 1000, of the whole image: y0 and x0 are its upper left corner. "
    '"Left" and "right" mean the patient\'s own left and right: on a frontal film the patient\'s right is at the left '
    "edge of the image."
)


def findings_question(indication: str) -> str:
    """The report prompt: what the study was made for, then `findings:`.

    Args:
        indication: such as "Cough for three weeks."; may be empty.
    """
    return f"{indication.strip()} findings:".strip()


def localisation_question(structure: str, *, reasoning: bool) -> str:
    """The prompt for the box of a structure.

    Args:
        structure: such as "right clavicle".
        reasoning: let the model think aloud and end with `Final Answer:`; else it answers with JSON alone.
    """
    task = f"Where is the {structure} in this image? {_BOX_FORM} "
    answer = 'a JSON list of {"box_2d": [y0, x0, y1, x1], "label": ...} in a ```json fence'
    if reasoning:
        return task + f"Think step by step where it lies, then end with `Final Answer:` and {answer}."
    return task + f"Answer with {answer.removesuffix(' in a ```json fence')} and nothing else."


def box_schema(structure: str, most: int = 4) -> Mapping[str, Any]:
    """The JSON Schema of an answer to `localisation_question`.

    Args:
        structure: the label of every box.
        most: boxes at most.
    """
    corner = {"type": "integer", "minimum": 0, "maximum": 1000}
    box = {
        "type": "object",
        "properties": {
            "box_2d": {"type": "array", "items": corner, "minItems": 4, "maxItems": 4},
            "label": {"const": structure},
        },
        "required": ["box_2d", "label"],
        "additionalProperties": False,
    }
    return {"type": "array", "items": box, "minItems": 1, "maxItems": most}
