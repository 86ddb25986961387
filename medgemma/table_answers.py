"""Questions about every row of a user's table: a table of answers and of choices' probabilities, resumable.

Answers are appended to `OUT.partial` as they come. One is known again by its key: of its row, question, choices and
files, the model and its options. So a run that was killed goes on, and the same run only adds to a finished table.
"""

import csv
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from data_cards.table import Row, Table
from medgemma.asking import AnswerOptions, is_on, thinking_messages
from medgemma.endpoint import EndpointRefused, shown_parts
from medgemma.prompts.content import Part, finding_lines, open_study, pictures_of, study_parts
from medsiglip.command import refuse_input_as_out
from medsiglip.imaging import FileProblem

if TYPE_CHECKING:
    from medgemma.endpoint import Endpoint
    from medgemma.model import MedGemma

FIELDS = ("row", "files", "question", "answer", "finish_reason", "probabilities", "findings", "error", "key")
ASKED_TOGETHER = 8
"""Rows that a server is asked about at the same time."""


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


class Said(NamedTuple):
    """An answer."""

    text: str
    finish_reason: str


@dataclass(frozen=True)
class RowAnswerer:
    """What answers the rows of a table."""

    identity: str
    """Of the model; another's answers are not reused."""
    answer: Callable[[Sequence[Part], str], Said]
    """To one question about what a row shows."""
    probabilities: Callable[[Sequence[Part], str, Sequence[str]], dict[str, float]]
    """How likely each choice is among them."""
    rows_together: int = 1


def of_model(gemma: "MedGemma", asked: TableQuestions) -> RowAnswerer:
    """The model of this process."""

    def answer(parts: Sequence[Part], question: str) -> Said:
        [said] = gemma.ask_parts([(parts, question)], asked.max_new_tokens, 1, asked.options)
        return Said(said.text, said.finish_reason)

    def probabilities(parts: Sequence[Part], question: str, choices: Sequence[str]) -> dict[str, float]:
        logprobs = [score.logprob for score in gemma.score_parts(parts, question, choices, asked.options)]
        shares = [math.exp(logprob - max(logprobs)) for logprob in logprobs]
        return {choice: share / sum(shares) for choice, share in zip(choices, shares, strict=True)}

    return RowAnswerer(gemma.identity, answer, probabilities)


def of_endpoint(endpoint: "Endpoint", asked: TableQuestions) -> RowAnswerer:
    """A server; probabilities of choices come from `medgemma serve` only.

    Raises:
        ValueError: a thinking budget, which no server takes.
    """
    options = asked.options
    if type(options.thinking) is int and options.thinking:
        raise ValueError("a thinking budget does not go with --endpoint; leave it out")

    def answer(parts: Sequence[Part], question: str) -> Said:
        content = [*shown_parts(parts), {"type": "text", "text": question}]
        turns: list[Any] = [{"role": "system", "content": options.system}] if options.system else []
        turns.append({"role": "user", "content": content})
        reply = endpoint.chat(thinking_messages(turns) if is_on(options.thinking) else turns, options.sampling)
        return Said(reply.text, reply.finish_reason)

    def probabilities(parts: Sequence[Part], question: str, choices: Sequence[str]) -> dict[str, float]:
        return endpoint.probabilities(shown_parts(parts), question, choices)

    return RowAnswerer(endpoint.identity, answer, probabilities, ASKED_TOGETHER)


