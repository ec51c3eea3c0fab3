"""Text <-> integer: how a player's answer names a move.

An `Actions` is the complete, finite list of what can be answered. `parse` never raises and reads in linear time,
whatever it is given; what it cannot read is `INVALID`.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym.checks import whole

INVALID = -1
_LONGEST = 200  # no answer of any game is longer; what is longer is not an answer

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Actions:
    """The answers of a game.

    `names[a]` is the canonical text of action `a`; `hint` tells a player how to write one; `read` turns stripped,
    lower-case text into an action or `INVALID`; `guess` draws what a player would answer who knows the format and
    nothing else (int32 [], `INVALID` when that names no action: two cells that are no neighbours, say).
    `cells[a]` lists the board cells that action `a` names, as flat indices (empty for games of moves).
    `read` and `guess` are made of top-level functions, so that a game can be pickled.
    """

    names: tuple[str, ...]
    hint: str
    read: Callable[[str], int]
    guess: Callable[[jax.Array], jax.Array]
    cells: np.ndarray  # int32 [A, k]

    @property
    def n(self) -> int:
        """How many actions there are."""
        return len(self.names)

    def __repr__(self) -> str:
        ends = self.names[:1] + self.names[1:][-1:]
        return f"Actions({self.n}: {' to '.join(map(repr, ends))})"

    def parse(self, text: str) -> int:
        """The action that `text` names, or `INVALID` (-1): also for what is no text at all."""
        if not isinstance(text, str) or len(text) > _LONGEST:
            return INVALID
        return self.read(text.strip().lower())

    def format(self, action: int) -> str:
        """The canonical text of an action in [0, n); raises IndexError outside it."""
        if not 0 <= action < self.n:
            raise IndexError(f"action {action} is not in [0, {self.n})")
        return self.names[action]


def moves(names: Sequence[str]) -> Actions:
    """One word a move: `up`, `right`, ... Raises ValueError for words that no answer could tell apart."""
    texts = all(isinstance(name, str) for name in names)
    index = {name.strip().lower(): a for a, name in enumerate(names) if len(name) <= _LONGEST} if texts else {}
    if not index or len(index) != len(names) or "" in index or any("<" in name for name in index):
        raise ValueError(
            f"names={names!r}: give moves different names, capitals aside, of 1 to {_LONGEST} characters and without <"
        )
    return Actions(
        names=tuple(names),
        hint="one of " + ", ".join(names),
        read=functools.partial(_read_move, index),
        guess=functools.partial(_guess_move, len(names)),
        cells=np.zeros((len(names), 0), np.int32),
    )


def _read_move(index: dict[str, int], text: str) -> int:
    return index.get(text, INVALID)


def _guess_move(count: int, key: jax.Array) -> jax.Array:
    return jax.random.randint(key, (), 0, count, jnp.int32)


_CELL = re.compile(r"\(([0-9]{1,3}), ?([0-9]{1,3})\)")


def cells(rows: int, columns: int) -> Actions:
    """One cell: action `r * columns + c`. Raises ValueError for sides that are not 1 to 1000."""
    rows, columns = _sides(rows, columns)
    grid = np.ndindex(rows, columns)
    return Actions(
        names=tuple(f"({r}, {c})" for r, c in grid),
        hint="(r, c), a cell as row and column, counted from 0",
        read=functools.partial(_read_cell, rows, columns),
        guess=functools.partial(_guess_move, rows * columns),
        cells=np.arange(rows * columns, dtype=np.int32)[:, None],
    )


def _read_cell(rows: int, columns: int, text: str) -> int:
    match = _CELL.fullmatch(text)
    if match is None:
        return INVALID
    r, c = map(int, match.groups())
    return r * columns + c if r < rows and c < columns else INVALID


def cell_pairs(rows: int, columns: int) -> Actions:
    """Two cells, in either order: action `(r1 * columns + c1) * rows * columns + r2 * columns + c2`.

    Raises ValueError for sides that are not 1 to 1000, and for more than 4096 cells.
    """
    rows, columns = _few(*_sides(rows, columns))
    n = rows * columns
    first, second = np.divmod(np.arange(n * n, dtype=np.int32), n)
    return _pairs(rows, columns, np.stack([first, second], 1), np.arange(n * n, dtype=np.int32).reshape(n, n))


def swaps(rows: int, columns: int) -> Actions:
    """Two neighbouring cells, in either order: first every cell with the one to its right, then with the one below.

    Raises ValueError for sides that are not 1 to 1000, and for more than 4096 cells.
    """
    rows, columns = _few(*_sides(rows, columns))
    grid = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    across = np.stack([grid[:, :-1].ravel(), grid[:, 1:].ravel()], 1)
    down = np.stack([grid[:-1].ravel(), grid[1:].ravel()], 1)
    cells = np.concatenate([across, down])
    table = np.full((rows * columns, rows * columns), INVALID, np.int32)
    table[cells[:, 0], cells[:, 1]] = table[cells[:, 1], cells[:, 0]] = np.arange(len(cells), dtype=np.int32)
    return _pairs(rows, columns, cells, table)


def _sides(rows: int, columns: int) -> tuple[int, int]:
    """Those of a board, as far as its cells are told by three digits."""
    return whole("rows", rows, 1, 1000), whole("columns", columns, 1, 1000)


def _few(rows: int, columns: int) -> tuple[int, int]:
    """Those of a board whose pairs of cells fit into a table."""
    if rows * columns > _CELLS:
        raise ValueError(f"rows={rows}, columns={columns}: pairs of cells are told apart on at most {_CELLS} cells")
    return rows, columns


_CELLS = 4096
_PAIR = re.compile(r"\(([0-9]{1,3}), ?([0-9]{1,3})\)[ ,;]{0,3}\(([0-9]{1,3}), ?([0-9]{1,3})\)")


def _pairs(rows: int, columns: int, cells: np.ndarray, table: np.ndarray) -> Actions:
    """Actions that name two cells each, int32 [A, 2]; `table` has the action of every ordered pair of cells."""

    def text(cell: int) -> str:
        return f"({cell // columns}, {cell % columns})"

    return Actions(
        names=tuple(f"{text(int(a))} {text(int(b))}" for a, b in cells),
        hint="(r1, c1) (r2, c2), two cells as row and column, counted from 0",
        read=functools.partial(_read_pair, rows, columns, table),
        guess=functools.partial(_guess_pair, table),
        cells=cells,
    )


def _read_pair(rows: int, columns: int, table: np.ndarray, text: str) -> int:
    match = _PAIR.fullmatch(text)
    if match is None:
        return INVALID
    r1, c1, r2, c2 = map(int, match.groups())
    if max(r1, r2) >= rows or max(c1, c2) >= columns:
        return INVALID
    return int(table[r1 * columns + c1, r2 * columns + c2])


def _guess_pair(table: np.ndarray, key: jax.Array) -> jax.Array:
    """Two different cells, uniformly."""
    n = len(table)
    first_key, other_key = jax.random.split(key)
    first = jax.random.randint(first_key, (), 0, n, jnp.int32)
    other = (first + jax.random.randint(other_key, (), 1, n, jnp.int32)) % n
    return jnp.asarray(table)[first, other]
