"""Several games in one batch: different games, or one game at several difficulties, padded to the largest.

A mixture is a game like any other: `Env`, `render`, `branch` and the teachers take it as it is. Its boards are each of
one of its games, drawn on one canvas of equal cells; its answers are all that any of them has, by their text. What a
step computes is that of the board's own game alone, also in a batch (see `rare`).

An answer's text counts rows and columns from the corner of the board that is shown, and boards are centred in the grid
of the largest. So `Actions.cells` of a mixture lists cells of that grid only where every game that has an answer shows
them in the same place: where all boards begin in the same corner, as those of one size do. Where some do not, or where
one game is played by moves and another by cells, no answer has cells (int32 [A, 0]), as in a game of moves.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym.actions import INVALID, Actions
from jaxgym.carry import varied
from jaxgym.contract import check, explained
from jaxgym.engine import select
from jaxgym.game import Game, Outcome
from jaxgym.rare import rarely
from jaxgym.render import sprite_ids
from jaxgym.sprites import Sheet

OUTSIDE = ""  # the name of a cell beyond a board smaller than the largest: it shows the page, and is not said


class Mixed(NamedTuple):
    """A board of one of G games. To steer what comes next, replace `odds`, board by board: nothing is compiled anew."""

    which: jax.Array  # int32 []: the game that the board is of
    odds: jax.Array  # float32 [G]: how likely the deal after this board is of each, up to their sum
    mask: jax.Array  # bool [A]: the legal answers
    boards: tuple[Any, ...]  # [G]: a state of every game; only that of `which` counts, the others are blank


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Mixture(Game[Mixed]):
    """A game whose boards are of several games."""

    games: tuple[Game[Any], ...]
    deal: Callable[[jax.Array, jax.Array], Mixed]  # (key, which int32 []) -> a board of that game, or of the nearest


class _Parts(NamedTuple):
    """What the functions of a mixture are bound to."""

    games: tuple[Game[Any], ...]
    names: tuple[str, ...]  # [A]: the answers
    tables: np.ndarray  # int32 [G, A]: each answer as the game's own action, INVALID where it has none
    first: tuple[int, ...]  # [G]: where the sprites of each game begin
    grid: tuple[int, int]  # rows and columns of the largest board
    odds: np.ndarray  # float32 [G]


def mix(games: Sequence[Game[Any]], odds: Sequence[float] | None = None) -> Mixture:
    """A mixture of games, each dealt as often as its odds say (None: alike).

    A game that has `renew` is asked for the board after one of its own. So odds that were replaced in a mixture within
    a mixture hold for as long as boards of that mixture follow each other.

    All must be drawn with cells of one size on one canvas, in as many looks: make them with the same `tile`, `picture`
    and `looks`. Raises ValueError, in one line, where they are not.
    """
    games = tuple(games) if isinstance(games, tuple | list) else ()
    if not games or not all(isinstance(game, Game) for game in games):
        raise ValueError("games: give a list of games, such as jaxgym.make(...) returns")
    for game in games:
        check(game)
    try:
        wanted = np.ones(len(games), np.float32) if odds is None else np.asarray(odds, np.float32)
    except (TypeError, ValueError):
        wanted = np.zeros(0, np.float32)
    if wanted.shape != (len(games),) or wanted.min() < 0 or not 0 < wanted.sum(dtype=float) < np.finfo(np.float32).max:
        raise ValueError(f"odds={odds!r}: give one number a game, none below 0, not all of them 0 and none too large")
    for what in ("tile", "picture", "patch", "looks"):
        found = [getattr(game.sheet, what) for game in games]
        if len(set(found)) > 1:
            raise ValueError(
                f"the sheets of {', '.join(g.name for g in games)} differ in {what} ({found}): make them alike"
            )
    grids = [
        jax.eval_shape(lambda key, game=game: game.tiles(game.reset(key)), jax.random.key(0)).shape for game in games
    ]
    sizes = [len(game.sheet.names) for game in games]
    names = tuple(dict.fromkeys(name for game in games for name in game.actions.names))
    parts = _Parts(
        games=games,
        names=names,
        tables=np.asarray([[game.actions.parse(name) for name in names] for game in games], np.int32),
        first=tuple(int(n) for n in 1 + np.cumsum([0, *sizes[:-1]])),
        grid=(max(rows for rows, _ in grids), max(columns for _, columns in grids)),
        odds=wanted,
    )
    with jax.ensure_compile_time_eval():  # as in `make`
        sheet = _sheet(games)
    sheet.canvas(*parts.grid)
    own = [{name: names.index(name) for name in game.actions.names} for game in games]
    return Mixture(
        name="+".join(dict.fromkeys(game.name for game in games)),
        rules="One of these games is shown.\n" + "\n".join(dict.fromkeys(game.rules for game in games)),
        actions=Actions(
            names=names,
            hint="as the game that is shown has it: " + ", or ".join(dict.fromkeys(g.actions.hint for g in games)),
            read=functools.partial(_read, games, own),
            guess=functools.partial(_guess, games, [np.asarray(list(ids.values()), np.int32) for ids in own]),
            cells=_cells(parts, grids),
        ),
        sheet=sheet,
        reset=functools.partial(_reset, parts=parts),
        step=functools.partial(_step, parts=parts),
        legal=_legal,
        tiles=functools.partial(_tiles, parts=parts),
        values=functools.partial(_values, parts=parts),
        explain=functools.partial(_explain, parts=parts),
        renew=functools.partial(_renew, parts=parts),
        practice=functools.partial(_practice, parts=parts) if any(game.practice for game in games) else None,
        augment=functools.partial(_augment, parts=parts) if any(game.augment for game in games) else None,
        games=games,
        deal=functools.partial(_deal, odds=wanted, parts=parts),
    )


def _cells(parts: _Parts, grids: Sequence[tuple[int, int]]) -> np.ndarray:
    """The cells of the mixture's grid that every answer names, int32 [A, k]; k is 0 where games do not agree."""
    none = np.zeros((len(parts.names), 0), np.int32)
    if len({game.actions.cells.shape[1] for game in parts.games}) > 1:
        return none
    placed: list[np.ndarray] = []
    named: dict[str, np.ndarray] = {}
    for game, (rows, columns) in zip(parts.games, grids, strict=True):
        row, column = np.divmod(game.actions.cells, columns)
        top, left = (parts.grid[0] - rows) // 2, (parts.grid[1] - columns) // 2
        placed.append(((row + top) * parts.grid[1] + column + left).astype(np.int32))
        named |= dict(zip(game.actions.names, placed[-1], strict=True))  # in the order of the text
    cells = np.stack([named[name] for name in parts.names])
    for table, own in zip(parts.tables, placed, strict=True):
        has = table >= 0
        if (np.sort(cells[has], 1) != np.sort(own[table[has]], 1)).any():
            return none
    return cells


