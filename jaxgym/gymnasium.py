"""The games for libraries that speak Gymnasium: one board (`Env`), or many on the device at once (`VectorEnv`).

    import gymnasium, jaxgym.gymnasium

    gymnasium.make("jaxgym/2048-v0", max_steps=100)
    gymnasium.make_vec("jaxgym/swap-v0", num_envs=1024, arrays="jax")  # for torch.from_dlpack: no picture is copied

`VectorEnv` is one compiled program for all boards; many `Env` in a `SyncVectorEnv` are as many programs in turn. In
processes of their own (`vectorization_mode="async"`) they need `vector_kwargs={"context": "spawn"}`: JAX does not
survive a fork, and would wait for ever.
"""

from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym.checks import whole, word
from jaxgym.env import AutoReset, EnvState, Observation
from jaxgym.env import Env as Pure
from jaxgym.game import Game
from jaxgym.registry import given, names
from jaxgym.render import render

try:
    import gymnasium
    from gymnasium.vector import AutoresetMode
except ImportError as error:
    raise ImportError("jaxgym.gymnasium needs Gymnasium 1.1 or newer: pip install 'gymnasium>=1.1'") from error

Arrays = Literal["numpy", "jax"]
_MODES: dict[AutoReset | None, AutoresetMode] = {
    None: AutoresetMode.DISABLED,
    "same_step": AutoresetMode.SAME_STEP,
    "next_step": AutoresetMode.NEXT_STEP,
}
_METADATA = {"render_modes": ["rgb_array"], "render_fps": 4}


