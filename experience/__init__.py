"""Episodes: what an agent saw, did and was rewarded for, in the RLDS form."""

from experience.episode import Episode, Step
from experience.files import read_episodes, write_episodes

__all__ = ["Episode", "Step", "read_episodes", "write_episodes"]
