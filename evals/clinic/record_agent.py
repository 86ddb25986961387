"""An agent that answers a question from a patient's record in five steps.

It asks for the manifest, names the resource types that matter, fetches each, writes down the relevant facts of what
came back (in pieces that fit a prompt), and answers from the facts. A call that is wrong comes back to the model as
text, and it may try again a few times.

Source: the steps of Google's EHR navigator notebook (Google-Health/medgemma); wording and code are ours.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

from evals.clinic.dialogue import Backend, BackendFailed, ContextFull, Message, call, chat, without_thinking
from evals.metrics.fields import parse_document
from medgemma.records.elements import Resource
from medgemma.records.tools import Fetched, Search, ToolError, fetch, manifest, name_of

Step = Literal["manifest", "types", "fetch", "facts", "answer"]

Outcome = Literal["answered", "no_manifest_call", "no_resource_types", "out_of_calls", "out_of_context", "broken"]
"""Why it ended. Only `answered` can be right; the next four are the model's failures and stay in n; `broken` is what a
backend that failed left behind."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Assignment:
    """A question, the wording of the five steps, and the budgets."""

    patient_id: str
    question: str
    system: str
    manifest: str
    """Asks for the manifest call; has {patient_id} and {question}."""
    types: str
    """Asks for a list of types; has {question} and {manifest}."""
    fetch: str
    """Asks for one fetch call; has {patient_id}, {question}, {resource_type} and {codes}."""
    facts: str
    """Asks for the relevant facts; has {question}, {resource_type} and {resources}."""
    answer: str
    """Asks for the answer; has {question} and {facts}."""
    error: str
    """Comes back for a wrong call; has {error}."""
    max_calls: int
    """Of the model."""
    max_attempts: int
    """At one call."""
    piece_characters: int
    """Of resources put into one prompt."""


@dataclass(frozen=True)
class Exchange:
    """One reply of the model."""

    step: Step
    told: tuple[Message, ...]
    """The whole prompt; of a repeated call only what was added."""
    reply: str
    thinking: str | None
    error: str = ""
    """What was wrong with the call, as the model was told."""


@dataclass(frozen=True)
class Session:
    """What happened."""

    exchanges: tuple[Exchange, ...]
    outcome: Outcome
    answer: str = ""
    fetched: tuple[str, ...] = ()
    """`Type/id` of every resource that came back."""


class _OutOfCalls(Exception):
    """The budget of calls is used up."""


class _NoCall(Exception):
    """A step got no call that can be answered."""

    def __init__(self, step: Step) -> None:
        super().__init__(step)
        self.step = step


class _Desk:
    """The model at work: counts calls and keeps what was said."""

    def __init__(self, assignment: Assignment, model: Backend) -> None:
        self.assignment, self.model = assignment, model
        self.exchanges: list[Exchange] = []
        self.fetched: dict[str, None] = {}

    def ask(self, step: Step, told: Sequence[Message], before: Sequence[Message] = ()) -> str:
        """Return what the model says to `told`, which follows `before`."""
        if len(self.exchanges) >= self.assignment.max_calls:
            raise _OutOfCalls
        said = without_thinking(call("model", self.model, [*before, *told]))
        self.exchanges.append(Exchange(step, tuple(told), said.text, said.thinking))
        return said.text

    def ask_until(self, step: Step, prompt: str, use: Callable[[str], Found]) -> Found:
        """Ask until `use` takes the reply; what it raises is told to the model."""
        conversation: list[Message] = []
        told = chat(self.assignment.system, [("user", prompt)])
        for _ in range(self.assignment.max_attempts):
            reply = self.ask(step, told, conversation)
            try:
                return use(reply)
            except ToolError as fault:
                self.exchanges[-1] = replace(self.exchanges[-1], error=str(fault))
                conversation += [*told, {"role": "assistant", "content": reply}]
                told = [{"role": "user", "content": self.assignment.error.format(error=fault)}]
        raise _NoCall(step)


def run_agent(assignment: Assignment, model: Backend, search: Search) -> Session:
    """Answer a question from a record.

    Args:
        assignment: The question.
        model: Who answers.
        search: Of the record.

    Raises:
        BackendFailed: The model's backend raised; `held` is the session until then.
    """
    desk = _Desk(assignment, model)

    def session(outcome: Outcome, answer: str = "") -> Session:
        return Session(tuple(desk.exchanges), outcome, answer, tuple(desk.fetched))

    try:
        return session("answered", _answer(desk, search))
    except _OutOfCalls:
        return session("out_of_calls")
    except ContextFull:
        return session("out_of_context")
    except _NoCall as failed:
        return session("no_manifest_call" if failed.step == "manifest" else "no_resource_types")
    except BackendFailed as failure:
        failure.held = text_of(session("broken"))
        raise


