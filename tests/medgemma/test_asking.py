"""Thinking on, off and budgeted, forms and stops: what reaches the engine, and what a reply holds."""

from pathlib import Path
from typing import Any

import pytest

from medgemma.answers.constraints import StopAt, ThinkingLimit
from medgemma.asking import Asking, Thinking
from medgemma.engine.request import Completion, Sampling
from medgemma.prompts.chat import user_message
from medgemma.prompts.thinking import THINKING_SYSTEM_TEXT
from tests.medgemma.scripted import scripted_asking
from tests.medgemma.thinker import thinking_tokenizer

SAMPLING = Sampling(max_new_tokens=16)
QUESTION = [user_message("View?", 0)]
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module")
def plain(tiny_folder: Path) -> Asking:
    return scripted_asking(tiny_folder)


@pytest.fixture(scope="module")
def thinker(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Asking:
    import shutil

    folder = tmp_path_factory.mktemp("thinker")
    shutil.copytree(tiny_folder, folder, dirs_exist_ok=True)
    thinking_tokenizer(tiny_folder).save_pretrained(folder)
    return scripted_asking(folder)


def said(asking: Asking, text: str, finish_reason: Any = "stop") -> Completion:
    ids = tuple(asking.tokenizer(text, add_special_tokens=False).input_ids)
    return Completion(ids, (-1.0,) * len(ids), finish_reason)


def decoded(asking: Asking, messages: Any, thinking: Thinking) -> str:
    return asking.tokenizer.decode(asking.asked(messages, [], SAMPLING, thinking=thinking).request.prompt.input_ids)


def test_thinking_puts_its_instruction_in_front(thinker: Asking) -> None:
    for thinking in (True, 5):
        assert f"user\n{THINKING_SYSTEM_TEXT}\n\nView?" in decoded(thinker, QUESTION, thinking)
        expected = f"user\n{THINKING_SYSTEM_TEXT} Be brief.\n\nView?"
        assert expected in decoded(thinker, [SYSTEM, *QUESTION], thinking)
        already = {"role": "system", "content": f"{THINKING_SYSTEM_TEXT} Be brief."}
        assert expected in decoded(thinker, [already, *QUESTION], thinking)
    for thinking in (None, False, 0):
        assert THINKING_SYSTEM_TEXT not in decoded(thinker, QUESTION, thinking)


def test_thinking_is_limited_only_where_it_must_be(thinker: Asking) -> None:
    def constraint(thinking: Thinking, form: Any = None) -> Any:
        return thinker.asked(QUESTION, [], SAMPLING, thinking=thinking, form=form).request.constraint

    assert constraint(None) is None and constraint(True) is None
    assert constraint(False).budget == constraint(0).budget == 0
    assert constraint(7).budget == 7
    yes = thinker.grammars.choices(["yes"])
    assert constraint(None, yes) is yes
    for thinking, budget in ((True, None), (False, 0), (7, 7)):
        limit = constraint(thinking, yes)
        assert isinstance(limit, ThinkingLimit) and limit.budget == budget and limit.then is yes


def test_a_model_without_thinking_tokens_refuses_to_think(plain: Asking) -> None:
    for thinking, how in ((True, "thinking"), (9, "a thinking budget of 9")):
        message = f"tiny has no thinking tokens .* and cannot think; ask without {how}"
        with pytest.raises(ValueError, match=message):
            plain.asked(QUESTION, [], SAMPLING, thinking=thinking)
    assert plain.asked(QUESTION, [], SAMPLING, thinking=False).request.constraint is None  # it never does
    with pytest.raises(ValueError, match="a thinking budget of -1; it must be 0, which is off, or more"):
        plain.asked(QUESTION, [], SAMPLING, thinking=-1)


@pytest.mark.parametrize(
    ("reply", "thinking", "text"),
    [
        ("<unused94>thought\nhm<unused95> AP <end_of_turn>", "hm", "AP"),
        ("<unused94>thought\nhm, it may be", "hm, it may be", ""),
        (" AP<end_of_turn>", None, "AP"),
    ],
)
def test_a_reply_holds_no_trace(thinker: Asking, reply: str, thinking: str | None, text: str) -> None:
    asked = thinker.asked(QUESTION, [], SAMPLING)
    completion = said(thinker, reply)
    found = thinker.reply(asked, completion)
    assert (found.thinking, found.text) == (thinking, text)
    assert found.tokens == len(completion.token_ids) and found.logprob == -found.tokens


def test_a_reply_of_a_given_form_is_not_trimmed(plain: Asking) -> None:
    form = plain.grammars.choices([" a "])
    assert plain.reply(plain.asked(QUESTION, [], SAMPLING, form=form), said(plain, " a ")).text == " a "
    assert plain.reply(plain.asked(QUESTION, [], SAMPLING), said(plain, " a ")).text == "a"


def test_a_stop_text_ends_the_answer_and_is_no_part_of_it(thinker: Asking) -> None:
    asked = thinker.asked(QUESTION, [], SAMPLING, stops=["large"], thinking=3)
    assert isinstance(asked.request.constraint, StopAt)
    reply = thinker.reply(asked, said(thinker, "<unused94>thought\nlarge<unused95>It is large, very"))
    assert (reply.text, reply.thinking) == ("It is", "large")
    with pytest.raises(ValueError, match="a stop text is empty"):
        thinker.asked(QUESTION, [], SAMPLING, stops=[""])


def test_a_failed_completion_raises_its_error(plain: Asking) -> None:
    with pytest.raises(ValueError, match="out of memory"):
        plain.reply(plain.asked(QUESTION, [], SAMPLING), Completion((), (), "error", "out of memory"))


def test_pictures_and_image_parts_must_agree(plain: Asking) -> None:
    with pytest.raises(ValueError, match="0 pictures for 2 image parts; give one picture for each"):
        plain.asked([user_message("Compare.", 2)], [], SAMPLING)
