"""Supervised learning from written replies: the base model's format, and the teacher's cold start.

A written reply is one draw of what a teacher would say. Three things make each board teach more than that one draw:
where a reply first names its action, the target is the teacher's whole distribution over actions; there it also counts
what the model's own choice would give away (see `regret`); and what the answer rests on is taught where it arises (see
`dense`).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxgym
from jaxgym.contract import explained
from jaxgym.game import Game
from policy.decoder import Cache
from policy.model import Model, Params
from train import choices, dense, rewards, rollout
from train.dense import Tables, divergence, normalise
from train.grpo import masked_mean
from train.language import Language, take
from train.memory import Prompts

_SURE = 12.0  # how much more likely, in nats, the best action is in a lesson than the worst legal one
_GLANCES = 2.0  # how much the decoder's glances count in the phase that teaches the tower


class Lesson(NamedTuple):
    """What a batch of boards is taught, on the device; leading axis [n]."""

    state: Any
    tiles: jax.Array  # int32 [n, R, C]
    words: jax.Array  # int32 [n, R, C]: which of the sheet's different names each cell has
    pictures: jax.Array  # uint8 [n, H, W, 3]
    legal: jax.Array  # bool [n, A]
    wanted: jax.Array  # float32 [n, A]: the teacher's preferences
    drawn: jax.Array  # float32 [n, A]: the distribution that the answer is drawn from
    worth: jax.Array  # float32 [n, A]: what every action earns, see `rewards.regret`
    action: jax.Array  # int32 [n]: the draw


class Written(NamedTuple):
    """The replies of a lesson."""

    ids: jax.Array  # int32 [n, R]
    lengths: jax.Array  # int32 [n]
    blocks: jax.Array  # int32 [n, R]: which block each token is of, -1 past the end
    decision: jax.Array  # int32 [n]: where the action is first named; -1 where the tokenizer has no names for actions


@functools.partial(jax.jit, static_argnums=(0, 3))
def opinion(game: Game[Any], state: Any, key: jax.Array, share: int = 1) -> jax.Array:
    """The teacher's worth of every action on every board: float32 [n, A], -inf where illegal.

    share: to so many boards side by side the same is drawn, so that it says the same of equal ones.
    """
    keys = jax.random.split(key, jax.tree.leaves(state)[0].shape[0] // share)
    return jax.vmap(game.values)(state, jnp.repeat(keys, share))


def teach(game: Game[Any], state: Any, scale: float, key: jax.Array, *, guess: bool) -> Lesson:
    """A lesson on n boards: answers drawn from the teacher's preferences, or (a guess) from all actions alike.

    Of a board on which nothing is legal, as it was dealt, there is nothing to say: another takes its place.
    """
    value_key, draw_key = jax.random.split(key)
    values = opinion(game, state, value_key)
    alive = np.asarray(jnp.any(jnp.isfinite(values), axis=1))
    if not alive.all():
        state, values = jax.tree.map(lambda leaf: leaf[_in_place(alive)], (state, values))
    pictures, tiles = rollout.show(game, state)
    legal, wanted = jnp.isfinite(values), preferences(values, scale)
    if game.actions.cells.shape[1]:
        wanted = first_come(wanted, legal, game.actions.cells)
    drawn = jnp.full_like(wanted, 1 / game.actions.n) if guess else wanted
    action = jax.random.categorical(draw_key, jnp.log(drawn)).astype(jnp.int32)
    words = jnp.asarray(word_of_sprite(game))[tiles]
    worth = rewards.regret(values, scale)
    return Lesson(state, tiles, words, pictures, legal, wanted, drawn, worth, action)


def _in_place(alive: np.ndarray) -> np.ndarray:
    """Which row stands for each, int [n]: itself where it is alive, bool [n], else one that is, if any."""
    rows, there = np.arange(len(alive)), np.flatnonzero(alive)
    return np.where(alive, rows, there[rows % len(there)]) if len(there) else rows


def first_come(wanted: jax.Array, legal: jax.Array, cells: np.ndarray) -> jax.Array:
    """Prefer, among pairs of cells, those that come first in reading order: e times less with every legal pair before.

    wanted float32 [n, A], legal bool [n, A], cells int32 [A, 2]. Most pairs are worth the same, and a target that is
    flat over twenty of them cannot be written sharply by attention, which averages; which one it is does not matter.
    """
    order = np.lexsort(cells.T[::-1])
    rank = (jnp.cumsum(legal[:, order], axis=1) - 1)[:, np.argsort(order)].astype(jnp.float32)
    liking = jnp.where(legal, jnp.log(jnp.where(legal, wanted, 1.0)) - rank, -jnp.inf)
    return jnp.where(jnp.any(legal, axis=1, keepdims=True), jax.nn.softmax(liking, axis=1), 0.0)


def word_of_sprite(game: Game[Any]) -> np.ndarray:
    """The index, among a sheet's different names, of every sprite's: int32 [K]."""
    index = {name: i for i, name in enumerate(dict.fromkeys(game.sheet.names))}
    return np.asarray([index[name] for name in game.sheet.names], np.int32)


def measure_scale(game: Game[Any], state: Any, key: jax.Array) -> float:
    """How far apart a teacher's values of legal actions usually lie: the mean, over boards with any, of highest
    minus lowest.

    Raises ValueError where a game of a user's own gives others than it should.
    """
    mean, sound, inside = _mean_range(game, state, key)
    if not inside:
        last = len(game.sheet.names) - 1
        raise ValueError(f"{game.name}: tiles(state) has numbers that no sprite of the sheet has: they are 0 to {last}")
    if not sound:
        raise ValueError(
            f"{game.name}: values(state, key) must be a finite number for every legal action, and -inf for every other"
        )
    return max(float(mean), 1e-3)


@functools.partial(jax.jit, static_argnums=0)
def _mean_range(game: Game[Any], state: Any, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The mean range of values, whether they are what they should be, and whether all tiles are sprites."""
    values = opinion(game, state, key)
    wanted = jnp.where(jax.vmap(game.legal)(state), jnp.isfinite(values), values == -jnp.inf)
    tiles = jax.vmap(game.tiles)(state)
    alive = jnp.any(jnp.isfinite(values), axis=1)
    mean = jnp.sum(jnp.where(alive, _ranges(values), 0)) / jnp.maximum(jnp.sum(alive), 1)
    return mean, jnp.all(wanted), jnp.all((tiles >= 0) & (tiles < len(game.sheet.names)))


