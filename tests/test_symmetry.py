"""Turning, mirroring and exchanging kinds: all there is of each, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym.symmetry import exchanged, turned

KEYS = jax.random.split(jax.random.key(0), 200)


def test_a_board_is_turned_and_mirrored_in_all_eight_ways():
    board = np.arange(9, dtype=np.int32).reshape(3, 3)
    found = np.asarray(jax.jit(jax.vmap(lambda key: turned(jnp.asarray(board), key)))(KEYS))
    ways = {np.rot90(side, k).tobytes() for side in (board, board.T) for k in range(4)}
    assert len(ways) == 8 and {each.tobytes() for each in found} == ways


def test_kinds_are_exchanged_sprite_for_sprite_and_nothing_else():
    board = jnp.asarray([[0, 1, 2], [3, 4, 0], [5, 6, 1]], jnp.int32)  # three kinds of two sprites
    found = np.asarray(jax.jit(jax.vmap(lambda key: exchanged(board, key, 3, 2)))(KEYS))
    orders = set()
    for each in found:
        order = tuple(((each.ravel()[[1, 3, 6]] - 1) // 2).tolist())  # what the three kinds have become
        orders.add(order)
        kept = [[0 if s == 0 else 1 + 2 * order[(s - 1) // 2] + (s - 1) % 2 for s in row] for row in board.tolist()]
        np.testing.assert_array_equal(each, kept)
    assert len(orders) == 6
