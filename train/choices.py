"""Every action judged at once, where a reply first names its own: the expected reward itself, not a sample of it.

What every action of a board is worth is known, from the teacher or because the engine plays them all from that very
state, and a tokenizer that is made of the games' own words names an action in one token or two. So what a policy would
earn there is a finite sum, and so is its gradient: all-action policy gradients (Ciosek and Whiteson, arXiv 1706.05374;
Asadi et al., arXiv 1709.00503), a group of infinite size.

And of all that could be said of a board one text alone reads it without a mistake: how likely that is, is the chance
of success in reading.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from policy.decoder import Cache
from policy.model import Model, Prompt, entropy
from train import advantages
from train.advantages import Scale

_RARE, _NEVER = 0.3, 0.01  # of success by the logarithm: see `rarest`
_LEAST = 1e-5  # chance of success that any board is taken to have, and of failure: slopes stay finite
_FAINT = 1e-3  # chance of success below which what a model did well was hardly more than luck


class Names(NamedTuple):
    """The actions of a game in tokens."""

    answers: jax.Array  # int32 [A, 1 or 2]: the tokens of every action
    begins: jax.Array  # int32 [K]: the different first tokens
    which: jax.Array  # int32 [A]: the index, among these, of every action's


class Usual(NamedTuple):
    """What is usual in the game of S boards: float32 [S] each, or one number for all of them."""

    rarest: jax.Array | float  # the limit of the logarithm of success, see `rarest`
    steps: jax.Array | float  # replies that a board may cost, see `stay`
    cost: jax.Array | float  # how many one costs


class Choice(NamedTuple):
    """What is known of S boards that are answered once each."""

    place: jax.Array  # int32 [S]: index of the token that first names the reply's action; -1: none does
    worth: jax.Array  # float32 [S, A]: what every action would earn there
    truth: jax.Array  # int32 [S, P]: how a reply begins that reads the board without a mistake, -1 past the end
    usual: Usual
    before: jax.Array | None = None  # float32 [S, A]: log-probabilities by the model before RL; None: nobody asks


def names(answers: np.ndarray) -> Names:
    """From the tokens of every action, int32 [A, 1 or 2]."""
    begins, which = np.unique(answers[:, 0], return_inverse=True)
    return Names(*(jnp.asarray(each, jnp.int32) for each in (answers, begins, which.reshape(-1))))


def tried_next(model: Model, before: Cache, position: jax.Array, begins: jax.Array) -> jax.Array:
    """What would come after each of several tokens, every one tried alone: logits float32 [n, K, V].

    before: what n rows have read, of which they see what is valid; position int32 [n]: where a token tried stands;
    begins int32 [K]: these tokens.
    """
    n, count = position.shape[0], begins.shape[0]
    where = jnp.broadcast_to(jnp.repeat(position, count)[None, :, None], (3, n * count, 1))
    tried = model.embedding(jnp.tile(begins, n)[:, None])
    hidden, _ = model.decoder.read(tried, where, jnp.ones((n * count, 1), jnp.bool_), before)
    return model.project(hidden[:, 0]).reshape(n, count, -1)


def logprobs(
    model: Model,
    prompt: Prompt,
    hidden: jax.Array,
    cache: Cache,
    place: jax.Array,
    names: Names,
    temperature: jax.Array | float,
) -> jax.Array:
    """How likely each action is named at a place of a reply, int32 [S]: log-probabilities float32 [S, A].

    Their probabilities add up to less than 1: there are tokens that name none.
    hidden [S, R, width] and cache: what `Model.continued` makes of a reply to each of S prompts.
    """
    place = jnp.maximum(place, 0)
    here = model.project(jnp.take_along_axis(hidden, place[:, None, None], axis=1)[:, 0])
    first = jax.nn.log_softmax(here / temperature, axis=-1)[:, names.answers[:, 0]]
    if names.answers.shape[1] == 1:
        return first
    said = jnp.arange(cache.valid.shape[1], dtype=jnp.int32)[None] < place[:, None]
    before = prompt.cache.followed_by(cache._replace(valid=said))
    after = tried_next(model, before, prompt.position + place, names.begins)
    return first + jax.nn.log_softmax(after / temperature, axis=-1)[:, names.which, names.answers[:, 1]]


def rarest(success: float) -> float:
    """How far above failure, in rewards of -1 to 1, a board is taken to lie at least, of a game with such a share of
    good moves: boards much rarer solved than is usual in their game count no more for that.

    A limit that is the same for all games would be none for an easy one, and in a hard one the same for every board.
    """
    return max(_RARE * success, _NEVER)


def stay(chance: jax.Array, steps: jax.Array | float) -> jax.Array:
    """How many replies a board is expected to cost that each passes with a chance p, of T at most: float32 [S].

    (1 - (1 - p)^T) / p, the sum of (1 - p)^k for k < T: a board that is never passed costs all of them.
    """
    p = _LEAST + (1 - 2 * _LEAST) * chance
    return -jnp.expm1(steps * jnp.log1p(-p)) / p


def gain(logprobs: jax.Array, worth: jax.Array, scale: Scale, usual: Usual) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What is to be raised, the expected reward, and how many replies the board is expected to cost: float32 [S] each.

    The expected reward is a finite sum over actions. What is raised is sum over actions of pi(a) A(a), with what an
    action earns beyond the expected reward, over what `advantages` divides a group's by, for a constant A(a). By
    `success` its gradient is that of the logarithm of how far that reward lies above that of no action; by `game` it
    depends on the other boards of the batch, or of the part of it that is gone through (`--accumulate`).
    By `cost` it is minus the replies that the board is expected to cost, over how many are usual: the gradient is that
    of the logarithm of what a game's boards cost together, so boards on which a model is stuck count as often as it
    would stand there.
    logprobs, worth: float32 [S, A].
    """
    odds, gained = odds_of(logprobs), earned(worth)
    expected = jnp.sum(odds * gained, axis=1)
    cost = stay(jnp.sum(odds * chances(worth), axis=1), usual.steps)
    if scale == "cost":
        return -cost / usual.cost, expected, cost
    weights = jax.lax.stop_gradient(jnp.maximum(odds, 0))  # of one who is sure, rounding makes the last less than 0
    advantage = advantages.advantages(gained, weights, scale=scale, rarest=usual.rarest)
    return jnp.sum(odds * advantage, axis=1), jnp.sum(weights * gained, axis=1), cost


