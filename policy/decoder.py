"""The decoder: grouped-query attention over a shared prompt and an own reply, SwiGLU, RMSNorm.

Rows come in groups: `S` prompts, each continued by `G` replies. A prompt's keys and values are computed once and read
by its whole group; in sampling and in training alike. Caches are values: arguments and results, never hidden state.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from policy import layers
from policy.config import DecoderConfig
from policy.layers import Keys, RMSNorm, SwiGLU, linear
from policy.positions import mrope_angles, rotate

Layer = tuple[jax.Array, jax.Array, jax.Array]  # keys, values and which of them may be attended to


class Cache(NamedTuple):
    """Keys (already rotated) and values, one array a layer, so that a step writes in place and copies nothing.

    Keys lie with the tokens last: scores are then plain products that vectorise over tokens (20x faster on a CPU).
    """

    keys: tuple[jax.Array, ...]  # layers x [rows, kv_heads, head_dim, length]
    values: tuple[jax.Array, ...]  # layers x [rows, kv_heads, length, head_dim]
    valid: jax.Array  # bool [rows, length]: which entries may be attended to

    def followed_by(self, other: "Cache") -> "Cache":
        """What as many rows have read before and after."""
        return Cache(
            tuple(jnp.concatenate(pair, axis=3) for pair in zip(self.keys, other.keys, strict=True)),
            tuple(jnp.concatenate(pair, axis=2) for pair in zip(self.values, other.values, strict=True)),
            jnp.concatenate([self.valid, other.valid], axis=1),
        )


def empty_cache(config: DecoderConfig, rows: int, length: int, dtype: jnp.dtype) -> Cache:
    """Room for so many tokens a row, none of them valid."""
    heads, dim, layers = config.kv_heads, config.head_dim, config.layers
    return Cache(
        (jnp.zeros((rows, heads, dim, length), dtype),) * layers,
        (jnp.zeros((rows, heads, length, dim), dtype),) * layers,
        jnp.zeros((rows, length), jnp.bool_),
    )


def begin_by_copying(attention: "Attention", rngs: Keys) -> None:
    """Let every head begin by copying what it attends to, and one head a group attend to what is alike.

    Values and the way out start as the two halves of an identity, queries and keys as the same map, so that looking
    something up is worth while from the first step. After Trockman and Kolter, "Mimetic initialization of
    self-attention layers" (arXiv 2305.09828).
    """
    c = attention.config
    share, size = c.heads // c.kv_heads, (c.width, c.kv_heads * c.head_dim)
    alike, copied = (nnx.initializers.orthogonal()(rngs.params(), size, jnp.float32) for _ in range(2))
    attention.k.kernel[...] = alike
    attention.v.kernel[...] = copied
    queries = attention.q.kernel[...].reshape(c.width, c.kv_heads, share, c.head_dim)
    queries = queries.at[:, :, 0].set(alike.reshape(c.width, c.kv_heads, c.head_dim))
    attention.q.kernel[...] = queries.reshape(c.width, -1)
    back = copied.T.reshape(c.kv_heads, 1, c.head_dim, c.width) / (2 * share)
    attention.out.kernel[...] = jnp.broadcast_to(back, (c.kv_heads, share, c.head_dim, c.width)).reshape(-1, c.width)


class Attention(nnx.Module):
    """Causal grouped-query attention; the keys are those of the prompt (if any) followed by the row's own."""

    def __init__(self, config: DecoderConfig, *, rngs: Keys) -> None:
        self.config = config
        c, inner = config, config.heads * config.head_dim
        self.q = linear(c.width, inner, bias=c.qkv_bias, rngs=rngs)
        self.k = linear(c.width, c.kv_heads * c.head_dim, bias=c.qkv_bias, rngs=rngs)
        self.v = linear(c.width, c.kv_heads * c.head_dim, bias=c.qkv_bias, rngs=rngs)
        self.out = linear(inner, c.width, bias=False, rngs=rngs, shrink=2 * c.layers)
        if c.qk_norm:
            self.q_norm = RMSNorm(c.head_dim, eps=c.eps)
            self.k_norm = RMSNorm(c.head_dim, eps=c.eps)
        if c.copies:
            begin_by_copying(self, rngs)

    def project(self, x: jax.Array, angles: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries [B, kv, share, T, d]; keys [B, kv, d, T] and values [B, kv, T, d] as a cache has them."""
        c, (rows, length, _) = self.config, x.shape
        q = self.q(x).reshape(rows, length, c.heads, c.head_dim)
        k = self.k(x).reshape(rows, length, c.kv_heads, c.head_dim)
        v = self.v(x).reshape(rows, length, c.kv_heads, c.head_dim)
        if c.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, angles), rotate(k, angles)
        q = q.reshape(rows, length, c.kv_heads, c.heads // c.kv_heads, c.head_dim)
        return q.transpose(0, 2, 3, 1, 4), k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)

    def attend(
        self,
        q: jax.Array,  # [B, kv, share, T, d]
        own: Layer,  # keys [B, kv, d, K], values [B, kv, K, d], mask bool [B, T, K]
        prompt: Layer | None,  # keys [S, kv, d, P], values [S, kv, P, d], bool [S, P]
    ) -> jax.Array:
        """Attention of B = S * G rows; rows s * G ... s * G + G - 1 share prompt s. Returns [B, T, width]."""
        rows, kv, share, length, dim = q.shape
        keys, values, mask = own
        q = q.reshape(rows, kv, share * length, dim)
        scores = _scores(q, keys).reshape(rows, kv, share, length, -1)
        scores = jnp.where(mask[:, None, None], scores, -jnp.inf).reshape(rows, kv, share * length, -1)
        if prompt is None:
            mixed = jnp.matmul(jax.nn.softmax(scores, axis=-1).astype(q.dtype), values)
        else:
            mixed = self._attend_both(q, scores, values, prompt)
        mixed = mixed.reshape(rows, kv, share, length, dim).transpose(0, 3, 1, 2, 4)
        return self.out(mixed.reshape(rows, length, kv * share * dim))

    def attend_fused(self, q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array) -> jax.Array:
        """Causal attention of whole sequences, of which int32 [B] tokens count, by one kernel: [B, T, width]."""
        rows, kv, share, length, dim = q.shape
        q = q.transpose(0, 3, 1, 2, 4).reshape(rows, length, kv * share, dim)
        mixed = layers.attention(q, k.transpose(0, 3, 1, 2), v.transpose(0, 2, 1, 3), lengths, causal=True)
        return self.out(mixed.reshape(rows, length, kv * share * dim))

    @staticmethod
    def _attend_both(q: jax.Array, scores: jax.Array, values: jax.Array, prompt: Layer) -> jax.Array:
        """One softmax over prompt and own keys: q [B, kv, N, d], own scores [B, kv, N, K] -> [B, kv, N, d]."""
        (rows, kv, count, dim), (shared_keys, shared_values, valid) = q.shape, prompt
        prompts = valid.shape[0]
        group = rows // prompts
        together = q.reshape(prompts, group, kv, count, dim).swapaxes(1, 2).reshape(prompts, kv, group * count, dim)
        # Or XLA makes one product of both where a prompt has one reply, and for that joins all keys at every token.
        together = jax.lax.optimization_barrier(together)
        before = jnp.where(valid[:, None, None], _scores(together, shared_keys), -jnp.inf)
        apart = (prompts, kv, group, count)  # how a prompt's rows lie in `before`, and below in [B, kv, N]

        def split(x: jax.Array) -> jax.Array:
            return x.reshape(*apart, -1).swapaxes(1, 2).reshape(rows, kv, count, -1)

        def join(x: jax.Array) -> jax.Array:
            return x.reshape(prompts, group, kv, count, -1).swapaxes(1, 2).reshape(prompts, kv, group * count, -1)

        peak = jnp.maximum(split(jnp.max(before, axis=-1)), jnp.max(scores, axis=-1, keepdims=True))
        peak = jax.lax.stop_gradient(peak)
        shared = jnp.exp(before - join(peak))
        alone = jnp.exp(scores - peak)
        total = split(jnp.sum(shared, axis=-1)) + jnp.sum(alone, axis=-1, keepdims=True)
        mixed = split(jnp.matmul(shared.astype(q.dtype), shared_values)) + jnp.matmul(alone.astype(q.dtype), values)
        return (mixed.astype(jnp.float32) / total).astype(q.dtype)


def _scores(q: jax.Array, keys: jax.Array) -> jax.Array:
    """Scaled products in float32: q [..., N, d], keys [..., d, K] -> [..., N, K]."""
    return jnp.matmul(q, keys, preferred_element_type=jnp.float32) * jnp.float32(q.shape[-1] ** -0.5)


def _causal(valid: jax.Array) -> jax.Array:
    """Each token sees the valid ones up to itself, and itself: bool [B, T] -> bool [B, T, T]."""
    length = valid.shape[1]
    before = jnp.tril(jnp.ones((length, length), jnp.bool_))[None]
    alone = jnp.eye(length, dtype=jnp.bool_)[None]  # a pad row sees itself: no NaN
    return (before & valid[:, None, :]) | alone


class Block(nnx.Module):
    """Attention and SwiGLU, each after an RMSNorm and added to what came in."""

    def __init__(self, config: DecoderConfig, *, rngs: Keys) -> None:
        self.norm1 = RMSNorm(config.width, eps=config.eps)
        self.attention = Attention(config, rngs=rngs)
        self.norm2 = RMSNorm(config.width, eps=config.eps)
        self.mlp = SwiGLU(config.width, config.hidden, config.layers, bias=False, rngs=rngs)

    @layers.alike
    def read(
        self, x: jax.Array, angles: jax.Array, valid: jax.Array, prompt: Layer | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Whole sequences x [B, T, width], right-padded as valid, bool [B, T], says; also their keys and values."""
        q, k, v = self.attention.project(self.norm1(x), angles)
        if prompt is None and layers.fused(x.dtype):
            x = x + self.attention.attend_fused(q, k, v, jnp.sum(valid, axis=1, dtype=jnp.int32))
        else:
            x = x + self.attention.attend(q, (k, v, _causal(valid)), prompt)
        return x + self.mlp(self.norm2(x)), k, v

    @layers.alike
    def extend(
        self, x: jax.Array, angles: jax.Array, own: Layer, step: jax.Array, prompt: Layer | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """One more token a row, x [B, 1, width], the `step`-th of its reply; also the keys and values with its own."""
        q, k, v = self.attention.project(self.norm1(x), angles)
        keys, values, valid = own
        keys = jax.lax.dynamic_update_slice_in_dim(keys, k, step, axis=3)
        values = jax.lax.dynamic_update_slice_in_dim(values, v, step, axis=2)
        x = x + self.attention.attend(q, (keys, values, valid[:, None, :]), prompt)
        return x + self.mlp(self.norm2(x)), keys, values


class Decoder(nnx.Module):
    """Embeddings in, normalised hidden states and caches out."""

    def __init__(self, config: DecoderConfig, *, remat: bool = False, rngs: Keys) -> None:
        self.config, self.remat = config, remat
        self.mesh: jax.sharding.Mesh | None = None
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.layers)])
        self.norm = RMSNorm(config.width, eps=config.eps)

    def _angles(self, positions: jax.Array) -> jax.Array:
        c = self.config
        return mrope_angles(positions, c.head_dim, c.rope_theta, c.axes)

    def gaze(
        self, x: jax.Array, positions: jax.Array, asked: jax.Array, where: jax.Array, past: jax.Array
    ) -> jax.Array:
        """Where the first layer's first group of heads looks: log-attention float32 [B, share, K, T + 1].

        x [B, T, width] at positions int32 [3, B, T] is what has been read; asked [B, K, width] at int32 [3, B, K] are
        tokens that are tried alone, each seeing the past (bool [B, T]) and, in the last column, itself.
        """
        block, scale = self.blocks[0], self.config.head_dim**-0.5
        _, keys, _ = block.attention.project(block.norm1(x), self._angles(positions))
        queries, own, _ = block.attention.project(block.norm1(asked), self._angles(where))
        scores = jnp.einsum("bskd,bdt->bskt", queries[:, 0], keys[:, 0]).astype(jnp.float32) * scale
        itself = jnp.einsum("bskd,bdk->bsk", queries[:, 0], own[:, 0]).astype(jnp.float32) * scale
        scores = jnp.where(past[:, None, None], scores, -jnp.inf)
        return jax.nn.log_softmax(jnp.concatenate([scores, itself[..., None]], axis=-1), axis=-1)

    def read(
        self,
        x: jax.Array,
        positions: jax.Array,
        valid: jax.Array,
        prompt: Cache | None = None,
        deep: tuple[jax.Array, ...] = (),
    ) -> tuple[jax.Array, Cache]:
        """Read whole sequences at once: x [B, T, width], positions int32 [3, B, T], valid bool [B, T].

        Each token sees the valid ones up to itself, after those of its prompt. deep: what is added after each of the
        first blocks, [B, T, width] each (DeepStack, arXiv 2406.04334). Also returns the cache.
        """
        angles = self._angles(positions)

        def step(block: Block, x: jax.Array, before: Layer | None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            x, k, v = block.read(x, angles, valid, before)
            return x, (k, v)

        found: list[tuple[jax.Array, jax.Array]] = []
        alone, last = len(deep), self.config.layers
        for run in filter(None, [*(range(i, i + 1) for i in range(alone)), range(alone, last)]):
            blocks, before = [self.blocks[i] for i in run], [_layer(prompt, i) for i in run]
            x, more = layers.in_turn(step, blocks, x, before, remat=self.remat, mesh=self.mesh)
            x = x + deep[run[0]].astype(x.dtype) if run[0] < alone else x
            found += more
        keys, values = zip(*found, strict=True)
        return self.norm(x), Cache(keys, values, valid)

    def extend(
        self, x: jax.Array, positions: jax.Array, cache: Cache, step: jax.Array, prompt: Cache
    ) -> tuple[jax.Array, Cache]:
        """Read one more token a row, the `step`-th of its reply: x [B, 1, width], positions int32 [3, B, 1]."""
        angles = self._angles(positions)
        valid = jax.lax.dynamic_update_slice_in_dim(cache.valid, jnp.ones((x.shape[0], 1), jnp.bool_), step, axis=1)
        keys, values = [], []
        for i, block in enumerate(self.blocks):
            x, k, v = block.extend(x, angles, (cache.keys[i], cache.values[i], valid), step, _layer(prompt, i))
            keys.append(k)
            values.append(v)
        return self.norm(x), Cache(tuple(keys), tuple(values), valid)


def _layer(cache: Cache | None, i: int) -> Layer | None:
    return None if cache is None else (cache.keys[i], cache.values[i], cache.valid)