def preferences(values: jax.Array, scale: float) -> jax.Array:
    """Turn values float32 [n, A] into a distribution: the best action is e**12 times as likely as the worst.

    Where a board's values lie together (against `scale`, the usual range), the legal actions are nearly alike. Where
    nothing is legal there is none: zeros.
    """
    reach, best = _ranges(values) + jnp.float32(0.1 * scale), jnp.max(values, axis=1, keepdims=True)
    likely = jax.nn.softmax(_SURE * (values - best) / reach[:, None], axis=1)
    return jnp.where(jnp.isfinite(best), likely, 0.0)


def _ranges(values: jax.Array) -> jax.Array:
    """Highest minus lowest finite value of every row: float32 [n]."""
    return jnp.max(values, axis=1) - jnp.min(jnp.where(jnp.isfinite(values), values, jnp.inf), axis=1)


def write(language: Language, lesson: Lesson, *, guess: bool) -> Written:
    """Write the replies of a lesson in tokens."""
    ids, lengths = language.encode_replies(compose(language.game, lesson, guess=guess))
    actions = jax.device_get(lesson.action)
    blocks, decision = language.blocks(ids, lengths), np.full(len(ids), -1, np.int32)
    if language.named:
        decision = language.named.decision(ids, blocks, actions)
    return Written(*map(jnp.asarray, (ids, lengths, blocks, decision)))


def compose(game: Game[Any], lesson: Lesson, *, guess: bool) -> list[str]:
    """Write the replies of a lesson, on the host: the exact board, a reason, the action drawn.

    A guess gives its action without a reason: what the base model learns to write.
    """
    states, tiles, actions = jax.device_get((lesson.state, lesson.tiles, lesson.action))
    texts = []
    for i, action in enumerate(actions.tolist()):
        answer = game.actions.format(action)
        reason = f"{answer}: a guess." if guess else explained(game, take(states, i), action)
        texts.append(jaxgym.write_reply(jaxgym.describe(game.sheet, tiles[i]), reason, answer))
    return texts


def tables(language: Language) -> Tables | None:
    """Gather a game's constants; None where the tokenizer has no names for its actions."""
    if language.named is None:
        return None
    answers = language.named.answers
    pairs = language.game.actions.cells
    places = np.full((len(language.cells), 2), -1, np.int32)
    for side in range(pairs.shape[1]):
        places[pairs[:, side], side] = answers[:, side]
    if pairs.shape[1] == 1:  # a cell alone is a pair with itself
        pairs = np.repeat(pairs, 2, axis=1)
    ways = np.unique(pairs[:, 1:] - pairs[:, :1], axis=0, return_inverse=True)[1].reshape(-1)
    prompt, opening = language.prompt, language.named.opening
    constants = (prompt, language.named.start, answers, np.unique(answers[:, 0]), places, pairs, ways, language.cells)
    last = (opening[-1], len(prompt) + len(opening))
    return Tables(*(jnp.asarray(x, jnp.int32) for x in (*constants, *last)))


