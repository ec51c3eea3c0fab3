"""Laws of rewards, of GRPO's objective and of the cold start's targets."""

import functools
import itertools
from types import SimpleNamespace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgym
from policy import Reply
from policy.model import entropy
from train import advantages, choices, coldstart, dense, grpo, reinforce, rewards, rounds
from train.advantages import Scale, shares
from train.choices import Usual
from train.memory import Prompts
from train.parts import Grpo
from train.protocol import interval


def grad(f):
    """One program, where JAX would compile every operation by itself."""
    return jax.jit(jax.grad(f))


def value_and_grad(f):
    return jax.jit(jax.value_and_grad(f))


def test_a_constant_added_to_a_group_changes_nothing():
    r = jnp.asarray([[1.0, -1.0, 2.0, 0.0], [0.5, 0.5, 1.5, -2.0]])
    shifted = r + jnp.asarray([[7.0], [-3.0]])
    np.testing.assert_allclose(advantages.advantages(r), advantages.advantages(shifted), atol=1e-4)
    np.testing.assert_allclose(advantages.advantages(r).mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(advantages.advantages(r).std(axis=1), 1, atol=1e-3)


def test_a_group_without_differences_teaches_nothing():
    assert (advantages.advantages(jnp.full((2, 5), 3.0)) == 0).all()


def test_the_gain_is_clipped_on_the_far_side_only():
    old = jnp.zeros((4, 1))
    new = jnp.log(jnp.asarray([[2.0], [0.5], [2.0], [0.5]]))
    advantage = jnp.asarray([1.0, 1.0, -1.0, -1.0])
    gain = grpo.clipped_gain(new, old, advantage[:, None], grpo.Clip(0.2, 0.2))
    np.testing.assert_allclose(gain[:, 0], [1.2, 0.5, -2.0, -0.8], rtol=1e-6)


def test_at_the_sampling_policy_the_gradient_is_the_policy_gradient():
    old = jnp.log(jnp.asarray([[0.3, 0.6]]))
    slope = grad(lambda x: grpo.clipped_gain(x, old, jnp.asarray([[1.7]]), grpo.Clip(0.2, 0.2)).sum())(old)
    np.testing.assert_allclose(slope, 1.7, rtol=1e-6)


def test_clipping_higher_leaves_room_above_only():
    old, new = jnp.zeros((3, 1)), jnp.log(jnp.asarray([[1.25], [1.5], [0.7]]))
    gain = grpo.clipped_gain(new, old, jnp.asarray([[1.0], [1.0], [-1.0]]), grpo.Clip(0.2, 0.28))
    np.testing.assert_allclose(gain[:, 0], [1.25, 1.28, -0.8], rtol=1e-6)


@pytest.mark.parametrize("name", ["clip", "cispo", "gspo"])
def test_every_objective_begins_as_the_policy_gradient(name):
    """At the policy that wrote the replies: slope = advantage, token by token; nothing of what is masked."""
    old = jnp.log(jnp.asarray([[0.3, 0.6, 0.2], [0.5, 0.1, 0.9]]))
    advantage, mask = jnp.asarray([[1.7] * 3, [-0.4] * 3]), jnp.asarray([[True, True, False], [True] * 3])
    slope = grad(lambda x: jnp.sum(grpo.GAINS[name](x, old, advantage, grpo.Clip(0.2, 0.2), mask) * mask))(old)
    # a ratio of the whole reply has each of its tokens' slopes once: as many tokens as carry it, a share of each
    np.testing.assert_allclose(slope, jnp.where(mask, advantage, 0), rtol=1e-5)


def test_cispo_keeps_the_gradient_of_tokens_that_ppo_lets_go():
    old, new, advantage = jnp.zeros((1, 1)), jnp.log(jnp.asarray([[3.0]])), jnp.asarray([[2.0]])
    clip = grpo.Clip(0.2, 0.28)
    slope = grad(lambda x: grpo.cispo_gain(x, old, advantage, clip).sum())(new)
    np.testing.assert_allclose(slope, 1.28 * 2.0, rtol=1e-6)
    assert grad(lambda x: grpo.clipped_gain(x, old, advantage, clip).sum())(new) == 0


def test_gspo_has_one_ratio_a_reply_and_its_own_gradient():
    """Against the sequence's objective as the paper writes it (its equation 5), where advantages are one a reply."""
    rng = np.random.default_rng(0)
    old, new = (jnp.asarray(rng.normal(-1, 0.05, (3, 5)), jnp.float32) for _ in range(2))
    mask = jnp.arange(5)[None] < jnp.asarray([[5], [3], [1]])
    advantage, clip = jnp.asarray([[1.0], [-2.0], [0.5]]), grpo.Clip(0.03, 0.03)

    def whole(x):
        s = jnp.exp(jnp.sum(jnp.where(mask, x - old, 0), axis=1) / jnp.sum(mask, axis=1))[:, None]
        return jnp.mean(jnp.minimum(s * advantage, clip(s) * advantage))

    def by_token(x):
        gain = grpo.gspo_gain(x, old, jnp.broadcast_to(advantage, x.shape), clip, mask)
        return jnp.sum(shares(jnp.where(mask, 0, -1), "sequence") * gain)

    np.testing.assert_allclose(by_token(new), whole(new), rtol=1e-5)
    np.testing.assert_allclose(grad(by_token)(new), grad(whole)(new), rtol=1e-4, atol=1e-7)


def test_the_correction_weighs_by_how_much_likelier_the_trainer_finds_a_token():
    trainer, sampler = jnp.log(jnp.asarray([[0.2, 0.9, 0.5]])), jnp.log(jnp.asarray([[0.4, 0.1, 0.5]]))
    np.testing.assert_allclose(grpo.correction(trainer, sampler, 2.0), [[0.5, 2.0, 1.0]], rtol=1e-6)
    assert (grad(lambda x: grpo.correction(x, sampler, 2.0).sum())(trainer) == 0).all()


def test_k1_is_unbiased():
    p, q = jnp.asarray([0.7, 0.2, 0.1]), jnp.asarray([0.4, 0.4, 0.2])
    np.testing.assert_allclose((p * grpo.k1(jnp.log(p), jnp.log(q))).sum(), (p * jnp.log(p / q)).sum(), rtol=1e-5)


def test_k3_estimates_the_kl_divergence():
    p, q = jnp.asarray([0.7, 0.2, 0.1]), jnp.asarray([0.4, 0.4, 0.2])
    estimate = grpo.k3(jnp.log(p), jnp.log(q))
    assert (estimate >= 0).all() and (grpo.k3(jnp.log(p), jnp.log(p)) == 0).all()
    np.testing.assert_allclose((p * estimate).sum(), (p * jnp.log(p / q)).sum(), rtol=1e-5)


@pytest.mark.parametrize("apart", [1e-5, 1e-4, 1e-2])
def test_k3_is_exact_for_policies_that_hardly_differ(apart):
    said = np.full(10_000, -1.0, np.float32)
    other = (said + apart * np.random.default_rng(0).standard_normal(10_000)).astype(np.float32)
    d = other.astype(np.float64) - said
    np.testing.assert_allclose(
        grpo.k3(jnp.asarray(said), jnp.asarray(other)).mean(), (np.expm1(d) - d).mean(), rtol=0.01
    )


def test_the_masked_mean_sees_only_what_it_may():
    x, mask = jnp.asarray([1.0, jnp.nan, 3.0]), jnp.asarray([True, False, True])
    assert grpo.masked_mean(x, mask) == 2 and grpo.masked_mean(x, ~mask & mask) == 0


@pytest.mark.parametrize(
    ("said", "share"),
    [
        ("a | b\nc | d", 1.0),
        ("a | b\nc | x", 0.75),
        ("\n a|b \n  c | d", 1.0),
        ("a | b | x\nc | d", 1.0),
        ("a | b", 0.5),
        ("b | a\nd | c", 0.0),
        ("a | b | c\nc | d\nextra", 1.0),  # what is said beyond the board is the format's concern
        ("", 0.0),
        (None, 0.0),
        ("|" * 100_000, 0.0),
    ],
)
def test_share_of_cells(said, share):
    board = rewards.read_board("a | b\nc | d")
    whole = said in ("a | b\nc | d", "\n a|b \n  c | d")  # white space is layout
    assert rewards.share_of_cells(said, board) == (share, whole)


def test_rewards_add_up():
    game = jaxgym.make("2048")
    truth = "\n".join(["2 | empty | empty | 4"] * 4)
    half = truth.replace("4", "8")
    texts = [jaxgym.write_reply(truth, "why", "left"), jaxgym.write_reply(half, "why", "left"), "nonsense"]
    reading = rewards.read([jaxgym.read_reply(game, text) for text in texts], [truth] * 3)
    assert reading.actions.tolist() == [3, 3, -1] and reading.board.tolist() == [1, 0, 0]
    outcome = rewards.outcome(np.asarray([True, True, False]), np.asarray([8.0, 0.0, 0.0]))
    assert outcome.tolist() == [1, -1, -1]
    graded = rewards.parts(outcome, reading, 3, format=1.0, perception=1.0, exact=False)
    strict = rewards.parts(outcome, reading, 1, format=0.5, perception=2.0, exact=True)
    np.testing.assert_allclose(sum(graded), [[3.0, 0.75, -1.0]])
    np.testing.assert_allclose(sum(strict), [[3.5], [-0.5], [-1.0]])


def test_regret_grades_the_legal_actions_by_what_they_give_away():
    inf = np.inf
    values = np.asarray([[10.0, 0.0, -inf, 5.0]] * 5 + [[3.0, 3.0, -inf, -inf]] + [[-inf] * 4])
    actions = np.asarray([0, 1, 2, 3, -1, 1, 0])
    earned = rewards.earned_by(rewards.regret(values, 10.0), actions)
    best, worst, illegal, middle, unreadable, alike, over = earned
    assert best == 1 and alike == 1 and illegal == unreadable == over == -1
    assert best > middle > worst > illegal
    np.testing.assert_allclose((middle, worst), (1 - 5 / 11, 1 - 10 / 11), rtol=1e-6)
    moved = np.where(np.isfinite(values), values * 2 + 7, values)
    np.testing.assert_allclose(rewards.earned_by(rewards.regret(moved, 20.0), actions), earned, rtol=1e-6)


# A group of two replies: perception of 3 and 2 tokens, think of 2 and 1, answer of 1 and 2.
BLOCKS = jnp.asarray([[0, 0, 0, 1, 1, 2, -1], [0, 0, 1, 2, 2, -1, -1]])


def test_credit_by_reply_is_one_advantage_for_all_tokens():
    earned = advantages.Rewards(jnp.asarray([[1.0, -1.0]]), jnp.asarray([[1.0, 1.0]]), jnp.asarray([[0.5, 1.0]]))
    credit = advantages.credited(earned, BLOCKS, by="reply", scale="none")
    np.testing.assert_allclose(credit.advantage, [[0.75] * 7, [-0.75] * 7])
    share = shares(credit.units, "token")
    np.testing.assert_allclose(share, np.asarray([[1] * 6 + [0], [1] * 5 + [0, 0]]) / 11, rtol=1e-6)


def test_credit_by_block_judges_reading_by_what_was_read_and_answering_by_what_it_did():
    earned = advantages.Rewards(jnp.asarray([[1.0, -1.0]]), jnp.asarray([[1.0, 1.0]]), jnp.asarray([[0.5, 1.0]]))
    credit = advantages.credited(earned, BLOCKS, by="block", scale="none")
    np.testing.assert_allclose(credit.advantage[0, :6], [-0.25] * 3 + [1.0] * 3)
    np.testing.assert_allclose(credit.advantage[1, :5], [0.25] * 2 + [-1.0] * 3)
    share = shares(credit.units, "token")
    for block, count in ((0, 5), (1, 3), (2, 3)):
        np.testing.assert_allclose(share[block == BLOCKS], 1 / 3 / count, rtol=1e-6)
    assert (share[BLOCKS < 0] == 0).all()
    unread = advantages.credited(
        earned, jnp.where(BLOCKS == 0, 0, -1), by="block", scale="group"
    )  # no reply got any further
    np.testing.assert_allclose(shares(unread.units, "token").sum(), 1, rtol=1e-6)


def test_what_lies_past_the_end_moves_nothing():
    """Two replies that read alike and were cut off while they read: what their answers would be worth is of no one."""
    alike, apart = jnp.asarray([[1.0, 1.0]]), jnp.asarray([[1.0, -1.0]])
    cut_off = jnp.where(BLOCKS == 0, 0, -1)
    credit = advantages.credited(advantages.Rewards(apart, alike, alike), cut_off, by="block", scale="none")
    assert (credit.advantage != 0).any() and not advantages.moving(credit).any()
    credit = advantages.credited(advantages.Rewards(alike, alike, apart), cut_off, by="block", scale="none")
    np.testing.assert_array_equal(advantages.moving(credit), BLOCKS == 0)


@pytest.mark.parametrize("by", ["reply", "block"])
def test_by_success_boards_count_by_how_rarely_they_are_solved_whatever_else_is_earned(by):
    """A reply that is well-formed and reads right has not solved its board."""
    game = jnp.asarray([[1.0] + [-1.0] * 3, [1.0] * 3 + [-1.0]])
    good = advantages.Rewards(game, jnp.ones_like(game), jnp.ones_like(game))
    acted = advantages.credited(good, jnp.ones((8, 1), jnp.int32), by=by, scale="success").advantage.reshape(2, 4)
    np.testing.assert_allclose(acted, [[3, -1, -1, -1], [1 / 3] * 3 + [-1]], rtol=1e-5)  # (r - p) / p
    among = advantages.among(
        np.asarray(game + 2).reshape(-1), np.repeat([0, 1], 4), scale="success", solved=np.asarray(game).reshape(-1)
    )
    np.testing.assert_allclose(among.reshape(2, 4), acted, rtol=1e-5)


@pytest.mark.parametrize("scale", ["none", "group", "game", "success"])
def test_groups_of_any_size_are_compared_as_rows_are(scale):
    rng = np.random.default_rng(0)
    r = np.concatenate([rng.normal(size=(5, 4)), np.full((1, 4), 2.0)]).astype(np.float32)
    order = rng.permutation(24)
    groups = np.repeat(np.arange(6), 4)
    found = advantages.among(r.reshape(-1)[order], groups[order], scale=scale)
    expected = np.asarray(advantages.advantages(jnp.asarray(r), scale=scale)).reshape(-1)[order]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    alone = advantages.among(np.asarray([3.0, 5.0, 9.0]), np.asarray([7, 8, 8]), scale="none")
    assert alone.tolist() == [0, -2, 2]


def test_what_is_still_to_come_is_discounted():
    np.testing.assert_allclose(advantages.to_go(np.asarray([[1.0], [2.0], [4.0]]), 0.5), [[3.0], [4.0], [4.0]])


UNITS = jnp.asarray([[0, 0, 0, 0, -1], [0, 0, -1, -1, -1]])  # of five tokens that a reply may have


@pytest.mark.parametrize(
    ("average", "share"),
    [
        ("token", [[1 / 6] * 4 + [0], [1 / 6] * 2 + [0] * 3]),
        ("sequence", [[1 / 8] * 4 + [0], [1 / 4] * 2 + [0] * 3]),
        ("constant", [[1 / 10] * 4 + [0], [1 / 10] * 2 + [0] * 3]),
    ],
)
def test_tokens_are_averaged(average, share):
    np.testing.assert_allclose(shares(UNITS, average), share, rtol=1e-6)
    assert (shares(jnp.full((2, 3), -1), average) == 0).all()


def test_advantages_over_the_deviation_of_a_game_keep_the_sizes_of_groups():
    r = jnp.asarray([[0.0, 2.0], [0.0, 4.0], [1.0, 1.0]])
    found = advantages.advantages(r, scale="game")
    np.testing.assert_allclose(found[1], 2 * found[0], rtol=1e-5)
    np.testing.assert_allclose(jnp.square(found).mean(), 1, rtol=1e-3)
    np.testing.assert_allclose(found, advantages.advantages(10 * r + 3, scale="game"), rtol=1e-3)


def test_the_replies_kept_are_those_of_the_largest_variance():
    """Against every subset there is."""
    rng = np.random.default_rng(0)
    earned = np.concatenate([rng.normal(size=(6, 7)), rng.choice([-1.0, 1.0], size=(6, 7)), np.ones((1, 7))])
    for keep in (2, 3, 4, 6):
        found = np.asarray(advantages.farthest(jnp.asarray(earned, jnp.float32), keep))
        assert all(len(set(row)) == keep for row in found.tolist())
        best = [max(np.var(row[list(each)]) for each in itertools.combinations(range(7), keep)) for row in earned]
        np.testing.assert_allclose(np.take_along_axis(earned, found, axis=1).var(axis=1), best, rtol=1e-5, atol=1e-7)


def test_of_replies_that_count_those_of_the_largest_variance_are_kept():
    """Against every subset there is of them; where they are too few they are all kept."""
    rng = np.random.default_rng(1)
    earned, counts = rng.normal(size=(40, 7)).astype(np.float32), rng.random((40, 7)) < 0.6
    for keep in (2, 4):
        found = np.asarray(advantages.farthest(jnp.asarray(earned), keep, counts))
        for row, there, which in zip(earned, counts, found, strict=True):
            few = there.sum() <= keep
            assert len(set(which.tolist())) == keep
            assert there[which].sum() == (there.sum() if few else keep)
            if not few:
                ways = itertools.combinations(np.flatnonzero(there), keep)
                assert np.var(row[which]) == pytest.approx(max(np.var(row[list(way)]) for way in ways), rel=1e-5)


def round_of(game, *, blocks=None):
    """Replies of four tokens to as many boards as there are rows of rewards; token ids tell the rows apart."""
    count = game.size
    ids = jnp.arange(4 * count, dtype=jnp.int32).reshape(count, 4)
    said = Reply(ids, jnp.full(count, 4), -ids.astype(jnp.float32))
    pictures = jnp.arange(len(game), dtype=jnp.uint8)[:, None, None, None]
    zero = jnp.zeros_like(game)
    blocks = np.zeros((count, 4), np.int32) if blocks is None else blocks
    prompts = Prompts(jnp.ones((len(game), 5), jnp.int32), jnp.full(len(game), 5), pictures)
    replies = SimpleNamespace(sampled=said, prompts=prompts)
    return rounds.Round(replies, None, advantages.Rewards(game, zero, zero), blocks, {})


PLAIN = {"credit": "reply", "scale": "none"}


@pytest.mark.parametrize("keep", [0, 2])
def test_what_is_learned_from_keeps_rows_and_rewards_together(keep):
    game = jnp.asarray([[0.0, 1.0, 5.0], [9.0, 9.0, 8.0]])
    tried = reinforce.learned_from([round_of(game)], Grpo(states=2, group=3, keep=keep, **PLAIN))
    rows = np.asarray(tried.ids[:, 0]) // 4
    assert sorted(rows) == ([0, 1, 2, 3, 4, 5] if not keep else sorted({0, 2, 5} | (set(rows) & {3, 4})))
    np.testing.assert_array_equal(tried.sampler, -tried.ids.astype(jnp.float32))
    apart = np.asarray([-2, -1, 3, 1 / 3, 1 / 3, -2 / 3])  # from the mean of the whole group
    if keep:  # 2 of 3: the sum of those above, and of those below, is two thirds of what it is for all
        apart = np.asarray([-2, 0, 2, 4 / 9, 4 / 9, -4 / 9])
    np.testing.assert_allclose(tried.credit.advantage[:, 0], apart[rows], rtol=1e-5)


@pytest.mark.parametrize("scale", ["none", "group", "success"])
def test_what_is_kept_of_a_group_teaches_what_all_of_it_would(scale):
    """Where rewards have two values: as much gain of good replies and as much loss of bad ones, whatever the scale."""
    good = np.asarray([1, 2, 5, 6, 8, 11, 13, 15])
    game = jnp.asarray(np.where(np.arange(16)[None] < good[:, None], 1.0, -1.0), jnp.float32)
    game = jax.random.permutation(jax.random.key(0), game, axis=1, independent=True)
    means = []
    for keep in (0, 4, 7):
        part = Grpo(states=8, group=16, keep=keep, credit="reply", scale=scale)
        tried = reinforce.learned_from([round_of(game)], part)
        of = np.asarray(game).reshape(-1)[np.asarray(tried.ids[:, 0]) // 4].reshape(8, -1)
        each = np.asarray(tried.credit.advantage[:, 0]).reshape(8, -1)
        means.append([(each * (of == side)).mean(axis=1) for side in (1, -1)])
    assert np.abs(means[0]).min() > 0.05
    np.testing.assert_allclose(means[1], means[0], rtol=1e-4)
    np.testing.assert_allclose(means[2], means[0], rtol=1e-4)


def test_every_part_of_a_reward_keeps_its_balance():
    """What is read is graded, what is done is rarely good, and those kept are chosen by both: each part of the credit
    still has as much above 0 as below, and as much as all of the group would give it.
    """
    rng = np.random.default_rng(0)
    game = np.where(rng.random((8, 16)) < 0.15, 1.0, -1.0).astype(np.float32)
    game[:, 0], game[:, 1] = 1, -1
    read = rng.beta(6, 2, (8, 16)).astype(np.float32)
    rewards = advantages.Rewards(jnp.asarray(game), jnp.ones((8, 16)), jnp.asarray(read))
    kept = np.asarray(advantages.farthest(rewards.total, 4))
    blocks = np.tile(np.asarray([[0, 0, 1, 2]], np.int32), (128, 1))
    for scale in ("success", "none", "group"):
        whole = advantages.credited(rewards, jnp.asarray(blocks), by="block", scale=scale).advantage.reshape(8, 16, 4)
        few = advantages.credited(rewards, jnp.asarray(blocks[:32]), by="block", scale=scale, kept=kept)
        few = np.asarray(few.advantage).reshape(8, 4, 4)
        for token in (0, 3):
            mine = np.take_along_axis(np.asarray(whole[..., token]), kept, axis=1)
            both = (mine > 0).any(1) & (mine < 0).any(1)
            assert both.sum() >= 6
            np.testing.assert_allclose(few[..., token].sum(1), 0, atol=1e-4)
            gains = [np.maximum(np.asarray(each)[both, :, token], 0).mean(1) for each in (whole, few)]
            np.testing.assert_allclose(*gains, rtol=1e-4)


def test_replies_of_one_side_are_compared_with_each_other():
    a = np.asarray([[3.0, 1.0, -2.0, -2.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(advantages.carried(a, np.asarray([[0, 1], [0, 3]])), [[1, -1], [0, 0]])
    np.testing.assert_array_equal(advantages.carried(a, None), a)


@pytest.mark.parametrize("credit", ["reply", "block"])
def test_what_is_masked_is_not_kept_and_what_is_kept_teaches_what_all_others_would(credit):
    """Most replies were cut off, and some of them would have taken the places of those that can teach."""
    game = jnp.asarray([[1.0, 1.0, 0.5, -0.5, -1.0, -1.0] + [2.0, -2.0] * 5, [1.0, -1.0] * 8])
    cut_off = np.abs(game) == 2
    blocks = np.where(cut_off.reshape(-1, 1), -1, 2) * np.ones((1, 4), np.int32)
    means = []
    for keep in (0, 4):
        part = Grpo(states=2, group=16, keep=keep, credit=credit, scale="none")
        tried = reinforce.learned_from([round_of(game, blocks=blocks)], part)
        there, each = np.asarray(tried.credit.units[:, 0] >= 0), np.asarray(tried.credit.advantage[:, 0])
        means.append((there * np.maximum(each, 0)).reshape(2, -1).mean(axis=1))
        assert there.sum() == (8 if keep else 22)
    np.testing.assert_allclose(means[1], means[0], rtol=1e-5)


def test_groups_in_which_all_that_count_earned_alike_are_refilled():
    blocks = np.zeros((6, 4), np.int32)
    blocks[2] = -1  # the one reply of its group that earned less was cut off
    found = round_of(jnp.asarray([[1.0, 1.0, 0.0], [0.0, 1.0, 2.0]]), blocks=blocks)
    assert reinforce._differ(found, 3).tolist() == [False, True]
    assert reinforce._differ(round_of(found.earned.game), 3).all()
    tried = reinforce.learned_from([found], Grpo(states=2, group=3, keep=0, refill=1, **PLAIN))
    assert (np.asarray(tried.credit.units[:, 0]) == 0).tolist() == [True] * 3 + [False] * 3
    assert (np.asarray(tried.ids[:3, 0]) // 4).tolist() == [3, 4, 5]


def test_groups_without_differences_are_refilled_from_later_rounds():
    first = round_of(jnp.asarray([[1.0, 1.0], [0.0, 1.0], [2.0, 2.0], [3.0, 3.0]]))
    second = round_of(jnp.asarray([[5.0, 1.0], [4.0, 4.0], [7.0, 7.0], [2.0, 6.0]]))
    part = Grpo(states=4, group=2, keep=0, refill=1, **PLAIN)
    tried = reinforce.learned_from([first, second], part)
    assert tried.prompts.pictures[:3, 0, 0, 0].tolist() == [1, 0, 3]  # one of the first round, two of the second
    assert tried.ids[:6, 0].tolist() == [8, 12, 0, 4, 24, 28]
    np.testing.assert_allclose(tried.credit.advantage[:6, 0], [-0.5, 0.5, 2, -2, -2, 2])
    assert (tried.credit.units[:6] == 0).all() and (tried.credit.units[6:] == -1).all()  # the last only fills up
    kept = reinforce.learned_from([first], Grpo(states=4, group=2, keep=0, **PLAIN))
    assert kept.prompts.pictures[:, 0, 0, 0].tolist() == [0, 1, 2, 3] and (kept.credit.units == 0).all()


def test_by_success_rare_ones_count_more_up_to_a_limit():
    """For rewards of -1 and 1 the advantages are those of MaxRL: (r - mean) / mean, of r as 0 and 1."""
    r = jnp.asarray([[1.0] + [-1.0] * 7, [1.0] * 4 + [-1.0] * 4, [1.0] * 7 + [-1.0], [-1.0] * 8])
    solved = np.asarray(r > 0, np.float32)
    mean = solved.mean(axis=1, keepdims=True)
    found = advantages.advantages(r, scale="success")
    np.testing.assert_allclose(found[:3], (solved - mean)[:3] / mean[:3], rtol=1e-5)
    assert (found[3] == 0).all()
    rare = jnp.asarray([[1.0] + [-1.0] * 99])
    np.testing.assert_allclose(advantages.advantages(rare, scale="success"), (rare - rare.mean()) / 0.2, rtol=1e-5)


@pytest.mark.parametrize("scale", ["none", "group", "game", "success"])
def test_groups_weigh_as_if_each_reply_had_been_drawn_so_often(scale):
    r, often = np.asarray([[1.0, -1.0, 0.5], [3.0, 2.0, 2.0]], np.float32), np.asarray([[1, 5, 2], [4, 2, 2]])
    weighed = advantages.advantages(jnp.asarray(r), jnp.asarray(often / 8, jnp.float32), scale=scale)
    drawn = np.stack([np.repeat(row, n) for row, n in zip(r, often, strict=True)])
    each = advantages.advantages(jnp.asarray(drawn), scale=scale)
    for row, n, expected in zip(weighed, often, each, strict=True):
        np.testing.assert_allclose(np.repeat(row, n), expected, rtol=1e-4, atol=1e-5)


def judged_board():
    """Logits of four actions and of two tokens that name none, on three boards, and what each action earns."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6)), jnp.float32)
    return logits, jnp.asarray([[1.0, -1.0, 0.5, -1.0], [-1.0, 0.2, 4.0, 1.0], [0.3, 0.9, -1.0, 0.7]])


@jax.jit
def by_hand(x, worth):
    odds = jax.nn.softmax(x, axis=1)[:, :4]
    return jnp.sum(odds * worth, axis=1) - (1 - jnp.sum(odds, axis=1))


@functools.partial(jax.jit, static_argnums=2)
def judged(x, worth, scale, cost=1.0):
    return choices.gain(jax.nn.log_softmax(x, axis=1)[:, :4], worth, scale, Usual(0.01, 10.0, cost))


@pytest.mark.parametrize("scale", get_args(Scale))
def test_judging_one_who_is_sure_has_a_gradient(scale):
    """The chances of all actions may add up to a little more than 1."""
    apart = np.random.default_rng(0).normal(0, 1, (4000, 8)).astype(np.float32)
    apart[:, 0] = apart[:, 1:].max(1) + np.linspace(15, 19, 4000, dtype=np.float32)
    worth = jnp.asarray([[1.0, 0.5, 0.3, -1.0]])
    slope = grad(lambda x: judged(x, jnp.broadcast_to(worth, (len(x), 4)), scale)[0].sum())
    for rows in np.split(apart, 40):
        assert np.isfinite(slope(jnp.asarray(rows))).all()


def test_judging_every_action_has_the_gradient_of_what_is_expected():
    """Of the expected reward, or by success of the logarithm of how far it lies above nothing."""
    logits, worth = judged_board()
    np.testing.assert_allclose(judged(logits, worth, "none")[1], by_hand(logits, worth), rtol=1e-5)
    assert (by_hand(logits, worth) > -0.99).all()  # so that nothing is limited
    for scale, whole in (("none", by_hand), ("success", lambda *given: jnp.log(by_hand(*given) + 1))):
        slope = grad(lambda x, scale=scale: judged(x, worth, scale)[0].sum())(logits)
        wanted = grad(lambda x, whole=whole: whole(x, worth).sum())(logits)
        np.testing.assert_allclose(slope, wanted, rtol=1e-4, atol=1e-6)


def test_by_cost_what_boards_cost_together_is_lowered_by_its_logarithm():
    """The replies of a board, one after another: each is asked for unless one before it has passed it."""
    logits, worth = judged_board()

    def cost(x):
        chance = (by_hand(x, worth) + 1) / (jnp.max(worth, axis=1) + 1)
        return sum((1 - chance) ** k for k in range(10))

    usual = jnp.mean(cost(logits))
    np.testing.assert_allclose(judged(logits, worth, "cost")[2], cost(logits), rtol=1e-3)
    slope = grad(lambda x: jnp.mean(judged(x, worth, "cost", usual)[0]))(logits)
    wanted = grad(lambda x: -jnp.log(jnp.mean(cost(x))))(logits)
    np.testing.assert_allclose(slope, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("worth", [[-3.0, -1.0, -3.0, -3.0], [-1.5, -1.0, -1.0, -1.0], [-5.0, 0.0, 1.0, 1.0]])
def test_what_is_worse_than_nothing_passes_no_board(worth):
    """As an own game's score may be: a chance to pass lies from 0 to 1, and a board costs from one reply to all."""
    logits, row = jnp.zeros((1, 5)), jnp.asarray([worth])
    np.testing.assert_array_equal(
        choices.chances(row), [[*np.maximum(0, np.add(worth, 1)) / max(1, max(worth) + 1), 0]]
    )
    cost = judged(logits, row, "cost")[2]
    slope = grad(lambda x: judged(x, row, "cost", 10.0)[0].sum())(logits)
    said = jax.nn.log_softmax(logits, axis=1)[:, :4]
    assert 1 <= cost <= 10 and jnp.abs(slope).max() < 1 and 0 <= choices.dropped(said, said, row) < np.log(5)


@pytest.mark.parametrize("steps", [1, 36, 100])
def test_a_board_costs_the_replies_that_it_is_expected_to_take(steps):
    chance = jnp.asarray([0.0, 1e-4, 0.02, 0.5, 1.0])
    exact = [sum((1 - float(p)) ** k for k in range(steps)) for p in chance]
    np.testing.assert_allclose(choices.stay(chance, steps), exact, rtol=1e-3)
    slope = jax.vmap(grad(lambda p: choices.stay(p, float(steps))))(chance)
    exact = [-sum(k * (1 - float(p)) ** (k - 1) for k in range(1, steps)) for p in chance]
    np.testing.assert_allclose(slope, exact, rtol=2e-2, atol=1e-2)  # 0 and 1 among them: as large as it can be


def test_a_board_without_a_good_action_teaches_nothing():
    logits = judged_board()[0]
    for scale in ("none", "success", "cost"):
        found, slope = value_and_grad(lambda x, scale=scale: judged(x, jnp.full((3, 4), -1.0), scale)[0].sum())(logits)
        assert np.isfinite(found)
        np.testing.assert_allclose(slope, jnp.zeros_like(slope), atol=1e-4)


def test_boards_rarer_solved_than_is_usual_in_their_game_count_no_more_for_that():
    """Of two boards with the same two actions one is solved ten times as often; each has a limit of its own."""
    logprobs = jnp.log(jnp.asarray([[0.5, 0.5], [0.05, 0.95]]))
    worth = jnp.asarray([[1.0, -1.0], [1.0, -1.0]])

    def slope(rarest):
        return grad(lambda x: choices.gain(x, worth, "success", Usual(rarest, 10.0, 1.0))[0].sum())(logprobs)[:, 0]

    for limit, above in ((0.01, 0.1), (0.1, 0.1), (0.4, 0.4)):  # the second board lies 0.1 above failure
        found = slope(jnp.asarray([0.01, limit]))
        np.testing.assert_allclose(found, [0.5 * 2 / 1.0, 0.05 * 2 / above], rtol=1e-5)
    assert choices.rarest(0.0) > 0 and choices.rarest(0.6) == 10 * choices.rarest(0.06)


def test_unscaled_advantages_keep_the_size_of_a_difference():
    near, far = jnp.asarray([[1.0, 1.01]]), jnp.asarray([[1.0, 3.0]])
    np.testing.assert_allclose(advantages.advantages(near, scale="none"), [[-0.005, 0.005]], rtol=1e-4)
    np.testing.assert_allclose(advantages.advantages(far, scale="none"), [[-1, 1]])
    assert (advantages.advantages(jnp.full((2, 5), 2.9), scale="none") == 0).all()


def test_of_equal_pairs_the_first_in_reading_order_is_wanted():
    cells = np.asarray([[2, 3], [0, 3], [0, 1], [1, 2]])  # in no order
    legal = jnp.asarray([[True, True, False, True], [True, True, False, True]])
    wanted = jnp.asarray([[1 / 3, 1 / 3, 0.0, 1 / 3], [0.1, 0.1, 0.0, 0.8]])
    found = coldstart.first_come(wanted, legal, cells)
    odds = np.asarray([[np.exp(-2), 1, 0, np.exp(-1)], [0.1 * np.exp(-2), 0.1, 0, 0.8 * np.exp(-1)]])
    np.testing.assert_allclose(found, odds / odds.sum(axis=1, keepdims=True), rtol=1e-5)


def test_the_decision_targets_are_the_whole_distribution_token_by_token():
    # Four actions of two tokens: (5, 6), (5, 7), (8, 6) and (9, 6), which is not wanted.
    answers = jnp.asarray([[5, 6], [5, 7], [8, 6], [9, 6]], jnp.int32)
    begins, wanted = jnp.asarray([5, 8, 9], jnp.int32), jnp.asarray([[0.2, 0.3, 0.5, 0.0]])
    first = coldstart.first_tokens(answers, wanted, 10)
    np.testing.assert_allclose(first[0, jnp.asarray([5, 8, 9])], [0.5, 0.5, 0.0])
    second = coldstart.second_tokens(answers, begins, wanted, 10)[0]
    np.testing.assert_allclose(second[0, 6:8], [0.4, 0.6], rtol=1e-6)
    np.testing.assert_allclose(second[1, 6:8], [1.0, 0.0], rtol=1e-6)
    assert (second[2] == 0).all()


def test_what_is_given_away_is_counted_over_all_actions_and_naming_none():
    worth = jnp.asarray([[1.0, 0.5, -1.0]])
    for odds, expected in (
        ([0.5, 0.3, 0.1], 1 - (0.5 + 0.3 * 0.5 - 0.1 - 0.1)),  # one in ten names no action
        ([1.0, 0.0, 0.0], 0.0),
        ([0.0, 1.0, 0.0], 0.5),
        ([0.0, 0.0, 1.0], 2.0),
        ([0.0, 0.0, 0.0], 2.0),
    ):
        likely = jnp.log(jnp.maximum(jnp.asarray([odds]), 1e-30))
        np.testing.assert_allclose(coldstart.regret(likely, worth), expected * 2 / 3, rtol=1e-5, atol=1e-7)
        assert jnp.isfinite(grad(lambda x: coldstart.regret(x, worth))(likely)).all()


def test_what_is_given_away_counts_by_the_share_of_legal_actions():
    few, many = jnp.asarray([[1.0, -1.0, -1.0, -1.0]]), jnp.asarray([[1.0, 0.0, 0.0, 0.0]])
    likely = jnp.log(jnp.full((1, 4), 0.25))
    np.testing.assert_allclose(coldstart.regret(likely, few), 0.25 * 0.75 * 2, rtol=1e-5)
    np.testing.assert_allclose(coldstart.regret(likely, many), 0.75, rtol=1e-5)
    assert coldstart.regret(likely, jnp.full((1, 4), -1.0)) == 0  # there is nothing to choose from


def test_who_cannot_tell_boards_apart_learns_what_gives_away_least_on_both():
    """Imitation alone spreads over what is best on one of them; neither is good for the other."""
    worth = jnp.asarray([[1.0, 0.0, 0.8], [0.0, 1.0, 0.8]])
    wanted = coldstart.preferences(worth, 1.0)

    def learned(weight):
        def lost(x):
            likely = jnp.tile(jax.nn.log_softmax(x)[None], (2, 1))
            return dense.divergence(wanted, likely) + weight * coldstart.regret(likely, worth)

        slope = grad(lost)
        return jax.nn.softmax(jax.lax.fori_loop(0, 500, lambda _, x: x - 0.3 * slope(x), jnp.zeros(3)))

    imitated, chosen = learned(0.0), learned(10.0)
    assert imitated[2] < 0.2 and chosen[2] > 0.5


def test_the_divergence_is_zero_at_the_target_and_passes_over_rows_without_one():
    target = jnp.asarray([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]])
    assert abs(float(dense.divergence(target, jnp.log(jnp.asarray([[0.5, 0.5, 1e-9], [1.0, 1e-9, 1e-9]]))))) < 1e-6
    other = jnp.log(jnp.asarray([[0.1, 0.9, 1e-9], [1.0, 1e-9, 1e-9]]))
    expected = 0.5 * np.log(0.5 / 0.1) + 0.5 * np.log(0.5 / 0.9)
    np.testing.assert_allclose(dense.divergence(target, other), expected, rtol=1e-5)


def test_cells_are_held_against_the_ones_beside_them():
    grid = jnp.asarray([[[1, 1, 2], [3, 1, 2]]])
    right, below = np.moveaxis(np.asarray(dense.alike_beside(grid)).reshape(2, 3, 2), -1, 0)
    np.testing.assert_array_equal(right, [[1, 0, 0], [0, 0, 0]])  # nothing lies beyond the border
    np.testing.assert_array_equal(below, [[0, 1, 1], [0, 0, 0]])


def test_preferences_grade_the_legal_actions():
    values = jnp.asarray([[10.0, 0.0, -jnp.inf, 5.0], [3.0, 3.0, -jnp.inf, 3.0]])
    liked = coldstart.preferences(values, 10.0)
    assert liked[0, 0] > liked[0, 3] > liked[0, 1] > liked[0, 2] == 0
    np.testing.assert_allclose(liked[1], [1 / 3, 1 / 3, 0, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(liked.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("boards", [2, 4, 100])
def test_the_interval_holds_the_mean_of_a_known_distribution(boards):
    rng = np.random.default_rng(0)
    hits = sum((lambda s: s.low <= 3 <= s.high)(interval(rng.normal(3, 2, boards))) for _ in range(2000))
    assert 0.94 < hits / 2000 < 0.96


LAYOUTS = [
    lambda rows: "\n".join(" | ".join(row) for row in rows),
    lambda rows: "\n" + "\n".join(" | ".join(row) for row in rows) + "\n",
    lambda rows: "\r\n  " + "\r\n  ".join("|".join(row) for row in rows) + " \r\n",
    lambda rows: "\n\n" + "\n".join("  |  ".join(row) + " " for row in rows) + "\n\n\t",
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_white_space_around_words_is_layout(layout):
    game = jaxgym.make("2048")
    rows = [["2", "empty", "4", "8"]] * 4
    truth, text = LAYOUTS[0](rows), layout(rows)
    reading = rewards.read([jaxgym.read_reply(game, jaxgym.write_reply(text, "\nwhy\n", "\nleft\n"))], [truth])
    assert (reading.cells, reading.board, reading.actions) == (1, 1, 3)
    one_wrong = layout([*rows[:3], ["2", "empty", "4", "16"]])
    reading = rewards.read([jaxgym.read_reply(game, jaxgym.write_reply(one_wrong, "", "left"))], [truth])
    assert (reading.cells, reading.board) == (15 / 16, 0)


def test_a_board_on_which_nothing_is_legal_teaches_nothing():
    values = jnp.asarray([[-jnp.inf] * 3, [1.0, 0.0, -jnp.inf]])
    wanted = coldstart.preferences(values, 1.0)
    paired = coldstart.first_come(wanted, jnp.isfinite(values), np.asarray([[0, 1], [0, 2], [1, 2]]))
    for target in (wanted, paired):
        assert (target[0] == 0).all() and target[1].sum() == pytest.approx(1)
        slope = grad(lambda x, target=target: dense.divergence(target, jax.nn.log_softmax(x)))(jnp.zeros((2, 3)))
        assert (slope[0] == 0).all() and (slope[1, :2] != 0).all() and jnp.isfinite(slope).all()


def test_a_masked_token_has_no_gradient_however_far_it_is():
    """A pad whose log-probabilities lie 100 apart: exp overflows, and 0 x inf would be NaN."""
    said, far = jnp.asarray([[-1.5, -101.0]]), jnp.asarray([[-1.0, -1.0]])
    mask = jnp.asarray([[True, False]])
    for loss in (
        lambda x: grpo.masked_mean(grpo.k3(x, far, mask), mask),
        lambda x: grpo.masked_mean(grpo.k3(x, far), mask),
        lambda x: grpo.masked_mean(grpo.k3(x, far - 1e6, mask), mask),
        lambda x: grpo.masked_mean(grpo.clipped_gain(x, far, jnp.asarray([[-1.0]]), grpo.Clip(0.2, 0.2), mask), mask),
        lambda x: grpo.masked_mean(grpo.clipped_gain(-x, far, jnp.asarray([[-1.0]]), grpo.Clip(0.2, 0.2)), mask),
        lambda x: grpo.masked_mean(grpo.ratio(-x * 1e6, far, mask), mask),
    ):
        value, slope = value_and_grad(loss)(said)
        assert jnp.isfinite(value) and jnp.isfinite(slope).all() and slope[0, 1] == 0
    slope = grad(lambda x: grpo.masked_mean(grpo.k3(x, far, mask), mask))(said)
    np.testing.assert_allclose(slope[0, 0], 1 - np.exp(0.5), rtol=1e-6)


@pytest.mark.parametrize("distance", [30.0, 100.0, 1e6, jnp.inf])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_tokens_that_count_are_bounded(distance, advantage):
    said, mask = jnp.asarray([[-1.0 - distance, -1.0]]), jnp.ones((1, 2), bool)
    for other in (jnp.asarray([[-1.0, -1.0 - distance]]), jnp.asarray([[-2.0, -3.0]])):
        for loss in (
            lambda x, other=other: grpo.k3(x, other, mask).sum(),
            lambda x, other=other: sum(
                gain(x, other, jnp.asarray([[advantage]]), grpo.Clip(0.2, 0.2), mask).sum()
                for gain in grpo.GAINS.values()
            ),
        ):
            value, slope = value_and_grad(loss)(said)
            assert jnp.isfinite(value) and jnp.isfinite(slope).all()


def test_the_entropy_has_a_gradient_where_a_token_can_never_be_said():
    logits = jnp.asarray([0.0, 1.0, -jnp.inf])
    value, slope = value_and_grad(lambda x: entropy(jax.nn.log_softmax(x)))(logits)
    p = 1 / (1 + np.e)
    np.testing.assert_allclose(value, -p * np.log(p) - (1 - p) * np.log(1 - p), rtol=1e-6)
    assert jnp.isfinite(slope).all() and slope[2] == 0


def test_the_spread_of_what_is_done_counts_naming_no_action_as_one_thing():
    logits = judged_board()[0]
    odds = jax.nn.softmax(logits, axis=1)
    done = jnp.concatenate([odds[:, :4], odds[:, 4:].sum(axis=1, keepdims=True)], axis=1)
    said = jnp.log(odds[:, :4])
    np.testing.assert_allclose(choices.spread(said), -(done * jnp.log(done)).sum(axis=1), rtol=1e-4)
    for sure in ([0.0, -50.0, -50.0, -50.0], [-50.0] * 4):  # an action; and none of them
        value, slope = value_and_grad(lambda x: choices.spread(x).sum())(jnp.asarray([sure]))
        np.testing.assert_allclose(value, 0.0, atol=1e-5)
        assert jnp.isfinite(slope).all()


def test_what_is_dropped_is_the_divergence_that_minds_what_was_done_well():
    logits, worth = judged_board()
    now, before = (jax.nn.log_softmax(x, axis=1)[:, :4] for x in (logits, logits[::-1]))
    mine, theirs = (np.concatenate([np.exp(x), 1 - np.exp(x).sum(1, keepdims=True)], axis=1) for x in (now, before))
    passed = theirs * (np.pad(worth, ((0, 0), (0, 1)), constant_values=-1) + 1) / (worth.max(1, keepdims=True) + 1)
    passed = np.maximum(passed / passed.sum(1, keepdims=True), 1e-30)  # 0 log 0 is 0
    np.testing.assert_allclose(
        choices.dropped(now, before, worth), (passed * np.log(passed / mine)).sum(1), rtol=1e-4, atol=1e-6
    )
    half, sure = jnp.log(jnp.asarray([[0.5, 0.5, 1e-9]])), jnp.log(jnp.asarray([[1.0 - 2e-9, 1e-9, 1e-9]]))
    both, one = jnp.asarray([[1.0, 1.0, -1.0]]), jnp.asarray([[1.0, -1.0, -1.0]])
    np.testing.assert_allclose(choices.dropped(half, half, both), 0.0, atol=1e-6)
    assert choices.dropped(sure, half, both) > 5 > 1 > choices.dropped(half, sure, both) > 0
    np.testing.assert_allclose(choices.dropped(sure, half, one), 0.0, atol=1e-6)  # what did not pass may go


def test_at_first_what_was_done_well_is_raised_as_the_logarithm_of_the_chance_to_pass():
    logits, worth = judged_board()

    def said(x):
        return jax.nn.log_softmax(x, axis=1)[:, :4]

    def passes(x):
        return jnp.log(jnp.sum(choices.odds_of(said(x)) * choices.chances(worth), axis=1))

    slope = grad(lambda x: choices.dropped(said(x), said(logits), worth).sum())(logits)
    np.testing.assert_allclose(slope, -grad(lambda x: passes(x).sum())(logits), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("worth", [[1.0, 0.5, -1.0], [-1.0, -1.0, -1.0]])
@pytest.mark.parametrize("odds", [[0.5, 0.5, 1e-9], [1e-9, 1e-9, 1.0]])
def test_the_slope_of_what_is_dropped_is_finite(worth, odds):
    before, earns = jnp.log(jnp.asarray([odds])), jnp.asarray([worth])
    slope = grad(lambda x: choices.dropped(x, before, earns).sum())(jnp.full((1, 3), -80.0))
    assert jnp.isfinite(slope).all()


@pytest.mark.parametrize("value", [2 + 31 / 36, 1 / 3, -0.1, 1e-6, 1e6 + 0.3, 0.0])
@pytest.mark.parametrize("group", [2, 3, 5, 8, 16, 100])
def test_equal_rewards_teach_nothing_whatever_their_value(value, group):
    rewards = jnp.full((3, group), value, jnp.float32)
    assert (advantages.advantages(rewards) == 0).all() and not advantages.differ(rewards).any()
    rounded = rewards.at[:, 0].set(jnp.nextafter(rewards[:, 0], jnp.float32(np.inf)))  # summed in another order
    assert (advantages.advantages(rounded) == 0).all() and not advantages.differ(rounded).any()


def test_rewards_that_differ_by_a_cell_teach_something():
    rewards = jnp.asarray([[2 + 31 / 36, 2 + 30 / 36, 2 + 31 / 36, 2 + 31 / 36]])
    assert advantages.differ(rewards).all()
    np.testing.assert_allclose(advantages.advantages(rewards)[0], [0.575, -1.725, 0.575, 0.575], atol=0.02)
