"""One update of GRPO: boards are answered, rewards become credit, credit becomes optimizer steps, boards move on."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from policy import sharding
from policy.model import Params
from train import advantages, choices, cores, episodes, grpo, learner, optimizer, states
from train.advantages import Credit, Rewards
from train.choices import Choice, Names, Usual
from train.config import Config
from train.cores import side_by_side
from train.course import Course
from train.curriculum import Standing
from train.learner import Frame, Hyper, Rule, Shares, Tried
from train.memory import Prompts
from train.optimizer import TrainState
from train.parts import Grpo
from train.rollout import Boards, try_replies
from train.rounds import Report, Round, earn, every_action, mean

_OF_BOARDS = {"expected", "cost", "action_entropy", "action_kl"}  # of those whose reply names an action
_APART, _APART_HALF = 1e-8, 1e-3  # a divergence from the model before RL that is more than rounding, by precision


class Collected(NamedTuple):
    """What an update learns from in one game, and the boards after it."""

    tried: list[Tried]  # turn by turn
    boards: Boards
    report: Report
    written: int  # replies


def collect(
    config: Config, frame: Frame, params: Params, course: Course, boards: Boards, standing: Standing, key: jax.Array
) -> Collected:
    """Let the model answer the boards of an update, judge the answers, and let the boards move on."""
    part = config.grpo
    renew_key, *keys = jax.random.split(key, 2 + part.refill)
    if config.episodes.turns > 1:
        return _several_turns(config, frame, params, course, boards, standing.here, renew_key, keys)
    judged = every_action(config, course)
    group = 1 if judged else part.group
    rounds: list[Round] = []
    after = boards
    for i, own_key in enumerate(keys):
        play_key, follow_key = jax.random.split(own_key)
        after, turn, state = states.asked(config, course, after, (standing.here, i), renew_key, follow_key)
        rounds.append(answer(config, frame, params, course, state, play_key, group))
        after = states.planned(config, after, rounds[-1].replies.reading.actions[::group], turn)
        if judged or sum(int(jnp.sum(_differ(r, group))) for r in rounds) >= part.states:
            break
    report = mean([each.report for each in rounds]) | ({"rounds": len(rounds)} if part.refill else {})
    learned = judged_from(rounds[0], course, standing) if judged else learned_from(rounds, part)
    return Collected([learned], after, report, len(rounds) * part.states * group)


def _differ(found: Round, group: int) -> jax.Array:
    """Whether there is anything to learn from the groups of a round: bool [S]."""
    return advantages.differ(found.earned.total, advantages.counted(found.blocks, group))


def _several_turns(
    config: Config,
    frame: Frame,
    params: Params,
    course: Course,
    boards: Boards,
    step: int,
    renew_key: jax.Array,
    keys: Sequence[jax.Array],
) -> Collected:
    """The same of whole episodes."""
    part = config.grpo
    rounds: list[list[episodes.Turn]] = []
    after = boards
    for i, own_key in enumerate(keys):
        play_key, follow_key = jax.random.split(own_key)
        after, turn, state = states.asked(config, course, after, (step, i), renew_key, follow_key)
        rounds.append(episodes.play(config, frame, params, course, state, play_key))
        after = states.planned(config, after, rounds[-1][0].round.replies.reading.actions[:: part.group], turn)
        if sum(int(episodes.differ(config, played).sum()) for played in rounds) >= part.states:
            break
    return Collected(
        episodes.learned_from(config, *rounds),
        after,
        episodes.report(config, *rounds) | ({"rounds": len(rounds)} if part.refill else {}),
        sum(map(episodes.answers, rounds)),
    )


def trouble(report: Report, room: int) -> str:
    """What is wrong with the replies that a game got in an update, and how to mend it; "" if nothing is."""
    if report["length"] <= 1:
        return "every reply is empty: begin with a model that writes, or with --recipe g1"
    if report["truncated"] >= 1:
        return f"every reply is cut off after {room} tokens: raise --reply"
    if report.get("differ", 1) <= 0:
        return (
            "all replies to a board earn alike, so there is nothing to learn: raise --grpo-temperature or --grpo-group"
        )
    return ""


def answer(
    config: Config, frame: Frame, params: Params, course: Course, state: Any, key: jax.Array, group: int
) -> Round:
    """Let the model answer S boards so many times each, and judge what it said."""
    reply_key, worth_key = jax.random.split(key)
    heat = config.grpo.temperature
    tried = try_replies(frame.graphdef, params, course.language, state, reply_key, group, heat)
    return earn(config, course, tried, state, worth_key)


def learned_from(rounds: list[Round], part: Grpo) -> Tried:
    """What of some rounds is learned from, each token with its credit.

    Where groups may be refilled, those whose replies all earned alike are dropped: others take their place, and if
    there are too few, nothing is learned from what fills up the batch.
    """
    earned = Rewards(*(jnp.concatenate(each) for each in zip(*(r.earned for r in rounds), strict=True)))
    blocks = np.concatenate([r.blocks for r in rounds])
    group, length = part.group, blocks.shape[1]
    counts = advantages.counted(blocks, group)
    differ = np.asarray(advantages.differ(earned.total, counts))
    chosen = np.argsort(~differ, kind="stable")[: part.states] if part.refill else np.arange(part.states)
    if part.refill:
        blocks = np.where(np.repeat(differ, group)[:, None], blocks, -1)
    earned = Rewards(*(each[chosen] for each in earned))
    counts = counts[chosen]
    kept = np.asarray(advantages.farthest(earned.total, part.keep, counts)) if 0 < part.keep < group else None
    rows = (chosen[:, None] * group + (np.arange(group) if kept is None else kept)).reshape(-1)
    sampled = [r.replies.sampled for r in rounds]
    return Tried(
        prompts=Prompts(
            *(_rows(list(leaf), chosen) for leaf in zip(*(r.replies.prompts for r in rounds), strict=True))
        ),
        ids=_rows([said.ids for said in sampled], rows),
        sampler=_rows([said.logprobs for said in sampled], rows),
        old=None,
        reference=None,
        credit=advantages.credited(
            earned,
            jnp.asarray(blocks[rows].reshape(-1, length)),
            by="reply" if part.credit == "reply" else "block",
            scale=part.scale,
            kept=kept,
            counts=counts,
            useful=differ[chosen] if part.refill else True,
        ),
    )


def judged_from(found: Round, course: Course, standing: Standing) -> Tried:
    """What is learned from where every action is judged, from one reply to each board.

    standing: of the game; where it does not know yet what a board costs, that is as much as it may.

    Its own tokens have no advantage: reading and acting are judged by what could be said, and the rest is held where it
    is by the divergence from the model before RL.
    """
    language = course.language
    assert language.named is not None and found.worth is not None
    replies = found.replies
    ids, actions = np.asarray(replies.sampled.ids), replies.reading.actions
    counts = (actions >= 0) & (found.blocks >= 0).any(axis=1)  # not of replies that are masked
    place = np.where(counts, language.named.decision(ids, found.blocks, np.maximum(actions, 0)), -1)
    after = np.arange(ids.shape[1])[None] - place[:, None]
    naming = (place[:, None] >= 0) & (after >= 0) & (after < language.named.answers.shape[1])
    units = np.where(naming, -1, np.minimum(found.blocks, 0))
    truth = language.encode_boards(replies.truths)
    return Tried(
        prompts=replies.prompts,
        ids=replies.sampled.ids,
        sampler=replies.sampled.logprobs,
        old=None,
        reference=None,
        credit=Credit(jnp.zeros(ids.shape, jnp.float32), jnp.asarray(units)),
        choice=Choice(
            place=jnp.asarray(place, jnp.int32),
            worth=jnp.asarray(found.worth),
            truth=jnp.asarray(truth),
            usual=Usual(
                rarest=jnp.full(len(place), choices.rarest(standing.success), jnp.float32),
                steps=jnp.full(len(place), course.limit, jnp.float32),
                cost=jnp.full(len(place), standing.cost or course.limit, jnp.float32),
            ),
        ),
    )


@jax.jit
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
    judged = any(turns[0].choice is not None for turns in batches.values())
    if part.kl or (judged and (part.hold or part.cover)):
        batches = _scored(frame, reference(), batches, heat, _before, names if part.cover else {})
    if not once:
        now = learner.whole(state.params, fixed, frame.dtype)
        batches = _scored(frame, now, batches, heat, lambda tried, said, _: tried._replace(old=said), {})
        del now
    reports: dict[str, list[Report]] = {name: [] for name in batches}
    norms = []
    for epoch in range(part.epochs):
        order = np.arange(part.states)
        if not once:
            order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), part.states))
        for rows in np.split(order, part.minibatches):
            few = batches
            if not once:
                few = {name: [learner.cut(t, part.states, rows) for t in turns] for name, turns in batches.items()}
            found, total = _gradients(config, frame, state.params, fixed, few, len(rows), names)
            for name, report in found.items():
                reports[name].append(report)
            norms.append(jnp.float32(0))
            if any(_teaches(config, frame, name, turns, found[name]) for name, turns in few.items()):
                # Else there is nothing to learn: the optimizer would make a full step of what rounding leaves.
                state, norms[-1] = optimizer.apply(rule, state, (total, {}), len(batches), lr, mesh=frame.mesh)
    measured = {name: _mean_of_steps(each) for name, each in jax.device_get(reports).items()}
    return state, measured, jnp.mean(jnp.stack(norms))


def _mean_of_steps(reports: list[Report]) -> Report:
    """Means over optimizer steps; all but the loss over those in which there was something to be measured."""
    means: Report = {}
    for name in reports[0]:
        values = np.asarray([report[name] for report in reports], np.float64)
        known = values if name == "loss" else values[~np.isnan(values)]
        means[name] = float(known.mean()) if known.size else math.nan
    return means


def _teaches(config: Config, frame: Frame, game: str, turns: list[Tried], report: Report) -> bool:
    """Whether there is anything to learn from a game's batch, or to come back from."""
    part, choice = config.grpo, turns[0].choice
    acting = choice is not None and bool(jnp.any(choice.place >= 0))
    if config.reward.weight(game):
        reading = choice is not None and config.reward.perception > 0
        if reading or acting or any(bool(jnp.any(advantages.moving(tried.credit))) for tried in turns):
            return True
    held = part.kl if choice is None else max(part.hold, part.cover)
    apart = float(np.nansum([report["kl"], report.get("action_kl", 0.0)])) if held else 0.0
    written = any(bool(jnp.any(tried.credit.units >= 0)) for tried in turns) or acting
    return (part.entropy > 0 and written) or apart > (_APART if frame.dtype == jnp.float32 else _APART_HALF)


