"""Samples of a policy: from the engine, on the weights in training, or from a server (`finetune.on_policy.served`)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from finetune.on_policy.models import Frozen
from finetune.on_policy.rollouts import PromptRow, Rollout
from medgemma import MedGemma
from medgemma.engine import Request, Sampling
from medsiglip.imaging import Picture


class LostSampler(RuntimeError):
    """A sampler gave no sample: the run stops, with a checkpoint, and goes on when it is there again."""


class Sampler(Protocol):
    """Who says what the policy says."""

    is_exact: bool
    """What it samples from is the policy to rounding; else losses are corrected by what its log-probabilities say."""

    def weights_changed(self, version: str) -> None:
        """The policy has been updated; what is sampled from now on is of this version."""

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
    """

    is_exact = True

    def __init__(self, gemma: MedGemma, pictures: Sequence[Picture] = ()) -> None:
        self.gemma, self.pictures = gemma, pictures
        self.version = ""

    def weights_changed(self, version: str) -> None:
        """See `Sampler`."""
        self.gemma.engine.weights_changed()
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
        with self._as(of) as version:
            completions = self.gemma.engine.generate(requests)
        rollouts = []
        for group, (row, samples) in enumerate(zip(rows, completions, strict=True)):
            for sample in samples:
                if sample.error is not None:
                    raise LostSampler(f"{row.place or f'prompt {group}'}: not sampled: {sample.error}")
                rollouts.append(
                    Rollout(
                        row.prompt.input_ids,
                        sample.token_ids,
                        row.pictures,
                        row.place,
                        group,
                        sample.finish_reason == "stop",
                        sample.logprobs,
                        sample.logprobs,
                        version,
                        self._text(sample.token_ids),
                    )
                )
        return rollouts

    @contextmanager
    def _as(self, of: Frozen | None) -> Iterator[str]:
        """The engine over another model than the policy, in eval mode."""
        model = self.gemma.model
        was_training = model.training
        model.eval()
        try:
            if of is None:
                yield self.version
            else:
                self.gemma.engine.weights_changed()
                with of.running():
                    yield of.name
                self.gemma.engine.weights_changed()
        finally:
            model.train(was_training)

    def _text(self, token_ids: Sequence[int]) -> str:
        said = token_ids[:-1] if token_ids and token_ids[-1] in self.gemma.stop_ids else token_ids
        return str(self.gemma.tokenizer.decode(said, skip_special_tokens=True))
