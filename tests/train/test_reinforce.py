"""Options of RL at work: one update of a tiny model, in which each must do what it says."""

import math
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxgym
from jaxgym import engine
from tests.train.guises import problems
from train import choices, coldstart, dense, learner, optimizer, reinforce, rewards, rollout, rounds, states
from train.config import Config
from train.course import prepare
from train.curriculum import Standing
from train.learner import Frame
from train.memory import Memory
from train.parts import Episodes, Grpo, Reward, States
from train.rollout import BATCH


@pytest.fixture(scope="module")
def one(finished):
    """A model that knows the format, its one game with boards in play, and what to learn with."""
    part = Grpo(states=4, group=4, keep=0, credit="block", scale="none")
    config = Config(games=("2048",), model=str(finished / "model"), recipe="g0", grpo=part)
    vlm, courses, pools = prepare(config, jax.random.key(0))
    boards = states.begin(config, courses["2048"], pools["2048"], jax.random.key(0))
    learned, fixed = learner.divide(vlm.params, adapters=False, tower=True)
    rule = optimizer.make()
    state = optimizer.start(rule, learned, {}, with_heads=False)
    frame = Frame(vlm.graphdef, jnp.dtype("float32"))
    return config, frame, vlm, courses["2048"], boards, rule, state, fixed


def with_grpo(config: Config, **changes) -> Config:
    return replace(config, grpo=replace(config.grpo, **changes))


def collected(one, config, step=0, course=None):
    _, frame, vlm, own, boards, *_ = one
    return reinforce.collect(config, frame, vlm.params, course or own, boards, Standing(here=step), jax.random.key(3))


def apart(state):
    """The same in memory of its own, which an update may take."""
    return jax.tree.map(jnp.copy, state)


def learned(one, config, tried, away=0.0):
    """What becomes of the parameters, one long row, and what is reported; the reference is so far away."""
    _, frame, vlm, _, _, rule, state, fixed = one
    reference = jax.tree.map(lambda leaf: leaf * (1 + away), vlm.params)
    key, lr = jax.random.key(5), jnp.float32(1e-3)
    state, reports, _ = reinforce.learn(
        config, frame, rule, apart(state), fixed, lambda: reference, {"2048": [tried]}, lr, key
    )  # fmt: skip
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state.params)]), reports["2048"]


@pytest.fixture(scope="module")
def tried(one):
    """Replies with rewards that differ from row to row and replies of different lengths, whatever the model said."""
    found = collected(one, one[0]).tried[0]
    rng = np.random.default_rng(0)
    rows, length = found.ids.shape
    blocks = np.sort(rng.integers(0, 3, (rows, length)), axis=1)
    blocks[np.arange(length)[None] >= rng.integers(3, length, rows)[:, None]] = -1
    sampler = found.sampler + jnp.asarray(rng.normal(0, 0.1, found.sampler.shape), jnp.float32)
    advantage = jnp.asarray(rng.normal(size=(rows, 1)) * np.ones((1, length)), jnp.float32)
    return found._replace(sampler=sampler, credit=reinforce.advantages.Credit(advantage, jnp.asarray(blocks)))


@pytest.fixture(scope="module")
def plain(one, tried):
    return learned(one, one[0], tried)[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"average": "sequence"},
        {"kl": 5.0, "epochs": 2},  # in the first step the model is still its own reference
        {"correct": 1.0},
        {"entropy": 0.5},
        {"epochs": 2},
        {"minibatches": 2},
    ],
    ids=str,
)
def test_each_option_changes_what_is_learned(one, tried, plain, changes):
    assert not np.allclose(learned(one, with_grpo(one[0], **changes), tried)[0], plain, atol=1e-6)


MANY = {"epochs": 3, "kl": 0.0}  # steps in which the model is no longer the one that wrote


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "cispo", "clip_high": 0.001},
        {"objective": "gspo"},
        {"clip": 0.001},
        {"clip_high": 0.001},
    ],
    ids=str,
)
def test_each_option_changes_later_steps(one, tried, later, changes):
    assert not np.allclose(learned(one, with_grpo(one[0], **(MANY | changes)), tried)[0], later, atol=1e-6)


@pytest.fixture(scope="module")
def later(one, tried):
    return learned(one, with_grpo(one[0], **MANY), tried)[0]


def test_the_two_estimates_of_the_divergence_pull_differently(one, tried):
    """k1 through the advantages, k3 through the loss, and neither as no divergence at all."""
    settings = [{"kl": 0.0}, {"kl": 1.0, "kl_estimate": "k1"}, {"kl": 1.0}]
    none, k1, k3 = (learned(one, with_grpo(one[0], **each), tried, away=0.1)[0] for each in settings)
    assert not np.allclose(none, k1, atol=1e-6) and not np.allclose(k1, k3, atol=1e-6)


