"""What is a user's own, by import path: games, rewards, players."""

import importlib
from collections.abc import Callable
from typing import Any


def find(where: str, what: str) -> Any:
    """The object MODULE:NAME; raises ValueError, in one line that says what it was to be, when there is none."""
    module, _, name = where.partition(":")
    if not module or not name:
        raise ValueError(f"{what}={where!r}: give MODULE:NAME")
    try:
        found = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # whatever a module of a user's does when it is imported
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{what}={where!r} cannot be imported: {why}") from None
    return found


def function(where: str, what: str) -> Callable[..., Any]:
    """The same of a function; raises ValueError for anything else as well."""
    if not callable(found := find(where, what)):
        raise ValueError(f"{what}={where!r} is no function")
    return found
