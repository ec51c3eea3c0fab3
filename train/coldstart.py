"""Supervised learning from written replies: the base model's format, and the teacher's cold start.

A written reply is one draw of what a teacher would say. Two things make each board teach more than that one draw:
where a reply first names its action, the target is the teacher's whole distribution over actions; and cells and legal
actions are also read straight off the image tokens by small heads that exist in training only.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxgym
from jaxgym.game import Game
from policy.vlm import Model, Params
from train import rollout
from train.grpo import masked_mean
from train.language import Language, take

_HEAD = 32  # width of the heads that judge pairs of cells


class Lesson(NamedTuple):
    """What a batch of boards is taught, on the device; leading axis [n]."""

    state: Any
    tiles: jax.Array  # int32 [n, R, C]
    words: jax.Array  # int32 [n, R * C]: which of the sheet's different names each cell has
    pictures: jax.Array  # uint8 [n, H, W, 3]
    legal: jax.Array  # bool [n, A]
    wanted: jax.Array  # float32 [n, A]: the distribution that the answer is drawn from
    action: jax.Array  # int32 [n]: the draw


class Written(NamedTuple):
    """The replies of a lesson."""

    ids: jax.Array  # int32 [n, R]
    lengths: jax.Array  # int32 [n]
    decision: jax.Array  # int32 [n]: where the action is first named


@functools.partial(jax.jit, static_argnums=0)
def opinion(game: Game[Any], state: Any, key: jax.Array) -> jax.Array:
    """The teacher's worth of every action on every board: float32 [n, A], -inf where illegal."""
    return jax.vmap(game.values)(state, jax.random.split(key, jax.tree.leaves(state)[0].shape[0]))


def teach(game: Game[Any], state: Any, warmth: float | None, key: jax.Array) -> Lesson:
    """A lesson on n boards: answers drawn from softmax(values / warmth), or from all actions alike (None)."""
    value_key, draw_key = jax.random.split(key)
    pictures, tiles = rollout.show(game, state)
    n = tiles.shape[0]
    if warmth is None:
        legal = rollout.permitted(game, state)
        wanted = jnp.full(legal.shape, 1 / legal.shape[1], jnp.float32)
    else:
        values = opinion(game, state, value_key)
        legal, wanted = jnp.isfinite(values), jax.nn.softmax(values / jnp.float32(warmth), axis=-1)
    action = jax.random.categorical(draw_key, jnp.log(wanted)).astype(jnp.int32)
    words = jnp.asarray(word_of_sprite(game))[tiles].reshape(n, -1)
    return Lesson(state, tiles, words, pictures, legal, wanted, action)


def word_of_sprite(game: Game[Any]) -> np.ndarray:
    """The index, among a sheet's different names, of every sprite's: int32 [K]."""
    index = {name: i for i, name in enumerate(dict.fromkeys(game.sheet.names))}
    return np.asarray([index[name] for name in game.sheet.names], np.int32)


def measure_warmth(game: Game[Any], state: Any, key: jax.Array) -> float:
    """The mean spread (standard deviation) of a teacher's values among the legal actions: the scale of its opinions."""
    values = np.asarray(opinion(game, state, key))
    spreads = [float(np.std(row[np.isfinite(row)])) for row in values if np.isfinite(row).any()]
    return max(float(np.mean(spreads)), 1e-3)


def write(language: Language, lesson: Lesson, *, guess: bool) -> Written:
    """Write the replies of a lesson, on the host: the exact board, a reason, the action drawn.

    A guess gives its action without a reason: what the base model learns to write.
    """
    game = language.game
    states, tiles, actions = jax.device_get((lesson.state, lesson.tiles, lesson.action))
    texts = []
    for i, action in enumerate(actions.tolist()):
        answer = game.actions.format(action)
        reason = f"{answer}: a guess." if guess else game.explain(take(states, i), action)
        texts.append(jaxgym.write_reply(jaxgym.describe(game.sheet, tiles[i]), reason, answer))
    ids, lengths = language.encode_replies(texts, language.room)
    decision = language.decision(ids, actions)
    return Written(jnp.asarray(ids), jnp.asarray(lengths), jnp.asarray(decision))


class Tables(NamedTuple):
    """A game's constants in the loss; games of equal shapes share a compiled program."""

    prompt: jax.Array  # int32 [P]
    answers: jax.Array  # int32 [A, L]: tokens of every action, padded with -1
    pairs: jax.Array  # int32 [A, 2 or 0]: the cells that an action names
    tokens: jax.Array  # int32 [R * C]: the image token in the middle of every cell


def tables(language: Language) -> Tables:
    """Gather a game's constants."""
    constants = (language.prompt, language.answers, language.game.actions.cells, language.cells)
    return Tables(*(jnp.asarray(x, jnp.int32) for x in constants))


def create_heads(game: Game[Any], width: int, key: jax.Array) -> dict[str, jax.Array]:
    """The heads that read image tokens in training: names of cells and, where actions are pairs of cells, legality."""
    read_key, first_key, second_key = jax.random.split(key, 3)
    init = jax.nn.initializers.lecun_normal()
    heads = {"read": init(read_key, (width, len(set(game.sheet.names))))}
    if game.actions.cells.shape[1]:
        heads |= {"first": init(first_key, (width, _HEAD)), "second": init(second_key, (width, _HEAD))}
        heads |= {"bias": jnp.full((), -3.0, jnp.float32)}
    return heads