def earned(worth: jax.Array) -> jax.Array:
    """What every action earns and, last, none: float32 [S, A] -> [S, A + 1]."""
    return jnp.concatenate([worth, jnp.full_like(worth[:, :1], advantages.NOTHING)], axis=1)


def chances(worth: jax.Array) -> jax.Array:
    """The chance that every action and, last, none is taken to have to pass the board: float32 [S, A] -> [S, A + 1].

    What it earns as a share of the best action's, both counted from what no action earns; what earns less has none.
    """
    above = jnp.maximum(earned(worth) - advantages.NOTHING, 0)
    best = jnp.max(above, axis=1, keepdims=True)
    return above / jnp.where(best > 0, best, 1.0)


def odds_of(logprobs: jax.Array) -> jax.Array:
    """The chance of every action and, last, that none is named: float32 [S, A] -> [S, A + 1]."""
    odds = jnp.exp(logprobs)
    return jnp.concatenate([odds, 1 - jnp.sum(odds, axis=1, keepdims=True)], axis=1)


def spread(logprobs: jax.Array) -> jax.Array:
    """The entropy of what is done, in nats, where to name no action is one thing more to do: [S, A] -> float32 [S]."""
    return entropy(_bounded(odds_of(logprobs)))


def dropped(logprobs: jax.Array, before: jax.Array, worth: jax.Array) -> jax.Array:
    """KL(before, where it passed the board || now) of what is done, in nats: [S, A] each -> float32 [S].

    In this direction it grows where something becomes rare that was done well before, however well another action does
    in its place (mass-covering; Minka, "Divergence measures and message passing", 2005); what did not pass the board
    may go. Where the policy is still the one before, its slope is that of the logarithm of the chance to pass
    (expectation-maximization: Dayan and Hinton, Neural Computation 9, 1997), with each action's part in it fixed.
    A board that was passed with a chance below 1e-3 counts by so much less.
    """
    passed = odds_of(before) * chances(worth)
    was = passed / jnp.maximum(jnp.sum(passed, axis=1, keepdims=True), _FAINT)
    return jnp.sum(was * (_bounded(was) - _bounded(odds_of(logprobs))), axis=1)


def _bounded(odds: jax.Array) -> jax.Array:
    """Logarithms, finite with finite slopes."""
    return jnp.log(jnp.maximum(odds, _LEAST**2))


def shares(place: jax.Array) -> jax.Array:
    """How much each board counts, int32 [S] -> float32 [S]: those whose reply names an action alike, in all 1."""
    there = place >= 0
    return there / jnp.maximum(jnp.sum(there), 1).astype(jnp.float32)
