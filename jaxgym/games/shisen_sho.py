"""Shisen-Sho: clear the board by taking pairs of equal tiles.

Two equal tiles may go when a path of straight lines with at most `max_turns` turns joins them, through empty cells or
through the ring of empty cells outside the board:

        . . . . . .          the ring
        . A B . A .          A goes over the top: 2 turns
        . C . . B .          B goes down and right: 1 turn
        . C D . D .          C touches C, and D sees D: 0 turns
        . . . . . .

Reward: 1 a pair. Over when the board is cleared or no pair can go. A deal in which no pair can go is dealt again.

Paths are never walked. A line of cells is a word of bits: `_lines` says how far a tile sees along its row and which
columns are free between two rows. A path across, then down or up, then across exists when the sights of both tiles and
the free columns share a bit. The paths that begin along a column are the same on the transposed board.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym import actions, sprites
from jaxgym.actions import Actions
from jaxgym.carry import varied
from jaxgym.checks import one_of
from jaxgym.game import Game, Outcome
from jaxgym.looks import Look, Looks
from jaxgym.rare import repeatedly
from jaxgym.sprites import Sheet
from jaxgym.symmetry import exchanged, turned

SIZES = (4, 6, 8, 10, 12)
MOST_TURNS, MOST_KINDS = 2, 72
PLAYOUTS, RETRIES = 12, 4  # how often the teacher plays a board to its end, and how often more for the doubtful pairs


LEVELS: dict[str, dict[str, Any]] = {
    "easy": {"size": 4, "kinds": 4},
    "paper": {},
    "hard": {"size": 12, "kinds": 36},
    "extreme": {"size": 12, "kinds": 72},
}


class State(NamedTuple):
    """A board in play."""

    board: jax.Array  # int32 [R, C]: sprite ids, 0 empty


@dataclass(frozen=True, kw_only=True, eq=False)
class Rules:
    """What a game asks of its player."""

    size: int  # rows and columns
    kinds: int
    max_turns: int
    ring: bool  # may a path leave the board?
    kind_of: np.ndarray  # int32 [sprites]: kind from 1, or 0 for the empty cell; equal kinds match

    @property
    def copies(self) -> int:
        """Tiles of a kind."""
        return self.size * self.size // self.kinds


def reset(key: jax.Array, *, rules: Rules, deck: Callable[[jax.Array], jax.Array]) -> State:
    """Shuffle the tiles, int32 [R * C], that `deck` makes of random words, uint32 [R * C], until some pair can go."""

    def deal(carry: tuple[jax.Array, jax.Array, State]) -> tuple[jax.Array, jax.Array, State]:
        key, i, _ = carry
        # Few draws for all of a deal: what takes long to compile is the random numbers.
        luck, order = jax.random.bits(jax.random.fold_in(key, i), (2, rules.size**2), jnp.uint32)
        tiles = jax.lax.sort((order, varied(deck(luck), order)), num_keys=1)[1]
        return key, i + 1, State(tiles.reshape(rules.size, rules.size))

    nothing = State(jnp.zeros((rules.size, rules.size), jnp.int32))  # no pair can go: the first deal is always made
    start = varied((key, jnp.uint32(0), nothing))
    return jax.lax.while_loop(lambda carry: _stuck(carry[2], rules), deal, start)[2]


def step(state: State, action: jax.Array, key: jax.Array, *, rules: Rules) -> Outcome:
    """Take the two tiles away."""
    del key  # nothing is left to luck
    first, second = jnp.divmod(action, jnp.int32(rules.size**2))
    cell = jnp.arange(rules.size**2, dtype=jnp.int32).reshape(rules.size, rules.size)
    after = State(jnp.where((cell == first) | (cell == second), jnp.int32(0), state.board))
    return Outcome(after, jnp.float32(1), _stuck(after, rules))


def augment(state: State, key: jax.Array, *, rules: Rules) -> State:
    """The same pairs from another side, of other kinds; of photos, whichever picture has the other's number."""
    turn_key, kinds_key = jax.random.split(key)
    each = (len(rules.kind_of) - 1) // rules.kinds
    return State(exchanged(turned(state.board, turn_key), kinds_key, rules.kinds, each))


