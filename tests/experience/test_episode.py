import pytest

from experience import Episode, Step
from experience.episode import step_of


def steps(**last: object) -> tuple[Step, ...]:
    final = {"is_last": True, "is_terminal": True, **last}
    return (Step("o0", "a0", 1.0, is_first=True), Step("o1", "a1", 0.5), Step("o2", reward=9.0, **final))  # type: ignore[arg-type]


def test_three_steps_are_two_transitions_and_the_last_reward_does_not_count() -> None:
    episode = Episode(steps(), "e1")
    assert (episode.num_transitions, episode.total_reward, episode.is_truncated) == (2, 1.5, False)


def test_last_without_terminal_is_truncated() -> None:
    assert Episode(steps(is_terminal=False), "e1").is_truncated


def test_one_observation_is_an_episode() -> None:
    assert Episode((Step("o", is_first=True, is_last=True),), "e").num_transitions == 0


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), -0.0, None])
def test_a_reward_may_be_any_number_or_none(reward: float | None) -> None:
    assert str(Step("o", "a", reward).reward) == str(reward)
    assert type(Step("o", "a", 1).reward) is float


def test_an_episode_that_was_cut_is_invalid_and_may_lack_its_end_or_every_step() -> None:
    cut = Episode(steps()[:2], "e", {"invalid": True})
    assert (cut.is_invalid, cut.is_truncated, cut.num_transitions, cut.total_reward) == (True, True, 1, 1.0)
    assert Episode((), "e", {"invalid": True}).num_transitions == 0


def test_fields_and_back() -> None:
    step = Step("o", "a", 1.0, 0.5, is_first=True, metadata={"tokens": 3})
    assert step_of(step.fields()) == step and list(step.fields())[-1] == "tokens"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"is_terminal": True}, "not the last"),
        ({"metadata": {"reward": 1}}, "the names reward"),
        ({"metadata": {"step": 1}}, "the names step"),
    ],
)
def test_bad_steps_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Step("o", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ((), "no steps"),
        (steps()[1:], "is_first"),
        ((*steps()[:1], *steps()), "is_first"),
        (steps()[:2], "is_last"),
        ((*steps(), steps()[2]), "is_last"),
        ((steps()[0], Step("o", metadata={"extra": 1}), steps()[2]), "same metadata"),
    ],
)
def test_bad_episodes_are_refused(bad: tuple[Step, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Episode(bad, "e")


def test_ids_and_kept_names_are_refused() -> None:
    with pytest.raises(ValueError, match="without an id"):
        Episode(steps(), "")
    with pytest.raises(ValueError, match="names shard"):
        Episode(steps(), "e", {"shard": 1})
