"""MedGemma: pictures and questions to answers. The network is transformers' Gemma3ForConditionalGeneration.

Letters: B prompts of a batch, T tokens of the longest, P pictures, H decoder width.
"""

import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgemma.answers import Answer
from medgemma.answers.constraints import cut_at
from medgemma.asking import AnswerOptions, Asked, Asking, Reply
from medgemma.nano import NANO_FOLDER
from medgemma.prompts.chat import ImageTokens, Message, Prompt, Prompts, refuse_control_tokens
from medgemma.prompts.content import Part, finding_lines, open_study, study_parts
from medgemma.prompts.special_tokens import read_tokenizer, stop_ids
from medsiglip.checkpoints.folders import resolve_model
from medsiglip.checkpoints.identity import fingerprint, identity
from medsiglip.imaging import open_pictures
from medsiglip.preprocess import Preprocessing
from medsiglip.remarks import Remark

if TYPE_CHECKING:
    from medgemma.engine import Engine
    from medgemma.engine.request import ChoiceScore


@dataclass
class MedGemma:
    """A MedGemma-shaped model with its tokenizer and its pixels.

    Make one with `MedGemma.from_pretrained("nano")`, a folder, or a Hub id such as "google/medgemma-4b-it".
    """

    model: Any
    tokenizer: Any
    preprocessing: Preprocessing | None
    """None for a checkpoint of text alone."""
    folder: Path
    name: str
    compile_mode: str | None = None
    quantize: str | None = None
    adapter: Path | None = None
    """A LoRA adapter that answers wherever no other is named."""
    policy: str | None = None
    """The resize policy that was asked for instead of the checkpoint's own."""
    weights: str | None = None
    """Names the weights where they are no longer the folder's, as in training."""

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
        quantize: str | None = None,
        adapter: str | os.PathLike[str] | None = None,
    ) -> "MedGemma":
        """Load a model.

        Args:
            model: "nano", a local folder, or a Hub id.
            device: "auto" (cuda, then mps, then cpu), or a torch device name.
            dtype: "float32" or "bfloat16"; None is float32 on a CPU, bfloat16 elsewhere, with `quantize`, and where
                bfloat16 weights would not fit a CPU's memory in float32. "float16" is for cards without bfloat16.
            policy: a resize policy instead of the checkpoint's own.
            device_map: spread the model over several devices instead: "auto", "balanced", or module to device, as in
                Accelerate; see `medgemma.checkpoints.placement`.
            max_memory: of each device for `device_map`, as in Accelerate: {0: "20GiB", "cpu": "60GiB"}.
            compile_mode: of the engine's decode step, see `medgemma.engine.engine.Engine`.
            quantize: "int8", or with CUDA "nf4": fewer bits for the decoder's linear layers, see
                `medgemma.checkpoints.quantize`.
            adapter: the folder of a LoRA adapter that answers wherever `AnswerOptions` names no other.

        Raises:
            ValueError: the model cannot be found, is no Gemma 3, its weights or tokenizer are incomplete, it does not
                fit `max_memory`, it cannot be quantised on this machine, or as `load_adapter`.

        Warns:
            Remark: the weights stay in bfloat16 for want of memory, or there is no chat template.
        """
        from medgemma.checkpoints.loading import load_network

        folder = resolve_model(model, NANO_FOLDER)
        network = load_network(
            folder, device=device, dtype=dtype, device_map=device_map, max_memory=max_memory, quantize=quantize
        )
        tokenizer = read_tokenizer(folder)
        if not tokenizer.chat_template:
            text = f"model {model}: no chat template; questions are put in the plain form of pre-trained checkpoints"
            warnings.warn(f"{text}; a tuned one needs its chat_template.jinja", Remark, stacklevel=2)
        sees = hasattr(network.config, "vision_config")
        preprocessing = Preprocessing.from_folder(folder, policy) if sees else None
        gemma = cls(network, tokenizer, preprocessing, folder, str(model), compile_mode, quantize, policy=policy)
        if adapter is not None:
            gemma.load_adapter(adapter)
            gemma.adapter = Path(adapter)
        return gemma

    @cached_property
    def fingerprint(self) -> str:
        """Of the weights, for results: those of the base, how they are held, the adapter's; or `weights`."""
        if self.weights is not None:
            return self.weights
        parts = [fingerprint(self.folder), self.quantize, self.adapter and fingerprint(self.adapter)]
        return "-".join(part for part in parts if part)

    @cached_property
    def identity(self) -> str:
        """What answers depend on, for caches and resumes; see `medsiglip.checkpoints.identity`."""
        weights = "-".join(part for part in (self.fingerprint, self.policy) if part)
        return identity(weights, *[folder for folder in (self.folder, self.adapter) if folder])

    @property
    def adapter_name(self) -> str | None:
        """What the adapter that answers by default is called."""
        return _name_of(self.adapter) if self.adapter else None

    @cached_property
    def image_tokens(self) -> ImageTokens:
        """How one image stands in a prompt."""
        return ImageTokens.of(self.model.config, self.tokenizer, self.stop_ids)

    @cached_property
    def engine(self) -> "Engine":
        """What makes all text of this model."""
        from medgemma.engine import Engine

        return Engine(self.model, self.preprocessing, stop_ids=self.stop_ids, compile_mode=self.compile_mode)

    def load_adapter(self, folder: str | os.PathLike[str], name: str | None = None) -> str:
        """Load a LoRA adapter beside the weights; `AnswerOptions.adapter` asks for it.

        Args:
            folder: as PEFT's save_pretrained writes it.
            name: the folder's without it.

        Returns:
            The name.

        Raises:
            ValueError: the adapter is for another base, incomplete, of an unknown kind, trained with tokens that the
                base has not, or its name is taken.
        """
        from medgemma.checkpoints.adapters.checks import refuse_added_tokens
        from medgemma.checkpoints.adapters.trained_on import refuse_other_base

        name = name or _name_of(Path(folder))
        refuse_added_tokens(Path(folder), self.folder)
        refuse_other_base(Path(folder), self.folder)
        self.engine.load_adapter(name, Path(folder))
        return name

    @property
    def max_tokens(self) -> int:
        """Tokens that prompt and answer may have together."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        return stop_ids(self.tokenizer, self.model.generation_config, self.model.config)

    @cached_property
    def asking(self) -> Asking:
        """How this model is asked: prompts, forms of answers (`asking.grammars`), replies."""
        prompts = Prompts(self.tokenizer, self.image_tokens, self.max_tokens, self.name)
        width = int(self.model.config.get_text_config().vocab_size)
        return Asking(prompts, width, self.stop_ids, self.adapter_name)

    def ask(
        self,
        images: Any,
        questions: str | Sequence[str],
        *,
        max_new_tokens: int = 256,
        batch_size: int = 16,
        options: AnswerOptions | None = None,
    ) -> list[Answer]:
        """Ask questions about pictures; each picture is encoded once for all of them.

        Args:
            images: one picture or several, all of which go into every prompt: `Picture`s, `Volume`s, paths, PIL images,
                arrays; an empty list asks without pictures. CT and MR slices and NIfTI become volumes, see
                `medgemma.prompts.content`.
            questions: one question or several, each answered by itself.
            max_new_tokens: an answer is cut here.
            batch_size: questions put together.
            options: sampling, thinking, form, system turn; None is greedy and free.

        Returns:
            The answers in order, one a question, or `options.sampling.num_samples` of each.

        Raises:
            ImageError: a file cannot be read.
            ValueError: a prompt does not fit the model or holds control tokens, or as `Asking.asked`.
        """
        options = options or AnswerOptions()
        parts = _parts(images, options)
        asked = [questions] if isinstance(questions, str) else list(questions)
        return self.ask_parts([(parts, q) for q in asked], max_new_tokens, batch_size, options)

    def ask_each(
        self,
        requests: Iterable[tuple[Any, str]],
        *,
        max_new_tokens: int = 256,
        batch_size: int = 16,
        options: AnswerOptions | None = None,
    ) -> Iterator[Answer]:
        """Answer (images, question) requests in order, `batch_size` at a time; arguments and errors as in `ask`."""
        options = options or AnswerOptions()
        source = iter(requests)
        while batch := list(islice(source, batch_size)):
            about = [(_parts(images, options), question) for images, question in batch]
            yield from self.ask_parts(about, max_new_tokens, batch_size, options)

    def ask_parts(
        self,
        requests: Sequence[tuple[Sequence[Part], str]],
        max_new_tokens: int,
        batch_size: int,
        options: AnswerOptions,
    ) -> list[Answer]:
        """Answer (parts, question) requests, the parts as `medgemma.prompts.content` makes them; see `ask`."""
        asked = [self.asking.question(parts, question, options, max_new_tokens) for parts, question in requests]
        answers: list[Answer] = []
        for start in range(0, len(asked), batch_size):
            started = time.perf_counter()
            batch = asked[start : start + batch_size]
            completions = self.engine.generate([one.request for one in batch])
            seconds = time.perf_counter() - started
            for one, (_, question), samples in zip(batch, requests[start:], completions, strict=False):
                replies = [self.asking.reply(one, completion) for completion in samples]
                answers += [self._answer(one, question, r, seconds, number) for number, r in enumerate(replies)]
        return answers

    def score(
        self, images: Any, question: str, choices: Sequence[str], *, options: AnswerOptions | None = None
    ) -> "list[ChoiceScore]":
        """How likely the model finds each choice as the beginning of its answer; all in one pass.

        Args:
            images: as in `ask`.
            question: one question.
            choices: texts, none empty.
            options: as in `ask`; sampling, form and stops play no part.

        Returns:
            One score a choice: natural log-probability of its tokens. A choice that another one begins with is never
            less likely than that; give choices that end differently, or their full wording.

        Raises:
            ValueError: as in `ask`, or an empty choice.
        """
        options = options or AnswerOptions()
        parts = _parts(images, options)
        return self.score_parts(parts, question, choices, options)

    def score_parts(
        self, parts: Sequence[Part], question: str, choices: Sequence[str], options: AnswerOptions
    ) -> "list[ChoiceScore]":
        """`score` of parts as `medgemma.prompts.content` makes them."""
        for choice in choices:
            refuse_control_tokens(self.image_tokens, choice)
        ids = [self.tokenizer(choice, add_special_tokens=False).input_ids for choice in choices]
        asked = self.asking.question(parts, question, options, max(map(len, ids), default=1) or 1)
        [scores] = self.engine.score_choices([(asked.request, ids)])
        return scores

    def stream(
        self,
        messages: Sequence[Message],
        images: Any = (),
        *,
        max_new_tokens: int = 256,
        options: AnswerOptions | None = None,
    ) -> Iterator[str]:
        """Continue a conversation, piece by piece as it is made; reasoning is left out, whole or cut.

        Args:
            messages: see `medgemma.prompts.chat.render`; image parts take `images` in order.
            images: pictures, as for `medsiglip.imaging.open_pictures`.
            max_new_tokens: the reply is cut here.
            options: as in `ask`; the system turn, volumes and crops are the messages' own.

        Raises:
            ImageError: a file cannot be read.
            ValueError: as in `ask`, or there are more or fewer images than image parts.
        """
        asked = self._continuation(messages, images, max_new_tokens, options)
        speech = self.asking.speech()
        waiting = ""  # the end of what was said may be the beginning of a stop text
        kept = max(map(len, asked.stops), default=1) - 1
        for event in self.engine.stream(replace(asked.request, continues=True)):
            if event.completion is not None and event.completion.error is not None:
                raise ValueError(event.completion.error)
            waiting += "" if event.token_id is None else speech.add(event.token_id)
            if any(stop in waiting for stop in asked.stops):
                break
            ready = max(0, len(waiting) - kept)
            said, waiting = waiting[:ready], waiting[ready:]
            if said:
                yield said
        yield cut_at(waiting + speech.end(), asked.stops)

    def reply(
        self,
        messages: Sequence[Message],
        images: Any = (),
        *,
        max_new_tokens: int = 256,
        options: AnswerOptions | None = None,
    ) -> Reply:
        """Continue a conversation, whole, with its reasoning beside it; arguments and errors as in `stream`."""
        asked = self._continuation(messages, images, max_new_tokens, options)
        ((completion, *_),) = self.engine.generate([asked.request])
        return self.asking.reply(asked, completion)

    def prompt(self, messages: Sequence[Message], max_new_tokens: int) -> Prompt:
        """Render messages and refuse what does not fit; see `medgemma.prompts.chat.Prompts.prompt`."""
        return self.asking.prompts.prompt(messages, max_new_tokens)

    def _continuation(
        self, messages: Sequence[Message], images: Any, max_new_tokens: int, options: AnswerOptions | None
    ) -> Asked:
        options = options or AnswerOptions()
        return self.asking.asked(
            messages,
            list(open_pictures(images)),
            replace(options.sampling, max_new_tokens=max_new_tokens, num_samples=1),
            form=options.form,
            thinking=options.thinking,
            stops=options.stops,
            adapter=options.adapter,
        )

    def _answer(self, asked: Asked, question: str, reply: Reply, seconds: float, sample: int) -> Answer:
        pictures = asked.request.pictures
        return Answer(
            files=tuple(dict.fromkeys(picture.file for picture in pictures)),
            question=question,
            text=reply.text,
            thinking=reply.thinking,
            tokens=reply.tokens,
            seconds=seconds,
            finish_reason=reply.finish_reason,
            policies=tuple(dict.fromkeys(picture.policy for picture in pictures)),
            resize=self.preprocessing.policy if self.preprocessing is not None and pictures else "",
            sample=sample,
            logprob=reply.logprob,
            findings=tuple(finding_lines(pictures)),
        )


def _parts(images: Any, options: AnswerOptions) -> list[Part]:
    return study_parts(open_study(images, select=options.view.select), options.view)


def _name_of(adapter: Path) -> str:
    return adapter.resolve().name
