"""A reward by the name that a command or a recipe is given."""

from importlib import import_module

from evals.environments.trl import metric_reward
from finetune.on_policy.rewards import RewardFunction
from finetune.rewards.entailment import entailment_reward
from finetune.rewards.texts import agreement, word_overlap
from medgemma.entailment.named import scorer_named

OWN: dict[str, RewardFunction] = {"agreement": agreement, "word-overlap": word_overlap}


def reward_named(name: str) -> RewardFunction:
    """One of `OWN`, or one that is named by its kind.

    "metric:NAME" is a metric of texts (evals.stress.metrics), "entailment:NAME" a scorer (medgemma.entailment.named) of
    what the column `premise` supports, "package.module:function" yours.

    Raises:
        ValueError: there is no such reward, the metric prefers a flipped negation to a paraphrase, or the scorer's
            model is not there, or no better than its control.
    """
    if name in OWN:
        return OWN[name]
    module, colon, function = name.partition(":")
    if module == "metric":
        return metric_reward(function)
    if module == "entailment" and colon:
        return entailment_reward(scorer_named(function, as_reward=True), name=name)
    if not colon:
        raise ValueError(
            f"reward {name!r} is unknown; choose {' or '.join(OWN)}, metric:NAME, entailment:NAME, or give your "
            "own as module:function"
        )
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