@pytest.mark.parametrize("average", ["token", "sequence"])
def test_by_k1_tokens_are_held_alike_whatever_block_they_are_of(one, tried, average):
    """As by k3: how much the objective makes of a block is not how much the divergence does."""
    _, frame, _, _, _, _, state, fixed = one
    config = with_grpo(one[0], kl=1.0, kl_estimate="k1", average=average)
    slopes = []
    for units in (tried.credit.units, jnp.minimum(tried.credit.units, 0)):
        credit = tried.credit._replace(advantage=jnp.zeros_like(tried.credit.advantage), units=units)
        rows = [tried._replace(reference=tried.sampler - 1.0, credit=credit)]
        found = reinforce.gradient_of(config, frame, state.params, fixed, rows, config.grpo.states, "2048")
        slopes.append(jax.tree.leaves(found[1]))
    assert any(jnp.abs(leaf).max() > 1e-4 for leaf in slopes[0])
    for a, b in zip(*slopes, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("estimate", ["k1", "k3"])
def test_the_weight_of_a_game_is_not_that_of_the_divergence(one, tried, estimate):
    _, frame, _, _, _, _, state, fixed = one
    indifferent = tried._replace(
        reference=tried.sampler - 1.0, credit=tried.credit._replace(advantage=jnp.zeros_like(tried.credit.advantage))
    )
    slopes = []
    for weights in ((), ("2048=3",), ("2048=0",)):
        config = replace(with_grpo(one[0], kl=1.0, kl_estimate=estimate), reward=Reward(weights=weights))
        given = [indifferent], config.grpo.states, "2048"
        slopes.append(jax.tree.leaves(reinforce.gradient_of(config, frame, state.params, fixed, *given)[1]))
    assert any(jnp.abs(leaf).max() > 1e-4 for leaf in slopes[0])
    for other in slopes[1:]:
        for a, b in zip(slopes[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("objective", "there"), [("clip", False), ("gspo", False), ("cispo", True)])
def test_what_is_told_to_be_clipped_is(one, tried, objective, there):
    """A reply that is worth more and has become rarer is not held back, but its weight is clipped all the same."""
    _, frame, _, _, _, _, state, fixed = one
    config = with_grpo(one[0], objective=objective, kl=0.0)
    credit = tried.credit._replace(advantage=jnp.ones_like(tried.credit.advantage))

    def clipped(more):
        rows = tried._replace(old=tried.sampler + more, credit=credit)
        return float(
            reinforce.gradient_of(config, frame, state.params, fixed, [rows], config.grpo.states, "2048")[0]["clipped"]
        )

    assert clipped(-2.0) > 0.95 and (clipped(2.0) > 0.95 if there else clipped(2.0) < 0.05)


def test_accumulated_parts_make_the_same_gradient(one, tried):
    """The gradient, not the step: where it is next to nothing, Adam's first step is of what rounding leaves. By the
    length of every matrix's difference, for in a single number that is next to nothing rounding is all there is.
    """
    config, frame, _, _, _, _, state, fixed = one
    turns, count = [tried._replace(reference=tried.sampler)], config.grpo.states
    whole, parts = (
        reinforce.gradient_of(replace(config, accumulate=n), frame, state.params, fixed, turns, count, "2048")[1]
        for n in (1, 2)
    )
    for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        assert float(jnp.linalg.norm(a - b)) < 1e-5 * float(jnp.linalg.norm(b))


def test_replies_count_alike_for_gspo_whatever_their_length(one, tried):
    """Its objective is a mean over replies, as in the paper, not over tokens."""
    _, frame, _, _, _, _, state, fixed = one
    found = []
    for objective, average in (("gspo", "token"), ("gspo", "sequence"), ("clip", "sequence"), ("clip", "token")):
        config = with_grpo(one[0], objective=objective, average=average, kl=0.0)
        _, gradient = reinforce.gradient_of(config, frame, state.params, fixed, [tried], 4, "2048")
        found.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)]))
    for other in found[1:3]:  # at a ratio of 1 all objectives are alike
        np.testing.assert_allclose(found[0], other, rtol=1e-4, atol=1e-6 * np.abs(other).max())
    assert np.abs(found[0] - found[3]).max() > 1e-3 * np.abs(found[3]).max()


def test_a_constant_average_makes_smaller_gradients_of_short_replies(one, tried):
    """Its shares do not add up to 1, so the direction is that of `token`; Adam hides the size, the norm does not."""
    _, frame, _, _, _, _, state, fixed = one
    norms = []
    for average in ("token", "constant"):
        config = with_grpo(one[0], average=average, kl=0.0)
        _, gradient = reinforce.gradient_of(config, frame, state.params, fixed, [tried], 4, "2048")
        norms.append(float(jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradient)))))
    assert 0 < norms[1] < 0.9 * norms[0]


