"""The on-policy core: prompts, samples, rewards, one update, and the sampler told; algorithms stand on it."""

from finetune.on_policy.anchors import Anchor
from finetune.on_policy.models import Frozen, Network, base_of, copy_of
from finetune.on_policy.normalising import Normalisation, normalised
from finetune.on_policy.rewards import Graded, Reward
from finetune.on_policy.rollouts import PromptRow, Rollout
from finetune.on_policy.rounds import Algorithm, Round
from finetune.on_policy.running import HeldOut, OnPolicy, train_on_policy
from finetune.on_policy.sampling import EngineSampler, LostSampler, Sampler

__all__ = [
    "Algorithm",
    "Anchor",
    "EngineSampler",
    "Frozen",
    "Graded",
    "HeldOut",
    "LostSampler",
    "Network",
    "Normalisation",
    "OnPolicy",
    "PromptRow",
    "Reward",
    "Rollout",
    "Round",
    "Sampler",
    "base_of",
    "copy_of",
    "normalised",
    "train_on_policy",
]
