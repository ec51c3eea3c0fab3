"""The cores of a CPU: work side by side."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import jax

T = TypeVar("T")
R = TypeVar("R")


def free(mesh: jax.sharding.Mesh | None, parts: int = 1) -> bool:
    """Whether several things may be worked on at once: work on one leaves cores of a CPU idle, for small products fill
    few of them.

    parts: that a batch is gone through in; where there are several memory is short, and nothing is done at once.
    """
    return jax.default_backend() == "cpu" and mesh is None and parts == 1


def side_by_side(work: Callable[[T], R], given: Iterable[T], *, together: bool) -> Iterator[R]:
    """What some work makes of each thing given, in order.

    together: of all at once; else of each when it is asked for, so that one result at a time is in memory.
    """
    if not together:
        return map(work, given)
    things = list(given)
    with ThreadPoolExecutor(max(len(things), 1)) as pool:
        return iter(list(pool.map(work, things)))
