"""`make`: a game by its name, with every argument checked."""

import dataclasses
import difflib
import inspect
from collections.abc import Callable
from typing import Any

from jaxgym.game import Game
from jaxgym.games import FACTORIES
from jaxgym.sprites import Look


def names() -> tuple[str, ...]:
    """The games that `make` knows."""
    return tuple(FACTORIES)


def find(name: str) -> Callable[..., Game[Any]]:
    """The factory of a game; raises ValueError, with near misses, for a name that does not exist."""
    if not isinstance(name, str) or name not in FACTORIES:
        raise ValueError(f"no game is called {name!r}{_near(str(name), FACTORIES)}; there are {', '.join(FACTORIES)}")
    return FACTORIES[name]


def make(name: str, **options: Any) -> Game[Any]:
    """Make a game: `options` are the arguments of its factory (what it asks) and of `Look` (how it is drawn).

    Raises ValueError, with near misses, for a name or an option that does not exist, and for a value that cannot be.
    """
    factory = find(name)
    drawn = {f.name for f in dataclasses.fields(Look)}
    asked = {p for p in inspect.signature(factory).parameters if p != "look"}
    for option in options:
        if option not in drawn | asked:
            known = sorted(asked) + sorted(drawn)
            raise ValueError(f"{name} has no option {option!r}{_near(option, known)}; it has {', '.join(known)}")
    look = Look(**{k: v for k, v in options.items() if k in drawn})
    return factory(look=look, **{k: v for k, v in options.items() if k in asked})


def _near(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=2)
    return f" (did you mean {' or '.join(close)}?)" if close else ""
