"""Adapters: what is trained and saved; the same in PEFT, the engine and a merge; bases that are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import Gemma3ForConditionalGeneration

from finetune.adapters import AdapterSection, adapt, output_weight, part_of, save_adapter, trained_rows, trained_table
from finetune.losses.completion import completion_loss
from medgemma import MedGemma
from medgemma.checkpoints.adapters.merge import merge
from medgemma.checkpoints.adapters.trained_on import TRAINED_ON_FILE, read_trained_on, sampled_weights
from medgemma.checkpoints.convert import convert
from medgemma.checkpoints.layouts import read_checkpoint
from medgemma.checkpoints.loading import load_network
from medgemma.checkpoints.quantize import config_of_nf4
from medgemma.engine.adapters import Adapters
from medgemma.nano import NANO_FOLDER
from medsiglip.nano import NANO_FOLDER as ENCODER
from tests import hub_shapes

EVERY = ("language", "tower", "projector", "head")
FORM = {"form": "chat", "question": "Which tissue is this?"}


def nano(folder: Path = NANO_FOLDER) -> Any:
    return load_network(folder, device="cpu", dtype="float32")


def section(*parts: str, method: str = "lora", **more: Any) -> AdapterSection:
    return AdapterSection.model_validate({"method": method, "parts": parts or ("language",), "rank": 4, **more})


def logits(model: Any) -> torch.Tensor:
    """Of the last two of 24 tokens with a picture."""
    config, drawn = model.config, torch.Generator().manual_seed(0)
    size, image = config.vision_config.image_size, [config.image_token_id] * config.mm_tokens_per_image
    ids = torch.tensor([[2, config.boi_token_id, *image, config.eoi_token_id, *range(300, 320)]])
    with torch.inference_mode():
        said = model(
            input_ids=ids,
            pixel_values=torch.rand(1, 3, size, size, generator=drawn) * 2 - 1,
            token_type_ids=(ids == config.image_token_id).long(),
            logits_to_keep=2,
        )
    found: torch.Tensor = said.logits[0]
    return found


def tuned(folder: Path, out: Path, chosen: AdapterSection, base: str = "nano") -> torch.Tensor:
    """An adapter of random updates, saved; the logits it had."""
    adapted = adapt(nano(folder), chosen, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05 * parameter.std().clamp(0.1, 1))
    adapted.model.eval()
    save_adapter(adapted, out, base=base, base_folder=folder, prompt_form=FORM)
    return logits(adapted.model)


def assert_three_ways(folder: Path, adapter: Path, expected: torch.Tensor, tmp_path: Path) -> None:
    """Plain PEFT, the engine's adapters and the merged checkpoint give what training gave."""
    assert (expected - logits(nano(folder))).abs().max() > 0.1  # control: it does something
    in_peft = PeftModel.from_pretrained(nano(folder), adapter).eval()
    torch.testing.assert_close(logits(in_peft.get_base_model()), expected, rtol=0, atol=1e-5)
    model = nano(folder)
    adapters = Adapters(model)
    adapters.load("tuned", adapter)
    with adapters.using("tuned"):
        torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)
    merge(folder, adapter, tmp_path / "merged", dtype="float32")
    torch.testing.assert_close(logits(nano(tmp_path / "merged")), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize("parts", [("language",), EVERY])
def test_peft_engine_and_merged_checkpoint_agree(method: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    expected = tuned(NANO_FOLDER, tmp_path / "adapter", section(*parts, method=method))
    assert_three_ways(NANO_FOLDER, tmp_path / "adapter", expected, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [hub_shapes.medgemma_folder, None], ids=["hub", "saved by transformers"])
def test_they_agree_on_other_folders_too(shape: Callable[[Path], Path] | None, tmp_path: Path) -> None:
    out = tmp_path / "base"
    folder = shape(out) if shape else hub_shapes.saved_by_transformers(NANO_FOLDER, out)
    expected = tuned(folder, tmp_path / "adapter", section("language", "projector"), str(folder))
    assert_three_ways(folder, tmp_path / "adapter", expected, tmp_path)
    gemma = MedGemma.from_pretrained(folder, device="cpu", adapter=tmp_path / "adapter")
    assert gemma.adapter_name == "adapter"


def test_language_alone_is_the_default_and_the_tower_is_left_alone() -> None:
    """Bare endings, as most notebooks give them, would take the tower's layers too."""
    adapted = adapt(nano(), AdapterSection(), seed=0)
    trained = [name for name, p in adapted.model.named_parameters() if p.requires_grad]
    assert {part_of(name) for name in trained} == {"language"} and len(trained) == 2 * 7 * 6
    assert all(".lora_" in name for name in trained)


def test_the_table_counts_what_is_trained() -> None:
    """Rank 4 on layers of width 256 and MLP 1024: counted by hand from nano's config.json."""
    config = json.loads((NANO_FOLDER / "config.json").read_text())["text_config"]
    width, mlp, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    query, key = heads * config["head_dim"], config["num_key_value_heads"] * config["head_dim"]
    ends = 2 * (width + query) + 2 * (width + key) + 3 * (width + mlp)
    model = adapt(nano(), section("language", "projector"), seed=0).model
    rows = {row.part: row for row in trained_rows(model)}
    assert rows["language"].trained == 4 * ends * config["num_hidden_layers"] and rows["language"].how == "low-rank"
    assert rows["projector"].trained == rows["projector"].parameters and rows["projector"].how == "whole"
    assert rows["language"].parameters == sum(
        tensor.numel() for name, tensor in load_file(NANO_FOLDER / "model.safetensors").items() if "language" in name
    )
    total = f"{rows['language'].trained + rows['projector'].trained:,}"
    assert total in trained_table(model).splitlines()[-1]


def test_nothing_is_saved_that_was_not_trained(tmp_path: Path) -> None:
    tuned(NANO_FOLDER, tmp_path / "adapter", section(*EVERY))
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    trained = {n: p for n, p in adapt(nano(), section(*EVERY), seed=0).model.named_parameters() if p.requires_grad}
    assert len(saved) == len(trained) and {part_of(name) for name in saved} == set(EVERY)
    assert sum(t.numel() for t in saved.values()) == sum(p.numel() for p in trained.values())
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", TRAINED_ON_FILE}


def test_base_and_prompt_form_stand_beside_the_adapter(tmp_path: Path) -> None:
    tuned(NANO_FOLDER, tmp_path / "adapter", section(method="dora"))
    record = read_trained_on(tmp_path / "adapter")
    assert record and (record.base, record.method, record.prompt_form) == ("nano", "dora", FORM)
    assert record.fingerprint == MedGemma.from_pretrained("nano", device="cpu").fingerprint
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "nano"


def test_the_head_learns_by_its_update() -> None:
    """The loss multiplies the head itself: with the base's weight alone, the update would get no gradient."""
    for method in ("lora", "dora"):
        model = adapt(nano(), section("head", method=method), seed=0).model.double()
        torch.manual_seed(0)
        states, targets = torch.randn(5, 256, dtype=torch.float64), torch.randint(0, 3000, (5,))
        with torch.no_grad():
            model.lm_head.lora_B["default"].weight.normal_()
        theirs = torch.nn.functional.cross_entropy(model.lm_head(states), targets)
        ours = completion_loss(states, output_weight(model), targets, denominator=5)
        torch.testing.assert_close(ours, theirs)
        trained = [p for p in model.parameters() if p.requires_grad]
        for mine, other in zip(torch.autograd.grad(ours, trained), torch.autograd.grad(theirs, trained), strict=True):
            torch.testing.assert_close(mine, other)
        bare = completion_loss(states, model.lm_head.weight, targets, denominator=5)
        assert (bare - ours).abs() > 1e-3  # control
    plain = nano()
    assert output_weight(plain) is plain.lm_head.weight


def test_qlora_counts_whole_weights_and_its_adapter_fits_the_whole_base(tmp_path: Path) -> None:
    """4-bit weights are packed two a byte, and counted as what they stand for. No forward pass: kernels differ."""
    four_bits = read_checkpoint(
        Gemma3ForConditionalGeneration,
        NANO_FOLDER,
        dtype=torch.float32,
        quantization_config=config_of_nf4(torch.float32),
    )
    with pytest.raises(ValueError, match="adapter.method lora: the weights are in 4 bits; choose qlora"):
        adapt(four_bits, section(), seed=0)
    adapted = adapt(four_bits, section(method="qlora"), seed=0)
    assert trained_rows(adapted.model) == trained_rows(adapt(nano(), section(), seed=0).model)
    save_adapter(adapted, tmp_path / "adapter", base="nano", base_folder=NANO_FOLDER, prompt_form=FORM)
    merge(NANO_FOLDER, tmp_path / "adapter", tmp_path / "merged")


def test_full_trains_the_named_parts_whole() -> None:
    adapted = adapt(nano(), section("projector", method="full"), seed=0)
    assert [(row.part, row.how) for row in trained_rows(adapted.model)] == [("projector", "whole")]
    assert adapted.peft is None


def test_the_same_seed_starts_alike_and_the_global_stream_stays() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    starts = [adapt(nano(), section(), seed=seed).model.state_dict() for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    key = next(name for name in starts[0] if "lora_A" in name)
    assert torch.equal(starts[0][key], starts[1][key]) and not torch.equal(starts[0][key], starts[2][key])


def test_an_encoder_is_adapted_and_merged(tmp_path: Path) -> None:
    from transformers import SiglipModel

    encoder = SiglipModel.from_pretrained(ENCODER, dtype=torch.float32).eval()
    adapted = adapt(encoder, section("tower"), seed=0)
    with torch.no_grad():
        for parameter in adapted.model.parameters():
            parameter.add_(0.01 if parameter.requires_grad else 0)
    size = encoder.config.vision_config.image_size
    pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected = encoder.vision_model(pixel_values=pixels).pooler_output
    save_adapter(adapted, tmp_path / "adapter", base="nano", base_folder=ENCODER, prompt_form={})
    merge(ENCODER, tmp_path / "adapter", tmp_path / "merged", dtype="float32")
    merged = SiglipModel.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    torch.testing.assert_close(merged.vision_model(pixel_values=pixels).pooler_output, expected, rtol=0, atol=1e-5)


# Bases and refusals


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapters") / "adapter"
    tuned(NANO_FOLDER, out, section())
    return out


def changed_base(out: Path, edit: Callable[[dict[str, torch.Tensor]], None], **config: Any) -> Path:
    """Nano with other weights or settings."""
    shutil.copytree(NANO_FOLDER, out)
    tensors = load_file(out / "model.safetensors")
    edit(tensors)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((out / "config.json").read_text()) | config
    (out / "config.json").write_text(json.dumps(settings))
    return out


def test_another_base_of_the_same_shape_is_refused_by_name(adapter: Path, tmp_path: Path) -> None:
    def other(tensors: dict[str, torch.Tensor]) -> None:
        tensors["language_model.model.layers.3.mlp.up_proj.weight"] *= -1

    base = changed_base(tmp_path / "other", other)
    for use in (
        lambda: merge(base, adapter, tmp_path / "out"),
        lambda: MedGemma.from_pretrained(base, adapter=adapter),
    ):
        with pytest.raises(ValueError, match=r"trained on nano \([0-9a-f]{16}\); the weights of .*other are others"):
            use()
    assert not (tmp_path / "out").exists()


def test_an_untied_head_is_refused_by_name(adapter: Path, tmp_path: Path) -> None:
    def untied(tensors: dict[str, torch.Tensor]) -> None:
        tensors["language_model.lm_head.weight"] = tensors["language_model.model.embed_tokens.weight"] * 2

    base = changed_base(tmp_path / "untied", untied, tie_word_embeddings=False)
    with pytest.raises(ValueError, match="trained on nano, whose output head is its embeddings; .*untied has a head"):
        merge(base, adapter, tmp_path / "out")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_copy_of_the_base_is_the_base(dtype: str, adapter: Path, tmp_path: Path) -> None:
    """In another dtype, layout and number of files."""
    convert(NANO_FOLDER, tmp_path / "copy", dtype=dtype, max_shard_bytes=4_000_000)
    assert sampled_weights(tmp_path / "copy") == sampled_weights(NANO_FOLDER)
    merge(tmp_path / "copy", adapter, tmp_path / "out")
    saved = hub_shapes.saved_by_transformers(NANO_FOLDER, tmp_path / "saved")
    assert sampled_weights(saved) == sampled_weights(NANO_FOLDER)


def test_a_wrong_prefix_is_refused_by_name(adapter: Path, tmp_path: Path) -> None:
    """As a trainer that wraps the model once more writes them; PEFT itself answers as the bare base then."""
    wrong = tmp_path / "wrong"
    shutil.copytree(adapter, wrong)
    tensors = load_file(wrong / "adapter_model.safetensors")
    renamed = {
        name.replace("base_model.model.model.", "base_model.model.module.model."): t for name, t in tensors.items()
    }
    save_file(renamed, wrong / "adapter_model.safetensors")
    message = "base_model.model.module.model.language_model.* changes nothing that the base holds"
    with pytest.raises(ValueError, match=message):
        merge(NANO_FOLDER, wrong, tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        MedGemma.from_pretrained("nano", device="cpu", adapter=wrong)


def test_a_damaged_record_is_refused(adapter: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(adapter, damaged)
    (damaged / TRAINED_ON_FILE).write_text('{"base": "nano"}')
    with pytest.raises(ValueError, match=r"trained_on\.json: has not the fields of a record"):
        merge(NANO_FOLDER, damaged, tmp_path / "out")


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (section("language", method="qlora"), "qlora: needs weights loaded as nf4, on CUDA"),
        (section("head", method="full"), "the head is tied to the embeddings"),
        (section("projector"), "the projector alone has no low-rank update"),
        (AdapterSection(parts=()), "adapter.parts is empty"),
    ],
)
def test_what_cannot_be_trained_is_refused(chosen: AdapterSection, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapt(nano(), chosen, seed=0)


def test_a_part_that_the_model_lacks_is_refused() -> None:
    from transformers import SiglipModel

    with pytest.raises(ValueError, match="this model has no language"):
        adapt(SiglipModel.from_pretrained(ENCODER), section(), seed=0)
