"""2048: slide all tiles one way, equal tiles that meet merge into their sum, and a new tile appears.

    2 2 2 .            4  2  .  .    merged: 4
    2 2 4 .    left    4  4  .  .    merged: 4
    8 . . 8            16 .  .  2    merged: 16; the 2 is new
    2 2 2 2            4  4  .  .    merged: 4 and 4

The tiles nearest the wall merge first, each at most once a move; two 131072 do not merge. Then a tile appears on a
random empty cell, a 2 or, less often, a 4. A move is legal when it changes the board; the game is over when none is.
The reward is the sum of the merged values: here 4 + 4 + 16 + 8 = 32.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym import actions, sprites
from jaxgym.checks import whole
from jaxgym.game import Game, Outcome
from jaxgym.looks import Look, Looks
from jaxgym.symmetry import turned

NAMES = ("up", "right", "down", "left")
LARGEST = 17  # the exponent of 131072: two such tiles do not merge

# Fill and ink of every tile: the familiar warm colours up to 128, then colours that stay apart at a glance.
DARK, WHITE, GOLD = (90, 82, 74), (255, 255, 255), (255, 215, 60)
PLATES = (
    ((255, 250, 205), DARK),  # 2
    ((232, 205, 150), DARK),  # 4
    ((245, 180, 115), DARK),  # 8
    ((240, 120, 40), WHITE),  # 16
    ((235, 90, 80), WHITE),  # 32
    ((200, 35, 30), WHITE),  # 64
    ((240, 210, 60), DARK),  # 128
    ((170, 200, 60), DARK),  # 256
    ((60, 155, 75), WHITE),  # 512
    ((20, 160, 165), WHITE),  # 1024
    ((60, 120, 220), WHITE),  # 2048
    ((75, 60, 180), WHITE),  # 4096
    ((150, 70, 190), WHITE),  # 8192
    ((225, 80, 165), WHITE),  # 16384
    ((130, 20, 60), WHITE),  # 32768
    ((105, 70, 40), WHITE),  # 65536
    ((25, 25, 25), GOLD),  # 131072
)

# What the teacher thinks a board is worth, in points: for an empty cell, for two equal neighbours, for a unit of
# disorder (see `_line_worth`), and where nothing moves.
EMPTY, EQUAL, DISORDER, LOST = 10.0, 20.0, -6.0, -10_000.0


LEVELS: dict[str, dict[str, Any]] = {
    "easy": {"size": 5},
    "paper": {},
    "hard": {"size": 3},
    "extreme": {"size": 3, "fours": 0.5},
}


class State(NamedTuple):
    """The tile 2**k is k, an empty cell 0."""

    board: jax.Array  # int32 [size, size]


def reset(key: jax.Array, *, size: int, fours: float) -> State:
    """An empty board with two tiles."""
    first_key, second_key = jax.random.split(key)
    board = _spawn(jnp.zeros((size, size), jnp.int32), first_key, fours=fours)
    return State(_spawn(board, second_key, fours=fours))


def step(state: State, action: jax.Array, key: jax.Array, *, fours: float) -> Outcome:
    """Slide, merge, and let a tile appear."""
    board, reward = _slide(state.board, action)
    board = _spawn(board, key, fours=fours)
    return Outcome(State(board), reward, ~legal(State(board)).any())


def augment(state: State, key: jax.Array) -> State:
    """The same board from another side."""
    return State(turned(state.board, key))


def legal(state: State) -> jax.Array:
    """bool [4]: a line moves when a tile has an empty cell or its equal on the side of the wall."""
    toward_left, toward_right = _moves(state.board)
    up, down = _moves(state.board.T)
    return jnp.stack([up, toward_right, down, toward_left])


def tiles(state: State) -> jax.Array:
    """int32 [size, size]: sprite k shows the tile 2**k."""
    return state.board


def values(state: State, key: jax.Array, *, fours: float) -> jax.Array:
    """float32 [4]: points. Expectimax: a move, every tile that may appear, the best reply, then what `_worth` sees.

    The key is not used: the mean over the luck is exact.
    """
    del key
    size = state.board.shape[0]
    after, rewards = _left(_turned(state.board))  # [4, size, size], [4]
    places = jnp.eye(size * size, dtype=jnp.int32).reshape(1, size, size, 1, -1)
    kinds = jnp.arange(1, 3, dtype=jnp.int32).reshape(1, 1, 1, 2, 1)
    appeared = (after[..., None, None] + places * kinds).transpose(1, 2, 0, 3, 4)
    best = _best_reply([list(row) for row in appeared])  # [4, 2, size * size]
    open_places = (after == 0).reshape(4, -1).astype(jnp.float32)
    hopes = (((1 - fours) * best[:, 0] + fours * best[:, 1]) * open_places).sum(1)
    return jnp.where(legal(state), rewards + hopes / jnp.maximum(open_places.sum(1), 1.0), -jnp.inf)


def explain(state: State, action: int) -> str:
    """What merges, or how many cells are empty."""
    turned = np.rot90(np.asarray(state.board), (1, 2, 3, 0)[action]).tolist()  # the wall is now on the left
    pairs = [2**k for row in turned for k in _merges(row)]
    if len(pairs) > 1:
        return f"{NAMES[action]}: {len(pairs)} merges for {2 * sum(pairs)} points."
    if pairs:
        return f"{NAMES[action]}: merges {pairs[0]} and {pairs[0]} for {2 * pairs[0]} points."
    if all(row == sorted(row, key=lambda k: k == 0) for row in turned):
        return f"{NAMES[action]}: changes nothing."
    empty = sum(row.count(0) for row in turned)
    return f"{NAMES[action]}: no merge, {empty} {'cell' if empty == 1 else 'cells'} empty."


def _moves(board: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether the rows can move left, and right: bool [], bool []."""
    a, b = board[:, :-1], board[:, 1:]
    merge = (a == b) & (a > 0) & (a < LARGEST)
    return (merge | ((a == 0) & (b > 0))).any(), (merge | ((a > 0) & (b == 0))).any()


