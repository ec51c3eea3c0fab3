"""What is the same for every game: legality, freezing, branching, rollouts.

An action that is illegal or unreadable (-1) leaves the state as it is and is reported; a finished board is frozen with
zero reward. Games never check either.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym.actions import INVALID
from jaxgym.carry import varied
from jaxgym.checks import check_key, whole, word
from jaxgym.contract import check_state
from jaxgym.game import Game, Outcome

_SHORT, _LANES = 64, 16  # masks so short are one row; bytes that are added up side by side


class Played(NamedTuple):
    """What became of one answer."""

    state: Any
    reward: jax.Array  # float32 []: 0 when the answer changed nothing
    over: jax.Array  # bool []: the board is finished, now or before
    legal: jax.Array  # bool []: the answer was a legal move of a board still in play
    mask: jax.Array  # bool [A]: the legal actions of the state


def select(condition: jax.Array, then: Any, otherwise: Any) -> Any:
    """`jnp.where` over whole states, PRNG keys included."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), then, otherwise)


def readable(action: jax.Array | np.ndarray | int, n: int) -> jax.Array:
    """Integers of any kind as actions, int32 of the same shape; what lies outside [0, n) becomes `INVALID`.

    Host integers are compared before they become arrays, so that no wide one wraps into a move. (Host integers that are
    arguments of `jax.jit` or `jax.vmap` are narrowed by JAX before they get here.) Raises ValueError for what is no
    integer.
    """
    xp = jnp if isinstance(action, jax.Array) else np
    given: Any = xp.asarray(action)
    if given.dtype == object and all(isinstance(a, int) for a in given.ravel()):  # wider than 64 bits
        given = np.where((given >= 0) & (given < n), given, INVALID).astype(np.int32)
    if not jnp.issubdtype(given.dtype, jnp.integer):
        raise ValueError(f"an action is one integer, not {given.dtype}")
    if given.dtype.itemsize < 4:  # too narrow to be compared with n
        given = given.astype(np.int32)
    return jnp.asarray(xp.where((given >= 0) & (given < n), given.astype(np.int32), np.int32(INVALID)))


def play(
    game: Game,
    state: Any,
    over: jax.Array | bool,
    action: jax.Array | int,
    key: jax.Array,
    mask: jax.Array | None = None,
) -> Played:
    """Try one answer: action any integer [], anything outside [0, n) being unreadable.

    mask: the legal actions of the state, bool [A], where they are known already.
    """
    action, over = readable(action, game.actions.n), jnp.asarray(over, jnp.bool_)
    if action.shape != ():
        raise ValueError(f"action is one integer, not an array of shape {list(action.shape)}: vmap over a batch")
    allowed = game.legal(state) if mask is None else mask
    legal = (action >= 0) & allowed[jnp.maximum(action, 0)] & ~over
    # A game is only ever asked for legal moves; what it does with the stand-in is thrown away.
    stand_in = _first(allowed)
    outcome: Outcome = game.step(state, jnp.where(legal, action, stand_in), key)
    return Played(
        state=select(legal, outcome.state, state),
        reward=jnp.where(legal, jnp.asarray(outcome.reward, jnp.float32), jnp.float32(0)),
        over=over | (legal & outcome.over),
        legal=legal,
        mask=jnp.where(legal, game.legal(outcome.state), allowed),  # as the game itself asks: computed once
    )


def branch(
    game: Game,
    state: Any,
    actions: jax.Array | np.ndarray,
    key: jax.Array,
    luck: Literal["shared", "independent"] = "shared",
) -> Played:
    """Try n answers from one state in play: actions, any integers [n] -> Played with a leading axis [n].

    With shared luck equal actions have equal outcomes; with independent luck each has its own. Raises ValueError for
    what is no key, no action, or no board of the game.
    """
    word("luck", luck, ("shared", "independent"))
    check_key(key)
    check_state(game, state)
    tried = readable(actions, game.actions.n)
    if tried.ndim != 1:
        raise ValueError(f"actions are integers [n], not of shape {list(tried.shape)}")
    n = tried.shape[0]
    keys = jax.random.split(key, n) if luck == "independent" else jnp.broadcast_to(key, (n, *key.shape))
    return jax.vmap(lambda action, own: play(game, state, jnp.bool_(False), action, own))(tried, keys)


