"""Random play, recorded: what the laws of games are tried on."""

import functools
import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym import engine, render
from jaxgym.game import Game

BOARDS, STEPS = 16, 40


class Walk(NamedTuple):
    """Random legal play: leading axes [boards, steps], every entry before its step but `played`."""

    state: Any
    over: jax.Array
    action: jax.Array
    key: jax.Array
    played: engine.Played


@functools.cache
def walked(game: Game) -> Walk:
    """Some boards of a game played at random."""
    player = engine.random_legal(game)

    def board(key: jax.Array) -> Walk:
        deal_key, play_key = jax.random.split(key)

        def step(carry, key):
            state, over = carry
            act_key, luck_key = jax.random.split(key)
            action = player(state, act_key)
            played = engine.play(game, state, over, action, luck_key)
            return (played.state, played.over), Walk(state, over, action, luck_key, played)

        return jax.lax.scan(step, (game.reset(deal_key), jnp.bool_(False)), jax.random.split(play_key, STEPS))[1]

    return jax.jit(jax.vmap(board))(jax.random.split(jax.random.key(7), BOARDS))


def digest(game: Game) -> tuple[str, list[list[float]]]:
    """Of the walk, of every eighth board's guise, and of the last pictures; and the teacher's values of these boards,
    which may be sums of fractions: added up in another order they are not the same to the last bit.
    """
    walk = walked(game)
    some = jax.tree.map(lambda leaf: leaf[:, ::8].reshape(-1, *leaf.shape[2:]), walk.state)
    keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(some)[0]))
    more = []
    if game.augment:
        more.append(jax.jit(jax.vmap(game.augment))(some, keys))
    tiles = jax.jit(jax.vmap(game.tiles))(jax.tree.map(lambda leaf: leaf[:, -1], walk.played.state))
    more.append(jax.jit(jax.vmap(lambda board: render(game.sheet, board)))(tiles))
    found = hashlib.sha256()
    for leaf in jax.tree.leaves((walk._replace(key=None), more)):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest(), np.asarray(jax.jit(jax.vmap(game.values))(some, keys)).tolist()
