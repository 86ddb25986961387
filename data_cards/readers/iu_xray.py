"""The whole Indiana chest collection as Open-i hands it out: one XML report a study, and the pictures."""

from pathlib import Path
from xml.etree import ElementTree

from data_cards.readers.fields import text_group
from data_cards.readers.reports import ChestReport, ProjectedPicture

REPORTS = "ecgen-radiology"
PICTURES = "NLMCXR_png"


def read_iu_xray(folder: Path) -> list[ChestReport]:
    """Read every report of the collection, those without findings, impression or pictures too.

    Pictures are named by `parentImage`; their projection is not in the reports, so it is empty. Reports without
    findings are groups of their own. The numbers are those of `reports.read_iu_reports`.

    Args:
        folder: Holds ecgen-radiology/*.xml (NLMCXR_reports.tgz) and, for the pictures, NLMCXR_png/*.png.

    Raises:
        ValueError: The folder is missing or has no report, or a file is no such report.
    """
    files = sorted((folder / REPORTS).glob("*.xml"), key=lambda path: (len(path.stem), path.stem))
    if not files:
        raise ValueError(f"{folder / REPORTS}: has no *.xml; unpack NLMCXR_reports.tgz there, or correct --data")
    return [_report(file) for file in files]


def _report(file: Path) -> ChestReport:
    try:
        root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, UnicodeDecodeError) as fault:
        raise ValueError(f"{file}: is no XML ({fault}); unpack the reports again") from fault
    identifier = root.find("uId")
    if identifier is None or not (number := identifier.get("id", "").removeprefix("CXR")).isdigit():
        raise ValueError(f"{file}: has no uId CXR and a number; unpack the reports again")
    sections = {part.get("Label", ""): (part.text or "").strip() for part in root.iter("AbstractText")}
    findings = sections.get("FINDINGS", "")
    names = [image.get("id", "") for image in root.findall("parentImage")]
    return ChestReport(
        item_id=f"iu-xray-{number}",
        indication=sections.get("INDICATION", ""),
        comparison=sections.get("COMPARISON", ""),
        findings=findings,
        impression=sections.get("IMPRESSION", ""),
        problems=tuple((major.text or "").strip() for major in root.iter("major")),
        pictures=tuple(ProjectedPicture(f"{PICTURES}/{name}.png", "") for name in names if name),
        group=text_group("iuxray", findings) if findings else f"iuxray_{number}",
    )
