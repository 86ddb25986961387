"""Writing chest film reports: from a film and the indication, and, on text alone, the impression from the findings.

Metrics: ROUGE-L and token F1 against the radiologist's text; the share of sentences that the findings (of a film, the
radiologist's report) entail and contradict by rules, and the share of the radiologist's findings that are stated
(metrics/entailment.py); RadGraph F1 and CheXbert F1 too where their packages are installed (metrics/reports.py). The
reports' own figure is RadGraph F1 of findings and impression, frontal films only.

Source: MedGemma technical report (arXiv:2507.05201), section 3 and appendix A7: image and `<INDICATION> findings:` for
    the pre-trained checkpoint; the sentences for chat models are ours.
"""

import random
import re
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from data_cards.readers.chest_releases import read_mimic_cxr_jpg
from data_cards.readers.iu_xray import read_iu_xray
from data_cards.readers.mimic_reports import read_mimic_report
from data_cards.readers.reports import ChestReport, read_iu_reports
from data_cards.readers.tables import find_set
from data_cards.split import side as side_of
from evals.items import Item
from evals.measures import Answered, Measure, of_statistic
from evals.metrics import reports
from evals.metrics.answers import token_f1_squad
from evals.metrics.entailment import recalled_findings, supports
from evals.metrics.text_overlap import rouge_l_f1
from evals.outputs import Output
from evals.tasks.final_answer import spoken
from evals.tasks.task import ItemOptions, Task
from medsiglip.metrics.bootstrap import ratio

FILM = "Write the findings and the impression of this chest X-ray, as a radiologist reports them."
FINDINGS_ONLY = "Write the impression of this chest X-ray report, as a radiologist does, in one or two sentences."
FRONTAL_VIEWS = frozenset({"AP", "PA"})


def film_prompt(indication: str) -> str:
    """Return the text put to a chat model beside the film."""
    return f"Indication: {indication}\n{FILM}" if indication else FILM


def pretrained_prompt(indication: str) -> str:
    """Return the text put to the pre-trained checkpoint beside the film."""
    return f"{indication} findings:".strip()


def impression_prompt(indication: str, findings: str) -> str:
    """Return the text put to a model that sees no film."""
    lines = [f"Indication: {indication}"] if indication else []
    return "\n".join((*lines, f"Findings: {findings}", FINDINGS_ONLY))


def grade(item: Item, output: Output) -> dict[str, float]:
    """Grade one report: overlap of words with the radiologist's, and what its source says of its sentences."""
    said = spoken(output.text)
    [support] = supports([said], [source_of(item)])
    return {
        "rouge_l_f1": rouge_l_f1(said, item.reference),
        "token_f1_squad": token_f1_squad(said, item.reference),
        "entailment": support.entailment,
        "contradiction": support.contradiction,
    }


def source_of(item: Item) -> str:
    """Return what a report should follow from: the findings put to the model, else the radiologist's report."""
    found = _FINDINGS.search(item.prompt)
    return found["findings"] if found else item.reference


_FINDINGS = re.compile(rf"^Findings: (?P<findings>.*)\n{re.escape(FINDINGS_ONLY)}", re.DOTALL | re.MULTILINE)


def clinical(answered: Sequence[Answered]) -> dict[str, Measure]:
    """Return the recall of findings, and RadGraph F1 (partial, the usual one) and CheXbert F1 if they are installed."""
    said = [spoken(pair.output.text) for pair in answered]
    truth, groups = [pair.item.reference for pair in answered], [pair.item.group for pair in answered]
    counts = np.array([recalled_findings(*texts) for texts in zip(said, truth, strict=True)], dtype=np.float64)
    found: dict[str, Measure] = {}
    if counts.size and counts[:, 1].any():
        found["finding_recall"] = of_statistic(answered, partial(_recall, counts))
    if find_spec("radgraph"):
        values = reports.radgraph_f1(said, truth).partial
        found["radgraph_f1_partial"] = Measure([pair.item.item_id for pair in answered], groups, values)
    if find_spec("f1chexbert"):
        found |= {
            name: of_statistic(answered, statistic) for name, statistic in reports.chexbert_f1(said, truth).items()
        }
    return found


