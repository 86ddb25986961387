"""Episodes: what an agent saw, did and was rewarded for, in the RLDS form."""

from experience.dataset import EpisodeDataset, read_episodes, write_episodes
from experience.episode import Episode, Step
from experience.storage.writer import EpisodeWriter

__all__ = ["Episode", "EpisodeDataset", "EpisodeWriter", "Step", "read_episodes", "write_episodes"]
