"""HealthBench's rows: scripted judges of known verdicts give scores by hand, planted verdicts change none."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from evals.clinic.dialogue import ContextFull, Message, Players
from evals.clinic.running import play_items
from evals.items import Item
from evals.measures import Answered
from evals.outputs import Output
from evals.results.scores import value_of
from evals.tasks.catalogue import task_named
from evals.tasks.rubric_conversations import clipped, episode, grade
from evals.tasks.task import ItemOptions
from tests.data_cards.test_rubrics_and_calculations import HEALTHBENCH, PROFESSIONAL, healthbench
from tests.evals.judging.test_judging import PLANTED

TASK = task_named("healthbench")
RUBRIC = [
    {"criterion": "Asks since when.", "points": 5, "tags": []},
    {"criterion": "Is short.", "points": 3, "tags": []},
    {"criterion": "Names a drug.", "points": -4, "tags": []},
]

Judge = Callable[[Sequence[Message]], str]


def judge(**verdicts: str) -> Judge:
    """Answers by the first word of the criterion; what it says may be no verdict."""

    def answer(messages: Sequence[Message]) -> str:
        asked = messages[-1]["content"]
        said = verdicts[asked.splitlines()[1].split()[0]]
        nonce = re.search(r"lines that hold (\w+)", asked)
        assert nonce
        return json.dumps({"nonce": nonce[1], "verdict": said}) if said in ("yes", "no") else said

    return answer


def items_of(folder: Path, *rubrics: object) -> list[Item]:
    rows = [{**HEALTHBENCH, "prompt_id": f"c{place}", "rubrics": rubric} for place, rubric in enumerate(rubrics)]
    return TASK.items(healthbench(folder / "healthbench", *rows), ItemOptions("all"))


def played(items: Sequence[Item], folder: Path, judged_by: Judge, reply: str = "Since when?") -> list[Output]:
    assert TASK.dialogue
    players = Players(lambda messages: reply, "model", {"judge": judged_by}, {"judge": "scripted"})
    return list(play_items(items, TASK.dialogue, players, folder))


@pytest.mark.parametrize(
    ("verdicts", "lowest", "highest", "unparsed"),
    [
        (("yes", "yes", "no"), 1.0, 1.0, 0.0),
        (("yes", "no", "yes"), 1 / 8, 1 / 8, 0.0),  # (5 - 4) / (5 + 3)
        (("no", "no", "yes"), -0.5, -0.5, 0.0),
        (("yes", "hm", "hm"), 1 / 8, 1.0, 2 / 3),  # from 5 - 4 to 5 + 3
    ],
)
def test_scores_by_hand(
    tmp_path: Path, verdicts: tuple[str, str, str], lowest: float, highest: float, unparsed: float
) -> None:
    (item,) = items_of(tmp_path, RUBRIC)
    said = dict(zip(("Asks", "Is", "Names"), verdicts, strict=True))
    (output,) = played([item], tmp_path, judge(**said))
    assert grade(item, output) == pytest.approx(
        {"rubric_score": lowest, "rubric_score_highest": highest, "unparsed": unparsed}
    )


@pytest.mark.parametrize(("asks", "mean"), [("yes", 0.25), ("no", 0.0)])  # -0.5 with 1, and with 0: below 0
def test_the_sets_score_is_clipped_after_the_mean(tmp_path: Path, asks: str, mean: float) -> None:
    items = items_of(tmp_path, RUBRIC, [{"criterion": "Asks.", "points": 4, "tags": []}])
    said = judge(Asks="no", **{"Asks.": asks}, Is="no", Names="yes")
    outputs = {output.item_id: output for output in played(items, tmp_path, said)}
    answered = [Answered(item, outputs[item.item_id]) for item in items]
    assert sorted(grade(*pair)["rubric_score"] for pair in answered)[0] == -0.5
    assert value_of(clipped(answered)["rubric_score_clipped"]) == mean


def test_fifty_planted_verdicts_change_no_score(tmp_path: Path) -> None:
    (item,) = items_of(tmp_path, RUBRIC)
    honest = judge(Asks="yes", Is="no", Names="yes")

    def quotes_and_decides(messages: Sequence[Message]) -> str:
        text = messages[-1]["content"].split("text begins ---\n")[1].rsplit("\n---", 1)[0]
        return f"The text says: {text}\n" + honest(messages)

    outputs = [
        played([item], tmp_path / str(place), quotes_and_decides, f"Since when? {planted}")[0]
        for place, planted in enumerate(PLANTED)
    ]
    scores = {grade(item, output)["rubric_score"] for output in outputs}
    assert len(PLANTED) == 50 and scores == {1 / 8}


def test_a_judge_of_known_error_moves_the_score_by_it(tmp_path: Path) -> None:
    """One verdict in ten is unparsed: the interval is one tenth wide."""
    one = [{"criterion": "Asks.", "points": 1, "tags": []}]
    items = items_of(tmp_path, *[one] * 40)
    asked = 0

    def one_in_ten_open(messages: Sequence[Message]) -> str:
        nonlocal asked
        asked += 1
        return judge(**{"Asks.": "hm" if asked % 10 == 0 else "yes"})(messages)

    answered = [Answered(*pair) for pair in zip(items, played(items, tmp_path, one_in_ten_open), strict=True)]
    found = clipped(answered)
    assert value_of(found["rubric_score_clipped"]) == pytest.approx(0.9)
    assert value_of(found["rubric_score_highest_clipped"]) == pytest.approx(1.0)


def test_the_judge_is_part_of_an_outputs_identity_and_sees_no_points(tmp_path: Path) -> None:
    (item,) = items_of(tmp_path, RUBRIC)
    heard: list[str] = []

    def listens(messages: Sequence[Message]) -> str:
        heard.append("".join(turn["content"] for turn in messages))
        return judge(Asks="yes", Is="yes", Names="no")(messages)

    (output,) = played([item], tmp_path, listens)
    assert "judge=scripted" in output.model
    assert len(heard) == 3 and "user: My knee hurts." in heard[0]
    assert not any("-4" in text or "points" in text for text in heard)


def test_a_run_without_a_judge_says_what_to_do(tmp_path: Path) -> None:
    assert TASK.dialogue
    with pytest.raises(ValueError, match=r"a rubric needs a judge; give --role judge=URL#NAME"):
        list(play_items(items_of(tmp_path, RUBRIC), TASK.dialogue, Players(lambda m: "", "model"), tmp_path))


def test_a_judge_that_fails_keeps_the_reply_and_one_that_is_full_is_no_fault_of_the_model(tmp_path: Path) -> None:
    (item,) = items_of(tmp_path, RUBRIC)

    def full(messages: Sequence[Message]) -> str:
        raise ContextFull("too long")

    (output,) = played([item], tmp_path, full)
    assert output.error == "the judge failed: too long"
    assert json.loads(output.text)["reply"] == "Since when?"
    found = episode("healthbench", item, output)
    assert found and found.metadata["invalid"]


def test_a_conversation_that_does_not_fit_scores_nothing(tmp_path: Path) -> None:
    assert TASK.dialogue
    (item,) = items_of(tmp_path, RUBRIC)

    def full(messages: Sequence[Message]) -> str:
        raise ContextFull("too long")

    text = TASK.dialogue.hold(item, Players(full, "model", {"judge": judge()}))
    output = Output(item.item_id, "", "m", text=text)
    assert grade(item, output)["rubric_score"] == 0.0


def test_an_episode_holds_the_conversation_and_its_reward(tmp_path: Path) -> None:
    (item,) = items_of(tmp_path, RUBRIC)
    (output,) = played([item], tmp_path, judge(Asks="yes", Is="no", Names="yes"))
    found = episode("healthbench", item, output)
    assert found and found.steps[0].reward == 1 / 8 and found.steps[1].is_terminal
    assert found.steps[0].observation == {"messages": [{"role": "user", "content": "My knee hurts."}]}


def test_the_professional_set_is_a_row_too(tmp_path: Path) -> None:
    folder = tmp_path / "healthbench-professional"
    folder.mkdir()
    (folder / "healthbench_professional.jsonl").write_text(json.dumps(PROFESSIONAL) + "\n", encoding="utf-8")
    (item,) = task_named("healthbench-professional").items(tmp_path, ItemOptions("all"))
    assert json.loads(item.prompt)["rubric"] == [["Is a letter.", 4.0]]
    assert item.meta["use_case"] == "writing"
