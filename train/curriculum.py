"""The curriculum of RL: how hard a game's boards are, by how well it goes.

Numbers of the host, a record for every game; they stand in a checkpoint, so that a run that was stopped goes on alike.
"""

from typing import NamedTuple

WINDOW = 10  # updates that a running mean remembers, and that a game has on a level before it may leave it


class Standing(NamedTuple):
    """Where a game stands in RL."""

    updates: int = 0  # that it has had
    level: int = 0  # index of the level that its boards are of
    here: int = 0  # updates since it came to that level
    success: float = 0.0  # running mean, since then, of the share of replies that are good moves


def begin(standing: Standing, level: int) -> Standing:
    """Come to a level: what was measured on another one says nothing about it."""
    return Standing(updates=standing.updates, level=level)


def record(standing: Standing, success: float) -> Standing:
    """Take down an update of a game."""
    here = standing.here + 1
    return standing._replace(
        updates=standing.updates + 1, here=here, success=running(standing.success, success, here, WINDOW)
    )


def running(mean: float, value: float, count: int, window: int) -> float:
    """A running mean after its count-th value: the plain mean of the first `window`, from then on exponential."""
    return mean + (value - mean) / min(count, window)


def climb(standing: Standing, levels: int, promote: float) -> Standing:
    """Go on to the next of some levels once success has reached `promote`, and back one when it falls below half of it.

    A game stays at least WINDOW updates where it is.
    """
    if standing.here < WINDOW:
        return standing
    if standing.success >= promote and standing.level < levels - 1:
        return begin(standing, standing.level + 1)
    if standing.success < promote / 2 and standing.level > 0:
        return begin(standing, standing.level - 1)
    return standing
