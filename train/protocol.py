"""VLM-Gym's protocol: fresh boards, a fixed number of steps, no warm-up; what is not a legal move is a lost step."""

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import stdtrit

from jaxgym import engine, registry
from jaxgym.engine import Player
from jaxgym.game import Game
from train import rewards
from train.language import Language
from train.memory import Memory
from train.rewards import Reading
from train.rollout import BATCH, Boards, act, advance, fresh, luck_of, permitted, try_replies


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a game is scored."""

    steps: int = 100
    score: str = "reward"  # "reward": the game's own score summed; "moves": successful moves counted
    redeal: bool = False  # a board that ends is dealt anew; else it stays as it ended
    cleared: float = 0.0  # the score of a board that is cleared; 0: none ever is
    unit: str = "score over 100 steps"
    published: tuple[tuple[str, float], ...] = ()  # G1, arXiv 2505.13426


def _published(g1: float, g0: float, claude: float, random: float) -> tuple[tuple[str, float], ...]:
    return ("G1", g1), ("G0", g0), ("Claude-3.7-Thinking", claude), ("Random", random)


_PAIRS = "pairs of 18 in 36 steps"
PROTOCOLS: dict[str, Rules] = {
    "2048": Rules(redeal=True, unit="merge score in 100 steps", published=_published(1070, 759, 892, 701)),
    "shisen_sho": Rules(steps=36, cleared=18.0, unit=_PAIRS, published=_published(17.5, 12.8, 15.3, 0.4)),
    "shisen_sho_photo": Rules(steps=36, cleared=18.0, unit=_PAIRS, published=_published(14.1, 8.0, 8.7, 0.4)),
    "swap": Rules(score="moves", unit="swaps in 100 steps", published=_published(78, 5, 43, 1)),
}


def protocol(game: Game[Any]) -> Rules:
    """The published protocol of a game, or the plain one: its own score summed over 100 steps."""
    return PROTOCOLS.get(game.name, Rules())


class Score(NamedTuple):
    """A mean over boards with its 95 % interval (Student's, for the few boards that there may be)."""

    mean: float
    low: float
    high: float
    n: int


def interval(scores: np.ndarray) -> Score:
    """Summarise one score a board, float [n], n at least 2."""
    n, mean = len(scores), float(np.mean(scores))
    half = float(stdtrit(n - 1, 0.975)) * float(np.std(scores, ddof=1)) / math.sqrt(n)
    return Score(mean, mean - half, mean + half, n)


class Standing(NamedTuple):
    """Boards in the middle of the protocol, leading axis [n]."""

    boards: Boards
    over: jax.Array  # bool
    total: jax.Array  # float32: the score so far


def begin(game: Game[Any], key: jax.Array, n: int) -> Standing:
    """Fresh boards. Some of a game of one's own may be over as they are dealt; where all are, they are asked about."""
    boards, over = fresh(game, key, n), jnp.zeros(n, jnp.bool_)
    if game.name not in PROTOCOLS:
        stuck = ~jnp.any(permitted(game, boards.state), axis=1)
        over = stuck & ~jnp.all(stuck)
    return Standing(boards, over, jnp.zeros(n, jnp.float32))


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
        scores.append(rewards.sound(game.name, np.asarray(now.total)))
    return np.concatenate(scores)


def keys_of(key: jax.Array, name: str) -> tuple[jax.Array, jax.Array]:
    """The keys of the boards that a game is tested on, by a model and by players without one, from that of a seed: the
    same whichever games are tested beside it.
    """
    known = registry.names()
    number = known.index(name) if name in known else zlib.crc32(name.encode()) | 1 << 31
    return jax.random.fold_in(key, 1000 + number), jax.random.fold_in(key, 2000 + number)


def anchors(game: Game[Any], key: jax.Array, n: int) -> Iterator[tuple[str, Score]]:
    """What players without a model score: uniform random answers, random legal moves, the teacher."""
    players = {"random": engine.random_answer, "random_legal": engine.random_legal, "teacher": engine.teacher}
    for name, player in players.items():
        yield name, interval(play_out(game, player, key, n))


class Answers(NamedTuple):
    """What was replied to n boards, and what it is worth."""

    pictures: Any  # uint8 [n, H, W, 3]
    texts: list[str]
    truths: list[str]
    reading: Reading
    legal: np.ndarray  # bool [n]
    score: np.ndarray  # float32 [n]: the game's own score of the move


class Writer(Protocol):
    """Someone who writes replies to the boards of one game, which are answered in step."""

    def begin(self) -> None:
        """The boards that follow are fresh ones."""

    def answer(self, state: Any, playing: np.ndarray, key: jax.Array, luck: jax.Array) -> Answers:
        """Reply to n boards; what is said of those that are not in play, bool [n], does not count.

        luck: the key that the boards then move on with, so that a reply earns what is told of it.
        """

    def remember(self, said: Answers, dealt: np.ndarray) -> None:
        """What was said is past; some boards, bool [n], were dealt anew."""


class ModelWriter:
    """A model that remembers so many turns, so many of them with their pictures."""

    def __init__(
        self, graphdef: Any, params: Any, language: Language, temperature: float, history: tuple[int, int] = (0, 1)
    ) -> None:
        self._model, self._temperature, self._history = (graphdef, params, language), temperature, history
        self._memory = Memory(language, *history)

    def begin(self) -> None:
        """The boards that follow are fresh ones."""
        self._memory = Memory(self._model[-1], *self._history)

    def answer(self, state: Any, playing: np.ndarray, key: jax.Array, luck: jax.Array) -> Answers:
        """Reply to n boards, also to those that are over: a batch has one size."""
        del playing
        tried = try_replies(*self._model, state, key, 1, self._temperature, self._memory, luck=luck)
        return Answers(tried.pictures, tried.texts, tried.truths, tried.reading, tried.legal, tried.score)

    def remember(self, said: Answers, dealt: np.ndarray) -> None:
        """What was said is past."""
        self._memory.remember(said.pictures, said.texts, said.legal, dealt)


class Result(NamedTuple):
    """What a model does on one game."""

    score: Score
    cells: float  # share of cells read right
    board: float  # share of boards read exactly
    legal: float  # share of replies that are legal moves
    reason: float | None  # P(legal and scoring move | board read exactly); None when none was
    formatted: float
    sight: float  # share of good moves at first sight: on boards that this reply is the first to answer
    temperature: float | None  # of sampling, where it is known
    cleared: float | None  # mean steps that a clear took, where a board can be cleared; None when none was
    first: Answers  # those to the fresh boards


def evaluate(
    game: Game[Any], writer: Writer, key: jax.Array, n: int, temperature: float | None = None
) -> Iterator[int | Result]:
    """Let someone play n boards by the protocol. Yields after every step how many boards x steps are behind it (of
    n x the protocol's steps), and at the end the result.

    temperature: of sampling, to be told with it.
    """
    rules = protocol(game)
    seen: list[tuple[np.ndarray, ...]] = []
    totals, lasted = [], []
    first: Answers | None = None
    for i, size in enumerate(batches(n)):
        deal_key, play_key = jax.random.split(jax.random.fold_in(key, i))
        writer.begin()
        now, ended, new = begin(game, deal_key, size), np.full(size, rules.steps), np.ones(size, bool)
        for step in range(rules.steps):
            reply_key, luck_key = jax.random.split(jax.random.fold_in(play_key, step))
            playing = ~np.asarray(now.over)
            said = writer.answer(now.boards.state, playing, reply_key, luck_of(luck_key))
            first = first or said
            good = rewards.outcome(said.legal, said.score) > 0
            r = said.reading
            seen.append(tuple(x[playing] for x in (r.cells, r.board, said.legal, good, r.formatted, new)))
            new = said.legal
            before, now = now, proceed(game, now, jnp.asarray(r.actions), luck_key)
            writer.remember(said, dealt(before, now))
            ended[playing & np.asarray(now.over)] = step + 1
            yield (i * BATCH) * rules.steps + size * (step + 1)
            if bool(jnp.all(now.over)):
                break
        totals.append(rewards.sound(game.name, np.asarray(now.total)))
        lasted.append(ended[(totals[-1] >= rules.cleared) & (rules.cleared > 0)])
    assert first is not None
    yield _summary(np.concatenate(totals), np.concatenate(lasted), seen, first, temperature)


def _summary(
    totals: np.ndarray,
    lasted: np.ndarray,
    seen: list[tuple[np.ndarray, ...]],
    first: Answers,
    temperature: float | None,
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
