"""The curriculum of RL: how hard a game's boards are, by how well it goes, and which games an update takes.

Numbers of the host, a record for every game; they stand in a checkpoint, so that a run that was stopped goes on alike.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train.parts import Mix

WINDOW = 10  # updates that a running mean remembers, and that a game has on a level before it may leave it
_FAST = 3  # updates that the fast one remembers
_FLOOR = 0.2  # share of the odds that is not up to progress: no game is forgotten


class Standing(NamedTuple):
    """Where a game stands in RL."""

    updates: int = 0  # that it has had
    level: int = 0  # index of the level that its boards are of
    here: int = 0  # updates since it came to that level
    success: float = 0.0  # running mean, since then, of the share of replies that are good moves
    reward: float = 0.0  # running mean, since then
    recent: float = 0.0  # a faster one of the same
    cost: float = 0.0  # running mean, since then, of the replies that a board is expected to cost; 0: not known


def begin(standing: Standing, level: int) -> Standing:
    """Come to a level: what was measured on another one says nothing about it."""
    return Standing(updates=standing.updates, level=level)


def record(standing: Standing, success: float, reward: float, cost: float = 0.0) -> Standing:
    """Take down an update of a game. cost: 0, or what is not finite, where nobody knows."""
    here = standing.here + 1
    known = cost > 0 and math.isfinite(cost)
    return Standing(
        updates=standing.updates + 1,
        level=standing.level,
        here=here,
        success=running(standing.success, success, here, WINDOW),
        reward=running(standing.reward, reward, here, WINDOW),
        recent=running(standing.recent, reward, here, _FAST),
        cost=running(standing.cost, cost, here if standing.cost else 1, WINDOW) if known else standing.cost,
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


def odds(weights: Sequence[float], standings: Sequence[Standing], *, progress: bool) -> np.ndarray:
    """The probability of each game to be drawn first: float64 [n].

    By fixed weights; and by learning progress, the absolute difference of what a game earned lately and over a longer
    time: a game that is getting better is worth playing, and one that is getting worse as well (arXiv 1707.00183; two
    running means as in arXiv 2106.14876). Where it is not known yet a game is taken to progress as much as the best
    known; a share of the odds is by weights alone.
    """
    fixed = np.asarray(weights, np.float64) / max(weights)
    fixed /= np.sum(fixed)
    if not progress:
        return fixed
    known = np.asarray([each.here > _FAST for each in standings])
    made = np.abs([each.recent - each.reward for each in standings])
    led = fixed * np.where(known, made, np.max(made, where=known, initial=0.0))
    return (1 - _FLOOR) * led / np.sum(led) + _FLOOR * fixed if led.any() else fixed


def drawable(mix: Mix, games: Iterable[str]) -> list[str]:
    """Those that an update may take: all but games of weight 0, where some are drawn."""
    return [game for game in games if not mix.games or mix.weight(game) > 0]


def draw(mix: Mix, standings: Mapping[str, Standing], key: jax.Array) -> tuple[list[str], dict[str, float]]:
    """The games of an update, in the order of the standings, and the odds of each game; none where all are taken."""
    names = list(standings)
    if not mix.games:
        return names, {}
    chances = odds([*map(mix.weight, names)], [*standings.values()], progress=mix.progress)
    able = np.asarray([names.index(game) for game in drawable(mix, names)])
    each = np.maximum(chances[able].astype(np.float32), np.finfo(np.float32).tiny)
    drawn = jax.random.choice(key, able, (mix.games,), replace=False, p=jnp.asarray(each))
    return [names[i] for i in sorted(drawn.tolist())], dict(zip(names, chances.tolist(), strict=True))


def worth(standings: Sequence[Standing], top: int, reward: float, *, mixed: bool) -> float | None:
    """What an update says of how good the model is: nothing while a game's boards are easier than they will be.

    top: the hardest level. reward: the mean of those games that the update took; mixed: which need not be all.
    """
    if not all(each.here and each.level == top for each in standings):
        return None
    return float(np.mean([each.recent for each in standings])) if mixed else reward
