"""MIMIC-CXR reports as PhysioNet hands them out: one text file a study, divided into sections by headings."""

import re
from dataclasses import dataclass
from pathlib import Path

_HEADING = re.compile(r"^[ \t]*([A-Z][A-Z /()&,-]{2,50}):", re.MULTILINE)
"""Capitals and a colon at the beginning of a line."""

INDICATION_HEADINGS = ("INDICATION", "REASON FOR EXAM", "REASON FOR EXAMINATION", "HISTORY", "CLINICAL HISTORY")


@dataclass(frozen=True)
class StudyReport:
    """The sections of one report; empty where it has none."""

    indication: str
    comparison: str
    findings: str
    impression: str

    @property
    def text(self) -> str:
        """Findings and impression, what report generation is measured on."""
        return "\n".join(part for part in (self.findings, self.impression) if part)


def read_mimic_report(folder: Path, patient: str, study: str) -> StudyReport:
    """Read the report of one study.

    Not run on real files: the layout is PhysioNet's, the headings are those that public code on GitHub looks for.

    Args:
        folder: Holds files/pNN/pNNNNNNNN/sNNNNNNNN.txt (mimic-cxr-reports.zip unpacked).
        patient: subject_id, digits only.
        study: study_id, digits only.

    Raises:
        ValueError: The file is missing or no UTF-8.
    """
    path = folder / "files" / f"p{patient[:2]}" / f"p{patient}" / f"s{study}.txt"
    try:
        return report_sections(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as fault:
        raise ValueError(
            f"{folder}: the report of a study is missing or no UTF-8 text ({type(fault).__name__}); unpack "
            "mimic-cxr-reports.zip there"
        ) from fault


def report_sections(text: str) -> StudyReport:
    """Divide a report at its headings; of a heading that comes twice the last section counts.

    FINDINGS AND IMPRESSION counts as findings.
    """
    places = list(_HEADING.finditer(text))
    ends = [*(place.start() for place in places[1:]), len(text)][: len(places)]
    found = {
        " ".join(place[1].split()): " ".join(text[place.end() : end].split())
        for place, end in zip(places, ends, strict=True)
    }
    indication = next((found[name] for name in INDICATION_HEADINGS if found.get(name)), "")
    findings = found.get("FINDINGS") or found.get("FINDINGS AND IMPRESSION", "")
    impression = found.get("IMPRESSION") or found.get("CONCLUSION", "")
    return StudyReport(indication, found.get("COMPARISON", ""), findings, impression)
