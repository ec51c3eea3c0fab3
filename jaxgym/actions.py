"""Text <-> integer: how a player's answer names a move.

An `Actions` is the complete, finite list of what can be answered. `parse` never raises and reads in linear time,
whatever it is given; what it cannot read is `INVALID`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

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

    def parse(self, text: str) -> int:
        """The action that `text` names, or `INVALID` (-1)."""
        text = text.strip() if len(text) <= _LONGEST else ""
        return self.read(text.lower()) if text else INVALID

    def format(self, action: int) -> str:
        """The canonical text of an action in [0, n); raises IndexError outside it."""
        if not 0 <= action < self.n:
            raise IndexError(f"action {action} is not in [0, {self.n})")
        return self.names[action]


def moves(names: Sequence[str]) -> Actions:
    """One word a move: `up`, `right`, ..."""
    index = {name: a for a, name in enumerate(names)}
    return Actions(
        names=tuple(names),
        hint="one of " + ", ".join(names),
        read=lambda text: index.get(text, INVALID),
        guess=lambda key: jax.random.randint(key, (), 0, len(names), jnp.int32),
        cells=np.zeros((len(names), 0), np.int32),
    )


def cell_pairs(rows: int, columns: int) -> Actions:
    """Two cells, in either order: action `(r1 * columns + c1) * rows * columns + r2 * columns + c2`."""
    n = rows * columns
    first, second = np.divmod(np.arange(n * n, dtype=np.int32), n)
    return _pairs(rows, columns, np.stack([first, second], 1), lambda a, b: a * n + b)


def swaps(rows: int, columns: int) -> Actions:
    """Two neighbouring cells, in either order: first every cell with the one to its right, then with the one below."""
    grid = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    across = np.stack([grid[:, :-1].ravel(), grid[:, 1:].ravel()], 1)
    down = np.stack([grid[:-1].ravel(), grid[1:].ravel()], 1)
    cells = np.concatenate([across, down])
    index = {(int(a), int(b)): i for i, (a, b) in enumerate(cells)}
    return _pairs(rows, columns, cells, lambda a, b: index.get((min(a, b), max(a, b)), INVALID))


_PAIR = re.compile(r"\(([0-9]{1,3}), ?([0-9]{1,3})\)[ ,;]{0,3}\(([0-9]{1,3}), ?([0-9]{1,3})\)")


def _pairs(rows: int, columns: int, cells: np.ndarray, index: Callable[[int, int], int]) -> Actions:
    def text(cell: int) -> str:
        return f"({cell // columns}, {cell % columns})"

    def read(answer: str) -> int:
        match = _PAIR.fullmatch(answer)
        if match is None:
            return INVALID
        r1, c1, r2, c2 = map(int, match.groups())
        if max(r1, r2) >= rows or max(c1, c2) >= columns:
            return INVALID
        return index(r1 * columns + c1, r2 * columns + c2)

    n = rows * columns
    table = np.full((n, n), INVALID, np.int32)  # the action of every ordered pair of cells
    for a in range(n):
        table[a] = [index(a, b) for b in range(n)]

    def guess(key: jax.Array) -> jax.Array:
        """Two different cells, uniformly."""
        first_key, other_key = jax.random.split(key)
        first = jax.random.randint(first_key, (), 0, n, jnp.int32)
        other = (first + jax.random.randint(other_key, (), 1, n, jnp.int32)) % n
        return jnp.asarray(table)[first, other]

    return Actions(
        names=tuple(f"{text(int(a))} {text(int(b))}" for a, b in cells),
        hint="(r1, c1) (r2, c2), two cells as row and column, counted from 0",
        read=read,
        guess=guess,
        cells=cells,
    )
