import pytest

from experience import Episode, Step


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


def test_what_follows_the_last_observation_may_be_anything() -> None:
    assert Step("o", reward=float("nan"), discount=7.0, is_last=True).is_last


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"is_terminal": True}, "not the last"),
        ({"reward": float("inf")}, "finite reward"),
        ({"discount": 1.1}, "0 to 1"),
        ({"metadata": {"reward": 1}}, "core names reward"),
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
    with pytest.raises(ValueError, match="without an id"):
        Episode(steps(), "")
