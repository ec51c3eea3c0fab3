"""What a game must be, checked before anything is compiled: a slip in one of its functions is told in one line."""

from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym.actions import Actions
from jaxgym.game import Game, Outcome
from jaxgym.sprites import Sheet

_passed: "WeakSet[Game[Any]]" = WeakSet()  # games that were found right
_dealt: "WeakKeyDictionary[Game[Any], Any]" = WeakKeyDictionary()  # the shapes of a board of each


def check(game: Game[Any]) -> None:
    """Raise ValueError, in one line, where what a game's functions give does not have the shapes and types of `Game`.

    Nothing is computed: the functions are traced, once for each game.
    """
    if game in _passed:
        return
    for name, kind, wanted in (
        ("actions", Actions, "such as jaxgym.actions.moves(...)"),
        ("sheet", Sheet, "that of jaxgym.sprites.draw(...)"),
        ("rules", str, "a text"),
        ("name", str, "a text"),
    ):
        if not isinstance(getattr(game, name), kind):
            raise ValueError(f"{game.name}: {name} is {_said(getattr(game, name))}: give {wanted}")
    key, count = jax.random.key(0), game.actions.n
    if not count:
        raise ValueError(f"{game.name}: it has no action: give it one at least")
    state = _traced(game, "reset", key)
    outcome = _traced(game, "step", state, jnp.int32(0), key)
    if not isinstance(outcome, Outcome):
        raise ValueError(f"{game.name}: step gives a {type(outcome).__name__}: give a jaxgym.Outcome")
    _expect(game, "legal(state)", _traced(game, "legal", state), (count,), jnp.bool_)
    _expect(game, "values(state, key)", _traced(game, "values", state, key), (count,), jnp.floating)
    _expect(game, "the reward of step", outcome.reward, (), jnp.floating, jnp.integer, jnp.bool_)
    _expect(game, "over, of step,", outcome.over, (), jnp.bool_)
    tiles = _traced(game, "tiles", state)
    if len(getattr(tiles, "shape", ())) != 2 or not jnp.issubdtype(tiles.dtype, jnp.integer) or not tiles.size:
        raise ValueError(f"{game.name}: tiles(state) is {_said(tiles)}: give int32 [R, C], sprite ids")
    try:
        game.sheet.canvas(*tiles.shape)
    except ValueError as error:
        raise ValueError(f"{game.name}: tiles(state) is {_said(tiles)}: {error}") from None
    _same(game, "step", state, outcome.state)
    for name in ("renew", "augment"):
        if getattr(game, name) is not None:
            _same(game, name, state, _traced(game, name, state, key))
    if game.practice is not None:
        _same(game, "practice", state, _traced(game, "practice", key))
    _passed.add(game)


def check_state(game: Game[Any], state: Any) -> None:
    """Raise ValueError, in one line, for what is no board of a game: of other parts or shapes than those it deals."""
    if game not in _dealt:
        _dealt[game] = jax.eval_shape(game.reset, jax.random.key(0))
    wanted = _dealt[game]
    structure: Any = jax.tree.structure(wanted)
    if structure != jax.tree.structure(state):
        found, ours = (f"a {type(each).__module__}.{type(each).__name__}" for each in (state, wanted))
        if found == ours:
            found, ours = _parts(state), _parts(wanted)
        inside = "; an EnvState has it in .board" if hasattr(state, "board") and hasattr(state, "look") else ""
        raise ValueError(f"state is {found}: a board of {game.name} is {ours}{inside}")
    for (path, one), leaf in zip(jax.tree_util.tree_leaves_with_path(wanted), jax.tree.leaves(state), strict=True):
        if np.shape(leaf) != one.shape:
            batch = "; vmap over a batch" if np.shape(leaf)[1:] == one.shape else ", by its options"
            part = f"state{jax.tree_util.keystr(path)}"
            raise ValueError(
                f"{part} is {list(np.shape(leaf))}: a board of this {game.name} has {list(one.shape)}{batch}"
            )


def explained(game: Game[Any], state: Any, action: int) -> str:
    """The teacher's reason, on the host: state of NumPy arrays. Raises ValueError, in one line, where there is none."""
    try:
        text = game.explain(state, action)
    except Exception as error:  # whatever a user's own function may raise
        raise ValueError(f"{game.name}: explain fails: {why(error)}") from error
    if not isinstance(text, str):
        raise ValueError(f"{game.name}: explain(state, action) is {_said(text)}: give a text")
    return text


def why(error: Exception) -> str:
    """What went wrong in a user's own function, in one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _traced(game: Game[Any], name: str, *given: Any) -> Any:
    """The shapes and types of what a function of a game gives."""
    try:
        return jax.eval_shape(getattr(game, name), *given)
    except Exception as error:  # whatever a user's own function may raise
        raise ValueError(f"{game.name}: {name} fails: {why(error)}") from error


def _expect(game: Game[Any], what: str, found: Any, shape: tuple[int, ...], *kinds: Any) -> None:
    if getattr(found, "shape", None) != shape or not any(jnp.issubdtype(found.dtype, kind) for kind in kinds):
        wanted = "bool" if kinds == (jnp.bool_,) else "float32"
        raise ValueError(f"{game.name}: {what} is {_said(found)}: give {wanted} {list(shape)}")


def _same(game: Game[Any], what: str, state: Any, after: Any) -> None:
    """Raise where a function gives a state of another kind than `reset`."""
    ours: Any = jax.tree.structure(state)
    if ours != jax.tree.structure(after):
        found, wanted = _parts(after), _parts(state)
        if found == wanted:  # a list and a tuple, say
            found, wanted = str(jax.tree.structure(after)), str(ours)
        raise ValueError(f"{game.name}: {what} gives a state of other parts than reset: {found}, not {wanted}")
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(after), strict=True):
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            part = f"state{jax.tree_util.keystr(path)}"
            raise ValueError(
                f"{game.name}: {part} is {_said(one)} after reset and {_said(other)} after {what}: make them alike"
            )


def _said(found: Any) -> str:
    """An array in words, a thing that is none by its type."""
    return f"{found.dtype} {list(found.shape)}" if hasattr(found, "dtype") else f"a {type(found).__name__}"


def _parts(state: Any) -> str:
    return ", ".join(
        jax.tree_util.keystr(path) or "one array" for path, _ in jax.tree_util.tree_leaves_with_path(state)
    )
