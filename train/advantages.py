"""From what replies earned to what each of their tokens is credited with; pure functions."""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Scale = Literal["none", "group", "game", "success", "cost"]
Average = Literal["token", "sequence", "constant"]

_ALIKE = 1e-5  # of the largest reward: closer together than this, the rewards of a group differ by rounding only
_LEAST = 1e-4  # added to a deviation before it divides
NOTHING = -1.0  # what the game gives for a move that is not legal
RAREST = 0.2  # a mean is taken to lie so far above that at least: no group counts more than that allows


@jax.jit
def differ(rewards: jax.Array, counts: np.ndarray | bool = True) -> jax.Array:
    """Whether there is anything to learn from a group: rewards float32 [S, G] -> bool [S], not all of them alike.

    counts bool [S, G]: of which replies something is learned.
    """
    highest = jnp.max(rewards, axis=1, where=counts, initial=-jnp.inf)
    lowest = jnp.min(rewards, axis=1, where=counts, initial=jnp.inf)
    return highest - lowest > _ALIKE * jnp.maximum(jnp.max(jnp.abs(rewards), axis=1), 1)


def counted(blocks: np.ndarray, group: int) -> np.ndarray:
    """Of which replies something is learned: blocks int32 [S * G, R], -1 for tokens that do not count -> bool [S, G].

    Not of those that were cut off, where they are masked; they still say how good the others of their group are.
    """
    return (blocks >= 0).any(axis=1).reshape(-1, group)


@functools.partial(jax.jit, static_argnames="scale")
def advantages(
    rewards: jax.Array,
    weights: jax.Array | None = None,
    *,
    scale: Scale = "group",
    solved: jax.Array | None = None,
    rarest: jax.Array | float = RAREST,
    useful: np.ndarray | bool = True,
) -> jax.Array:
    """r - mean within each group, over a measure of it: rewards float32 [S, G] -> float32 [S, G].

    group: over the group's own deviation (GRPO, arXiv 2402.03300, section 4.1). none: over nothing, so a small
    difference stays small (Dr. GRPO, arXiv 2503.20783). game: over the deviation of all groups of the game, so games
    whose rewards lie further apart do not outweigh the others, and groups keep their sizes (arXiv 2508.08221).
    success: over how far the mean of what the game gave lies above -1, what no legal move earns, so that what is raised
    is the logarithm of success, and boards that are rarely solved count more (MaxRL, arXiv 2602.02710), up to a limit:
    it is taken to lie `rarest` above it at least, float32 [S] or one number. solved float32 [S, G]: that part of the
    rewards (None: all of them). cost: the same, where groups are compared; see `choices`.
    A group whose rewards are all equal, but for rounding, teaches nothing: its advantages are exactly 0.
    weights float32 [S, G]: how much each counts in its group's mean, in all 1; None: all alike. useful bool [S]: which
    groups count in the deviation of the game.
    """

    def mean(x: jax.Array) -> jax.Array:
        if weights is None:
            return jnp.mean(x, axis=1, keepdims=True)
        return jnp.sum(weights * x, axis=1, keepdims=True)

    middle = mean(rewards)
    centred = jnp.where(differ(rewards)[:, None], rewards - middle, jnp.float32(0))
    if scale == "none":
        return centred
    if scale in ("success", "cost"):
        above = (middle if solved is None else mean(solved)) - NOTHING
        return centred / jnp.maximum(above, jnp.asarray(rarest, jnp.float32).reshape(-1, 1))
    squares = mean(jnp.square(centred))
    if scale == "game":
        count = jnp.broadcast_to(jnp.reshape(useful, (-1, 1)), squares.shape)
        squares = jnp.sum(squares * count) / jnp.maximum(jnp.sum(count), 1)
    return centred / (jnp.sqrt(squares) + jnp.float32(_LEAST))


