"""What is taught straight where it arises, beside the words of a reply: at image tokens, and at attention.

A reply names its action once; a board has dozens of cells and actions. So training also asks, of every cell: what is
it, where is it, which cells can follow it in a legal action, or in a game of moves, is it like the ones beside it; and
of every action: is it legal. And it shows three
glances that lead to an answer: from a cell to the cells that can follow (last block of the tower), from the point of
decision to the cells to begin with, and from the first cell named to its image token (first layer of the decoder).
Nothing of this exists when the model plays. All of it is read off `legal`, `wanted` and `tiles`, so it holds for every
game, be its actions moves, cells or pairs of cells.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgym.game import Game
from policy.model import Model
from policy.vision import Sight, Trunk
from train.grpo import masked_mean

_HEAD = 32  # width of the heads that judge pairs of cells
_MOVES, _BESIDE = 3.0, 20.0  # how much a move counts, of which a board has few, and being like the cell beside
_RARE, _JUDGED = 5.0, 40.0  # how much a legal action counts against one that is not, and judging against the rest


class Tables(NamedTuple):
    """A game's constants in the loss; games of equal shapes share a compiled program."""

    prompt: jax.Array  # int32 [P]
    start: jax.Array  # int32 []: rotary position of a reply's first token
    answers: jax.Array  # int32 [A, 1 or 2]: tokens of every action
    begins: jax.Array  # int32 [K]: the different first tokens
    places: jax.Array  # int32 [R * C, 2]: a cell's token as an action's first and as its second; -1 where it is neither
    pairs: jax.Array  # int32 [A, 2 or 0]: the cells that an action names
    ways: jax.Array  # int32 [A]: which of the different distances, in reading order, its two cells have
    tokens: jax.Array  # int32 [R * C]: the image token in the middle of every cell
    eve: jax.Array  # int32 []: the token that stands when the action's beginning is chosen
    decided: jax.Array  # int32 []: index, from the prompt's beginning, of the token that names it


def create_heads(game: Game[Any], tables: Tables, width: int, key: jax.Array) -> dict[str, jax.Array]:
    """The heads that read image tokens in training: names of cells and worth of actions."""
    read_key, first_key, second_key = jax.random.split(key, 3)
    init = jax.nn.initializers.lecun_normal()
    heads = {"read": init(read_key, (width, len(set(game.sheet.names))))}
    if game.actions.cells.shape[1]:
        heads |= {"way": jnp.zeros((width, int(jnp.max(tables.ways)) + 1), jnp.float32)}
        heads |= {"first": init(first_key, (width, _HEAD)), "second": init(second_key, (width, _HEAD))}
    else:
        heads |= {"legal": init(first_key, (width, game.actions.n)), "want": init(second_key, (width, game.actions.n))}
        heads |= {"alike": jnp.zeros((width, 2), jnp.float32)}
    return heads


class Seen(NamedTuple):
    """What the tower makes of a batch of pictures."""

    trunk: Trunk  # before the tower's last block
    sight: Sight

    @property
    def features(self) -> jax.Array:
        """Image tokens [n, tokens, width]."""
        return self.sight.tokens


def see(model: Model, pictures: jax.Array) -> Seen:
    """Look at pictures uint8 [n, H, W, 3]."""
    trunk = model.vision.trunk(pictures)
    return Seen(trunk, model.vision.finish(trunk, *pictures.shape[1:3]))


