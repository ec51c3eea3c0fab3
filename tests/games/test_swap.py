"""Swap against its rules: a slow oracle that is handed the same new tiles, drawn boards, deals, the teacher."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgym
from jaxgym import engine
from jaxgym.games.swap import State, swap

rules = importlib.import_module("jaxgym.games.swap")


# The oracle, written from the rules: many boards at once, int [N, size, size].


def runs_of(boards, run=3):
    """The cells that stand in a run."""
    found = np.zeros(boards.shape, bool)
    for lines, marks in ((boards, found), (boards.swapaxes(1, 2), found.swapaxes(1, 2))):
        windows = np.lib.stride_tricks.sliding_window_view(lines, run, axis=2)
        for n, r, c in np.argwhere((windows == windows[..., :1]).all(-1) & (windows[..., 0] > 0)):
            marks[n, r, c : c + run] = True
    return found


def pairs_of(size):
    """Every two neighbouring cells, in the order of the actions."""
    across = [((r, c), (r, c + 1)) for r in range(size) for c in range(size - 1)]
    return across + [((r, c), (r + 1, c)) for r in range(size - 1) for c in range(size)]


def swapped(boards, pair):
    (r1, c1), (r2, c2) = pair
    boards = boards.copy()
    boards[:, [r1, r2], [c1, c2]] = boards[:, [r2, r1], [c2, c1]]
    return boards


def legal_of(boards, run=3):
    """bool [N, A], for boards without a run."""
    return np.stack([runs_of(swapped(boards, p), run).any((1, 2)) for p in pairs_of(boards.shape[-1])], 1)


def fall(board, gone, fresh):
    """One board after a wave: in each column what is left moves down, and the tiles of `fresh` fill the top."""
    board = board.copy()
    for c in range(board.shape[1]):
        left = board[~gone[:, c], c]
        new = len(board) - len(left)
        board[:, c] = [*fresh[:new, c], *left]
    return board


def cascade_of(boards, fresh):
    """Waves until nothing vanishes, wave i of board n taking its new tiles from fresh[n, i]: boards, scores, waves."""
    boards, scores, waves = boards.copy(), np.zeros(len(boards)), np.zeros(len(boards), int)
    while (gone := runs_of(boards)).any():
        n = gone.sum((1, 2))
        scores += n * (n - 1)
        for b in np.flatnonzero(n):
            boards[b] = fall(boards[b], gone[b], fresh[b, waves[b]])
            waves[b] += 1
    return boards, scores, waves


def board_of(text):
    """A board drawn in letters, `a` being kind 1 and `.` an empty cell."""
    rows = [line.split() for line in text.strip().split("\n")]
    return np.array([[0 if word == "." else ord(word) - ord("a") + 1 for word in row] for row in rows], np.int32)


# Random play


@pytest.fixture(scope="module")
def game():
    return swap()


@pytest.fixture(scope="module")
def deals(game):
    """Fresh boards, int32 [4096, 8, 8]."""
    return jax.jit(jax.vmap(game.reset))(jax.random.split(jax.random.key(5), 4096)).board


@pytest.fixture(scope="module")
def walk(game):
    return walked(game, 0)


def walked(game, seed):
    """Random legal swaps: before, mask, action, key, after, reward, over; host arrays (and keys), [steps, ...]."""
    player = engine.random_legal(game)

    def board(key):
        deal_key, play_key = jax.random.split(key)

        def step(state, key):
            act_key, luck_key = jax.random.split(key)
            action = player(state, act_key)
            out = game.step(state, action, luck_key)
            return out.state, (state.board, game.legal(state), action, luck_key, out.state.board, out.reward, out.over)

        return jax.lax.scan(step, game.reset(deal_key), jax.random.split(play_key, 40))[1]

    out = jax.jit(jax.vmap(board))(jax.random.split(jax.random.key(seed), 256))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)


def new_tiles(keys, waves):
    """The tiles that the waves of steps with these keys draw: int32 [N, waves, 8, 8]."""

    def draw(key):
        fall_key, _, _ = jax.random.split(key, 3)
        return jax.vmap(lambda i: rules._draw(jax.random.fold_in(fall_key, i), 8, 12))(jnp.arange(waves))

    return np.asarray(jax.jit(jax.vmap(draw))(keys))


def test_random_play_agrees_with_the_oracle(walk):
    """Legality, next board, reward and over on 10,240 steps, every new tile included."""
    agree(walk)


@pytest.mark.slow
def test_a_million_steps_agree_with_the_oracle(game, steps=1_000_000):
    checked = 0
    for seed in range(1, 10**6):
        if checked >= steps:
            break
        checked += agree(walked(game, seed))
    assert checked >= steps


def agree(walk):
    """Compare every step with the oracle; how many there were."""
    before, mask, action, keys, after, reward, over = walk
    before, mask, action, after = map(np.asarray, (before, mask, action, after))
    assert len(before) >= 10_000 and not over.any()
    np.testing.assert_array_equal(mask, legal_of(before))
    start = np.concatenate([swapped(before[i : i + 1], pairs_of(8)[a]) for i, a in enumerate(action)])
    rested, scores, waves = cascade_of(start, new_tiles(keys, 24))
    assert waves.min() == 1 and waves.max() >= 3
    np.testing.assert_array_equal(reward, scores)
    # Where the cascade left no legal swap the board was shuffled: the same tiles, moved, at rest. Elsewhere it is kept.
    shuffled = (after != rested).any((1, 2))
    assert 10 < shuffled.sum() < 0.2 * len(shuffled)
    assert not legal_of(rested[shuffled]).any()
    sets = [np.sort(boards[shuffled].reshape(-1, 64), 1) for boards in (after, rested)]
    np.testing.assert_array_equal(*sets)
    last = after.reshape(256, -1, 8, 8)[:, -1]  # the others are the next step's board, whose mask is checked above
    assert mask.any(1).all() and legal_of(last).any(1).all() and not runs_of(after).any()
    return len(before)


def test_new_tiles_are_uniform():
    tiles = np.asarray(jax.vmap(lambda key: rules._draw(key, 8, 12))(jax.random.split(jax.random.key(1), 2000)))
    counts = np.bincount(tiles.ravel(), minlength=13)
    assert counts[0] == 0 and len(counts) == 13
    assert (np.abs(counts[1:] - tiles.size / 12) < 4.5 * np.sqrt(tiles.size / 12)).all()


def test_guessing_two_cells_hardly_ever_swaps(game, deals):
    """VLM-Gym's random row: about 0.2 legal swaps in 100 guesses of two cells."""
    masks = np.asarray(jax.jit(jax.vmap(game.legal))(State(deals)))
    guesses = jax.jit(jax.vmap(game.actions.guess))(jax.random.split(jax.random.key(3), (len(deals) * 100)))
    guesses = np.asarray(guesses).reshape(-1, 100)
    swaps = (np.take_along_axis(masks, guesses, 1) & (guesses >= 0)).sum(1)
    assert 0.17 < swaps.mean() < 0.24


