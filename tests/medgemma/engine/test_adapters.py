"""Adapters by request: what PEFT and a merged checkpoint give, side by side, and the base as if none were loaded."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3ForConditionalGeneration

from medgemma.checkpoints.adapters.merge import merge
from medgemma.checkpoints.layouts import read_checkpoint
from medgemma.engine import Completion, Engine, Request, Sampling
from medgemma.engine.adapters import Adapters
from medgemma.engine.vision import FeatureCache, project
from medgemma.prompts.chat import Prompt
from tests import checkpoints

PEFT = Path(__file__).parents[1] / "peft"
BASE = PEFT / "base"
EXPECTED = json.loads((PEFT / "logits.json").read_text())
NAMES = sorted(name for name in EXPECTED if name != "base")
SEEING = {
    name
    for name in NAMES
    if any("vision" in key or "projector" in key for key in load_file(PEFT / name / "adapter_model.safetensors"))
}
"""Those that change the tower or the projector."""


def read(folder: Path = BASE, dtype: torch.dtype = torch.float32) -> Any:
    return read_checkpoint(Gemma3ForConditionalGeneration, folder, dtype=dtype)


class DrawnPictures(FeatureCache):
    """Pictures whose pixels are drawn from their number, through the model's own tower; passes are counted."""

    passes = 0

    def key(self, picture: Any, adapter: str | None) -> Any:
        return picture, adapter

    def _encoded(self, pictures: Sequence[Any]) -> torch.Tensor:
        self.passes += len(pictures)
        drawn = [torch.rand(3, 28, 28, generator=torch.Generator().manual_seed(n)) for n in pictures]
        return project(self.model, torch.stack(drawn).to(self.model.dtype))


def engine_of(model: Any, names: Sequence[str] = (), **kwargs: Any) -> Engine:
    engine = Engine(model, stop_ids=frozenset({1}), **kwargs)
    engine.preparing.features = DrawnPictures(model, None)  # type: ignore[arg-type]
    for name in names:
        engine.load_adapter(name, PEFT / name)
    return engine


def request(seed: int, adapter: str | None, picture: int | None = None, count: int = 12) -> Request:
    """Twenty tokens that all requests share, a picture or not, and a few of its own."""
    drawn = [torch.Generator().manual_seed(s) for s in (0, seed)]
    shared, own = (torch.randint(2, 37, (n,), generator=g).tolist() for n, g in zip((20, 6), drawn, strict=True))
    ids = [2, *shared, *([37, 39, 39, 39, 39, 38] if picture is not None else []), *own]
    prompt = Prompt(tuple(ids), tuple(int(i == 39) for i in ids), int(picture is not None))
    pictures: Any = () if picture is None else (picture,)
    return Request(prompt, pictures, Sampling(max_new_tokens=count), adapter=adapter)


def requests(adapter: str | None) -> list[Request]:
    return [request(1, adapter, 5), request(2, adapter), request(3, adapter, 6)]


def same(ours: list[list[Completion]], theirs: list[list[Completion]], atol: float = 1e-5) -> bool:
    """Whether tokens are equal and their log-probabilities within a tolerance."""
    pairs = list(zip([c for cs in ours for c in cs], [c for cs in theirs for c in cs], strict=True))
    return all(
        a.token_ids == b.token_ids and torch.tensor(a.logprobs).sub(torch.tensor(b.logprobs)).abs().max() < atol
        for a, b in pairs
    )


