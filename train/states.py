"""The boards that RL answers: where they begin, and how they move on.

An update answers every so-many-th board of a game. The moves that follow are planned, and made by all boards at once
when one of them is to be answered again: to move a few takes as long as to move all.

Boards come back in another guise where their game has any, also those that a wrong reply left as they were. Else RL
would learn by heart the few on which the model is stuck, which are answered again and again.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym import engine
from train.config import Config
from train.course import Course
from train.rollout import BATCH, Boards, act, advance, augmented, choose, wander

_NONE, _RANDOM, _TEACHER = -2, -3, -4  # plans beside actions; -1 is one that cannot be read


def begin(config: Config, course: Course, boards: Boards, key: jax.Array) -> Boards:
    """The boards that RL begins with: those in play, or others with no more than `depth` random moves behind them."""
    boards = boards._replace(plan=np.full(BATCH, _NONE, np.int32))
    return renewed(config, course, boards, key) if config.states.depth else boards


def renewed(config: Config, course: Course, old: Boards, key: jax.Array) -> Boards:
    """Other boards, at every stage of random play."""
    depth = config.states.depth + 1 if config.states.depth else course.limit  # each has had fewer moves than that
    return wander(course.language.game, key, BATCH, min(depth, course.limit))._replace(plan=old.plan)


@functools.partial(jax.jit, static_argnums=2)
def every(rows: Any, turn: int, turns: int) -> Any:
    """Every turns-th row: each slice holds boards at all stages of play, and neighbours in time are not alike."""
    return jax.tree.map(lambda leaf: leaf.reshape(len(leaf) // turns, turns, *leaf.shape[1:])[:, turn], rows)


def planned(config: Config, old: Boards, answers: np.ndarray, turn: int) -> Boards:
    """Boards with a plan for those that were answered at a turn, each by whose move it is its turn to (`states.play`).

    By a group's first reply where that is the policy itself: such a board stays the problem it is, as in the protocol,
    after a reply that is no legal move. answers int32 [S].
    """
    if not config.states.persist:
        return old
    part = config.grpo
    play, plan = np.asarray(config.states.play), np.array(old.plan)
    players = play[(np.arange(part.states) + turn * part.states) % len(play)]
    plan[turn :: BATCH // part.states] = np.select(
        [players == "own", players == "teacher"], [answers, _TEACHER], _RANDOM
    )
    return old._replace(plan=plan)


def asked(
    config: Config, course: Course, old: Boards, number: tuple[int, int], renew_key: jax.Array, follow_key: jax.Array
) -> tuple[Boards, int, Any]:
    """The boards of a round of an update, all that there are, which turn's they are, and their states.

    number: of the update since the game came to its level, and of the round in it.
    Boards that persist are asked in turns, round after round. Others are never asked twice: an update takes as many
    turns as it may have need of, and new boards are dealt where none are left.
    """
    step, i = number
    turns, persist = BATCH // config.grpo.states, config.states.persist
    rounds = 1 if persist else min(1 + config.grpo.refill, turns)
    place = step + i if persist else step % (turns // rounds) * rounds + i
    if not persist and place % turns == 0:
        old = renewed(config, course, old, renew_key if i == 0 else jax.random.fold_in(renew_key, i))
    boards = ready(config, course, old, place % turns, follow_key)
    return boards, place % turns, every(boards.state, place % turns, turns)


def ready(config: Config, course: Course, old: Boards, turn: int, key: jax.Array) -> Boards:
    """Boards of which those of a turn can be answered: if one of them has a move to make, all that have one make it."""
    plan = np.asarray(old.plan)
    if (plan[turn :: BATCH // config.grpo.states] == _NONE).all():
        return old
    act_key, luck_key, guise_key = jax.random.split(key, 3)
    game, actions = course.language.game, jnp.asarray(plan)
    for code, player in ((_RANDOM, engine.random_legal), (_TEACHER, engine.teacher)):
        if (plan == code).any():
            actions = jnp.where(plan == code, act(game, player, old.state, act_key), actions)
    here = old._replace(plan=None)
    moved, _ = advance(game, here, actions, luck_key, course.limit)
    moved = moved._replace(state=augmented(game, moved.state, plan != _NONE, guise_key))
    return choose(jnp.asarray(plan != _NONE), moved, here)._replace(plan=np.full_like(plan, _NONE))
