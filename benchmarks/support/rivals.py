"""Other libraries' 2048 for the accelerator, each played as ours is: a random legal move of every board at every step.

`players(reset)` is a dict from a library's name to its player, for the libraries that are installed
(`pip install -e '.[bench]'`).
"""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Player(NamedTuple):
    """How a batch is played: `begin(keys) -> state`, `mask(state)`, `step(state, action, key) -> (state, reward)`.

    `begin` and `step` are for one board; so is `mask`, bool [A], the legal moves that the library has at hand.
    """

    begin: Callable[[jax.Array], Any]
    mask: Callable[[Any], jax.Array]
    step: Callable[[Any, jax.Array, jax.Array], tuple[Any, jax.Array]]


def players(reset: bool) -> dict[str, Player]:
    """The libraries there are; with `reset` a board that has ended is dealt anew in the same step."""
    known = {"pgx": _pgx, "jumanji": _jumanji}
    return {name: make(reset) for name, make in known.items() if importlib.util.find_spec(name)}


def _pgx(reset: bool) -> Player:
    import pgx
    from pgx.experimental.wrappers import auto_reset

    env = pgx.make("2048")
    step = auto_reset(env.step, env.init) if reset else env.step

    def move(state: Any, action: jax.Array, key: jax.Array) -> tuple[Any, jax.Array]:
        state = step(state, action, key)
        return state, state.rewards[0]

    return Player(env.init, lambda state: state.legal_action_mask, move)


def _jumanji(reset: bool) -> Player:
    from jumanji.environments import Game2048
    from jumanji.wrappers import AutoResetWrapper

    env = AutoResetWrapper(Game2048()) if reset else Game2048()

    def begin(key: jax.Array) -> Any:
        state, timestep = env.reset(key)
        return state, timestep.observation.action_mask

    def move(state: Any, action: jax.Array, key: jax.Array) -> tuple[Any, jax.Array]:
        del key  # Jumanji keeps one in its state
        state, timestep = env.step(state[0], action)
        return (state, timestep.observation.action_mask), timestep.reward

    return Player(begin, lambda state: state[1], move)


def play(
    player: Player, boards: int, draw: Callable[[jax.Array, jax.Array], jax.Array]
) -> Callable[[int], Callable[[], jax.Array]]:
    """`runs(n)`: play a batch on for n steps; its memory is used again, so what is measured is no allocation.

    draw: one of the actions of a mask, (bool [A], key) -> int32 []. A call returns a sum that depends on all that
    was computed.
    """

    @partial(jax.jit, donate_argnums=0)
    def run(state: Any, key: jax.Array, steps: jax.Array) -> tuple[Any, jax.Array]:
        def one(i: jax.Array, carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
            state, total = carry
            act_key, step_key = jax.random.split(jax.random.fold_in(key, i))
            action = jax.vmap(draw)(jax.vmap(player.mask)(state), jax.random.split(act_key, boards))
            state, reward = jax.vmap(player.step)(state, action, jax.random.split(step_key, boards))
            return state, total + reward.sum()

        return jax.lax.fori_loop(0, steps, one, (state, jnp.float32(0)))

    kept = [jax.jit(jax.vmap(player.begin))(jax.random.split(jax.random.key(0), boards))]

    def on(steps: int) -> jax.Array:
        kept[0], total = run(kept[0], jax.random.key(steps), jnp.int32(steps))
        return total

    return lambda steps: partial(on, steps)
