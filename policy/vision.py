"""The vision tower: pictures -> image tokens, all on the device."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from policy import layers
from policy.config import VisionConfig
from policy.layers import MLP, Keys, LayerNorm, RMSNorm, SwiGLU, linear
from policy.positions import frequencies, patch_angles, patch_coordinates, rotate, stretched, windows


def patchify(pictures: jax.Array, config: VisionConfig) -> jax.Array:
    """Normalise and cut pictures: uint8 [M, H, W, 3] -> float32 [M, patches, 3 * temporal * patch * patch].

    Patches come block by block of merge x merge; order and numbers are, bit by bit, those of the NumPy image processor
    of `transformers` for Qwen2-VL. A table has what it makes of the 256 values of each colour: arithmetic would round
    as the device likes.
    """
    count, height, width, _ = pictures.shape
    p, m = config.patch, config.merge
    rows, columns = height // p, width // p
    table = jnp.asarray(_normalised(config.mean, config.std).reshape(-1))
    x = jnp.take(table, pictures.astype(jnp.int32) + jnp.asarray([[[[0, 256, 512]]]], jnp.int32), mode="clip")
    x = x.reshape(count, rows // m, m, p, columns // m, m, p, 3).transpose(0, 1, 4, 2, 5, 7, 3, 6)
    x = jnp.broadcast_to(x[:, :, :, :, :, :, None], (*x.shape[:6], config.temporal, p, p))
    return x.reshape(count, rows * columns, config.patch_values)


@functools.cache
def _normalised(mean: tuple[float, float, float], std: tuple[float, float, float]) -> np.ndarray:
    """What 0 .. 255 become in each colour: float32 [3, 256]."""
    shares = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    return (shares[None] - np.asarray(mean, np.float32)[:, None]) / np.asarray(std, np.float32)[:, None]


# Rows and columns to a neighbour: the four nearest, those behind them, the diagonal ones.
_NEIGHBOURS = [(0, 1), (0, -1), (1, 0), (-1, 0), (0, 2), (0, -2), (2, 0), (-2, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)]
_STARE, _SHRINK = 4.0, 0.3


def look_around(qkv: nnx.Linear, config: VisionConfig, layer: int) -> None:
    """Let every head begin by looking at one neighbour, whatever it sees; head after head, layer after layer the next.

    Rotary attention is relative: with constant queries and keys the score of a patch depends on its offset alone, and
    is highest where the query's turn makes up for it. So the biases are set to a stare at one neighbour and the
    content's part is shrunk. What relates neighbouring cells (runs, pairs, merges) is then learned in hundreds of
    steps; without it swap and shisen_sho stay on a plateau.
    """
    dim = config.head_dim
    turns = frequencies(dim // 2, config.rope_theta)
    bias = np.zeros((3, config.heads, dim), np.float32)
    for head in range(config.heads):
        rows, columns = _NEIGHBOURS[(layer * config.heads + head) % len(_NEIGHBOURS)]
        angle = np.concatenate([rows * turns, columns * turns])
        bias[0, head] = _STARE * np.concatenate([np.cos(angle), np.sin(angle)])
        bias[1, head, : dim // 2] = _STARE
    assert qkv.bias is not None
    qkv.bias[...] = jnp.asarray(bias.reshape(-1))
    qkv.kernel[...] = qkv.kernel[...].at[:, : 2 * config.width].multiply(_SHRINK)


def carry_over(attention: "VisionAttention", config: VisionConfig, rngs: Keys) -> None:
    """Let the last block begin without a stare, and carry what it looks at over whole, apart from what is there."""
    asked, carried, turned = rngs.params(), rngs.params(), rngs.params()
    orthogonal, size = nnx.initializers.orthogonal(dtype=jnp.float32), (config.width, config.width)
    wide = nnx.initializers.normal(0.5 * config.width**-0.5, jnp.float32)(asked, (config.width, 2 * config.width))
    assert attention.qkv.bias is not None
    attention.qkv.bias[...] = jnp.zeros_like(attention.qkv.bias[...])
    attention.qkv.kernel[...] = jnp.concatenate([wide, orthogonal(carried, size)], axis=1)
    attention.out.kernel[...] = orthogonal(turned, size)


class VisionAttention(nnx.Module):
    """Every patch of a picture, or of a window of it, attends to every other."""

    def __init__(self, config: VisionConfig, layer: int, *, rngs: Keys) -> None:
        self.heads = config.heads
        self.qkv = linear(config.width, 3 * config.width, bias=True, rngs=rngs)
        if config.looks:
            look_around(self.qkv, config, layer)
        self.out = linear(config.width, config.width, bias=True, rngs=rngs, shrink=2 * config.layers)

    def project(self, x: jax.Array, angles: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values [M, N, heads, d]; they are turned in float32."""
        count, patches, _ = x.shape
        q, k, v = jnp.moveaxis(self.qkv(x).reshape(count, patches, 3, self.heads, -1), 2, 0)
        q, k = (rotate(part.astype(jnp.float32), angles).astype(x.dtype) for part in (q, k))
        return q, k, v

    def scores(self, x: jax.Array, angles: jax.Array) -> tuple[jax.Array, jax.Array]:
        """How much each patch looks at each, before the softmax: float32 [M, heads, N, N]; and the values."""
        q, k, v = self.project(x, angles)
        # Batched products of matrices: keys lie with the patches last.
        scores = jnp.matmul(q.transpose(0, 2, 1, 3), k.transpose(0, 2, 3, 1), preferred_element_type=jnp.float32)
        return scores * q.shape[-1] ** -0.5, v.transpose(0, 2, 1, 3)

    def __call__(self, x: jax.Array, angles: jax.Array, valid: jax.Array | None) -> jax.Array:
        """x [M, N, width], angles float32 [M or 1, N, d / 2], valid bool [M or 1, N] (None: all) -> [M, N, width]."""
        if valid is None and layers.fused(x.dtype):
            return self.out(layers.attention(*self.project(x, angles)).reshape(x.shape))
        scores, values = self.scores(x, angles)
        if valid is not None:
            scores = jnp.where(valid[:, None, None], scores, jnp.finfo(jnp.float32).min)
        mixed = jnp.matmul(jax.nn.softmax(scores, axis=-1).astype(x.dtype), values)
        return self.out(mixed.transpose(0, 2, 1, 3).reshape(x.shape))


