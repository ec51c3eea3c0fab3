"""One update of GRPO: boards are answered, rewards become credit, credit becomes optimizer steps, boards move on."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym import engine
from policy.model import Params
from train import advantages, coldstart, grpo, learner, rewards
from train.advantages import Rewards
from train.config import Config, Grpo
from train.course import Course
from train.learner import Frame, Hyper, Rule, Shares, TrainState, Tried
from train.rollout import BATCH, Boards, Replies, act, advance, choose, try_replies, wander

Report = dict[str, Any]  # scalars


class Round(NamedTuple):
    """S boards of a game, answered G times each: B = S * G rows."""

    replies: Replies
    earned: Rewards  # float32 [S, G]
    blocks: np.ndarray  # int32 [B, R]: of every token, -1 where nothing is to be learned
    report: Report


class Collected(NamedTuple):
    """What an update learns from in one game, and the boards after it."""

    tried: Tried
    boards: Boards
    report: Report
    written: int  # replies


def begin(config: Config, course: Course, boards: Boards, key: jax.Array) -> Boards:
    """The boards that RL begins with: those in play, or others with no more than `depth` random moves behind them."""
    depth = config.states.depth
    return wander(course.language.game, key, BATCH, min(depth, course.limit)) if depth else boards


def collect(
    config: Config, frame: Frame, params: Params, course: Course, boards: Boards, step: int, key: jax.Array
) -> Collected:
    """Let the model answer the boards of an update, judge the answers, and let the boards move on."""
    part, game = config.grpo, course.language.game
    turns = BATCH // part.states
    renew_key, *keys = jax.random.split(key, 2 + part.refill)
    if not config.states.persist and step % turns == 0:
        boards = wander(game, renew_key, BATCH, min(config.states.depth or course.limit, course.limit))
    rounds: list[Round] = []
    after = boards
    for i, own_key in enumerate(keys):
        reply_key, follow_key = jax.random.split(own_key)
        turn = (step + i) % turns
        rounds.append(answer(config, frame, params, course, every(boards.state, turn, turns), reply_key))
        if config.states.persist:
            after = follow(config, course, after, rounds[-1].replies.reading.actions, turn, follow_key)
        if sum(int(jnp.sum(advantages.differ(r.earned.total))) for r in rounds) >= part.states:
            break
    report = {name: np.mean([each.report[name] for each in rounds]) for name in rounds[0].report}
    report |= {"rounds": len(rounds)} if part.refill else {}
    return Collected(learned_from(course, rounds, part), after, report, len(rounds) * part.states * part.group)


def answer(config: Config, frame: Frame, params: Params, course: Course, state: Any, key: jax.Array) -> Round:
    """Let the model answer S boards G times each, and judge what it said."""
    part, wanted, language = config.grpo, config.reward, course.language
    reply_key, worth_key = jax.random.split(key)
    tried = try_replies(frame.graphdef, params, language, state, reply_key, part.group, part.temperature)
    r, good = tried.reading, rewards.outcome(tried.legal, tried.score)
    if wanted.game == "regret":
        worth = np.asarray(coldstart.opinion(language.game, state, worth_key))
        played = rewards.regret(np.repeat(worth, part.group, axis=0), r.actions, course.scale)
    else:
        played = good if wanted.game == "outcome" else rewards.score(tried.legal, tried.score)
    own = rewards.ask_own(course.own, wanted.own, tried, language.game) if course.own else None
    earned = rewards.parts(
        played if own is None else played + own,
        r,
        part.group,
        format=wanted.format,
        perception=wanted.perception,
        exact=wanted.exact,
    )
    ids, lengths = map(np.asarray, tried.sampled[:2])
    blocks, whole = language.blocks(ids, lengths), language.ended(ids, lengths)
    if part.mask_truncated:
        blocks = np.where(whole[:, None], blocks, -1)
    report: Report = {
        "reward": float(jnp.mean(earned.total)),
        "reward_std": float(jnp.mean(jnp.std(earned.total, axis=1))),
        "game_reward": played.mean(),
        **({} if own is None else {"own_reward": own.mean()}),
        "format": r.formatted.mean(),
        "cells": r.cells.mean(),
        "board": r.board.mean(),
        "legal": tried.legal.mean(),
        "reason": (good > 0)[r.board > 0].mean() if r.board.any() else 0.0,
        "length": lengths.mean(),
        "truncated": 1 - whole.mean(),
        "differ": float(jnp.mean(advantages.differ(earned.total))),
    }
    return Round(tried, earned, blocks, report)


def follow(config: Config, course: Course, old: Boards, answers: np.ndarray, turn: int, key: jax.Array) -> Boards:
    """The boards that were answered move on, each by whose move it is its turn to (`states.play`).

    By a group's first reply where that is the policy itself: such a board stays, as in the protocol, after a reply that
    is no legal move. answers int32 [S * G].
    """
    part, game = config.grpo, course.language.game
    act_key, luck_key = jax.random.split(key)
    turns = BATCH // part.states
    players = np.resize(np.asarray(config.states.play), part.states)
    actions = np.array(act(game, engine.random_legal, old.state, act_key))
    moves = actions[turn::turns]
    if "teacher" in players:
        moves = np.where(players == "teacher", act(game, engine.teacher, every(old.state, turn, turns), act_key), moves)
    actions[turn::turns] = np.where(players == "own", answers[:: part.group], moves)
    moved, _ = advance(game, old, jnp.asarray(actions), luck_key, course.limit)
    return choose(jnp.arange(BATCH) % turns == turn, moved, old)


def every(rows: Any, turn: int, turns: int) -> Any:
    """Every turns-th row: each slice holds boards at all stages of play, and neighbours in time are not alike."""
    return jax.tree.map(lambda leaf: leaf[turn::turns], rows)


def learned_from(course: Course, rounds: list[Round], part: Grpo) -> Tried:
    """What of some rounds is learned from, each token with its credit.

    Where groups may be refilled, those whose replies all earned alike are dropped: others take their place, and if
    there are too few, nothing is learned from what fills up the batch.
    """
    earned = Rewards(*(jnp.concatenate(each) for each in zip(*(r.earned for r in rounds), strict=True)))
    blocks = np.concatenate([r.blocks for r in rounds])
    group, length = part.group, blocks.shape[1]
    differ = np.asarray(advantages.differ(earned.total))
    chosen = np.argsort(~differ, kind="stable")[: part.states] if part.refill else np.arange(part.states)
    if part.refill:
        blocks = np.where(np.repeat(differ, group)[:, None], blocks, -1)
    earned = Rewards(*(each[chosen] for each in earned))
    keep = part.keep if 0 < part.keep < group else group
    best = np.asarray(advantages.farthest(earned.total, keep)) if keep < group else np.arange(group)[None]
    rows = (chosen[:, None] * group + best).reshape(-1)
    kept = Rewards(*(each[np.arange(len(chosen))[:, None], best] for each in earned))
    share_out = {"block": advantages.credit_by_block, "reply": advantages.credit_by_reply}[part.credit]
    sampled = [r.replies.sampled for r in rounds]
    prompts = np.broadcast_to(course.language.prompt, (part.states, len(course.language.prompt)))
    return Tried(
        prompts=jnp.asarray(prompts),
        prompt_lengths=jnp.full(part.states, prompts.shape[1], jnp.int32),
        pictures=_rows([r.replies.pictures for r in rounds], chosen),
        ids=_rows([said.ids for said in sampled], rows),
        sampler=_rows([said.logprobs for said in sampled], rows),
        old=None,
        reference=None,
        credit=share_out(kept, jnp.asarray(blocks[rows].reshape(-1, length)), scale=part.scale),
    )


def _rows(parts: list[jax.Array], rows: np.ndarray) -> jax.Array:
    """Some rows of arrays one after the other."""
    return (parts[0] if len(parts) == 1 else jnp.concatenate(parts))[rows]


def learn(
    config: Config,
    frame: Frame,
    rule: Any,
    state: TrainState,
    fixed: Params,
    reference: Callable[[], Params],
    batches: dict[str, Tried],
    lr: jax.Array,
    key: jax.Array,
) -> tuple[TrainState, dict[str, Report], jax.Array]:
    """The optimizer steps of an update; also what to report of every game, and the mean norm of gradients.

    reference: the model before RL, asked only where the divergence from it counts.
    """
    part = config.grpo
    heat = jnp.float32(part.temperature)
    once = part.epochs * part.minibatches == 1  # then the model before the step is the model in it
    if part.kl:
        params = reference()
        batches = {name: t._replace(reference=learner.score(frame, params, t, heat)) for name, t in batches.items()}
    if not once:
        params = learner.whole(state.params, fixed, frame.dtype)
        batches = {name: t._replace(old=learner.score(frame, params, t, heat)) for name, t in batches.items()}
    reports: dict[str, list[Report]] = {name: [] for name in batches}
    norms = []
    for epoch in range(part.epochs):
        order = np.arange(part.states)
        if not once:
            order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), part.states))
        for rows in np.split(order, part.minibatches):
            gradients: list[Any] = []
            moving = False
            for name, tried in batches.items():
                few = tried if once else learner.cut(tried, part.states, rows)
                report, gradient = _gradient(config, frame, state.params, fixed, few, len(rows), name)
                reports[name].append(report)
                gradients.append((gradient, {}))
                moving = moving or bool(jnp.any(few.credit.advantage != 0))
            norms.append(jnp.float32(0))
            if moving:  # else there is nothing to learn: the optimizer would make a full step of what rounding leaves
                state, norms[-1] = learner.apply(rule, state, tuple(gradients), lr)
    mean = {name: {k: jnp.mean(jnp.stack([r[k] for r in each])) for k in each[0]} for name, each in reports.items()}
    return state, mean, jnp.mean(jnp.stack(norms))


def _gradient(
    config: Config, frame: Frame, learned: Params, fixed: Params, tried: Tried, count: int, game: str
) -> tuple[Report, Params]:
    """The gradient of a minibatch of `count` boards, part by part where memory is short."""
    part = config.grpo
    rule = Rule(part.objective, kl_in_advantage=part.kl_estimate == "k1")
    numbers = (part.temperature, part.kl, part.correct or math.inf, config.reward.weight(game))
    temperature, kl, cap, weight = map(jnp.float32, numbers)
    hyper = Hyper(temperature, grpo.Clip(jnp.float32(part.clip), jnp.float32(part.clip_high)), kl, cap, weight)
    alike = advantages.shares(jnp.minimum(tried.credit.units, 0), "token")
    share = Shares(advantages.shares(tried.credit.units, part.average), alike)
    total: Any = None
    for rows in np.split(np.arange(count), config.accumulate):
        some = (tried, share) if config.accumulate == 1 else learner.cut((tried, share), count, rows)
        found = learner.grpo_gradients(frame, learned, fixed, rule, *some, hyper)
        total = found if total is None else jax.tree.map(jnp.add, total, found)
    return total
