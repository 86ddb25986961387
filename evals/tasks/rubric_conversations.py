"""HealthBench and its professional set: a reply to a conversation, and a judge's verdict on each criterion of a rubric.

An item is played by the measured model, which writes the reply, and the judge (`--role judge=URL#NAME`), which is asked
about one criterion at a time (evals/judging). Verdicts that the judge left unparsed stay in n: `rubric_score` takes
them against the reply, `rubric_score_highest` for it. Who judged is in the identity of every output.

Source: Arora et al., arXiv:2505.08775, section 3, and healthbench_eval.py of openai/simple-evals: points of the met
    criteria over the positive points, the mean over conversations clipped to 0..1. Their judge sees all criteria's
    points; ours does not, so that a sign cannot sway it.
"""

import json
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_cards.readers.rubrics import (
    Criterion,
    RubricConversation,
    read_healthbench,
    read_healthbench_professional,
)
from data_cards.readers.tables import find_set
from evals.clinic.dialogue import (
    BackendFailed,
    ContextFull,
    Dialogue,
    Message,
    Players,
    call,
    without_thinking,
)
from evals.clinic.episodes import Reply, episode_of
from evals.items import Item
from evals.judging.judge import FRAME, PART
from evals.judging.judge import VERSION as JUDGE_VERSION
from evals.judging.rubrics import QUESTION, SYSTEM, grade_reply, rubric_score
from evals.measures import Answered, Measure, of_statistic
from evals.outputs import Output
from evals.tasks.task import ItemOptions, Task
from experience import Episode
from medsiglip.metrics.bootstrap import ratio


def items(
    read: Callable[[Path, str], list[RubricConversation]], card: str, data_dir: str | Path, options: ItemOptions
) -> list[Item]:
    """Make one item a conversation, in a seeded order; its prompt is conversation and rubric as JSON.

    Raises:
        ValueError: The set is missing or broken.
    """
    made = [_item(card, found) for found in read(find_set(data_dir, card), options.side)]
    random.Random(options.seed).shuffle(made)
    return made


def hold(item: Item, players: Players) -> str:
    """Have the model reply and the judge decide on each criterion; the text of an output.

    Raises:
        ValueError: There is no judge.
        BackendFailed: A side failed, or the judge ran out of context.
    """
    judge = players.others.get("judge")
    if judge is None:
        raise ValueError("a rubric needs a judge; give --role judge=URL#NAME, or judge=model for the model itself")
    told = json.loads(item.prompt)
    try:
        reply = call("model", players.model, told["messages"])
    except ContextFull:
        return _text("", None, "out_of_context", [None] * len(told["rubric"]))
    said = without_thinking(reply)
    try:
        conversation = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in told["messages"])
        found = grade_reply(lambda asked: _judged(judge, asked), criteria_in(item), conversation, said.text)
    except BackendFailed as failure:
        failure.held = _text(said.text, said.thinking, "broken", [])
        raise
    return _text(said.text, said.thinking, "replied", [verdict.met for verdict in found])


def grade(item: Item, output: Output) -> dict[str, float]:
    """Score a reply: unclipped, below 0 where it says what it must not. A reply that did not fit scores 0."""
    held = json.loads(output.text)
    if held["outcome"] == "out_of_context":
        return {"rubric_score": 0.0, "rubric_score_highest": 0.0, "unparsed": 0.0}
    score = rubric_score(criteria_in(item), held["met"])
    return {
        "rubric_score": score.lowest,
        "rubric_score_highest": score.highest,
        "unparsed": score.num_unparsed / len(held["met"]),
    }


def clipped(answered: Sequence[Answered]) -> dict[str, Measure]:
    """Return the set's published figure: the mean over conversations, clipped to 0..1 after the mean."""
    graded = [grade(*pair) for pair in answered]

    def mean(name: str, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        values = np.array([row[name] for row in graded])
        return np.clip(ratio(weights @ values, weights.sum(axis=1)), 0.0, 1.0)

    return {
        f"{name}_clipped": of_statistic(answered, partial(mean, name))
        for name in ("rubric_score", "rubric_score_highest")
    }


def criteria_in(item: Item) -> list[Criterion]:
    """Return the rubric of an item."""
    return [Criterion(text, points) for text, points in json.loads(item.prompt)["rubric"]]


def episode(name: str, item: Item, output: Output) -> Episode | None:
    """Return the model's side: one reply, rewarded with its score."""
    if not output.text:
        return None
    held = json.loads(output.text)
    reward = 0.0 if output.error else grade(item, output)["rubric_score"]
    replies = [Reply(json.loads(item.prompt)["messages"], held["reply"], held["thinking"])]
    ended = held["outcome"] == "replied"
    return episode_of(item, output, replies, [], reward, ended, name, outcome=held["outcome"])


def _item(card: str, found: RubricConversation) -> Item:
    asked = {
        "messages": [{"role": role, "content": text} for role, text in found.messages],
        "rubric": [[criterion.text, criterion.points] for criterion in found.rubric],
    }
    meta = {"card": card, **found.labels}
    return Item(found.item_id, (), json.dumps(asked, ensure_ascii=False), "", "open", found.group, meta)


def _judged(judge: Callable[[Sequence[Message]], str], asked: Sequence[Message]) -> str:
    try:
        return call("judge", judge, asked)
    except ContextFull as fault:
        raise BackendFailed("judge", fault) from fault


def _text(reply: str, thinking: str | None, outcome: str, met: Sequence[bool | None]) -> str:
    return json.dumps({"reply": reply, "thinking": thinking, "outcome": outcome, "met": met}, ensure_ascii=False)


def _wording() -> list[object]:
    return [SYSTEM, QUESTION, FRAME, PART, JUDGE_VERSION]


def _row(
    name: str,
    summary: str,
    read: Callable[[Path, str], list[RubricConversation]],
    sides: tuple[str, ...],
    breakdown: str,
    subgroups: tuple[str, ...] = (),
) -> Task:
    return Task(
        name,
        (name,),
        summary,
        "dialogue",
        "long",
        items=partial(items, read, name),
        grade=grade,
        wording=_wording,
        sides=sides,
        main_metric="rubric_score",
        pooled=clipped,
        breakdown=breakdown,
        subgroups=subgroups,
        max_new_tokens=1024,
        dialogue=Dialogue(name, hold, partial(episode, name), ("judge",)),
    )


ROWS = (
    _row(
        "healthbench",
        "a reply to a health conversation, judged by a physicians' rubric (--role judge=...)",
        read_healthbench,
        ("all", "hard", "consensus"),
        "theme",
    ),
    _row(
        "healthbench-professional",
        "the same on professionals' conversations",
        lambda folder, side: read_healthbench_professional(folder),
        ("all",),
        "use_case",
        ("type", "difficulty"),
    ),
)
