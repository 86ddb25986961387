"""Messages to ids: the processor's own, one bos, no control tokens from users."""

from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from medgemma import MedGemma
from medgemma.chat import ImageTokens, render, tokenize, user_message

ANSWERED = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which view is this?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "AP"}]},
    {"role": "user", "content": [{"type": "text", "text": "  Are you sure?\n"}]},
]
SYSTEM = [
    {"role": "system", "content": [{"type": "text", "text": "You are an expert radiologist."}]},
    {"role": "user", "content": [{"type": "text", "text": "Compare."}, {"type": "image"}, {"type": "image"}]},
]


def with_pictures(messages: list[Any], images: list[Any]) -> list[Any]:
    """The same messages as the stock processor wants them: each image part holds its picture."""
    left = iter(images)
    return [
        {**m, "content": [{**p, "image": next(left)} if p["type"] == "image" else p for p in m["content"]]}
        for m in messages
    ]


@pytest.mark.parametrize(
    "messages",
    [
        [user_message("Is there a pneumothorax?", 0)],
        [user_message("Is there a pneumothorax?", 1)],
        [user_message("Which is older?\n\nThe first or the second?", 2)],
        ANSWERED,
        SYSTEM,
    ],
    ids=["text", "one image", "two images", "three turns", "system turn"],
)
def test_ids_are_the_processors(gemma: MedGemma, processor: Any, images: list[Any], messages: list[Any]) -> None:
    prompt = render(gemma.tokenizer, gemma.image_tokens, messages)
    stock = processor.apply_chat_template(
        with_pictures(messages, images), add_generation_prompt=True, tokenize=True, return_dict=True
    )
    assert list(prompt.input_ids) == list(stock["input_ids"][0])
    assert list(prompt.token_type_ids) == list(stock["token_type_ids"][0])
    assert prompt.num_images == sum(p["type"] == "image" for m in messages for p in m["content"])


def test_image_tokens_come_from_the_checkpoint(gemma: MedGemma) -> None:
    config = gemma.model.config
    shape = ImageTokens.of(config, gemma.tokenizer)
    assert (shape.begin, shape.soft, shape.end) == ("<start_of_image>", "<image_soft_token>", "<end_of_image>")
    assert (shape.soft_id, shape.tokens_per_image) == (config.image_token_id, config.mm_tokens_per_image)
    ids = render(gemma.tokenizer, shape, [user_message("What is it?", 2)]).input_ids
    assert ids.count(config.image_token_id) == 2 * config.mm_tokens_per_image
    assert ids.count(config.boi_token_index) == ids.count(config.eoi_token_index) == 2


def test_one_bos_though_the_tokenizer_adds_its_own(gemma: MedGemma) -> None:
    """Google's tokenizer puts a bos before every text; the template has one already."""
    bos = gemma.tokenizer.bos_token_id
    gemma.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", bos)]
    )
    message = user_message("Which view is this?", 1)
    ids = render(gemma.tokenizer, gemma.image_tokens, [message]).input_ids
    assert ids.count(bos) == 1 and ids[0] == bos
    text = gemma.tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    assert gemma.tokenizer(text).input_ids[:2] == [bos, bos]  # control: tokenised as it comes, there are two


def test_control_tokens_in_a_text_are_refused(gemma: MedGemma) -> None:
    config = gemma.model.config
    control = gemma.tokenizer.convert_ids_to_tokens(
        [0, 1, 2, 3, 4, 5, 6, config.boi_token_index, config.eoi_token_index, config.image_token_id]
    )
    for token in control:
        for message in (user_message(f"ignore{token}this", 1), {"role": "user", "content": f"x {token}"}):
            with pytest.raises(ValueError, match=f"control token {token}; remove it"):
                render(gemma.tokenizer, gemma.image_tokens, [message])


def test_turns_must_alternate(gemma: MedGemma) -> None:
    user, model = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    for turns in ([user, user], [model], [user, model, model], [{"role": "system", "content": "s"}, model]):
        with pytest.raises(ValueError, match="must alternate"):
            render(gemma.tokenizer, gemma.image_tokens, turns)


def test_templated_text_is_tokenised_with_its_images(gemma: MedGemma) -> None:
    prompt = tokenize(gemma.tokenizer, gemma.image_tokens, "<bos><start_of_image>chest")
    assert prompt.num_images == 1
    assert sum(prompt.token_type_ids) == gemma.image_tokens.tokens_per_image
    assert "chest" in gemma.tokenizer.decode(prompt.input_ids)
