"""What is taught straight where it arises, beside the words of a reply: at image tokens, and at attention.

A reply names its action once; a board has dozens of cells and pairs of them. So training also asks, of every cell:
what is it, where is it, does a legal action begin with it, and which cells can follow. And it shows three glances that
lead to an answer: from a cell to the cells that can follow (last block of the tower), from the point of decision to the
cells to begin with, and from the first cell named to its image token (first layer of the decoder). Nothing of this
exists when the model plays. All of it is read off `legal` and `tiles`, so it holds for every game whose actions are
pairs of cells; games of moves are taught their cells.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgym.game import Game
from policy.model import Model
from train.grpo import masked_mean

_HEAD = 32  # width of the heads that judge pairs of cells


class Tables(NamedTuple):
    """A game's constants in the loss; games of equal shapes share a compiled program."""

    prompt: jax.Array  # int32 [P]
    start: jax.Array  # int32 []: rotary position of a reply's first token
    answers: jax.Array  # int32 [A, 1 or 2]: tokens of every action
    begins: jax.Array  # int32 [K]: the different first tokens
    places: jax.Array  # int32 [R * C, 2]: a cell's token as an action's first and as its second; -1 where it is neither
    pairs: jax.Array  # int32 [A, 2 or 0]: the cells that an action names
    tokens: jax.Array  # int32 [R * C]: the image token in the middle of every cell


def create_heads(game: Game[Any], width: int, key: jax.Array) -> dict[str, jax.Array]:
    """The heads that read image tokens in training: names of cells and, where actions are pairs of cells, legality."""
    read_key, first_key, second_key = jax.random.split(key, 3)
    init = jax.nn.initializers.lecun_normal()
    heads = {"read": init(read_key, (width, len(set(game.sheet.names))))}
    if game.actions.cells.shape[1]:
        heads |= {"begin": jnp.zeros((width, 1), jnp.float32)}
        heads |= {"first": init(first_key, (width, _HEAD)), "second": init(second_key, (width, _HEAD))}
    return heads


class Sight(NamedTuple):
    """What the model sees of a batch on its way to a decision."""

    trunk: jax.Array  # [n, patches, vision width] before the tower's last block
    angles: jax.Array  # of the patches
    features: jax.Array  # [n, image tokens, width]
    x: jax.Array  # [n, T, width]: prompt and reply, embedded
    positions: jax.Array  # int32 [3, n, T]
    decided: jax.Array  # int32 [n]: index in T of the token that names the action's beginning