@functools.partial(jax.jit, static_argnums=1)
def farthest(rewards: jax.Array, keep: int, counts: np.ndarray | bool = True) -> jax.Array:
    """Which replies of each group tell most: rewards float32 [S, G] -> int32 [S, keep], those of the largest variance.

    They are some of the best and some of the worst ("max-variance down-sampling", PODS, arXiv 2504.13818). counts bool
    [S, G]: of which something is learned; others only fill up.
    """
    order = jnp.argsort(jnp.where(counts, rewards, jnp.inf), axis=1)
    last = jnp.maximum(jnp.sum(jnp.broadcast_to(counts, rewards.shape), axis=1), keep)
    low, place = jnp.arange(keep + 1)[:, None], jnp.arange(keep)
    ways = place + jnp.where(place < low, 0, last[:, None, None] - keep)  # [S, ways, keep]: so many of the worst first
    each = jnp.take_along_axis(order[:, None], ways, axis=2)
    spread = jnp.var(jnp.take_along_axis(rewards[:, None], each, axis=2), axis=2)
    return jnp.take_along_axis(each, jnp.argmax(spread, axis=1)[:, None, None], axis=1)[:, 0]


def carried(advantage: np.ndarray, kept: np.ndarray | None, alive: np.ndarray | None = None) -> np.ndarray:
    """The advantages of the replies that are kept: they share out what the whole group would gain and lose.

    advantage float32 [..., G], each reply compared with its whole group; kept int [..., K], which are kept (None: all);
    alive bool [..., G], which count (None: all; the advantage of others is 0) -> float32 [..., K]. Positive ones are
    scaled so that their mean over K is that of the positive ones over G, and negative ones likewise. So where rewards
    have two values, the expected update is that of all replies, whatever the scale. (PODS compares those kept with each
    other, which makes of every scale that of the deviation.) Where those kept are all of one sign, they are compared
    with each other.
    """
    if kept is None:
        return advantage
    mine, share = np.take_along_axis(advantage, kept, axis=-1), kept.shape[-1] / advantage.shape[-1]
    sides = []
    for side in (1, -1):
        whole, own = (np.maximum(side * x, 0).sum(-1, keepdims=True) for x in (advantage, mine))
        sides.append((own > 0, whole * np.float32(share) / np.where(own > 0, own, 1)))
    (gain, up), (loss, down) = sides
    there = np.ones(mine.shape, bool) if alive is None else np.take_along_axis(alive, kept, axis=-1)
    middle = mine.sum(-1, keepdims=True) / np.maximum(there.sum(-1, keepdims=True), 1)
    one_sided = np.where(there, mine - middle, 0)
    return np.where(gain & loss, mine * np.where(mine > 0, up, down), one_sided).astype(np.float32)


class Rewards(NamedTuple):
    """What replies earned, part by part, weighted: float32 [S, G] each."""

    game: jax.Array
    format: jax.Array
    perception: jax.Array

    @property
    def total(self) -> jax.Array:
        return self.game + self.format + self.perception


class Credit(NamedTuple):
    """What every token of B = S * G replies of R tokens is credited with.

    It depends on the block that a token is of, int32 [B, R]: 0 perception, 1 think, 2 answer, -1 for what does not
    count (what lies past the end).
    """

    advantage: jax.Array  # float32 [B, R]
    units: jax.Array  # int32 [B, R]: tokens of a unit are averaged, units count alike; -1: of none


@jax.jit
def moving(credit: Credit) -> jax.Array:
    """Which tokens would have their odds changed: bool [B, R], those that count and have an advantage."""
    return (credit.units >= 0) & (credit.advantage != 0)


def credited(
    rewards: Rewards,
    blocks: jax.Array,
    *,
    by: Literal["reply", "block"],
    scale: Scale,
    kept: np.ndarray | None = None,
    counts: np.ndarray | None = None,
    useful: np.ndarray | bool = True,
) -> Credit:
    """What the tokens of replies that are compared with each other are credited with.

    by "reply": all tokens share the advantage of the sum of a reply's rewards, and are one unit (arXiv 2402.03300). By
    "block": perception is judged by perception and format, think and answer by game and format, and each block is a
    unit; else the tokens that read sixty cells would drown the two that decide, and be praised for what those did.

    kept int [S, K]: which replies of each group the blocks, int32 [S * K, R], are of; None: all. counts bool [S, G]: of
    which something is learned; None: all. useful bool [S]: of which groups, and not what fills up the batch.
    """

    def compared(earned: jax.Array) -> jax.Array:
        """float32 [S, G] -> float32 [S * K, 1]."""
        each = np.asarray(advantages(earned, scale=scale, solved=rewards.game, useful=useful))
        each = each if counts is None else np.where(counts, each, 0)
        return jnp.asarray(carried(each, kept, counts)).reshape(-1, 1)

    if by == "reply":
        return Credit(jnp.broadcast_to(compared(rewards.total), blocks.shape), jnp.minimum(blocks, 0))
    seen, done = (compared(part + rewards.format) for part in (rewards.perception, rewards.game))
    return Credit(jnp.where(blocks == 0, seen, done), blocks)


