"""Questions about every row of a user's table: a table of answers and of choices' probabilities, resumable.

Answers are appended to `OUT.partial` as they come. One is known again by its row, question, choices and files, the
model and its options, so that a run that was killed goes on.
"""

import csv
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_cards.table import Row, Table
from medgemma.asking import AnswerOptions
from medgemma.prompts.content import finding_lines, open_study, pictures_of, study_parts
from medsiglip.command import refuse_input_as_out
from medsiglip.imaging import FileProblem

if TYPE_CHECKING:
    from medgemma.model import MedGemma

FIELDS = ("row", "files", "question", "answer", "finish_reason", "probabilities", "findings", "error")


@dataclass(frozen=True)
class TableQuestions:
    """What is asked of each row."""

    questions: tuple[str, ...]
    """For rows that bring none of their own."""
    choices: tuple[str, ...] = ()
    """Likewise; with choices the answer is the likeliest one."""
    options: AnswerOptions = AnswerOptions()
    max_new_tokens: int = 256

    def of(self, row: Row) -> list[tuple[str, tuple[str, ...]]]:
        """Questions and choices of one row."""
        asked = (row.question,) if row.question else self.questions
        return [(question, row.choices or self.choices) for question in asked]


def answer_table(
    gemma: "MedGemma",
    table: Table,
    asked: TableQuestions,
    out: Path,
    *,
    on_problem: Callable[[FileProblem], object],
    on_progress: Callable[[int], object] = lambda n: None,
) -> None:
    """Answer a table.

    Args:
        gemma: the model.
        table: from `data_cards.table.read_table`.
        asked: what is asked.
        out: `.csv` or `.parquet`; one line a question of a row, failures too. It appears when all are there.
        on_problem: told of each failure.
        on_progress: told how many lines are done.

    Raises:
        ValueError: another ending than these two, or a row without a question.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{out}: write answers to a .csv or .parquet file")
    refuse_input_as_out(out, table.source)
    partial = out.with_name(out.name + ".partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    done = {line["key"]: line for line in _kept(partial)}
    found: list[dict[str, Any]] = []
    with partial.open("a", encoding="utf-8") as journal:
        for row in [*table.rows, *table.faulty]:
            keys = [_key(gemma, row, asked, *one) for one in asked.of(row)]
            if not keys and not row.fault:
                raise ValueError(f"{row.place}: asks nothing; give a question with -q")
            lines = [done[key] for key in keys if key in done]
            if not keys or len(lines) < len(keys):
                lines = list(_answered(gemma, row, asked, keys))
                for line in lines:
                    if line["error"]:
                        on_problem(FileProblem(row.place, line["error"]))
                    else:
                        journal.write(json.dumps(line, ensure_ascii=False) + "\n")
                journal.flush()
            found += lines
            on_progress(len(lines))
    _write(found, asked.choices, out)
    partial.unlink()


def _answered(gemma: "MedGemma", row: Row, asked: TableQuestions, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One line a question; one that fails leaves the others alone."""
    empty = dict.fromkeys(FIELDS, "") | {"row": row.place, "files": ";".join(map(str, row.files)), "probabilities": {}}
    if row.fault:
        yield {**empty, "key": "", "error": row.fault.removeprefix(f"{row.place}: ")}
        return
    try:
        parts = study_parts(open_study(list(map(str, row.files))), asked.options.view) if row.files else []
    except ValueError as error:
        reason = " ".join(str(error).split())
        yield from ({**empty, "key": "", "question": question, "error": reason} for question, _ in asked.of(row))
        return
    findings = " | ".join(finding_lines(pictures_of(parts)))
    for key, (question, choices) in zip(keys, asked.of(row), strict=True):
        line = {**empty, "key": key, "question": question, "findings": findings}
        try:
            if choices:
                shares = _probabilities(gemma, parts, question, choices, asked.options)
                yield line | {"answer": max(shares, key=shares.__getitem__), "probabilities": shares}
            else:
                [answer] = gemma.ask_parts([(parts, question)], asked.max_new_tokens, 1, asked.options)
                yield line | {"answer": answer.text, "finish_reason": answer.finish_reason}
        except ValueError as error:
            yield line | {"error": " ".join(str(error).split())}


def _probabilities(
    gemma: "MedGemma", parts: Sequence[Any], question: str, choices: Sequence[str], options: AnswerOptions
) -> dict[str, float]:
    """How likely each choice is among them."""
    logprobs = [score.logprob for score in gemma.score_parts(parts, question, choices, options)]
    shares = [math.exp(logprob - max(logprobs)) for logprob in logprobs]
    return {choice: share / sum(shares) for choice, share in zip(choices, shares, strict=True)}


def _key(gemma: "MedGemma", row: Row, asked: TableQuestions, question: str, choices: Sequence[str]) -> str:
    files = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in row.files if file.exists()]
    parts = (gemma.identity, row.place, files, question, tuple(choices), asked.max_new_tokens, asked.options)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _kept(partial: Path) -> Iterator[dict[str, Any]]:
    """Lines of an earlier run; half a line that a kill has left is none."""
    for text in partial.read_text(encoding="utf-8").splitlines() if partial.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "key" in line:
            yield line


def _write(lines: Sequence[dict[str, Any]], choices: Sequence[str], out: Path) -> None:
    """Write all lines: a column for each choice that all rows share, else the probabilities as JSON."""
    flat = []
    for line in lines:
        shares = line["probabilities"]
        told: dict[str, Any] = {name: line[name] for name in FIELDS if name != "probabilities"}
        if choices:
            told |= {f"probability_{choice}": shares.get(choice) for choice in choices}
        told["probabilities"] = json.dumps(shares, ensure_ascii=False) if shares else ""
        flat.append(told)
    whole = out.with_name(out.name + ".whole")
    if out.suffix == ".csv":
        with whole.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(flat[0]) if flat else list(FIELDS))
            writer.writeheader()
            writer.writerows(flat)
    else:
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(flat), whole)
    whole.replace(out)
