"""What a model said, typed: the answer apart from its reasoning, letters, yes and no, boxes, lab reports.

Every parser gives a frozen record: what was found, or None and the reason why nothing was. None of them guesses.
"""

from medgemma.answers.answer import Answer
from medgemma.answers.boxes import Box, LocatedBox, ParsedBoxes, PixelBox, locate_boxes, parse_boxes, pixel_box
from medgemma.answers.final import (
    FinalLetter,
    FinalNumber,
    FinalYesNo,
    final_letter,
    final_number,
    final_part,
    final_yes_no,
)
from medgemma.answers.json_in_text import JsonAnswer, json_answer
from medgemma.answers.lab_report import LAB_REPORT_SCHEMA, LabReport, LabResult, parse_lab_report
from medgemma.prompts.thinking import (
    THINKING_BEGIN,
    THINKING_END,
    THINKING_SYSTEM_TEXT,
    Speech,
    Spoken,
    ThinkingTokens,
    split_thinking,
)

__all__ = [
    "LAB_REPORT_SCHEMA",
    "THINKING_BEGIN",
    "THINKING_END",
    "THINKING_SYSTEM_TEXT",
    "Answer",
    "Box",
    "FinalLetter",
    "FinalNumber",
    "FinalYesNo",
    "JsonAnswer",
    "LabReport",
    "LabResult",
    "LocatedBox",
    "ParsedBoxes",
    "PixelBox",
    "Speech",
    "Spoken",
    "ThinkingTokens",
    "final_letter",
    "final_number",
    "final_part",
    "final_yes_no",
    "json_answer",
    "locate_boxes",
    "parse_boxes",
    "parse_lab_report",
    "pixel_box",
    "split_thinking",
]
