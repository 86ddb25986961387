"""Messages to token ids, image slots and masks, in Gemma 3's chat form.

Letters: T tokens of a prompt, I tokens of one image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]
"""{"role": "system" | "user" | "assistant", "content": text or a list of {"type": "text" | "image", ...} parts}."""


@dataclass(frozen=True)
class Prompt:
    """A prompt ready for the decoder."""

    input_ids: tuple[int, ...]
    token_type_ids: tuple[int, ...]
    """1 on image tokens, 0 elsewhere. Without them transformers silently makes images causal."""
    num_images: int


@dataclass(frozen=True)
class ImageTokens:
    """The ids that stand for one image; they come from the checkpoint, never from constants."""

    begin: str
    soft: str
    end: str
    soft_id: int
    tokens_per_image: int

    @classmethod
    def of(cls, config: Any, tokenizer: Any) -> "ImageTokens":
        """Read them from a Gemma 3 config and its tokenizer."""
        begin, soft, end = tokenizer.convert_ids_to_tokens(
            [config.boi_token_index, config.image_token_id, config.eoi_token_index]
        )
        return cls(begin, soft, end, config.image_token_id, config.mm_tokens_per_image)

    def expanded(self) -> str:
        """One image as the processor writes it: two newlines on either side of begin, I soft tokens, end."""
        return f"\n\n{self.begin}{self.soft * self.tokens_per_image}{self.end}\n\n"


def user_message(question: str, num_images: int) -> Message:
    """One user turn: the images first, then the question."""
    return {
        "role": "user",
        "content": [*[{"type": "image"}] * num_images, {"type": "text", "text": question}],
    }


def render(tokenizer: Any, image_tokens: ImageTokens, messages: Sequence[Message]) -> Prompt:
    """Apply the checkpoint's chat template and expand every image.

    The template writes the one bos token, so tokenising adds none.

    Args:
        tokenizer: the checkpoint's tokenizer, with its chat template.
        image_tokens: see `ImageTokens`.
        messages: alternating user and assistant turns, optionally after one system turn.

    Raises:
        ValueError: a text holds one of the tokenizer's control tokens, or the turns do not alternate.
    """
    for message in messages:
        _refuse_control_tokens(tokenizer, message)
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    except Exception as error:  # jinja2 raises its own TemplateError, whose text is the template's message
        raise ValueError(f"the chat template refuses these messages: {error}") from error
    return tokenize(tokenizer, image_tokens, text)


def tokenize(tokenizer: Any, image_tokens: ImageTokens, text: str) -> Prompt:
    """Tokenise templated text whose images are single begin-of-image tokens."""
    expanded = text.replace(image_tokens.begin, image_tokens.expanded())
    ids = tuple(tokenizer(expanded, add_special_tokens=False).input_ids)
    return Prompt(ids, tuple(int(i == image_tokens.soft_id) for i in ids), text.count(image_tokens.begin))


def _refuse_control_tokens(tokenizer: Any, message: Message) -> None:
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for part in parts:
        for token in tokenizer.all_special_tokens if part["type"] == "text" else ():
            if token in part["text"]:
                raise ValueError(f"the text holds the control token {token}; remove it")
