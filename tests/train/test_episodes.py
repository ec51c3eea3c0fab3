"""Episodes of several turns: what is remembered, what an answer is worth, and the bandit as one turn of it."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policy import Reply
from policy.tokenizer import STOP, TURN
from tests.policy import qwen_folders as folders
from train import advantages, episodes, memory, reinforce, states
from train.advantages import Rewards
from train.config import Config
from train.course import prepare
from train.curriculum import Standing
from train.language import MOVE, NEWS
from train.learner import Frame
from train.loop import Trainer
from train.memory import Memory, Prompts
from train.parts import Episodes, Grpo
from train.rounds import Round


@pytest.fixture(scope="module")
def one(finished):
    """A model that knows the format, and its one game with boards in play."""
    part = Grpo(states=2, group=2, keep=0, scale="group")
    config = Config(games=("2048",), model=str(finished / "model"), recipe="g0", grpo=part)
    vlm, courses, pools = prepare(config, jax.random.key(0))
    boards = states.begin(config, courses["2048"], pools["2048"], jax.random.key(0))
    return config, Frame(vlm.graphdef, jnp.dtype("float32")), vlm, courses["2048"], boards


def test_a_prompt_holds_the_turns_before_as_they_were_said(one):
    language = one[3].language
    memory = Memory(language, history=2, pictures=2)
    boards = [jnp.full((2, 32, 32, 3), n, jnp.uint8) for n in range(4)]
    first = memory.prompts(boards[0])
    np.testing.assert_array_equal(first.ids, np.stack([language.prompt] * 2))
    outcomes = [(True, False), (False, False), (True, True)]
    for n in range(3):
        legal, over = (np.asarray([each, each]) for each in outcomes[n])
        memory.remember(boards[n], [f"reply {n}", "x"], legal, over)
    asked = memory.prompts(boards[3])
    row = np.asarray(asked.ids)[0, : int(asked.lengths[0])].tolist()
    words = language.tokenizer
    image = [language.image_id] * language.image_tokens
    text = words.encode(MOVE, add_special_tokens=False)
    mark, stop = words.convert_tokens_to_ids([TURN, STOP])
    said = [words.encode(f"reply {n}", add_special_tokens=False) for n in (1, 2)]
    bad, over = (words.encode(NEWS[name], add_special_tokens=False) for name in ("illegal", "over"))
    assert len(bad) == len(over) == len(text) == 1
    present = language.prompt.tolist()[len(image) :]
    past = [*text, mark, *said[0], stop, *image, *bad, *text, mark, *said[1], stop]
    assert row == [*past, *image, *over, *present]
    assert asked.ids.shape[1] % 64 == 0 and asked.pictures.shape[0] == 4
    assert asked.pictures[:, 0, 0, 0].tolist() == [2, 3, 2, 3]


def test_prompts_have_room_in_few_lengths():
    rooms = [memory._roomy(length) for length in range(1, 4000)]
    assert all(room >= length for length, room in enumerate(rooms, 1)) and {room % 64 for room in rooms} == {0}
    assert sorted(set(rooms))[:6] == [64, 128, 192, 256, 320, 448] and len(set(rooms)) == 16
    assert all(room <= max(length + 64, 1.45 * length) for length, room in enumerate(rooms, 1))


def test_a_template_without_what_was_said_before_is_told_before_a_run_begins(tmp_path):
    """Where it is asked for, and by its folder: the second turn would be too late."""
    folder = folders.write(tmp_path / "last", "qwen2_5_vl")
    file = folder / "chat_template.jinja"
    file.write_text(folders.TEMPLATE.replace("in messages %}", "in messages[-1:] %}"))
    for given in ({"turns": 2}, {"turns": 2, "history": 1}):
        config = Config(games=("2048",), model=str(folder), recipe="g0", episodes=Episodes(**given))
        if "history" not in given:
            prepare(config, jax.random.key(0))
            continue
        with pytest.raises(
            ValueError, match=rf"episodes history=1: the chat template of {folder} does not serve: .*give 0"
        ):
            prepare(config, jax.random.key(0))


def test_without_history_nothing_is_remembered(one):
    memory = Memory(one[3].language)
    board = jnp.zeros((2, 32, 32, 3), jnp.uint8)
    memory.remember(board, ["a", "b"], np.ones(2, bool), np.zeros(2, bool))
    np.testing.assert_array_equal(memory.prompts(board).ids, np.stack([one[3].language.prompt] * 2))


def turn(game, alive, board, perception=None, first=0, length=3, shown=1):
    """Episodes of two boards, or of one; one token a reply, of the answer, unless it reads. Replies begin with a number
    of their own, from the first on, which is in each of the pictures shown as well.
    """
    n = len(game)
    earned = [np.asarray(x, np.float32).reshape(n, 1) for x in (game, [0] * n, perception or [0] * n)]
    number = first + jnp.arange(n, dtype=jnp.int32)[:, None]
    pictures = jnp.broadcast_to(jnp.repeat(number, shown, 0)[..., None, None], (n * shown, 1, 1, 3)).astype(jnp.uint8)
    prompts = Prompts(jnp.broadcast_to(number, (n, length)), jnp.full(n, length), pictures)
    sampled = SimpleNamespace(ids=jnp.broadcast_to(number, (n, 2)), logprobs=jnp.broadcast_to(-1.0 * number, (n, 2)))
    replies = SimpleNamespace(prompts=prompts, sampled=sampled)
    alive = np.asarray(alive, bool)
    blocks = np.where(alive[:, None], np.asarray([[0, 2]]), -1)
    return episodes.Turn(Round(replies, None, Rewards(*map(jnp.asarray, earned)), blocks, {}), alive, np.asarray(board))


def advantages_of(one, turns, *, credit="block", scale="none", **changes):
    config = replace(one[0], episodes=Episodes(**({"turns": len(turns), "discount": 0.5} | changes)))
    config = replace(config, grpo=replace(config.grpo, scale=scale, credit=credit))
    return [np.asarray(each.credit.advantage) for each in episodes.learned_from(config, turns)], config


def test_an_answer_is_worth_what_it_still_brings(one):
    turns = [
        turn([1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1], [1, 0, 0, 0]),
        turn([0, 4, 2, 9], [1, 1, 1, 0], [2, 3, 4, 1]),  # the last episode had ended: its 9 is nobody's
    ]
    (first, second), _ = advantages_of(one, turns)
    np.testing.assert_allclose(first[:, 1], [-0.5, 0.5, 0.5, -0.5])  # 1 + 0/2 against 0 + 4/2; 0 + 2/2 against 0
    np.testing.assert_allclose(first[:, 0], [0.5, -0.5, 0, 0])  # what was read counts at once
    np.testing.assert_allclose(second[:, 1], [-2, 2, 0, 0])  # the third is alone
    whole, _ = advantages_of(one, turns, credit="reply")
    np.testing.assert_allclose(whole[0][:, 0], whole[0][:, 1])
    np.testing.assert_allclose(whole[0][:, 0], [0, 0, 0.5, -0.5])


def test_by_success_what_is_compared_is_measured_by_what_it_brings(one):
    """Of two turns, not by the first one's reward alone: the mean of what the game still brings, above what no legal
    move in any turn would, -1 - 1/2.
    """
    turns = [turn([-1, -1, 1, 1], [1] * 4, [0, 0, 1, 1]), turn([4, 8, 2, 4], [1] * 4, [2, 3, 4, 5])]
    (first, second), _ = advantages_of(one, turns, scale="success")
    np.testing.assert_allclose(first[:, 1], [-1 / 3.5, 1 / 3.5, -0.5 / 4, 0.5 / 4], rtol=1e-5)  # 1, 3; 2, 3
    np.testing.assert_allclose(second[:, 1], [-2 / 7, 2 / 7, -1 / 4, 1 / 4], rtol=1e-5)


def test_rare_success_counts_more_in_long_episodes_as_well(one):
    """Ten turns with one good move among many bad ones: no board is at the limit, and the rarer one counts more."""
    bad, once = [-1, -1, -1, -1], [-1, 1, -1, -1]
    turns = [turn(bad, [1] * 4, [0, 0, 1, 1])] + [
        turn(once if t % 2 else [-1, -1, 1, 1], [1] * 4, [4 * t, 4 * t + 1, 4 * t + 2, 4 * t + 3]) for t in range(1, 9)
    ]
    turns.append(turn([-1, -1, 1, -1], [1] * 4, [90, 91, 92, 93]))
    (first, *_), _ = advantages_of(one, turns, scale="success", discount=0.9)
    (plain, *_), _ = advantages_of(one, turns, scale="none", discount=0.9)
    divided = plain[:, 1] / first[:, 1]  # what each board's advantages were divided by
    nothing = -sum(0.9**t for t in range(10))
    rewards = np.stack([np.asarray(t.round.earned.game).reshape(-1) for t in turns])
    above = (0.9 ** np.arange(10) @ rewards).reshape(2, 2).mean(axis=1) - nothing
    np.testing.assert_allclose(divided, np.repeat(above, 2), rtol=1e-4)


def test_of_episodes_kept_each_stands_for_its_side(one):
    """Compared with all of the group; what those above its mean gain, and those below it lose, is kept in all."""
    turns = [turn([4, 0, 0, 0], [1] * 4, [0, 0, 0, 0]), turn([0, 0, 0, 0], [1] * 4, [1, 2, 3, 4])]
    config = replace(one[0], episodes=Episodes(turns=2), grpo=replace(one[0].grpo, group=4, keep=2, scale="none"))
    first, second = episodes.learned_from(config, turns)
    assert 0 in first.ids[:, 0] and first.ids.shape == (2, 2)
    np.testing.assert_allclose(np.sort(first.credit.advantage[:, 1]), [-1.5, 1.5])  # (3, -1, -1, -1) for 1/4 and 3/4
    assert (second.credit.advantage == 0).all()


def test_of_those_kept_that_ended_nothing_is_shared_out(one):
    """At the second turn one of those kept is still in play: alone, it has nothing to be compared with."""
    turns = [turn([4, 0, 0, 0], [1] * 4, [0, 0, 0, 0]), turn([0, 3, 0, 0], [0, 1, 1, 0], [1, 2, 3, 4])]
    config = replace(one[0], episodes=Episodes(turns=2), grpo=replace(one[0].grpo, group=4, keep=2, scale="none"))
    _, second = episodes.learned_from(config, turns)
    assert second.ids[:, 0].tolist() in ([0, 2], [0, 3], [2, 0], [3, 0])
    assert (second.credit.advantage == 0).all()  # one of one sign at most, compared with itself
    a, kept = np.asarray([[0, 1.5, -1.5, 0]], np.float32), np.asarray([[0, 1]])
    np.testing.assert_allclose(advantages.carried(a, kept), [[-0.75, 0.75]])
    np.testing.assert_allclose(advantages.carried(a, kept, a != 0), [[0, 0]])


def test_episodes_that_were_all_cut_off_are_not_kept(one):
    """They still say how good the others are: 2 and -2 lie 2 from the mean of all four."""
    turns = [turn([9, 2, -2, -9], [1] * 4, [0, 0, 0, 0]), turn([0] * 4, [1] * 4, [1, 2, 3, 4])]
    for each in turns:
        each.round.blocks[[0, 3]] = -1
    config = replace(one[0], episodes=Episodes(turns=2), grpo=replace(one[0].grpo, group=4, keep=2, scale="none"))
    first, _ = episodes.learned_from(config, turns)
    assert sorted(first.ids[:, 0].tolist()) == [1, 2]
    np.testing.assert_allclose(np.sort(first.credit.advantage[:, 1]), [-1, 1])  # for 2 of 4: half of 2 and of -2
    assert episodes.differ(config, turns).all()
    turns[0].round.blocks[1] = turns[1].round.blocks[1] = -1
    assert not episodes.differ(config, turns).any()


def test_gigpo_compares_each_episode_once(one):
    """However many answers it has: two of one turn and one of two, of returns 1 and 0, lie 1/2 from their mean."""
    turns = [turn([1, 0, 1, 1], [1] * 4, [0, 1, 2, 3]), turn([0] * 4, [0, 1, 0, 0], [4, 5, 6, 7])]
    (first, second), _ = advantages_of(one, turns, same_board=1.0)
    np.testing.assert_allclose(first[:, 1], [0.5, -0.5, 0, 0])
    np.testing.assert_allclose(second[:, 1], [0, -0.5, 0, 0])


def test_gigpo_keeps_what_an_episode_is_worth_when_others_have_ended(one):
    """Of six the two that lost ended first: what the two that are kept of the others did last is worth what it was."""
    turns = [
        turn([0] * 6, [1] * 6, [0] * 6),
        turn([-1, -1, 0, 0, 0, 0], [1] * 6, [1, 2, 3, 4, 5, 6]),
        turn([0, 0, 1, 2, 3, 4], [0, 0, 1, 1, 1, 1], [7, 8, 9, 10, 11, 12]),
    ]
    part = replace(one[0].grpo, group=6, keep=4, states=1, scale="none", credit="block")
    config = replace(one[0], episodes=Episodes(turns=3, same_board=1.0, discount=1.0), grpo=part)
    _, second, third = episodes.learned_from(config, turns)
    order = np.argsort(second.ids[:, 0])
    assert second.ids[order, 0].tolist() == [0, 1, 4, 5]
    up = 4 / 6 * (2 / 3 + 5 / 3 + 8 / 3) / (5 / 3 + 8 / 3)
    wanted = [-7 / 3 * 4 / 6 * (7 / 3 * 2 + 1 / 3) / (7 / 3 * 2)] * 2 + [5 / 3 * up, 8 / 3 * up]
    np.testing.assert_allclose(second.credit.advantage[order, 1], wanted, rtol=1e-5)
    np.testing.assert_allclose(third.credit.advantage[order, 1], [0, 0, *wanted[2:]], rtol=1e-5)


def test_a_token_counts_the_same_whatever_else_is_played(one):
    """By `constant`: of three turns that there may be, whether two of them are played or all."""
    counted = []
    for length in (1, 2):
        part = replace(one[0].grpo, average="constant")
        config = replace(one[0], grpo=part, episodes=Episodes(turns=2))
        found = []

        def gradients(*given, found=found):
            found.append(given[5])
            return {}, {}

        turns = [turn([1, 0, 0, 0], [1] * 4, [0, 0, 1, 1]), turn([0] * 4, [0] * 4, [2, 3, 4, 5])][:length]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("train.learner.grpo_gradients", gradients)
            reinforce.gradient_of(config, one[1], {}, {}, episodes.learned_from(config, turns), 2, "2048")
        counted.append(found[0])
    for alone, beside in zip(counted[0][:2], counted[1][:2], strict=True):
        np.testing.assert_allclose(alone, beside)
        assert alone.max() > 0


def test_gigpo_compares_answers_to_the_same_board_as_well(one):
    turns = [turn([1, 0, 0, 0], [1] * 4, [0, 0, 1, 1]), turn([0, 4, 2, 0], [1] * 4, [0, 3, 4, 1])]
    (first, second), _ = advantages_of(one, turns, same_board=2.0)
    episode = [-1.5, 1.5, 1, -1]  # sums 1, 4 and 2, 0: whole episodes are not discounted
    board = [1 - 1, 2 - 1, 1 / 3, -1 / 3 - 1 / 3 + 1 / 3]  # three visits of board 0: worth 1, 2, 0; of 1: 1, 0, 0
    np.testing.assert_allclose(first[:, 1], np.asarray(episode) + 2 * np.asarray([0, 1, 2 / 3, -1 / 3]), rtol=1e-5)
    np.testing.assert_allclose(second[:, 1], np.asarray(episode) + 2 * np.asarray([-1, 0, 0, -1 / 3]), rtol=1e-5)
    assert board[0] == 0


def test_boards_whose_episodes_all_earned_alike_are_refilled_from_later_rounds(one):
    """Of rounds of one turn and of two, with prompts of two lengths: the second boards; and those that fill up."""
    short = [turn([1, 1, 0, 1], [1] * 4, [0, 0, 1, 1])]
    long = [
        turn([0, 0, 0, 0], [1] * 4, [0, 0, 1, 1], first=4, length=5),
        turn([2, 2, 0, 4], [1, 1, 0, 1], [2, 2, 1, 3], first=8, length=7, shown=3),
    ]
    part = replace(one[0].grpo, scale="none", credit="block", refill=1)
    config = replace(one[0], grpo=part, episodes=Episodes(turns=2, discount=0.5))
    first, second = episodes.learned_from(config, short, long)
    assert first.ids[:, 0].tolist() == first.prompts.pictures[:, 0, 0, 0].tolist() == [2, 3, 6, 7]
    assert first.prompts.ids.shape == (4, 5) and first.prompts.lengths.tolist() == [3, 3, 5, 5]
    assert first.prompts.ids[0].tolist() == [2, 2, 2, 0, 0] and first.sampler[:, 0].tolist() == [-2, -3, -6, -7]
    np.testing.assert_allclose(first.credit.advantage[:, 1], [-0.5, 0.5, -1, 1])
    assert second.ids[2:, 0].tolist() == [10, 11] and second.prompts.ids.shape == (4, 7)
    assert second.prompts.pictures[6:, 0, 0, 0].tolist() == [10] * 3 + [11] * 3 and len(second.prompts.pictures) == 12
    assert second.credit.units.tolist() == [[-1, -1], [-1, -1], [-1, -1], [0, 2]]  # alone: nothing to compare it with
    one_left, _ = episodes.learned_from(config, long)
    assert one_left.ids[:, 0].tolist() == [6, 7, 4, 5] and (one_left.credit.units[2:] == -1).all()
    assert (one_left.credit.units[:2] == jnp.asarray([0, 2])).all()


def test_further_boards_are_played_until_enough_episodes_differ(one, monkeypatch):
    config, frame, vlm, course, boards = one
    config = replace(config, episodes=Episodes(turns=2))
    for refill, useful, rounds in ((0, 0, 1), (2, 2, 1), (2, 1, 2), (2, 0, 3)):
        differs = np.arange(2) < useful
        monkeypatch.setattr(episodes, "differ", lambda *_, differs=differs: differs)
        given = replace(config, grpo=replace(config.grpo, refill=refill))
        key = jax.random.key(3)
        found = reinforce.collect(given, frame, vlm.params, course, boards, Standing(), key)
        moving = np.flatnonzero(found.boards.plan != boards.plan)
        assert len({*(moving % 128)}) == rounds == found.report.get("rounds", 1)
        assert [len(tried.ids) for tried in found.tried] == [4, 4] and found.written == rounds * 8


def test_what_is_told_of_several_rounds_is_told_of_their_answers(one):
    """Of 4 answers in the one and 4 + 1 in the other; what episodes are as a whole is the mean of rounds."""

    def told(each, legal):
        return each._replace(round=each.round._replace(report={"legal": legal, "board": 0.0}))

    short = [told(turn([1, 1, 0, 1], [1] * 4, [0, 0, 1, 1]), 1.0)]
    long = [
        told(turn([0, 0, 0, 0], [1] * 4, [0, 0, 1, 1]), 0.5),
        told(turn([0, 0, 0, 4], [0, 0, 0, 1], [2, 2, 1, 3]), 0.0),
    ]
    config = replace(one[0], episodes=Episodes(turns=2, discount=0.5))
    report = episodes.report(config, short, long)
    assert [episodes.answers(turns) for turns in (short, long)] == [4, 5]
    assert report["legal"] == pytest.approx((4 * 1.0 + 4 * 0.5) / 9)
    assert report["turns"] == pytest.approx((1 + 5 / 4) / 2) and report["return"] == pytest.approx((3 / 4 + 2 / 4) / 2)


def test_one_turn_is_the_bandit(one):
    """The same replies through both: the same credit."""
    config, frame, vlm, course, boards = one
    state = jax.tree.map(lambda leaf: leaf[:2], boards.state)
    for credit in ("block", "reply"):
        for scale in ("none", "group", "game"):
            config = replace(config, grpo=replace(config.grpo, credit=credit, scale=scale))
            (played,) = episodes.play(config, frame, vlm.params, course, state, jax.random.key(2))
            (many,) = episodes.learned_from(config, [played])
            earned = Rewards(*(jnp.reshape(part, (2, 2)) for part in played.round.earned))
            prompts = Prompts(*(leaf[::2] for leaf in played.round.replies.prompts))
            bandit = played.round._replace(earned=earned, replies=played.round.replies._replace(prompts=prompts))
            single = reinforce.learned_from([bandit], config.grpo)
            np.testing.assert_allclose(many.credit.advantage, single.credit.advantage, atol=1e-5)
            np.testing.assert_array_equal(many.credit.units, single.credit.units)


@pytest.mark.parametrize("scale", ["none", "group", "game", "success", "cost"])
def test_one_turn_is_the_bandit_where_boards_are_refilled(one, scale):
    """Of two boards one teaches nothing: it only fills up, and is no measure of the other. Nor if neither does."""
    part = replace(one[0].grpo, group=2, keep=0, states=2, scale=scale, refill=1, credit="reply")
    config = replace(one[0], episodes=Episodes(turns=1), grpo=part)
    for rewards in ([1, -1, 1, 1], [1, 1, 0, 0]):
        played = turn(rewards, [1] * 4, [0, 0, 1, 1])
        (many,) = episodes.learned_from(config, [played])
        earned = Rewards(*(jnp.reshape(each, (2, 2)) for each in played.round.earned))
        prompts = Prompts(*(leaf[::2] for leaf in played.round.replies.prompts))
        bandit = played.round._replace(earned=earned)
        bandit.replies.prompts = prompts
        single = reinforce.learned_from([bandit], part)
        taught = np.asarray(many.credit.units) >= 0
        assert np.array_equal(single.credit.units >= 0, taught) and taught.any() == (rewards[1] < 0)
        np.testing.assert_allclose(
            np.where(taught, many.credit.advantage, 0), np.where(taught, single.credit.advantage, 0)
        )


@pytest.fixture(scope="module")
def scripted():
    """A player of replies that are written for it: what it says does not come from the model."""

    def written(moves, language):
        """Replies that move so, whatever the board: int32 ids and lengths of a `Reply`."""
        texts = [f"<perception>?</perception><think>.</think><answer>{move}</answer>" for move in moves]
        return language.encode_replies(texts)

    return written


def test_episodes_of_a_board_share_its_luck_and_remember(one, scripted, monkeypatch):
    config, frame, vlm, course, boards = one
    language = course.language
    moves = iter([["up", "up", "left", "left"], ["left", "left", "nonsense", "down"]])
    asked = []

    def write(graphdef, params, prompts, key, group, temperature, room):
        asked.append(prompts)
        ids, lengths = scripted(next(moves), language)
        return Reply(jnp.asarray(ids), jnp.asarray(lengths), jnp.zeros(ids.shape))

    monkeypatch.setattr("train.rollout.write_replies", write)
    config = replace(config, episodes=Episodes(turns=2, history=1, pictures=2))
    state = jax.tree.map(lambda leaf: leaf[:2], boards.state)
    first, second = episodes.play(config, frame, vlm.params, course, state, jax.random.key(2))
    boards_after = np.asarray(second.round.replies.played.state.board)
    np.testing.assert_array_equal(boards_after[0], boards_after[1])  # the same answers, the same luck
    assert first.board[0] == first.board[1] != first.board[2] == first.board[3]
    assert not second.round.replies.legal[2]
    assert asked[0].pictures.shape[0] == 4 and asked[1].pictures.shape[0] == 8
    texts = [language.tokenizer.decode(np.asarray(row)) for row in asked[1].ids]
    assert "<answer>up</answer>" in texts[0] and "<answer>left</answer>" in texts[3]
    for tried in episodes.learned_from(config, [first, second]):
        assert len(tried.ids) == 4 and len(tried.prompts.pictures) % 4 == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pictures": 3, "history": 1}, "at most 1 + history=1"),
        ({"discount": 1.5}, "at most 1"),
        ({"turns": 0}, "at least 1"),
    ],
)
def test_episodes_that_cannot_be_are_told(changes, told):
    with pytest.raises(ValueError, match=told.replace("+", r"\+")):
        Episodes(**changes)


@pytest.mark.slow
def test_an_update_of_whole_episodes(one, tmp_path):
    """From the command's own configuration to a changed model."""
    config = replace(
        one[0],
        grpo=Grpo(updates=9, states=2, group=3, keep=2, lr=1e-3, minibatches=2, kl=0.0),
        episodes=Episodes(turns=2, history=1, pictures=2, same_board=1.0),
    )
    trainer = Trainer(config, tmp_path / "run")
    course = trainer.ladders["2048"]._replace(own=lambda replies, game: [len(text) for text in replies.texts])
    trainer.ladders["2048"] = course  # whatever the model says, not all of it earns alike
    trainer.step = 5  # the first step is one of the warm-up, at a rate of 0
    before = jax.device_get(trainer.state.params)
    told = trainer._reinforce()
    assert np.isfinite(list(told.values())).all()
    changed = [bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (before, trainer.state.params)), strict=True)]
    assert any(changed) and told["grad_norm"] > 0