def sight_loss(
    graphdef: nnx.GraphDef[Model], params: Params, heads: dict[str, jax.Array], tables: Tables, lesson: Lesson
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """What is taught at the tower, and where the decoder's first attention is to look in it: no text, no decoder."""
    model = nnx.merge(graphdef, params)
    seen = dense.see(model, lesson.pictures)
    loss, report = dense.at_the_tower(model, heads, tables, seen, lesson.words, lesson.legal, lesson.wanted)
    if tables.pairs.shape[1]:
        n = lesson.legal.shape[0]
        prompt, decided = (jnp.broadcast_to(x[None], (n, *x.shape)) for x in (tables.prompt, tables.decided))
        x, positions = model.embed(prompt, seen.features), model.positions(prompt, lesson.pictures)
        loss += _GLANCES * dense.at_the_decoder(model, tables, x, positions, decided, lesson.wanted)
    return loss, {"loss": loss, **report}


def words_loss(
    graphdef: nnx.GraphDef[Model],
    params: Params,
    _: dict[str, jax.Array],
    prompts: Prompts,
    written: Written,
    share: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy of written replies alone: for a model with a tokenizer of its own, and for replies on disk.

    share float32 [n, R]: how much each token counts. What is reported of boards is for `of_those_asked`.
    """
    said = nnx.merge(graphdef, params).answered(*prompts, written.ids)
    perception = written.blocks == 0
    reading = perception.any(axis=1)
    loss = -jnp.sum(jnp.where(share > 0, share * said.logprobs, 0.0))
    return loss, {
        "loss": loss,
        "tokens": jnp.mean(said.likeliest & perception, dtype=jnp.float32),
        "tokens_asked": jnp.mean(perception, dtype=jnp.float32),
        "board": jnp.mean(jnp.all(said.likeliest | ~perception, axis=1) & reading, dtype=jnp.float32),
        "board_asked": jnp.mean(reading, dtype=jnp.float32),
    }


def of_those_asked(report: dict[str, Any]) -> dict[str, Any]:
    """What `words_loss` reports, of the whole batch: the tokens that read the board, and the boards read with all of
    them, by how many there are; not a number where no reply reads its board.
    """
    shares = {name: report[name] / report[f"{name}_asked"] for name in ("tokens", "board")}
    return {name: value for name, value in report.items() if not name.endswith("_asked")} | shares


def word_shares(blocks: jax.Array, perception: float) -> jax.Array:
    """How much each token of written replies counts: blocks int32 [n, R] -> float32 [n, R].

    The mean over tokens that read the board counts 2 * perception, that over the rest 2 * (1 - perception).
    """
    reading, rest = ((mask / jnp.maximum(jnp.sum(mask), 1)) for mask in (blocks == 0, blocks > 0))
    return jnp.float32(2 * perception) * reading + jnp.float32(2 * (1 - perception)) * rest


class Weights(NamedTuple):
    """Weights of the parts of the loss, float32 []."""

    perception: jax.Array  # of reading the board, against the rest of the reply: 0 to 1
    decision: jax.Array
    dense: jax.Array
    regret: jax.Array


def loss(
    graphdef: nnx.GraphDef[Model],
    params: Params,
    heads: dict[str, jax.Array],
    tables: Tables,
    weights: Weights,
    lesson: Lesson,
    written: Written,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy of a game's written replies, block by block, plus the dense losses; and what to report."""
    model = nnx.merge(graphdef, params)
    n, length = written.ids.shape
    seen = dense.see(model, lesson.pictures)
    prompt = jnp.broadcast_to(tables.prompt[None], (n, tables.prompt.shape[0]))
    ids = jnp.concatenate([prompt, written.ids], axis=1)
    hidden, cache, positions = model.read(ids, prompt.shape[1] + written.lengths, lesson.pictures, seen.sight)
    logits = model.project(hidden[:, prompt.shape[1] - 1 : -1])
    said = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), written.ids[..., None], axis=-1)[..., 0]

    place = jnp.arange(length, dtype=jnp.int32)[None]
    start = written.decision[:, None]
    perception = place < start - 1
    deciding = (place >= start) & (place < start + tables.answers.shape[1])
    rest = (place < written.lengths[:, None]) & ~perception & ~deciding
    read, wrote = -masked_mean(said, perception), -masked_mean(said, rest)
    chose, likely = decision_loss(model, tables, lesson.drawn, written, logits, cache)
    lost = regret(likely, lesson.worth)
    extra, found = dense.at_the_tower(model, heads, tables, seen, lesson.words, lesson.legal, lesson.wanted)
    if tables.pairs.shape[1]:
        decided = prompt.shape[1] + start[:, 0]
        x = model.embed(ids, seen.features)
        extra += dense.at_the_decoder(model, tables, x, positions, decided, lesson.wanted)
    right = jnp.argmax(logits, axis=-1) == written.ids
    words = 2 * (weights.perception * read + (1 - weights.perception) * wrote)
    report = {
        "loss": words + chose,
        "cells": masked_mean(right.astype(jnp.float32), perception & (place > 0)),  # behind the block's opening tag
        "board": jnp.mean(jnp.all(right | ~perception, axis=1).astype(jnp.float32)),
        "decision_loss": chose,
        "regret": lost,
        **found,
    }
    return words + weights.decision * chose + weights.regret * lost + weights.dense * extra, report


