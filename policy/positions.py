"""Where tokens stand: M-RoPE ids of text and image tokens, patch coordinates of a picture, rotary angles."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Places(NamedTuple):
    """The image tokens of pictures in reading order, as constants."""

    starts: np.ndarray  # int32 [M]: image tokens before each picture
    size: np.ndarray  # int32 [M]: its image tokens
    columns: np.ndarray  # int32 [M]
    alike: bool  # all pictures are of one size


def places(grids: Sequence[tuple[int, int]]) -> Places:
    """Gather what is known of pictures of so many (rows, columns) of image tokens."""
    rows, columns = np.asarray(grids, np.int32).reshape(-1, 2).T
    size = rows * columns
    return Places((np.cumsum(size) - size).astype(np.int32), size, columns, len(set(grids)) == 1)


def _which(nth: jax.Array, known: Places) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Of image tokens counted through a whole batch: place within its picture, the picture's rows, columns and size."""
    if known.alike:
        size, columns = jnp.int32(known.size[0]), jnp.int32(known.columns[0])
        return nth % size, size // columns, columns, size
    picture = jnp.searchsorted(jnp.asarray(known.starts), nth, side="right") - 1
    size, columns = jnp.asarray(known.size)[picture], jnp.asarray(known.columns)[picture]
    return nth - jnp.asarray(known.starts)[picture], size // columns, columns, size


def token_positions(ids: jax.Array, image_id: int, grids: Sequence[tuple[int, int]]) -> jax.Array:
    """M-RoPE positions (time, row, column) of every token: ids int32 [B, T] -> int32 [3, B, T].

    Text counts up on all three axes. The tokens of a picture, `grids` = (rows, columns) of each in reading order, share
    one time and count rows and columns from there; the text after it goes on past the larger of the two (Qwen2-VL,
    arXiv 2409.12191).
    """
    image = ids == image_id
    if not grids:
        return _count(jnp.ones_like(ids), jnp.zeros_like(ids), jnp.zeros_like(ids))
    within, rows, columns, size = _which(nth_image_token(image), places(grids))
    last = jnp.where(within == size - 1, jnp.maximum(rows, columns), 0)
    row, column = (jnp.where(image, x, 0) for x in (within // columns, within % columns))
    return _count(jnp.where(image, last, 1).astype(jnp.int32), row, column)


def counted_positions(ids: jax.Array, image_id: int, grids: Sequence[tuple[int, int]], span: int) -> jax.Array:
    """Positions that count up one by one, the same on all three axes: ids int32 [B, T] -> int32 [3, B, T].

    A picture of fewer than `span` tokens takes up `span` places: what follows stands as far from its k-th token as
    behind any other picture.
    """
    zero = jnp.zeros_like(ids)
    if not grids:
        return _count(jnp.ones_like(ids), zero, zero)
    image = ids == image_id
    within, _, _, size = _which(nth_image_token(image), places(grids))
    last = image & (within == size - 1)
    return _count(1 + jnp.where(last, jnp.maximum(span - size, 0), 0).astype(jnp.int32), zero, zero)


def nth_image_token(image: jax.Array) -> jax.Array:
    """Which image token of the batch, in reading order, each is: bool [B, T] -> int32; elsewhere the one before."""
    return jnp.maximum(jnp.cumsum(image.reshape(-1), dtype=jnp.int32).reshape(image.shape) - 1, 0)


def _count(advance: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """Count up by what each token moves on; rows and columns are added."""
    time = jnp.cumsum(advance, axis=1, dtype=jnp.int32) - advance
    return jnp.stack([time, time + row, time + column])


def patch_coordinates(rows: int, columns: int, merge: int) -> np.ndarray:
    """Row and column of every patch, int32 [rows * columns, 2], in the order in which merged blocks are read."""
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).astype(np.int32)
    return grid.reshape(rows // merge, merge, columns // merge, merge, 2).swapaxes(1, 2).reshape(-1, 2)


def windows(rows: int, columns: int, side: int) -> np.ndarray:
    """The image tokens of a picture, window after window of side x side of them: int32 [windows, side * side].

    Tokens are numbered in reading order; windows at the edge that are not full are filled up with -1.
    """
    down, across = -(-rows // side), -(-columns // side)
    table = np.full((down * side, across * side), -1, np.int32)
    table[:rows, :columns] = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    return table.reshape(down, side, across, side).swapaxes(1, 2).reshape(down * across, side * side)


def frequencies(dim: int, theta: float) -> np.ndarray:
    """Rotary frequencies, float32 [dim / 2]."""
    return (theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)).astype(np.float32)


def mrope_angles(positions: jax.Array, dim: int, theta: float, axes: np.ndarray) -> jax.Array:
    """Angles of a decoder's heads: positions int32 [3, ...], axes int [dim / 2] -> float32 [..., dim / 2].

    Each frequency turns with the time, the row or the column, as `axes` says.
    """
    turns = jnp.asarray(frequencies(dim, theta)).reshape((1,) * positions[0].ndim + (-1,))
    return jnp.moveaxis(positions[axes], 0, -1).astype(jnp.float32) * turns


def patch_angles(coordinates: np.ndarray, dim: int, theta: float) -> np.ndarray:
    """Angles of a vision tower's heads: half the frequencies turn with the row, half with the column; [N, dim / 2]."""
    angles = coordinates[:, :, None].astype(np.float32) * frequencies(dim // 2, theta)  # [N, 2, dim / 4]
    return angles.reshape(len(coordinates), dim // 2)


def stretched(rows: int, columns: int, side: int, coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How to read a table of side x side places as if it were stretched over rows x columns patches, corner on corner.

    coordinates int32 [N, 2] -> the four places around each patch, int32 [N, 4] in the flat table, and their weights
    float32 [N, 4] (bilinear).
    """
    low, part = [], []
    for axis, count in ((0, rows), (1, columns)):
        at = coordinates[:, axis].astype(np.float32) * np.float32(side - 1) / np.float32(max(count - 1, 1))
        low.append(np.floor(at).astype(np.int32))
        part.append(at - np.floor(at))
    (top, left), (down, right) = low, part
    below, beyond = np.minimum(top + 1, side - 1), np.minimum(left + 1, side - 1)
    around = np.stack([top * side + left, top * side + beyond, below * side + left, below * side + beyond], axis=1)
    weights = [(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right]
    return around.astype(np.int32), np.stack(weights, axis=1).astype(np.float32)


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Turn pairs (i, i + dim / 2) of every head: x [..., T, heads, dim], angles float32 [..., T, dim / 2]."""
    cos, sin = jnp.cos(angles)[..., None, :].astype(x.dtype), jnp.sin(angles)[..., None, :].astype(x.dtype)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
