"""A proxy as the metric of a sweep: the trials' checkpoints are judged while they train."""

import threading
from pathlib import Path

from finetune.choosing.judging import LARGER_IS_BETTER, Judge, Judging, Proxy, proxies_named
from finetune.choosing.runs import read_run
from finetune.configuration import Section
from finetune.recipes import clone
from finetune.sweeps.space import Space
from finetune.sweeps.sweep import Sweep
from finetune.tables.aligning import AlignConfig
from finetune.tables.learning import AnswersConfig


class ProxySweep(Sweep):
    """A sweep whose trials are judged by demonstrations instead of the recipe's own evaluations."""

    proxy: Proxy
    demonstrations: str
    held_out: float | None
    """Share of their groups; None: as the recipe divides them."""


def demand_judgeable(recipe: str, config: type[Section], proxy: str, held_out: float | None) -> None:
    """Refuse, before anything is trained, what no run of a recipe could be judged by.

    Args:
        recipe: its name.
        config: its configuration.
        proxy: a name.
        held_out: see `proxy_sweep`.

    Raises:
        ValueError: The proxy is unknown, or needs what runs of the recipe do not leave, or others are held out than the
            recipe holds out; what is possible is said.
    """
    (name,) = proxies_named([proxy])
    if not issubclass(config, clone.Config | AnswersConfig | AlignConfig):
        raise ValueError(f"--proxy {name}: a run of {recipe} leaves no MedGemma to judge; sweep it without --proxy")
    if name != "token_nll":
        lacks = "no policy over numbers" if name == "action_error" else "no episodes of its own"
        raise ValueError(f"--proxy {name}: a run of {recipe} leaves {lacks}; give --proxy token_nll")
    if "held_out_share" in config.model_fields and held_out is not None and held_out < 1:
        raise ValueError(
            f"--held-out {held_out:g}: a run of {recipe} holds out its own; give --set held_out_share={held_out:g}"
        )


def proxy_sweep(
    recipe: str, arguments: tuple[str, ...], space: Space, proxy: str, demonstrations: Path, held_out: float | None
) -> "tuple[ProxySweep, ProxyValues]":
    """What a sweep by a proxy is, and its metric.

    Args:
        recipe: what is run.
        arguments: of `medgemma-finetune run`, for every trial.
        space: what is varied; whether larger is better the proxy says.
        proxy: its name.
        demonstrations: a data set of episodes.
        held_out: share of their groups that no trial learns; None: as each trial says.

    Raises:
        ValueError: There is no such proxy, or the demonstrations cannot be read or are not of its kind.
    """
    (name,) = proxies_named([proxy])
    judging = Judging(demonstrations, 0.25 if held_out is None else held_out)
    try:
        Judge(judging).demand_kind(name)  # what judges no trial would be found after the first has been trained
    except ValueError as fault:
        raise ValueError(f"--proxy {name}: {fault}") from fault
    directed = space.model_copy(update={"larger_is_better": name in LARGER_IS_BETTER})
    asked = ProxySweep(
        recipe=recipe,
        arguments=arguments,
        space=directed,
        proxy=name,
        demonstrations=str(demonstrations),
        held_out=held_out,
    )
    return asked, ProxyValues(name, judging, divide_as_run=held_out is None)


class ProxyValues:
    """`finetune.sweeps.sweep.Values` by a proxy; each checkpoint is judged once."""

    def __init__(self, proxy: Proxy, asked: Judging, divide_as_run: bool) -> None:
        """Judge by a proxy.

        Args:
            proxy: its name.
            asked: the demonstrations.
            divide_as_run: divide them as each run says that it has divided them.
        """
        self.proxy, self.asked, self.divide_as_run = proxy, asked, divide_as_run
        self._judges: dict[Judging, Judge] = {}
        self._known: dict[tuple[Path, int], float] = {}
        self._lock = threading.Lock()

    def __call__(self, folder: Path) -> list[float]:
        """The proxy of each checkpoint so far.

        Raises:
            ValueError: There is none yet, or it cannot be judged.
        """
        run = read_run(folder)
        asked = self.asked.divided_as(run) if self.divide_as_run else self.asked
        with self._lock:
            judge = self._judges.get(asked) or self._judges.setdefault(asked, Judge(asked))
            for checkpoint in run.checkpoints:
                if (folder, checkpoint.step) not in self._known:
                    try:
                        score = judge.score(self.proxy, run, checkpoint)
                    except OSError as fault:  # it is being written
                        raise ValueError(f"{checkpoint.path}: cannot be read ({fault})") from fault
                    self._known[folder, checkpoint.step] = score.value
            return [self._known[folder, checkpoint.step] for checkpoint in run.checkpoints]