@pytest.fixture(scope="module")
def engine() -> Engine:
    """The base with every adapter."""
    return engine_of(read(), NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_active_adapter_gives_the_logits_that_peft_gives(name: str) -> None:
    model = read()
    before = checkpoints.outputs(model)
    adapters = Adapters(model)
    adapters.load(name, PEFT / name)
    with adapters.using(name):
        active = checkpoints.outputs(model)[0, -2:]
    torch.testing.assert_close(active, torch.tensor(EXPECTED[name]), rtol=0, atol=1e-5)
    assert torch.equal(checkpoints.outputs(model), before)


@pytest.mark.parametrize("name", NAMES)
def test_switched_is_merged_and_a_fresh_load(name: str, engine: Engine, tmp_path: Path) -> None:
    switched = engine.generate([r for pair in zip(requests(name), requests(None), strict=True) for r in pair])[::2]
    merge(BASE, PEFT / name, tmp_path / "merged")
    assert same(switched, engine_of(read(tmp_path / "merged")).generate(requests(None)), 2e-5)
    assert same(switched, engine_of(read(), [name]).generate(requests(name)))
    assert not same(switched, engine.generate(requests(None)), 1e-2)


def test_adapters_run_side_by_side_and_the_base_beside_them(engine: Engine) -> None:
    """All in one call, with beginnings in common, in both orders; the base answers as without any."""
    asked = [r for name in (None, *NAMES) for r in requests(name)]
    together, reversed_ = engine.generate(asked), engine.generate(asked[::-1])[::-1]
    alone = [engine.generate([r])[0] for r in asked]
    assert same(together, alone) and same(reversed_, alone)
    assert same(together[:3], engine_of(read()).generate(requests(None)))
    firsts = {completions[0].logprobs for completions in together[::3]}
    assert len(firsts) == 1 + len(NAMES)


def test_choices_are_scored_under_their_adapter(engine: Engine, tmp_path: Path) -> None:
    choices = [(7, 8, 9), (10,)]
    scored = engine.score_choices([(request(1, name, 5), choices) for name in (None, "patterns", "vision")])
    for name, scores in zip(("patterns", "vision"), scored[1:], strict=True):
        merge(BASE, PEFT / name, tmp_path / name)
        (merged,) = engine_of(read(tmp_path / name)).score_choices([(request(1, None, 5), choices)])
        assert [s.logprob for s in scores] == pytest.approx([s.logprob for s in merged], abs=2e-5)
    assert len({scores[0].logprob for scores in scored}) == 3


def test_only_adapters_that_change_what_is_seen_encode_pictures_again(engine: Engine) -> None:
    pictures = engine.features
    assert isinstance(pictures, DrawnPictures)
    assert {name for name in NAMES if engine.adapters.sight(name)} == SEEING
    assert {"vision", "projector"} <= SEEING and not SEEING & {"expression", "one-layer"}
    engine.weights_changed()
    pictures.passes = 0
    for name in (None, *NAMES, None):
        engine.generate([request(1, name, 5)])
    assert pictures.passes == 1 + len(SEEING)
    assert {sight[-1] for _, sight in pictures._features} == {None, *SEEING}


def test_prefixes_of_one_adapter_are_not_anothers(engine: Engine) -> None:
    """One call after the other, so that each finds what the last has left."""
    answers = {}
    for name in ("patterns", None, "one-layer"):
        engine.weights_changed()
        answers[name] = engine.generate(requests(name))
    engine.weights_changed()
    for name in ("patterns", None, "one-layer", "patterns", None):
        assert same(engine.generate(requests(name)), answers[name])
    assert {owner[-1] for owner, _ in engine.prefixes._rows} == {"patterns", None, "one-layer"}


@pytest.mark.parametrize("name", ["all-linear", "dora", "vision", "projector"])
def test_an_adapter_replaced_in_memory_is_one_that_was_trained_so(name: str, tmp_path: Path) -> None:
    """With updates, lengths and weights trained whole; prefixes and features of the old values are not used."""
    engine = engine_of(read(), [name])
    engine.generate(requests(name))
    shutil.copytree(PEFT / name, tmp_path / "later")
    file = tmp_path / "later" / "adapter_model.safetensors"
    later = {key: value * -1.5 + 0.01 for key, value in load_file(file).items()}
    save_file(later, file)
    fresh = engine_of(read())
    fresh.load_adapter("later", tmp_path / "later")
    expected = fresh.generate(requests("later"))
    before = engine.generate(requests(name))
    engine.replace_adapter(name, later)
    assert same(engine.generate(requests(name)), expected) and not same(before, expected)
    key = next(iter(later))
    with pytest.raises(ValueError, match=r"is not given and was \(.*give the tensors of the same adapter"):
        engine.replace_adapter(name, {k: v for k, v in later.items() if k != key})
    with pytest.raises(ValueError, match="NaN or infinity"):
        engine.replace_adapter(name, {**later, key: later[key] * torch.nan})
    assert same(engine.generate(requests(name)), expected)
    engine.submit(requests(name)[0])
    with pytest.raises(RuntimeError, match="1 requests for adapter .* are not done"):
        engine.replace_adapter(name, later)


def test_an_adapter_that_is_unloaded_leaves_no_trace() -> None:
    """Its name may be given to another then, whose answers are its own."""
    engine = engine_of(read(), ["vision", "patterns"])
    expected = engine_of(read(), ["all-linear"]).generate(requests("all-linear"))
    hooks = len(engine.adapters._hooks)
    engine.generate(requests("vision"))
    engine.unload_adapter("vision")
    assert engine.adapters.names == ("patterns",) and len(engine.adapters._hooks) < hooks
    engine.load_adapter("vision", PEFT / "all-linear")
    assert same(engine.generate(requests("vision")), expected)
    engine.unload_adapter("vision")
    engine.unload_adapter("patterns")
    assert not any(module._forward_hooks for module in engine.network.model.modules())
    with pytest.raises(ValueError, match=r"adapter 'vision' is not loaded \(none is\); load it with load_adapter"):
        engine.unload_adapter("vision")


def test_an_adapter_in_use_is_not_unloaded() -> None:
    engine = engine_of(read(), ["patterns"])
    tickets = [engine.submit(r) for r in requests("patterns")[:2]]
    with pytest.raises(RuntimeError, match="2 requests for adapter 'patterns' are not done"):
        engine.unload_adapter("patterns")
    engine.step()
    with pytest.raises(RuntimeError, match="2 requests for adapter 'patterns' are not done"):
        engine.unload_adapter("patterns")
    for ticket in tickets:
        engine.cancel(ticket)
    engine.unload_adapter("patterns")


def test_new_weights_of_the_base_reach_decomposed_adapters(tmp_path: Path) -> None:
    """DoRA's lengths are of base and update together: those of the old base give other answers."""
    model = read()
    engine = engine_of(model, ["dora"])
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.self_attn.o_proj.weight.mul_(-2)
    stale = engine.generate(requests("dora"))
    engine.weights_changed()
    changed = engine.generate(requests("dora"))
    assert same(changed, engine_of(model, ["dora"]).generate(requests("dora")))
    assert not same(changed, stale, 1e-3)


def test_an_adapter_in_bfloat16_is_near_the_one_in_float32() -> None:
    """Its factors follow the base's dtype."""
    for name in ("dora", "vision", "low-rank-embeddings", "head-and-embeddings"):
        model = read(dtype=torch.bfloat16)
        adapters = Adapters(model)
        adapters.load(name, PEFT / name)
        with adapters.using(name):
            active = checkpoints.outputs(model)[0, -2:]
        assert active.dtype == torch.bfloat16
        difference = (active.float() - torch.tensor(EXPECTED[name])).abs().mean()
        moved = (torch.tensor(EXPECTED["base"]) - torch.tensor(EXPECTED[name])).abs().mean()
        assert difference < 0.25 * moved


@pytest.mark.slow
def test_compiled_steps_notice_adapters_that_are_loaded_later() -> None:
    """One row; the base's step is compiled before there is any adapter."""
    plain, compiled = engine_of(read(), ["dora"]), engine_of(read(), compile_mode="default")
    compiled.generate(requests(None)[:1])
    compiled.load_adapter("dora", PEFT / "dora")
    for name in ("dora", None):
        assert same(compiled.generate(requests(name)[:1]), plain.generate(requests(name)[:1]))


# Refusals


def test_an_unknown_adapter_is_refused_when_it_is_asked_for(engine: Engine) -> None:
    for ask in (engine.submit, lambda r: engine.generate([r]), lambda r: engine.score_choices([(r, [(7,)])])):
        with pytest.raises(ValueError, match="adapter 'lung' is not loaded .loaded are all-linear, dora, expression, "):
            ask(request(1, "lung"))
    assert engine.num_waiting == engine.num_running == 0


def refused(folder: Path, message: str, model: Any = None) -> None:
    """With that message, and without a trace."""
    model = model or read()
    engine = engine_of(model)
    with pytest.raises(ValueError, match=message):
        engine.load_adapter("new", folder)
    assert engine.adapters.names == () and not any(module._forward_hooks for module in model.modules())


def edited(folder: Path, **settings: Any) -> Path:
    """A copy of an adapter with other settings."""
    shutil.copytree(PEFT / "all-linear", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **settings}))
    return folder


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no adapter_config.json there; give the folder that PEFT's save_pretrained wrote")
    other = checkpoints.multimodal(text_layers=1, vision_layers=1)
    refused(PEFT / "all-linear", "layers.1.*changes nothing that the base holds; the adapter is for another", other)
    wider = checkpoints.lively(Gemma3ForConditionalGeneration(_wider()), 0)
    refused(PEFT / "all-linear", "the base's weight is .*; the adapter is for another base", wider)
    refused(edited(tmp_path / "ia3", peft_type="IA3"), "peft_type 'IA3'; only LORA is understood")
    refused(edited(tmp_path / "alora", alora_invocation_tokens=[1, 2]), "aLoRA")
    lacking = edited(tmp_path / "lacking")
    (lacking / "adapter_model.safetensors").unlink()
    refused(lacking, "no adapter_model.safetensors there")


def test_a_name_is_given_once(engine: Engine) -> None:
    with pytest.raises(ValueError, match="adapter 'dora' is loaded already; unload it first, or give another name"):
        engine.load_adapter("dora", PEFT / "vision")


def _wider() -> Any:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(BASE)
    config.text_config.intermediate_size = 32
    return config
