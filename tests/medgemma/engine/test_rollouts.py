"""What rollouts need of the engine: groups in waves, distributions told, and no answer of other weights."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from medgemma.engine import Completion, Engine, Request, Sampling
from tests.medgemma.engine import small
from tests.medgemma.engine.test_engine import NumberedPictures, new_engine

LONG = small.prompt(1, 30)


@pytest.fixture(scope="module")
def model() -> Any:
    return small.model()


def asked(**sampling: Any) -> Request:
    return Request(LONG, (), Sampling(**{"max_new_tokens": 6, "temperature": 1.0, "seed": 3, **sampling}))


def distribution(model: Any, completion: Completion, prompt: Any = LONG) -> torch.Tensor:
    """(tokens, V) logits before each token, by transformers alone."""
    logits = small.logits_of_transformers(model, prompt, (), completion.token_ids)
    return logits[len(prompt.input_ids) - 1 : -1].double()


def said(rows: torch.Tensor, completion: Completion) -> torch.Tensor:
    return rows.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]


# Groups in waves


@pytest.mark.parametrize("max_rows", [1, 3])
def test_a_group_larger_than_the_rows_is_sampled_in_waves_on_one_prefill(
    model: Any, max_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    [whole] = new_engine(model).generate([asked(num_samples=7)])
    engine, passes = new_engine(model, max_rows=max_rows), []
    prefill = engine.network.prefill
    monkeypatch.setattr(engine.network, "prefill", lambda *a: (passes.append(1), prefill(*a))[1])
    [waves, _] = engine.generate([asked(num_samples=7), Request(small.prompt(2, 5), (), Sampling(max_new_tokens=3))])
    assert [c.token_ids for c in waves] == [c.token_ids for c in whole] and len({c.token_ids for c in whole}) > 3
    assert len(passes) == 2  # one a prompt
    for ours, theirs in zip(waves, whole, strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)


def test_a_wave_that_ends_at_once_leaves_the_prompt_to_the_next(model: Any) -> None:
    """The batch then has no row yet, and would take over the very one that later waves begin from."""
    [whole] = new_engine(model).generate([asked(num_samples=4)])
    stops = frozenset({whole[0].token_ids[0]})
    [expected] = new_engine(model).generate([asked(num_samples=4, stop_ids=stops)])
    [waves] = new_engine(model, max_rows=1).generate([asked(num_samples=4, stop_ids=stops)])
    assert len(waves[0].token_ids) == 1 < len(waves[1].token_ids)
    for ours, theirs in zip(waves, expected, strict=True):
        assert ours.token_ids == theirs.token_ids and ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)


def test_samples_that_wait_for_rows_can_be_cancelled_and_count_as_running(model: Any) -> None:
    engine = new_engine(model, max_rows=2)
    ticket = engine.submit(asked(num_samples=5))
    engine.step()
    assert engine.num_running == 5
    with pytest.raises(RuntimeError, match="5 samples are being decoded"):
        engine.weights_changed()
    engine.cancel(ticket)
    ends = [event for event in engine.step() if event.completion]
    assert sorted(event.sample for event in ends) == [0, 1, 2, 3, 4] and engine.num_running == 0


# The distributions


@pytest.mark.parametrize(
    "cut", [{}, {"top_p": 0.6}, {"top_k": 4}, {"min_p": 0.8}, {"top_k": 9, "top_p": 0.7}, {"repetition_penalty": 1.4}]
)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 1.7])
def test_both_log_probabilities_are_those_of_transformers_own_warpers(
    model: Any, temperature: float, cut: dict[str, Any]
) -> None:
    """Of the whole distribution at the sampling temperature, and of the one that was drawn from."""
    from transformers import LogitsProcessorList
    from transformers.generation.logits_process import (
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    kinds = {
        "repetition_penalty": RepetitionPenaltyLogitsProcessor,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
        "min_p": MinPLogitsWarper,
    }
    warpers = [kinds[name](cut[name]) for name in kinds if name in cut]
    at = 1 if "repetition_penalty" in cut else 0
    warpers.insert(at, TemperatureLogitsWarper(temperature))
    engine = new_engine(model)
    [[completion]] = engine.generate([asked(temperature=temperature, **cut)])
    whole = distribution(model, completion)
    ids = [*LONG.input_ids, *completion.token_ids]
    cut_rows = [
        LogitsProcessorList(warpers)(torch.tensor([ids[: len(LONG.input_ids) + n]]), row[None].clone())[0]
        for n, row in enumerate(whole)
    ]
    theirs = said(torch.stack(cut_rows).log_softmax(-1), completion)
    assert completion.sampled_logprobs == pytest.approx(theirs.tolist(), abs=1e-5)
    tempered = said((whole / temperature).log_softmax(-1), completion)
    assert completion.tempered_logprobs == pytest.approx(tempered.tolist(), abs=1e-5)
    if {"top_p", "top_k", "min_p"} & cut.keys():
        assert max(completion.sampled_logprobs) > max(completion.tempered_logprobs)


def test_greedy_tokens_are_certain(model: Any) -> None:
    [[completion]] = new_engine(model).generate([asked(temperature=0.0)])
    assert set(completion.sampled_logprobs) == {0.0} and completion.tempered_logprobs == completion.logprobs


def test_tokens_are_scored_one_by_one_a_few_at_a_time(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any temperature, by transformers' forward pass; three tokens of logits at once."""
    monkeypatch.setattr("medgemma.engine.sampling.LOGITS_BYTES", 3 * 4 * small.VOCABULARY)
    engine = new_engine(model)
    choices = [(50, 51, 52, 53), (60,), (50, 51, 90)]
    [scores] = engine.score_tokens([(asked(), choices)], temperature=0.7)
    for choice, score in zip(choices, scores, strict=True):
        rows = distribution(model, Completion(choice, (), "stop")) / 0.7
        theirs = said(rows.log_softmax(-1), Completion(choice, (), "stop"))
        assert score.logprobs == pytest.approx(theirs.tolist(), abs=1e-5)
    [[likeliest]] = engine.score_tokens([(asked(), [(int(distribution(model, scores_of(60))[0].argmax()),)])])
    assert likeliest.likeliest == (True,)