class Weights(NamedTuple):
    """Weights of the parts of the loss, float32 []."""

    decision: jax.Array
    dense: jax.Array


def loss(
    graphdef: nnx.GraphDef[Model],
    params: Params,
    heads: dict[str, jax.Array],
    tables: Tables,
    lesson: Lesson,
    written: Written,
    weights: Weights,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy of a game's written replies, block by block, plus the dense losses; and what to report."""
    model = nnx.merge(graphdef, params)
    n, length = written.ids.shape
    features = model.vision(lesson.pictures)
    prompt = jnp.broadcast_to(tables.prompt[None], (n, tables.prompt.shape[0]))
    lengths = jnp.full(n, tables.prompt.shape[0], jnp.int32)
    logits = model.continued(model.prefill(prompt, lengths, lesson.pictures, features), written.ids)
    logprobs = jax.nn.log_softmax(logits, axis=-1)
    said = jnp.take_along_axis(logprobs, written.ids[..., None], axis=-1)[..., 0]

    place = jnp.arange(length, dtype=jnp.int32)[None]
    start, steps = written.decision[:, None], tables.answers.shape[1]
    perception = place < start - 1
    deciding = (place >= start) & (place < start + steps)
    rest = (place < written.lengths[:, None]) & ~perception & ~deciding
    read, wrote = -masked_mean(said, perception), -masked_mean(said, rest)
    chose = decision_loss(logprobs, written, tables.answers, lesson.wanted)
    dense, seen = dense_losses(heads, features[:, tables.tokens], tables.pairs, lesson)
    right = jnp.argmax(logits, axis=-1) == written.ids
    report = {
        "loss": read + wrote + chose,
        "cells": masked_mean(right.astype(jnp.float32), perception),
        "board": jnp.mean(jnp.all(right | ~perception, axis=1).astype(jnp.float32)),
        "decision_loss": chose,
        **seen,
    }
    return read + wrote + weights.decision * chose + weights.dense * dense, report


def decision_loss(logprobs: jax.Array, written: Written, answers: jax.Array, wanted: jax.Array) -> jax.Array:
    """Cross-entropy, token by token, against a distribution over whole actions: wanted float32 [n, A].

    Each action is a string of tokens (answers int32 [A, L]). At the first token the target is the distribution of first
    tokens; at the next, that among the actions which begin as the written one does; and so on.
    """
    n, vocab = logprobs.shape[0], logprobs.shape[-1]
    still, lost = wanted, jnp.zeros(n, jnp.float32)  # mass of the actions that agree with what is written so far
    for step in range(answers.shape[1]):
        tokens = answers[:, step]
        mass = jnp.where(tokens[None] >= 0, still, 0.0)
        target = jnp.zeros((n, vocab), jnp.float32).at[:, jnp.maximum(tokens, 0)].add(mass)
        target = target / jnp.maximum(jnp.sum(target, axis=1, keepdims=True), jnp.float32(1e-9))
        place = written.decision + step
        row = jnp.take_along_axis(logprobs, place[:, None, None], axis=1)[:, 0]
        lost = lost - jnp.sum(jnp.where(target > 0, target * row, 0.0), axis=1)
        token = jnp.take_along_axis(written.ids, place[:, None], axis=1)
        still = jnp.where(tokens[None] == token, still, 0.0)
    return jnp.mean(lost)


def dense_losses(
    heads: dict[str, jax.Array], cells: jax.Array, pairs: jax.Array, lesson: Lesson
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Reading and judging straight off the image tokens of the cells: cells float32 [n, R * C, width].

    Every cell is named; every pair of cells that is an action is judged legal or not. The second is weighted so that a
    board's few legal actions count as much as a board's reading.
    """
    n = cells.shape[0]
    names = jax.nn.log_softmax(jnp.matmul(cells, heads["read"]), axis=-1)
    loss = -jnp.mean(jnp.take_along_axis(names, lesson.words[..., None], axis=-1))
    report = {"dense_cells": jnp.mean((jnp.argmax(names, axis=-1) == lesson.words).astype(jnp.float32))}
    if "first" in heads:
        first, second = jnp.matmul(cells, heads["first"]), jnp.matmul(cells, heads["second"])
        scores = jnp.matmul(first, second.transpose(0, 2, 1)) * jnp.float32(_HEAD**-0.5) + heads["bias"]
        scores = scores.reshape(n, -1)[:, pairs[:, 0] * cells.shape[1] + pairs[:, 1]]
        wrong = jax.nn.softplus(scores) - jnp.where(lesson.legal, scores, 0.0)
        loss = loss + 0.5 * jnp.sum(wrong) / jnp.maximum(jnp.sum(lesson.legal), 1).astype(jnp.float32)
        best = jnp.take_along_axis(lesson.legal, jnp.argmax(scores, axis=-1)[:, None], axis=1)
        report["dense_legal"] = jnp.mean(best.astype(jnp.float32))
    return loss, report
