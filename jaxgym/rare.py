"""Work that few boards of a batch need, done for these alone.

Under `vmap` a `cond` turns into a select: every board pays for both sides at every step, and a loop goes on for all
until the last one is done. `rarely` and `repeatedly` say the same about one board, but a batch is sifted: the rows that
need the work are gathered, some at a time, and what comes of it is put back. Rows stay what they would be alone, bit
for bit.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from jaxgym.carry import varied

T = TypeVar("T")
# One row in so many is worked on at a time, but no fewer than `LEAST`: a CPU likes to work on few, a GPU to be asked
# seldom.
SHARE, GPU_SHARE, LEAST = 64, 16, 8


def rarely(needed: jax.Array, work: Callable[..., T], idle: T, *given: Any) -> T:
    """`work(*given)` where it is needed, bool [], else `idle`, a tree of the same shapes and dtypes.

    `work` may close over constants only: all that differs from board to board is in `given`.
    """
    return repeatedly(needed, lambda _, *given: (work(*given), jnp.bool_(False)), idle, *given)


def repeatedly(
    needed: jax.Array,
    attempt: Callable[..., tuple[T, jax.Array]],
    state: T,
    *given: Any,
    gpu_share: int = GPU_SHARE,
) -> T:
    """`while needed: state, needed = attempt(state, *given)`, of one board; needed bool [].

    In a batch a row that is done makes room at once for one that waits, so that no row pays for the longest of its
    neighbours' loops. `attempt` may close over constants only. gpu_share: on a GPU one row in so many is worked on at
    a time; a small number where most rows need several attempts, and an attempt is many operations.
    """

    @custom_vmap
    def one(needed: jax.Array, state: T, given: tuple[Any, ...]) -> T:
        def turn(carry: tuple[jax.Array, T]) -> tuple[jax.Array, T]:
            return varied(attempt(carry[1], *given)[::-1], carry)

        return jax.lax.while_loop(lambda carry: carry[0], turn, varied((needed, state), given))[1]

    @custom_vmap
    def many(needed: jax.Array, state: T, given: tuple[Any, ...]) -> T:
        return _sift(needed, attempt, state, given, gpu_share)

    @one.def_vmap
    def _(size: int, batched: Any, *args: Any) -> tuple[T, Any]:
        out = many(*_spread(size, batched, args))
        return out, jax.tree.map(lambda _: True, out)

    @many.def_vmap
    def _(size: int, batched: Any, *args: Any) -> tuple[T, Any]:
        """Batches of batches are one long batch."""
        args = _spread(size, batched, args)
        rows = args[0].shape[1]
        out = many(*jax.tree.map(lambda leaf: leaf.reshape(size * rows, *leaf.shape[2:]), args))
        out = jax.tree.map(lambda leaf: leaf.reshape(size, rows, *leaf.shape[1:]), out)
        return out, jax.tree.map(lambda _: True, out)

    return one(needed, state, given)


def _spread(size: int, batched: Any, args: Any) -> Any:
    """Every leaf with a leading axis of that size."""
    return jax.tree.map(
        lambda has, leaf: leaf if has else jnp.broadcast_to(leaf, (size, *leaf.shape)), tuple(batched), tuple(args)
    )


def _sift(
    needed: jax.Array,
    attempt: Callable[..., tuple[T, jax.Array]],
    state: T,
    given: tuple[Any, ...],
    gpu_share: int,
) -> T:
    """`repeatedly` for rows: needed bool [B], and so on."""
    size = needed.shape[0]
    lanes = size  # all at once where their number is left open, as `jax.export` can
    if isinstance(size, int):
        lanes = min(size, max(LEAST, size // (SHARE if jax.default_backend() == "cpu" else gpu_share)))

    def turn(carry: tuple[jax.Array, T]) -> tuple[jax.Array, T]:
        left, state = carry
        # As `flatnonzero` would find them, which counts into bins: swap is 1.7 times as fast without on a loaded H200.
        place = jnp.where(left, jnp.cumsum(left, dtype=jnp.int32) - 1, lanes)
        rows = jnp.full(lanes, size, jnp.int32)  # past the last row where there are fewer
        rows = rows.at[place].set(jnp.arange(size, dtype=jnp.int32), mode="drop")
        before = jax.tree.map(lambda leaf: leaf.at[rows].get(mode="clip"), (state, given))
        after, more = varied(jax.vmap(lambda state, given: attempt(state, *given))(*before), carry)
        state = jax.tree.map(lambda old, new: old.at[rows].set(new, mode="drop"), state, after)
        return left.at[rows].set(more, mode="drop"), state

    return jax.lax.while_loop(lambda carry: carry[0].any(), turn, varied((needed, state), given))[1]