def losses(
    model: Model,
    heads: dict[str, jax.Array],
    tables: Tables,
    sight: Sight,
    words: jax.Array,  # int32 [n, R * C]: the word of every cell
    legal: jax.Array,  # bool [n, A]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The sum of all that is taught here, and what to report."""
    n, cells = words.shape[0], sight.features[:, tables.tokens]
    names = jax.nn.log_softmax(jnp.matmul(cells, heads["read"]), axis=-1)
    loss = -jnp.mean(jnp.take_along_axis(names, words[..., None], axis=-1))
    report = {"dense_cells": jnp.mean((jnp.argmax(names, axis=-1) == words).astype(jnp.float32))}
    if "begin" not in heads:
        return loss, report
    first, second = tables.pairs[:, 0], tables.pairs[:, 1]
    count = cells.shape[1]
    follow = jnp.zeros((n, count, count), jnp.float32).at[:, first, second].set(legal.astype(jnp.float32))
    begin, follow = normalise(follow.sum(axis=2)), normalise(follow)

    begins = jax.nn.log_softmax(jnp.matmul(cells, heads["begin"])[..., 0], axis=-1)
    scores = jnp.matmul(jnp.matmul(cells, heads["first"]), jnp.matmul(cells, heads["second"]).swapaxes(1, 2))
    partners = jax.nn.log_softmax(scores * jnp.float32(_HEAD**-0.5), axis=-1)
    loss = loss + divergence(begin, begins) + divergence(follow, partners)
    loss = loss + name_places(cells, model.embedding.embedding[...], tables, follow)
    loss = loss + glances(model, tables, sight, begin, follow)

    best = jnp.argmax((begins[..., None] + partners)[:, first, second], axis=1)
    report["dense_legal"] = jnp.mean(jnp.take_along_axis(legal, best[:, None], axis=1).astype(jnp.float32))
    return loss, report


def name_places(cells: jax.Array, embedding: jax.Array, tables: Tables, follow: jax.Array) -> jax.Array:
    """How badly image tokens name their own place, and the places that can follow: cells [n, N, width].

    They are to name them in the embeddings of the very tokens that answers are made of: the own place in those of first
    tokens, the others in those of second tokens. Copying an image token is then answering.
    """

    def name(tokens: jax.Array) -> jax.Array:
        logits = jnp.matmul(cells, embedding[tokens].T)
        return jax.nn.log_softmax(jnp.where(tokens[None, None] >= 0, logits, -1e9), axis=-1)

    own = jnp.diagonal(name(tables.places[:, 0]), axis1=1, axis2=2)
    named = jnp.broadcast_to(tables.places[None, :, 0] >= 0, own.shape)
    return divergence(follow, name(tables.places[:, 1])) - masked_mean(own, named)


def glances(model: Model, tables: Tables, sight: Sight, begin: jax.Array, follow: jax.Array) -> jax.Array:
    """How far attention is from the three glances: begin float32 [n, N], follow float32 [n, N, N]."""
    loss, tokens = jnp.float32(0), tables.tokens
    if model.config.vision.merge == 1:  # a patch is an image token
        last = model.vision.blocks[-1]
        scores, _ = last.attention.scores(last.norm1(sight.trunk), sight.angles)
        across = jax.nn.log_softmax(scores, axis=-1)[:, :, tokens][:, :, :, tokens]
        loss = loss + divergence(jnp.broadcast_to(follow[:, None], across.shape), across)

    n, length, _ = sight.x.shape
    before = sight.decided - 1  # the token that stands when the action's beginning is chosen
    place = jnp.arange(length, dtype=jnp.int32)[None]
    asked = jnp.take_along_axis(sight.x, before[:, None, None], axis=1)
    where = jnp.broadcast_to(position_of(model, tables, before)[None, :, None], (3, n, 1))
    chosen = model.decoder.gaze(sight.x, sight.positions, asked, where, place < before[:, None])[:, :, 0, tokens]
    loss = loss + divergence(jnp.broadcast_to(begin[:, None], chosen.shape), chosen)

    count = tables.begins.shape[0]
    asked = jnp.broadcast_to(model.embedding(tables.begins)[None], (n, count, sight.x.shape[-1]))
    where = jnp.broadcast_to(position_of(model, tables, sight.decided)[None, :, None], (3, n, count))
    found = model.decoder.gaze(sight.x, sight.positions, asked, where, place < sight.decided[:, None])
    cell = jnp.argmax(tables.places[None, :, 0] == tables.begins[:, None], axis=1)
    target = jax.nn.one_hot(tokens[cell], length + 1, dtype=jnp.float32)
    return loss + divergence(jnp.broadcast_to(target[None, None], found.shape), found)


def position_of(model: Model, tables: Tables, place: jax.Array) -> jax.Array:
    """The rotary position of the reply's token at an index counted from the prompt's beginning: int32 [n]."""
    return place - tables.prompt.shape[0] + tables.start if model.config.decoder.mrope else place


def divergence(target: jax.Array, logprobs: jax.Array) -> jax.Array:
    """KL(target || model): target and log-probabilities float32 [..., K]; 0 when they agree.

    The mean over those rows that have a target (a distribution; zeros are none).
    """
    weight = jnp.where(target > 0, target, 1.0)
    lost = jnp.sum(jnp.where(target > 0, target * (jnp.log(weight) - logprobs), 0.0), axis=-1)
    return masked_mean(lost, jnp.sum(target, axis=-1) > 0)


def normalise(mass: jax.Array) -> jax.Array:
    """Rows of masses float32 [..., K] as distributions; rows without mass stay zero."""
    return mass / jnp.maximum(jnp.sum(mass, axis=-1, keepdims=True), jnp.float32(1e-9))
