"""Swap: exchange two neighbouring tiles so that three or more equal ones stand in a line.

    a b c a            a b c a    the run     . . . a    and new    d b d a
    b c a b    swap    b c a b    vanishes    a b c b    tiles      a b c b
    a a b c   (2, 2)   a a a c    and tiles   b c a c    come       b c a c
    c b a c   (3, 2)   c b b c    fall        c b b c               c b b c

All runs vanish at once, tiles fall, new random tiles come from above, and this repeats until nothing vanishes. The
reward: a wave of n tiles scores n * (n - 1), here 3 * 2. When no swap is legal the board is shuffled into one that has
some. The game never ends by itself.
"""

import collections
import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym import actions, sprites
from jaxgym.actions import Actions
from jaxgym.carry import varied
from jaxgym.checks import whole
from jaxgym.game import Game, Outcome
from jaxgym.looks import Look, Looks
from jaxgym.rare import rarely, repeatedly
from jaxgym.symmetry import exchanged, turned

WAVES = 100  # a longer cascade is cut off by a shuffle; none that long has been seen
FEWEST = 3  # kinds: with two, most boards never come to rest
SHUFFLES = 50  # tries before tiles are dealt anew: some sets of tiles have no legal order


LEVELS: dict[str, dict[str, Any]] = {
    "easy": {"size": 6, "kinds": 6},
    "paper": {},
    "hard": {"size": 10, "kinds": 18},
    "extreme": {"size": 12, "kinds": 24},
}


class State(NamedTuple):
    """At rest: no empty cell, no run, at least one legal swap."""

    board: jax.Array  # int32 [size, size], kinds from 1


def reset(key: jax.Array, *, size: int, kinds: int, run: int) -> State:
    """A deal at rest."""
    return State(_deal(jnp.zeros((size, size), jnp.int32), key, kinds=kinds, run=run))


def practice(key: jax.Array, *, size: int, kinds: int, run: int) -> State:
    """A deal at rest of any three kinds: equal tiles meet far more often, so it has many legal swaps."""
    deal_key, kinds_key = jax.random.split(key)
    dealt = reset(deal_key, size=size, kinds=FEWEST, run=run)
    return State(exchanged(dealt.board, kinds_key, kinds))


def augment(state: State, key: jax.Array, *, kinds: int) -> State:
    """The same swaps are legal; which way tiles fall, and so what a swap scores in all, is another matter."""
    turn_key, kinds_key = jax.random.split(key)
    return State(exchanged(turned(state.board, turn_key), kinds_key, kinds))


def step(state: State, action: jax.Array, key: jax.Array, *, cells: np.ndarray, kinds: int, run: int) -> Outcome:
    """Swap, let runs vanish until there is none, and shuffle if nothing could be swapped then."""
    fall_key, shuffle_key, deal_key = jax.random.split(key, 3)
    board, score = _cascade(_swap(state.board, jnp.asarray(cells)[action]), fall_key, kinds=kinds, run=run)
    board = _settle(board, shuffle_key, deal_key, kinds=kinds, run=run)
    return Outcome(State(board), score, jnp.bool_(False))


def legal(state: State, *, run: int) -> jax.Array:
    """bool [A]: the swaps that make a run; of a board at rest."""
    # Turned so that the right, lower, left and upper neighbour of a cell is the one on its right.
    turned = jnp.stack([jnp.rot90(state.board, k) for k in range(4)])
    gains = jax.vmap(functools.partial(_gains, run=run))(turned)
    right, down, left, up = (jnp.rot90(gains[k], -k) for k in range(4))
    across = right[:, :-1] | left[:, 1:]
    return jnp.concatenate([across.ravel(), (down[:-1] | up[1:]).ravel()])


def tiles(state: State) -> jax.Array:
    """int32 [size, size]: sprite k shows kind k."""
    return state.board


