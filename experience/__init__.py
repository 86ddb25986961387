"""Episodes: what an agent saw, did and was rewarded for, in the RLDS form."""

from experience.episode import Episode, Step

__all__ = ["Episode", "Step"]
