"""VLM-Gym's protocol: fresh boards, a fixed number of steps, no warm-up; what is not a legal move is a lost step."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym import engine
from jaxgym.engine import Player
from jaxgym.game import Game
from train import rewards
from train.language import Language
from train.memory import Memory
from train.rollout import BATCH, Boards, Replies, act, advance, fresh, try_replies


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a game is scored."""

    steps: int = 100
    score: str = "reward"  # "reward": the game's own score summed; "moves": successful moves counted
    redeal: bool = False  # a board that ends is dealt anew; else it stays as it ended
    unit: str = "score over 100 steps"
    published: tuple[tuple[str, float], ...] = ()  # G1, arXiv 2505.13426


def _published(g1: float, g0: float, claude: float, random: float) -> tuple[tuple[str, float], ...]:
    return ("G1", g1), ("G0", g0), ("Claude-3.7-Thinking", claude), ("Random", random)


_PAIRS = "pairs of 18 in 36 steps"
PROTOCOLS: dict[str, Protocol] = {
    "2048": Protocol(redeal=True, unit="merge score in 100 steps", published=_published(1070, 759, 892, 701)),
    "shisen_sho": Protocol(steps=36, unit=_PAIRS, published=_published(17.5, 12.8, 15.3, 0.4)),
    "shisen_sho_photo": Protocol(steps=36, unit=_PAIRS, published=_published(14.1, 8.0, 8.7, 0.4)),
    "swap": Protocol(score="moves", unit="swaps in 100 steps", published=_published(78, 5, 43, 1)),
}


def protocol(game: Game[Any]) -> Protocol:
    """The published protocol of a game, or the plain one: its own score summed over 100 steps."""
    return PROTOCOLS.get(game.name, Protocol())


class Score(NamedTuple):
    """A mean over boards with its 95 % interval (normal)."""

    mean: float
    low: float
    high: float
    n: int


def interval(scores: np.ndarray) -> Score:
    """Summarise one score a board, float [n]."""
    n, mean = len(scores), float(np.mean(scores))
    half = 1.96 * float(np.std(scores, ddof=1)) / math.sqrt(n)
    return Score(mean, mean - half, mean + half, n)


class Standing(NamedTuple):
    """Boards in the middle of the protocol, leading axis [n]."""

    boards: Boards
    over: jax.Array  # bool
    total: jax.Array  # float32: the score so far


def begin(game: Game[Any], key: jax.Array, n: int) -> Standing:
    """Fresh boards."""
    return Standing(fresh(game, key, n), jnp.zeros(n, jnp.bool_), jnp.zeros(n, jnp.float32))


def proceed(game: Game[Any], now: Standing, actions: jax.Array, key: jax.Array) -> Standing:
    """One step of the protocol with actions int32 [n]. A board that has ended answers nothing: its step is lost."""
    rules = protocol(game)
    limit = rules.steps + 1 if rules.redeal else None
    boards, played = advance(game, now.boards, jnp.where(now.over, -1, actions), key, limit)
    gained = played.legal.astype(jnp.float32) if rules.score == "moves" else played.reward
    over = now.over if rules.redeal else now.over | played.over
    return Standing(boards, over, now.total + gained)


def dealt(before: Standing, now: Standing) -> np.ndarray:
    """Which boards were dealt anew in a step: bool [n]."""
    return np.asarray(now.boards.steps <= before.boards.steps)


