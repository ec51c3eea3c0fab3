"""One update of GRPO: boards are answered, rewards become credit, credit becomes optimizer steps, boards move on."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym import engine
from policy import sharding
from policy.model import Params
from train import advantages, choices, episodes, grpo, learner
from train.advantages import Rewards
from train.choices import Choice, Names
from train.config import Config
from train.course import Course
from train.language import Named
from train.learner import Frame, Hyper, Rule, Shares, TrainState, Tried
from train.memory import Prompts
from train.parts import Grpo
from train.rollout import BATCH, Boards, act, advance, choose, try_replies, wander
from train.rounds import Report, Round, earn, every_action


class Collected(NamedTuple):
    """What an update learns from in one game, and the boards after it."""

    tried: list[Tried]  # turn by turn
    boards: Boards
    report: Report
    written: int  # replies


def begin(config: Config, course: Course, boards: Boards, key: jax.Array) -> Boards:
    """The boards that RL begins with: those in play, or others with no more than `depth` random moves behind them."""
    depth = config.states.depth
    return wander(course.language.game, key, BATCH, min(depth, course.limit)) if depth else boards


def collect(
    config: Config, frame: Frame, params: Params, course: Course, boards: Boards, step: int, key: jax.Array
) -> Collected:
    """Let the model answer the boards of an update, judge the answers, and let the boards move on."""
    part, game = config.grpo, course.language.game
    turns = BATCH // part.states
    renew_key, *keys = jax.random.split(key, 2 + part.refill)
    if not config.states.persist and step % turns == 0:
        boards = wander(game, renew_key, BATCH, min(config.states.depth or course.limit, course.limit))
    rounds: list[Round] = []
    after = boards
    for i, own_key in enumerate(keys):
        play_key, follow_key = jax.random.split(own_key)
        turn = (step + i) % turns
        state = every(boards.state, turn, turns)
        if config.episodes.turns > 1:
            played = episodes.play(config, frame, params, course, state, play_key)
            rounds.append(played[0].round)
        else:
            rounds.append(answer(config, frame, params, course, state, play_key))
        if config.states.persist:
            after = follow(config, course, after, rounds[-1].replies.reading.actions, turn, follow_key)
        if sum(int(jnp.sum(advantages.differ(r.earned.total))) for r in rounds) >= part.states:
            break
    if config.episodes.turns > 1:
        written = len(played) * part.states * part.group
        report = episodes.report(played, part.group, config.episodes.discount)
        return Collected(episodes.learned_from(config, played), after, report, written)
    report = {name: np.mean([each.report[name] for each in rounds]) for name in rounds[0].report}
    report |= {"rounds": len(rounds)} if part.refill else {}
    named = course.language.named if every_action(config, course) else None
    return Collected([learned_from(rounds, part, named)], after, report, len(rounds) * part.states * part.group)


def trouble(report: Report, room: int) -> str:
    """What is wrong with the replies that a game got in an update, and how to mend it; "" if nothing is."""
    if report["length"] <= 1:
        return "every reply is empty: begin with a model that writes, or with --recipe g1"
    if report["truncated"] >= 1:
        return f"every reply is cut off after {room} tokens: raise --reply"
    if report["differ"] <= 0:
        return (
            "all replies to a board earn alike, so there is nothing to learn: raise --grpo-temperature or --grpo-group"
        )
    return ""


def answer(config: Config, frame: Frame, params: Params, course: Course, state: Any, key: jax.Array) -> Round:
    """Let the model answer S boards G times each, and judge what it said."""
    reply_key, worth_key = jax.random.split(key)
    part = config.grpo
    tried = try_replies(frame.graphdef, params, course.language, state, reply_key, part.group, part.temperature)
    return earn(config, course, tried, state, worth_key)


def follow(config: Config, course: Course, old: Boards, answers: np.ndarray, turn: int, key: jax.Array) -> Boards:
    """The boards that were answered move on, each by whose move it is its turn to (`states.play`).

    By a group's first reply where that is the policy itself: such a board stays, as in the protocol, after a reply that
    is no legal move. answers int32 [S * G].
    """
    part, game = config.grpo, course.language.game
    act_key, luck_key = jax.random.split(key)
    turns = BATCH // part.states
    players = np.resize(np.asarray(config.states.play), part.states)
    actions = np.array(act(game, engine.random_legal, old.state, act_key))
    moves = actions[turn::turns]
    if "teacher" in players:
        moves = np.where(players == "teacher", act(game, engine.teacher, every(old.state, turn, turns), act_key), moves)
    actions[turn::turns] = np.where(players == "own", answers[:: part.group], moves)
    moved, _ = advance(game, old, jnp.asarray(actions), luck_key, course.limit)
    return choose(jnp.arange(BATCH) % turns == turn, moved, old)


@functools.partial(jax.jit, static_argnums=2)
def every(rows: Any, turn: int, turns: int) -> Any:
    """Every turns-th row: each slice holds boards at all stages of play, and neighbours in time are not alike."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, turns, *leaf.shape[1:])[:, turn], rows)