def scores_of(token: int) -> Completion:
    return Completion((token,), (), "stop")


# Whose weights


def with_lora(dropout: float = 0.0) -> tuple[Any, Any]:
    from peft import LoraConfig, get_peft_model

    network = small.model()
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules=r".*language_model.*(q_proj|down_proj)")
    peft = get_peft_model(network, config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(5))
    network.eval()
    return network, peft


def test_a_reference_through_the_same_engine_is_never_answered_from_the_policys_prefixes() -> None:
    """The planted fault keys prefixes by nothing: log-probabilities are then off by tenths of nats."""
    network, peft = with_lora()
    requests = [Request(small.joined(LONG, small.prompt(n, 4)), (), Sampling(max_new_tokens=3)) for n in (5, 6)]
    choice = [((50, 51, 52),)] * 2

    def scored(engine: Engine) -> list[float]:
        return [s for [score] in engine.score_tokens(list(zip(requests, choice, strict=True))) for s in score.logprobs]

    with peft.disable_adapter():
        alone = scored(new_engine(network))
    engine = new_engine(network)
    engine.generate(requests)  # leaves the policy's prefix behind
    policy = scored(engine)
    with peft.disable_adapter():
        reference = scored(engine)
    assert reference == pytest.approx(alone, abs=1e-5)
    assert max(abs(a - b) for a, b in zip(policy, alone, strict=True)) > 0.1
    assert scored(engine) == pytest.approx(policy, abs=1e-5)
    engine.weights.of = lambda adapter: None  # type: ignore[method-assign]
    engine.prefixes.clear()
    engine.generate(requests)
    with peft.disable_adapter():
        stale = scored(engine)
    assert max(abs(a - b) for a, b in zip(stale, alone, strict=True)) > 0.1


def test_other_weights_in_place_are_told_apart_by_their_name(model: Any) -> None:
    network = small.model()
    engine, weight = new_engine(network), network.model.language_model.layers[0].self_attn.v_proj.weight
    shared = small.prompt(9, 1, 20)
    requests = [Request(small.joined(shared, small.prompt(n, 4)), (7,), Sampling(max_new_tokens=4)) for n in (5, 6)]
    policy = engine.generate(requests)
    with torch.no_grad():
        held = weight.clone()
        with engine.other_weights("anchor"):
            weight.mul_(-1)
            anchor = engine.generate(requests)
            weight.copy_(held)
    fresh = small.model()
    with torch.no_grad():
        fresh.model.language_model.layers[0].self_attn.v_proj.weight.mul_(-1)
    assert tokens(anchor) == tokens(new_engine(fresh).generate(requests)) != tokens(policy)
    assert tokens(engine.generate(requests)) == tokens(policy)
    ticket = engine.submit(requests[0])
    engine.step()
    with pytest.raises(RuntimeError, match="1 samples are being decoded"), engine.other_weights("anchor"):
        pass
    engine.cancel(ticket)


def tokens(completions: list[list[Completion]]) -> list[tuple[int, ...]]:
    return [sample.token_ids for samples in completions for sample in samples]


class Counted(NumberedPictures):
    passes = 0

    def _encoded(self, pictures: Any) -> torch.Tensor:
        self.passes += len(pictures)
        return super()._encoded(pictures)


def test_pictures_features_are_kept_while_the_tower_is_frozen(model: Any) -> None:
    engine = new_engine(model)
    features = engine.preparing.features = Counted(model, None)  # type: ignore[arg-type]
    one = Request(small.prompt(3, 2, 4), (7,), Sampling(max_new_tokens=2))
    engine.generate([one])
    engine.weights_changed(sight=False)
    engine.generate([one])
    with engine.other_weights("reference"):
        engine.generate([one])
    assert features.passes == 1
    with engine.other_weights("teacher", sight=True):
        engine.generate([one])
    assert features.passes == 2
    engine.weights_changed()
    engine.generate([one])
    assert features.passes == 3


def test_a_model_in_train_mode_is_refused() -> None:
    """PEFT's new layers are in train mode though the model they go into is not: their dropout is live."""
    network, _ = with_lora(dropout=0.3)
    engine = new_engine(network)
    request = Request(LONG, (), Sampling(max_new_tokens=2))
    engine.generate([request])
    network.model.language_model.layers[0].self_attn.q_proj.lora_dropout.train()
    for call in (lambda: engine.generate([request]), lambda: engine.score_choices([(request, [(50,)])])):
        with pytest.raises(RuntimeError, match=r"in train mode, where dropout is live; call model.eval\(\)"):
            call()


def test_nothing_that_the_engine_made_enters_a_gradient(model: Any) -> None:
    """An update right after sampling: buffers that were made under inference mode would refuse the backward pass."""
    network = small.model()
    new_engine(network).generate([asked()])
    network.train()
    ids = torch.tensor([LONG.input_ids])
    logits = network(input_ids=ids, token_type_ids=torch.zeros_like(ids), attention_mask=torch.ones_like(ids)).logits
    functional.cross_entropy(logits[0, :-1], ids[0, 1:]).backward()
    assert not any(tensor.is_inference() for tensor in [*network.parameters(), *network.buffers()])
    assert all(p.grad is not None for name, p in network.named_parameters() if "language_model" in name)