# Deals


@pytest.mark.parametrize(
    "options",
    [
        {"size": 4, "kinds": 29},
        pytest.param({"size": 12, "kinds": 3}, marks=pytest.mark.slow),
        pytest.param({"size": 4, "kinds": 7, "run": 4}, marks=pytest.mark.slow),
        {"size": 6, "kinds": 3, "run": 4},
    ],
)
def test_deals_rest_and_can_be_played(options):
    """Whatever the factory accepts: no run, a legal swap, all kinds; and so it is after a move."""
    game, run = swap(**options), options.get("run", 3)

    def board(key):
        deal_key, play_key = jax.random.split(key)
        state = game.reset(deal_key)
        return state, game.step(state, jnp.argmax(game.legal(state)), play_key).state

    dealt, played = jax.jit(jax.vmap(board))(jax.random.split(jax.random.key(4), 128))
    boards = np.concatenate([dealt.board, played.board])
    assert boards.min() == 1 and boards.max() == options.get("kinds", 12)
    assert not runs_of(boards, run).any()
    mask = legal_of(boards, run)
    assert mask.any(1).all()
    np.testing.assert_array_equal(jax.jit(jax.vmap(game.legal))(State(jnp.asarray(boards))), mask)


@pytest.mark.parametrize("options", [{}, {"size": 12, "kinds": 24}, {"size": 6, "kinds": 3}])
def test_boards_to_learn_to_see_from_have_three_kinds_any_of_them(options):
    game = swap(**options)
    kinds, keys = options.get("kinds", 12), jax.random.split(jax.random.key(7), 256)
    boards = np.asarray(jax.jit(jax.vmap(game.practice))(keys).board)
    assert boards.min() >= 1 and not runs_of(boards).any()
    shown = {tuple(np.unique(board).tolist()) for board in boards}
    assert {len(each) for each in shown} == {3} and {k for each in shown for k in each} == {*range(1, kinds + 1)}
    legal = legal_of(boards)
    assert legal.any(1).all()
    if kinds > 3:
        usual = legal_of(np.asarray(jax.jit(jax.vmap(game.reset))(keys).board))
        assert legal.sum() > 5 * usual.sum()


