"""Whole episodes: a board is answered again and again, each answer remembering those before.

Every answer is a sample of its own. It is worth what its board still brings, and is compared with those that the other
episodes of its group gave at the same turn, or (GiGPO) to the very same board. An episode of one turn is the bandit.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from policy.model import Params
from train import advantages
from train.advantages import Credit
from train.config import Config
from train.course import Course
from train.learner import Frame, Tried
from train.memory import Memory
from train.rollout import try_replies
from train.rounds import Report, Round, earn


class Turn(NamedTuple):
    """One turn of B = S * G episodes, those of a board side by side."""

    round: Round
    alive: np.ndarray  # bool [B]: the board was still in play
    board: np.ndarray  # int64 [B]: which board it was, equal for equal ones of the same group and for no others


def play(config: Config, frame: Frame, params: Params, course: Course, state: Any, key: jax.Array) -> list[Turn]:
    """Play S boards G times each, for so many turns or until all are over. Episodes of a board share its luck."""
    part, episodes, language = config.grpo, config.episodes, course.language
    group, count = part.group, len(jax.tree.leaves(state)[0])
    boards = jax.tree.map(lambda leaf: jnp.repeat(leaf, group, axis=0), state)
    memory = Memory(language, episodes.history, episodes.pictures)
    alive, turns = np.ones(count * group, bool), []
    seen: dict[tuple[int, bytes], int] = {}
    for turn in range(episodes.turns):
        reply_key, worth_key = jax.random.split(jax.random.fold_in(key, turn))
        tried = try_replies(
            frame.graphdef, params, language, boards, reply_key, 1, part.temperature, memory, share=group
        )
        found = earn(config, course, tried, boards, worth_key, alive)
        tiles = np.asarray(jax.vmap(language.game.tiles)(boards))
        which = [seen.setdefault((i // group, grid.tobytes()), len(seen)) for i, grid in enumerate(tiles)]
        turns.append(Turn(found._replace(blocks=np.where(alive[:, None], found.blocks, -1)), alive, np.asarray(which)))
        still = jnp.asarray(alive)
        boards = jax.tree.map(
            lambda new, old, still=still: jnp.where(still.reshape(-1, *[1] * (new.ndim - 1)), new, old),
            tried.played.state,
            boards,
        )
        memory.remember(tried.pictures, tried.texts, tried.legal, np.zeros(len(alive), bool))
        alive = alive & ~np.asarray(tried.played.over)
        if not alive.any():
            break
    return turns


def report(turns: list[Turn], group: int, discount: float) -> Report:
    """What to log of episodes: the means over the answers given, and of the episodes their lengths and returns."""
    alive = np.stack([turn.alive for turn in turns])
    weights = alive.sum(axis=1)
    means = {
        name: float(np.average([turn.round.report[name] for turn in turns], weights=weights))
        for name in turns[0].round.report
    }
    game, *others = _earned(turns)
    worth = advantages.to_go(game, discount)[0]
    total = jnp.asarray(worth + sum(part.sum(axis=0) for part in others)).reshape(-1, group)
    return means | {
        "reward_std": float(jnp.mean(jnp.std(total, axis=1))),
        "differ": float(jnp.mean(advantages.differ(total))),
        "turns": float(alive.sum(axis=0).mean()),
        "return": float(worth.mean()),
    }


def _earned(turns: list[Turn]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What every answer earned: of the game, for its format, for what it read; float32 [T, B] each, 0 after the end."""
    parts = zip(*(turn.round.earned for turn in turns), strict=True)
    alive = np.stack([turn.alive for turn in turns])
    game, format, perception = (np.stack([np.asarray(p).reshape(-1) for p in part]) * alive for part in parts)
    return game, format, perception


def learned_from(config: Config, turns: list[Turn]) -> list[Tried]:
    """What is learned from, turn by turn: S * G rows each, every token with its credit."""
    part, episodes = config.grpo, config.episodes
    game, format, perception = _earned(turns)
    alive = np.stack([turn.alive for turn in turns])
    worth = advantages.to_go(game, episodes.discount)
    length, rows = game.shape
    start = np.arange(rows) // part.group
    keep = part.keep if 0 < part.keep < part.group else part.group
    whole = (worth[0] + format.sum(axis=0) + perception.sum(axis=0)).reshape(-1, part.group)
    best = np.asarray(advantages.farthest(jnp.asarray(whole), keep)) if keep < part.group else None
    kept = np.arange(rows) if best is None else (np.arange(len(whole))[:, None] * part.group + best).reshape(-1)
    alive, start = alive[:, kept], start[kept]
    by_turn = np.broadcast_to(np.arange(length)[:, None] * rows + start, alive.shape)

    def compare(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
        out = np.zeros(alive.shape, np.float32)
        out[alive] = advantages.among(values[:, kept][alive], groups[alive], scale=part.scale)
        return out

    def done(extra: np.ndarray) -> np.ndarray:
        if not episodes.same_board:
            return compare(worth + extra, by_turn)
        over_all = np.broadcast_to((worth[0] + extra.sum(axis=0)), game.shape)
        episode = compare(over_all, np.broadcast_to(start, alive.shape))
        board = np.stack([turn.board for turn in turns])[:, kept]
        return episode + np.float32(episodes.same_board) * compare(worth + extra, board)

    if part.credit == "reply":
        seen = acted = done(format + perception)
    else:
        seen, acted = compare(perception + format, by_turn), done(format)
    out = []
    for t, turn in enumerate(turns):
        blocks, replies = turn.round.blocks[kept], turn.round.replies
        advantage = np.where(blocks == 0, seen[t][:, None], acted[t][:, None])
        units = np.minimum(blocks, 0) if part.credit == "reply" else blocks
        pictures = replies.prompts.pictures
        shown = pictures.reshape(rows, -1, *pictures.shape[1:])[kept].reshape(-1, *pictures.shape[1:])
        out.append(
            Tried(
                prompts=replies.prompts._replace(
                    ids=replies.prompts.ids[kept], lengths=replies.prompts.lengths[kept], pictures=shown
                ),
                ids=replies.sampled.ids[kept],
                sampler=replies.sampled.logprobs[kept],
                old=None,
                reference=None,
                credit=Credit(jnp.asarray(advantage), jnp.asarray(units)),
            )
        )
    return out