def legal(state: State, *, rules: Rules) -> jax.Array:
    """Pairs that can go, bool [A], either order."""
    kind = jnp.asarray(rules.kind_of)[state.board].reshape(-1)
    equal = _kept(jnp.where(kind > 0, kind, jnp.int32(MOST_KINDS + 1))), _kept(kind)
    return _pairs(state.board > 0, rules.ring, rules.max_turns, equal).reshape(-1)


def _stuck(state: State, rules: Rules) -> jax.Array:
    """Can no pair go? bool []. Line by line, many bytes at a time: `any` of all would look at one after the other."""
    partners = legal(state, rules=rules).reshape(state.board.size, -1).sum(0, dtype=jnp.uint8)  # 143 at most
    return ~(partners > 0).any()


def tiles(state: State) -> jax.Array:
    """The board as it is shown, int32 [R, C]."""
    return state.board


def values(state: State, key: jax.Array, *, rules: Rules) -> jax.Array:
    """The pairs that can still be removed when this one goes first, as far as playouts have seen; float32 [A].

    Taking a pair away never bars the way of another. So a pair that a playout took, at whatever time, may as well go
    now, and one playout that clears the board proves all of its pairs good; once all that can go are proven there is no
    need to look on. A playout's whims belong to cells, not to luck: after a good move the next look finds the same way
    to the end again.
    """
    del key
    n, looks = rules.size**2, PLAYOUTS + RETRIES
    dealt = _deal_out(state.board, rules)
    goes = _can_go(dealt, dealt.cell < n, rules)
    most = (state.board > 0).sum(dtype=jnp.float32) / 2

    def look(
        found: tuple[jax.Array, jax.Array], dealt: _Dealt, goes: jax.Array, most: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        worth, i = found
        whims = jax.random.bits(jax.random.key(0), (looks, n), jnp.uint32)
        taken = _playout(dealt, whims[i], (i >= PLAYOUTS) & (worth < most), rules)
        worth = jnp.maximum(worth, jnp.where(taken, taken.sum(dtype=jnp.float32) / 2, jnp.float32(0)))
        return (worth, i + 1), (i + 1 < looks) & (goes & (worth < most)).any()

    nothing = jnp.zeros(goes.shape, jnp.float32), jnp.int32(0)
    worth, _ = repeatedly(goes.any(), look, nothing, dealt, goes, most, gpu_share=2)
    pairs = jnp.ones((n, n), jnp.float32)  # a pair that no playout took is worth itself
    pairs = pairs.at[dealt.cell[:, :, None], dealt.cell[:, None, :]].max(worth, mode="drop")
    return jnp.where(legal(state, rules=rules), pairs.reshape(-1), -jnp.inf)


def explain(state: State, action: int, *, answers: Actions, sheet: Sheet, rules: Rules) -> str:
    """The pair, what it shows, and the turns of its shortest path."""
    text, board = answers.format(action), np.asarray(state.board).reshape(-1)
    first, second = divmod(action, board.size)
    fewest = int(turns(state.board > 0, ring=rules.ring)[first, second])
    kinds = rules.kind_of[board[[first, second]]]
    if first == second or kinds[0] != kinds[1] or not kinds[0] or fewest > rules.max_turns:
        return f"{text}: this pair cannot go."
    return f"{text}: two {sheet.names[board[first]]}, joined with {fewest} turn{'' if fewest == 1 else 's'}."


@functools.partial(jax.jit, static_argnames="ring")
def turns(tiles: jax.Array, *, ring: bool) -> jax.Array:
    """The fewest turns of a path between any two cells, int32 [R * C, R * C]; 3 when none has fewer than 3."""
    apart = [~joined(tiles, ring=ring, max_turns=most) for most in range(MOST_TURNS + 1)]
    return jnp.stack(apart).sum(0, dtype=jnp.int32)


def joined(tiles: jax.Array, *, ring: bool, max_turns: int) -> jax.Array:
    """Which cells a path joins: where tiles stand, bool [R, C] -> bool [R * C, R * C]."""
    return _pairs(tiles, ring, max_turns).reshape(tiles.size, tiles.size)


def _pairs(tiles: jax.Array, ring: bool, max_turns: int, equal: tuple[jax.Array, jax.Array] | None = None) -> jax.Array:
    """`joined` as bool [R, C, R * C]: from every cell to every cell.

    equal: where given, what the first and the other cell must have in common, uint16 [R * C] each; then no cell is its
    own partner either. What a cell reaches, and what is free between two rows and two columns, is worked out first, so
    that little is done for every pair of cells: in long rows and short words, of which a CPU takes many at a time.
    """
    grid = jnp.pad(tiles, 1, constant_values=not ring)  # without a ring the board is walled in
    rows, columns = tiles.shape
    cell = np.arange(tiles.size)
    row, column = (np.asarray(1 << (at + 1), np.uint16) for at in np.divmod(cell, columns))  # as words of one bit

    def inner(grid: jax.Array) -> tuple[jax.Array, jax.Array]:
        reach, clear = _lines(grid)
        return reach[1:-1, 1:-1], clear[1:-1, 1:-1]

    reach, clear = inner(grid)
    across = _kept(reach.reshape(-1))
    between_rows = _kept(jnp.repeat(clear, columns, axis=1))  # of each row and the row of each cell
    reach, clear = inner(grid.T)
    down = _kept(reach.T.reshape(-1))
    between_columns = _kept(jnp.tile(clear, (1, rows)))

    def band(part: slice) -> jax.Array:
        """The pairs whose first cell is in some of the rows."""

        def first(each: jax.Array | np.ndarray) -> jax.Array:
            return jnp.asarray(each.reshape(rows, columns, 1)[part])

        def other(each: jax.Array | np.ndarray) -> jax.Array:
            return jnp.asarray(each.reshape(1, 1, -1))

        ways = (across, between_rows[part, None, :], column), (down, between_columns[None, :, :], row)
        meets = [_meet((first(r) & free, first(own)), (other(r), other(own)), max_turns) for r, free, own in ways]
        path = functools.reduce(jnp.bitwise_or, meets) != 0
        return path if equal is None else path & (first(equal[0]) == other(equal[1])) & (first(cell) != other(cell))

    # In two bands, for XLA writes the parts of a concatenation in their own shapes. A flat whole it would work out
    # entry by entry, with divisions that on a CPU cost six times the rest.
    return jnp.concatenate([band(slice(0, rows // 2)), band(slice(rows // 2, rows))])


def _kept(values: jax.Array) -> jax.Array:
    """The values, as uint16, in memory: XLA must not work them out again for every pair that they are part of.

    It never repeats a division. This one is by 1, which XLA cannot know.
    """
    short = values.astype(jnp.uint16).astype(jnp.uint32)
    return (short // (1 + (short.reshape(-1)[0] >> 16))).astype(jnp.uint16)


def _bit(index: jax.Array) -> jax.Array:
    return jnp.left_shift(jnp.uint32(1), index.astype(jnp.uint32))


def _lines(grid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The lines of sight among tiles, bool [P, Q], as words of columns.

    Returns the columns that each cell reaches along its row, its own among them, uint32 [P, Q]; and the columns without
    a tile strictly between two rows, uint32 [P, P].
    """
    rows, columns = grid.shape
    own = _bit(jnp.arange(columns, dtype=jnp.uint32))[None, :]
    row = jnp.where(grid, own, jnp.uint32(0)).sum(1, keepdims=True, dtype=jnp.uint32)
    left, right = row & (own - 1), row & ~(own | (own - 1))
    past = _bit(jnp.uint32(32) - jax.lax.clz(left)) - 1  # up to the nearest tile on the left
    below = (right & (~right + 1)) - 1  # below the lowest bit: up to the nearest tile on the right; all where none is
    at = np.arange(rows)
    low, high = np.minimum(at[:, None], at[None, :]), np.maximum(at[:, None], at[None, :])
    between = (low[:, :, None] < at[None, None, :]) & (at[None, None, :] < high[:, :, None])
    tiles = jnp.where(between, row.reshape(1, 1, rows), jnp.uint32(0))
    return below & ~past, ~jnp.bitwise_or.reduce(tiles, axis=2)


End = tuple[jax.Array, jax.Array]  # of a path: the columns that its tile reaches, and the tile's own column; uint32


def _meet(a: End, b: End, max_turns: int) -> jax.Array:
    """The columns of paths that run along a row, a column and a row, any of them perhaps of no length; 0 for none.

    Of the columns that one of the two tiles reaches only those count that are free between the rows of both.
    """
    shared = a[0] & b[0]
    if max_turns == 1:
        shared &= a[1] | b[1]
    elif max_turns == 0:
        shared &= a[1] & b[1]
    return shared


class _Dealt(NamedTuple):
    """The tiles of a board by kind, so that only tiles of one kind need be compared."""

    cell: jax.Array  # int32 [kinds, copies]: where each tile stands, R * C where it is gone
    slot: jax.Array  # int32 [R * C]: which of the kinds * copies stands there, kinds * copies for an empty cell


def _deal_out(board: jax.Array, rules: Rules) -> _Dealt:
    kind = jnp.asarray(rules.kind_of)[board].reshape(-1)
    earlier = np.tri(kind.size, k=-1, dtype=bool)
    rank = ((kind[:, None] == kind[None, :]) & earlier).sum(1, dtype=jnp.int32)
    slots = rules.kinds * rules.copies
    slot = jnp.where(kind > 0, (kind - 1) * rules.copies + rank, slots)
    nowhere = jnp.full((slots,), kind.size, jnp.int32)
    cell = nowhere.at[slot].set(jnp.arange(kind.size, dtype=jnp.int32), mode="drop")
    return _Dealt(cell.reshape(rules.kinds, rules.copies), slot)


def _playout(dealt: _Dealt, whim: jax.Array, first: jax.Array, rules: Rules) -> jax.Array:
    """Take pairs until none can go: bool [kinds, copies, copies], symmetric, the pairs taken.

    While some kind can go altogether it does, which never harms. Otherwise one pair goes and leaves others of its kind
    behind. `whim`, uint32 [R * C], settles which; pairs in `first`, bool [kinds, copies, copies], come before others.
    """
    copies = rules.copies
    number = _pair_numbers(copies)
    width = int(number.max()).bit_length()
    whims = whim.at[dealt.cell].get(mode="clip")
    wish = (whims[:, :, None] + whims[:, None, :]) >> (width + 1) << width  # random, and the same in either order
    wish |= jnp.asarray(number)[None] | (first.astype(jnp.uint32) << 31)  # never the same for two pairs of a kind

    def take(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        left, taken, _ = carry
        wishes = jnp.where(_can_go(dealt, left, rules), wish, jnp.uint32(0))  # [kinds, copies, copies]
        best = wishes.max(2)
        match = (wishes > 0) & (wishes == best[:, :, None]) & (wishes == best[:, None, :])  # each tile in one at most
        whole = (match.any(2) == left).all(1) & left.any(1)
        dearest = jnp.arange(rules.kinds) == jnp.argmax(best.max(1))
        match &= jnp.where(whole.any(), whole, dearest)[:, None, None]
        return left & ~match.any(2), taken | match, match.any()

    start = dealt.cell < dealt.slot.size, jnp.zeros((rules.kinds, copies, copies), bool), jnp.bool_(True)
    return jax.lax.while_loop(lambda carry: carry[2], take, varied(start, whim, first))[1]


def _can_go(dealt: _Dealt, left: jax.Array, rules: Rules) -> jax.Array:
    """Which pairs of a kind can go while `left`, bool [kinds, copies], stand: bool [kinds, copies, copies]."""
    standing = left.reshape(-1).at[dealt.slot].get(mode="fill", fill_value=False)
    grid = jnp.pad(standing.reshape(rules.size, rules.size), 1, constant_values=not rules.ring)
    row, column = jnp.divmod(dealt.cell, jnp.int32(rules.size))

    def across(grid: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
        reach, clear = _lines(grid)
        seen, own = reach.at[row, column].get(mode="clip"), _bit(column)
        between = clear.at[row[:, :, None], row[:, None, :]].get(mode="clip")
        a = seen[:, :, None] & between, own[:, :, None]
        return _meet(a, (seen[:, None, :], own[:, None, :]), rules.max_turns)

    path = (across(grid, row + 1, column + 1) | across(grid.T, column + 1, row + 1)) != 0
    return path & left[:, :, None] & left[:, None, :] & ~np.eye(rules.copies, dtype=bool)[None]


def _pair_numbers(count: int) -> np.ndarray:
    """A number from 1 for every unordered pair of `count` things, uint32 [count, count], 0 on the diagonal."""
    upper = np.triu_indices(count, 1)
    number = np.zeros((count, count), np.uint32)
    number[upper] = np.arange(1, len(upper[0]) + 1)
    return number + number.T


def check(*, size: int, kinds: int, max_turns: int, ring: bool, most_kinds: int) -> dict[str, Any]:
    """A difficulty as the arguments of `Rules`; raises ValueError, in one line, for one that cannot be."""
    size = one_of("size", size, SIZES)
    halves = [k for k in range(1, min(size * size // 2, most_kinds) + 1) if size * size % (2 * k) == 0]
    kinds = one_of("kinds", kinds, halves, f": each has the same even number of {size}x{size}")
    max_turns = one_of("max_turns", max_turns, range(MOST_TURNS + 1))
    if not isinstance(ring, bool | np.bool_):
        raise ValueError(f"ring={ring!r} is not True or False")
    return {"size": size, "kinds": kinds, "max_turns": max_turns, "ring": bool(ring)}


def build(name: str, equal: str, *, sheet: Sheet, rules: Rules, deck: Callable[[jax.Array], jax.Array]) -> Game[State]:
    """The game of those tiles; `equal` says what two tiles have in common that match."""
    answers = actions.cell_pairs(rules.size, rules.size)
    path = f"path of straight lines with at most {rules.max_turns} turn{'' if rules.max_turns == 1 else 's'}"
    where = "empty cells or around the outside of the board" if rules.ring else "empty cells of the board"
    return Game(
        name=name,
        rules=(
            f"Shisen-Sho: clear the board by taking away pairs of tiles that show {equal}. "
            f"A pair may go when a {path} joins the two through {where}."
        ),
        actions=answers,
        sheet=sheet,
        reset=functools.partial(reset, rules=rules, deck=deck),
        step=functools.partial(step, rules=rules),
        legal=functools.partial(legal, rules=rules),
        tiles=tiles,
        values=functools.partial(values, rules=rules),
        explain=functools.partial(explain, answers=answers, sheet=sheet, rules=rules),
        augment=functools.partial(augment, rules=rules),
    )


def shisen_sho(
    *, size: int = 6, kinds: int = 9, max_turns: int = 2, ring: bool = True, look: Looks = Look()
) -> Game[State]:
    """Tiles of coloured shapes.

    size: 4, 6, 8, 10 or 12. kinds: so many that each has the same even number of tiles. max_turns: 0, 1 or 2. ring: may
    a path leave the board? Raises ValueError for anything else.
    """
    asked = check(size=size, kinds=kinds, max_turns=max_turns, ring=ring, most_kinds=MOST_KINDS)
    size, kinds = asked["size"], asked["kinds"]
    shapes = max(s for s in range(1, len(sprites.SHAPES) + 1) if kinds % s == 0 and s * s <= kinds)
    sheet = sprites.kinds(kinds, (size, size), look, colours=kinds // shapes, shapes=shapes)
    kind_of = np.arange(kinds + 1, dtype=np.int32)
    rules = Rules(**asked, kind_of=kind_of)
    same = "the same shape in the same colour"
    return build("shisen_sho", same, sheet=sheet, rules=rules, deck=functools.partial(_deck, rules=rules))


def _deck(luck: jax.Array, *, rules: Rules) -> jax.Array:
    del luck
    return jnp.repeat(jnp.arange(1, rules.kinds + 1, dtype=jnp.int32), rules.copies)
