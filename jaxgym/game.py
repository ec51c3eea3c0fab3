"""The protocol: a game is a record of pure functions on one board.

Callers `vmap`; a game never sees a batch, a time limit, an illegal action or a finished board (see `engine`).
"""

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import jax
from jax.stages import Wrapped

from jaxgym.actions import Actions
from jaxgym.sprites import Sheet

Key = jax.Array  # a typed PRNG key, []
Action = jax.Array  # int32 []
State = TypeVar("State")  # a NamedTuple of arrays: no key, no pixels


# Functions of a game, and `deal` of a mixture.
_ON_DEVICE = ("reset", "step", "legal", "tiles", "values", "renew", "practice", "augment", "deal")


class Outcome(NamedTuple):
    """What one legal move leads to."""

    state: Any
    reward: jax.Array  # float32 []: the game's own score for this move
    over: jax.Array  # bool []: finished, won or stuck


def _known(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that `jax.jit` can know again, of whatever can be called: `operator.attrgetter("mask")`, say."""
    try:
        weakref.ref(function), hash(function)
    except TypeError:
        return functools.partial(_called, function)
    return function


def _called(function: Callable[..., Any], *given: Any) -> Any:
    return function(*given)


@dataclass(frozen=True, kw_only=True, eq=False)
class Game(Generic[State]):
    """One game at one difficulty with one look. Hashable by identity, so it may be a static argument of `jax.jit`.

    Its functions on the device are kept as `jax.jit` makes them, inlined where others are compiled with them: called
    by itself, each is compiled once, not anew at every call.
    """

    name: str
    rules: str  # what the player is told
    actions: Actions
    sheet: Sheet
    reset: Callable[[Key], State]  # deals a board in play; one on which nothing is legal is over at once
    step: Callable[[State, Action, Key], Outcome]  # the action is legal; the engine guards the rest
    legal: Callable[[State], jax.Array]  # bool [A]
    tiles: Callable[[State], jax.Array]  # int32 [R, C] sprite ids
    values: Callable[[State, Key], jax.Array]  # float32 [A]: a teacher's worth of every action, -inf where illegal
    explain: Callable[[State, int], str]  # host: one or two sentences on why this action, which begin with its text
    renew: Callable[[State, Key], State] | None = None  # deals the board after one that has ended; None: `reset` does
    practice: Callable[[Key], State] | None = None  # deals a board to learn to see from; None: those of play will do
    augment: Callable[[State, Key], State] | None = None  # as hard, in another guise: turned, kinds exchanged

    def __post_init__(self) -> None:
        for part in _ON_DEVICE:
            function = getattr(self, part, None)
            if function is not None and not isinstance(function, Wrapped):
                object.__setattr__(self, part, jax.jit(_known(function), inline=True))

    def __getstate__(self) -> dict[str, Any]:
        """Without what `jax.jit` makes of functions, which cannot be pickled."""
        return {k: getattr(v, "__wrapped__", v) if k in _ON_DEVICE else v for k, v in self.__dict__.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    def __repr__(self) -> str:
        """One line: the functions of a game, and its names by the hundred, would fill a screen."""
        return f"{type(self).__name__}({self.name!r}, {self.actions!r}, {self.sheet!r})"
