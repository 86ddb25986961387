"""The recipe nano from end to end on a made-up miniature kit: loads in plain transformers, resumes, repeats."""

import csv
import gzip
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from data_cards.readers.pictures import NIH14_FINDINGS
from data_cards.schema import load_card
from data_cards.split import side
from finetune import views
from finetune.augment import Augmentation
from finetune.cli import main
from finetune.configuration import load_config
from finetune.recipes.nano import config as nano_config
from finetune.recipes.nano import data as nano_data
from finetune.recipes.nano import models as nano_models
from finetune.recipes.nano import nano
from finetune.views import kept_tower_views
from tests import tiny
from tests.oracle import chat_inputs

SIZES = {
    "encoder": {"image_size_px": 28, "width": 16, "layers": 1, "mlp": 16, "heads": 2},
    "decoder": {"width": 16, "layers": 7, "mlp": 16, "heads": 2, "key_value_heads": 1, "head_width": 8},
    "pretrain": {"steps": 2, "texts_per_step": 2, "captions_per_step": 2, "max_tokens": 64},
    "instruct": {
        "steps": 2,
        "question_set_per_step": 2,
        "template_per_step": 2,
        "outside_per_step": 2,
        "texts_per_step": 1,
    },
}
MORE_SIZES = {
    "encoder": {"text_layers": 1, "text_mlp": 16, "vocabulary": 200},
    "decoder": {"sliding_window": 24, "vocabulary": 420, "image_tokens": 4, "views": 2, "window": 0.5},
    "instruct": {"max_tokens": 192},
}
PHASE = {
    "steps": 3,
    "learning_rate": 1e-3,
    "augmentation": 1.0,
    "colour": 0.5,
    "window": 0.5,
    "frame": 0.5,
    "histology_per_step": 3,
    "modality_per_step": 3,
    "chest_per_step": 3,
    "question_pictures_per_step": 1,
    "captions_per_step": 4,
    "frozen_tower": False,
}
PHASES = [PHASE, {**PHASE, "steps": 2, "frozen_tower": True}]
SETTINGS = [
    f"contrastive={json.dumps(PHASES)}",
    "measure=false",
]
SETTINGS += [
    f"{section}.{key}={value}"
    for sizes in (SIZES, MORE_SIZES)
    for section, values in sizes.items()
    for key, value in values.items()
]


