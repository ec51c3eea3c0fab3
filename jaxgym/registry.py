"""`make`: a game by its name, with every argument checked."""

import dataclasses
import difflib
import inspect
from typing import Any

import jax

from jaxgym import own
from jaxgym.contract import check, why
from jaxgym.game import Game
from jaxgym.games import GAMES, Recipe
from jaxgym.looks import Look, each


def names() -> tuple[str, ...]:
    """The games that `make` knows."""
    return tuple(GAMES)


def levels(name: str) -> dict[str, dict[str, Any]]:
    """The difficulties of a game that have a name, each with the options that it stands for."""
    return {level: dict(options) for level, options in find(name).levels.items()}


def find_level(name: str, level: str) -> dict[str, Any]:
    """The options that a level of a game stands for; raises ValueError, with near misses, for one that it lacks."""
    known = levels(name)
    if not isinstance(level, str) or level not in known:
        others = "" if name in GAMES else " (a jaxgym.games.Recipe gives a game of your own others)"
        raise ValueError(f"{name} has no level {level!r}{_near(str(level), known)}; it has {', '.join(known)}{others}")
    return known[level]


def find(name: str) -> Recipe:
    """How a game is made; raises ValueError, with near misses, for a name that does not exist.

    MODULE:FUNCTION is a game of a user's own (see `make`); MODULE:RECIPE is one with levels, a `jaxgym.games.Recipe`.
    """
    if isinstance(name, str) and ":" in name:
        found = own.find(name, "game")
        recipe = found if isinstance(found, Recipe) else Recipe(found, {"paper": {}})
        if not _takes_look(recipe.make):
            raise ValueError(f"game={name!r} makes no game: it must be a function that takes look=, a jaxgym.Look")
        return recipe
    if not isinstance(name, str) or name not in GAMES:
        raise ValueError(f"no game is called {name!r}{_near(str(name), GAMES)}; there are {', '.join(GAMES)}")
    return GAMES[name]


def make(name: str, *, level: str = "paper", looks: Any = None, **options: Any) -> Game[Any]:
    """Make a game, by its name or, as MODULE:FUNCTION, one of your own: the function takes `look` and options with
    defaults, all by keyword, and gives a `Game`, which is called as it was asked for.

    level: a difficulty by name, such as "easy", "paper", "hard" or "extreme" (see `levels`). options: arguments of the
    game's factory, which come before what the level says (what it asks), and of `Look` (how it is drawn). looks: in
    place of the latter several looks that are drawn alike large, such as `random_looks(8)`; boards of one batch may
    have different ones. Raises ValueError, with near misses, for a name, a level or an option that does not exist, and
    for a value that cannot be.
    """
    recipe = find(name)
    drawn = {f.name for f in dataclasses.fields(Look)}
    parameters = inspect.signature(recipe.make).parameters.values()
    asked = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"look"}
    any_other = any(p.kind == p.VAR_KEYWORD for p in parameters)
    for option in options:
        if option not in drawn | asked and not any_other:
            known = ["level", "looks", *sorted(asked), *sorted(drawn)]
            raise ValueError(f"{name} has no option {option!r}{_near(option, known)}; it has {', '.join(known)}")
    difficulty = find_level(name, level)
    parts = {k: v for k, v in options.items() if k in drawn - asked}
    if looks is not None and parts:
        raise ValueError(f"looks and {', '.join(parts)}: a look is given whole or by its parts, not both")
    look = Look(**parts) if looks is None else each(looks)
    with jax.ensure_compile_time_eval():  # its arrays are numbers, also where a program that is traced makes it
        chosen = {**difficulty, **{k: v for k, v in options.items() if k not in parts}}
        try:
            made = recipe.make(look=look, **chosen)
        except ValueError:
            raise
        except Exception as error:  # whatever a user's own function may raise
            raise ValueError(f"game={name!r} fails: {why(error)}") from error
    if not isinstance(made, Game):
        raise ValueError(f"game={name!r} gave no jaxgym.Game but {type(made).__name__}")
    made = dataclasses.replace(made, name=name)
    if name not in GAMES:
        check(made)
    return made


def given(game: Game[Any] | str, **options: Any) -> Game[Any]:
    """A game as it is, or made by its name; raises ValueError, as `make` does, and for options of one that is made."""
    if "max_episode_steps" in options:  # Gymnasium's word, which its `make` takes but its `make_vec` hands on
        raise ValueError("max_episode_steps is called max_steps here")
    if isinstance(game, str):
        return make(game, **options)
    if options:
        raise ValueError(f"{', '.join(options)}: options are for a game by name; give them to jaxgym.make")
    return game


def _takes_look(factory: Any) -> bool:
    try:
        return callable(factory) and "look" in inspect.signature(factory).parameters
    except ValueError:  # some of Python's own have no signature
        return False


def _near(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=2)
    return f" (did you mean {' or '.join(close)}?)" if close else ""