class Rollout(NamedTuple):
    """Every step of one board, leading axis [steps]."""

    action: jax.Array  # int32: what was answered
    reward: jax.Array  # float32
    legal: jax.Array  # bool
    over: jax.Array  # bool, after the step


Player = Callable[[Any, jax.Array], jax.Array]  # (state, key) -> action


def rollout(game: Game, player: Player, state: Any, key: jax.Array, steps: int) -> tuple[Any, Rollout]:
    """Let a player act on one board for so many steps; a finished board stays as it ended. Also the last state.

    Raises ValueError for a number of steps that is none, and for what is no key or no board of the game.
    """
    steps = whole("steps", steps, 0)
    check_key(key)
    check_state(game, state)

    def step(carry: tuple[Any, jax.Array], step_key: jax.Array) -> tuple[tuple[Any, jax.Array], Rollout]:
        state, over = carry
        act_key, luck_key = jax.random.split(step_key)
        action = player(state, act_key)
        out = play(game, state, over, action, luck_key)
        return (out.state, out.over), Rollout(action, out.reward, out.legal, out.over)

    start = varied((state, ~game.legal(state).any()), key)
    (state, _), steps_taken = jax.lax.scan(step, start, jax.random.split(key, steps))
    return state, steps_taken


def random_legal(game: Game) -> Player:
    """A player who draws uniformly among the legal actions."""
    return lambda state, key: draw_legal(game.legal(state), key)


def draw_legal(mask: jax.Array, key: jax.Array) -> jax.Array:
    """One of the actions of a mask, bool [A], each as likely as another: int32 []; 0 where there is none."""
    rows, counts = _counted(mask)  # first a row is drawn, then a place in it
    total = _add(_upto(len(rows)), counts)  # to the end of each row
    wanted = jnp.floor(jax.random.uniform(key, (), jnp.float32) * total[-1])  # so many come before the one drawn
    row = (total <= wanted).sum(dtype=jnp.int32)
    within = wanted - jnp.where(row > 0, total[row - 1], jnp.float32(0))
    place = (_add(_upto(rows.shape[1]), rows[row].astype(jnp.float32)) <= within).sum(dtype=jnp.int32)
    return jnp.where(total[-1] > 0, row * rows.shape[1] + place, 0)


def _first(mask: jax.Array) -> jax.Array:
    """The first action of a mask, bool [A]: int32 []; 0 where there is none. `argmax` looks at one after the other."""
    if mask.size <= _SHORT:
        return jnp.argmax(mask).astype(jnp.int32)
    rows, counts = _counted(mask)
    row = jnp.argmax(counts > 0).astype(jnp.int32)
    return row * rows.shape[1] + jnp.argmax(rows[row]).astype(jnp.int32)


def _counted(mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A mask, bool [A], in rows, bool [R, C], about as many as they are long, and how many each has: float32 [R].

    A CPU adds up bytes sixteen side by side, and then products faster than sums.
    """
    wide = _LANES if mask.size > _SHORT else mask.size
    side = (math.isqrt(mask.size - 1) // wide + 1) * wide
    narrow = jnp.uint8 if side // wide <= np.iinfo(np.uint8).max else jnp.uint16
    rows = jnp.pad(mask, (0, -mask.size % side)).reshape(-1, side)
    lanes = rows.reshape(len(rows), -1, wide).sum(1, dtype=narrow)
    return rows, _add(lanes.astype(jnp.float32), np.ones(wide, np.float32))


_add = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def _upto(n: int) -> np.ndarray:
    """The matrix that adds up the first 1, 2, ... n numbers."""
    return np.tri(n, dtype=np.float32)


def random_answer(game: Game) -> Player:
    """A player who knows how to write an answer and nothing else."""
    return lambda state, key: game.actions.guess(key)


def teacher(game: Game) -> Player:
    """A player who takes the action of the highest worth."""
    return lambda state, key: jnp.argmax(game.values(state, key)).astype(jnp.int32)
