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
    height, width = sheet.canvas(rows, columns)
    top, left = sheet.origin(rows, columns)
    below, right = height - top - rows * sheet.tile, width - left - columns * sheet.tile
    # In two halves, for XLA writes the parts of a concatenation in their own shapes, straight to where they belong. One
    # part alone it would cut anew byte by byte, which on a CPU takes twice as long.
    halves = [_sprites(sheet, half) for half in (ids[: rows // 2], ids[rows // 2 :])]
    bands = [_joined([_page(sheet, len(half), left), half, _page(sheet, len(half), right)], axis=1) for half in halves]
    picture = _joined([_page(sheet, top, width), *bands, _page(sheet, below, width)], axis=0)
    return picture.reshape(height, width, 3)


def _sprites(sheet: Sheet, ids: jax.Array) -> jax.Array:
    """The sprites of a grid, as bytes of words: int32 [R, C] -> uint8 [R * T, C * T * 3 / 4, 4]."""
    (rows, columns), size = ids.shape, sheet.tile
    lines = ids[:, None, :] * size + jnp.arange(size, dtype=ids.dtype)[None, :, None]  # [R, T, C]
    words = jnp.take(sheet.lines, lines, axis=0, mode="clip").reshape(rows * size, columns * size * 3 // 4)
    return jax.lax.bitcast_convert_type(words, jnp.uint8)


def _page(sheet: Sheet, height: int, width: int) -> jax.Array:
    """The page behind the board, pixels high and wide, as bytes of words."""
    line = jnp.tile(jax.lax.bitcast_convert_type(sheet.background, jnp.uint8), (width // 4, 1))
    return jnp.broadcast_to(line, (height, *line.shape))


def _joined(parts: list[jax.Array], axis: int) -> jax.Array:
    """The parts side by side, without those that are empty."""
    parts = [part for part in parts if part.size]
    return jnp.concatenate(parts, axis) if parts else jnp.zeros((0, 0, 4), jnp.uint8)


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