def _reset(key: jax.Array, *, parts: _Parts) -> Mixed:
    return _drawn(key, jnp.asarray(parts.odds), parts)


def _renew(state: Mixed, key: jax.Array, *, parts: _Parts) -> Mixed:
    return _drawn(key, state.odds, parts, before=state)


def _practice(key: jax.Array, *, parts: _Parts) -> Mixed:
    return _drawn(key, jnp.asarray(parts.odds), parts, practice=True)


def _drawn(
    key: jax.Array, odds: jax.Array, parts: _Parts, *, practice: bool = False, before: Mixed | None = None
) -> Mixed:
    """A board of a game that the odds choose; alike where they are all 0."""
    which_key, deal_key = jax.random.split(key)
    chances = jnp.cumsum(jnp.where(odds.sum() > 0, odds, jnp.ones_like(odds)))
    luck = jax.random.uniform(which_key, (), jnp.float32) * chances[-1]
    which = jnp.minimum((chances <= luck).sum(dtype=jnp.int32), jnp.int32(len(parts.games) - 1))
    return _deal(deal_key, which, odds=odds, parts=parts, practice=practice, before=before)


def _deal(
    key: jax.Array,
    which: jax.Array,
    *,
    odds: jax.Array | np.ndarray,
    parts: _Parts,
    practice: bool = False,
    before: Mixed | None = None,
) -> Mixed:
    which = jnp.asarray(which, jnp.int32).clip(0, len(parts.games) - 1)
    mask, boards = jnp.zeros(parts.tables.shape[1], bool), []
    for g, game in enumerate(parts.games):

        def work(key: jax.Array, *ended: Any, game: Game[Any] = game) -> tuple[Any, jax.Array]:
            board = game.practice(key) if practice and game.practice else game.reset(key)
            if ended and game.renew:
                same, old = ended
                board = select(same, game.renew(select(same, old, board), key), board)
            return board, game.legal(board)

        blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(work, key))
        ended = (before.which == g, before.boards[g]) if before is not None and game.renew else ()
        board, legal = rarely(which == g, work, varied(blank, key), key, *ended)
        boards.append(board)
        mask |= _answers(legal, g, parts, False)
    return Mixed(which, jnp.asarray(odds), mask, tuple(boards))


def _answers(own: jax.Array, g: int, parts: _Parts, missing: Any) -> jax.Array:
    """What a game says of its own actions, [A of the game], as said of the answers of the mixture, [A]."""
    table = parts.tables[g]
    return jnp.where(table >= 0, own[np.maximum(table, 0)], missing)