def test_deals_are_as_if_rejected(game, deals):
    """Redrawing the tiles of runs gives the same legal swaps and kinds as drawing whole boards until one rests."""
    drawn = np.random.default_rng(5).integers(1, 13, (12_000, 8, 8)).astype(np.int32)
    drawn = drawn[~runs_of(drawn).any((1, 2))]
    count = jax.jit(jax.vmap(lambda board: game.legal(State(board)).sum()))
    rejected = np.asarray(count(jnp.asarray(drawn)))
    rejected, dealt = rejected[rejected > 0], np.asarray(count(deals))
    error = np.sqrt(rejected.var() / len(rejected) + dealt.var() / len(dealt))
    assert abs(dealt.mean() - rejected.mean()) < 4 * error < 0.3
    assert 3.9 < dealt.mean() < 4.3
    kinds = np.bincount(np.asarray(deals).ravel(), minlength=13)[1:]
    assert (np.abs(kinds / kinds.mean() - 1) < 0.02).all()


# Drawn boards

BOARD = """
 a b c a
 b c a b
 a a b c
 c b a c
"""


def pair_action(game, text):
    action = game.actions.parse(text)
    assert action >= 0
    return action


def test_a_drawn_swap_line_by_line():
    """The board of the game's own docstring."""
    game = swap(size=4, kinds=5)
    action = pair_action(game, "(2, 2) (3, 2)")
    assert game.legal(State(jnp.asarray(board_of(BOARD))))[action]
    board = rules._swap(jnp.asarray(board_of(BOARD)), jnp.asarray(game.actions.cells)[action])
    assert board.tolist() == board_of(" a b c a \n b c a b \n a a a c \n c b b c").tolist()
    gone = rules._runs(board, 3)
    assert gone.tolist() == [[False] * 4, [False] * 4, [True, True, True, False], [False] * 4]
    board = rules._wave(board, gone, jnp.asarray(board_of(" d b d e \n e e e e \n e e e e \n e e e e")))
    assert board.tolist() == board_of(" d b d a \n a b c b \n b c a c \n c b b c").tolist()


@pytest.mark.parametrize(
    ("board", "gone", "score"),
    [
        # an L and a T of five tiles each are one wave; four in a row; two runs at once
        (" a a a b \n a c b c \n a b c b \n b c b c", " x x x . \n x . . . \n x . . . \n . . . .", 20),
        (" a a a b \n b a b c \n c a c b \n b c b c", " x x x . \n . x . . \n . x . . \n . . . .", 20),
        (" a a a a \n b c b c \n c b c b \n b c b c", " x x x x \n . . . . \n . . . . \n . . . .", 12),
        (" a a a b \n c b c b \n b c b c \n c b b b", " x x x . \n . . . . \n . . . . \n . x x x", 30),
        (" a a b b \n b b a a \n a a b b \n b b a a", " . . . . \n . . . . \n . . . . \n . . . .", 0),
    ],
)
def test_drawn_waves(board, gone, score):
    found = rules._runs(jnp.asarray(board_of(board)), 3)
    assert found.tolist() == [[word == "x" for word in line.split()] for line in gone.split("\n")]
    assert rules._score(found) == score


def test_a_cascade_scores_every_wave():
    """The three d go, two a fall beside a third: 3 * 2 and 3 * 2, and more only if new tiles happen to match."""
    game = swap(size=4, kinds=20)
    state = State(jnp.asarray(board_of(" b c e f \n c e f b \n e a d c \n d d a a")))
    action = pair_action(game, "(2, 2) (3, 2)")
    assert jax.jit(game.values)(state, jax.random.key(0))[action] == 12
    outs = jax.jit(jax.vmap(lambda key: game.step(state, jnp.int32(action), key)))(
        jax.random.split(jax.random.key(0), 64)
    )
    assert outs.reward.min() == 12 and (outs.reward == 12).mean() > 0.8
    rests = (outs.reward == 12) & (np.asarray(outs.state.board)[:, 3] == [5, 5, 6, 3]).all(1)
    assert rests.any()


def test_a_swap_of_equal_tiles_is_not_legal(game):
    board = np.arange(64).reshape(8, 8) % 12 + 1
    board[0, :4] = [1, 1, 2, 1]
    board = jnp.asarray(board, jnp.int32)
    mask = jax.jit(game.legal)(State(board))
    assert mask[pair_action(game, "(0, 2) (0, 3)")] and not mask[pair_action(game, "(0, 0) (0, 1)")]
    np.testing.assert_array_equal(mask, legal_of(np.asarray(board)[None])[0])


# Shuffles


def stuck_board():
    """8x8, 12 kinds, no run and no legal swap: equal tiles are always far apart on a diagonal stripe pattern."""
    r, c = np.mgrid[:8, :8]
    board = ((5 * r + c) % 12 + 1).astype(np.int32)
    assert not runs_of(board[None]).any() and not legal_of(board[None]).any()
    return board


