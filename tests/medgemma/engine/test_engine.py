"""Requests through the engine: the tokens of plain transformers, whatever else is in the batch."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._inductor.utils import fresh_cache

from medgemma.engine import Request, Sampling
from medgemma.engine.engine import Engine, EngineBusy, Event
from medgemma.engine.prefill import prefill_passes
from medgemma.engine.vision import FeatureCache
from tests.medgemma.engine import small

STOP = frozenset({1})
SHARED = small.prompt(1, 30, 20)


@pytest.fixture(scope="module")
def model() -> Any:
    return small.model()


class NumberedPictures(FeatureCache):
    """Pictures that exist only as their number: features are drawn from it."""

    def key(self, picture: Any, adapter: str | None) -> Any:
        return picture, adapter

    def _encoded(self, pictures: Sequence[Any]) -> torch.Tensor:
        return torch.stack(small.features(*pictures))


def new_engine(model: Any, **kwargs: Any) -> Engine:
    engine = Engine(model, stop_ids=STOP, **kwargs)
    engine.preparing.features = NumberedPictures(model, None)  # type: ignore[arg-type]
    return engine


@pytest.fixture
def engine(model: Any) -> Engine:
    return new_engine(model)


def request(prompt: Any, *pictures: Any, **sampling: Any) -> Request:
    return Request(prompt, pictures, Sampling(**{"max_new_tokens": 20, **sampling}))


def requests() -> list[Request]:
    """Unlike lengths, pictures, shared beginnings, answers that end at unlike times."""
    return [
        request(small.joined(SHARED, small.prompt(3, 5)), 7),
        request(small.joined(SHARED, small.prompt(4, 9)), 7, max_new_tokens=3),
        request(small.joined(SHARED, small.prompt(4, 9)), 8),
        request(small.prompt(6, 2)),
        request(small.prompt(7, 60, 1, 1), 5, 5, max_new_tokens=30),
        request(small.prompt(8, 11), max_new_tokens=1),
    ]


def tokens(completions: list[list[Any]]) -> list[list[int]]:
    return [list(sample.token_ids) for samples in completions for sample in samples]


def expected(model: Any, asked: Sequence[Request]) -> list[list[int]]:
    """By transformers' forward pass over everything, up to a stop token."""
    answers = []
    for r in asked:
        said = small.greedy_of_transformers(model, r.prompt, r.pictures, r.sampling.max_new_tokens)
        answers.append(said[: said.index(1) + 1] if 1 in said else said)
    return answers


def test_greedy_tokens_are_those_of_transformers(engine: Engine, model: Any) -> None:
    answers = expected(model, requests())
    assert len({tuple(a) for a in answers}) == len(answers) and len({t for a in answers for t in a}) > 12
    assert tokens(engine.generate(requests())) == answers


@pytest.mark.parametrize("max_rows", [1, 2, 3])
def test_batch_and_order_change_nothing(model: Any, max_rows: int) -> None:
    answers = expected(model, requests())
    engine = new_engine(model, max_rows=max_rows)
    assert tokens(engine.generate(requests()[::-1])) == answers[::-1]
    assert [tokens(engine.generate([r]))[0] for r in requests()] == answers


def test_requests_join_and_leave_between_steps(engine: Engine, model: Any) -> None:
    asked, answers = requests(), expected(model, requests())
    tickets: dict[int, int] = {}
    said: dict[int, list[int]] = {}
    steps = 0
    while len(tickets) < len(asked) or engine.num_running or engine.num_waiting:
        if steps % 3 == 0 and len(tickets) < len(asked):
            tickets[engine.submit(asked[len(tickets)])] = len(tickets)
        for event in engine.step():
            said.setdefault(tickets[event.ticket], []).append(event.token_id or 0)
        steps += 1
    assert [said[i] for i in range(len(asked))] == answers


def test_logprobs_are_those_of_transformers(engine: Engine, model: Any) -> None:
    asked = requests()[4]
    ((completion,),) = engine.generate([asked])
    logits = small.logits_of_transformers(model, asked.prompt, asked.pictures, completion.token_ids)
    rows = logits[len(asked.prompt.input_ids) - 1 : -1].log_softmax(-1)
    theirs = rows.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(completion.logprobs), theirs, atol=1e-5, rtol=0)


def test_streamed_is_whole(engine: Engine) -> None:
    asked = requests()[0]
    events = list(engine.stream(asked))
    ((whole,),) = engine.generate([asked])
    assert [event.token_id for event in events] == list(whole.token_ids)
    assert events[-1].completion == whole and all(event.completion is None for event in events[:-1])