def _recall(counts: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over all findings of all reports."""
    recalled, asked = (weights @ counts).T
    return ratio(recalled, asked)


def kit_items(data_dir: str | Path, options: ItemOptions) -> list[Item]:
    """Make one item a report of the kit's Indiana collection, text alone.

    Raises:
        ValueError: The set is missing or broken.
    """
    folder = find_set(data_dir, "iu-xray-reports")
    found = [
        _item("iu-xray-reports", report, (), impression_prompt(report.indication, report.findings), report.impression)
        for report in (*read_iu_reports(folder, "train"), *read_iu_reports(folder, "val"))
        if options.side in ("all", side_of(report.group))
    ]
    random.Random(options.seed).shuffle(found)
    return found


def iu_items(data_dir: str | Path, options: ItemOptions) -> list[Item]:
    """Make one item a study of the whole Indiana collection that has films and a report.

    All films of a study are put to the model: the collection does not say which is frontal.

    Raises:
        ValueError: The set is missing or broken.
    """
    folder = find_set(data_dir, "iu-xray")
    found = []
    for report in read_iu_xray(folder):
        text = "\n".join(part for part in (report.findings, report.impression) if part)
        if text and report.pictures and options.side in ("all", side_of(report.group)):
            files = tuple(str(folder / picture.file) for picture in report.pictures)
            found.append(_item("iu-xray", report, files, film_prompt(report.indication), text))
    random.Random(options.seed).shuffle(found)
    return found


def mimic_items(prompt: Callable[[str], str], data_dir: str | Path, options: ItemOptions) -> list[Item]:
    """Make one item a frontal film of MIMIC-CXR whose report has findings or an impression.

    Args:
        prompt: From the indication to the text.
        data_dir: Holds mimic-cxr-jpg (films, views, split) and mimic-cxr (reports).
        options: Side (the owners' split) and seed.

    Raises:
        ValueError: A set or a report is missing or broken.
    """
    films, texts = find_set(data_dir, "mimic-cxr-jpg"), find_set(data_dir, "mimic-cxr")
    found = []
    for film in read_mimic_cxr_jpg(films, cast(Literal["train", "validate", "test"], options.side)).films:
        if film.labels["view"] not in FRONTAL_VIEWS:
            continue
        report = read_mimic_report(texts, film.group.removeprefix("mimic_"), film.labels["study_id"])
        if report.text:
            found.append(
                Item(
                    item_id=film.picture_id,
                    files=(str(film.path),),
                    prompt=prompt(report.indication),
                    reference=report.text,
                    kind="open",
                    group=film.group,
                    meta={"card": film.card, "view": film.labels["view"]},
                )
            )
    random.Random(options.seed).shuffle(found)
    return found


def _item(card: str, report: ChestReport, files: tuple[str, ...], prompt: str, reference: str) -> Item:
    normality = "normal" if report.problems == ("normal",) else "abnormal"
    meta = {"card": card, "normality": normality}
    return Item(report.item_id, files, prompt, reference, "open", report.group, meta)


def _row(
    name: str,
    cards: tuple[str, ...],
    summary: str,
    items: Callable[[str | Path, ItemOptions], list[Item]],
    wording: object,
    sides: tuple[str, ...],
    breakdown: str = "",
) -> Task:
    return Task(
        name,
        cards,
        summary,
        "text",
        "long",
        items=items,
        grade=grade,
        wording=lambda: wording,
        sides=sides,
        main_metric="rouge_l_f1",
        pooled=clinical,
        breakdown=breakdown,
        subgroups=("view",),
        max_new_tokens=512,
    )


OURS = ("held-out", "train", "all")
OFFICIAL = ("test", "validate", "train")
MIMIC = ("mimic-cxr-jpg", "mimic-cxr")

ROWS = (
    _row(
        "mimic-cxr-report",
        MIMIC,
        "MIMIC-CXR: findings and impression from a frontal film and the indication",
        partial(mimic_items, film_prompt),
        [film_prompt("INDICATION"), film_prompt("")],
        OFFICIAL,
    ),
    _row(
        "mimic-cxr-report-pretrained",
        MIMIC,
        "the same in the words for the pre-trained checkpoint",
        partial(mimic_items, pretrained_prompt),
        [pretrained_prompt("INDICATION"), pretrained_prompt("")],
        OFFICIAL,
    ),
    _row(
        "iu-xray-report",
        ("iu-xray",),
        "Indiana collection: findings and impression from a study's films and the indication",
        iu_items,
        [film_prompt("INDICATION"), film_prompt("")],
        OURS,
        "normality",
    ),
    _row(
        "kit-iu-xray-impression",
        ("iu-xray-reports",),
        "Indiana collection, text: the impression from indication and findings",
        kit_items,
        [impression_prompt("INDICATION", "FINDINGS"), impression_prompt("", "FINDINGS")],
        OURS,
        "normality",
    ),
)