def _norm(config: VisionConfig, width: int) -> RMSNorm | LayerNorm:
    return RMSNorm(width, eps=config.eps) if config.norm == "rms" else LayerNorm(width, eps=config.eps)


class VisionBlock(nnx.Module):
    """Attention and an MLP, each after a norm and added to what came in."""

    def __init__(self, config: VisionConfig, layer: int, *, rngs: Keys) -> None:
        self.norm1 = _norm(config, config.width)
        self.attention = VisionAttention(config, layer, rngs=rngs)
        self.norm2 = _norm(config, config.width)
        sizes = config.width, config.hidden, config.layers
        self.mlp = SwiGLU(*sizes, bias=True, rngs=rngs) if config.mlp == "swiglu" else MLP(*sizes, rngs=rngs)

    @layers.alike
    def __call__(self, x: jax.Array, angles: jax.Array, valid: jax.Array | None) -> jax.Array:
        x = x + self.attention(self.norm1(x), angles, valid)
        return x + self.mlp(self.norm2(x))


class Merger(nnx.Module):
    """merge x merge patches -> one token of the decoder's width; the norm is of each patch, or of all of them."""

    def __init__(self, config: VisionConfig, out_width: int, *, together: bool = False, rngs: Keys) -> None:
        block = config.width * config.merge**2
        self.together, self.block = together, block
        self.norm = _norm(config, block if together else config.width)
        self.up = linear(block, block, bias=True, rngs=rngs)
        self.down = linear(block, out_width, bias=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[M, patches, width] -> [M, tokens, out_width]."""
        count = x.shape[0]
        x = self.norm(x.reshape(count, -1, self.block)) if self.together else self.norm(x)
        return self.down(jax.nn.gelu(self.up(x.reshape(count, -1, self.block)), approximate=False))


class Layout(NamedTuple):
    """How a picture's patches lie, block by block or window by window: a constant of its size."""

    coordinates: np.ndarray  # int32 [N, 2]: row and column of each
    back: np.ndarray | None  # int32 [tokens]: where the image tokens lie, in reading order; None: as they are
    windows: int  # how many of them there are; 1: the whole picture
    valid: np.ndarray | None  # bool [N]: no filling of a window at the edge; None: none is


@functools.cache
def layout(rows: int, columns: int, merge: int, window: int) -> Layout:
    """The layout of rows x columns patches; window = side of a window in image tokens, 0: no windows."""
    coordinates = patch_coordinates(rows, columns, merge)
    if not window:
        return Layout(coordinates, None, 1, None)
    table = windows(rows // merge, columns // merge, window)
    slots = table.reshape(-1)
    there = np.repeat(slots >= 0, merge**2)
    coordinates = coordinates.reshape(-1, merge**2, 2)[np.maximum(slots, 0)].reshape(-1, 2)
    return Layout(
        coordinates, np.argsort(np.where(slots < 0, len(slots), slots), kind="stable")[: np.sum(slots >= 0)],
        len(table), None if there.all() else there,
    )  # fmt: skip


class Trunk(NamedTuple):
    """Pictures of one size before the tower's last block."""

    x: jax.Array  # [M, N, width]
    angles: jax.Array  # float32 [N, d / 2]
    deep: tuple[jax.Array, ...]  # what blocks before have for the decoder: [M, tokens, out_width] each


class Sight(NamedTuple):
    """What a tower makes of pictures, in reading order."""

    tokens: jax.Array  # [M, tokens, out_width]
    deep: tuple[jax.Array, ...]  # [M, tokens, out_width] each: added after the decoder's first blocks


def _windowed(config: VisionConfig, block: int) -> bool:
    return bool(config.window) and block not in config.full


def _runs(config: VisionConfig) -> list[range]:
    """All blocks but the last, cut where they begin or cease to see windows, and after those with more to give."""
    last = config.layers - 1
    cuts = [
        i for i in range(1, last)
        if _windowed(config, i) != _windowed(config, i - 1) or i - 1 in config.deepstack
    ]  # fmt: skip
    return [range(*pair) for pair in zip([0, *cuts], [*cuts, last], strict=True) if pair[0] < pair[1]]


class VisionTower(nnx.Module):
    """Patch embedding, blocks, and the mergers."""

    def __init__(self, config: VisionConfig, out_width: int, *, remat: bool = False, rngs: Keys) -> None:
        self.config, self.remat = config, remat
        self.mesh: jax.sharding.Mesh | None = None
        self.embed = linear(config.patch_values, config.width, bias=config.embed_bias, rngs=rngs)
        if config.grid:
            init = nnx.initializers.normal(0.5, jnp.float32)  # learning where a cell stands wants a strong start
            self.places = nnx.Param(init(rngs.params(), (config.grid, config.grid, config.width)))
        self.blocks = nnx.List([VisionBlock(config, layer, rngs=rngs) for layer in range(config.layers)])
        if config.looks:
            carry_over(self.blocks[-1].attention, config, rngs)
        self.merger = Merger(config, out_width, rngs=rngs)
        self.deep = nnx.List([Merger(config, out_width, together=True, rngs=rngs) for _ in config.deepstack])

    def __call__(self, pictures: jax.Array) -> Sight:
        """Look at pictures of one size, uint8 [M, H, W, 3]."""
        return self.finish(self.trunk(pictures), *pictures.shape[1:3])

    def trunk(self, pictures: jax.Array) -> Trunk:
        """All blocks but the last."""
        config = self.config
        rows, columns = config.patches(*pictures.shape[1:3])
        where = layout(rows, columns, config.merge, config.window)
        patches = patchify(pictures, config).astype(self.embed.kernel[...].dtype)
        if where.back is not None:  # cut in reading order of the blocks; laid out window by window
            block = config.merge**2
            slots = np.zeros(len(where.coordinates) // block, np.int32)
            slots[where.back] = np.arange(len(where.back), dtype=np.int32)
            patches = patches.reshape(len(pictures), -1, block, config.patch_values)[:, slots]
            patches = patches.reshape(len(pictures), -1, config.patch_values)
        x = self.embed(patches)
        if config.grid:
            x = x + self._places(rows, columns, where.coordinates).astype(x.dtype)[None]
        angles = jnp.asarray(patch_angles(where.coordinates, config.head_dim, config.rope_theta))
        deep: list[jax.Array] = []
        for run in _runs(config):
            x = self._blocks(run, x, angles, where)
            deep += self._deep(run[-1], x, where)
        return Trunk(x, angles, tuple(deep))

    def finish(self, trunk: Trunk, height: int, width: int) -> Sight:
        """The last block and the mergers, for pictures of height x width pixels."""
        config, last = self.config, self.config.layers - 1
        where = layout(*config.patches(height, width), config.merge, config.window)
        x = self._blocks(range(last, last + 1), trunk.x, trunk.angles, where)
        return Sight(_in_reading_order(self.merger(x), where), (*trunk.deep, *self._deep(last, x, where)))

    def _places(self, rows: int, columns: int, coordinates: np.ndarray) -> jax.Array:
        table = self.places[...]
        if not self.config.stretch:
            return table[coordinates[:, 0], coordinates[:, 1]]
        around, weights = stretched(rows, columns, self.config.grid, coordinates)
        near = table.reshape(-1, table.shape[-1])[around].astype(jnp.float32)
        return jnp.sum(near * jnp.asarray(weights)[..., None], axis=1)

    def _blocks(self, run: range, x: jax.Array, angles: jax.Array, where: Layout) -> jax.Array:
        """Some blocks in a row that look at windows, or at whole pictures, all of them."""
        shape, parts = x.shape, where.windows if _windowed(self.config, run[0]) else 1
        if parts == 1 and where.valid is not None:  # without what fills windows: it is no part of a picture
            there = np.flatnonzero(where.valid)
            x = self._blocks(run, x[:, there], angles[there], where._replace(valid=None))
            return x[:, np.maximum(np.cumsum(where.valid) - 1, 0)]  # no window looks at it: let it be any patch
        valid = None if where.valid is None else jnp.tile(jnp.asarray(where.valid).reshape(parts, -1), (shape[0], 1))
        turns = jnp.tile(angles.reshape(parts, -1, angles.shape[-1]), (shape[0] if parts > 1 else 1, 1, 1))

        def step(block: VisionBlock, x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return block(x, turns, valid), None

        blocks, x = [self.blocks[i] for i in run], x.reshape(shape[0] * parts, -1, shape[-1])
        x, _ = layers.in_turn(step, blocks, x, [None] * len(run), remat=self.remat, mesh=self.mesh)
        return x.reshape(shape)

    def _deep(self, i: int, x: jax.Array, where: Layout) -> list[jax.Array]:
        if i not in self.config.deepstack:
            return []
        return [_in_reading_order(self.deep[self.config.deepstack.index(i)](x), where)]


def _in_reading_order(tokens: jax.Array, where: Layout) -> jax.Array:
    return tokens if where.back is None else tokens[:, where.back]