def test_divergence_and_entropy_are_averaged_as_the_gain_is(one, tried):
    """So the weight of a divergence means the same whatever the average: all of the loss becomes smaller alike."""
    _, frame, _, _, _, _, state, fixed = one
    assert len(np.unique(tried.credit.units)) > 2
    blocks = tried._replace(reference=tried.sampler - 0.3)
    units = jnp.minimum(tried.credit.units, 0)
    tried = tried._replace(reference=tried.sampler - 0.3, credit=tried.credit._replace(units=units))
    found = []
    for average in ("token", "constant"):
        config = with_grpo(one[0], average=average, kl=0.5, entropy=0.1)
        found.append(reinforce.gradient_of(config, frame, state.params, fixed, [tried], 4, "2048"))
    share = float((units >= 0).mean())
    assert 0 < share < 0.9
    np.testing.assert_allclose(found[1][0]["loss"], share * found[0][0]["loss"], rtol=1e-4)
    np.testing.assert_allclose(found[1][0]["kl"], found[0][0]["kl"], rtol=1e-5)  # what is logged is a plain mean
    held = [
        reinforce.gradient_of(with_grpo(one[0], kl=kl), frame, state.params, fixed, [blocks], 4, "2048")[0]
        for kl in (0.0, 0.5)
    ]
    np.testing.assert_allclose(held[1]["loss"] - held[0]["loss"], 0.5 * held[1]["kl"], rtol=1e-3)  # blocks or no blocks
    for a, b in zip(*(jax.tree.leaves(gradient) for _, gradient in found), strict=True):
        np.testing.assert_allclose(b, share * a, rtol=1e-3, atol=1e-6 * float(jnp.abs(a).max()))


def test_the_weight_of_a_game_scales_its_gradient(one, tried):
    _, frame, _, _, _, _, state, fixed = one
    found = []
    for weights in ((), ("2048=3",)):
        config = replace(with_grpo(one[0], kl=0.0), reward=Reward(weights=weights))
        found.append(reinforce.gradient_of(config, frame, state.params, fixed, [tried], 4, "2048")[1])
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(3 * a, b, rtol=1e-4, atol=1e-6)


def test_the_gap_to_the_sampler_is_measured_at_its_temperature(one):
    """The very model that wrote finds its replies as likely as it did when it wrote them, at 0.8 as at 1.5."""
    for heat in (0.8, 1.5):
        config = with_grpo(one[0], temperature=heat)
        assert float(learned(one, config, collected(one, config).tried[0])[1]["sampler_gap"]) < 1e-4