def _slide(board: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Slide one way: turned so that every way is left. Returns the board and the sum of the merged values, float32."""
    vertical, backward = action % 2 == 0, (action == 1) | (action == 2)
    board = jnp.where(vertical, board.T, board)
    board, reward = _left(jnp.where(backward, board[:, ::-1], board))
    board = jnp.where(backward, board[:, ::-1], board)
    return jnp.where(vertical, board.T, board), reward


def _left(board: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Slide left: int32 [..., R, C] -> int32 [..., R, C] and the sums of the merged values, float32 [...]."""
    cells, merged = _pull([board[..., c] for c in range(board.shape[-1])])
    return jnp.stack(cells, axis=-1), merged.sum(-1, dtype=jnp.int32).astype(jnp.float32)


def _pull(cells: list[jax.Array]) -> tuple[list[jax.Array], jax.Array]:
    """Slide lines to their first cell: C cells of any shape, many lines at once. Also the sums of the merged values."""
    cells = _pack(cells)
    merged = jnp.zeros_like(cells[0])
    for j in range(len(cells) - 1):
        same = (cells[j] == cells[j + 1]) & (cells[j] > 0) & (cells[j] < LARGEST)
        cells[j] = jnp.where(same, cells[j] + 1, cells[j])
        cells[j + 1] = jnp.where(same, 0, cells[j + 1])  # an empty cell: the next pair cannot merge it again
        merged = merged + jnp.where(same, 1 << cells[j], 0)
    return _pack(cells), merged


def _pack(cells: list[jax.Array]) -> list[jax.Array]:
    """Close the gaps of lines: from the end on, what lies behind an empty cell moves up by one."""
    cells = list(cells)
    for j in reversed(range(len(cells) - 1)):
        gap = cells[j] == 0
        for i in range(j, len(cells) - 1):
            cells[i] = jnp.where(gap, cells[i + 1], cells[i])
        cells[-1] = jnp.where(gap, 0, cells[-1])
    return cells


def _spawn(board: jax.Array, key: jax.Array, *, fours: float) -> jax.Array:
    """Put a 2 or a 4 on a uniformly random empty cell, if there is one."""
    cells = np.arange(board.size, dtype=np.uint32).reshape(board.shape)
    empty = [board == 0] if board.size <= 32 else [(board == 0) & (cells < 32), (board == 0) & (cells >= 32)]
    words = [jnp.where(part, jnp.uint32(1) << (cells % 32), jnp.uint32(0)).sum(dtype=jnp.uint32) for part in empty]
    counts = [jax.lax.population_count(word) for word in words]
    rank, luck = _split_luck(jax.random.bits(key, (), jnp.uint32), sum(counts[1:], counts[0]))
    place = _nth_bit(words[0], rank)
    if len(words) == 2:
        place = jnp.where(rank < counts[0], place, 32 + _nth_bit(words[1], rank - counts[0]))
    four = luck < jnp.uint32(min(int(fours * 2**32), 2**32 - 1)) if fours < 1 else jnp.bool_(True)
    return jnp.where((board == 0) & (cells == place), 1 + four.astype(jnp.int32), board)


def _split_luck(bits: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One random word, uint32 [], as two: a number below a count of at most 2**16, and what that leaves, uint32 [].

    They are the upper and the lower half of a product of 64 bits; both are as good as uniform.
    """
    low = (bits & 0xFFFF) * count
    high = (bits >> 16) * count + (low >> 16)
    return high >> 16, (high << 16) | (low & 0xFFFF)


def _nth_bit(word: jax.Array, n: jax.Array) -> jax.Array:
    """Where the bit is that has n set bits below it, uint32 []; of no meaning when there is none."""
    place = jnp.uint32(0)
    for width in (16, 8, 4, 2, 1):
        below = jax.lax.population_count((word >> place) & jnp.uint32((1 << width) - 1))
        up = n >= below
        n, place = jnp.where(up, n - below, n), jnp.where(up, place + width, place)
    return place


def _turned(board: jax.Array) -> jax.Array:
    """The board mirrored so that moving up, right, down or left is moving left: [R, C] -> [4, R, C]."""
    return jnp.stack([board.T, board[:, ::-1], board.T[:, ::-1], board])


# The teacher looks at 512 boards a move. It holds each cell in an array of its own, which lets XLA fuse the whole
# search into a few vectorised loops: 30 times faster on a CPU than arrays of boards.
Grid = list[list[jax.Array]]  # a board's cells, row by row, each of the same shape: one entry a board


def _best_reply(grid: Grid) -> jax.Array:
    """The best move's reward and the worth of what it leaves, float32; `LOST` where nothing moves."""
    across = _transposed(grid)
    ways = [across, [row[::-1] for row in grid], [row[::-1] for row in across], grid]
    size = range(len(grid))
    before = [[jnp.stack([way[r][c] for way in ways]) for c in size] for r in size]
    pulled = [_pull(row) for row in before]
    after = [cells for cells, _ in pulled]
    moved = functools.reduce(jnp.logical_or, (before[r][c] != after[r][c] for r in size for c in size))
    points = sum((merged for _, merged in pulled[1:]), pulled[0][1]).astype(jnp.float32)
    return jnp.where(moved, points + _worth(after), LOST).max(0)


def _worth(grid: Grid) -> jax.Array:
    """What a board promises, in points, float32: empty cells and equal neighbours are good, disorder is bad."""
    lines = [_line_worth(line) for line in grid + _transposed(grid)]
    empty = [jnp.where(cell == 0, jnp.float32(EMPTY), 0.0) for row in grid for cell in row]
    return functools.reduce(jnp.add, lines + empty)


def _line_worth(line: list[jax.Array]) -> jax.Array:
    """The part of `_worth` that a row or a column has in it: a line in order only rises or only falls."""
    weights = [(cell * cell).astype(jnp.float32) for cell in line]
    falls = functools.reduce(jnp.add, (jnp.maximum(a - b, 0.0) for a, b in itertools.pairwise(weights)))
    rises = falls - (weights[0] - weights[-1])
    equal = [jnp.where((a == b) & (a > 0), jnp.float32(EQUAL), 0.0) for a, b in itertools.pairwise(line)]
    return functools.reduce(jnp.add, equal) + DISORDER * jnp.minimum(falls, rises)


def _transposed(grid: Grid) -> Grid:
    return [list(column) for column in zip(*grid, strict=True)]


def _merges(line: list[int]) -> list[int]:
    """The exponents of the pairs that merge when a line slides toward its start."""
    line, pairs = [k for k in line if k], []
    while len(line) > 1:
        merge = line[0] == line[1] < LARGEST
        if merge:
            pairs.append(line[0])
        line = line[2 if merge else 1 :]
    return pairs


def twenty_forty_eight(*, size: int = 4, fours: float = 0.1, look: Looks = Look()) -> Game[State]:
    """2048 on size x size cells (3 to 6), where a share `fours` (0 to 1) of the new tiles are 4s."""
    size = whole("size", size, 3, 6)
    number = isinstance(fours, int | float | np.integer | np.floating) and not isinstance(fours, bool)
    if not number or not 0 <= fours <= 1:
        raise ValueError(f"fours={fours!r}: give a share from 0 to 1")
    names = ("empty", *(str(2**k) for k in range(1, LARGEST + 1)))
    painters = [None, *(sprites.plate(k, *colours) for k, colours in enumerate(PLATES, start=1))]
    luck: dict[str, Any] = {"fours": float(fours)}
    return Game(
        name="2048",
        rules=(
            f"This is 2048 on {size}x{size} cells. A move slides all tiles one way; two equal tiles that meet merge "
            "into their sum, which is the score. Then a new 2 or 4 appears. Keep the board from filling up."
        ),
        actions=actions.moves(NAMES),
        sheet=sprites.draw(names, painters, (size, size), look),
        reset=functools.partial(reset, size=size, **luck),
        step=functools.partial(step, **luck),
        legal=legal,
        tiles=tiles,
        values=functools.partial(values, **luck),
        explain=explain,
        augment=augment,
    )
