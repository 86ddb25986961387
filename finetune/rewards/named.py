"""A reward by the name that a command or a recipe is given."""

from importlib import import_module

from evals.environments.trl import metric_reward
from finetune.on_policy.rewards import RewardFunction
from finetune.rewards.texts import agreement, word_overlap

OWN: dict[str, RewardFunction] = {"agreement": agreement, "word-overlap": word_overlap}


def reward_named(name: str) -> RewardFunction:
    """One of `OWN`, "metric:NAME" for a metric of texts (evals.stress.metrics), or "package.module:function" of yours.

    Raises:
        ValueError: there is no such reward, or the metric prefers a flipped negation to a paraphrase.
    """
    if name in OWN:
        return OWN[name]
    module, colon, function = name.partition(":")
    if module == "metric":
        return metric_reward(function)
    if not colon:
        raise ValueError(f"reward {name!r} is unknown; choose {' or '.join(OWN)}, or give your own as module:function")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError) as fault:
        raise ValueError(
            f"reward {name!r}: {fault}; give module:function of a module that Python finds (PYTHONPATH=. for one here)"
        ) from fault
    if not callable(found):
        raise ValueError(f"reward {name!r}: {function} cannot be called; give f(prompts, completions, **columns)")
    reward: RewardFunction = found
    return reward