def decision_loss(
    model: Model, tables: Tables, wanted: jax.Array, written: Written, logits: jax.Array, cache: Cache
) -> tuple[jax.Array, jax.Array]:
    """KL divergence from a distribution over whole actions, wanted float32 [n, A], where the reply names its action;
    and how likely each action is named there: log-probabilities float32 [n, A].

    Actions are one token (moves) or two (pairs of cells). The first token's target is the distribution of first tokens.
    For the second, every first token that is wanted is tried, not only the one written: each as one more token after
    what stands before the decision.
    """
    vocab = logits.shape[-1]
    here = jnp.take_along_axis(logits, written.decision[:, None, None], axis=1)[:, 0]
    first = jax.nn.log_softmax(here, axis=-1)
    lost, likely = divergence(first_tokens(tables.answers, wanted, vocab), first), first[:, tables.answers[:, 0]]
    if tables.answers.shape[1] == 1:
        return lost, likely
    decided = tables.prompt.shape[0] + written.decision  # the place of the first token
    before = cache._replace(valid=jnp.arange(cache.valid.shape[1], dtype=jnp.int32)[None] < decided[:, None])
    after = choices.tried_next(model, before, dense.position_of(tables, decided), tables.begins)
    second = jax.nn.log_softmax(after, axis=-1)
    lost += divergence(second_tokens(tables.answers, tables.begins, wanted, vocab), second)
    return lost, likely + second[:, first_of(tables.answers, tables.begins), tables.answers[:, 1]]


def regret(likely: jax.Array, worth: jax.Array) -> jax.Array:
    """What a choice among all actions is expected to give away against the best: float32 [], the mean over boards.

    The divergence from the teacher teaches a model that is unsure to spread its choice as its doubts are spread; this,
    to choose what it expects most of. It is imitation by cost to go (AggreVaTe: Ross and Bagnell, arXiv 1406.5979).
    A board counts by its share of legal actions: where few are, doubts are better spread, for after an illegal one the
    board stays as it is, and a model that is sure of it is stuck.
    likely, worth: log-probabilities and what is earned, float32 [n, A], that below 0 where an action is illegal; to
    name no action earns as an illegal one does.
    """
    given_away = jnp.max(worth, axis=1) - jnp.sum(choices.odds_of(likely) * choices.earned(worth), axis=1)
    return jnp.mean(jnp.mean(worth >= 0, axis=1) * given_away)


def first_tokens(answers: jax.Array, wanted: jax.Array, vocab: int) -> jax.Array:
    """The distribution of an answer's first token: answers int32 [A, L], wanted float32 [n, A] -> float32 [n, V]."""
    return jnp.zeros((wanted.shape[0], vocab), jnp.float32).at[:, answers[:, 0]].add(wanted)


def second_tokens(answers: jax.Array, begins: jax.Array, wanted: jax.Array, vocab: int) -> jax.Array:
    """For every possible first token (begins int32 [K]), the distribution of the second: float32 [n, K, V].

    All zero where no wanted answer begins so.
    """
    mass = jnp.zeros((wanted.shape[0], begins.shape[0], vocab), jnp.float32)
    return normalise(mass.at[:, first_of(answers, begins), answers[:, 1]].add(wanted))


def first_of(answers: jax.Array, begins: jax.Array) -> jax.Array:
    """Which of the possible first tokens each answer begins with: int32 [A]."""
    return jnp.argmax(answers[:, :1] == begins[None], axis=1)
