"""Where tokens stand: M-RoPE ids of text and image tokens, patch coordinates of a picture, rotary angles."""

import jax
import jax.numpy as jnp
import numpy as np


def token_positions(ids: jax.Array, image_id: int, grid: tuple[int, int]) -> jax.Array:
    """M-RoPE positions (time, row, column) of every token: ids int32 [B, T] -> int32 [3, B, T].

    Text counts up on all three axes. The tokens of a picture, `grid` = (rows, columns) of them, share one time and
    count rows and columns from there; the text after it goes on past the larger of the two (Qwen2-VL, arXiv
    2409.12191).
    """
    rows, columns = grid
    image = ids == image_id
    seen = jnp.cumsum(image, axis=1, dtype=jnp.int32)  # image tokens up to and with this one
    nth = jnp.maximum(seen - 1, 0)  # which image token of its row of ids
    complete = jnp.where(image, nth // (rows * columns), seen // (rows * columns))
    text = jnp.cumsum(~image, axis=1, dtype=jnp.int32) - jnp.where(image, 0, 1)
    base = text + complete * max(rows, columns)
    within = nth % (rows * columns)
    row = base + jnp.where(image, within // columns, 0)
    column = base + jnp.where(image, within % columns, 0)
    return jnp.stack([base, row, column])


def counted_positions(ids: jax.Array, image_id: int, grid: tuple[int, int], span: int) -> jax.Array:
    """Positions that count up one by one, the same on all three axes: ids int32 [B, T] -> int32 [3, B, T].

    A picture of fewer than `span` tokens takes up `span` places: what follows stands as far from its k-th token as
    behind any other picture.
    """
    size = grid[0] * grid[1]
    seen = jnp.cumsum(ids == image_id, axis=1, dtype=jnp.int32)
    behind = jnp.where(ids == image_id, seen - 1, seen) // size  # pictures that are complete
    index = jnp.arange(ids.shape[1], dtype=jnp.int32)[None]
    return jnp.broadcast_to((index + behind * max(span - size, 0))[None], (3, *ids.shape))


def patch_coordinates(rows: int, columns: int, merge: int) -> np.ndarray:
    """Row and column of every patch, int32 [rows * columns, 2], in the order in which merged blocks are read."""
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).astype(np.int32)
    return grid.reshape(rows // merge, merge, columns // merge, merge, 2).swapaxes(1, 2).reshape(-1, 2)


def frequencies(dim: int, theta: float) -> np.ndarray:
    """Rotary frequencies, float32 [dim / 2]."""
    return (theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)).astype(np.float32)


def mrope_angles(positions: jax.Array, dim: int, theta: float, sections: tuple[int, int, int]) -> jax.Array:
    """Angles of a decoder's heads: positions int32 [3, ...] -> float32 [..., dim / 2].

    The first sections[0] frequencies turn with time, the next with the row, the last with the column.
    """
    axis = np.repeat(np.arange(3), sections)
    turns = jnp.asarray(frequencies(dim, theta)).reshape((1,) * positions[0].ndim + (-1,))
    return jnp.moveaxis(positions[axis], 0, -1).astype(jnp.float32) * turns


def patch_angles(coordinates: np.ndarray, dim: int, theta: float) -> np.ndarray:
    """Angles of a vision tower's heads: half the frequencies turn with the row, half with the column; [N, dim / 2]."""
    angles = coordinates[:, :, None].astype(np.float32) * frequencies(dim // 2, theta)  # [N, 2, dim / 4]
    return angles.reshape(len(coordinates), dim // 2)


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Turn pairs (i, i + dim / 2) of every head: x [..., T, heads, dim], angles float32 [..., T, dim / 2]."""
    cos, sin = jnp.cos(angles)[..., None, :].astype(x.dtype), jnp.sin(angles)[..., None, :].astype(x.dtype)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
