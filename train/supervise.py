"""Gradients from written replies, the teacher's and those on disk; and how boards move on after a lesson."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym.engine import random_legal
from policy import sharding
from policy.model import Params
from train import coldstart, dataset, learner, optimizer
from train.coldstart import Lesson, Written
from train.config import Config
from train.course import Course
from train.learner import Frame
from train.memory import Prompts
from train.parts import Coldstart, Sight, Supervised
from train.rollout import BATCH, Boards, act, advance, augmented, practice, try_replies

_OWN = np.arange(BATCH) % 4 > 0  # the boards that are the model's own, once it plays (see `owns`)

Found = tuple[dict[str, Any], Any]  # what to report of a game's batch, and gradients: of what learns, of the heads


class Pupil(NamedTuple):
    """What gradients are of: a model, and one game's heads."""

    frame: Frame
    learned: Params
    heads: dict[str, jax.Array]
    fixed: Params


def study(
    config: Config,
    phase: str,
    pupil: Pupil,
    course: Course,
    lesson: Lesson | None,
    shelves: Sequence[dataset.Shelf],
    key: jax.Array,
    share: float,
) -> Found:
    """From one game's lesson, if there is one, and from replies on disk, which have that share."""
    found = [] if lesson is None else [taught(config, phase, pupil, course, lesson)]
    if share:
        found.append(recalled(config, pupil, course, shelves, key))
    return mixed(found, share)


def taught(config: Config, phase: str, pupil: Pupil, course: Course, lesson: Lesson) -> Found:
    """From one game's lesson."""
    part: Sight | Supervised = getattr(config, phase)
    bare = lesson._replace(state=())
    if isinstance(part, Sight):
        return _by_parts(config, learner.sight_gradients, pupil, (course.tables,), (bare,))
    written = coldstart.write(course.language, lesson, guess=phase == "base")
    if course.tables is None:
        prompt = jnp.asarray(course.language.prompt)
        prompts = jnp.broadcast_to(prompt[None], (part.boards, len(prompt)))
        lengths = jnp.full(part.boards, len(prompt), jnp.int32)
        return _by_words(config, pupil, Prompts(prompts, lengths, lesson.pictures), written, part.perception)
    regret = part.regret if isinstance(part, Coldstart) else 0.0  # a guess has none
    weights = coldstart.Weights(*map(jnp.float32, (part.perception, part.decision, part.dense, regret)))
    return _by_parts(config, learner.supervised_gradients, pupil, (course.tables, weights), (bare, written))


def recalled(config: Config, pupil: Pupil, course: Course, shelves: Sequence[dataset.Shelf], key: jax.Array) -> Found:
    """From as many of a game's replies on disk as a lesson of the cold start has."""
    part = config.coldstart
    prompts, written = dataset.draw(shelves, course.language, part.boards, key)
    return _by_words(config, pupil, prompts, written, part.perception)


def mixed(found: Sequence[Found], share: float) -> Found:
    """Of the teacher's replies or of those on disk; or of both, in that order, the latter with a share."""
    if len(found) == 1:
        return found[0]
    (ours, by_teacher), (theirs, by_data) = found
    report = ours | {f"data_{name}": value for name, value in theirs.items()}
    return report, jax.tree.map(lambda a, b: (1 - share) * a + share * b, by_teacher, by_data)


def _by_words(config: Config, pupil: Pupil, prompts: Prompts, written: Written, perception: float) -> Found:
    share = config.accumulate * coldstart.word_shares(written.blocks, perception)
    report, found = _by_parts(config, learner.words_gradients, pupil, (), (prompts, written, share))
    return coldstart.of_those_asked(report), found


def _by_parts(
    config: Config, gradients: Any, pupil: Pupil, constants: tuple[Any, ...], batch: tuple[Any, ...]
) -> Found:
    """The mean over the parts of a batch, gone through one after another where memory is short."""
    count, boards, mesh = config.accumulate, len(jax.tree.leaves(batch)[0]), pupil.frame.mesh
    if count == 1:
        (_, report), found = gradients(*pupil, *constants, *sharding.cut_rows(batch, mesh))
        return report, found
    rows = np.split(np.arange(boards), count)
    total: Any = None
    for few in rows:
        found = gradients(*pupil, *constants, *sharding.cut_rows(learner.cut(batch, boards, few), mesh))
        total = optimizer.add(total, found)
        del found
    (_, report), mean = optimizer.over(total, jnp.float32(count))
    return report, mean


def practises(config: Config, phase: str, turn: int, course: Course) -> bool:
    """Whether the turn-th lesson of a phase is on boards that the game deals to learn to see from."""
    part = config.sight
    early = turn * (BATCH // part.boards) < part.practice * part.steps
    return phase == "sight" and early and course.language.game.practice is not None


def owns(config: Config, phase: str, turn: int) -> bool:
    """Whether the model plays boards of its own at the turn-th lesson of a phase: later in the cold start."""
    part = config.coldstart
    return phase == "coldstart" and turn * (BATCH // part.boards) >= part.steps // 3


def prepared(
    config: Config, phase: str, turn: int, course: Course, boards: Boards, key: jax.Array, deal_key: jax.Array
) -> Lesson:
    """The turn-th lesson of a phase: on a game's boards in play, or on as many that are practice.

    The model's own boards are taught in another guise, where their game has any (2048 has eight: one lesson in eight is
    of the board itself). So one on which it is stuck is hardly ever a lesson itself, and stays until what is common to
    all such boards is learned.
    """
    game, state = course.language.game, boards.state
    if practises(config, phase, turn, course):
        state = practice(game, jax.random.split(deal_key, BATCH))
    if owns(config, phase, turn):
        state = augmented(game, state, _OWN, deal_key)
    return coldstart.teach(game, state, course.scale, key, guess=phase == "base")


def moved_on(course: Course, old: Boards, key: jax.Array, lesson: Lesson | None, model: Any) -> Boards:
    """A game's boards after a lesson: every other one takes the lesson's move (None: a random legal one), the rest a
    random legal one. Then they are turned, mirrored, their kinds exchanged: a move changes few cells, and a board that
    came back as it was but for these would teach little that is new.

    model: graph, parameters and temperature of one who plays itself; else None. Then three of four boards are its own:
    they take its reply, and stay as they are after a wrong one, so that it is taught what to do where it gets stuck
    (DAgger, arXiv 1011.0686).
    """
    act_key, luck_key, reply_key, guise_key = jax.random.split(key, 4)
    game, place = course.language.game, jnp.arange(BATCH)
    actions = act(game, random_legal, old.state, act_key)
    if lesson is not None:
        actions = jnp.where(place % 2 == 0, lesson.action, actions)
    if model is not None:
        graphdef, params, temperature = model
        tried = try_replies(graphdef, params, course.language, old.state, reply_key, 1, temperature)
        actions = jnp.where(_OWN, jnp.asarray(tried.reading.actions), actions)
    new, _ = advance(game, old, actions, luck_key, course.limit)
    return new._replace(state=augmented(game, new.state, ~_OWN | (model is None), guise_key))
