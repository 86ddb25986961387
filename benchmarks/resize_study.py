"""How far each resize policy moves an encoder's vectors, its zero-shot labels, and a decoder's answers.

    python -m benchmarks.resize_study --data ../shared/data --pictures 200 --seed 0

Every policy is compared with the checkpoint's own on the same pictures; nothing is scored against a reference. The
pictures are a seeded sample of one side of each set's development part (data_cards/split.py).
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.measure import append, machine, provenance
from data_cards.readers.pictures import read_labelled_pictures
from data_cards.readers.tables import find_set
from data_cards.readers.vqa_rad import VisualQuestion, read_vqa_rad
from data_cards.split import Side, side
from evals.tasks.vqa_rad import parse_answer, prompt
from medgemma import MedGemma
from medsiglip import MedSigLIP, ZeroShotClassifier
from medsiglip.imaging import RESIZE_POLICIES, Picture, read_pictures
from medsiglip.metrics.statistics import Estimate, grouped_statistic_ci

TASK_OF = {
    "cxr-nih14": "chest-xray-findings",
    "histo-lc25000-lung": "lung-histology",
    "modality-mednist": "body-part",
    "vqa-rad": "modality",
}
"""Data set to the zero-shot task whose labels are compared."""
MAX_NEW_TOKENS = 16


@dataclass(frozen=True)
class Sample:
    """Pictures of one set, and what those that are not independent share."""

    name: str
    pictures: list[Picture]
    groups: list[str]

    def subset(self, name: str, keep: Callable[[Picture], bool]) -> "Sample":
        """The pictures that `keep` chooses."""
        chosen = [i for i, picture in enumerate(self.pictures) if keep(picture)]
        return Sample(name, [self.pictures[i] for i in chosen], [self.groups[i] for i in chosen])


def main() -> None:
    """Measure, print a table, append one record."""
    options = _options()
    started = time.perf_counter()
    encoder = MedSigLIP.from_pretrained(options.encoder, device="cpu", dtype="float32")
    decoder = MedGemma.from_pretrained(options.decoder, device="cpu", dtype="float32")
    samples = [read_sample(options.data, name, options.pictures, options.side, options.seed) for name in TASK_OF]
    samples.append(samples[-1].subset("vqa-rad, not square", lambda picture: not is_square(picture)))
    questions = closed_questions(options.data, options.questions, options.side, options.seed)
    record = {
        "benchmark": "resize_study",
        **provenance(),
        "machine": machine(),
        "encoder": {"model": options.encoder, "fingerprint": encoder.fingerprint, **asdict(encoder.preprocessing)},
        "decoder": {"model": options.decoder, "fingerprint": decoder.fingerprint, **asdict(decoder.preprocessing)},
        "side": options.side,
        "seed": options.seed,
        "vectors": [row for sample in samples for row in vector_rows(encoder, sample, options.seed)],
        "answers": answer_rows(decoder, questions, options.seed),
    }
    append({**record, "seconds": time.perf_counter() - started}, options.out)
    print(table(record))


def read_sample(data: Path, name: str, most: int, which: Side, seed: int) -> Sample:
    """At most `most` pictures of one side of a set, drawn without return."""
    if name == "vqa-rad":
        group_of = {question.path: question.group for question in read_vqa_rad(find_set(data, name))}
    else:
        group_of = {picture.path: picture.group for picture in read_labelled_pictures(data, name)}
    paths = sorted(path for path, group in group_of.items() if side(group) == which)
    drawn = [paths[i] for i in _drawn(len(paths), most, seed)]
    pictures = [picture for path in drawn for picture in read_pictures(path)]
    return Sample(name, pictures, [group_of[path] for path in drawn])


def closed_questions(data: Path, most: int, which: Side, seed: int) -> list[VisualQuestion]:
    """At most `most` closed questions of one side of VQA-RAD, drawn without return."""
    questions = [
        question
        for question in read_vqa_rad(find_set(data, "vqa-rad"))
        if question.answer_type == "CLOSED" and side(question.group) == which
    ]
    return [questions[i] for i in _drawn(len(questions), most, seed)]


def vector_rows(encoder: MedSigLIP, sample: Sample, seed: int) -> list[dict[str, Any]]:
    """One row a policy: how near its vectors stay to the own policy's, and the share of labels that change."""
    name = sample.name.split(",")[0]
    classifier = ZeroShotClassifier.for_task(encoder, TASK_OF[name])
    own = encoder.encode_images(sample.pictures)
    own_labels = decisions(classifier, own)
    between = own @ own.T - 2 * np.eye(len(own), dtype=np.float32)
    nearest_other = estimate(between.max(axis=1), np.median, sample.groups, seed)
    rows = []
    for policy in other_policies(encoder.preprocessing.policy):
        changed_encoder = replace(encoder, preprocessing=replace(encoder.preprocessing, policy=policy))
        vectors = changed_encoder.encode_images(sample.pictures)
        cosine = (own.astype(np.float64) * vectors).sum(axis=1)
        changed = (decisions(classifier, vectors) != own_labels).mean(axis=1)
        lost = (vectors @ own.T).argmax(axis=1) != np.arange(len(own))
        rows.append(
            {
                "set": sample.name,
                "task": TASK_OF[name],
                "policy": policy,
                "cosine_median": estimate(cosine, np.median, sample.groups, seed),
                "cosine_5th_percentile": estimate(cosine, lambda c: np.percentile(c, 5), sample.groups, seed),
                "nearest_other_picture_cosine_median": nearest_other,
                "nearer_to_another_picture": estimate(lost, np.mean, sample.groups, seed),
                "labels_changed": estimate(changed, np.mean, sample.groups, seed),
            }
        )
    return rows