def _scored(
    frame: Frame,
    params: Params,
    batches: dict[str, list[Tried]],
    temperature: jax.Array,
    kept: Callable[[Tried, jax.Array, jax.Array | None], Tried],
    names: dict[str, Names | None],
) -> dict[str, list[Tried]]:
    """Batches, each kept with the log-probabilities that a model gives to its replies, float32 [B, R], and to every
    action of games that are named: float32 [S, A]. Back from the devices it is spread over.
    """

    def score(tried: Tried, named: Names | None) -> Tried:
        said = learner.score(frame, params, sharding.cut_rows(tried, frame.mesh), named, temperature)
        return kept(tried, *sharding.gather(said, frame.mesh))

    def scored(name: str) -> list[Tried]:
        return [score(tried, names.get(name)) for tried in batches[name]]

    return dict(zip(batches, side_by_side(scored, batches, together=cores.free(frame.mesh)), strict=True))


def _before(tried: Tried, said: jax.Array, done: jax.Array | None) -> Tried:
    """Replies with what the model before RL would say and do."""
    choice = tried.choice if tried.choice is None else tried.choice._replace(before=done)
    return tried._replace(reference=said, choice=choice)


def _gradients(
    config: Config,
    frame: Frame,
    learned: Params,
    fixed: Params,
    batches: dict[str, list[Tried]],
    count: int,
    names: dict[str, Names | None],
) -> tuple[dict[str, Report], Params]:
    """What to report of every game's minibatch of `count` boards, and the sum of their gradients."""

    def of(name: str) -> tuple[Report, Params]:
        return gradient_of(config, frame, learned, fixed, batches[name], count, name, names.get(name))

    found = side_by_side(of, batches, together=cores.free(frame.mesh, config.accumulate))
    reports: dict[str, Report] = {}
    total: Any = None
    for name in batches:
        reports[name], gradient = next(found)
        total = optimizer.add(total, gradient)
        del gradient
    return reports, total


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
    rule = Rule(part.objective, kl_in_advantage=part.kl_estimate == "k1", scale=part.scale, entropy=part.entropy)
    judged = turns[0].choice is not None  # then there is one turn
    numbers = part.correct or math.inf, config.reward.weight(game), config.reward.perception
    apart = part.hold if judged else part.kl
    temperature, kl, *rest = map(jnp.float32, (part.temperature, apart, part.cover, *numbers))
    hyper = Hyper(temperature, grpo.Clip(jnp.float32(part.clip), jnp.float32(part.clip_high)), kl, *rest)
    units = jnp.concatenate([tried.credit.units for tried in turns])
    average = "sequence" if part.objective == "gspo" else part.average  # all its replies count alike
    whole_replies = jnp.minimum(units, 0)
    most = len(turns[0].credit.units) * config.episodes.turns
    alike = advantages.shares(whole_replies, "token")
    held = alike if judged else advantages.shares(whole_replies, average, most)
    shares = advantages.shares(units, average, most), held, alike
    each = [Shares(*three) for three in zip(*(jnp.split(share, len(turns)) for share in shares), strict=True)]
    if turns[0].choice is not None:
        place = turns[0].choice.place
        each = [each[0]._replace(boards=(choices.shares(place), choices.shares(jnp.zeros_like(place))))]
    total: Any = None
    for whole in zip(turns, each, strict=True):
        for rows in np.split(np.arange(count), config.accumulate):
            some = whole if config.accumulate == 1 else learner.cut(whole, count, rows)
            some = sharding.cut_rows(some, frame.mesh)
            found = learner.grpo_gradients(frame, learned, fixed, rule, *some, names, hyper)
            total = optimizer.add(total, found)
            del found
    report, gradient = total
    if not (units >= 0).any():  # what a mean of nothing is, nobody knows
        report |= dict.fromkeys(report.keys() - {"loss", *_OF_BOARDS}, math.nan)
    choice = turns[0].choice
    if choice is not None and not (choice.place >= 0).any():
        report |= dict.fromkeys(report.keys() & _OF_BOARDS, math.nan)
    return report, gradient
