"""Boards that were answered, and what the answers earned."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train import advantages, coldstart, rewards
from train.advantages import Rewards
from train.config import Config
from train.course import Course
from train.rollout import Replies

Report = dict[str, Any]  # scalars


class Round(NamedTuple):
    """S boards of a game, answered G times each: B = S * G rows."""

    replies: Replies
    earned: Rewards  # float32 [S, G]
    blocks: np.ndarray  # int32 [B, R]: of every token, -1 where nothing is to be learned
    report: Report


def earn(
    config: Config, course: Course, tried: Replies, state: Any, key: jax.Array, alive: np.ndarray | None = None
) -> Round:
    """What the answers to S boards in play earned. alive: bool [B], the rows to be reported of; None: all."""
    part, wanted, language = config.grpo, config.reward, course.language
    r, good = tried.reading, rewards.outcome(tried.legal, tried.score)
    group = len(good) // len(tried.pictures)
    if wanted.game == "regret":
        worth = np.asarray(coldstart.opinion(language.game, state, key))
        played = rewards.regret(np.repeat(worth, group, axis=0), r.actions, course.scale)
    else:
        played = good if wanted.game == "outcome" else rewards.score(tried.legal, tried.score)
    own = rewards.ask_own(course.own, wanted.own, tried, language.game) if course.own else None
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
        "reward_std": float(jnp.mean(jnp.std(earned.total, axis=1))),
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
        "differ": float(jnp.mean(advantages.differ(earned.total))),
    }
    return Round(tried, earned, blocks, report)
