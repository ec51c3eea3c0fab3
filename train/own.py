"""Functions of a user's own, by import path."""

import importlib
from collections.abc import Callable
from typing import Any


def find(where: str, what: str) -> Callable[..., Any]:
    """The function MODULE:FUNCTION; raises ValueError, in one line that says what it was to be, when there is none."""
    module, _, name = where.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever a module of a user's does when it is imported
        raise ValueError(f"{what}={where!r} cannot be imported: {type(error).__name__}: {error}") from None
    if not callable(found):
        raise ValueError(f"{what}={where!r} is no function")
    return found
