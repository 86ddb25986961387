"""The proxies of a checkpoint, each from what its run has left; what cannot be computed is said, never guessed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args

from data_cards.table import Table
from experience.unrewarded import read_unrewarded
from finetune.choosing.decoders import Decoders, of_dialogues, of_table
from finetune.choosing.runs import Checkpoint, Run
from finetune.selection.action_error import Act, action_error
from finetune.selection.demonstrations import Demonstrations, demand_same_space, read_demonstrations
from finetune.selection.dialogues import Dialogues, Embed, embedded, read_dialogues
from finetune.selection.holding_out import hold_out
from finetune.selection.imitation_return import Pwil, imitation_return, longest, pwil_of
from finetune.selection.scores import Score
from finetune.selection.state_distance import state_distance
from finetune.selection.support import Support, fit_support, support_score

Proxy = Literal["action_error", "token_nll", "state_distance", "support", "imitation_return"]
PROXIES: tuple[Proxy, ...] = get_args(Proxy)
HELD_OUT: tuple[Proxy, ...] = ("action_error", "token_nll", "state_distance")
"""Those that ask of demonstrations that a run has not learned from."""
LARGER_IS_BETTER: tuple[Proxy, ...] = ("support", "imitation_return")


def proxies_named(names: Sequence[str]) -> tuple[Proxy, ...]:
    """Proxies by their names, each once, in the order given.

    Raises:
        ValueError: There is no such proxy.
    """
    for name in names:
        if name not in PROXIES:
            raise ValueError(f"--proxy {name}: unknown; choose of {', '.join(PROXIES)}")
    return tuple(dict.fromkeys(proxy for name in names for proxy in PROXIES if proxy == name))


@dataclass(frozen=True)
class Judging:
    """How demonstrations judge."""

    data: Path | Table
    """A data set of episodes, whose rewards are not read; or a table of questions and right answers."""
    share: float = 0.25
    """Of the groups of the data set, which no run has learned from; 1: of all."""
    seed: int = 0
    """Of that division, see `finetune.selection.holding_out.hold_out`."""
    group: str | None = None
    """The metadata field of episodes that are not independent, of demonstrations and of rollouts."""
    embed_with: str = "nano"
    """The decoder whose states are those of conversations; encoder:NAME is an encoder."""
    device: str = "auto"
    max_tokens: int = 8192
    """Of a conversation; longer ones are left out."""

    def divided_as(self, run: Run) -> "Judging":
        """The same, divided as a run says that it has divided them."""
        return replace(self, **run.division._asdict()) if run.division else self

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"--held-out {self.share:g}: expected above 0, and 1 at most")


class Judge:
    """Demonstrations, and what is made of them once for all runs."""

    def __init__(self, asked: Judging) -> None:
        """Read and divide the demonstrations.

        Raises:
            ValueError: There is no data set, it holds no action, or no row of the table is held out.
        """
        self.asked, self.one_group = asked, ""
        self.kept: Demonstrations | Dialogues | None = None
        """What may be learned from; None of a table."""
        self.held_out: Demonstrations | Dialogues | None = None
        replies = of_table(asked.data) if isinstance(asked.data, Table) else None
        if not isinstance(asked.data, Table):
            self._divide(asked.data)
            replies = of_dialogues(self.held_out) if isinstance(self.held_out, Dialogues) else None
        self._decoders = Decoders(replies, asked.device, asked.max_tokens) if replies else None

    def demand_kind(self, proxy: Proxy) -> None:
        """Refuse a proxy of numbers where texts are demonstrated, and one of texts where numbers are.

        Raises:
            ValueError: What it is of, and which to take.
        """
        if proxy == "token_nll" and self._decoders is None:
            raise ValueError("is of texts, and the demonstrations' actions are numbers; take action_error")
        if proxy == "action_error" and self._decoders is not None:
            raise ValueError("is of actions that are numbers, and the demonstrations are texts; take token_nll")

    def score(self, proxy: Proxy, run: Run, checkpoint: Checkpoint) -> Score:
        """Compute a proxy of a checkpoint.

        Raises:
            ValueError: The run lacks what the proxy needs, is of another space, or gives no number; what and why.
            OSError: A file of it cannot be read.
        """
        score = self._score(proxy, run, checkpoint)
        if not isfinite(score.value):
            raise ValueError(f"is {score.value}: what this checkpoint gives is not finite")
        return score

    def _score(self, proxy: Proxy, run: Run, checkpoint: Checkpoint) -> Score:
        self.demand_kind(proxy)
        if proxy in HELD_OUT and not isinstance(self.asked.data, Table):
            if self.one_group:
                raise ValueError(self.one_group)
            _demand_same_division(run, self.asked)
        if proxy == "action_error":
            assert isinstance(self.held_out, Demonstrations)
            return action_error(_act(checkpoint), self.held_out)
        if self._decoders is not None and proxy == "token_nll":
            return self._decoders.token_nll(checkpoint)
        rollouts = self._rollouts(checkpoint)
        demand_same_space(self._kept_states, rollouts, str(checkpoint.rollouts))
        if proxy == "state_distance":
            return state_distance(rollouts, self._held_out_states)
        return support_score(self._support, rollouts) if proxy == "support" else imitation_return(self._pwil, rollouts)

    def _divide(self, data: Path) -> None:
        first = next(read_unrewarded(data, self.asked.group), None)
        seen = first.observations[0] if first else None
        talks = isinstance(seen, dict) and "messages" in seen
        share, seed, group = self.asked.share, self.asked.seed, self.asked.group
        found = read_dialogues(data, group) if talks else read_demonstrations(data, group)
        self.kept = self.held_out = found
        try:
            if share < 1:
                self.kept, self.held_out = hold_out(found, share, seed)
        except ValueError as fault:
            self.one_group = str(fault)

    def _rollouts(self, checkpoint: Checkpoint) -> Demonstrations:
        if self.kept is None:
            raise ValueError("needs demonstrated episodes, and a table holds none; take token_nll")
        if checkpoint.rollouts is None:
            raise ValueError("has no episodes of its own (rollouts/STEP); record some")
        read = read_dialogues if isinstance(self.kept, Dialogues) else read_demonstrations
        return self._states(read(checkpoint.rollouts, self.asked.group))

    def _states(self, found: Demonstrations | Dialogues | None) -> Demonstrations:
        assert found is not None
        return embedded(found, self._embed) if isinstance(found, Dialogues) else found

    @cached_property
    def _kept_states(self) -> Demonstrations:
        return self._states(self.kept)

    @cached_property
    def _held_out_states(self) -> Demonstrations:
        return self._states(self.held_out)

    @cached_property
    def _support(self) -> Support:
        return fit_support(self._kept_states, self.asked.seed)

    @cached_property
    def _pwil(self) -> Pwil:
        return pwil_of(self._kept_states, longest(self._kept_states))

    @cached_property
    def _embed(self) -> Embed:
        from finetune.selection.embedding import decoder_embedding, encoder_embedding
        from medgemma import MedGemma
        from medsiglip.encoder import MedSigLIP

        name, device = self.asked.embed_with, self.asked.device
        if name.startswith("encoder:"):
            return encoder_embedding(MedSigLIP.from_pretrained(name.removeprefix("encoder:"), device=device))
        return decoder_embedding(MedGemma.from_pretrained(name, device=device), self.asked.max_tokens)


def _act(checkpoint: Checkpoint) -> Act:
    import torch

    from finetune.imitation.policy import load_policy

    if checkpoint.kind != "policy":
        raise ValueError("has no policy over numbers (checkpoints/STEP/policy.safetensors); of decoders take token_nll")
    policy = load_policy(checkpoint.path)

    def act(states: Any) -> Any:
        if states.shape[1] != len(policy.observation_mean):
            expected = f"the demonstrations have {states.shape[1]}: they are of another space"
            raise ValueError(f"{checkpoint.path}: takes states of {len(policy.observation_mean)} numbers, {expected}")
        with torch.inference_mode():
            return policy(torch.from_numpy(states)).numpy()

    return act


def _demand_same_division(run: Run, asked: Judging) -> None:
    """Refuse a run that says to have held out others: it would be judged by what it has learned."""
    told = run.division
    if told is None or asked.share == 1 or told == (asked.share, asked.seed, asked.group):
        return
    again = f"--held-out {told.share} --seed {told.seed}{f' --group {told.group}' if told.group else ''}"
    raise ValueError(
        f"was trained with other demonstrations held out; choose among runs of its division by {again}, "
        "or by data that no run has seen (--held-out 1)"
    )
