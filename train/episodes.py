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
from train.learner import Frame, Tried, cut
from train.memory import Memory, Prompts
from train.rollout import try_replies
from train.rounds import Report, Round, earn, mean


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
        tried = try_replies(frame.graphdef, params, language, boards, reply_key, 1, part.temperature, memory, group)
        found = earn(config, course, tried, boards, worth_key, alive, group)
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


def differ(config: Config, turns: list[Turn]) -> np.ndarray:
    """Whether the episodes of a board earned more, some of them, than others: bool [S]."""
    return np.asarray(advantages.differ(_totals(config, _earned(turns)), _counted(config, turns).any(axis=0)))


def answers(turns: list[Turn]) -> int:
    """How many answers episodes got while they were in play."""
    return sum(int(turn.alive.sum()) for turn in turns)


def report(config: Config, *rounds: list[Turn]) -> Report:
    """What to log of rounds of as many episodes each: means over the answers given, and over the episodes what they
    are as a whole.
    """
    given = [turn for turns in rounds for turn in turns]
    means = mean([turn.round.report for turn in given], [int(turn.alive.sum()) for turn in given])
    whole = [_whole_report(config, turns) for turns in rounds]
    return means | {name: float(np.mean([each[name] for each in whole])) for name in whole[0]}


def _whole_report(config: Config, turns: list[Turn]) -> Report:
    """What episodes are as a whole: their lengths and returns, and how they differ."""
    earned = _earned(turns)
    return {
        "reward_std": float(jnp.mean(jnp.std(_totals(config, earned), axis=1))),
        "differ": float(np.mean(differ(config, turns))),
        "turns": answers(turns) / len(turns[0].alive),
        "return": float(advantages.to_go(earned[0], config.episodes.discount)[0].mean()),
    }


Earned = tuple[np.ndarray, np.ndarray, np.ndarray]


def _earned(turns: list[Turn]) -> Earned:
    """What every answer earned: of the game, for its format, for what it read; float32 [T, B] each, 0 after the end."""
    parts = zip(*(turn.round.earned for turn in turns), strict=True)
    alive = np.stack([turn.alive for turn in turns])
    game, format, perception = (np.stack([np.asarray(p).reshape(-1) for p in part]) * alive for part in parts)
    return game, format, perception


def _whole(config: Config, game: np.ndarray) -> np.ndarray:
    """What episodes earned of the game: float32 [T, B] -> float32 [B]. GiGPO compares plain sums (arXiv 2505.10978, its
    returns of steps alone are discounted).
    """
    given = config.episodes
    return advantages.to_go(game, 1.0 if given.same_board else given.discount)[0]


def _totals(config: Config, earned: Earned) -> jax.Array:
    """What whole episodes earned: float32 [S, G]."""
    game, *others = earned
    total = _whole(config, game) + sum(part.sum(axis=0) for part in others)
    return jnp.asarray(total).reshape(-1, config.grpo.group)


def _counted(config: Config, turns: list[Turn]) -> np.ndarray:
    """Of which answers something is learned: bool [T, S, G]."""
    return np.stack([advantages.counted(turn.round.blocks, config.grpo.group) for turn in turns])


def _as_long(turns: list[Turn], others: list[Turn]) -> list[Turn]:
    """Episodes with as many turns as others, of as many boards, have: what these said after the end is nobody's."""
    after = [
        turn._replace(
            round=turn.round._replace(blocks=np.full_like(turn.round.blocks, -1)), alive=np.zeros_like(turn.alive)
        )
        for turn in others[len(turns) :]
    ]
    return turns + after