class Env(gymnasium.Env[np.ndarray, np.int64]):
    """One board. For many use `VectorEnv`.

    game: from `jaxgym.make`, or a name and, as options, what `make` takes. max_steps, observe: as for `jaxgym.Env`.
    The action is its number; one that is not legal changes nothing and costs a step. info has `action_mask` bool [A],
    the legal actions, `score` and `steps` of the episode, and after a step `legal`. The max_episode_steps of
    `gymnasium.make` can only be fewer than max_steps. Raises ValueError, in one line, for what cannot be.
    """

    metadata = _METADATA

    def __init__(
        self,
        game: Game[Any] | str,
        *,
        max_steps: int = 100,
        observe: Observation = "picture",
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        self.render_mode = _checked(render_mode)
        self._boards = VectorEnv(game, 1, max_steps=max_steps, observe=observe, autoreset=None, **options)
        self.observation_space = self._boards.single_observation_space
        self.action_space = self._boards.single_action_space

    @property
    def game(self) -> Game[Any]:
        """The game that is played."""
        return self._boards.game

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Deal a board; a seed begins the same episodes anew."""
        super().reset(seed=_seed(seed))
        obs, info = self._boards.reset(seed=seed, options=options)
        return obs[0].copy(), _row(info)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Give one answer."""
        if np.ndim(action):
            raise ValueError(f"action has shape {list(np.shape(action))}: give one integer")
        obs, reward, terminated, truncated, info = self._boards.step(np.asarray([action]))
        return obs[0].copy(), float(reward[0]), bool(terminated[0]), bool(truncated[0]), _row(info)

    def render(self) -> Any:
        """The board as uint8 [H, W, 3], with render_mode="rgb_array"."""
        return self._boards.pictures()[0] if self.render_mode else None

    def action_masks(self) -> np.ndarray:
        """The legal actions, bool [A]; the name that sb3-contrib's MaskablePPO asks for."""
        return self._boards.action_masks()[0]


class VectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """num_envs boards, stepped and drawn by one program on the device.

    game: from `jaxgym.make`, a mixture among them, or a name and, as options, what `make` takes. max_steps, observe:
    as for `jaxgym.Env`. autoreset: "next_step", as Gymnasium's own have it, "same_step", or None: then boards that
    ended stay until `reset(options={"reset_mask": bool [N]})`; or Gymnasium's `AutoresetMode`. arrays: "numpy", on the
    host, observations read-only; or "jax", where they were made, for `torch.from_dlpack` or Gymnasium's `JaxToTorch`
    (`pip install 'gymnasium[array-api]'`). Actions may be either, or PyTorch's.

    infos has `action_mask` bool [N, A], the legal actions of what is returned, `score` float32 [N] and `steps` int32
    [N] of the episode that the step belongs to, and after a step `legal` bool [N], that the action was a legal move of
    a board in play. With "same_step" also `final_obs` [N, ...] and `final_info`, what ended looked like where
    `_final_obs` bool [N] says so; as NumPy only when some board ended. `score` and `steps` are right in every mode;
    Gymnasium's RecordEpisodeStatistics (1.3) leaves out an episode's first step with "same_step". Raises ValueError for
    what cannot be.
    """

    def __init__(
        self,
        game: Game[Any] | str,
        num_envs: int = 1,
        *,
        max_steps: int = 100,
        observe: Observation = "picture",
        autoreset: AutoReset | AutoresetMode | None = "next_step",
        arrays: Arrays = "numpy",
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        word("arrays", arrays, get_args(Arrays))
        self.game = given(game, **options)
        self.num_envs = whole("num_envs", num_envs, 1)
        self.render_mode = _checked(render_mode)
        mode: AutoReset | None
        if isinstance(autoreset, AutoresetMode):
            mode = next(ours for ours, its in _MODES.items() if its is autoreset)
        else:
            mode = autoreset
        env = Pure(self.game, max_steps=max_steps, observe=observe, autoreset=mode)
        self._autoreset, self._host = mode, arrays == "numpy"
        self.metadata = _METADATA | {"autoreset_mode": _MODES[mode]}
        seen, top = env.bounds()
        self.single_observation_space = gymnasium.spaces.Box(0, top, seen.shape, seen.dtype.type)
        self.single_action_space = gymnasium.spaces.Discrete(self.game.actions.n)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, self.num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, self.num_envs)
        self._key = jax.random.key(0)
        self._state: EnvState | None = None

        @jax.jit
        def reset(key: jax.Array) -> tuple[jax.Array, jax.Array, EnvState]:
            after, deal_key = jax.random.split(key)
            return after, *jax.vmap(env.reset)(jax.random.split(deal_key, self.num_envs))

        @jax.jit
        def reset_some(key: jax.Array, state: EnvState, chosen: jax.Array) -> tuple[jax.Array, jax.Array, EnvState]:
            after, _, fresh = reset(key)
            choose = jax.vmap(lambda one, *of: jax.tree.map(partial(jnp.where, one), *of))
            state = choose(chosen, fresh, state)
            return after, jax.vmap(env.observation)(state), state

        @jax.jit
        def step(key: jax.Array, state: EnvState, actions: jax.Array) -> tuple[Any, ...]:
            after, play_key = jax.random.split(key)
            keys = jax.random.split(play_key, self.num_envs)
            obs, state, reward, terminated, truncated, told = jax.vmap(env.step)(keys, state, actions)
            infos = {"action_mask": told["mask"], **{name: told[name] for name in ("legal", "score", "steps")}}
            if mode == "same_step":
                ended, final = terminated | truncated, told["final_state"]
                infos["final_obs"] = jax.lax.cond(ended.any(), lambda: jax.vmap(env.observation)(final), lambda: obs)
                infos["final_info"] = {"action_mask": final.mask, "score": final.score, "steps": final.steps}
                infos["_final_obs"] = infos["_final_info"] = ended
            return after, obs, state, reward, terminated, truncated, infos

        @jax.jit
        def pictures(state: EnvState) -> jax.Array:
            return jax.vmap(lambda one: render(self.game.sheet, self.game.tiles(one.board), one.look))(state)

        self._reset, self._reset_some, self._step, self._pictures = reset, reset_some, step, pictures

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Deal all boards, or those of options["reset_mask"], bool [N]; a seed begins the same episodes anew."""
        if options is not None and not isinstance(options, dict):
            raise ValueError(f'options={options!r}: give a dict, such as {{"reset_mask": ...}}, or None')
        super().reset(seed=_seed(seed))
        if seed is not None or self._state is None:
            self._key = jax.random.key(int(self.np_random.integers(2**31)))
        chosen = (options or {}).get("reset_mask")
        if chosen is None:
            self._key, obs, self._state = self._reset(self._key)
        else:
            chosen = self._batch("reset_mask", chosen, np.bool_)
            self._key, obs, self._state = self._reset_some(self._key, self._begun(), chosen)
        state = self._begun()
        infos = {"action_mask": state.mask, "score": state.score, "steps": state.steps}
        return self._given(obs), self._told(jax.tree.map(jnp.copy, infos))  # which may be given away

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Give every board one answer: its action's number, int [N]; -1 is one that could not be read."""
        actions = self._batch("actions", actions, np.integer)
        self._key, *out = self._step(self._key, self._begun(), actions)
        obs, self._state, reward, terminated, truncated, infos = out
        final = infos.pop("final_obs", None)
        infos = self._told(infos)
        if self._host and self._autoreset == "same_step" and not infos["_final_obs"].any():
            infos = {name: each for name, each in infos.items() if "final" not in name}
        elif final is not None:
            infos["final_obs"] = self._given(final)
        return self._given(obs), *self._told((reward, terminated, truncated)), infos

    def render(self) -> tuple[Any, ...] | None:
        """The boards as uint8 [H, W, 3] each, with render_mode="rgb_array"."""
        return tuple(self.pictures()) if self.render_mode else None

    def pictures(self) -> np.ndarray:
        """The boards, uint8 [N, H, W, 3], on the host, whatever is observed."""
        return np.asarray(self._pictures(self._begun()))

    def action_masks(self) -> Any:
        """The legal actions of every board, bool [N, A]."""
        return self._told(jnp.copy(self._begun().mask))

    def _begun(self) -> EnvState:
        if self._state is None:
            raise ValueError("there are no boards yet: call reset() first")
        return self._state

    def _given(self, tree: Any) -> Any:
        return jax.device_get(tree) if self._host else tree

    def _told(self, tree: Any) -> Any:
        """All but pictures, which may be changed in place: wrappers of Gymnasium's clip rewards so."""
        return jax.tree.map(np.array, jax.device_get(tree)) if self._host else tree

    def _batch(self, name: str, value: Any, kind: type) -> jax.Array:
        try:
            array = value if isinstance(value, jax.Array) else np.asarray(value)
        except TypeError:
            if not hasattr(value, "__dlpack__"):  # else PyTorch's on a GPU
                raise
            array = jnp.from_dlpack(value)
        if array.shape != (self.num_envs,) or not jnp.issubdtype(array.dtype, kind):
            wanted = "integers" if kind is np.integer else "bools"
            raise ValueError(f"{name} are {array.dtype} {list(array.shape)}: give {wanted} [{self.num_envs}]")
        if kind is np.integer and not isinstance(array, jax.Array):  # what 32 bits do not hold is no action either
            known = (array >= 0) & (array < self.game.actions.n)
            array = np.where(known, array.astype(np.int32), np.int32(-1))
        return jnp.asarray(array)


def _seed(seed: Any) -> int | None:
    return None if seed is None else whole("seed", seed, 0)


def _checked(render_mode: str | None) -> str | None:
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f'render_mode={render_mode!r}: give None or "rgb_array"')
    return render_mode


def _row(infos: dict[str, Any]) -> dict[str, Any]:
    """What is told of the only board; scalars as Python's own."""
    return {name: each[0] if each.ndim > 1 else each[0].item() for name, each in infos.items()}


def _register() -> None:
    for name in names():
        gymnasium.register(
            f"jaxgym/{name}-v0",
            entry_point="jaxgym.gymnasium:Env",
            vector_entry_point="jaxgym.gymnasium:VectorEnv",
            kwargs={"game": name},
        )


_register()
