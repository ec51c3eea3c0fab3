"""The games for code that is written for gymnax 1.0: one of its environments, with its spaces, wrappers and parameters.

    from gymnax.wrappers.purerl import LogWrapper
    from jaxgym.gymnax import Environment

    env = LogWrapper(Environment("2048", level="easy"))
    obs, state = env.reset(key, env.default_params)
    obs, state, reward, terminated, truncated, info = env.step(key, state, action, env.default_params)

`jaxgym.Env` has the same shape, asks for no other library and has other kinds of auto-reset.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxgym.checks import whole
from jaxgym.env import MOST_STEPS, Env, EnvState, Observation
from jaxgym.game import Game
from jaxgym.registry import given

try:
    from gymnax.environments import environment, spaces
except ImportError as error:
    mend = "pip install 'gymnax>=1.0' six"
    raise ImportError(f"jaxgym.gymnax needs gymnax 1.0 or newer ({error}): {mend}") from error


class Environment(environment.Environment[EnvState, environment.EnvParams]):
    """A game as gymnax has environments: a step that ends an episode returns a fresh board.

    game: from `jaxgym.make`, or a name and, as options, what `make` takes. max_steps: the limit of `default_params`;
    other parameters may say another one, also as data inside a compiled program. observe: "picture", uint8 [H, W, 3],
    or "tiles", int32 [R, C]. Only boards that have ended are dealt anew (gymnax's own deal in every step).

    info has gymnax's `terminated`, `truncated` and `final_observation`, the board that the step led to before any
    reset, and `legal` bool [], that the action was a legal move; `mask` bool [A], the legal actions of the returned
    state; `score` float32 [] of the episode that the step belongs to. Raises ValueError for what cannot be.
    """

    def __init__(
        self, game: Game[Any] | str, *, max_steps: int = 100, observe: Observation = "picture", **options: Any
    ) -> None:
        self.game = given(game, **options)
        self._env = Env(self.game, max_steps=MOST_STEPS, observe=observe)  # the limit is in the parameters
        self._max_steps = whole("max_steps", max_steps, 1, MOST_STEPS)

    @property
    def name(self) -> str:
        """The game's."""
        return self.game.name

    @property
    def default_params(self) -> environment.EnvParams:
        """The limit of steps."""
        return environment.EnvParams(max_steps_in_episode=self._max_steps)

    @property
    def num_actions(self) -> int:
        """How many there are, legal or not."""
        return self.game.actions.n

    def action_space(self, params: environment.EnvParams | None = None) -> spaces.Discrete:
        """The number of an action."""
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: environment.EnvParams | None = None) -> spaces.Box:
        """Pictures or tiles."""
        seen, top = self._env.bounds()
        return spaces.Box(0, top, seen.shape, seen.dtype)

    def reset_env(self, key: jax.Array, params: environment.EnvParams) -> tuple[jax.Array, EnvState]:
        """Deal a board."""
        return self._env.reset(key)

    def step_env(
        self, key: jax.Array, state: EnvState, action: int | float | jax.Array, params: environment.EnvParams
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, dict[Any, Any]]:
        """One answer, and no reset."""
        obs, after, reward, terminated, _, told = self._env.step(key, state, jnp.asarray(action))
        return obs, after, reward, terminated, {name: told[name] for name in ("legal", "mask", "score")}

    @partial(jax.jit, static_argnames=("self",))
    def step(
        self,
        key: jax.Array,
        state: EnvState,
        action: int | float | jax.Array,
        params: environment.EnvParams | None = None,
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, jax.Array, dict[Any, Any]]:
        """One answer, and a fresh board where it ends the episode."""
        params = self.default_params if params is None else params
        step_key, deal_key = jax.random.split(key)
        final, after, reward, terminated, info = self.step_env(step_key, state, action, params)
        truncated = self.is_truncated(after, params) & ~terminated
        returned = self._env.deal_anew(terminated | truncated, after, deal_key)
        info |= {"mask": returned.mask, "terminated": terminated, "truncated": truncated, "final_observation": final}
        return self._env.observation(returned), returned, reward, terminated, truncated, info

    def observe(self, key: jax.Array, state: EnvState, action: Any, params: environment.EnvParams) -> jax.Array:
        """What is seen of a state."""
        return self._env.observation(state)

    def is_truncated(self, state: EnvState, params: environment.EnvParams) -> jax.Array:
        """Whether the limit has come."""
        return state.steps >= params.max_steps_in_episode

    def is_terminated(self, state: EnvState, params: environment.EnvParams) -> jax.Array:
        """Whether the game has ended, won or stuck."""
        return state.over
