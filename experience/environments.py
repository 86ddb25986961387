"""Environments of Gymnasium and dm_env that record what happens in them; both packages are the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experience.recorder import EpisodeRecorder

if TYPE_CHECKING:
    import dm_env
    import gymnasium


def record_gymnasium(env: gymnasium.Env[Any, Any], recorder: EpisodeRecorder) -> gymnasium.Env[Any, Any]:
    """Return a Gymnasium environment that records every episode; closing it closes the last one as truncated.

    A reward is what `step` returned for the action; the discount is 0 where it said terminated, else 1.
    """
    import gymnasium

    class Recorded(gymnasium.Wrapper[Any, Any, Any, Any]):  # type: ignore[misc]
        def reset(
            self, *, seed: int | None = None, options: dict[str, Any] | None = None
        ) -> tuple[Any, dict[str, Any]]:
            observation, info = self.env.reset(seed=seed, options=options)
            recorder.reset(observation, **({} if seed is None else {"seed": seed}))
            return observation, info

        def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
            observation, reward, terminated, truncated, info = self.env.step(action)
            discount = 0.0 if terminated else 1.0
            recorder.step(
                action, reward, discount, observation, terminal=bool(terminated), last=bool(terminated or truncated)
            )
            return observation, reward, terminated, truncated, info

        def close(self) -> None:
            recorder.truncate()
            self.env.close()

    return Recorded(env)


def record_dm_env(environment: dm_env.Environment, recorder: EpisodeRecorder) -> dm_env.Environment:
    """Return a dm_env environment that records every episode; closing it closes the last one as truncated.

    A last time step ends the environment if its discount is 0; else the episode was truncated there.
    """
    import dm_env

    class Recorded(dm_env.Environment):  # type: ignore[misc]
        def reset(self) -> dm_env.TimeStep:
            said = environment.reset()
            recorder.reset(said.observation)
            return said

        def step(self, action: Any) -> dm_env.TimeStep:
            said = environment.step(action)
            if said.first():  # a step after the last one is a reset, and its action is not used
                recorder.reset(said.observation)
            else:
                terminal = said.last() and not said.discount
                recorder.step(action, said.reward, said.discount, said.observation, terminal=terminal, last=said.last())
            return said

        def observation_spec(self) -> Any:
            return environment.observation_spec()

        def action_spec(self) -> Any:
            return environment.action_spec()

        def reward_spec(self) -> Any:
            return environment.reward_spec()

        def discount_spec(self) -> Any:
            return environment.discount_spec()

        def close(self) -> None:
            recorder.truncate()
            environment.close()

    return Recorded()
