"""What a reply is worth: the game's word, the format, and how much of the board was read right."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxgym.dialogue import Reply, read_words


class Reading(NamedTuple):
    """Replies of a batch, read on the host; leading axis [B]."""

    actions: np.ndarray  # int32, -1 where unreadable
    formatted: np.ndarray  # float32, 1 when the three blocks stand once each, in order
    cells: np.ndarray  # float32, share of cells read right
    board: np.ndarray  # float32, 1 when the whole board is


def read(replies: Sequence[Reply], truths: Sequence[str]) -> Reading:
    """Compare replies with the exact texts of their boards."""
    pairs = list(zip(replies, truths, strict=True))
    return Reading(
        np.asarray([r.action for r in replies], np.int32),
        np.asarray([r.formatted for r in replies], np.float32),
        np.asarray([share_of_cells(r.perception, t) for r, t in pairs], np.float32),
        np.asarray([read_words(r.perception or "") == read_words(t) for r, t in pairs], np.float32),
    )


def share_of_cells(perception: str | None, truth: str) -> float:
    """The share of the truth's cells that stand in the perception at the same row and column with the same word."""
    right, said = read_words(truth), read_words(perception or "")
    hits = sum(a == b for row, found in zip(right, said, strict=False) for a, b in zip(row, found, strict=False))
    return hits / sum(map(len, right))


def game_reward(legal: np.ndarray, score: np.ndarray) -> np.ndarray:
    """VLM-Gym's outcome: +1 when the move is legal and scores, else -1; float32 [B]."""
    return np.where(legal & (score > 0), 1.0, -1.0).astype(np.float32)


def total(game: np.ndarray, reading: Reading, *, format: float, perception: float, exact: bool) -> np.ndarray:
    """game + format * formatted + perception * (share of cells, or 1 for an exact board only); float32 [B]."""
    seen = reading.board if exact else reading.cells
    return (game + np.float32(format) * reading.formatted + np.float32(perception) * seen).astype(np.float32)