def test_what_nothing_was_measured_of_is_no_number(one, tried):
    """Not 0, which would be the best there is: of replies that are all left out, in all steps or in some."""
    nothing = tried._replace(credit=tried.credit._replace(units=jnp.full_like(tried.credit.units, -1)))
    before, report = learned(one, one[0], nothing)
    assert report.pop("loss") == 0 and report and np.isnan([*report.values()]).all()
    np.testing.assert_array_equal(before, learned(one, with_grpo(one[0], kl=0.0), nothing)[0])  # nothing moves
    half = jnp.where(jnp.arange(len(tried.ids))[:, None] < len(tried.ids) // 2, tried.credit.units, -1)
    some = tried._replace(credit=tried.credit._replace(units=half))
    _, report = learned(one, with_grpo(one[0], minibatches=one[0].grpo.states, epochs=1), some)
    assert np.isfinite([*report.values()]).all() and report["entropy"] > 0


def test_without_a_divergence_nobody_asks_the_reference(one, tried):
    _, frame, _, _, _, rule, state, fixed = one
    config = with_grpo(one[0], kl=0.0)
    rest = {"2048": [tried]}, jnp.float32(0), jax.random.key(0)
    reinforce.learn(config, frame, rule, apart(state), fixed, lambda: pytest.fail("asked"), *rest)


def test_further_boards_are_asked_until_enough_groups_differ(one, monkeypatch):
    asked = []

    def scripted(config, frame, params, course, state, key, group):
        asked.append(np.asarray(state.board))
        found = answer(config, frame, params, course, state, key, group)
        game = np.zeros((4, 4), np.float32)
        game[:2] = np.arange(4)  # two groups of four differ
        zero = jnp.zeros((4, 4))
        return found._replace(earned=found.earned._replace(game=jnp.asarray(game), format=zero, perception=zero))

    answer = reinforce.answer
    monkeypatch.setattr(reinforce, "answer", scripted)
    for refill, times in ((0, 1), (1, 2), (5, 2)):
        asked.clear()
        found = collected(one, with_grpo(one[0], refill=refill))
        assert len(asked) == times and found.written == times * 16
        np.testing.assert_array_equal(found.boards.plan != one[4].plan, np.arange(BATCH) % 64 < times)
    assert not (asked[0] == asked[1]).all()


def test_replies_that_were_cut_off_teach_nothing_if_so_wanted(one):
    config, _, _, course, *_ = one
    short = course._replace(language=replace(course.language, room=5))
    kept, masked = (collected(one, with_grpo(config, mask_truncated=mask), course=short) for mask in (False, True))
    for found, silent in ((kept, 0), (masked, masked.report["truncated"])):
        assert found.report["truncated"] > 0.5
        assert (found.tried[0].credit.units == -1).all(axis=1).mean() == silent


def doubled(replies, game):
    return [len(text) for text in replies.texts]


def test_a_users_own_reward_is_added(one):
    config, _, _, course, *_ = one
    without = collected(one, config)
    own = collected(one, config, course=course._replace(own=doubled))
    added = own.report["reward"] - without.report["reward"]
    assert added == pytest.approx(own.report["own_reward"], rel=1e-4) and added > 1


@pytest.mark.parametrize(
    ("gives", "told"),
    [
        (lambda replies, game: [1.0], ": must give 3 finite numbers, one a reply, not (1,)"),
        (lambda replies, game: np.asarray([1.0, 1j, 0.0]), ": must give 3 finite numbers, one a reply, not complex128"),
        (lambda replies, game: [1.0, 1e300, 0.0], ": gives 1e+300; must be at most"),
        (lambda replies, game: [1.0, math.nan, 0.0], ": must give 3 finite numbers, one a reply, not nan"),
        (lambda replies, game: [1.0, -3e38, 0.0], ": gives 3e+38; must be at most 1e+15 in size"),
        (lambda replies, game: sys.exit("gone"), " failed: SystemExit: gone"),
        (lambda replies, game: 1 / 0, " failed: ZeroDivisionError: division by zero"),
    ],
)
def test_a_reward_of_ones_own_that_is_none_is_told(gives, told):
    with pytest.raises(ValueError, match=re.escape(f"reward own='mine:gives'{told}")):
        rewards.ask_own(gives, "mine:gives", SimpleNamespace(texts=["a", "b", "c"]), None)


def test_the_mean_of_reports_knows_of_what_a_share_is():
    """Of two rounds with boards that were read and one without any: all moves on these, not one mean of the others."""
    each = [{"board": 0.5, "reason": 1.0, "legal": 1.0}, {"board": 0.0, "reason": np.nan, "legal": 0.0}]
    each += [{"board": 0.25, "reason": 0.0, "legal": 0.5}]
    found = rounds.mean(each)
    assert found == {"board": 0.25, "reason": pytest.approx(2 / 3), "legal": 0.5}
    assert rounds.mean(each, [1, 5, 2])["reason"] == pytest.approx(0.5)
    assert np.isnan(rounds.mean(each[1:2])["reason"])


@pytest.mark.parametrize("game", ["outcome", "regret", "score"])
def test_the_games_reward_is_the_one_asked_for(one, game):
    config = replace(one[0], reward=Reward(game=game, format=0.0, perception=0.0))
    _, frame, vlm, course, boards, *_ = one
    state = jax.tree.map(lambda leaf: leaf[:4], boards.state)
    found = reinforce.answer(config, frame, vlm.params, course, state, jax.random.key(1), 4)
    legal, score = found.replies.legal, found.replies.score
    assert found.report["success"] == (legal & (score > 0)).mean()
    earned = np.asarray(found.earned.game).reshape(-1)
    expected = {"outcome": np.where(score > 0, 1, -1), "score": np.where(legal, score, -1)}
    if game in expected:
        np.testing.assert_array_equal(earned, expected[game])
    else:
        assert ((earned == -1) == ~legal).all() and (earned <= 1).all()


def test_boards_come_from_whose_play_is_asked_for(one):
    config, _, _, course, boards, *_ = one
    game, turns = course.language.game, BATCH // 4
    state = states.every(boards.state, 1, turns)
    key = jax.random.key(9)
    best = np.asarray(rollout.act(game, engine.teacher, state, jax.random.split(key, 3)[0]))
    unreadable = np.full(4, -1)
    moved = {}
    for play in (("own",), ("random",), ("teacher",), ("teacher", "own")):
        own = replace(config, states=States(play=play))
        moved[play] = states.ready(own, course, states.planned(own, boards, unreadable, 1), 1, key)
    rows = np.arange(1, BATCH, turns)
    before = problems(boards.state.board[rows])
    still = {p: (problems(after.state.board[rows]) == before).all(axis=(1, 2)) for p, after in moved.items()}
    assert still[("own",)].all() and not still[("random",)].any() and not still[("teacher",)].any()
    assert still[("teacher", "own")].tolist() == [False, True, False, True]
    luck = jax.random.split(jax.random.split(jax.random.split(key, 3)[1])[0], BATCH)
    expected = rollout.play(game, boards.state, jnp.zeros(BATCH, jnp.int32).at[rows].set(best), luck)
    after = moved[("teacher",)].state.board[rows]
    np.testing.assert_array_equal(problems(after), problems(expected.state.board[rows]))


def test_boards_can_be_fresh_in_every_update(one):
    config = replace(one[0], states=States(persist=False, depth=3))
    found = collected(one, config)
    assert int(found.boards.steps.max()) <= 3 and int(one[4].steps.max()) > 3
    again = reinforce.collect(
        config, one[1], one[2].params, one[3], found.boards, Standing(updates=1, here=1), jax.random.key(4)
    )
    np.testing.assert_array_equal(again.boards.state.board, found.boards.state.board)  # the next boards in turn
    back = reinforce.collect(
        config, one[1], one[2].params, one[3], found.boards, Standing(updates=9), jax.random.key(4)
    )
    assert not (
        problems(back.boards.state.board) == problems(found.boards.state.board)
    ).all()  # it came to a level anew


@pytest.mark.parametrize(("size", "refill"), [(128, 3), (64, 1), (64, 2), (256, 1)])
def test_boards_that_do_not_persist_are_never_asked_twice(one, size, refill):
    """Neither in rounds that refill an update nor in the updates after it."""
    config, _, _, course, boards, *_ = one
    config = replace(config, states=States(persist=False), grpo=replace(config.grpo, states=size, refill=refill))
    asked = set()
    for step in range(3):
        renew_key, *keys = jax.random.split(jax.random.key(step), 2 + refill)
        for i, key in enumerate(keys):
            boards, _, state = states.asked(config, course, boards, (step, i), renew_key, key)
            asked |= {board.tobytes() for board in np.asarray(state.board)}
    assert len(asked) > 0.9 * 3 * (1 + refill) * size  # boards after few moves may be alike by chance


@pytest.mark.parametrize(("size", "play"), [(1, ("own", "random")), (2, ("own", "random", "teacher"))])
def test_all_who_play_have_their_turn_however_few_boards_an_update_has(one, size, play):
    config = replace(one[0], states=States(play=play), grpo=replace(one[0].grpo, states=size))
    boards, turns = one[4], BATCH // size
    for turn in range(turns):
        boards = states.planned(config, boards, np.full(size, 7), turn)
    counts = [int((boards.plan == plan).sum()) for plan in (7, states._RANDOM, states._TEACHER)[: len(play)]]
    assert max(counts) - min(counts) <= 1 and sum(counts) == BATCH


def test_a_step_is_made_where_there_is_something_to_learn_or_to_come_back_from(one, tried):
    """Else Adam would make a full step of what rounding leaves of a gradient."""
    dull = tried._replace(credit=tried.credit._replace(advantage=jnp.zeros_like(tried.credit.advantage)))
    start = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(one[6].params)])

    def moves(tried, away=0.0, weights=(), **changes):
        config = with_grpo(replace(one[0], reward=Reward(weights=weights)), **changes)
        return bool((learned(one, config, tried, away)[0] != start).any())

    assert moves(tried) and not moves(dull) and not moves(tried, weights=("2048=0",))
    silent = dull._replace(credit=dull.credit._replace(units=jnp.full_like(dull.credit.units, -1)))
    assert not moves(silent, entropy=0.1)
    assert moves(dull, entropy=0.1) and not moves(dull, kl=0.5) and moves(dull, away=0.01, kl=0.5)


