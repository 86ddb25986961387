"""MedGemma: pictures and questions to answers. The network is transformers' Gemma3ForConditionalGeneration.

Letters: B prompts of a batch, T tokens of the longest, P pictures, H decoder width.
"""

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgemma.answers import Answer, split_thinking
from medgemma.chat import ImageTokens, Message, Prompt, render, user_message
from medsiglip.encoder import pick_device, pick_dtype
from medsiglip.imaging import Picture, open_pictures
from medsiglip.preprocess import Preprocessing
from medsiglip.weights import fingerprint, resolve_model

if TYPE_CHECKING:
    from medgemma.engine.engine import Engine

NANO_FOLDER = Path(__file__).parent / "nano"
BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")
"""How byte fallback writes one byte of a character that is no token of its own."""


@dataclass
class MedGemma:
    """A MedGemma-shaped model with its tokenizer and its pixels.

    Make one with `MedGemma.from_pretrained("nano")`, a folder, or a Hub id such as "google/medgemma-4b-it".
    """

    model: Any
    tokenizer: Any
    preprocessing: Preprocessing
    folder: Path
    name: str
    compile_mode: str | None = None

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] = "nano",
        *,
        device: str = "auto",
        dtype: str | None = None,
        policy: str | None = None,
        device_map: str | Mapping[str, int | str] | None = None,
        max_memory: Mapping[int | str, int | str] | None = None,
        compile_mode: str | None = None,
    ) -> "MedGemma":
        """Load a model.

        Args:
            model: "nano", a local folder, or a Hub id.
            device: "auto" (cuda, then mps, then cpu), or a torch device name.
            dtype: "float32" or "bfloat16"; None is float32 on a CPU and bfloat16 elsewhere.
            policy: a resize policy instead of the checkpoint's own.
            device_map: spread the model over several devices instead: "auto", "balanced", or module to device, as in
                Accelerate; see `medgemma.placement`.
            max_memory: of each device for `device_map`, as in Accelerate: {0: "20GiB", "cpu": "60GiB"}.
            compile_mode: of the engine's decode step, see `medgemma.engine.engine.Engine`.

        Raises:
            ValueError: the model cannot be found, is no Gemma 3 with a vision tower, its weights are incomplete, or it
                does not fit `max_memory`.
        """
        from transformers import AutoTokenizer, Gemma3ForConditionalGeneration

        from medgemma.checkpoint import read_checkpoint
        from medgemma.placement import spread
        from medsiglip.encoder import require_model_type

        folder = resolve_model(model, NANO_FOLDER)
        require_model_type(folder, "gemma3")
        place = pick_device(device)
        placed = {"dtype": pick_dtype(dtype, place)}
        if device_map is None:
            network = read_checkpoint(Gemma3ForConditionalGeneration, folder, **placed).to(place)
        else:
            placed["device_map"] = spread(folder, placed["dtype"], device_map, max_memory)
            network = read_checkpoint(Gemma3ForConditionalGeneration, folder, **placed)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        preprocessing = Preprocessing.from_folder(folder, policy)
        return cls(network, tokenizer, preprocessing, folder, str(model), compile_mode)

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the weights, for caches and results."""
        return fingerprint(self.folder)

    @cached_property
    def image_tokens(self) -> ImageTokens:
        """How one image stands in a prompt."""
        return ImageTokens.of(self.model.config, self.tokenizer)

    @cached_property
    def engine(self) -> "Engine":
        """What makes all text of this model."""
        from medgemma.engine.engine import Engine

        return Engine(self.model, self.preprocessing, stop_ids=self.stop_ids, compile_mode=self.compile_mode)

    @property
    def max_tokens(self) -> int:
        """Tokens that prompt and answer may have together."""
        return int(self.model.config.text_config.max_position_embeddings)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end an answer, from generation_config.json."""
        ids = self.model.generation_config.eos_token_id
        return frozenset(ids if isinstance(ids, list | tuple) else [ids])

    def ask(
        self, images: Any, questions: str | Sequence[str], *, max_new_tokens: int = 256, batch_size: int = 16
    ) -> list[Answer]:
        """Ask questions about pictures; each picture is encoded once for all of them.

        Args:
            images: one picture or several, all of which go into every prompt: `Picture`s, paths, PIL images, arrays;
                an empty list asks without pictures.
            questions: one question or several, each answered by itself.
            max_new_tokens: an answer is cut here.
            batch_size: questions decoded together.

        Returns:
            One answer a question, greedy.

        Raises:
            ImageError: a file cannot be read.
            ValueError: a prompt does not fit the model, or holds control tokens.
        """
        pictures = list(open_pictures(images))
        asked = [questions] if isinstance(questions, str) else list(questions)
        requests = [(pictures, question) for question in asked]
        return list(self.ask_each(requests, max_new_tokens=max_new_tokens, batch_size=batch_size))

    def ask_each(
        self, requests: Iterable[tuple[Any, str]], *, max_new_tokens: int = 256, batch_size: int = 16
    ) -> Iterator[Answer]:
        """Answer (images, question) requests in order, `batch_size` at a time; arguments and errors as in `ask`."""
        source = iter(requests)
        while batch := list(islice(source, batch_size)):
            prompts = [(list(open_pictures(images)), question) for images, question in batch]
            yield from self._answer_batch(prompts, max_new_tokens)

    def stream(self, messages: Sequence[Message], images: Any = (), *, max_new_tokens: int = 256) -> Iterator[str]:
        """Continue a conversation, piece by piece as it is made.

        Args:
            messages: see `medgemma.chat.render`; image parts take `images` in order.
            images: as in `ask`.
            max_new_tokens: the reply is cut here.

        Raises:
            ImageError: a file cannot be read.
            ValueError: as in `ask`, or there are more or fewer images than image parts.
        """
        from medgemma.engine import Request, Sampling

        prompt = self.prompt(messages, max_new_tokens)
        request = Request(prompt, tuple(open_pictures(images)), Sampling(max_new_tokens=max_new_tokens))
        tokens: list[int] = []
        said = ""
        for event in self.engine.stream(request):
            if event.completion is not None and event.completion.error is not None:
                raise RuntimeError(event.completion.error)
            tokens += [] if event.token_id is None else [event.token_id]
            if tokens and BYTE_TOKEN.fullmatch(self.tokenizer.convert_ids_to_tokens(tokens[-1])):
                continue  # a part of a character: how it reads depends on the bytes still to come
            text = self.tokenizer.decode(tokens, skip_special_tokens=True)
            yield text[len(said) :]
            said = text
        yield self.tokenizer.decode(tokens, skip_special_tokens=True)[len(said) :]

    def prompt(self, messages: Sequence[Message], max_new_tokens: int) -> Prompt:
        """Render messages and refuse what does not fit.

        Raises:
            ValueError: prompt and answer together are longer than the model's context; the numbers are given.
        """
        prompt = render(self.tokenizer, self.image_tokens, messages)
        if len(prompt.input_ids) + max_new_tokens > self.max_tokens:
            raise ValueError(
                f"the prompt is {len(prompt.input_ids):,} tokens ({prompt.num_images} images of "
                f"{self.image_tokens.tokens_per_image}) and asks for {max_new_tokens:,} more; {self.name} holds "
                f"{self.max_tokens:,}; shorten the question or send fewer pictures"
            )
        return prompt

    def _answer_batch(self, batch: Sequence[tuple[list[Picture], str]], max_new_tokens: int) -> Iterator[Answer]:
        from medgemma.engine import Request, Sampling

        started = time.perf_counter()
        requests = [
            Request(
                self.prompt([user_message(question, len(pictures))], max_new_tokens),
                tuple(pictures),
                Sampling(max_new_tokens=max_new_tokens),
            )
            for pictures, question in batch
        ]
        completions = self.engine.generate(requests)
        seconds = time.perf_counter() - started
        for (pictures, question), (completion,) in zip(batch, completions, strict=True):
            if completion.error is not None:
                raise RuntimeError(f"question {question[:40]!r}: {completion.error}")
            spoken = split_thinking(self.tokenizer.decode(completion.token_ids, skip_special_tokens=True))
            yield Answer(
                files=tuple(dict.fromkeys(picture.file for picture in pictures)),
                question=question,
                text=spoken.text,
                thinking=spoken.thinking,
                tokens=len(completion.token_ids),
                seconds=seconds,
                finish_reason="stop" if completion.finish_reason == "stop" else "length",
            )
