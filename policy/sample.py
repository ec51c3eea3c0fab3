"""Sampling: one compiled program reads every prompt once and writes its whole group of replies."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from policy.decoder import Cache, empty_cache
from policy.model import Model, Params, Pictures, reader


class Reply(NamedTuple):
    """Sampled continuations. Past a row's length, ids are padding and logprobs are 0."""

    ids: jax.Array  # int32 [rows, max_new_tokens], the stop token included when it was said
    lengths: jax.Array  # int32 [rows]
    logprobs: jax.Array  # float32 [rows, max_new_tokens], under what was sampled from; greedy: at a temperature of 1


class _Loop(NamedTuple):
    step: jax.Array  # int32 []
    logits: jax.Array  # float32 [rows, V] of the token to come
    cache: Cache  # of the replies
    done: jax.Array  # bool [rows]
    reply: Reply


@functools.partial(jax.jit, static_argnums=(0, 7, 8), static_argnames="top_k")
def generate(
    graphdef: nnx.GraphDef[Model],
    params: Params,
    ids: jax.Array,  # int32 [S, P]
    lengths: jax.Array,  # int32 [S]
    pictures: Pictures,  # uint8 [M, H, W, 3]
    key: jax.Array,  # one for all, or one for each prompt: [S], of `jax.random.key`
    temperature: jax.Array,  # float32 []; 0: greedy
    max_new_tokens: int,
    samples: int,
    *,
    top_k: int = 0,  # 0: all
    top_p: jax.Array | None = None,  # float32 []; None: all
) -> Reply:
    """Write `samples` replies to each prompt, side by side, until the last of them stops."""
    model = reader(graphdef, params)
    config = model.config
    prompt = model.prefill(ids, lengths, pictures)
    rows = ids.shape[0] * samples
    position = jnp.repeat(prompt.position, samples)
    luck = _luck(key, max_new_tokens, samples, rows)
    stops = jnp.asarray((config.stop_id, *config.stops), jnp.int32)

    def more(loop: _Loop) -> jax.Array:
        return (loop.step < max_new_tokens) & ~jnp.all(loop.done)

    def write(loop: _Loop) -> _Loop:
        token, logprob = draw(loop.logits, luck[loop.step], temperature, top_k, top_p)
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
        done = loop.done | jnp.isin(token, stops)
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


def _luck(key: jax.Array, length: int, samples: int, rows: int) -> jax.Array:
    """A number in [0, 1) for every token: float32 [length, rows]. What a prompt's own key draws depends on no other."""
    if not (key.ndim and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        return jax.random.uniform(key, (length, rows), jnp.float32)
    each = jax.vmap(lambda own: jax.random.uniform(own, (length, samples), jnp.float32))(key)
    return each.swapaxes(0, 1).reshape(length, rows)


def draw(
    logits: jax.Array, luck: jax.Array, temperature: jax.Array, top_k: int = 0, top_p: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """One token a row and its log-probability: logits float32 [rows, V], luck float32 [rows] uniform in [0, 1).

    It is drawn from what top_k and top_p leave of the distribution at that temperature: the token at which the
    cumulative probability passes the luck; at a temperature of 0 the likeliest, the first of several, with its
    log-probability at a temperature of 1. One number a row: noise for every token costs, on a CPU, as much as a layer
    of a small decoder.
    """
    below = logits - jnp.max(logits, axis=-1, keepdims=True)  # so that a tiny temperature makes nothing infinite
    scaled = narrowed(below / jnp.where(temperature > 0, temperature, 1.0), top_k, top_p)
    odds = jnp.exp(scaled)
    whole = jnp.sum(odds, axis=-1)
    wanted = jnp.where(temperature > 0, odds, (below == 0).astype(jnp.float32))
    token = _pass(wanted, jnp.where(temperature > 0, luck, 0.0) * whole)
    return token, jnp.take_along_axis(scaled, token[:, None], axis=-1)[:, 0] - jnp.log(whole)


def narrowed(logits: jax.Array, top_k: int, top_p: jax.Array | None) -> jax.Array:
    """Only the top_k likeliest of logits float32 [rows, V] (0: all); of these the fewest that have a share of top_p.

    The rest becomes -inf; equals are kept together. (Nucleus sampling: Holtzman et al., arXiv 1904.09751.)
    """
    if 0 < top_k < logits.shape[-1]:
        logits = jnp.where(logits >= jax.lax.top_k(logits, top_k)[0][:, -1:], logits, -jnp.inf)
    if top_p is not None:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        odds = jax.nn.softmax(ordered, axis=-1)
        needed = jnp.cumsum(odds, axis=-1) - odds < top_p  # as long as those before do not suffice
        least = jnp.min(jnp.where(needed, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    return logits


def _pass(weights: jax.Array, target: jax.Array) -> jax.Array:
    """Where the running sum of weights float32 [rows, V] passes a target float32 [rows]: int32 [rows].

    Block by block of about the root of V, so that few numbers are summed one after the other. What has no weight is
    never chosen, however sums are rounded.
    """
    rows, count = weights.shape
    side = math.isqrt(count - 1) + 1
    blocks = jnp.pad(weights, ((0, 0), (0, side * side - count))).reshape(rows, side, side)
    block, rest = _first_beyond(jnp.sum(blocks, axis=-1), target)
    inside, _ = _first_beyond(jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0], rest)
    return block * side + inside


def _first_beyond(weights: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first of weights [rows, n] at which their running sum exceeds the target, and what of the target is left."""
    place = jnp.arange(weights.shape[1], dtype=jnp.int32)
    there, total = weights > 0, jnp.cumsum(weights, axis=1)
    beyond = jnp.min(jnp.where(there & (total > target[:, None]), place, weights.shape[1]), axis=1)
    found = jnp.minimum(beyond, jnp.max(jnp.where(there, place, 0), axis=1))
    before = jnp.take_along_axis(total - weights, found[:, None], axis=1)[:, 0]
    return found, target - before
