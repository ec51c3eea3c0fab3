"""What a reply is worth: the game's word, the format, and how much of the board was read right."""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym.dialogue import Reply, read_words
from train.advantages import Rewards
from train.files import Mendable

_MOST = 1e15  # that a reward may be, for its square to be a float32
Board = list[tuple[str, list[str]]]  # see `read_board`


class Reading(NamedTuple):
    """Replies of a batch, read on the host; leading axis [B]."""

    actions: np.ndarray  # int32, -1 where unreadable
    formatted: np.ndarray  # float32, 1 when the three blocks stand once each, in order
    cells: np.ndarray  # float32, share of cells read right
    board: np.ndarray  # float32, 1 when the whole board is


def read(replies: Sequence[Reply], truths: Sequence[str]) -> Reading:
    """Compare replies with the exact texts of their boards."""
    boards = {truth: read_board(truth) for truth in set(truths)}  # replies of a group have one board
    cells = [
        (1.0, True) if r.perception == truth else share_of_cells(r.perception, boards[truth])
        for r, truth in zip(replies, truths, strict=True)
    ]
    return Reading(
        np.asarray([r.action for r in replies], np.int32),
        np.asarray([r.formatted for r in replies], np.float32),
        np.asarray([share for share, _ in cells], np.float32),
        np.asarray([whole for _, whole in cells], np.float32),
    )


def read_board(truth: str) -> Board:
    """The rows of a board in words, each as it is written and taken apart."""
    return [*zip(truth.split("\n"), read_words(truth), strict=True)]


def share_of_cells(perception: str | None, board: Board) -> tuple[float, bool]:
    """The share of a board's cells that stand in the perception at the same row and column with the same word.

    Also whether the perception is that board and nothing else.
    """
    if perception is None:
        return 0.0, False
    rows = perception.strip().split("\n")
    hits, same = 0, len(rows) == len(board)
    for (row, cells), said in zip(board, rows, strict=False):
        if said == row:  # as nearly all are
            hits += len(cells)
        else:
            (words,) = read_words(said)
            hits += sum(map(operator.eq, cells, words))
            same = same and words == cells
    return (1.0, True) if same else (hits / sum(len(cells) for _, cells in board), False)


def sound(name: str, score: np.ndarray) -> np.ndarray:
    """Rewards of moves of the game of that name, or sums of them; raises ValueError where some are not finite."""
    if not np.isfinite(score).all():
        bad = score[~np.isfinite(score)][0]
        raise Mendable(f"{name}: step gives rewards that are no finite numbers ({bad}): nothing can be made of them")
    return score


def outcome(legal: np.ndarray, score: np.ndarray) -> np.ndarray:
    """VLM-Gym's reward: +1 when the move is legal and scores, else -1; float32 [B]."""
    return np.where(legal & (score > 0), 1.0, -1.0).astype(np.float32)


@jax.jit
def regret(values: jax.Array, usual: float) -> jax.Array:
    """1 for the teacher's best action down to about 0 for its worst legal one, -1 for what is not legal.

    values float32 [B, A], -inf where illegal -> float32 [B, A]. What an action gives away against the best is measured
    by how far the board's values lie apart, and by a tenth of how far they `usual`ly do.
    """
    legal = jnp.isfinite(values)
    known = jnp.where(legal.any(axis=1, keepdims=True), values, 0.0)  # a row without a legal action: nothing to measure
    best = known.max(axis=1, keepdims=True)
    worst = jnp.where(jnp.isfinite(known), known, jnp.inf).min(axis=1, keepdims=True)
    given_away = (best - jnp.where(legal, known, 0.0)) / (best - worst + 0.1 * usual)
    return jnp.where(legal, 1 - given_away, -1.0)


def earned_by(worth: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """What actions int32 [S * G], -1 where there is none, earn by the worth of all, float32 [S, A]; float32 [S * G]."""
    each = actions.reshape(len(worth), -1)
    found = np.take_along_axis(worth, np.maximum(each, 0), axis=1)
    return np.where(each >= 0, found, np.float32(-1)).reshape(-1)


def score(legal: np.ndarray, score: np.ndarray) -> np.ndarray:
    """The game's own score of a move, -1 for what is not legal; float32 [B]."""
    return np.where(legal, score, -1.0).astype(np.float32)


def ask_own(function: Callable[..., Any], where: str, replies: Any, game: Any) -> np.ndarray:
    """What a user's function gives to B replies: float32 [B]; raises ValueError when that is not one number each."""
    count = len(replies.texts)
    try:
        given = np.asarray(function(replies, game))
        given = given if np.iscomplexobj(given) else given.astype(np.float64)
    except (Exception, SystemExit) as error:  # of a user's code
        raise Mendable(f"reward own={where!r} failed: {type(error).__name__}: {error}") from error
    if given.shape != (count,) or np.iscomplexobj(given) or not np.isfinite(given).all():
        if given.shape != (count,):
            found: Any = given.shape
        else:
            found = given.dtype if np.iscomplexobj(given) else given[~np.isfinite(given)][0]
        raise Mendable(f"reward own={where!r}: must give {count} finite numbers, one a reply, not {found}")
    if np.abs(given).max(initial=0) > _MOST:
        raise Mendable(f"reward own={where!r}: gives {np.abs(given).max():g}; must be at most {_MOST:g} in size")
    return given.astype(np.float32)


def parts(game: np.ndarray, reading: Reading, group: int, *, format: float, perception: float, exact: bool) -> Rewards:
    """The game's reward float32 [B], format * formatted and perception * (share of cells, or 1 for an exact board)."""
    seen = reading.board if exact else reading.cells
    weighted = (game, np.float32(format) * reading.formatted, np.float32(perception) * seen)
    return Rewards(*(jnp.asarray(part.reshape(-1, group), jnp.float32) for part in weighted))
