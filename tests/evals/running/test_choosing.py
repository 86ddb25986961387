"""Likelihoods of choices: the engine's against whole forward passes of transformers, and what cannot be scored."""

from pathlib import Path

import pytest
import torch

from evals.items import Item, item_sha256
from evals.measures import Answered
from evals.results.scores import measures, value_of
from evals.running.choosing import choose_items, encode_choices
from evals.tasks.catalogue import TASKS
from evals.tasks.task import ItemOptions
from medgemma import MedGemma


@pytest.fixture(scope="module")
def model() -> MedGemma:
    return MedGemma.from_pretrained("nano", device="cpu")


def one_by_one(model: MedGemma, item: Item) -> list[float]:
    """The sum of log-probabilities of each choice's tokens, from one uncached pass a choice."""
    scores = []
    context, choices = encode_choices(model, item.prompt, item.choices)
    for choice in choices:
        ids = torch.tensor([context + choice])
        with torch.inference_mode():
            logits = model.model(input_ids=ids, token_type_ids=torch.zeros_like(ids)).logits
        logprobs = logits[0].float().log_softmax(-1)
        places = range(len(context) - 1, len(context) - 1 + len(choice))
        scores.append(sum(float(logprobs[place, token]) for place, token in zip(places, choice, strict=True)))
    return scores


def test_choices_are_what_the_whole_text_has_more(model: MedGemma) -> None:
    context, choices = encode_choices(model, "Question: why?\nAnswer: ", ("no", "nothing"))
    bare, _ = encode_choices(model, "Question: why?\nAnswer:", (" no",))
    assert context == bare
    for text, ids in zip(("no", "nothing"), choices, strict=True):
        plain = model.tokenizer(f"Question: why?\nAnswer: {text}", add_special_tokens=False).input_ids
        assert context + ids == [model.tokenizer.bos_token_id, *plain]


@pytest.mark.kit
@pytest.mark.parametrize(
    "name", ["kit-mmlu-medical-likelihood", "kit-mmlu-medical-likelihood-5-shot", "kit-pubmedqa-likelihood"]
)
def test_scores_are_those_of_whole_passes(kit: Path, model: MedGemma, name: str) -> None:
    task = TASKS[name]
    made = task.items(kit, ItemOptions(task.checked_side(""), 0, task.num_fewshot))
    items = [item for item in made if len(item.prompt) < 3000][:6]
    outputs = {output.item_id: output for output in choose_items(items, model)}
    assert len(outputs) == len(items) and not any(output.error for output in outputs.values())
    for item in items:
        assert outputs[item.item_id].log_likelihoods == pytest.approx(one_by_one(model, item), abs=2e-4)


def test_what_does_not_fit_fails_alone_and_counts_as_wrong(model: MedGemma) -> None:
    meta = {"card": "c", "subject": "s"}
    long = Item("long", (), "word " * 4000, "A", "closed", "g1", meta, (" A", " B"))
    short = Item("short", (), "Answer:", "A", "closed", "g2", meta, (" A", " B"))
    outputs = {output.item_id: output for output in choose_items([long, short], model)}
    assert "2,048" in outputs["long"].error and outputs["short"].error == ""
    assert outputs["long"].item_sha256 == item_sha256(long)
    answered = [Answered(item, outputs[item.item_id]) for item in (long, short)]
    found = measures(TASKS["kit-medqa-likelihood"], answered)
    assert len(found["accuracy"].values) == 2 and value_of(found["accuracy"]) <= 0.5