def test_a_stuck_board_is_shuffled():
    shuffle = jax.jit(jax.vmap(lambda key: rules._shuffle(jnp.asarray(stuck_board()), key, run=3)[0]))
    boards = np.asarray(shuffle(jax.random.split(jax.random.key(6), 500)))
    assert not runs_of(boards).any() and legal_of(boards).any(1).all()
    np.testing.assert_array_equal(
        np.sort(boards.reshape(500, 64), 1), np.sort(stuck_board().ravel())[None].repeat(500, 0)
    )
    assert len({board.tobytes() for board in boards}) == 500
    # Every tile is as likely here as there.
    ones = (boards == 1).mean(0)
    assert np.abs(ones - (stuck_board() == 1).mean()).max() < 0.07


def test_a_set_of_tiles_without_any_legal_order_is_dealt_anew():
    """Two tiles of each kind can never make a run of three."""
    board = jnp.asarray((np.arange(16) // 2 + 1).reshape(4, 4)[[0, 2, 1, 3]], jnp.int32)
    key = jax.random.key(7)
    shuffled, rests = rules._shuffle(board, key, run=3)
    np.testing.assert_array_equal(np.sort(shuffled.ravel()), np.sort(board.ravel()))
    assert not rests
    dealt = np.asarray(rules._settle(board, key, key, kinds=8, run=3))
    assert not runs_of(dealt[None]).any() and legal_of(dealt[None]).any()


def test_a_resting_board_is_left_alone(deals):
    board = deals[0]
    key = jax.random.key(9)
    np.testing.assert_array_equal(rules._settle(board, key, key, kinds=12, run=3), board)


# The teacher


def test_teacher_counts_what_a_swap_scores_without_luck(game, walk):
    boards = np.asarray(walk[0])[::100]
    found = np.asarray(jax.jit(jax.vmap(game.values, (0, None)))(State(jnp.asarray(boards)), jax.random.key(0)))
    nothing, cascades = np.zeros((1, 12, 8, 8), np.int32), 0
    np.testing.assert_array_equal(np.isfinite(found), legal_of(boards))
    for board, values in zip(boards, found, strict=True):
        for action in np.flatnonzero(np.isfinite(values)):
            _, scores, waves = cascade_of(swapped(board[None], pairs_of(8)[action]), nothing)
            assert values[action] == scores[0]
            cascades += waves[0] > 1
    assert cascades > 0


def test_teacher_outscores_random_legal_play(game, walk):
    boards, keys, random = walk[0][::10], walk[3][::10], np.asarray(walk[5])[::10]
    taught = jax.jit(jax.vmap(lambda state, key: game.step(state, engine.teacher(game)(state, key), key).reward))
    gain = np.asarray(taught(State(boards), keys)) - random
    assert gain.mean() > 4 * gain.std() / np.sqrt(len(gain))


# Words


def test_explanations_are_true(game):
    board = stuck_board()
    board[0, :5] = [1, 1, 2, 1, 5]
    board[1, 2] = 12
    action = pair_action(game, "(0, 2) (0, 3)")
    assert game.explain(State(board), action) == "(0, 2) (0, 3): lines up 3 red circle."
    assert game.explain(State(stuck_board()), action) == "(0, 2) (0, 3): lines up nothing."
    board[1:3, 2] = 2  # the other tile comes to stand in a line of its own
    board[0, 2:4] = [2, 1]
    board[1:3, 3] = 2
    board[3, 3] = 7
    assert game.explain(State(board), pair_action(game, "(0, 2) (0, 3)")) == (
        "(0, 2) (0, 3): lines up 3 red circle and 3 red square."
    )


def test_explanations_count_the_first_wave(game, walk):
    for board, action in zip(np.asarray(walk[0])[:200], np.asarray(walk[2])[:200].tolist(), strict=True):
        gone = runs_of(swapped(board[None], pairs_of(8)[action]))[0]
        text = game.explain(State(board), action)
        assert text.startswith(game.actions.format(action) + ": lines up ")
        assert sum(int(word) for word in text.split(": ")[1].split() if word.isdigit()) == gone.sum()


def test_kinds_are_colours_times_shapes(game):
    names = game.sheet.names
    assert len(names) == 13 and names[0] == "empty" and len(set(names)) == 13
    colours, shapes = ({name.split()[i] for name in names[1:]} for i in (0, 1))
    assert len(colours) == 4 and len(shapes) == 3
    assert jaxgym.describe(game.sheet, np.array([[1, 12]])) == "red circle | yellow triangle"


@pytest.mark.parametrize(
    "options",
    [{"size": 3}, {"size": 13}, {"size": 8.0}, {"run": 2}, {"run": 5}, {"kinds": 2}, {"kinds": 82}, {"kinds": "12"}],
)
def test_bad_options_are_refused_in_one_line(options):
    (name,) = options
    with pytest.raises(ValueError, match=rf"^{name}=.*: give [^\n]*$"):
        swap(**options)