def answer_table(
    answerer: RowAnswerer,
    table: Table,
    asked: TableQuestions,
    out: Path,
    *,
    overwrite: bool = False,
    on_problem: Callable[[FileProblem], object],
    on_progress: Callable[[int], object] = lambda n: None,
) -> None:
    """Answer a table.

    Args:
        answerer: see `RowAnswerer`.
        table: from `data_cards.table.read_table`.
        asked: what is asked.
        out: `.csv` or `.parquet`; one line a question of a row, failures too. It appears when all are there.
        overwrite: replace answers to other questions.
        on_problem: told of each failure.
        on_progress: told how many lines are done.

    Raises:
        ValueError: another ending than these two, a row without a question, or `out` holds answers to other questions.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{out}: write answers to a .csv or .parquet file")
    refuse_input_as_out(out, table.source)
    rows = [*table.rows, *table.faulty]
    keys = [[_key(answerer, row, asked, *one) for one in asked.of(row)] for row in rows]
    for row, its in zip(rows, keys, strict=True):
        if not its and not row.fault:
            raise ValueError(f"{row.place}: asks nothing; give a question with -q")
    partial = out.with_name(out.name + ".partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    done = {} if overwrite else _finished(out, {key for its in keys for key in its})
    done |= {line["key"]: line for line in _kept(partial)}

    def lines_of(row: Row, its: Sequence[str]) -> tuple[bool, list[dict[str, Any]]]:
        """The lines of one row, and whether they are new."""
        if its and all(key in done for key in its):
            return False, [done[key] for key in its]
        return True, list(_answered(answerer, row, asked, its))

    found: list[dict[str, Any]] = []
    with partial.open("a", encoding="utf-8") as journal:
        for row, (are_new, lines) in zip(rows, _each(lines_of, rows, keys, answerer.rows_together), strict=True):
            for line in lines if are_new else ():
                if line["error"]:
                    on_problem(FileProblem(row.place, line["error"]))
                else:
                    journal.write(json.dumps(line, ensure_ascii=False) + "\n")
            journal.flush()
            found += lines
            on_progress(len(lines))
    _write(found, asked.choices, out)
    partial.unlink()


def _each(work: Callable[..., Any], rows: Sequence[Row], keys: Sequence[Any], together: int) -> Iterator[Any]:
    """Results in order, of so many rows at a time; one is begun only when the caller goes on asking."""
    if together == 1:
        yield from map(work, rows, keys)
        return
    pool = ThreadPoolExecutor(together)
    try:
        yield from pool.map(work, rows, keys)
    finally:
        pool.shutdown(cancel_futures=True)


def _answered(answerer: RowAnswerer, row: Row, asked: TableQuestions, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
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
                shares = answerer.probabilities(parts, question, choices)
                yield line | {"answer": max(shares, key=shares.__getitem__), "probabilities": shares}
            else:
                said = answerer.answer(parts, question)
                yield line | {"answer": said.text, "finish_reason": said.finish_reason}
        except EndpointRefused:  # of every row
            raise
        except ValueError as error:
            yield line | {"key": "", "error": " ".join(str(error).split())}


def _key(answerer: RowAnswerer, row: Row, asked: TableQuestions, question: str, choices: Sequence[str]) -> str:
    files = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in row.files if file.exists()]
    parts = (answerer.identity, row.place, files, question, tuple(choices), asked.max_new_tokens, asked.options)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _finished(out: Path, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """The answers of a finished table by key, where it is of these questions; failures are asked again.

    Raises:
        ValueError: it holds something else.
    """
    kept = {line["key"]: line for line in _table_lines(out) if line.get("key")} if out.exists() else {}
    if out.exists() and not (kept and kept.keys() <= wanted):
        what = "something else than this model's answers to these questions"
        raise ValueError(f"{out}: holds {what}; give another --out, or --overwrite")
    return kept


def _table_lines(out: Path) -> Iterator[dict[str, Any]]:
    """The lines of a table that `_write` wrote."""
    if out.suffix == ".csv":
        with out.open(newline="", encoding="utf-8") as file:
            lines: Iterable[dict[str, Any]] = list(csv.DictReader(file))
    else:
        from pyarrow import parquet

        lines = parquet.read_table(out).to_pylist()
    for line in lines:
        told = {name: line.get(name) or "" for name in FIELDS}
        yield told | {"probabilities": json.loads(told["probabilities"] or "{}")}


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