def batches(n: int) -> list[int]:
    """n boards as batches of the size that is compiled anyway, and what is left."""
    return [BATCH] * (n // BATCH) + [n % BATCH] * (n % BATCH > 0)


def play_out(game: Game[Any], player: Callable[[Game[Any]], Player], key: jax.Array, n: int) -> np.ndarray:
    """Scores, float32 [n], of a player who is a function on the device: an anchor."""
    scores = []
    for i, size in enumerate(batches(n)):
        deal_key, play_key = jax.random.split(jax.random.fold_in(key, i))
        now = begin(game, deal_key, size)
        for step in range(protocol(game).steps):
            act_key, luck_key = jax.random.split(jax.random.fold_in(play_key, step))
            now = proceed(game, now, act(game, player, now.boards.state, act_key), luck_key)
            if bool(jnp.all(now.over)):
                break
        scores.append(np.asarray(now.total))
    return np.concatenate(scores)


def anchors(game: Game[Any], key: jax.Array, n: int) -> Iterator[tuple[str, Score]]:
    """What players without a model score: uniform random answers, random legal moves, the teacher."""
    players = {"random": engine.random_answer, "random_legal": engine.random_legal, "teacher": engine.teacher}
    for name, player in players.items():
        yield name, interval(play_out(game, player, key, n))


class Result(NamedTuple):
    """What a model does on one game."""

    score: Score
    cells: float  # share of cells read right
    board: float  # share of boards read exactly
    legal: float  # share of replies that are legal moves
    reason: float | None  # P(legal and scoring move | board read exactly); None when none was
    formatted: float
    sight: float  # share of good moves at first sight: on boards that this reply is the first to answer
    temperature: float  # of sampling
    cleared: float | None  # mean steps that a clear took, where a board can be finished; None when none was
    first: Replies  # the replies to the fresh boards


def evaluate(
    graphdef: Any,
    params: Any,
    language: Language,
    key: jax.Array,
    n: int,
    temperature: float,
    history: tuple[int, int] = (0, 1),
) -> Iterator[int | Result]:
    """Let the model play n boards by the protocol. Yields after every step how many boards x steps are behind it (of
    n x the protocol's steps), and at the end the result.

    history: how many turns before it remembers, and how many of the turns it is shown have their picture.
    """
    game, rules = language.game, protocol(language.game)
    seen: list[tuple[np.ndarray, ...]] = []
    totals, lasted = [], []
    first: Replies | None = None
    for i, size in enumerate(batches(n)):
        deal_key, play_key = jax.random.split(jax.random.fold_in(key, i))
        memory = Memory(language, *history)
        now, ended, new = begin(game, deal_key, size), np.full(size, rules.steps), np.ones(size, bool)
        for step in range(rules.steps):
            reply_key, luck_key = jax.random.split(jax.random.fold_in(play_key, step))
            tried = try_replies(graphdef, params, language, now.boards.state, reply_key, 1, temperature, memory)
            first = first or tried
            playing, good = ~np.asarray(now.over), rewards.outcome(tried.legal, tried.score) > 0
            r = tried.reading
            seen.append(tuple(x[playing] for x in (r.cells, r.board, tried.legal, good, r.formatted, new)))
            new = tried.legal
            before, now = now, proceed(game, now, jnp.asarray(r.actions), luck_key)
            memory.remember(tried.pictures, tried.texts, tried.legal, dealt(before, now))
            ended[playing & np.asarray(now.over)] = step + 1
            yield (i * BATCH) * rules.steps + size * (step + 1)
            if bool(jnp.all(now.over)):
                break
        totals.append(np.asarray(now.total))
        lasted.append(ended[np.asarray(now.over)])
    assert first is not None
    yield _summary(np.concatenate(totals), np.concatenate(lasted), seen, first, temperature)


def _summary(
    totals: np.ndarray, lasted: np.ndarray, seen: list[tuple[np.ndarray, ...]], first: Replies, temperature: float
) -> Result:
    cells, board, legal, good, formatted, new = (np.concatenate(x) for x in zip(*seen, strict=True))
    return Result(
        score=interval(totals),
        cells=float(cells.mean()),
        board=float(board.mean()),
        legal=float(legal.mean()),
        reason=float(good[board > 0].mean()) if board.any() else None,
        formatted=float(formatted.mean()),
        sight=float(good[new].mean()),
        temperature=temperature,
        cleared=float(lasted.mean()) if len(lasted) else None,
        first=first,
    )