def learned_from(rounds: list[Round], part: Grpo, named: Named | None = None) -> Tried:
    """What of some rounds is learned from, each token with its credit.

    Where groups may be refilled, those whose replies all earned alike are dropped: others take their place, and if
    there are too few, nothing is learned from what fills up the batch.
    named: how actions are written, where every action is judged. Then a reply's own action is no longer compared with
    the others' of its group, only whether it names one.
    """
    earned = Rewards(*(jnp.concatenate(each) for each in zip(*(r.earned for r in rounds), strict=True)))
    differ = np.asarray(advantages.differ(earned.total))
    choice = choice_of(rounds, part.group, named) if named else None
    if choice:
        nothing = np.concatenate([r.replies.reading.actions for r in rounds]).reshape(-1, part.group) < 0
        earned = earned._replace(game=jnp.where(nothing, jnp.float32(choices.NOTHING), jnp.float32(0)))
    blocks = np.concatenate([r.blocks for r in rounds])
    group, length = part.group, blocks.shape[1]
    chosen = np.argsort(~differ, kind="stable")[: part.states] if part.refill else np.arange(part.states)
    if part.refill:
        blocks = np.where(np.repeat(differ, group)[:, None], blocks, -1)
    earned = Rewards(*(each[chosen] for each in earned))
    keep = part.keep if 0 < part.keep < group else group
    best = np.asarray(advantages.farthest(earned.total, keep)) if keep < group else np.arange(group)[None]
    rows = (chosen[:, None] * group + best).reshape(-1)
    kept = Rewards(*(each[np.arange(len(chosen))[:, None], best] for each in earned))
    share_out = advantages.credit_by_reply if part.credit == "reply" else advantages.credit_by_block
    sampled = [r.replies.sampled for r in rounds]
    return Tried(
        prompts=Prompts(
            *(_rows(list(leaf), chosen) for leaf in zip(*(r.replies.prompts for r in rounds), strict=True))
        ),
        ids=_rows([said.ids for said in sampled], rows),
        sampler=_rows([said.logprobs for said in sampled], rows),
        old=None,
        reference=None,
        credit=share_out(kept, jnp.asarray(blocks[rows].reshape(-1, length)), scale=part.scale),
        choice=Choice(*(leaf[chosen] for leaf in choice)) if choice else None,
    )


def choice_of(rounds: list[Round], group: int, named: Named) -> Choice:
    """The first reply of every group, up to where it names its action, with what each action there is worth."""
    ids = np.concatenate([np.asarray(r.replies.sampled.ids)[::group] for r in rounds])
    actions = np.concatenate([r.replies.reading.actions[::group] for r in rounds])
    place = np.where(actions >= 0, named.decision(ids, np.maximum(actions, 0)), -1)
    worth = np.concatenate([r.worth for r in rounds if r.worth is not None])
    return Choice(jnp.asarray(ids), jnp.asarray(place, jnp.int32), jnp.asarray(worth))


def _rows(parts: list[jax.Array], rows: np.ndarray) -> jax.Array:
    """Some rows of arrays one after the other."""
    return (parts[0] if len(parts) == 1 else jnp.concatenate(parts))[rows]