def _step(state: Mixed, action: jax.Array, key: jax.Array, *, parts: _Parts) -> Outcome:
    mask, boards = jnp.zeros_like(state.mask), []
    reward, over = jnp.float32(0), jnp.bool_(False)
    for g, game in enumerate(parts.games):

        def work(board: Any, action: jax.Array, key: jax.Array, game: Game[Any] = game) -> tuple[Outcome, jax.Array]:
            out = game.step(board, action, key)
            return out._replace(reward=jnp.asarray(out.reward, jnp.float32)), game.legal(out.state)

        own = jnp.maximum(jnp.asarray(parts.tables[g])[action], 0)
        nothing = Outcome(state.boards[g], jnp.float32(0), jnp.bool_(False)), jnp.zeros(game.actions.n, bool)
        out, legal = rarely(state.which == g, work, nothing, state.boards[g], own, key)
        boards.append(out.state)
        reward, over = reward + out.reward, over | out.over
        mask |= _answers(legal, g, parts, False)
    return Outcome(Mixed(state.which, state.odds, mask, tuple(boards)), reward, over)


def _augment(state: Mixed, key: jax.Array, *, parts: _Parts) -> Mixed:
    """Boards of games that have no other guise stay as they are."""
    mask, boards = jnp.zeros_like(state.mask), []
    for g, game in enumerate(parts.games):

        def work(board: Any, key: jax.Array, game: Game[Any] = game) -> tuple[Any, jax.Array]:
            board = game.augment(board, key) if game.augment else board
            return board, game.legal(board)

        nothing = state.boards[g], jnp.zeros(game.actions.n, bool)
        board, legal = rarely(state.which == g, work, nothing, state.boards[g], key)
        boards.append(board)
        mask |= _answers(legal, g, parts, False)
    return Mixed(state.which, state.odds, mask, tuple(boards))


def _legal(state: Mixed) -> jax.Array:
    return state.mask


def _tiles(state: Mixed, *, parts: _Parts) -> jax.Array:
    shown = jnp.zeros(parts.grid, jnp.int32)
    for g, game in enumerate(parts.games):
        own = sprite_ids(game.sheet, game.tiles(state.boards[g])) + parts.first[g]
        spare = [whole - part for whole, part in zip(parts.grid, own.shape, strict=True)]
        padded = jnp.pad(own, [(n // 2, n - n // 2) for n in spare])
        shown = jnp.where(state.which == g, padded, shown)
    return shown


def _values(state: Mixed, key: jax.Array, *, parts: _Parts) -> jax.Array:
    worth = jnp.full(state.mask.shape, -jnp.inf, jnp.float32)
    for g, game in enumerate(parts.games):

        def work(board: Any, key: jax.Array, game: Game[Any] = game) -> jax.Array:
            return game.values(board, key).astype(jnp.float32)

        nothing = varied(jnp.full(game.actions.n, -jnp.inf, jnp.float32), state.boards[g])
        own = rarely(state.which == g, work, nothing, state.boards[g], key)
        worth = jnp.maximum(worth, _answers(own, g, parts, -jnp.inf))
    return worth


def _explain(state: Mixed, action: int, *, parts: _Parts) -> str:
    g = int(state.which)
    own = int(parts.tables[g][action])
    game, said = parts.games[g], parts.names[action]
    if own == INVALID:
        return f"{said}: {game.name} has no such answer."
    text = explained(game, jax.tree.map(np.asarray, state.boards[g]), own)
    named = game.actions.format(own)  # another game's text may have the two cells the other way round
    return said + text.removeprefix(named) if text.startswith(named) else text


def _read(games: Sequence[Game[Any]], own: Sequence[dict[str, int]], text: str) -> int:
    """The answer of the first game that can read a text."""
    for game, ids in zip(games, own, strict=True):
        action = game.actions.parse(text)
        if action != INVALID:
            return ids[game.actions.format(action)]
    return INVALID


def _guess(games: Sequence[Game[Any]], own: Sequence[np.ndarray], key: jax.Array) -> jax.Array:
    """What one who knows how all of the games are answered would say."""
    which_key, guess_key = jax.random.split(key)
    guesses = [game.actions.guess(guess_key) for game in games]
    said = [jnp.where(a >= 0, jnp.asarray(ids)[a], INVALID) for a, ids in zip(guesses, own, strict=True)]
    return jnp.stack(said)[jax.random.randint(which_key, (), 0, len(games), jnp.int32)]


def _sheet(games: Sequence[Game[Any]]) -> Sheet:
    """The sprites of all games, after one that shows the page of the first."""
    like, looks = games[0].sheet, games[0].sheet.looks
    each = [np.asarray(game.sheet.lines).reshape(looks, -1, like.tile * 3) for game in games]
    page = each[0][:, -1:]
    lines = np.concatenate([np.repeat(page, like.tile, 1), *(lines[:, :-1] for lines in each), page], axis=1)
    return Sheet(
        lines=jax.device_put(lines.reshape(-1, like.tile * 3)),
        names=(OUTSIDE, *(name for game in games for name in game.sheet.names)),
        tile=like.tile,
        picture=like.picture,
        patch=like.patch,
        looks=looks,
    )