def text_of(session: Session) -> str:
    """Write a session as the text of an output."""
    return json.dumps(asdict(session), ensure_ascii=False)


def session_in(text: str) -> Session:
    """Read the session that an output's text holds."""
    row = json.loads(text)
    exchanges = tuple(Exchange(**{**one, "told": tuple(one["told"])}) for one in row["exchanges"])
    return Session(**{**row, "exchanges": exchanges, "fetched": tuple(row["fetched"])})


def call_in(reply: str) -> dict[str, Any] | None:
    """Return the tool call that a reply makes, whatever was asked for; None if it makes none."""
    for tool in ("manifest", "fetch"):
        try:
            return _tool_call(reply, tool)
        except ToolError:
            continue
    return None


def tool_call_in(exchange: Exchange) -> dict[str, Any] | None:
    """Return the tool call that a reply made; None if it made none."""
    if exchange.step not in ("manifest", "fetch"):
        return None
    try:
        return _tool_call(exchange.reply, exchange.step)
    except ToolError:
        return None


def _answer(desk: _Desk, search: Search) -> str:
    task = desk.assignment
    asked = {"patient_id": task.patient_id, "question": task.question}

    def use_manifest(reply: str) -> dict[str, list[str]]:
        return manifest(search, str(_tool_call(reply, "manifest").get("patient_id")), task.patient_id)

    there = desk.ask_until("manifest", task.manifest.format(**asked), use_manifest)
    listed = json.dumps(there, ensure_ascii=False)
    prompt = task.types.format(question=task.question, manifest=listed)
    facts = []
    for kind in desk.ask_until("types", prompt, lambda reply: _types_in(reply, there)):
        facts += _facts_of(desk, search, kind, there[kind])
    told = task.answer.format(question=task.question, facts="\n".join(facts) or "none")
    return desk.ask("answer", chat(task.system, [("user", told)]))


def _facts_of(desk: _Desk, search: Search, kind: str, codes: Sequence[str]) -> list[str]:
    """Fetch one type and return what the model noted of it; a fetch that never succeeds is noted instead."""
    task = desk.assignment

    def use_fetch(reply: str) -> Fetched:
        asked = _tool_call(reply, "fetch")
        return fetch(search, asked.get("patient_id"), asked.get("resource_type"), asked.get("codes"), task.patient_id)

    prompt = task.fetch.format(
        patient_id=task.patient_id, question=task.question, resource_type=kind, codes=", ".join(codes) or "none"
    )
    try:
        found = desk.ask_until("fetch", prompt, use_fetch)
    except _NoCall:
        return [f"{kind}: could not be fetched"]
    desk.fetched.update(dict.fromkeys(map(name_of, found.resources)))
    notes = [f"{kind}: {found.note}"] if found.note else []
    for piece in _pieces(found.resources, task.piece_characters):
        prompt = task.facts.format(question=task.question, resource_type=kind, resources=piece)
        notes.append(desk.ask("facts", chat(task.system, [("user", prompt)])))
    return notes


def _tool_call(reply: str, tool: str) -> dict[str, Any]:
    document = parse_document(reply)
    if isinstance(document, list) and len(document) == 1:
        document = document[0]
    if not isinstance(document, dict):
        raise ToolError("the reply holds no JSON object")
    if document.get("tool") != tool:
        raise ToolError(f'"tool" is {document.get("tool")!r}; expected {tool!r}')
    return document


def _types_in(reply: str, there: dict[str, list[str]]) -> list[str]:
    document = parse_document(reply)
    named = document if isinstance(document, list) else None
    if not named or not all(isinstance(name, str) for name in named):
        raise ToolError("the reply holds no JSON list of resource types")
    unknown = [name for name in named if name not in there]
    if unknown:
        raise ToolError(f"{', '.join(unknown)}: not in the record, which has {', '.join(there)}")
    return list(dict.fromkeys(named))


def _pieces(resources: Sequence[Resource], most_characters: int) -> Iterator[str]:
    """Yield resources as JSON lines, as many at a time as fit; a longer one alone is a piece of its own."""
    lines: list[str] = []
    for resource in resources:
        line = json.dumps(resource, ensure_ascii=False, separators=(",", ":"))
        if lines and sum(map(len, lines)) + len(line) > most_characters:
            yield "\n".join(lines)
            lines = []
        lines.append(line)
    if lines:
        yield "\n".join(lines)
