"""Boards that were answered, and what the answers earned."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train import advantages, coldstart, devices, rewards, rollout
from train.advantages import Rewards
from train.config import Config
from train.course import Course
from train.rollout import Replies

Report = dict[str, Any]  # scalars


class Round(NamedTuple):
    """S boards of a game, answered G times each: B = S * G rows."""

    replies: Replies
    worth: np.ndarray | None  # float32 [S, A]: what every action earns of the game, where that is known
    earned: Rewards  # float32 [S, G]
    blocks: np.ndarray  # int32 [B, R]: of every token, -1 where nothing is to be learned
    report: Report


def mean(reports: Sequence[Report], weights: Sequence[float] | np.ndarray | None = None) -> Report:
    """The means of what is reported of some rounds, by weights (None: alike); of `reason`, by the boards that were read
    as well.
    """
    weights = np.ones(len(reports)) if weights is None else np.asarray(weights, np.float64)
    each = {name: np.asarray([report[name] for report in reports], np.float64) for name in reports[0]}
    means: Report = {name: float(np.average(values, weights=weights)) for name, values in each.items()}
    read = weights * each["board"]
    return means | ({"reason": float(np.average(np.nan_to_num(each["reason"]), weights=read))} if read.any() else {})


def every_action(config: Config, course: Course) -> bool:
    """Whether every action of a board is judged, not only those that were answered (`--grpo-credit action`).

    That asks for a tokenizer with names for actions, for boards that are answered once, and for rewards that are known
    without a reply.
    """
    return config.grpo.credit == "action" and config.episodes.turns == 1 and bool(course.names) and not course.own


def asks_before(config: Config, courses: Iterable[Course]) -> bool:
    """Whether the divergence from the model before RL counts anywhere."""
    part = config.grpo
    return part.kl > 0 or (part.hold + part.cover > 0 and any(every_action(config, course) for course in courses))


def worth(config: Config, course: Course, state: Any, key: jax.Array, share: int = 1) -> np.ndarray | None:
    """What every action earns of the game on S boards: float32 [S, A]; None where nobody asks."""
    game, wanted = course.language.game, config.reward.game
    if wanted == "regret":
        return np.asarray(rewards.regret(coldstart.opinion(game, state, key, share), course.scale))
    if not every_action(config, course):
        return None
    count = len(jax.tree.leaves(state)[0])
    actions = np.tile(np.arange(game.actions.n, dtype=np.int32), count)
    played = rollout.play_groups(game, state, actions, key)
    legal, score = jax.device_get((played.legal, played.reward))
    rewards.sound(game.name, score)
    return (rewards.outcome if wanted == "outcome" else rewards.score)(legal, score).reshape(count, -1)


def _own(function: Callable[..., Any], where: str, tried: Replies, game: Any) -> np.ndarray:
    """What a user's function gives, asked by the first process alone: it may answer otherwise each time."""
    given = devices.first(lambda: rewards.ask_own(function, where, tried, game).tolist())
    return np.asarray(given, np.float32)


def earn(
    config: Config,
    course: Course,
    tried: Replies,
    state: Any,
    key: jax.Array,
    alive: np.ndarray | None = None,
    share: int = 1,
) -> Round:
    """What the answers to S boards in play earned. alive: bool [B], the rows to be reported of; None: all. share: so
    many boards side by side are judged by the same draws.
    """
    part, wanted, language = config.grpo, config.reward, course.language
    r, good = tried.reading, rewards.outcome(tried.legal, tried.score)
    group = len(good) // len(tried.pictures)
    of_all = worth(config, course, state, key, share)
    if wanted.game == "regret":
        assert of_all is not None
        played = rewards.earned_by(of_all, r.actions)
    else:
        played = good if wanted.game == "outcome" else rewards.score(tried.legal, tried.score)
    own = _own(course.own, wanted.own, tried, language.game) if course.own else None
    earned = rewards.parts(
        played if own is None else played + own,
        r,
        group,
        format=wanted.format,
        perception=wanted.perception,
        exact=wanted.exact,
    )
    ids, lengths = map(np.asarray, tried.sampled[:2])
    blocks, whole = language.blocks(ids, lengths), language.ended(ids, lengths)
    if part.mask_truncated:
        blocks = np.where(whole[:, None], blocks, -1)
    rows = slice(None) if alive is None else alive
    read = r.board[rows] > 0
    report: Report = {
        "reward": np.asarray(earned.total).reshape(-1)[rows].mean(),
        "game_reward": played[rows].mean(),
        **({} if own is None else {"own_reward": own[rows].mean()}),
        "format": r.formatted[rows].mean(),
        "cells": r.cells[rows].mean(),
        "board": r.board[rows].mean(),
        "legal": tried.legal[rows].mean(),
        "success": (good[rows] > 0).mean(),
        "reason": (good[rows] > 0)[read].mean() if read.any() else np.nan,
        "length": lengths[rows].mean(),
        "truncated": 1 - whole[rows].mean(),
    }
    if group > 1:
        report["reward_std"] = float(jnp.mean(jnp.std(earned.total, axis=1)))
        report["differ"] = float(jnp.mean(advantages.differ(earned.total, advantages.counted(blocks, group))))
    return Round(tried, of_all, earned, blocks, report)