def values(state: State, key: jax.Array, *, cells: np.ndarray, run: int) -> jax.Array:
    """float32 [A]: the score of a swap and its cascade if no new tile matched anything.

    The key is not used. Only the legal swaps are played out, one after the other: there are few of them.
    """
    del key
    allowed, swaps = legal(state, run=run), jnp.asarray(cells)
    index = jnp.arange(len(cells), dtype=jnp.int32)

    def play(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        left, worth = carry
        action = jnp.argmax(left)
        score = _collapse(_swap(state.board, swaps[action]), run=run)
        here = index == action.astype(jnp.int32)
        return left & ~here, jnp.where(here, score, worth)

    start = varied((allowed, jnp.full(len(cells), -jnp.inf, jnp.float32)))
    return jax.lax.while_loop(lambda carry: carry[0].any(), play, start)[1]


def explain(state: State, action: int, *, moves: Actions, names: tuple[str, ...], run: int) -> str:
    """What the swap lines up."""
    board = np.array(state.board)
    first, second = moves.cells[action]
    board.flat[[first, second]] = board.flat[[second, first]]
    index = np.arange(board.size).reshape(board.shape)
    lined: set[int] = set()
    for line in np.concatenate([index, index.T]).tolist():
        for _, group in itertools.groupby(line, key=lambda cell: int(board.flat[cell])):
            cells = list(group)
            lined.update(cells if len(cells) >= run else ())
    counts = collections.Counter(names[board.flat[cell]] for cell in sorted(lined))
    what = " and ".join(f"{n} {name}" for name, n in counts.items())
    return f"{moves.format(action)}: lines up {what or 'nothing'}."


def _swap(board: jax.Array, pair: jax.Array) -> jax.Array:
    """Exchange two cells, given as flat indices int32 [2]."""
    flat = board.ravel()
    index = jnp.arange(flat.size, dtype=jnp.int32)
    flat = jnp.where(index == pair[0], flat[pair[1]], jnp.where(index == pair[1], flat[pair[0]], flat))
    return flat.reshape(board.shape)


def _runs(board: jax.Array, run: int) -> jax.Array:
    """bool [size, size]: the cells that stand in a run; empty cells (0) never do."""
    return _row_runs(board, run) | _row_runs(board.T, run).T


def _row_runs(board: jax.Array, run: int) -> jax.Array:
    """bool [R, C]: the cells that stand in a run along their row."""
    columns = board.shape[1]
    windows = columns - run + 1
    same = (board[:, :-1] == board[:, 1:]) & (board[:, 1:] > 0)
    starts = functools.reduce(jnp.logical_and, (same[:, i : i + windows] for i in range(run - 1)))
    return functools.reduce(jnp.logical_or, (jnp.pad(starts, ((0, 0), (i, run - 1 - i))) for i in range(run)))


def _gains(board: jax.Array, run: int) -> jax.Array:
    """bool [size, size]: whether a cell comes to stand in a run when it receives its right neighbour's tile."""
    size = board.shape[0]
    wide = jnp.pad(board, run - 1)

    def near(down: int, right: int) -> jax.Array:
        """The tiles so many cells away, 0 outside the board."""
        return wide[run - 1 + down :, run - 1 + right :][:size, :size]

    tile = near(0, 1)
    above_below = [tile == near(i, 0) for i in range(1 - run, run) if i]  # -(run - 1) .. -1, 1 .. run - 1
    lines = [above_below[i : i + run - 1] for i in range(run)]
    lines.append([tile == near(0, -i) for i in range(1, run)])
    complete = functools.reduce(jnp.logical_or, (functools.reduce(jnp.logical_and, line) for line in lines))
    return complete & (tile > 0) & (tile != board)


def _wave(board: jax.Array, gone: jax.Array, fresh: jax.Array) -> jax.Array:
    """Let the tiles above vanished cells fall; the cells left open on top take the tiles of `fresh` that lie there."""
    size = board.shape[0]
    open_below = jnp.cumsum(gone[::-1], axis=0, dtype=jnp.int32)[::-1]  # [size, size]
    rows = jnp.arange(size, dtype=jnp.int32)
    target = jnp.where(gone, -1, rows[:, None] + open_below)
    lands = target[None] == rows[:, None, None]  # [to row, from row, column]
    fallen = jnp.where(lands, board[None], 0).sum(1, dtype=jnp.int32)
    return jnp.where(lands.any(1), fallen, fresh)


def _score(gone: jax.Array) -> jax.Array:
    """float32 []: what a wave scores."""
    n = gone.sum(dtype=jnp.float32)
    return n * (n - 1)


def _draw(key: jax.Array, size: int, kinds: int) -> jax.Array:
    """Random tiles, int32 [size, size], each of 1..kinds."""
    return 1 + (jax.random.uniform(key, (size, size), jnp.float32) * kinds).astype(jnp.int32)


def _cascade(board: jax.Array, key: jax.Array, *, kinds: int, run: int) -> tuple[jax.Array, jax.Array]:
    """Waves until no run is left: the board and the score. Wave i draws its new tiles with `fold_in(key, i)`."""
    Carry = tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # board, its runs, score, waves so far

    def wave(carry: Carry, key: jax.Array) -> tuple[Carry, jax.Array]:
        board, gone, score, i = carry
        fallen = _wave(board, gone, _draw(jax.random.fold_in(key, i), board.shape[0], kinds))
        runs = _runs(fallen, run)
        return (fallen, runs, score + _score(gone), i + 1), runs.any() & (i + 1 < WAVES)

    first, more = wave(varied((board, _runs(board, run), jnp.float32(0), jnp.int32(0)), key), key)
    board, _, score, _ = repeatedly(more, wave, first, key)
    return board, score


def _collapse(board: jax.Array, *, run: int) -> jax.Array:
    """The score of the waves when nothing comes from above, float32 []."""
    Carry = tuple[jax.Array, jax.Array, jax.Array]  # board, its runs, score

    def wave(carry: Carry) -> Carry:
        board, gone, score = carry
        fallen = _wave(board, gone, jnp.zeros_like(board))
        return fallen, _runs(fallen, run), score + _score(gone)

    start = varied((board, _runs(board, run), jnp.float32(0)))
    return jax.lax.while_loop(lambda carry: carry[1].any(), wave, start)[2]


def _rests(board: jax.Array, run: int) -> jax.Array:
    """bool []: no run, and a legal swap."""
    return ~_runs(board, run).any() & legal(State(board), run=run).any()


def _settle(board: jax.Array, shuffle_key: jax.Array, deal_key: jax.Array, *, kinds: int, run: int) -> jax.Array:
    """Unless the board is at rest, shuffle its tiles until it is; where no order does, deal."""
    board, rests = _shuffle(board, shuffle_key, run=run)
    return rarely(~rests, functools.partial(_deal, kinds=kinds, run=run), board, board, deal_key)


def _shuffle(board: jax.Array, key: jax.Array, *, run: int) -> tuple[jax.Array, jax.Array]:
    """Put the tiles in random orders until they rest, or give up after `SHUFFLES`: the board, and whether it rests."""
    Carry = tuple[jax.Array, jax.Array, jax.Array]  # board, at rest, tries so far

    def shuffle(carry: Carry, key: jax.Array) -> tuple[Carry, jax.Array]:
        board, _, i = carry
        # Tiles ride in the low bits of random numbers: sorting one array is much cheaper than sorting two.
        luck = jax.random.bits(jax.random.fold_in(key, i), board.shape, jnp.uint32) & ~jnp.uint32(127)
        order = jnp.sort((luck | board.astype(jnp.uint32)).ravel()) & jnp.uint32(127)
        mixed = order.astype(jnp.int32).reshape(board.shape)
        rests = _rests(mixed, run)
        return (mixed, rests, i + 1), ~rests & (i + 1 < SHUFFLES)

    start = varied((board, _rests(board, run), jnp.int32(0)), key)
    board, rests, _ = repeatedly(~start[1], shuffle, start, key)
    return board, rests


def _deal(board: jax.Array, key: jax.Array, *, kinds: int, run: int) -> jax.Array:
    """Draw the tiles of runs anew, or all if there are none, until the board is at rest."""
    Carry = tuple[jax.Array, jax.Array, jax.Array]  # board, at rest, tries so far

    def draw(carry: Carry) -> Carry:
        board, _, i = carry
        runs = _runs(board, run)
        drawn = jnp.where(runs | ~runs.any(), _draw(jax.random.fold_in(key, i), board.shape[0], kinds), board)
        return drawn, _rests(drawn, run), i + 1

    return jax.lax.while_loop(lambda carry: ~carry[1], draw, varied((board, jnp.bool_(False), jnp.int32(0)), key))[0]


def swap(*, size: int = 8, kinds: int = 12, run: int = 3, look: Looks = Look()) -> Game[State]:
    """Swap on size x size cells (4 to 12) with so many kinds of tiles, where `run` (3 or 4) equal ones make a run."""
    size, run = whole("size", size, 4, 12), whole("run", run, 3, 4)
    why = "; with fewer kinds tiles would hardly come to rest, with more hardly a swap would be legal"
    kinds = whole("kinds", kinds, FEWEST, _most_kinds(size, run), f" at size={size}, run={run}{why}")
    moves = actions.swaps(size, size)
    shapes = min(len(sprites.SHAPES), math.ceil((math.sqrt(4 * kinds + 1) - 1) / 2))  # one colour more than shapes
    sheet = sprites.kinds(kinds, (size, size), look, colours=math.ceil(kinds / shapes), shapes=shapes)
    return Game(
        name="swap",
        rules=(
            f"This is a swap puzzle on {size}x{size} cells. Swap two neighbouring tiles so that {run} or more equal "
            "tiles stand in a row or column: they vanish, tiles fall, and new ones come from above. n tiles that "
            f"vanish together score n x (n - 1). A swap that lines up no {run} is not allowed."
        ),
        actions=moves,
        sheet=sheet,
        reset=functools.partial(reset, size=size, kinds=kinds, run=run),
        step=functools.partial(step, cells=moves.cells, kinds=kinds, run=run),
        legal=functools.partial(legal, run=run),
        tiles=tiles,
        values=functools.partial(values, cells=moves.cells, run=run),
        explain=functools.partial(explain, moves=moves, names=sheet.names, run=run),
        practice=functools.partial(practice, size=size, kinds=kinds, run=run),
        augment=functools.partial(augment, kinds=kinds),
    )


def _most_kinds(size: int, run: int) -> int:
    """The most kinds with which one deal in ten or more has a legal swap (and that a sheet can show)."""
    windows = 2 * size * (size - run + 1)
    # A window of `run` cells is completed from beside any of its cells or from beyond its ends, inside the board.
    ways = windows * (2 * run + 2) - 4 * (size - run + 1) * run - 4 * size
    return min(len(sprites.COLOURS) * len(sprites.SHAPES), int((10 * ways) ** (1 / (run - 1))))
