"""VLM-Gym's protocol: fresh boards, a fixed number of steps, no warm-up, a lost step for whatever is not a legal move."""

import functools
import math
from collections.abc import Iterator
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
from train.rollout import Boards, Replies, advance, deal, try_replies


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


@functools.partial(jax.jit, static_argnums=(0, 1, 3))
def play_out(game: Game[Any], player: Player, key: jax.Array, n: int) -> jax.Array:
    """Scores, float32 [n], of a player who is a function on the device: an anchor."""
    rules = protocol(game)

    def step(carry: tuple[Boards, jax.Array, jax.Array], key: jax.Array) -> tuple[Any, None]:
        boards, over, total = carry
        act_key, luck_key = jax.random.split(key)
        actions = jax.vmap(player)(boards.state, jax.random.split(act_key, n))
        return tally(game, rules, boards, over, total, actions, luck_key), None

    deal_key, play_key = jax.random.split(key)
    start = deal(game, deal_key, n), jnp.zeros(n, jnp.bool_), jnp.zeros(n, jnp.float32)
    return jax.lax.scan(step, start, jax.random.split(play_key, rules.steps))[0][2]


@functools.partial(jax.jit, static_argnums=(0, 1))
def tally(
    game: Game[Any],
    rules: Protocol,
    boards: Boards,
    over: jax.Array,
    total: jax.Array,
    actions: jax.Array,
    key: jax.Array,
) -> tuple[Boards, jax.Array, jax.Array]:
    """One step of the protocol: the boards after it, which are over, and the scores so far."""
    # A board that has ended answers nothing: its step is lost, whatever is said.
    moved, played = advance(game, boards, jnp.where(over, -1, actions), key, rules.steps + 1, redeal=rules.redeal)
    gained = played.legal.astype(jnp.float32) if rules.score == "moves" else played.reward
    return moved, over | (played.over & (not rules.redeal)), total + gained


def anchors(game: Game[Any], key: jax.Array, n: int) -> Iterator[tuple[str, Score]]:
    """What players without a model score: uniform random answers, random legal moves, the teacher."""
    players = {"random": engine.random_answer, "random_legal": engine.random_legal, "teacher": engine.teacher}
    for name, player in players.items():
        yield name, interval(np.asarray(play_out(game, player(game), key, n)))


class Result(NamedTuple):
    """What a model does on one game."""

    score: Score
    cells: float  # share of cells read right
    board: float  # share of boards read exactly
    legal: float  # share of replies that are legal moves
    reason: float  # P(legal and scoring move | board read exactly)
    formatted: float
    cleared: float | None  # mean steps that a clear took, where a board can be finished; None when none was
    first: Replies  # the replies to the fresh boards


def evaluate(
    graphdef: Any, params: Any, language: Language, key: jax.Array, n: int, temperature: float
) -> Iterator[int | Result]:
    """Let the model play n boards by the protocol. Yields the step after every step, and the result at the end."""
    game, rules = language.game, protocol(language.game)
    deal_key, play_key = jax.random.split(key)
    boards, over, total = deal(game, deal_key, n), jnp.zeros(n, jnp.bool_), jnp.zeros(n, jnp.float32)
    seen: list[tuple[np.ndarray, ...]] = []
    first: Replies | None = None
    lasted = np.full(n, rules.steps)
    for step in range(rules.steps):
        reply_key, luck_key = jax.random.split(jax.random.fold_in(play_key, step))
        tried = try_replies(graphdef, params, language, boards, reply_key, 1, temperature)
        first = first or tried
        playing = ~np.asarray(over)
        good = rewards.game_reward(tried.legal, tried.score) > 0
        r = tried.reading
        seen.append(tuple(x[playing] for x in (r.cells, r.board, tried.legal, good, r.formatted)))
        boards, over, total = tally(game, rules, boards, over, total, jnp.asarray(r.actions), luck_key)
        lasted[playing & np.asarray(over)] = step + 1
        yield step + 1
        if bool(np.all(over)):
            break
    cells, board, legal, good, formatted = (np.concatenate(x) for x in zip(*seen, strict=True))
    scores, finished = np.asarray(total), lasted[np.asarray(over)]
    assert first is not None
    yield Result(
        score=interval(scores),
        cells=float(cells.mean()),
        board=float(board.mean()),
        legal=float(legal.mean()),
        reason=float(good[board > 0].mean()) if board.any() else 0.0,
        formatted=float(formatted.mean()),
        cleared=float(finished.mean()) if len(finished) else None,
        first=first,
    )
