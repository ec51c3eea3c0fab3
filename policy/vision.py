"""The vision tower: pictures -> image tokens, all on the device."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from policy.config import VisionConfig
from policy.layers import SwiGLU, linear
from policy.positions import frequencies, patch_angles, patch_coordinates, rotate


def patchify(pictures: jax.Array, config: VisionConfig) -> jax.Array:
    """Normalise and cut pictures: uint8 [M, H, W, 3] -> float32 [M, patches, 3 * temporal * patch * patch].

    Patches come block by block of merge x merge; the order is that of `transformers`' Qwen2-VL image processor.
    """
    count, height, width, _ = pictures.shape
    p, m = config.patch, config.merge
    rows, columns = height // p, width // p
    x = pictures.astype(jnp.float32) / jnp.float32(255)
    x = (x - jnp.asarray(config.mean, jnp.float32).reshape(1, 1, 1, 3)) / jnp.asarray(config.std, jnp.float32).reshape(
        1, 1, 1, 3
    )
    x = x.reshape(count, rows // m, m, p, columns // m, m, p, 3).transpose(0, 1, 4, 2, 5, 7, 3, 6)
    x = jnp.broadcast_to(x[:, :, :, :, :, :, None], (*x.shape[:6], config.temporal, p, p))
    return x.reshape(count, rows * columns, config.patch_values)


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


def carry_over(attention: "VisionAttention", config: VisionConfig, rngs: nnx.Rngs) -> None:
    """Let the last block begin without a stare, and carry what it looks at over whole, apart from what is there."""
    asked, carried, turned = rngs.params(), rngs.params(), rngs.params()
    orthogonal, size = nnx.initializers.orthogonal(), (config.width, config.width)
    wide = nnx.initializers.normal(0.5 * config.width**-0.5)(asked, (config.width, 2 * config.width))
    assert attention.qkv.bias is not None
    attention.qkv.bias[...] = jnp.zeros_like(attention.qkv.bias[...])
    attention.qkv.kernel[...] = jnp.concatenate([wide, orthogonal(carried, size)], axis=1)
    attention.out.kernel[...] = orthogonal(turned, size)


class VisionAttention(nnx.Module):
    """Every patch of a picture attends to every other."""

    def __init__(self, config: VisionConfig, layer: int, *, rngs: nnx.Rngs) -> None:
        self.heads = config.heads
        self.qkv = linear(config.width, 3 * config.width, bias=True, rngs=rngs)
        if config.looks:
            look_around(self.qkv, config, layer)
        self.out = linear(config.width, config.width, bias=True, rngs=rngs, shrink=2 * config.layers)

    def scores(self, x: jax.Array, angles: jax.Array) -> tuple[jax.Array, jax.Array]:
        """How much each patch looks at each, before the softmax: float32 [M, heads, N, N]; and the values."""
        count, patches, _ = x.shape
        q, k, v = jnp.moveaxis(self.qkv(x).reshape(count, patches, 3, self.heads, -1), 2, 0)
        q, k = rotate(q, angles[None]), rotate(k, angles[None])
        # Batched products of matrices: keys lie with the patches last.
        scores = jnp.matmul(q.transpose(0, 2, 1, 3), k.transpose(0, 2, 3, 1)).astype(jnp.float32)
        return scores * q.shape[-1] ** -0.5, v.transpose(0, 2, 1, 3)

    def __call__(self, x: jax.Array, angles: jax.Array) -> jax.Array:
        scores, values = self.scores(x, angles)
        mixed = jnp.matmul(jax.nn.softmax(scores, axis=-1).astype(x.dtype), values)
        return self.out(mixed.transpose(0, 2, 1, 3).reshape(x.shape))


class VisionBlock(nnx.Module):
    """Attention and SwiGLU, each after an RMSNorm and added to what came in."""

    def __init__(self, config: VisionConfig, layer: int, *, rngs: nnx.Rngs) -> None:
        self.norm1 = nnx.RMSNorm(config.width, epsilon=config.eps, rngs=rngs)
        self.attention = VisionAttention(config, layer, rngs=rngs)
        self.norm2 = nnx.RMSNorm(config.width, epsilon=config.eps, rngs=rngs)
        self.mlp = SwiGLU(config.width, config.hidden, config.layers, bias=True, rngs=rngs)

    def __call__(self, x: jax.Array, angles: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x), angles)
        return x + self.mlp(self.norm2(x))


class VisionTower(nnx.Module):
    """Patch embedding, blocks, and the merger that makes merge x merge patches one token of the decoder's width."""

    def __init__(self, config: VisionConfig, out_width: int, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.embed = linear(config.patch_values, config.width, bias=False, rngs=rngs)
        if config.grid:
            init = nnx.initializers.normal(0.5)  # learning where a cell stands wants a strong start
            self.places = nnx.Param(init(rngs.params(), (config.grid, config.grid, config.width)))
        self.blocks = nnx.List([VisionBlock(config, layer, rngs=rngs) for layer in range(config.layers)])
        if config.looks:
            carry_over(self.blocks[-1].attention, config, rngs)
        self.norm = nnx.RMSNorm(config.width, epsilon=config.eps, rngs=rngs)
        block = config.width * config.merge**2
        self.merge_in = linear(block, block, bias=True, rngs=rngs)
        self.merge_out = linear(block, out_width, bias=True, rngs=rngs)

    def __call__(self, pictures: jax.Array) -> jax.Array:
        """uint8 [M, H, W, 3] -> [M, image tokens, out_width]."""
        return self.finish(*self.trunk(pictures))

    def trunk(self, pictures: jax.Array) -> tuple[jax.Array, jax.Array]:
        """All blocks but the last: patches [M, N, width], and their angles."""
        config = self.config
        rows, columns = config.patches(*pictures.shape[1:3])
        where = patch_coordinates(rows, columns, config.merge)
        x = self.embed(patchify(pictures, config).astype(self.embed.kernel[...].dtype))
        if config.grid:
            x = x + self.places[...][where[:, 0], where[:, 1]][None]
        angles = jnp.asarray(patch_angles(where, config.head_dim, config.rope_theta))
        for block in list(self.blocks)[:-1]:
            x = block(x, angles)
        return x, angles

    def finish(self, x: jax.Array, angles: jax.Array) -> jax.Array:
        """The last block and the merger: patches [M, N, width] -> [M, image tokens, out_width]."""
        config = self.config
        x = self.blocks[-1](x, angles)
        x = self.norm(x).reshape(x.shape[0], -1, config.width * config.merge**2)
        return self.merge_out(jax.nn.gelu(self.merge_in(x), approximate=False))