def decisions(classifier: ZeroShotClassifier, vectors: np.ndarray) -> np.ndarray:
    """(N, 1) the likeliest label's number, or (N, C) present or absent where labels do not exclude each other."""
    probabilities = classifier.classify_vectors(vectors).probabilities
    if classifier.absent_vectors is not None:
        return np.asarray(probabilities > 0.5)
    return np.asarray(probabilities.argmax(axis=1)[:, None])


def answer_rows(decoder: MedGemma, questions: Sequence[VisualQuestion], seed: int) -> list[dict[str, Any]]:
    """One row a policy and subset: the share of answers that differ from the own policy's."""
    pictures = {path: read_pictures(path)[0] for path in sorted({question.path for question in questions})}
    own = answers(decoder, questions, pictures)
    rows = []
    for policy in other_policies(decoder.preprocessing.policy):
        changed_decoder = replace(decoder, preprocessing=replace(decoder.preprocessing, policy=policy))
        given = answers(changed_decoder, questions, pictures)
        changed = np.array([a != b for a, b in zip(own, given, strict=True)], np.float64)
        for subset, keep in (("all", lambda p: True), ("not square", lambda p: not is_square(p))):
            chosen = [i for i, question in enumerate(questions) if keep(pictures[question.path])]
            groups = [questions[i].group for i in chosen]
            found = estimate(changed[chosen], np.mean, groups, seed)
            rows.append({"set": f"vqa-rad closed, {subset}", "policy": policy, "answers_changed": found})
    return rows


def answers(decoder: MedGemma, questions: Sequence[VisualQuestion], pictures: dict[Path, Picture]) -> list[str]:
    """The short answers, lower case."""
    requests = [(pictures[question.path], prompt(question)) for question in questions]
    said = decoder.ask_each(requests, max_new_tokens=MAX_NEW_TOKENS, batch_size=32)
    return [parse_answer(answer.text).lower() for answer in said]


def other_policies(own: str) -> list[str]:
    """All resize policies but the checkpoint's own."""
    return [policy for policy in RESIZE_POLICIES if policy != own]


def is_square(picture: Picture) -> bool:
    """Whether padding and squashing are the same."""
    return picture.pixels.shape[0] == picture.pixels.shape[1]


def estimate(
    values: np.ndarray, statistic: Callable[[np.ndarray], Any], groups: Sequence[str], seed: int
) -> dict[str, Any]:
    """The statistic with its 95 % bootstrap interval over groups."""
    found: Estimate = grouped_statistic_ci(lambda items: float(statistic(values[items])), groups, seed, 2000)
    return found._asdict()


def table(record: dict[str, Any]) -> str:
    """The record as Markdown for README.md."""
    lines = [
        "| set (pictures, groups), zero-shot task | policy | cosine, median | cosine, 5th percentile "
        "| nearer to another picture | labels changed |",
        "|---|---|---|---|---|---|",
    ]
    for row in record["vectors"]:
        median = row["cosine_median"]
        cells = [f"{row['set']} ({median['n']}, {median['n_groups']}), {row['task']}", f"`{row['policy']}`"]
        cells += [_text(median, 4), _text(row["cosine_5th_percentile"], 4)]
        cells += [_percent(row["nearer_to_another_picture"]), _percent(row["labels_changed"])]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| set | cosine with the nearest other picture, median |", "|---|---|"]
    for name, found in {row["set"]: row["nearest_other_picture_cosine_median"] for row in record["vectors"]}.items():
        lines.append(f"| {name} | {_text(found, 4)} |")
    lines += ["", "| questions (n, cases) | policy | answers changed |", "|---|---|---|"]
    for row in record["answers"]:
        found = row["answers_changed"]
        count = f"{row['set']} ({found['n']}, {found['n_groups']})"
        lines.append(f"| {count} | `{row['policy']}` | {_percent(found)} |")
    return "\n".join(lines)


def _text(found: dict[str, Any], digits: int, scale: float = 1, unit: str = "") -> str:
    value, low, high = (bound * scale for bound in (found["value"], *found["ci95"]))
    return f"{value:.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f})"


def _percent(found: dict[str, Any]) -> str:
    return _text(found, 1, 100, " %")


def _drawn(count: int, most: int, seed: int) -> list[int]:
    return sorted(np.random.default_rng(seed).permutation(count)[:most].tolist())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resize_study", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the real-data kit")
    parser.add_argument("--encoder", default="nano", help="nano, a folder or a Hub id")
    parser.add_argument("--decoder", default="nano", help="nano, a folder or a Hub id")
    parser.add_argument("--pictures", type=int, default=200, help="of each set at most")
    parser.add_argument("--questions", type=int, default=400, help="closed questions of VQA-RAD at most")
    parser.add_argument("--side", choices=get_args(Side), default="held-out", help="see data_cards/split.py")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "resize_study.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    main()