def to_go(rewards: np.ndarray, discount: float) -> np.ndarray:
    """The discounted sum of what is still to come: r[t] + discount r[t + 1] + ...: float32 [T, ...] -> the same."""
    out = np.array(rewards, np.float32)
    for t in range(len(out) - 2, -1, -1):
        out[t] += np.float32(discount) * out[t + 1]
    return out


def among(
    values: np.ndarray,
    groups: np.ndarray,
    *,
    scale: Scale,
    solved: np.ndarray | None = None,
    turns: np.ndarray | float = 1.0,
) -> np.ndarray:
    """`advantages` of values float32 [N] whose groups, int [N], may be of any sizes: float32 [N].

    Groups of step-level rewards are the answers to one and the same state (GiGPO, arXiv 2505.10978). Who is alone in a
    group has nothing to be compared with: 0. turns float32 [N]: of how many turns, as they are discounted, a value is
    the sum: no legal move in any of them earns -1 so often.
    """
    if not len(values):
        return np.zeros(0, np.float32)
    _, index, count = np.unique(groups, return_inverse=True, return_counts=True)
    index = index.reshape(-1)

    def mean(x: np.ndarray) -> np.ndarray:
        return (np.bincount(index, x, len(count)) / count)[index]

    highest, lowest = np.full(len(count), -np.inf), np.full(len(count), np.inf)
    np.maximum.at(highest, index, values)
    np.minimum.at(lowest, index, values)
    largest = np.maximum(np.maximum(np.abs(highest), np.abs(lowest)), 1)
    centred = np.where((highest - lowest > _ALIKE * largest)[index], values - mean(values), 0.0)
    if scale in ("success", "cost"):
        span = mean(np.broadcast_to(turns, values.shape))
        above = mean(values if solved is None else solved) - NOTHING * span
        return (centred / np.maximum(above, RAREST * span)).astype(np.float32)
    if scale != "none":
        squares = np.square(centred)
        centred = centred / (np.sqrt(mean(squares) if scale == "group" else squares.mean()) + _LEAST)
    return centred.astype(np.float32)


@functools.partial(jax.jit, static_argnums=(1, 2))
def shares(units: jax.Array, average: Average, most: int | None = None) -> jax.Array:
    """How much each token counts for the mean over replies: units int32 [B, R] (0 to 2, -1: not at all) -> float32.

    Within a unit, token: all tokens of the batch alike (DAPO, arXiv 2503.14476). sequence: all replies alike, whatever
    their length (GRPO, arXiv 2402.03300). constant: every token 1 / (most * R) whatever else was said, `most` being how
    many replies there may be (None: B) and R the longest that one may be (Dr. GRPO, arXiv 2503.20783). Units that occur
    count alike. But for `constant`, the shares add up to 1.
    """

    def share(mask: jax.Array) -> jax.Array:
        if average == "constant":
            return mask / ((most or len(mask)) * mask.shape[1])
        if average == "token":
            return mask / jnp.maximum(jnp.sum(mask), 1)
        own = jnp.sum(mask, axis=1, keepdims=True)
        return mask / jnp.maximum(own, 1) / jnp.maximum(jnp.sum(own > 0), 1)

    each = [(units == unit).astype(jnp.float32) for unit in range(3)]
    present = sum((jnp.any(mask > 0) for mask in each), jnp.float32(0))
    total = sum((share(mask) for mask in each), jnp.zeros(units.shape, jnp.float32))
    return total / jnp.maximum(present, 1)