def test_where_every_action_is_judged_a_step_is_made_for_reading_or_for_acting(one, monkeypatch):
    config = with_grpo(one[0], credit="action", states=4, hold=0.5, cover=0.0)
    found = collected(one, config).tried[0]
    nothing = found._replace(choice=found.choice._replace(place=jnp.full_like(found.choice.place, -1)))
    start = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(one[6].params)])

    def moves(tried, **changes):
        return bool((learned(one, replace(config, reward=Reward(**changes)), tried)[0] != start).any())

    assert moves(nothing) and not moves(nothing, perception=0.0) and not moves(found, weights=("2048=0",))


def test_boards_move_on_all_at_once_when_one_is_to_be_answered_again(one, monkeypatch):
    """After a pass over them each has made its own move, as if it had been moved on when it was answered."""
    config, _, _, course, boards, *_ = one
    config = replace(config, states=States(play=("own",)))
    turns, moves, advance = BATCH // 4, [], states.advance
    monkeypatch.setattr(states, "advance", lambda *given: moves.append(given) or advance(*given))
    answers = np.asarray(rollout.act(course.language.game, engine.random_legal, boards.state, jax.random.key(3)))
    now = boards
    for turn in range(turns):
        now = states.ready(config, course, now, turn, jax.random.key(turn))
        np.testing.assert_array_equal(now.state.board, boards.state.board)
        now = states.planned(config, now, answers[turn::turns], turn)
    assert not moves
    after = states.ready(config, course, now, 5, jax.random.key(0))  # whichever it is
    assert len(moves) == 1 and states.ready(config, course, after, 6, jax.random.key(0)) is after
    luck = jax.random.split(jax.random.split(jax.random.split(jax.random.key(0), 3)[1])[0], BATCH)
    expected = rollout.play(course.language.game, boards.state, jnp.asarray(answers), luck)
    going = np.asarray(after.steps) > 0
    assert going.sum() > BATCH / 2
    np.testing.assert_array_equal(problems(after.state.board[going]), problems(expected.state.board[going]))


def test_the_first_boards_are_as_deep_as_asked_for(one):
    config, _, _, course, boards, *_ = one
    shallow = states.begin(replace(config, states=States(depth=2)), course, boards, jax.random.key(0))
    assert np.bincount(shallow.steps).tolist() == [86, 85, 85]  # none, one and two moves
    assert states.begin(config, course, boards, jax.random.key(0)).state is boards.state


