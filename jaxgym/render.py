"""The picture is `atlas[grid]`, on the device; the words are `names[grid]`, on the host."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym.sprites import Sheet


def render(sheet: Sheet, tiles: jax.Array | np.ndarray, look: jax.Array | int = 0) -> jax.Array:
    """Draw one board: sprite ids, any integers [R, C] -> uint8 [H, W, 3], in one of the sheet's looks, an integer [].

    `vmap` over the tiles for a batch of boards, and over the look where each is to have its own. An id outside the
    sheet is the nearest one inside it, here as in `describe`, and so is a look. Raises ValueError for what is no grid
    of integers.
    """
    ids = sprite_ids(sheet, tiles)
    chosen = look if isinstance(look, jax.Array) else np.asarray(look)
    if chosen.ndim or not jnp.issubdtype(chosen.dtype, jnp.integer):
        raise ValueError(f"look={look!r}: give an integer")
    (rows, columns), size = ids.shape, sheet.tile
    height, width = sheet.canvas(rows, columns)
    top, left = sheet.origin(rows, columns)
    margins = (top, height - top - rows * size), (left, width - left - columns * size)
    return _put_together(sheet.lines, ids, _inside(chosen, sheet.looks), len(sheet.names), size, margins, sheet.looks)


@partial(jax.jit, static_argnums=(3, 4, 5, 6), inline=True)  # called by itself it is one program, not twenty
def _put_together(
    lines: jax.Array,
    ids: jax.Array,
    look: jax.Array,
    names: int,
    size: int,
    margins: tuple[tuple[int, int], tuple[int, int]],
    looks: int,
) -> jax.Array:
    """A picture of pieces one pixel high: as wide as a sprite, or as fits into the margins as well."""
    (rows, columns), (across, along) = ids.shape, margins
    wide = math.gcd(size, *along)
    each, pieces = size // wide, lines.reshape(-1, wide * 3)
    of_sprite = np.arange(size * each, dtype=np.int32).reshape(1, size, 1, each)
    piece = (ids[:, None, :, None] * (size * each) + of_sprite).reshape(rows * size, columns * each)
    page, count = names * size * each, len(pieces) // looks  # a look's last pieces are of the page
    piece = jnp.pad(piece, (across, (along[0] // wide, along[1] // wide)), constant_values=page).reshape(-1)
    if looks > 1:
        piece = piece + look * count
    shape = sum(across) + rows * size, sum(along) + columns * size, 3
    if wide % 4:
        return _in_halves(pieces, piece).reshape(shape)
    return jax.lax.platform_dependent(pieces, piece, cpu=_in_halves, default=_in_words).reshape(shape)


def _in_halves(pieces: jax.Array, piece: jax.Array) -> jax.Array:
    """Pieces side by side, uint8 [N, bytes] by int32 [M] -> uint8 [M, bytes], as a CPU does it fast.

    A CPU moves words of up to 8 bytes at once, so a piece is made of words, which are not cut anew. And in two parts,
    for XLA writes the parts of a concatenation in their own shapes, straight to where they belong. One alone it would
    cut anew byte by byte, which takes five times as long.
    """
    size = pieces.shape[1]
    words = pieces.reshape(len(pieces), -1, math.gcd(size, 8))
    halves = jnp.split(piece, [len(piece) // 2])
    picture = jnp.concatenate([jnp.take(words, half, axis=0, mode="clip") for half in halves])
    return picture.reshape(len(piece), size)


def _in_words(pieces: jax.Array, piece: jax.Array) -> jax.Array:
    """The same as a GPU does it fast: words of 4 bytes (on an H200 1.9 times as fast as bytes in two parts)."""
    words = jax.lax.bitcast_convert_type(pieces.reshape(len(pieces), -1, 4), jnp.uint32)
    piece = jax.lax.optimization_barrier(piece)  # worked out once, not again for every word
    picture = jax.lax.bitcast_convert_type(jnp.take(words, piece, axis=0, mode="clip"), jnp.uint8)
    return picture.reshape(len(piece), -1)


def describe(sheet: Sheet, tiles: jax.Array | np.ndarray) -> str:
    """Say one board: the cells of a row joined by ` | `, one line a row. Exact: the same ids draw the picture.

    Cells whose sprite has no name are beyond the board: they are not said.
    """
    rows = [
        [name for name in (sheet.names[i] for i in row) if name]
        for row in np.asarray(sprite_ids(sheet, tiles)).tolist()
    ]
    return "\n".join(" | ".join(row) for row in rows if row)


def sprite_ids(sheet: Sheet, tiles: Any) -> Any:
    """Sprite ids of any integer type as int32 [R, C] inside the sheet."""
    ids = tiles if isinstance(tiles, jax.Array) else np.asarray(tiles)
    if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"tiles are integers [R, C], not {ids.dtype}{list(ids.shape)}; vmap over a batch")
    return _inside(ids, len(sheet.names))


def _inside(numbers: Any, count: int) -> Any:
    """Integers of any type as int32 in [0, count), clamped before a narrower type can wrap them."""
    numbers = numbers.astype(np.int32) if numbers.dtype.itemsize < 4 else numbers
    return numbers.clip(0, count - 1).astype(np.int32)
