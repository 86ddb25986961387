"""`medgemma ask`: questions about pictures and volumes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medgemma.commands.gate import GateOptions
from medgemma.commands.options import (
    AsJson,
    DrawOptions,
    LoadOptions,
    MaxNewTokens,
    Policy,
    Samples,
    Study,
    System,
    ThinkingOptions,
    VolumeOptions,
    form_of,
    note_unless_measured,
    split,
    studies,
)
from medsiglip.command import Problems, Quiet, files_of, progress, spread_options, whole_file
from medsiglip.imaging import FileProblem, Picture

if TYPE_CHECKING:
    from data_cards.table import Table
    from medgemma.answers import Answer
    from medgemma.asking import AnswerOptions
    from medgemma.model import MedGemma
    from medgemma.prompts.chat import Prompts, TokenCount
    from medgemma.table_answers import TableQuestions


@dataclass(frozen=True)
class RowsOptions:
    """A table whose rows are asked, of the model of this process or of a server."""

    table: Annotated[Path | None, typer.Option(help="A table: its rows are asked, answers go to --out.")] = None
    file_columns: Annotated[
        list[str] | None, typer.Option("--files", metavar="COLUMN", help="The table's files; guessed without it.")
    ] = None
    endpoint: Annotated[
        str, typer.Option(help="With --table: an OpenAI-compatible server that answers, such as medgemma serve.")
    ] = ""
    endpoint_model: Annotated[str, typer.Option(help="The model's name there; needless if it has only one.")] = ""
    overwrite: Annotated[bool, typer.Option("--overwrite", help="With --table: replace other answers in --out.")] = (
        False
    )


@spread_options
def ask(
    question: Annotated[list[str], typer.Option("--question", "-q", help="Repeatable; each is answered by itself.")],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE...]", help="File, folder, quoted glob, @list.txt or -; none asks without."),
    ] = None,
    *,
    rows: RowsOptions,
    each: Annotated[bool, typer.Option("--each", help="Ask every FILE separately, not all as one prompt.")] = False,
    as_json: AsJson = False,
    out: Annotated[Path | None, typer.Option(help="File for the answers; stdout without it.")] = None,
    max_new_tokens: MaxNewTokens = 256,
    choices: Annotated[str, typer.Option(help='The answer is one of these: "yes;no"; of a table a column, too.')] = "",
    regex: Annotated[str, typer.Option(help="The answer matches this regular expression.")] = "",
    json_schema: Annotated[
        str, typer.Option(help="The answer is JSON of this schema: a file, or the JSON itself.")
    ] = "",
    system: System = "",
    thinking: ThinkingOptions,
    draws: DrawOptions,
    samples: Samples = 1,
    policy: Policy = "voi",
    volumes: VolumeOptions,
    pan_and_scan: Annotated[
        bool, typer.Option("--pan-and-scan", help="Show long pictures again in crops; MedGemma was not measured so.")
    ] = False,
    count_tokens: Annotated[
        bool, typer.Option("--count-tokens", help="Only say what each prompt costs; loads no weights.")
    ] = False,
    gating: GateOptions,
    loading: LoadOptions,
    quiet: Quiet = False,
) -> None:
    """Ask questions about pictures; all FILEs together are one prompt, or each is one with --each.

    CT and MR slices and NIfTI files are volumes: each slice followed by its number, within --slices.
    """
    from medgemma.asking import AnswerOptions
    from medgemma.prompts.pan_and_scan import PanAndScan

    problems, view = Problems(), volumes.view()
    crop = PanAndScan() if pan_and_scan else None
    options = AnswerOptions(
        draws.sampling(max_new_tokens, samples), thinking.chosen(), system=system, view=view, pan_and_scan=crop
    )
    if rows.table is not None:
        alone = {"FILE": files, "--each": each, "--json": as_json, "--regex": regex, "--json-schema": json_schema}
        alone |= {"--samples": samples > 1, "--count-tokens": count_tokens, "--pan-and-scan": pan_and_scan}
        _refuse("does not go with --table", alone)
        _ask_rows(rows, question, choices, options, out, loading, problems, quiet)
    else:
        server = rows.endpoint or rows.endpoint_model
        _refuse(
            "goes with --table", {"--endpoint": server, "--overwrite": rows.overwrite, "--files": rows.file_columns}
        )
        about: Iterable[Study] = [Study((), [])]
        if files:
            about = studies(files_of(files, problems), policy, view, problems, each=each, quiet=quiet)
            about = gating.keep(about, problems)
        if count_tokens:
            _count(_prompts(loading.model), about, question, options, problems, as_json, out)
        else:
            gemma = loading.load()
            options = replace(options, form=form_of(gemma.asking, choices, regex, json_schema))
            scored = split(choices) if choices and as_json else []
            _answer(gemma, about, question, options, scored, problems, as_json, out, quiet)
    problems.exit()


def _refuse(why: str, given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value:
            raise ValueError(f"{name} {why}; leave it out")


def _answer(
    gemma: "MedGemma",
    about: Iterable[Study],
    questions: Sequence[str],
    options: "AnswerOptions",
    scored: Sequence[str],
    problems: Problems,
    as_json: bool,
    out: Path | None,
    quiet: bool,
) -> None:
    """Write the answers as they come; `scored` choices get their log-probabilities."""
    with whole_file(out) as file, progress(None, "answers", quiet) as advance:
        for study in about:
            if sum(isinstance(part, Picture) for part in study.parts) > 1:
                note_unless_measured(gemma, "several pictures in one prompt")
            for answer in _answers(gemma, study, questions, options, problems):
                scores = _scores(gemma, study, answer.question, scored, options) if scored else {}
                file.write(_line(answer, as_json, scores) + "\n")
                advance(1)


def _ask_rows(
    rows: RowsOptions,
    questions: Sequence[str],
    choices: str,
    options: "AnswerOptions",
    out: Path | None,
    loading: LoadOptions,
    problems: Problems,
    quiet: bool,
) -> None:
    """Ask every row of the model of this process, or of a server."""
    from medgemma.endpoint import Endpoint
    from medgemma.table_answers import answer_table, of_endpoint, of_model

    if out is None:
        raise ValueError("--table needs --out: a .csv or .parquet file for the answers")
    if not rows.endpoint and rows.endpoint_model:
        raise ValueError("--endpoint-model goes with --endpoint")
    if rows.endpoint and loading != LoadOptions():
        raise ValueError("how a model is loaded does not go with --endpoint; the server has loaded its own")
    table, asked = _table(rows, questions, choices, options)
    with ExitStack() as stack:
        if rows.endpoint:
            answerer = of_endpoint(stack.enter_context(Endpoint(rows.endpoint, rows.endpoint_model or None)), asked)
        else:
            answerer = of_model(loading.load(), asked)
        advance = stack.enter_context(progress(len(table.rows) + len(table.faulty), "answers", quiet))
        answer_table(
            answerer,
            table,
            asked,
            out,
            overwrite=rows.overwrite,
            on_problem=problems.add,
            on_progress=advance,
        )


def _table(
    rows: RowsOptions, questions: Sequence[str], choices: str, options: "AnswerOptions"
) -> "tuple[Table, TableQuestions]":
    """A table and what is asked of it; a question or the choices may be a column's name."""
    from data_cards.table import Columns, read_table
    from data_cards.table.records import records_of
    from medgemma.table_answers import TableQuestions

    assert rows.table is not None
    names = records_of(rows.table).columns
    column = questions[0] if len(questions) == 1 and questions[0] in names else ""
    of_choices = (choices,) if choices in names and choices else ()
    files = tuple(rows.file_columns or ())
    columns = Columns(files=files, question=column or "none", choices=of_choices, label=("none",))
    read = read_table(rows.table, columns, labelled=False)
    given = tuple(split(choices)) if choices and not of_choices else ()
    return read, TableQuestions(() if column else tuple(questions), given, options, options.sampling.max_new_tokens)