def lesson_of(finished, name):
    """A trained model, a game, and the teacher's lesson on two boards in words."""
    config = Config(games=(name,), model=str(finished / "model"), recipe="g0")
    vlm, courses, boards = prepare(config, jax.random.key(0))
    course, state = courses[name], jax.tree.map(lambda leaf: leaf[:2], boards[name].state)
    lesson = coldstart.teach(course.language.game, state, course.scale, jax.random.key(1), guess=False)
    written = coldstart.write(course.language, lesson, guess=False)
    return vlm, course, lesson, written, Memory(course.language).prompts(lesson.pictures)


def odds_of_actions(vlm, course, written, prompts, heat):
    def judge(params):
        model = nnx.merge(vlm.graphdef, params)
        prompt = model.prefill(*prompts)
        read = model.continued(prompt, written.ids)
        return choices.logprobs(model, prompt, *read, written.decision, course.names, heat)

    return jax.jit(judge)(vlm.params)


@pytest.mark.parametrize("name", ["2048", pytest.param("shisen_sho", marks=pytest.mark.slow)])
def test_the_cold_start_counts_what_all_that_could_be_named_gives_away(finished, name):
    vlm, course, lesson, written, prompts = lesson_of(finished, name)
    width = vlm.config.decoder.width
    heads = dense.create_heads(course.language.game, course.tables, width, jax.random.key(2))

    def lost(weight):
        weights = coldstart.Weights(*map(jnp.float32, (0.5, 1.0, 1.0)), weight)
        given = heads, course.tables, weights, lesson._replace(state=()), written
        return coldstart.loss(vlm.graphdef, vlm.params, *given)

    (without, report), (counted, _) = map(jax.jit(lost), (jnp.float32(0), jnp.float32(3)))
    likely = odds_of_actions(vlm, course, written, prompts, 1.0)
    np.testing.assert_allclose(report["regret"], coldstart.regret(likely, lesson.worth), rtol=1e-4)
    np.testing.assert_allclose(counted - without, 3 * report["regret"], rtol=1e-4)


@pytest.mark.parametrize("name", ["2048", "shisen_sho"])
def test_every_actions_odds_are_those_of_saying_it(finished, name):
    """Against replies in which each action is put in place of the one that was named."""
    vlm, course, _, written, prompts, heat = *lesson_of(finished, name), 0.7
    found = odds_of_actions(vlm, course, written, prompts, heat)
    answers = course.language.named.answers
    some = np.arange(0, len(answers), max(1, len(answers) // 50))
    ids = np.repeat(np.asarray(written.ids)[:, None], len(some), axis=1)
    for row, place in zip(ids, np.asarray(written.decision), strict=True):
        row[:, place : place + answers.shape[1]] = answers[some]

    def say(params, replies):
        return nnx.merge(vlm.graphdef, params).answered(*prompts, replies, heat).logprobs

    said = np.asarray(jax.jit(say)(vlm.params, ids.reshape(-1, ids.shape[-1]))).reshape(ids.shape)
    for board, place in enumerate(np.asarray(written.decision)):
        expected = said[board, :, place : place + answers.shape[1]].sum(axis=1)
        np.testing.assert_allclose(found[board, some], expected, rtol=1e-4, atol=1e-4)
    assert (np.exp(found).sum(axis=1) < 1 + 1e-5).all()


@pytest.mark.parametrize("reward", ["outcome", "regret", "score"])
def test_every_action_is_worth_what_it_would_earn(finished, reward):
    """As if it had been answered."""
    config = Config(games=("2048",), model=str(finished / "model"), recipe="g0", reward=Reward(game=reward))
    _, courses, boards = prepare(config, jax.random.key(0))
    course, state = courses["2048"], jax.tree.map(lambda leaf: leaf[:8], boards["2048"].state)
    found = rounds.worth(config, course, state, jax.random.key(2))
    for action in range(4):
        played = rollout.play_groups(course.language.game, state, np.full(8, action), jax.random.key(3))
        legal, score = np.asarray(played.legal), np.asarray(played.reward)
        if reward == "regret":
            assert ((found[:, action] >= 0) == legal).all() and (found[~legal, action] == -1).all()
        else:
            earned = (rewards.outcome if reward == "outcome" else rewards.score)(legal, score)
            np.testing.assert_array_equal(found[:, action], earned)
    block = replace(config, grpo=Grpo(credit="block"))
    assert (rounds.worth(block, course, state, jax.random.key(2)) is None) == (reward != "regret")


def taught(one, tried):
    """The same boards with replies that a teacher wrote: the tiny model names no action yet."""
    course, boards = one[3], one[4]
    state = states.every(boards.state, 0, BATCH // 4)
    lesson = coldstart.teach(course.language.game, state, course.scale, jax.random.key(1), guess=False)
    written = coldstart.write(course.language, lesson, guess=False)
    choice = tried.choice._replace(place=written.decision)
    units = jnp.where(written.blocks < 0, -1, 0)
    return tried._replace(ids=written.ids, choice=choice, credit=tried.credit._replace(units=units))


def judged_steps(one, config, tried, before, steps=1, lr=1e-3):
    """Steps on the same boards, every action judged: the state after them, and the report of each.

    before: the model that RL began with.
    """
    _, frame, _, course, _, rule, state, fixed = one
    state, found = apart(state), []
    for _ in range(steps):
        given = {"2048": [tried]}, jnp.float32(lr), jax.random.key(5), {"2048": course.names}
        state, reports, _ = reinforce.learn(config, frame, rule, state, fixed, lambda: before, *given)
        found.append(reports["2048"])
    return state, found


def test_judging_every_action_raises_what_is_expected_and_the_odds_of_the_truth(one):
    """Step by step on the same boards; without a weight on reading, what is read is only held."""
    config, frame, vlm, course, _, _, state, fixed = one
    config = with_grpo(config, credit="action", scale="success", hold=0.0)
    (tried,) = collected(one, config).tried
    assert tried.choice.worth.shape == (4, 4) and len(tried.ids) == 4
    mute = tried._replace(choice=tried.choice._replace(place=jnp.full(4, -1)))
    (report,) = judged_steps(one, config, mute, vlm.params)[1]
    unknown = {name for name, value in report.items() if np.isnan(value)}
    assert unknown == {"expected", "cost", "action_entropy", "action_kl"}  # as no reply names an action
    tried = taught(one, tried)

    def read(state):
        model = learner.whole(state.params, fixed, frame.dtype)
        truth = tried._replace(ids=tried.choice.truth)
        return float(learner.score(frame, model, truth, None, jnp.float32(1))[0].mean())

    first = read(state)
    last, reports = judged_steps(one, config, tried, vlm.params, steps=6, lr=2e-3)
    expected = [float(report["expected"]) for report in reports]
    assert expected[-1] > expected[0] + 0.05, expected
    assert read(last) > first + 0.05
    slopes = []
    for weight in (0.0, 1.0):
        changed = replace(config, reward=Reward(perception=weight))
        slopes.append(reinforce.gradient_of(changed, frame, state.params, fixed, [tried], 4, "2048", course.names)[1])
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, slopes), strict=True))


