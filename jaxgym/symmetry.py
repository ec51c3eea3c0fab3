"""Other guises of a board: turned, mirrored, with kinds in one another's place."""

import jax
import jax.numpy as jnp


def turned(board: jax.Array, key: jax.Array) -> jax.Array:
    """One of the eight ways to turn and mirror a square board, [n, n]."""
    ways = [jnp.rot90(side, k) for side in (board, board.T) for k in range(4)]
    return jnp.stack(ways)[jax.random.randint(key, (), 0, len(ways), jnp.int32)]


def exchanged(board: jax.Array, key: jax.Array, kinds: int, each: int = 1) -> jax.Array:
    """Kinds in one another's place: of sprites int32 [...], `each` in a row for every kind, from 1 on. 0 stays."""
    order = jax.random.permutation(key, kinds).astype(jnp.int32)
    kind, which = jnp.divmod(board - 1, each)
    return jnp.where(board > 0, 1 + order[kind] * each + which, 0)