def write_pictures(folder: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """labels.csv and its pictures, in the kit's layout."""
    rows = [{**row, "licence": "made up"} for row in rows]
    (folder / "images").mkdir(parents=True)
    for number, row in enumerate(rows):
        Image.fromarray(tiny.picture_array(number, 40, 48)).save(folder / str(row["file"]))
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_lines(folder: Path, rows: Iterable[Mapping[str, object]]) -> None:
    folder.mkdir()
    with gzip.open(folder / "train.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def mini_kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("kit")
    tissues, parts = ("lung_n", "lung_aca", "lung_scc"), ("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT")
    names = [(tissue, i) for tissue in tissues for i in range(4)]
    write_pictures(
        data / "histo-lc25000-lung",
        (
            {"file": f"images/{t}{i}.png", "label": t, "label_text": t, "patient_id": f"tile_{t}_{i}", "copy": 1}
            for t, i in names
        ),
    )
    write_pictures(
        data / "modality-mednist",
        (
            {"file": f"images/{part}{i}.png", "label": part, "label_text": part, "group": f"{part}_block{i}"}
            for part in parts
            for i in range(3)
        ),
    )
    write_pictures(
        data / "cxr-nih14",
        (
            {
                "file": f"images/{i}.png",
                **{finding: int(finding == "Pneumonia" and i % 2 == 0) for finding in NIH14_FINDINGS},
                "no_finding": i % 2,
                "view": ("PA", "AP")[i % 2],
                "age": 50 + i,
                "sex": "F",
                "patient_id": f"patient_{i}",
            }
            for i in range(8)
        ),
    )
    write_pictures(
        data / "vqa-rad",
        (
            {
                "file": f"images/{i}.png",
                "qid": i,
                "question": ("Is there a mass?", "Which organ is enlarged?")[i % 2],
                "answer": ("No", "The liver")[i % 2],
                "answer_type": ("CLOSED", "OPEN")[i % 2],
                "question_type": "PRES",
                "phrase_type": "freeform",
                "organ": ("HEAD", "CHEST", "ABD")[i % 3],
                "official_split": "train",
                "patient_id": f"case_{i}",
            }
            for i in range(8)
        ),
    )
    texts = [f"{sentence} Number {i}." for i, sentence in enumerate(tiny.SENTENCES * 2)]
    write_lines(
        data / "medquad",
        (
            {"id": f"{i}-1", "question": t, "answer": t[::-1], "focus": "f", "qtype": "q", "source": "s", "url": "u"}
            for i, t in enumerate(texts)
        ),
    )
    write_lines(
        data / "pubmedqa",
        (
            {"id": i, "question": t, "contexts": [{"label": "AIM", "text": t}], "long_answer": t, "answer": "yes"}
            for i, t in enumerate(texts)
        ),
    )
    write_lines(
        data / "mts-dialog",
        ({"id": i, "section": "ROS", "dialogue": f"Doctor: {t}", "note": t} for i, t in enumerate(texts)),
    )
    return data


def config(*more: str) -> nano_config.Config:
    return load_config(nano_config.Config, [Path(nano.__file__).with_suffix(".yaml")], [*SETTINGS, *more])


@pytest.fixture(scope="module")
def trained(mini_kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole run, by the command."""
    out = tmp_path_factory.mktemp("nano") / "out"
    words = ["medgemma-finetune", "run", "nano", "--data", str(mini_kit), "--out", str(out), "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*words, *(word for s in SETTINGS for word in ("--set", s))])
        with pytest.raises(SystemExit) as done:
            main()
    assert not done.value.code
    return out


def weights(out: Path) -> dict[str, torch.Tensor]:
    folders = ("medsiglip", "medgemma")
    return {f"{f}.{k}": t for f in folders for k, t in load_file(out / f / "model.safetensors").items()}


def equal(left: Path, right: Path) -> bool:
    ours, theirs = weights(left), weights(right)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_only_the_training_side_is_read(mini_kit: Path) -> None:
    corpus = nano_data.read_corpus(mini_kit, 28)
    cases = [q.group for q in corpus.questions]
    assert cases == [f"case_{i}" for i in range(8) if side(f"case_{i}") == "train"]
    assert 0 < len(cases) < 8
    patients = [int(p.stem) for p, card in zip(corpus.paths, corpus.cards, strict=True) if card == "cxr-nih14"]
    assert patients == [i for i in range(8) if side(f"patient_{i}") == "train"]
    assert corpus.pixels.shape == (len(corpus.paths), 3, 44, 44) and corpus.pixels.dtype == torch.uint8
    assert all(corpus.paths[corpus.number_of[q.path]] == q.path for q in corpus.questions)


def test_the_encoder_loads_in_plain_transformers(trained: Path) -> None:
    from transformers import AutoImageProcessor, SiglipModel, SiglipTokenizer

    folder = trained / "medsiglip"
    model, report = SiglipModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = SiglipTokenizer.from_pretrained(folder)(["a chest film"], padding="max_length", return_tensors="pt").input_ids
    image = Image.fromarray(tiny.picture_array(0))
    pixels = AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt").pixel_values
    assert model(input_ids=ids, pixel_values=pixels).logits_per_image.isfinite().all()

    from medsiglip import MedSigLIP

    ours = MedSigLIP.from_pretrained(folder, device="cpu")
    assert ours.encode_images([image]).shape == ours.encode_texts(["a chest film"]).shape == (1, 16)


def test_the_decoder_loads_in_plain_transformers(trained: Path) -> None:
    from transformers import AutoProcessor, Gemma3ForConditionalGeneration

    folder = trained / "medgemma"
    model, report = Gemma3ForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    image = Image.fromarray(tiny.picture_array(0))
    processor = AutoProcessor.from_pretrained(folder)
    inputs = chat_inputs(processor, [image], "Which view is this?")
    said = model.generate(**inputs, do_sample=False, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]

    from medgemma import MedGemma

    [answer] = MedGemma.from_pretrained(folder, device="cpu").ask([image], "Which view is this?", max_new_tokens=8)
    assert answer.text == processor.tokenizer.decode(said, skip_special_tokens=True).strip()
    assert answer.tokens == len(said)


def test_the_decoders_tower_is_the_encoders(trained: Path) -> None:
    decoder, encoder = (
        load_file(trained / "medgemma/model.safetensors"),
        load_file(trained / "medsiglip/model.safetensors"),
    )
    tower = {k.removeprefix("vision_tower."): t for k, t in decoder.items() if k.startswith("vision_tower.")}
    assert tower and all(torch.equal(tensor, encoder[key]) for key, tensor in tower.items())
    assert {k for k in encoder if k.startswith("vision_model.")} - tower.keys() == {
        k for k in encoder if k.startswith("vision_model.head.")
    }


def test_every_stage_has_moved_its_weights(trained: Path) -> None:
    started = nano_models.new_encoder(config().encoder).state_dict().keys()
    assert {k.removeprefix("medsiglip.") for k in weights(trained) if k.startswith("medsiglip.")} == started
    stages = trained / "stages"
    pretrained, instructed = (load_file(stages / s / "state.safetensors") for s in ("pretrain", "instruct"))
    moved = [k for k in pretrained if k.startswith("parameter.") and not torch.equal(pretrained[k], instructed[k])]
    assert any("embed_tokens" in key for key in moved) and any("projector" in key for key in moved)
    assert not any("vision_tower" in key for key in pretrained)
    logs = {
        s: (stages / s / "log.jsonl").read_text().splitlines()
        for s in ("contrastive-1", "contrastive-2", "pretrain", "instruct")
    }
    assert {s: json.loads(lines[-1])["step"] for s, lines in logs.items()} == {
        "contrastive-1": 2,
        "contrastive-2": 1,
        "pretrain": 1,
        "instruct": 1,
    }
    assert load_config(nano_config.Config, [trained / "config.yaml"], []) == config()


@pytest.mark.parametrize("killed_in", ["plug", "save_decoder"])
def test_killed_and_resumed_is_uninterrupted(
    mini_kit: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    """After the contrastive stage, and after the last stage before the export."""

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(nano, killed_in, killed)
        with pytest.raises(KeyboardInterrupt):
            nano.run(config(), mini_kit, tmp_path, quiet=True)
    assert (tmp_path / "stages/contrastive-2/state.safetensors").is_file()
    assert not (tmp_path / "medgemma/model.safetensors").exists()
    nano.run(config(), mini_kit, tmp_path, quiet=True)
    assert equal(tmp_path, trained)


def test_the_seed_decides_and_nothing_else(mini_kit: Path, trained: Path, tmp_path: Path) -> None:
    torch.rand(5)
    nano.run(config(), mini_kit, tmp_path / "same", quiet=True)
    assert equal(tmp_path / "same", trained)
    nano.run(config("seed=1"), mini_kit, tmp_path / "other", quiet=True)
    assert not equal(tmp_path / "other", trained)


def test_another_configuration_in_the_same_folder_is_refused(mini_kit: Path, trained: Path) -> None:
    before = weights(trained)
    with pytest.raises(ValueError, match="another run is here, with seed: 0"):
        nano.run(config("seed=1"), mini_kit, trained, quiet=True)
    assert all(torch.equal(before[key], tensor) for key, tensor in weights(trained).items())


def test_a_missing_set_is_named(mini_kit: Path, tmp_path: Path) -> None:
    for name in ("histo-lc25000-lung", "modality-mednist"):
        (tmp_path / name).symlink_to(mini_kit / name)
    with pytest.raises(ValueError, match="found no data set 'cxr-nih14'"):
        nano.run(config(), tmp_path, tmp_path / "out", quiet=True)


def test_a_run_goes_on_from_another(mini_kit: Path, trained: Path, tmp_path: Path) -> None:
    """Its weights and tokenizers are taken over; with no step left to make, nothing changes but what was rounded."""
    nothing = ["contrastive=[]", "pretrain.steps=1", "pretrain.learning_rate=0", "instruct.steps=1"]
    gone_on = config(f"start={trained}", *nothing, "instruct.learning_rate=0")
    nano.run(gone_on, mini_kit, tmp_path / "more", quiet=True)
    assert equal(tmp_path / "more", trained)
    for name in (
        "medsiglip/spiece.model",
        "medgemma/tokenizer.json",
        "medgemma/tokenizer_config.json",
        "medsiglip/config.json",
    ):
        assert (tmp_path / "more" / name).read_bytes() == (trained / name).read_bytes()
    nano.run(config(f"start={trained}"), mini_kit, tmp_path / "further", quiet=True)
    assert not equal(tmp_path / "further", trained)


def test_what_goes_on_can_be_averaged_with_its_start(mini_kit: Path, trained: Path, tmp_path: Path) -> None:
    """Kept whole, it is the start again; kept by a quarter, a quarter of the way back from what was learned."""
    whole = config(f"start={trained}", "keep_of_encoder=1", "keep_of_decoder=1")
    nano.run(whole, mini_kit, tmp_path / "whole", quiet=True)
    assert equal(tmp_path / "whole", trained)
    for share in ("0", "0.25"):
        nano.run(config(f"start={trained}", f"keep_of_encoder={share}"), mini_kit, tmp_path / share, quiet=True)
    start, learned, mixed = (weights(folder) for folder in (trained, tmp_path / "0", tmp_path / "0.25"))
    for name in (name for name in start if name.startswith("medsiglip.")):
        expected = 0.75 * learned[name].float() + 0.25 * start[name].float()
        assert torch.allclose(mixed[name].float(), expected, rtol=1e-2, atol=1e-4), name
    assert any(not torch.equal(start[name], learned[name]) for name in start if name.startswith("medsiglip."))


def test_going_on_refuses_other_sizes_and_empty_folders(mini_kit: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has the shape .* the configuration asks for"):
        nano.run(config(f"start={trained}", "encoder.mlp=24"), mini_kit, tmp_path / "a", quiet=True)
    with pytest.raises(ValueError, match="found no medsiglip/model.safetensors"):
        nano.run(config(f"start={tmp_path}"), mini_kit, tmp_path / "b", quiet=True)


def test_a_frozen_tower_stays_and_its_head_learns(trained: Path) -> None:
    first, second = (load_file(trained / f"stages/contrastive-{n}/state.safetensors") for n in (1, 2))
    learned = {key for key in second if key.startswith("parameter.")}
    assert learned < {key for key in first if key.startswith("parameter.")}
    assert not any("vision_model.encoder" in key for key in learned)
    shipped = load_file(trained / "medsiglip/model.safetensors")
    for key, before in first.items():
        name = key.removeprefix("parameter.")
        if key.startswith("parameter.vision_model.") and before.ndim > 1:
            moved = not torch.equal(shipped[name], before.bfloat16())
            assert moved == (".head." in name), name


def test_views_are_kept_and_made_anew_for_another_tower(trained: Path, mini_kit: Path, tmp_path: Path) -> None:
    encoder = nano_models.new_encoder(config().encoder)
    corpus = nano_data.read_corpus(mini_kit, 28)

    def seen() -> torch.Tensor:
        return kept_tower_views(
            tmp_path / "views.safetensors",
            encoder.vision_model,
            corpus.pixels,
            corpus.free_orientation,
            2,
            augmentation=Augmentation(window=0.5),
            seed=0,
            precision="float32",
        )

    made = seen()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "tower_views", None)  # must not be called again
        assert torch.equal(seen(), made)
    with torch.no_grad():
        encoder.vision_model.post_layernorm.weight.add_(1)
    assert not torch.equal(seen(), made)


def test_shuffled_labels_stay_in_their_set(mini_kit: Path) -> None:
    corpus = nano_data.read_corpus(mini_kit, 28)
    shuffled = corpus.with_shuffled_labels(0)
    assert shuffled.facts_known() == corpus.facts_known() and shuffled.facts != corpus.facts
    assert torch.equal(shuffled.pixels, corpus.pixels) and shuffled.cards == corpus.cards
    moved = [q for q in corpus.questions if shuffled.number_of[q.path] != corpus.number_of[q.path]]
    assert moved


def test_the_data_report_says_what_was_read(trained: Path, mini_kit: Path) -> None:
    report = json.loads((trained / "data.json").read_text())
    corpus = nano_data.read_corpus(mini_kit, 28)
    assert {name: of["pictures"] for name, of in report["sets"].items() if "pictures" in of} == Counter(corpus.cards)
    assert {name: of["texts"] for name, of in report["sets"].items() if "texts" in of} == Counter(corpus.text_cards)
    assert {name for stage in report["stages"].values() for sets in stage.values() for name in sets} >= {"vqa-rad"}
    assert report["sets"]["vqa-rad"]["licence"] == "CC0 1.0"
    assert report["facts"]["cxr-nih14"]["modality: X-ray"] == corpus.cards.count("cxr-nih14")


def test_the_data_report_counts_groups_and_duplicates(mini_kit: Path, tmp_path: Path) -> None:
    data = shutil.copytree(mini_kit, tmp_path / "kit")
    before = nano_data.read_corpus(data, 28)
    first, second, third = (before.paths[row] for row in before.numbers_of("cxr-nih14")[:3])
    shutil.copyfile(first, second)
    shutil.copyfile(first, third)
    nano_data.write_data_report(nano_data.read_corpus(data, 28), tmp_path / "data.json")
    films = json.loads((tmp_path / "data.json").read_text())["sets"]["cxr-nih14"]
    counts = films["pictures"], films["groups"], films["duplicates_kept"], films["duplicates_in_several_groups"]
    assert counts == (before.cards.count("cxr-nih14"),) * 2 + (2, 1)


def test_no_set_is_trained_on_that_may_not_ship() -> None:
    for name in (*nano_data.PICTURE_CARDS, *nano_data.TEXT_CARDS):
        assert load_card(name).licence_allows_training_shipped_weights, name


def test_the_text_only_control_sees_nothing_in_any_picture(mini_kit: Path, trained: Path, tmp_path: Path) -> None:
    """Its answers, and so every figure that an evaluation gives, are the same whatever it is shown."""
    from transformers import Gemma3ForConditionalGeneration

    nano.run(config("pictures=none"), mini_kit, tmp_path, quiet=True)
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))

    def seen(folder: Path) -> torch.Tensor:
        model = Gemma3ForConditionalGeneration.from_pretrained(folder / "medgemma", dtype=torch.float32)
        return torch.as_tensor(model.get_image_features(pixels).pooler_output)

    assert (seen(tmp_path) == 0).all() and not (seen(trained) == 0).any(-1).any()
    encoders = (load_file(folder / "medsiglip/model.safetensors") for folder in (tmp_path, trained))
    assert all(torch.equal(one, other) for one, other in zip(*(e.values() for e in encoders), strict=True))


def test_decoders_are_averaged(trained: Path) -> None:
    from transformers import Gemma3ForConditionalGeneration

    folder = trained / "medgemma"
    before = load_file(folder / "model.safetensors")
    model = Gemma3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1)
    nano_models.average_with_start(model, folder, 0.25)
    embedding = before["language_model.model.embed_tokens.weight"].float()
    torch.testing.assert_close(model.get_input_embeddings().weight, embedding + 0.75)
    patches = model.model.vision_tower.state_dict()
    name = next(name for name in patches if name.endswith("patch_embedding.bias"))
    kept = before["vision_tower.vision_model.embeddings.patch_embedding.bias"].float()
    torch.testing.assert_close(patches[name], kept + 1)  # the tower is not averaged
