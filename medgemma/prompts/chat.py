"""Messages to token ids, image slots and masks, in Gemma 3's chat form.

Letters: T tokens of a prompt, I tokens of one image.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from medgemma.prompts.special_tokens import control_texts, read_tokenizer, stop_ids, with_one_bos
from medgemma.prompts.thinking import THINKING_BEGIN, THINKING_END
from medsiglip.checkpoints.folders import read_json

Message = Mapping[str, Any]
"""{"role": "system" | "user" | "assistant", "content": text or a list of {"type": "text" | "image", ...} parts}.

An image part may say how many pan-and-scan crops follow its picture: {"type": "image", "crops": 2}."""


@dataclass(frozen=True)
class Prompt:
    """A prompt ready for the decoder."""

    input_ids: tuple[int, ...]
    token_type_ids: tuple[int, ...]
    """1 on image tokens, 0 elsewhere. Without them transformers silently makes images causal."""
    num_images: int
    """Image slots, those of crops included."""


class TokenCount(NamedTuple):
    """What a prompt costs."""

    text: int
    images: int
    """All tokens of `num_images` pictures."""
    num_images: int
    answer: int
    """What the answer may take."""
    limit: int
    """What the model holds, prompt and answer together."""

    @classmethod
    def of(cls, prompt: "Prompt", max_new_tokens: int, limit: int) -> "TokenCount":
        """What a prompt and its answer take of `limit` tokens."""
        images = sum(prompt.token_type_ids)
        return cls(len(prompt.input_ids) - images, images, prompt.num_images, max_new_tokens, limit)

    @property
    def prompt(self) -> int:
        """Text and images."""
        return self.text + self.images

    @property
    def fits(self) -> bool:
        """Whether prompt and answer fit."""
        return self.prompt + self.answer <= self.limit

    def too_long(self, name: str) -> str:
        """What to say when they do not: the numbers, and what to do.

        Args:
            name: of the model.
        """
        of_images = f" ({self.num_images} images of {self.images // self.num_images})" if self.num_images else ""
        return (
            f"the prompt is {self.prompt:,} tokens{of_images} and asks for {self.answer:,} more; {name} holds "
            f"{self.limit:,}; shorten the question, or send fewer pictures or slices"
        )


@dataclass(frozen=True)
class ImageTokens:
    """What stands for one image, and what may not stand in a text; from the checkpoint, never from constants."""

    begin: str
    soft: str
    end: str
    soft_id: int
    tokens_per_image: int
    """0 in a model of text alone, which has no such ids."""
    control: tuple[str, ...]
    """How the control tokens read, those of an image and of a reasoning trace included."""

    @classmethod
    def of(cls, config: Any, tokenizer: Any, ends: Iterable[int] = ()) -> "ImageTokens":
        """Read them from a Gemma 3 config and its tokenizer; `ends` are the tokens that end an answer."""
        thinking = (THINKING_BEGIN, THINKING_END)
        if not hasattr(config, "vision_config"):
            return cls("", "", "", -1, 0, (*control_texts(tokenizer, ends), *thinking))
        begin, soft, end = tokenizer.convert_ids_to_tokens(
            [config.boi_token_index, config.image_token_id, config.eoi_token_index]
        )
        control = dict.fromkeys((*control_texts(tokenizer, ends), begin, soft, end, *thinking))
        return cls(begin, soft, end, config.image_token_id, config.mm_tokens_per_image, tuple(control))

    def expanded(self, crops: int = 0) -> str:
        """One image as the processor writes it: two newlines on either side of begin, I soft tokens, end.

        Pan-and-scan crops stand behind their picture, in the processor's own words.
        """
        one = f"\n\n{self.begin}{self.soft * self.tokens_per_image}{self.end}\n\n"
        if crops == 0:
            return one
        return (
            f"Here is the original image {one} and here are some crops to help you see better {' '.join([one] * crops)}"
        )


def user_message(question: str, num_images: int) -> Message:
    """One user turn: the images first, then the question."""
    return {
        "role": "user",
        "content": [*[{"type": "image"}] * num_images, {"type": "text", "text": question}],
    }


def render(tokenizer: Any, image_tokens: ImageTokens, messages: Sequence[Message]) -> Prompt:
    """Apply the checkpoint's chat template and expand every image.

    There is one bos token, whether template and tokenizer write it or not. The template glues a system turn,
    whose text may be in several parts, to the front of the first user turn.

    Args:
        tokenizer: the checkpoint's tokenizer, with its chat template.
        image_tokens: see `ImageTokens`.
        messages: alternating user and assistant turns, optionally after one system turn.

    Raises:
        ValueError: no turns, a text that holds one of the checkpoint's control tokens, a part of another type, an image
            in a system turn or for a model of text alone, or turns that do not alternate.
    """
    if not messages:
        raise ValueError("got no messages, expected at least one user turn")
    for message in messages:
        _check_parts(image_tokens, _parts(message), message["role"])
    try:
        text = tokenizer.apply_chat_template(
            [_as_the_template_wants(message) for message in messages], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # jinja2 raises its own TemplateError, whose text is the template's message
        raise ValueError(f"the chat template refuses these messages: {error}") from error
    images = [part for message in messages for part in _parts(message) if part["type"] == "image"]
    return tokenize(tokenizer, image_tokens, text, [part.get("crops", 0) for part in images])


def plain(tokenizer: Any, image_tokens: ImageTokens, messages: Sequence[Message]) -> Prompt:
    """The form of pre-trained checkpoints: bos, then the pictures and texts of one turn, blanks between them.

    Args:
        tokenizer: the checkpoint's tokenizer.
        image_tokens: see `ImageTokens`.
        messages: one user turn, such as a film and "Cough. findings:".

    Raises:
        ValueError: other than one user turn, or as `render`.
    """
    if [message["role"] for message in messages] != ["user"]:
        turns = ", ".join(message["role"] for message in messages)
        raise ValueError(
            f"a pre-trained checkpoint continues one user turn, got {turns or 'none'}; leave the others out"
        )
    parts = _parts(messages[0])
    _check_parts(image_tokens, parts, "user")
    said = [image_tokens.begin if part["type"] == "image" else part["text"].strip() for part in parts]
    crops = [part.get("crops", 0) for part in parts if part["type"] == "image"]
    return tokenize(tokenizer, image_tokens, " ".join(said), crops)


def tokenize(tokenizer: Any, image_tokens: ImageTokens, text: str, crops: Sequence[int] = ()) -> Prompt:
    """Tokenise templated text whose images are single begin-of-image tokens.

    Args:
        tokenizer: the checkpoint's tokenizer.
        image_tokens: see `ImageTokens`.
        text: with a bos token of its own, or without.
        crops: pan-and-scan crops behind each image; none at all without it.
    """
    first, *others = text.split(image_tokens.begin) if image_tokens.tokens_per_image else [text]
    counts = crops or [0] * len(others)
    expanded = first + "".join(image_tokens.expanded(n) + other for n, other in zip(counts, others, strict=True))
    ids = with_one_bos(tokenizer, tokenizer(expanded, add_special_tokens=False).input_ids)
    num_images = len(others) + sum(counts)
    return Prompt(ids, tuple(int(i == image_tokens.soft_id) for i in ids), num_images)


@dataclass(frozen=True)
class Prompts:
    """Messages to prompts of one checkpoint; needs its tokenizer and its config, not its weights."""

    tokenizer: Any
    image_tokens: ImageTokens
    max_tokens: int
    """Tokens that prompt and answer may have together."""
    name: str
    """The model's, for messages."""

    @classmethod
    def from_folder(cls, folder: Path, name: str) -> "Prompts":
        """Read what is needed of a checkpoint."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = read_tokenizer(folder)
        generation = folder / "generation_config.json"
        ends = stop_ids(tokenizer, config, read_json(generation) if generation.is_file() else None)
        limit = config.get_text_config().max_position_embeddings
        return cls(tokenizer, ImageTokens.of(config, tokenizer, ends), int(limit), name)

    def render(self, messages: Sequence[Message]) -> Prompt:
        """The chat form; for a pre-trained checkpoint, which has no chat template, the plain form.

        Raises:
            ValueError: as `render` and `plain`.
        """
        form = render if self.tokenizer.chat_template else plain
        return form(self.tokenizer, self.image_tokens, messages)

    def prompt(self, messages: Sequence[Message], max_new_tokens: int) -> Prompt:
        """Render messages and refuse what does not fit.

        Raises:
            ValueError: as `render`; or prompt and answer together are longer than the context: the numbers are given.
        """
        prompt = self.render(messages)
        count = self.count(prompt, max_new_tokens)
        if not count.fits:
            raise ValueError(count.too_long(self.name))
        return prompt

    def raw(self, text: str, max_new_tokens: int) -> Prompt:
        """A text as it is, behind one bos.

        Raises:
            ValueError: it holds an image's tokens, or as `prompt`.
        """
        images = [t for t in (self.image_tokens.begin, self.image_tokens.soft, self.image_tokens.end) if t]
        for token in images:
            if token in text:
                raise ValueError(f"the text holds the image token {token}; pictures go into chat messages")
        prompt = tokenize(self.tokenizer, self.image_tokens, text)
        count = self.count(prompt, max_new_tokens)
        if not count.fits:
            raise ValueError(count.too_long(self.name))
        return prompt

    def count(self, prompt: Prompt, max_new_tokens: int) -> TokenCount:
        """What a prompt costs."""
        return TokenCount.of(prompt, max_new_tokens, self.max_tokens)


def _parts(message: Message) -> list[Mapping[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _as_the_template_wants(message: Message) -> Message:
    """A system turn as one text: the templates read no more than its first part."""
    if message["role"] != "system":
        return message
    return {"role": "system", "content": "\n".join(part["text"] for part in _parts(message))}


def refuse_control_tokens(image_tokens: ImageTokens, text: str) -> None:
    """Refuse a text of which a part would be read as a token of its own, such as the end of a turn.

    Raises:
        ValueError: it holds such a token; the first is named.
    """
    for token in image_tokens.control:
        if token in text:
            raise ValueError(f"the text holds the control token {token}; remove it")


def _check_parts(image_tokens: ImageTokens, parts: Sequence[Mapping[str, Any]], role: str) -> None:
    for part in parts:
        _check_part(image_tokens, part, role)
    for is_text, together in groupby(parts, key=lambda part: part["type"] == "text"):
        if is_text:  # templates write them without anything between
            refuse_control_tokens(image_tokens, "".join(part["text"].strip() for part in together))


def _check_part(image_tokens: ImageTokens, part: Mapping[str, Any], role: str) -> None:
    if part["type"] not in ("text", "image"):
        raise ValueError(f"a part of type {part['type']!r}, expected text or image")
    if part["type"] == "image":
        if role == "system":
            raise ValueError("the system turn holds an image; put it into a user turn")
        if not image_tokens.tokens_per_image:
            raise ValueError("a picture for a model of text alone; leave the pictures out, or ask a model that sees")