def test_two_callers_take_turns(engine: Engine, model: Any) -> None:
    """An open stream loses nothing to a whole answer made meanwhile."""
    first, second = requests()[0], requests()[2]
    answers = expected(model, [first, second])
    stream = engine.stream(first)
    said = [next(stream).token_id for _ in range(3)]
    assert tokens(engine.generate([second])) == [answers[1]]
    assert said + [event.token_id for event in stream] == answers[0]


def test_the_next_turn_computes_only_what_is_new(engine: Engine, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = replace(requests()[0], continues=True)
    said = [event.token_id or 0 for event in engine.stream(first)]
    more = small.joined(first.prompt, small.prompt(9, 6))
    second = request(
        replace(more, input_ids=(*more.input_ids, *said), token_type_ids=(*more.token_type_ids, *[0] * 20)), 7
    )
    seen = []
    forward = engine.network.prefill
    counted = lambda s, e, c: (seen.append(int(c.counts.sum())), forward(s, e, c))[1]  # noqa: E731
    monkeypatch.setattr(engine.network, "prefill", counted)
    assert tokens(engine.generate([second])) == expected(model, [second])
    assert seen == [len(second.prompt.input_ids) - len(first.prompt.input_ids)]


# Samples


def test_samples_do_not_depend_on_the_batch(engine: Engine) -> None:
    drawn = {"temperature": 1.0, "seed": 5}
    asked = [request(small.joined(SHARED, small.prompt(3, 5)), 7, num_samples=4, **drawn), *requests()[1:4]]
    together, alone = engine.generate(asked)[0], engine.generate(asked[:1])[0]
    assert tokens([together]) == tokens([alone])
    assert [s.logprobs for s in together] == [pytest.approx(s.logprobs, abs=1e-5) for s in alone]
    assert len({sample.token_ids for sample in together}) == 4
    first = engine.generate([request(asked[0].prompt, 7, num_samples=1, **drawn)])[0]
    assert first[0].token_ids == together[0].token_ids
    other = engine.generate([replace(asked[0], sampling=replace(asked[0].sampling, seed=6))])[0]
    assert not {s.token_ids for s in other} & {s.token_ids for s in together}


def test_greedy_samples_of_one_prompt_are_alike(engine: Engine, model: Any) -> None:
    asked = request(requests()[0].prompt, 7, num_samples=3)
    assert tokens(engine.generate([asked])) == 3 * expected(model, [requests()[0]])


# Choices


def test_choice_scores_are_those_of_a_forward_pass_each(engine: Engine, model: Any) -> None:
    choices = [(50,), (51, 52, 53), tuple(range(60, 75)), (50, 51)]
    asked = requests()[:5]
    scored = engine.score_choices([(r, choices) for r in asked])
    for r, scores in zip(asked, scored, strict=True):
        for choice, score in zip(choices, scores, strict=True):
            logits = small.logits_of_transformers(model, r.prompt, r.pictures, choice)
            rows = logits[len(r.prompt.input_ids) - 1 : -1].log_softmax(-1)
            theirs = rows.gather(1, torch.tensor(choice)[:, None]).sum()
            assert score.logprob == pytest.approx(float(theirs), abs=1e-4)
            assert score.num_tokens == len(choice)
            assert score.greedy == bool((rows.argmax(-1) == torch.tensor(choice)).all())


def test_the_greedy_answer_is_a_greedy_choice(engine: Engine) -> None:
    asked = requests()[0]
    ((answer,),) = engine.generate([asked])
    ((best, other),) = engine.score_choices([(asked, [answer.token_ids, (50, 51)])])
    assert best.greedy and not other.greedy
    assert best.logprob == pytest.approx(sum(answer.logprobs), abs=1e-4)


@pytest.mark.parametrize("choices", [[], [(50,), ()]])
def test_empty_choices_are_refused(engine: Engine, choices: list[Any]) -> None:
    with pytest.raises(ValueError, match="give at least one token"):
        engine.score_choices([(requests()[0], choices)])


# Ends


def test_more_stop_tokens(engine: Engine) -> None:
    ((whole,),) = engine.generate([requests()[0]])
    stop = whole.token_ids[4]
    first = whole.token_ids.index(stop)
    ((cut,),) = engine.generate([request(requests()[0].prompt, 7, stop_ids=frozenset({stop}))])
    assert cut.token_ids == whole.token_ids[: first + 1] and cut.finish_reason == "stop"


def test_cancelled_requests_leave_and_others_go_on(engine: Engine, model: Any) -> None:
    asked = [request(r.prompt, *r.pictures, max_new_tokens=25) for r in requests()[:3]]
    answers = expected(model, asked)
    tickets = [engine.submit(r) for r in asked]
    said: dict[int, list[Event]] = {ticket: [] for ticket in tickets}
    for number in range(40):
        if number == 4:
            engine.cancel(tickets[0])
        for event in engine.step():
            said[event.ticket].append(event)
    last = said[tickets[0]][-1].completion
    assert last is not None and last.finish_reason == "cancelled" and list(last.token_ids) == answers[0][:5]
    for ticket, answer in zip(tickets[1:], answers[1:], strict=True):
        assert [event.token_id for event in said[ticket]] == answer
    assert engine.num_running == engine.num_waiting == 0


def test_a_stream_that_is_left_is_cancelled(engine: Engine) -> None:
    stream = engine.stream(request(SHARED, 7))
    next(stream)
    stream.close()
    assert engine.num_running == 0 and engine.step() == []


def test_the_queue_is_bounded(model: Any) -> None:
    engine = new_engine(model, max_rows=1, max_waiting=2)
    for _ in range(2):
        engine.submit(requests()[0])
    with pytest.raises(EngineBusy, match="2 requests wait already"):
        engine.submit(requests()[0])
    assert len(new_engine(model, max_rows=1, max_waiting=2).generate(requests())) == 6  # a caller's own queue waits


# One fails, the others go on


class Fails:
    """A constraint that raises at its n-th token."""

    def __init__(self, at: int) -> None:
        self.at = at

    def start(self) -> "Fails":
        if self.at == 0:
            raise ValueError("no such grammar")
        return Fails(self.at)

    def allowed(self) -> torch.Tensor | None:
        self.at -= 1
        if self.at == 0:
            raise RuntimeError("the grammar broke")
        return torch.ones(small.VOCABULARY, dtype=torch.bool)

    def advance(self, token_id: int) -> None: ...

    def finished(self) -> bool:
        return False


@pytest.mark.parametrize(("at", "said"), [(0, 0), (1, 0), (4, 3)])
def test_a_constraint_that_fails_fails_its_own_request(engine: Engine, model: Any, at: int, said: int) -> None:
    asked = requests()[:3]
    answers = expected(model, asked)
    bad = replace(asked[1], constraint=Fails(at), sampling=Sampling(max_new_tokens=20))
    done = engine.generate([asked[0], bad, asked[2]])
    assert [list(done[0][0].token_ids), list(done[2][0].token_ids)] == [answers[0], answers[2]]
    assert done[1][0].finish_reason == "error" and len(done[1][0].token_ids) == said
    assert ("no such grammar" if at == 0 else "the grammar broke") in str(done[1][0].error)


class OnlyEven:
    """A constraint under which only even tokens may be said, and nine of them."""

    def __init__(self) -> None:
        self.said = 0

    def start(self) -> "OnlyEven":
        return OnlyEven()

    def allowed(self) -> torch.Tensor | None:
        return torch.arange(small.VOCABULARY) % 2 == 0

    def advance(self, token_id: int) -> None:
        self.said += 1

    def finished(self) -> bool:
        return self.said == 9


def test_a_constraint_limits_its_own_request(engine: Engine, model: Any) -> None:
    asked = [replace(requests()[0], constraint=OnlyEven()), requests()[2]]
    (limited,), (free,) = engine.generate(asked)
    assert len(limited.token_ids) == 9 and not any(token % 2 for token in limited.token_ids)
    assert limited.finish_reason == "stop"
    assert list(free.token_ids) == expected(model, asked[1:])[0]


def test_a_picture_of_nan_fails_its_own_request_and_leaves_no_trace(engine: Engine, model: Any) -> None:
    asked, answers = requests()[:3], expected(model, requests()[:3])

    class OneBad(NumberedPictures):
        def _encoded(self, pictures: Sequence[Any]) -> torch.Tensor:
            made = super()._encoded(pictures)
            made[[picture == 99 for picture in pictures]] = torch.nan
            return made

    engine.preparing.features = OneBad(model, None)  # type: ignore[arg-type]
    bad = request(small.joined(SHARED, small.prompt(3, 5)), 99)
    done = engine.generate([asked[0], bad, asked[2]])
    assert [list(done[0][0].token_ids), list(done[2][0].token_ids)] == [answers[0], answers[2]]
    assert done[1][0].finish_reason == "error" and "not finite" in str(done[1][0].error)
    assert tokens(engine.generate(requests())) == expected(model, requests())


def test_nan_weights_are_named() -> None:
    broken = small.model()
    with torch.no_grad():
        broken.model.language_model.layers[2].mlp.up_proj.weight[3, 3] = torch.nan
    ((done,),) = new_engine(broken).generate([requests()[3]])
    assert done.finish_reason == "error" and "check the checkpoint" in str(done.error)


def test_a_prompt_that_cannot_be_computed_fails_alone(
    engine: Engine, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answers = requests()[:4], expected(model, requests()[:4])

    def short_of_memory(network: Any, prompts: Any, *args: Any, **kwargs: Any) -> Any:
        if any(len(p.prompt.input_ids) == 3 for p in prompts):
            raise RuntimeError("out of memory")
        return prefill_passes(network, prompts, *args, **kwargs)

    monkeypatch.setattr("medgemma.engine.preparing.prefill_passes", short_of_memory)
    done = engine.generate(asked)
    assert tokens(done[:3]) == answers[:3]
    assert done[3][0].finish_reason == "error" and "out of memory" in str(done[3][0].error)


def test_what_can_never_be_answered_is_refused_before_anything_runs(engine: Engine) -> None:
    with pytest.raises(ValueError, match="1 pictures for 2 image parts"):
        engine.submit(request(small.prompt(1, 2, 2, 2), 5))
    with pytest.raises(ValueError, match=r"the prompt is 401 tokens and asks for 200 more; the model holds 512"):
        engine.submit(request(small.prompt(1, 400), max_new_tokens=200))
    assert engine.num_waiting == 0


# Weights that change


def test_stale_features_and_prefixes_are_seen_and_forgotten() -> None:
    """The planted fault is not saying so: the answers are then of the old weights."""
    model = small.model()
    engine = new_engine(model)
    asked = requests()[:3]
    before = engine.generate(asked)
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.self_attn.v_proj.weight.mul_(-1)
    stale = engine.generate(asked)  # shared beginnings come from the old weights
    engine.weights_changed()
    fresh = engine.generate(asked)
    assert tokens(fresh) == expected(model, asked) != tokens(before)
    assert tokens(stale) != tokens(fresh)


def test_weights_may_not_change_under_an_answer(engine: Engine) -> None:
    engine.submit(requests()[0])
    engine.step()
    with pytest.raises(RuntimeError, match="1 samples are being decoded"):
        engine.weights_changed()


# Compiled


@pytest.mark.slow
def test_compiled_is_eager(model: Any) -> None:
    """One row takes the path of matrix times vector, several that of padded rows; each is compiled once.

    The second time the code comes from torch's cache on disk, as in a user's second process.
    """
    answers = expected(model, requests())
    long = [request(small.prompt(9, 250), max_new_tokens=20), request(small.prompt(10, 250), max_new_tokens=20)]
    long_answers = tokens(new_engine(model).generate(long))
    counters = torch._dynamo.utils.counters
    with fresh_cache():
        for hits in (0, 2):
            torch._dynamo.reset()
            counters.clear()
            engine = new_engine(model, compile_mode="default")
            assert tokens(engine.generate(requests()[:1])) == answers[:1]
            assert tokens(engine.generate(requests()[:3])) == answers[:3]
            assert tokens(engine.generate(requests()[4:])) == answers[4:]
            assert tokens(engine.generate(long)) == long_answers
            assert tokens(engine.generate(long[:1])) == long_answers[:1]
            assert counters["aot_autograd"]["autograd_cache_hit"] == hits
            assert counters["stats"]["unique_graphs"] == 2


# Long prompts beside answers


def test_a_long_prompt_is_computed_between_the_steps_of_others(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens unchanged, one token a step for those that decode, and a short prompt does not wait for the long one."""
    engine = new_engine(model, tokens_beside_decoding=16)
    talking = request(small.prompt(8, 11), max_new_tokens=40)
    long, short = request(small.prompt(7, 90, 60, 50, 40), 5, 6, 7, max_new_tokens=5), requests()[3]
    answers = dict(zip(range(3), expected(model, [talking, long, short]), strict=True))
    sizes: list[int] = []
    forward = engine.network.prefill
    monkeypatch.setattr(
        engine.network, "prefill", lambda s, e, c: (sizes.append(c.positions.shape[1]), forward(s, e, c))[1]
    )
    tickets = {engine.submit(talking): 0}
    said: dict[int, list[tuple[int, int]]] = {0: [], 1: [], 2: []}
    for step in range(80):
        if step == 2:
            tickets[engine.submit(long)] = 1
        if step == 3:
            tickets[engine.submit(short)] = 2
        for event in engine.step():
            said[tickets[event.ticket]].append((step, event.token_id or 0))
    assert {number: [token for _, token in tokens] for number, tokens in said.items()} == answers
    assert [step for step, _ in said[0]] == [0, *range(len(answers[0]) - 1)]  # never a step without its token
    assert max(sizes[1:]) <= 16 and len(sizes) > 15
    assert said[2][0][0] <= 6 < said[1][0][0]


def test_a_prompt_that_is_being_computed_can_be_cancelled(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medgemma.engine.rows.TOKENS_A_PASS", 16)
    engine = new_engine(model)
    ticket = engine.submit(request(small.prompt(7, 90, 60), 5))
    assert engine.step() == [] and engine.num_running == 1
    engine.cancel(ticket)
    assert engine.num_running == 0
    [event] = engine.step()
    assert event.completion is not None and event.completion.finish_reason == "cancelled"
    assert tokens(engine.generate([requests()[3]])) == expected(model, [requests()[3]])