def learn(
    config: Config,
    frame: Frame,
    rule: Any,
    state: TrainState,
    fixed: Params,
    reference: Callable[[], Params],
    batches: dict[str, list[Tried]],
    lr: jax.Array,
    key: jax.Array,
    names: dict[str, Names | None] | None = None,
) -> tuple[TrainState, dict[str, Report], jax.Array]:
    """The optimizer steps of an update; also what to report of every game, and the mean norm of gradients.

    reference: the model before RL, asked only where the divergence from it counts. names: of each game's actions.
    """
    part, names = config.grpo, names or {}
    heat = jnp.float32(part.temperature)
    once = part.epochs * part.minibatches == 1  # then the model before the step is the model in it
    if part.kl:
        params = reference()
        batches = {
            name: [t._replace(reference=_score(frame, params, t, heat)) for t in turns]
            for name, turns in batches.items()
        }
    if not once:
        params = learner.whole(state.params, fixed, frame.dtype)
        batches = {
            name: [t._replace(old=_score(frame, params, t, heat)) for t in turns] for name, turns in batches.items()
        }
    reports: dict[str, list[Report]] = {name: [] for name in batches}
    norms = []
    for epoch in range(part.epochs):
        order = np.arange(part.states)
        if not once:
            order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), part.states))
        for rows in np.split(order, part.minibatches):
            gradients: list[Any] = []
            moving = False
            for name, turns in batches.items():
                few = turns if once else [learner.cut(tried, part.states, rows) for tried in turns]
                given = few, len(rows), name, names.get(name)
                report, gradient = gradient_of(config, frame, state.params, fixed, *given)
                reports[name].append(report)
                gradients.append((gradient, {}))
                moving = moving or any(map(_teaches, few))
            norms.append(jnp.float32(0))
            if moving:  # else there is nothing to learn: the optimizer would make a full step of what rounding leaves
                state, norms[-1] = learner.apply(rule, state, tuple(gradients), lr, mesh=frame.mesh)
    mean = {name: {k: jnp.mean(jnp.stack([r[k] for r in each])) for k in each[0]} for name, each in reports.items()}
    return state, mean, jnp.mean(jnp.stack(norms))


def _teaches(tried: Tried) -> bool:
    """Whether there is anything to learn from a batch."""
    found = jnp.any(advantages.moving(tried.credit))
    if tried.choice is not None:
        found |= jnp.any((tried.choice.place >= 0) & advantages.differ(tried.choice.worth))
    return bool(found)


def _score(frame: Frame, params: Params, tried: Tried, temperature: jax.Array) -> jax.Array:
    """The log-probabilities that a model gives to replies, float32 [B, R], back from the devices it is spread over."""
    there = sharding.cut_rows(tried, frame.mesh)
    return sharding.gather(learner.score(frame, params, there, temperature), frame.mesh)


def gradient_of(
    config: Config,
    frame: Frame,
    learned: Params,
    fixed: Params,
    turns: list[Tried],
    count: int,
    game: str,
    names: Names | None = None,
) -> tuple[Report, Params]:
    """The gradient of a minibatch of `count` boards, turn by turn, and part by part where memory is short."""
    part = config.grpo
    rule = Rule(part.objective, kl_in_advantage=part.kl_estimate == "k1", scale=part.scale)
    numbers = (part.temperature, part.kl, part.correct or math.inf, config.reward.weight(game))
    temperature, kl, cap, weight = map(jnp.float32, numbers)
    hyper = Hyper(temperature, grpo.Clip(jnp.float32(part.clip), jnp.float32(part.clip_high)), kl, cap, weight)
    units = jnp.concatenate([tried.credit.units for tried in turns])
    shares = advantages.shares(units, part.average), advantages.shares(jnp.minimum(units, 0), "token")
    each = [Shares(*pair) for pair in zip(*(jnp.split(share, len(turns)) for share in shares), strict=True)]
    if turns[0].choice is not None:  # then there is one turn
        each = [each[0]._replace(boards=choices.shares(turns[0].choice.place))]
    total: Any = None
    for whole in zip(turns, each, strict=True):
        for rows in np.split(np.arange(count), config.accumulate):
            some = whole if config.accumulate == 1 else learner.cut(whole, count, rows)
            some = sharding.cut_rows(some, frame.mesh)
            found = learner.grpo_gradients(frame, learned, fixed, rule, *some, names, hyper)
            total = found if total is None else jax.tree.map(jnp.add, total, found)
    return total
