"""Sampling: one compiled program reads every prompt once and writes its whole group of replies."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from policy.decoder import Cache, empty_cache
from policy.model import Model, Params


class Reply(NamedTuple):
    """Sampled continuations. Past a row's length, ids are padding and logprobs are 0."""

    ids: jax.Array  # int32 [rows, max_new_tokens], the stop token included when it was said
    lengths: jax.Array  # int32 [rows]
    logprobs: jax.Array  # float32 [rows, max_new_tokens], under the very distribution sampled from


class _Loop(NamedTuple):
    step: jax.Array  # int32 []
    logits: jax.Array  # float32 [rows, V] of the token to come
    cache: Cache  # of the replies
    done: jax.Array  # bool [rows]
    reply: Reply


@functools.partial(jax.jit, static_argnums=(0, 7, 8))
def generate(
    graphdef: nnx.GraphDef[Model],
    params: Params,
    ids: jax.Array,  # int32 [S, P]
    lengths: jax.Array,  # int32 [S]
    pictures: jax.Array,  # uint8 [M, H, W, 3]
    key: jax.Array,
    temperature: jax.Array,  # float32 []; 0: greedy
    max_new_tokens: int,
    samples: int,
) -> Reply:
    """Write `samples` replies to each prompt, side by side, until the last of them stops."""
    model = nnx.merge(graphdef, params)
    config = model.config
    prompt = model.prefill(ids, lengths, pictures)
    rows = ids.shape[0] * samples
    position = jnp.repeat(prompt.position, samples)

    def more(loop: _Loop) -> jax.Array:
        return (loop.step < max_new_tokens) & ~jnp.all(loop.done)

    def write(loop: _Loop) -> _Loop:
        token, logprob = draw(loop.logits, jax.random.fold_in(key, loop.step), temperature)
        token = jnp.where(loop.done, config.pad_id, token)
        reply = Reply(
            jax.lax.dynamic_update_slice(loop.reply.ids, token[:, None], (jnp.int32(0), loop.step)),
            loop.reply.lengths + jnp.where(loop.done, 0, 1).astype(jnp.int32),
            jax.lax.dynamic_update_slice(
                loop.reply.logprobs, jnp.where(loop.done, 0.0, logprob)[:, None], (jnp.int32(0), loop.step)
            ),
        )
        ahead = jnp.broadcast_to((position + loop.step)[None, :, None], (3, rows, 1))
        hidden, cache = model.decoder.extend(
            model.embedding(token)[:, None], ahead, loop.cache, loop.step, prompt.cache
        )
        done = loop.done | (token == config.stop_id)
        return _Loop(loop.step + 1, model.project(hidden[:, 0]), cache, done, reply)

    start = _Loop(
        jnp.int32(0),
        jnp.repeat(model.project(prompt.hidden), samples, axis=0),
        empty_cache(config.decoder, rows, max_new_tokens, prompt.hidden.dtype),
        jnp.zeros(rows, jnp.bool_),
        Reply(
            jnp.full((rows, max_new_tokens), config.pad_id, jnp.int32),
            jnp.zeros(rows, jnp.int32),
            jnp.zeros((rows, max_new_tokens), jnp.float32),
        ),
    )
    # Under `shard_map` a loop must begin with what varies over the mesh as it will: a False that is made of the data.
    seed = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    no = (prompt.hidden[0, 0] > 0) & (jnp.ravel(seed)[0] > 0) & (temperature > 0) & False
    start = jax.tree.map(lambda leaf: leaf | no if leaf.dtype == jnp.bool_ else leaf + no.astype(leaf.dtype), start)
    return jax.lax.while_loop(more, write, start).reply


def draw(logits: jax.Array, key: jax.Array, temperature: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One token a row and its log-probability: logits float32 [rows, V]; a temperature of 0 takes the likeliest."""
    below = logits - jnp.max(logits, axis=-1, keepdims=True)  # so that a tiny temperature makes nothing infinite
    scaled = jax.nn.log_softmax(below / jnp.where(temperature > 0, temperature, 1.0), axis=-1)
    noise = jax.random.gumbel(key, logits.shape, jnp.float32)
    token = jnp.argmax(scaled + jnp.where(temperature > 0, noise, 0.0), axis=-1).astype(jnp.int32)
    return token, jnp.take_along_axis(scaled, token[:, None], axis=-1)[:, 0]