@pytest.mark.parametrize("kl", [0.0, 0.01])
def test_what_the_model_could_do_before_is_covered(one, kl):
    """By the divergence of all actions, whichever the reply names, from the model before, at the same temperature."""
    config, frame, vlm, course, _, _, state, fixed = one
    config = with_grpo(config, credit="action", scale="success", hold=0.0, kl=kl)
    tried = taught(one, collected(one, config).tried[0])
    away = jax.tree.map(lambda leaf: leaf * 1.1, vlm.params)
    found = [judged_steps(one, with_grpo(config, cover=cover), tried, away)[1][0] for cover in (0.0, 2.0)]
    assert "action_kl" not in found[0]
    heat = jnp.float32(config.grpo.temperature)
    now, before = (
        learner.score(frame, params, tried, course.names, heat)[1]
        for params in (learner.whole(state.params, fixed, frame.dtype), away)
    )
    acting = np.asarray(tried.choice.place) >= 0
    dropped = choices.dropped(now, before, tried.choice.worth)
    np.testing.assert_allclose(found[1]["action_kl"], dropped[acting].mean(), rtol=1e-3)
    np.testing.assert_allclose(found[1]["loss"] - found[0]["loss"], 2 * found[1]["action_kl"], rtol=1e-3)


def test_entropy_spreads_over_actions_where_all_are_judged(one):
    config = with_grpo(one[0], credit="action", scale="success", hold=0.0)
    tried, spread = taught(one, collected(one, config).tried[0]), []
    for weight in (0.0, 5.0):
        reports = judged_steps(one, with_grpo(config, entropy=weight), tried, one[2].params, steps=4, lr=2e-3)[1]
        spread.append(float(reports[-1]["action_entropy"]))
    assert spread[1] > spread[0] + 0.01, spread


@pytest.mark.parametrize("scale", [pytest.param("success", marks=pytest.mark.slow), "cost"])
def test_judged_boards_may_be_gone_through_in_parts(one, scale):
    """One reply that names nothing: its board counts for reading alone, in whichever part it is."""
    config, frame, _, course, _, _, state, fixed = one
    config = with_grpo(config, credit="action", scale=scale)
    tried = taught(one, collected(one, config).tried[0])
    tried = tried._replace(
        choice=tried.choice._replace(place=tried.choice.place.at[0].set(-1)), reference=tried.sampler
    )
    found = []
    for parts in (1, 2):
        given = [tried], 4, "2048", course.names
        found.append(reinforce.gradient_of(replace(config, accumulate=parts), frame, state.params, fixed, *given))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):  # sums of float32 round as their largest terms do
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6 * max(10.0, float(jnp.abs(b).max())))
    other = with_grpo(config, scale="none")
    _, slopes = reinforce.gradient_of(other, frame, state.params, fixed, [tried], 4, "2048", course.names)
    assert any((jnp.abs(a - b) > 1e-4).any() for a, b in zip(*map(jax.tree.leaves, (slopes, found[0][1])), strict=True))


