"""The modules of a vision-language model, and what runs on them.

`Model` holds the modules; everything that runs is a plain function of (graphdef, params) under `jax.jit`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from policy.config import VLMConfig
from policy.decoder import Cache, Decoder
from policy.layers import linear
from policy.positions import counted_positions, token_positions
from policy.vision import VisionTower

Params = Any  # the parameters of a Model as an nnx.State: a pytree of arrays


class Prompt(NamedTuple):
    """What is kept of a prompt once it has been read."""

    cache: Cache
    hidden: jax.Array  # [S, width] after the last token
    position: jax.Array  # int32 [S]: position of the token to come


class Model(nnx.Module):
    """Vision tower, token embeddings, decoder and head."""

    def __init__(self, config: VLMConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        width = config.decoder.width
        self.vision = VisionTower(config.vision, width, rngs=rngs)
        init = nnx.initializers.normal(width**-0.5 if config.decoder.tied else 1.0)
        self.embedding = nnx.Embed(config.vocab, width, embedding_init=init, rngs=rngs)
        self.decoder = Decoder(config.decoder, rngs=rngs)
        if not config.decoder.tied:
            self.head = linear(width, config.vocab, bias=False, rngs=rngs)

    def embed(self, ids: jax.Array, features: jax.Array) -> jax.Array:
        """Token embeddings [B, T, width], image features [M, tokens, width] in the places of the placeholders."""
        image = ids == self.config.image_id
        nth = jnp.cumsum(image.reshape(-1), dtype=jnp.int32).reshape(image.shape) - 1
        flat = features.reshape(-1, features.shape[-1])
        return jnp.where(image[..., None], jnp.take(flat, nth, axis=0, mode="clip"), self.embedding(ids))

    def positions(self, ids: jax.Array, pictures: jax.Array) -> jax.Array:
        """Where the tokens of prompts stand: ids int32 [B, T], pictures of one size -> int32 [3, B, T]."""
        config, grid = self.config, self.config.image_tokens(*pictures.shape[1:3])
        if config.decoder.mrope:
            return token_positions(ids, config.image_id, grid)
        return counted_positions(ids, config.image_id, grid, config.decoder.span)

    def project(self, hidden: jax.Array) -> jax.Array:
        """Hidden states [..., width] -> float32 logits [..., V]; placeholders of image tokens can never be said."""
        logits = self.embedding.attend(hidden) if self.config.decoder.tied else self.head(hidden)
        vocab = jnp.arange(self.config.vocab, dtype=jnp.int32)
        silent = (vocab == self.config.image_id).reshape((1,) * (logits.ndim - 1) + (-1,))
        return jnp.where(silent, -jnp.inf, logits.astype(jnp.float32))

    def read(
        self, ids: jax.Array, lengths: jax.Array, pictures: jax.Array, features: jax.Array | None = None
    ) -> tuple[jax.Array, Cache, jax.Array]:
        """Read right-padded prompts: hidden states [B, T, width], their cache, M-RoPE positions [3, B, T].

        Who has the pictures' features already hands them in.
        """
        positions = self.positions(ids, pictures)
        index = jnp.arange(ids.shape[1], dtype=jnp.int32)[None]
        x = self.embed(ids, self.vision(pictures) if features is None else features)
        hidden, cache = self.decoder.read(x, positions, index < lengths[:, None])
        return hidden, cache, positions

    def prefill(
        self, ids: jax.Array, lengths: jax.Array, pictures: jax.Array, features: jax.Array | None = None
    ) -> Prompt:
        """Read prompts that are to be continued: ids int32 [S, P], lengths int32 [S], pictures uint8 [M, H, W, 3]."""
        hidden, cache, positions = self.read(ids, lengths, pictures, features)
        last = (lengths - 1)[:, None]
        valid = jnp.arange(ids.shape[1], dtype=jnp.int32)[None] < lengths[:, None]
        highest = jnp.max(jnp.where(valid[None], positions, 0), axis=(0, 2))
        return Prompt(cache, jnp.take_along_axis(hidden, last[..., None], axis=1)[:, 0], highest + 1)

    def continued(self, prompt: Prompt, replies: jax.Array) -> jax.Array:
        """Logits of replies to prompts: int32 [S * G, R] -> float32 [S * G, R, V], at [:, t] those of token t."""
        rows, length = replies.shape[0], replies.shape[1] - 1
        group = rows // prompt.position.shape[0]
        ahead = jnp.repeat(prompt.position, group)[:, None] + jnp.arange(length, dtype=jnp.int32)[None]
        positions = jnp.broadcast_to(ahead[None], (3, rows, length))
        hidden, _ = self.decoder.read(
            self.embedding(replies[:, :-1]), positions, jnp.ones((rows, length), jnp.bool_), prompt.cache
        )
        first = jnp.repeat(prompt.hidden, group, axis=0)[:, None]
        return self.project(jnp.concatenate([first, hidden], axis=1))


def outline(config: VLMConfig) -> tuple[nnx.GraphDef[Model], Params]:
    """The graph of a model, and its parameters as shapes."""
    return nnx.split(nnx.eval_shape(lambda: Model(config, rngs=nnx.Rngs(params=jax.random.key(0)))), nnx.Param)


def create(config: VLMConfig, key: jax.Array) -> tuple[nnx.GraphDef[Model], Params]:
    """A model with fresh weights."""
    graphdef, _ = outline(config)
    return graphdef, jax.jit(lambda key: nnx.state(Model(config, rngs=nnx.Rngs(params=key)), nnx.Param))(key)


@functools.partial(jax.jit, static_argnums=0)
def logits(
    graphdef: nnx.GraphDef[Model], params: Params, ids: jax.Array, lengths: jax.Array, pictures: jax.Array
) -> jax.Array:
    """Logits float32 [B, T, V] after every token; see `policy.VLM.logits`."""
    model = nnx.merge(graphdef, params)
    return model.project(model.read(ids, lengths, pictures)[0])


@functools.partial(jax.jit, static_argnums=0)
def reply_logits(
    graphdef: nnx.GraphDef[Model],
    params: Params,
    ids: jax.Array,  # int32 [S, P]
    lengths: jax.Array,  # int32 [S]
    pictures: jax.Array,  # uint8 [M, H, W, 3]
    replies: jax.Array,  # int32 [S * G, R]
) -> jax.Array:
    """Logits float32 [S * G, R, V] of replies; every prompt is read once for its group of G."""
    model = nnx.merge(graphdef, params)
    return model.continued(model.prefill(ids, lengths, pictures), replies)
