"""The picture is `atlas[grid]`, on the device; the words are `names[grid]`, on the host."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym.sprites import Sheet


def render(sheet: Sheet, tiles: jax.Array | np.ndarray) -> jax.Array:
    """Draw one board: sprite ids, any integers [R, C] -> uint8 [H, W, 3].

    `vmap` over the tiles for a batch of boards, over both for a batch of looks. An id outside the sheet is the nearest
    one inside it, here as in `describe`. Raises ValueError for what is no grid of integers.
    """
    ids = jnp.asarray(_ids(sheet, tiles))
    rows, columns = ids.shape
    size = sheet.tile
    words = size * 3 // 4  # a row of sprite pixels, as uint32
    lines = ids[:, None, :] * size + jnp.arange(size, dtype=ids.dtype)[None, :, None]  # [R, T, C]
    board = jnp.take(sheet.lines, lines, axis=0, mode="clip").reshape(rows * size, columns * words)
    height, width = sheet.canvas(rows, columns)
    top, left = sheet.origin(rows, columns)
    if (height, width) != board.shape[:1] + (columns * size,):
        canvas = jnp.broadcast_to(jnp.tile(sheet.background, width // 4), (height, width * 3 // 4))
        board = jax.lax.dynamic_update_slice(canvas, board, (top, left * 3 // 4))
    return jax.lax.bitcast_convert_type(board, jnp.uint8).reshape(height, width, 3)


def describe(sheet: Sheet, tiles: jax.Array | np.ndarray) -> str:
    """Say one board: the cells of a row joined by ` | `, one line a row. Exact: the same ids draw the picture."""
    return "\n".join(" | ".join(sheet.names[i] for i in row) for row in np.asarray(_ids(sheet, tiles)).tolist())


def _ids(sheet: Sheet, tiles: Any) -> Any:
    """Sprite ids of any integer type as int32 [R, C] inside the sheet, clamped before a narrower type can wrap them."""
    ids = tiles if isinstance(tiles, jax.Array) else np.asarray(tiles)
    if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"tiles are integers [R, C], not {ids.dtype}{list(ids.shape)}; vmap over a batch")
    ids = ids.astype(np.int32) if ids.dtype.itemsize < 4 else ids
    return ids.clip(0, len(sheet.names) - 1).astype(np.int32)
