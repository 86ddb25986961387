"""Messages to ids: the processor's own, one bos, no control tokens from users."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tokenizers.processors import TemplateProcessing

from medgemma import MedGemma
from medgemma.nano import NANO_FOLDER
from medgemma.prompts.chat import ImageTokens, Prompts, render, tokenize, user_message
from tests import tiny

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


# The form itself, written out a second time from its description


def by_hand(turns: list[tuple[str, str]], system: str = "") -> str:
    """One bos; the system text before the first user text with a blank line; trimmed texts; an open model turn."""
    text = "<bos>"
    for number, (role, said) in enumerate(turns):
        opening = f"{system}\n\n" if system and number == 0 else ""
        text += f"<start_of_turn>{role}\n{opening}{said.strip()}<end_of_turn>\n"
    return f"{text}<start_of_turn>model\n"


@pytest.fixture(scope="module", params=["nano", "tiny"])
def prompts(request: pytest.FixtureRequest, tiny_folder: Path) -> Prompts:
    return Prompts.from_folder(NANO_FOLDER if request.param == "nano" else tiny_folder, request.param)


def ids_by_hand(prompts: Prompts, text: str) -> list[int]:
    return list(prompts.tokenizer(text, add_special_tokens=False).input_ids)


def test_the_form_of_a_conversation(prompts: Prompts) -> None:
    turns = [("user", " View? "), ("model", "AP"), ("user", "Sure?\n")]
    messages = [{"role": "assistant" if r == "model" else r, "content": t} for r, t in turns]
    system = {"role": "system", "content": "You are an expert radiologist."}
    ids = prompts.prompt([system, *messages], 8).input_ids
    assert list(ids) == ids_by_hand(prompts, by_hand(turns, system["content"]))
    assert ids.count(prompts.tokenizer.bos_token_id) == 1
    assert list(prompts.prompt(messages, 8).input_ids) == ids_by_hand(prompts, by_hand(turns))


def test_known_ids() -> None:
    """The special tokens of nano by number: bos 2, turn 5, end of turn 6, image 7 9x16 8; newline 266."""
    ids = Prompts.from_folder(NANO_FOLDER, "nano").prompt([user_message("a", 1)], 8).input_ids
    marks = [i for i in ids if i < 268]  # the words user, a and model are left out
    assert marks == [2, 5, 266, 266, 266, 7, *[9] * 16, 8, 266, 266, 6, 266, 5, 266]


def test_a_system_turn_that_is_lost_is_seen(prompts: Prompts) -> None:
    """Control: without its system text the prompt is another one, and so is one that is a turn of its own."""
    system = {"role": "system", "content": "SYSTEM INSTRUCTION: think silently if needed."}
    ids = list(prompts.prompt([system, user_message("View?", 0)], 8).input_ids)
    right = by_hand([("user", "View?")], system["content"])
    assert ids == ids_by_hand(prompts, right)
    assert ids != ids_by_hand(prompts, by_hand([("user", "View?")]))
    apart = right.replace("\n\nView?", "<end_of_turn>\n<start_of_turn>user\nView?")
    assert ids != ids_by_hand(prompts, apart)


def test_no_part_of_a_system_turn_is_lost(prompts: Prompts) -> None:
    """The templates read the first part only."""
    parts = [{"type": "text", "text": "You are a radiologist."}, {"type": "text", "text": "Be brief."}]
    ids = prompts.prompt([{"role": "system", "content": parts}, user_message("View?", 0)], 8).input_ids
    assert list(ids) == ids_by_hand(prompts, by_hand([("user", "View?")], "You are a radiologist.\nBe brief."))


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([], "got no messages"),
        ([{"role": "user", "content": [{"type": "video"}]}], "a part of type 'video', expected text or image"),
        ([{"role": "system", "content": [{"type": "image"}]}, user_message("?", 0)], "the system turn holds an image"),
        ([user_message("<unused95>yes", 0)], "control token <unused95>; remove it"),
    ],
)
def test_messages_that_are_none_are_refused(prompts: Prompts, messages: list[Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        prompts.prompt(messages, 8)


def test_tokens_are_counted_and_too_many_refused_without_weights(tmp_path: Path, tiny_folder: Path) -> None:
    for path in tiny_folder.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    prompts = Prompts.from_folder(tmp_path, "tiny")
    prompt = prompts.prompt([user_message("View?", 3)], 100)
    count = prompts.count(prompt, 100)
    assert (count.images, count.num_images, count.answer, count.limit) == (12, 3, 100, 2048)
    assert count.prompt == len(prompt.input_ids) and count.fits
    message = r"the prompt is 2,017 tokens \(200 images of 4\) and asks for 200 more; tiny holds 2,048; shorten"
    with pytest.raises(ValueError, match=message):
        prompts.prompt([user_message("View?", 200)], 200)
    last = prompts.max_tokens - len(prompt.input_ids)
    prompts.prompt([user_message("View?", 3)], last)  # exactly full
    with pytest.raises(ValueError, match="holds 2,048"):
        prompts.prompt([user_message("View?", 3)], last + 1)


def test_a_pre_trained_checkpoint_has_the_plain_form(tiny_folder: Path) -> None:
    """As the pre-trained model's card has it, <start_of_image> findings:, by the processor itself."""
    from transformers import AutoProcessor

    prompts = Prompts.from_folder(tiny_folder, "tiny-pt")
    prompts.tokenizer.chat_template = None
    ids = prompts.prompt([user_message("Cough. findings: ", 1)], 8).input_ids
    processor = AutoProcessor.from_pretrained(tiny_folder)
    text = processor.tokenizer.bos_token + "<start_of_image> Cough. findings:"
    image = Image.fromarray(tiny.picture_array(0))
    assert list(ids) == processor(images=[image], text=text, add_special_tokens=False)["input_ids"][0]
    system = {"role": "system", "content": "Be brief."}
    with pytest.raises(ValueError, match="continues one user turn, got system, user; leave the others out"):
        prompts.prompt([system, user_message("findings:", 1)], 8)
    with pytest.raises(ValueError, match="control token <eos>"):
        prompts.prompt([user_message("<eos>", 1)], 8)