def test_what_is_said_around_a_judged_action_is_held(one):
    """The tokens that name it are not: they are to change."""
    config = with_grpo(one[0], credit="action", scale="success", kl=0.0, cover=0.0)
    tried = taught(one, collected(one, config).tried[0])
    away = jax.tree.map(lambda leaf: leaf * 1.1, one[2].params)
    found = [judged_steps(one, with_grpo(config, hold=hold), tried, away)[1][0] for hold in (0.0, 1.0)]
    assert found[0]["kl"] == 0 < found[1]["kl"]
    np.testing.assert_allclose(found[1]["loss"] - found[0]["loss"], found[1]["kl"], rtol=1e-4)
    other = judged_steps(one, with_grpo(config, hold=1.0, average="constant"), tried, away)[1][0]
    np.testing.assert_allclose(other["loss"], found[1]["loss"], rtol=1e-5)  # as is told: nothing is averaged otherwise


def test_the_tokens_that_name_a_judged_action_are_not_held(one):
    config, _, _, course, *_ = one
    got = collected(one, with_grpo(config, credit="action"))
    tried, named = got.tried[0], course.language.named
    game, state = course.language.game, states.every(one[4].state, 0, BATCH // 4)
    lesson = coldstart.teach(game, state, course.scale, jax.random.key(1), guess=False)
    written = coldstart.write(course.language, lesson, guess=False)
    replies = SimpleNamespace(
        sampled=SimpleNamespace(ids=written.ids, logprobs=jnp.zeros(written.ids.shape)),
        prompts=tried.prompts,
        reading=SimpleNamespace(actions=np.where(np.arange(4) < 3, np.asarray(lesson.action), -1)),
        truths=[jaxgym.describe(game.sheet, tiles) for tiles in np.asarray(lesson.tiles)],
    )
    nothing = reinforce.Rewards(*[jnp.zeros((4, 1))] * 3)
    given = rounds.Round(replies, np.zeros((4, 4), np.float32), nothing, np.asarray(written.blocks), {})
    judged = reinforce.judged_from(given, course, Standing(success=0.5, cost=2.5))
    assert judged.choice.place.tolist() == [*np.asarray(written.decision)[:3].tolist(), -1]
    masked = given._replace(blocks=np.where(np.arange(4)[:, None] == 1, -1, given.blocks))  # it was cut off
    unheard = reinforce.judged_from(masked, course, Standing())
    assert unheard.choice.place.tolist() == np.where(np.arange(4) == 1, -1, judged.choice.place).tolist()
    units, expected = np.asarray(judged.credit.units), np.minimum(np.asarray(written.blocks), 0)
    for row, place in enumerate(np.asarray(written.decision)[:3]):
        expected[row, place : place + named.answers.shape[1]] = -1
    np.testing.assert_array_equal(units, expected)
    length = judged.choice.truth.shape[1]
    np.testing.assert_array_equal(judged.choice.truth, np.asarray(written.ids)[:, :length])
    usual, unknown = judged.choice.usual, reinforce.judged_from(given, course, Standing()).choice.usual
    assert (judged.credit.advantage == 0).all() and (usual.steps == course.limit).all()
    np.testing.assert_allclose(usual.rarest, np.full(4, choices.rarest(0.5)), rtol=1e-6)
    assert (usual.cost == 2.5).all() and (unknown.cost == course.limit).all()


def test_where_not_every_action_can_be_judged_it_is_done_by_block(one):
    config, _, _, course, *_ = one
    config = with_grpo(config, credit="action")
    assert rounds.every_action(config, course)
    nameless, own = course._replace(names=None), course._replace(own=lambda replies, game: None)
    several = replace(config, episodes=Episodes(turns=2))
    assert not rounds.every_action(config, nameless) and not rounds.every_action(config, own)
    assert not rounds.every_action(several, course) and not rounds.every_action(one[0], course)
    assert collected(one, config, course=nameless).tried[0].choice is None


def test_boards_may_have_more_tokens_than_others(one):
    """Those of several sizes, or with words that a model has not met: what fills up a shorter one is not learned."""
    config, frame, _, course, _, _, state, fixed = one
    config = with_grpo(config, credit="action", scale="success", hold=0.0)
    tried = taught(one, collected(one, config).tried[0])
    truth, language = np.asarray(tried.choice.truth), course.language
    boards = [text.partition(">")[2].partition("<")[0] for text in language.tokenizer.batch_decode(truth)]
    np.testing.assert_array_equal(language.encode_boards(boards), truth)
    long = language.encode_boards([*boards, "2 | 4\n8 | 16"])
    assert long.shape == (5, language.room) and (long[:4, : truth.shape[1]] == truth).all()
    assert (long[:4, truth.shape[1] :] == -1).all() and (long[4] >= 0).sum() < (long[0] >= 0).sum()
    slopes = [
        reinforce.gradient_of(config, frame, state.params, fixed, [each], 4, "2048", course.names)[1]
        for each in (tried, tried._replace(choice=tried.choice._replace(truth=jnp.asarray(long[:4]))))
    ]
    for a, b in zip(*map(jax.tree.leaves, slopes), strict=True):
        assert jnp.linalg.norm(a - b) <= 1e-4 * jnp.linalg.norm(b)
