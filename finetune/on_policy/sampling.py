"""Samples of a policy: from the engine, on the weights in training, or from a server (`finetune.on_policy.served`)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import torch

from finetune.live import live
from finetune.on_policy.models import Frozen
from finetune.on_policy.rollouts import PromptRow, Rollout
from medgemma import MedGemma
from medgemma.engine import Completion, Request, Sampling
from medsiglip.imaging import Picture


class LostSampler(RuntimeError):
    """A sampler gave no sample: the run stops, with a checkpoint, and goes on when it is there again."""


class Sampler(Protocol):
    """Who says what the policy says."""

    is_exact: bool
    """What it samples from is the policy to rounding; else losses are corrected by what its log-probabilities say."""

    def weights_changed(self, version: str) -> None:
        """The policy has been updated; what is sampled from now on is of this version.

        Raises:
            LostSampler: it cannot be told.
        """

    def sample(
        self,
        rows: Sequence[PromptRow],
        seeds: Sequence[int],
        num_samples: int,
        sampling: Sampling,
        *,
        of: Frozen | None = None,
    ) -> list[Rollout]:
        """So many samples of each prompt, group by group; `Rollout.group` counts `rows`.

        Args:
            rows: prompts.
            seeds: of each prompt's stream.
            num_samples: of each.
            sampling: how; its seed and number are not looked at.
            of: another model than the policy.

        Raises:
            LostSampler: a prompt has no answer; it is named.
        """


class EngineSampler:
    """Samples from the engine, over the weights in training.

    Args:
        gemma: whose network is trained, with its tokenizer.
        pictures: by number.
        max_rows: samples that decode together; larger groups take turns.
    """

    is_exact = True

    def __init__(self, gemma: MedGemma, pictures: Sequence[Picture] = (), *, max_rows: int | None = None) -> None:
        self.gemma, self.pictures = live(gemma), pictures
        self.version = ""
        if max_rows is not None:
            self.gemma.engine.rows.max_rows = max_rows

    def weights_changed(self, version: str) -> None:
        """See `Sampler`."""
        self.gemma.engine.weights_changed(sight=self._sight_is_trained())
        self.version = version

    def sample(
        self,
        rows: Sequence[PromptRow],
        seeds: Sequence[int],
        num_samples: int,
        sampling: Sampling,
        *,
        of: Frozen | None = None,
    ) -> list[Rollout]:
        """See `Sampler`."""
        requests = [
            Request(
                row.prompt,
                tuple(self.pictures[number] for number in row.pictures),
                replace(sampling, num_samples=num_samples, seed=seed),
            )
            for row, seed in zip(rows, seeds, strict=True)
        ]
        with self._weights_of(of) as version:
            self._see(requests)
            answers = self.gemma.engine.generate(requests)
        return [
            self._rollout(group, row, completion, version)
            for group, (row, samples) in enumerate(zip(rows, answers, strict=True))
            for completion in samples
        ]

    def _rollout(self, group: int, row: PromptRow, completion: Completion, version: str) -> Rollout:
        if completion.error is not None:
            raise LostSampler(f"{row.place or f'prompt {group}'}: no sample: {completion.error}")
        ids = completion.token_ids
        ended = completion.finish_reason == "stop"
        return Rollout(
            prompt_ids=row.prompt.input_ids,
            completion_ids=ids,
            pictures=row.pictures,
            place=row.place,
            group=group,
            ended=ended,
            logprobs=completion.tempered_logprobs,
            sampled_logprobs=completion.sampled_logprobs,
            policy_version=version,
            text=str(self.gemma.tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True)),
        )

    @contextmanager
    def _weights_of(self, of: Frozen | None) -> Iterator[str]:
        """The engine over the policy or another model, in eval mode."""
        model, engine = self.gemma.model, self.gemma.engine
        was_training = model.training
        model.eval()
        try:
            if of is None:
                yield self.version
            elif of.network.model is not model:
                raise ValueError(f"{of.name}: samples come from models on the policy's own network only")
            else:
                with of.running(), engine.other_weights(of.name, sight=self._sight_is_trained()):
                    yield of.name
        finally:
            model.train(was_training)

    def _see(self, requests: Sequence[Request]) -> None:
        """Each picture alone through the tower: its bits must not depend on which others a step draws with it."""
        features, sight = self.gemma.engine.features, self.gemma.engine.weights.sight(None)
        if features is not None:
            with torch.inference_mode():
                for picture in [picture for request in requests for picture in request.pictures]:
                    features.of([picture], sight)

    def _sight_is_trained(self) -> bool:
        seen = self.gemma.model.model
        if self.gemma.engine.features is None:
            return False
        modules = (seen.vision_tower, seen.multi_modal_projector)
        return any(parameter.requires_grad for module in modules for parameter in module.parameters())
