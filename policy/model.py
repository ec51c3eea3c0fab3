"""The modules of a vision-language model, and what runs on them.

`Model` holds the modules; everything that runs is a plain function of (graphdef, params) under `jax.jit`.
"""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx

from policy import layers, sharding
from policy.config import VLMConfig
from policy.decoder import Cache, Decoder
from policy.layers import Keys, linear
from policy.positions import counted_positions, nth_image_token, token_positions
from policy.vision import Sight, VisionTower

_LOGITS = 1 << 26  # so many at a time: 256 MiB
Params = Any  # the parameters of a Model as an nnx.State: a pytree of arrays
Pictures = jax.Array | tuple[jax.Array, ...]  # uint8 [M, H, W, 3]; of several sizes: several of these, in reading order


class Said(NamedTuple):
    """What a model makes of tokens that were said: arrays [B, R]."""

    logprobs: jax.Array  # float32, of each token
    entropy: jax.Array  # float32, nats, of the distribution it was drawn from
    likeliest: jax.Array  # bool: whether it is the likeliest


class Prompt(NamedTuple):
    """What is kept of a prompt once it has been read."""

    cache: Cache
    hidden: jax.Array  # [S, width] after the last token
    position: jax.Array  # int32 [S]: position of the token to come


class Model(nnx.Module):
    """Vision tower, token embeddings, decoder and head."""

    def __init__(self, config: VLMConfig, *, rngs: Keys) -> None:
        self.config = config
        self.mesh: jax.sharding.Mesh | None = None  # see `spread_over`
        width = config.decoder.width
        self.vision = VisionTower(config.vision, width, remat=config.remat, rngs=rngs)
        init = nnx.initializers.normal(width**-0.5 if config.decoder.tied else 1.0)
        self.embedding = nnx.Embed(
            config.vocab, width, embedding_init=init, promote_dtype=layers.as_it_is, rngs=cast(nnx.Rngs, rngs)
        )
        self.decoder = Decoder(config.decoder, remat=config.remat, rngs=rngs)
        if not config.decoder.tied:
            self.head = linear(width, config.vocab, bias=False, rngs=rngs)

    def look(self, pictures: Pictures) -> Sight:
        """What the tower makes of pictures: [M, tokens, width], of several sizes [1, all tokens, width]."""
        if not isinstance(pictures, tuple):
            return jax.tree.map(lambda x: sharding.rows(x, self.mesh), self.vision(pictures))
        seen = [jax.tree.map(lambda x: x.reshape(1, -1, x.shape[-1]), self.vision(each)) for each in pictures]
        return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *seen)

    def words(self, ids: jax.Array) -> jax.Array:
        """Token embeddings of many rows: int32 [B, T] -> [B, T, width].

        On a mesh the table is first cut along the vocabulary only, as the head is: where it is cut along its width XLA
        would send all that was looked up to every device.
        """
        table = sharding.along(self.embedding.embedding[...], self.mesh, "tensor", axis=0)
        return sharding.rows(jnp.take(table, ids, axis=0), self.mesh)

    def embed(self, ids: jax.Array, features: jax.Array) -> jax.Array:
        """Token embeddings [B, T, width], image features [M, tokens, width] in the places of the placeholders."""
        image = ids == self.config.image_id
        return jnp.where(image[..., None], self._in_place(image, features), self.words(ids))

    @staticmethod
    def _in_place(image: jax.Array, features: jax.Array) -> jax.Array:
        """Image features where a mask bool [B, T] has image tokens, something else elsewhere: [B, T, width]."""
        flat = features.reshape(-1, features.shape[-1])
        return jnp.take(flat, nth_image_token(image), axis=0, mode="clip")

    def positions(self, ids: jax.Array, pictures: Pictures) -> jax.Array:
        """Where the tokens of prompts stand: ids int32 [B, T] -> int32 [3, B, T]."""
        config = self.config
        grids = picture_grids(config, pictures)
        if config.decoder.mrope:
            return token_positions(ids, config.image_id, grids)
        return counted_positions(ids, config.image_id, grids, config.decoder.span)

    def project(self, hidden: jax.Array, table: jax.Array | None = None) -> jax.Array:
        """Hidden states [..., width] -> float32 logits [..., V]; placeholders can never be said.

        table: `whole_table` where many rows, [B, T, width], have need of it.
        """
        config = self.config
        table = self._table() if table is None else table
        logits = jnp.matmul(hidden, table.astype(hidden.dtype), preferred_element_type=jnp.float32)
        vocab = jnp.arange(config.vocab, dtype=jnp.int32)
        silent = jnp.isin(vocab, jnp.asarray((config.image_id, *config.unsaid), jnp.int32))
        return jnp.where(silent.reshape((1,) * (logits.ndim - 1) + (-1,)), -jnp.inf, logits)

    def _table(self) -> jax.Array:
        return self.embedding.embedding[...].T if self.config.decoder.tied else self.head.kernel[...]

    def whole_table(self) -> jax.Array:
        """The head, [width, V], cut along the vocabulary only, once for all rows."""
        return sharding.along(self._table(), self.mesh, "tensor", axis=1)

    def read(
        self, ids: jax.Array, lengths: jax.Array, pictures: Pictures, seen: Sight | None = None
    ) -> tuple[jax.Array, Cache, jax.Array]:
        """Read right-padded prompts: hidden states [B, T, width], their cache, M-RoPE positions [3, B, T].

        Who has seen the pictures already hands in what the tower made of them.
        """
        positions = self.positions(ids, pictures)
        valid = jnp.arange(ids.shape[1], dtype=jnp.int32)[None] < lengths[:, None]
        if not picture_grids(self.config, pictures):
            hidden, cache = self.decoder.read(self.words(ids), positions, valid)
            return hidden, cache, positions
        seen, image = self.look(pictures) if seen is None else seen, ids == self.config.image_id
        deep = tuple(jnp.where(image[..., None], self._in_place(image, each), 0) for each in seen.deep)
        hidden, cache = self.decoder.read(self.embed(ids, seen.tokens), positions, valid, deep=deep)
        return hidden, cache, positions

    def prefill(self, ids: jax.Array, lengths: jax.Array, pictures: Pictures) -> Prompt:
        """Read prompts that are to be continued: ids int32 [S, P], lengths int32 [S]."""
        hidden, cache, positions = self.read(ids, lengths, pictures)
        last = (lengths - 1)[:, None]
        valid = jnp.arange(ids.shape[1], dtype=jnp.int32)[None] < lengths[:, None]
        highest = jnp.max(jnp.where(valid[None], positions, 0), axis=(0, 2))
        return Prompt(cache, jnp.take_along_axis(hidden, last[..., None], axis=1)[:, 0], highest + 1)

    def said(self, hidden: jax.Array, ids: jax.Array, temperature: jax.Array | float = 1.0) -> Said:
        """What hidden states [B, R, width] make of the tokens that came after them, ids int32 [B, R].

        Large vocabularies are gone through part by part, forward and backward, so that no more than some of the logits
        are there at a time.
        """
        mesh, table, (count, length) = self.mesh, self.whole_table(), ids.shape

        def judge(part: tuple[jax.Array, jax.Array]) -> Said:
            states, tokens = part
            logits = sharding.rows(self.project(sharding.rows(states, mesh), table), mesh, "tensor")
            logprobs = jax.nn.log_softmax(logits / temperature, axis=-1)
            picked = jnp.take_along_axis(logprobs, tokens[..., None], axis=-1)[..., 0]
            return Said(picked, entropy(logprobs), picked >= jnp.max(logprobs, axis=-1))

        # Of a mesh every device goes through its own rows.
        devices = sharding.row_parts(mesh) if count % sharding.row_parts(mesh) == 0 else 1
        size, each = max(_LOGITS // self.config.vocab, 1), count // devices * length
        if each <= size:
            return judge((hidden, ids))
        parts = -(-each // size)

        def cut(leaf: jax.Array) -> jax.Array:
            own = leaf.reshape(devices, each, *leaf.shape[2:])
            own = jnp.pad(own, [(0, 0), (0, parts * size - each)] + [(0, 0)] * (own.ndim - 2))
            return own.reshape(devices, parts, size, *leaf.shape[2:]).swapaxes(0, 1)

        judged = jax.lax.map(jax.checkpoint(judge), (cut(hidden), cut(ids)))
        return jax.tree.map(
            lambda leaf: leaf.swapaxes(0, 1).reshape(devices, -1)[:, :each].reshape(count, length), judged
        )

    def continued(self, prompt: Prompt, replies: jax.Array) -> tuple[jax.Array, Cache]:
        """Hidden states before each token of replies to prompts: int32 [S * G, R] -> [S * G, R, width].

        Also the cache of all tokens but the last, the prompts' apart.
        """
        rows, length = replies.shape[0], replies.shape[1] - 1
        group = rows // prompt.position.shape[0]
        ahead = jnp.repeat(prompt.position, group)[:, None] + jnp.arange(length, dtype=jnp.int32)[None]
        positions = jnp.broadcast_to(ahead[None], (3, rows, length))
        hidden, cache = self.decoder.read(
            self.words(replies[:, :-1]), positions, jnp.ones((rows, length), jnp.bool_), prompt.cache
        )
        first = jnp.repeat(prompt.hidden, group, axis=0)[:, None]
        return jnp.concatenate([first, hidden], axis=1), cache

    def answered(
        self,
        prompts: jax.Array,
        lengths: jax.Array,
        pictures: Pictures,
        replies: jax.Array,
        temperature: jax.Array | float = 1.0,
    ) -> Said:
        """What the model makes of replies, int32 [S * G, R], to prompts int32 [S, P] of lengths int32 [S]."""
        prompt = self.prefill(prompts, lengths, pictures)
        return self.said(self.continued(prompt, replies)[0], replies, temperature)


def reader(graphdef: nnx.GraphDef[Model], params: Params) -> Model:
    """A model of which nobody asks gradients: nothing is computed again, or stacked to be."""
    model = nnx.merge(graphdef, params)
    model.vision.remat = model.decoder.remat = False
    return model


def entropy(logprobs: jax.Array) -> jax.Array:
    """Of distributions given as log-probabilities, float32 [..., V] -> [...]; -inf is a token that is never said."""
    said = jnp.isfinite(logprobs)
    certain = jnp.where(said, logprobs, 0.0)
    return -jnp.sum(jnp.where(said, jnp.exp(certain) * certain, 0.0), axis=-1)


def picture_grids(config: VLMConfig, pictures: Pictures) -> list[tuple[int, int]]:
    """Rows and columns of image tokens of every picture, in reading order; raises ValueError when one does not fit."""
    parts = pictures if isinstance(pictures, tuple) else (pictures,)
    return [grid for part in parts if len(part) for grid in [config.image_tokens(*part.shape[1:3])] * len(part)]


@functools.lru_cache(maxsize=8)
def outline(config: VLMConfig) -> tuple[nnx.GraphDef[Model], Params]:
    """The graph of a model, and its parameters as shapes; the same ones for a config: take them as they are."""
    return nnx.split(nnx.eval_shape(lambda: Model(config, rngs=Keys(jax.random.key(0)))), nnx.Param)


def spread_over(graphdef: nnx.GraphDef[Model], params: Params, mesh: jax.sharding.Mesh | None) -> nnx.GraphDef[Model]:
    """The graph of a model whose batches are cut over a mesh; that of None holds everywhere."""
    model = nnx.merge(graphdef, params)
    if model.mesh == mesh:
        return graphdef
    model.mesh = model.vision.mesh = model.decoder.mesh = mesh
    return nnx.split(model, nnx.Param)[0]


def create(config: VLMConfig, key: jax.Array) -> tuple[nnx.GraphDef[Model], Params]:
    """A model with fresh weights: drawn on the host, so that a key has the same ones on every device.

    One array after another: arrays of one shape share a program, where one program that draws them all takes a CPU's
    compiler three times as long, and a GPU's half a minute.
    """
    host = None if jax.default_backend() == "cpu" else _host()
    with jax.default_device(host):
        graphdef, drawn = nnx.split(Model(config, rngs=Keys(jax.device_put(key, host))), nnx.Param)
    return graphdef, drawn if host is None else jax.tree.map(jnp.asarray, jax.device_get(drawn))


def _host() -> jax.Device | None:
    """The CPU as a device; None, which is the default one, where JAX was told to leave it out."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


@functools.partial(jax.jit, static_argnums=0)
def logits(
    graphdef: nnx.GraphDef[Model], params: Params, ids: jax.Array, lengths: jax.Array, pictures: Pictures
) -> jax.Array:
    """Logits float32 [B, T, V] after every token; see `policy.VLM.logits`."""
    model = nnx.merge(graphdef, params)
    hidden = sharding.rows(model.read(ids, lengths, pictures)[0], model.mesh)
    return sharding.rows(model.project(hidden, model.whole_table()), model.mesh, "tensor")


@functools.partial(jax.jit, static_argnums=0)
def reply_logits(
    graphdef: nnx.GraphDef[Model],
    params: Params,
    ids: jax.Array,  # int32 [S, P]
    lengths: jax.Array,  # int32 [S]
    pictures: Pictures,  # uint8 [M, H, W, 3]
    replies: jax.Array,  # int32 [S * G, R]
) -> jax.Array:
    """Logits float32 [S * G, R, V] of replies; every prompt is read once for its group of G."""
    model = reader(graphdef, params)
    return model.project(model.continued(model.prefill(ids, lengths, pictures), replies)[0])
