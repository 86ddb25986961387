"""A scorer of entailment by the name that a command, an evaluation or a recipe is given."""

from pathlib import Path

from medgemma.entailment.card import demand_beats_control
from medgemma.entailment.guarding import cached, guarded, in_english
from medgemma.entailment.rules import rule_nli
from medgemma.entailment.scores import Scorer

RULES = "rules"


def scorer_named(
    name: str,
    *,
    as_reward: bool = False,
    device: str = "auto",
    batch_size: int = 32,
    limit_s: float | None = None,
    any_language: bool = False,
) -> Scorer:
    """Return a scorer whose answers are checked, and kept so that a pair is asked once.

    Args:
        name: "rules" (rules over the findings of chest reports, no model), or a folder or Hub id of a
            sequence-classification model of inference.
        as_reward: Refuse a folder whose card says that its model does not beat its hypothesis-only control.
        device: Of a model: "auto", "cpu", "cuda" or "mps".
        batch_size: Windows that a model reads together.
        limit_s: Seconds that one call may take; no limit if None.
        any_language: Do not refuse what is not English: for models that know other languages.

    Raises:
        ScorerFailed: The model cannot be loaded, or its classes are not those of inference.
        ValueError: The card forbids the reward, or the rules were asked to read any language.
    """
    if name == RULES:
        if any_language:
            raise ValueError("the scorer rules reads English alone; name a model that knows the language")
        return cached(in_english(guarded(rule_nli, "the scorer rules", limit_s), "the scorer rules"))
    if as_reward:
        demand_beats_control(Path(name))
    from medgemma.entailment.nli_model import load_nli

    scorer = guarded(load_nli(name, device=device, batch_size=batch_size), name, limit_s)
    return cached(scorer if any_language else in_english(scorer, name))