def at_the_tower(
    model: Model,
    heads: dict[str, jax.Array],
    tables: Tables,
    seen: Seen,
    grid: jax.Array,  # int32 [n, R, C]: the word of every cell
    legal: jax.Array,  # bool [n, A]
    wanted: jax.Array,  # float32 [n, A]: the teacher's preferences
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The sum of all that is taught at the tower, and what to report."""
    words, cells = grid.reshape(grid.shape[0], -1), seen.features[:, tables.tokens]
    names = jax.nn.log_softmax(jnp.matmul(cells, heads["read"]), axis=-1)
    loss = -jnp.mean(jnp.take_along_axis(names, words[..., None], axis=-1))
    if "legal" in heads:
        board = jnp.mean(cells, axis=1)
        scores = jnp.matmul(board, heads["legal"])
        wants = jax.nn.log_softmax(jnp.matmul(board, heads["want"]), axis=-1)
        lost = jnp.mean(optax.sigmoid_binary_cross_entropy(scores, legal.astype(jnp.float32)))
        loss = loss + _MOVES * (lost + divergence(wanted, wants))
        beside = optax.sigmoid_binary_cross_entropy(jnp.matmul(cells, heads["alike"]), alike_beside(grid))
        loss = loss + _BESIDE * jnp.mean(beside)
        best = jnp.argmax(wants, axis=1)
    else:
        first, second = tables.pairs[:, 0], tables.pairs[:, 1]
        alike = jnp.matmul(jnp.matmul(cells, heads["first"]), jnp.matmul(cells, heads["second"]).swapaxes(1, 2))
        scores = jnp.matmul(cells, heads["way"])[:, first, tables.ways]
        scores = scores + alike[:, first, second] * jnp.float32(_HEAD**-0.5)
        lost = optax.sigmoid_binary_cross_entropy(scores, legal.astype(jnp.float32))
        loss = loss + _JUDGED * jnp.mean(jnp.where(legal, _RARE, 1.0) * lost)
        best = jnp.argmax(scores, axis=1)
        follow = followers(tables, legal)
        loss = loss + name_places(cells, model.embedding.embedding[...], tables, follow)
        loss = loss + glance_across(model, tables, seen, follow)
    return loss, {
        "dense_cells": jnp.mean((jnp.argmax(names, axis=-1) == words).astype(jnp.float32)),
        "dense_legal": jnp.mean(jnp.take_along_axis(legal, best[:, None], axis=1).astype(jnp.float32)),
    }


def alike_beside(grid: jax.Array) -> jax.Array:
    """Whether a cell has the word of the one to its right, of the one below: int32 [n, R, C] -> float32 [n, R * C, 2].

    What a move does is made of this; from four answers a board (is it legal?) a tower would learn it much more slowly.
    """
    right = jnp.pad(grid[:, :, :-1] == grid[:, :, 1:], ((0, 0), (0, 0), (0, 1)))
    below = jnp.pad(grid[:, :-1] == grid[:, 1:], ((0, 0), (0, 1), (0, 0)))
    return jnp.stack([right, below], axis=-1).reshape(grid.shape[0], -1, 2).astype(jnp.float32)


def begins_with(tables: Tables, mass: jax.Array) -> jax.Array:
    """What of a mass of actions float32 [n, A] begins with each cell: float32 [n, R * C]."""
    return jnp.zeros((mass.shape[0], len(tables.tokens)), jnp.float32).at[:, tables.pairs[:, 0]].add(mass)


def followers(tables: Tables, legal: jax.Array) -> jax.Array:
    """For every cell, an even distribution over the cells that can follow it: float32 [n, R * C, R * C]."""
    n, count = legal.shape[0], len(tables.tokens)
    mass = jnp.zeros((n, count, count), jnp.float32)
    return normalise(mass.at[:, tables.pairs[:, 0], tables.pairs[:, 1]].set(legal.astype(jnp.float32)))


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


def glance_across(model: Model, tables: Tables, seen: Seen, follow: jax.Array) -> jax.Array:
    """How far the tower's last attention is from looking, from every cell, at those that can follow."""
    if model.config.vision.merge != 1:  # a patch is not an image token
        return jnp.float32(0)
    last = model.vision.blocks[-1]
    scores, _ = last.attention.scores(last.norm1(seen.trunk.x), seen.trunk.angles)
    across = jax.nn.log_softmax(scores, axis=-1)[:, :, tables.tokens][:, :, :, tables.tokens]
    return divergence(jnp.broadcast_to(follow[:, None], across.shape), across)


def at_the_decoder(
    model: Model,
    tables: Tables,
    x: jax.Array,  # [n, T, width]: prompt and reply, embedded
    positions: jax.Array,  # int32 [3, n, T]
    decided: jax.Array,  # int32 [n]: index in T of the token that names the action's beginning
    wanted: jax.Array,  # float32 [n, A]
) -> jax.Array:
    """How far the decoder's first attention is from two glances: at cells to begin with, at the cell named first."""
    n, length, _ = x.shape
    tokens, before = tables.tokens, decided - 1
    place = jnp.arange(length, dtype=jnp.int32)[None]
    asked = jnp.broadcast_to(model.embedding(tables.eve), (n, 1, x.shape[-1]))
    where = jnp.broadcast_to(position_of(tables, before)[None, :, None], (3, n, 1))
    chosen = model.decoder.gaze(x, positions, asked, where, place < before[:, None])[:, :, 0, tokens]
    begin = begins_with(tables, wanted)
    loss = divergence(jnp.broadcast_to(begin[:, None], chosen.shape), chosen)

    count = tables.begins.shape[0]
    asked = jnp.broadcast_to(model.embedding(tables.begins)[None], (n, count, x.shape[-1]))
    where = jnp.broadcast_to(position_of(tables, decided)[None, :, None], (3, n, count))
    found = model.decoder.gaze(x, positions, asked, where, place < decided[:, None])
    cell = jnp.argmax(tables.places[None, :, 0] == tables.begins[:, None], axis=1)
    target = jax.nn.one_hot(tokens[cell], length + 1, dtype=jnp.float32)
    return loss + divergence(jnp.broadcast_to(target[None, None], found.shape), found)


def position_of(tables: Tables, place: jax.Array) -> jax.Array:
    """The rotary position of the reply's token at an index counted from the prompt's beginning: int32 [n]."""
    return place - tables.prompt.shape[0] + tables.start


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