def learned_from(config: Config, *rounds: list[Turn]) -> list[Tried]:
    """What is learned from some rounds of S boards each, turn by turn: S * keep rows, every token with its credit.

    Where boards may be refilled, those whose episodes all earned alike are dropped: others take their place, and if
    there are too few, nothing is learned from what fills up the batch.
    """
    part, group = config.grpo, config.grpo.group
    rounds = tuple(_as_long(turns, max(rounds, key=len)) for turns in rounds)
    at_turn = [*zip(*rounds, strict=True)]
    game, format, perception = (np.concatenate(each, axis=1) for each in zip(*map(_earned, rounds), strict=True))
    alive = np.stack([np.concatenate([turn.alive for turn in each]) for each in at_turn])
    board = np.stack([np.concatenate([turn.board + alive.size * i for i, turn in enumerate(each)]) for each in at_turn])
    totals = _totals(config, (game, format, perception))
    counts = np.concatenate([_counted(config, turns) for turns in rounds], axis=1)  # [T, S, G]
    chosen = np.arange(len(totals))
    if part.refill:
        useful = np.asarray(advantages.differ(totals, counts.any(axis=0)))
        chosen = np.argsort(~useful, kind="stable")[: part.states]
        alive &= np.repeat(useful, group)
    rows = (chosen[:, None] * group + np.arange(group)).reshape(-1)
    alive, board, game, format, perception = (x[:, rows] for x in (alive, board, game, format, perception))
    seen, acted, whole = _credited(config, alive, board, (game, format, perception))
    best = np.tile(np.arange(group), (len(chosen), 1))
    if 0 < part.keep < group:
        counts = counts[:, chosen]
        best = np.asarray(advantages.farthest(totals[chosen], part.keep, np.any(counts, axis=0)))
        each, counts = np.broadcast_to(best, (len(alive), *best.shape)), counts & alive.reshape(counts.shape)
        seen, acted = (_carried(x, each, counts) for x in (seen, acted))
        whole = _carried(whole, best[None], counts.any(axis=0)[None])  # once, however many of them are left at a turn
    own = (np.arange(len(chosen))[:, None] * group + best).reshape(-1)
    kept, alive = rows[own], alive[:, own]
    acted = acted + whole * alive
    seen = acted if part.credit == "reply" else seen
    out = []
    for t, each in enumerate(at_turn):
        blocks = np.where(alive[t][:, None], np.concatenate([turn.round.blocks for turn in each])[kept], -1)
        sampled = [turn.round.replies.sampled for turn in each]
        advantage = np.where(blocks == 0, seen[t][:, None], acted[t][:, None])
        units = np.minimum(blocks, 0) if part.credit == "reply" else blocks
        out.append(
            Tried(
                prompts=_prompts([turn.round.replies.prompts for turn in each], kept),
                ids=jnp.concatenate([said.ids for said in sampled])[kept],
                sampler=jnp.concatenate([said.logprobs for said in sampled])[kept],
                old=None,
                reference=None,
                credit=Credit(jnp.asarray(advantage), jnp.asarray(units)),
            )
        )
    return out


def _carried(x: np.ndarray, kept: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Advantages float32 [T, S * G] for those of each group that are kept, int [T, S, K]: float32 [T, S * K]. counts
    bool [T, S, G]: of which something is learned.
    """
    each = np.where(counts, x.reshape(counts.shape), 0)
    return advantages.carried(each, kept, counts).reshape(len(x), -1)


def _credited(config: Config, alive: np.ndarray, board: np.ndarray, earned: Earned) -> Earned:
    """The advantages of what was read and of what was done, of episodes side by side by group: float32 [T, B] each; and
    of episodes as a whole, whatever the turn: float32 [1, B], a part of what was done.
    """
    part, given = config.grpo, config.episodes
    game, format, perception = earned
    length, rows = alive.shape
    start = np.broadcast_to(np.arange(rows) // part.group, alive.shape)
    by_turn = np.arange(length)[:, None] * rows + start
    worth, whole = advantages.to_go(game, given.discount), np.broadcast_to(_whole(config, game), alive.shape)
    once = np.ones((given.turns, 1), np.float32)
    left = np.broadcast_to(advantages.to_go(once, given.discount)[:length], alive.shape)

    def compare(
        values: np.ndarray, groups: np.ndarray, solved: np.ndarray, turns: np.ndarray | float = 1.0, of: Any = alive
    ) -> np.ndarray:
        out, turns = np.zeros(alive.shape, np.float32), np.broadcast_to(turns, alive.shape)[of]
        out[of] = advantages.among(values[of], groups[of], scale=part.scale, solved=solved[of], turns=turns)
        return out

    extra = format + perception if part.credit == "reply" else format
    seen = compare(perception + format, by_turn, game)
    if not given.same_board:
        return seen, compare(worth + extra, by_turn, worth, left), np.zeros((1, rows), np.float32)
    begun = alive & (np.arange(length) == 0)[:, None]  # every episode once, however many answers it has
    episode = compare(whole + extra.sum(axis=0), start, whole, float(given.turns), begun)[:1]
    return seen, np.float32(given.same_board) * compare(worth + extra, board, worth, left), episode


def _prompts(parts: list[Prompts], rows: np.ndarray) -> Prompts:
    """Some of what was asked in several rounds."""
    longest, count = max(part.ids.shape[1] for part in parts), sum(len(part.ids) for part in parts)
    ids, lengths, pictures = zip(*parts, strict=True)
    whole = [jnp.pad(each, ((0, 0), (0, longest - each.shape[1]))) for each in ids]  # nobody looks past the lengths
    each = jnp.concatenate(whole), jnp.concatenate(lengths), jnp.concatenate(pictures)
    return Prompts(*cut(each, count, rows))