def _answers(
    gemma: "MedGemma", study: Study, questions: Sequence[str], options: "AnswerOptions", problems: Problems
) -> "list[Answer]":
    """All questions as one batch; when one is refused, each by itself so that the others are answered."""
    try:
        asked = [(study.parts, question) for question in questions]
        return gemma.ask_parts(asked, options.sampling.max_new_tokens, 16, options)
    except ValueError as error:
        if len(questions) == 1:
            problems.add(FileProblem(_name(study, questions[0]), str(error)))
            return []
    return [a for question in questions for a in _answers(gemma, study, [question], options, problems)]


def _name(study: Study, question: str) -> str:
    return f"{', '.join(study.files) or 'no files'}, question {question[:40]!r}"


def _scores(
    gemma: "MedGemma", study: Study, question: str, choices: Sequence[str], options: "AnswerOptions"
) -> dict[str, float]:
    """The log-probability of each choice, without reasoning before it."""
    scores = gemma.score_parts(study.parts, question, choices, replace(options, thinking=None, form=None))
    return {choice: score.logprob for choice, score in zip(choices, scores, strict=True)}


def _line(answer: "Answer", as_json: bool, scores: Mapping[str, float]) -> str:
    if as_json:
        fields = {"answer" if k == "text" else k: v for k, v in asdict(answer).items()}
        chosen = {"choice_logprobs": scores} if scores else {}
        return json.dumps({**fields, "seconds": round(answer.seconds, 3), **chosen}, ensure_ascii=False)
    return f"{', '.join(answer.files)}\t{answer.question}\t{answer.text}"


# What a prompt costs


def _prompts(model: str) -> "Prompts":
    from medgemma.nano import NANO_FOLDER
    from medgemma.prompts.chat import Prompts
    from medsiglip.checkpoints.folders import resolve_model

    return Prompts.from_folder(resolve_model(model, NANO_FOLDER), model)


def _count(
    prompts: "Prompts",
    about: Iterable[Study],
    questions: Sequence[str],
    options: "AnswerOptions",
    problems: Problems,
    as_json: bool,
    out: Path | None,
) -> None:
    from medgemma.asking import conversation

    with whole_file(out) as file:
        for study in about:
            for question in questions:
                try:
                    messages, _ = conversation(study.parts, question, options)
                    prompt = prompts.render(messages)
                except ValueError as error:
                    problems.add(FileProblem(_name(study, question), str(error)))
                    continue
                count = prompts.count(prompt, options.sampling.max_new_tokens)
                file.write(_count_line(study, question, count, as_json) + "\n")
                if not count.fits:
                    problems.add(FileProblem(_name(study, question), count.too_long(prompts.name)))


def _count_line(study: Study, question: str, count: "TokenCount", as_json: bool) -> str:
    facts = {"prompt": count.prompt, **count._asdict(), "fits": count.fits}
    if as_json:
        return json.dumps({"files": study.files, "question": question, "tokens": facts}, ensure_ascii=False)
    pictures = f"{count.images:,} of {count.num_images} images"
    said = f"{count.prompt:,} tokens ({count.text:,} of text, {pictures}), {count.answer:,} for the answer"
    return f"{', '.join(study.files)}\t{question}\t{said}, {count.limit:,} at most"
