"""2048 against its rules: a slow oracle, drawn boards, the odds of the luck, and the teacher."""

import importlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgym
from jaxgym import engine
from jaxgym.games.twenty_forty_eight import LARGEST, NAMES, State, twenty_forty_eight

rules = importlib.import_module("jaxgym.games.twenty_forty_eight")

UP, RIGHT, DOWN, LEFT = range(4)


# The oracle: boards are lists of rows of tile values (0, 2, 4, ...), written from the rules.


def slide_line(line):
    """Slide toward the first cell: the line, and the sum of the merged values."""
    tiles, out, points = [t for t in line if t], [], 0
    while tiles:
        tile = tiles.pop(0)
        if tiles and tiles[0] == tile != 131072:
            tiles.pop(0)
            tile *= 2
            points += tile
        out.append(tile)
    return out + [0] * (len(line) - len(out)), points


def slide(board, action):
    lines = [list(column) for column in zip(*board, strict=True)] if action in (UP, DOWN) else board
    back = -1 if action in (RIGHT, DOWN) else 1
    slid = [slide_line(line[::back]) for line in lines]
    lines, points = [line[::back] for line, _ in slid], sum(p for _, p in slid)
    return ([list(row) for row in zip(*lines, strict=True)] if action in (UP, DOWN) else lines), points


def can(board, action):
    return slide(board, action)[0] != board


def values_of(exponents):
    """A board of exponents as lists of tile values."""
    return [[2**k if k else 0 for k in row] for row in np.asarray(exponents).tolist()]


def board_of(text):
    """A board drawn in words, `.` being empty, as a state."""
    rows = [[0 if word == "." else int(word) for word in line.split()] for line in text.strip().split("\n")]
    return State(jnp.array([[t.bit_length() - 1 if t else 0 for t in row] for row in rows], jnp.int32))


# Random play


@pytest.fixture(scope="module")
def game():
    return twenty_forty_eight()


@pytest.fixture(scope="module")
def walk(game):
    """Uniform random moves, legal or not; a board that ends is dealt anew. Host arrays, [boards, steps, ...]."""

    def board(key):
        deal_key, play_key = jax.random.split(key)

        def step(state, key):
            act_key, luck_key, deal_key = jax.random.split(key, 3)
            action = game.actions.guess(act_key)
            out = engine.play(game, state, jnp.bool_(False), action, luck_key)
            after = engine.select(out.over, game.reset(deal_key), out.state)
            return after, (state.board, game.legal(state), action, out.state.board, out.reward, out.legal, out.over)

        return jax.lax.scan(step, game.reset(deal_key), jax.random.split(play_key, 100))[1]

    names = ("before", "mask", "action", "after", "reward", "legal", "over")
    out = jax.jit(jax.vmap(board))(jax.random.split(jax.random.key(0), 512))
    return dict(zip(names, map(np.asarray, out), strict=True))


def test_random_play_agrees_with_the_oracle(walk):
    """Legality, next board, reward and over on 12,800 steps; the new tile is one 2 or 4 on an empty cell."""
    flat = {name: x[:128].reshape(-1, *x.shape[2:]) for name, x in walk.items()}
    assert len(flat["action"]) >= 10_000 and flat["over"].any() and not flat["legal"].all()
    for i, action in enumerate(flat["action"].tolist()):
        before, after = values_of(flat["before"][i]), values_of(flat["after"][i])
        mask = [can(before, a) for a in range(4)]
        assert flat["mask"][i].tolist() == mask
        assert flat["legal"][i] == mask[action]
        if not mask[action]:
            assert after == before and flat["reward"][i] == 0 and not flat["over"][i]
            continue
        slid, points = slide(before, action)
        new = [(s, t) for s, t in zip(itertools.chain(*slid), itertools.chain(*after), strict=True) if s != t]
        assert len(new) == 1 and new[0] in ((0, 2), (0, 4))
        assert flat["reward"][i] == points
        assert flat["over"][i] == (not any(can(after, a) for a in range(4)))


@pytest.mark.slow
def test_a_million_steps_agree_with_the_oracle(game, steps=1_000_000):
    """Games from their deal to their end: every line slides like the oracle's, remembered; the rest as above."""
    lines, checked = {}, 0

    def slid(boards, action):
        """Many boards of exponents, [N, 4, 4], moved one way: boards and points."""
        turned = boards.swapaxes(1, 2) if action in (UP, DOWN) else boards
        turned = turned[..., ::-1] if action in (RIGHT, DOWN) else turned
        flat = turned.reshape(-1, 4)
        for line in {tuple(line) for line in flat.tolist()} - lines.keys():
            after, points = slide_line([2**k if k else 0 for k in line])
            lines[line] = [t.bit_length() - 1 if t else 0 for t in after], points
        found = [lines[tuple(line)] for line in flat.tolist()]
        after = np.asarray([line for line, _ in found]).reshape(turned.shape)
        after = after[..., ::-1] if action in (RIGHT, DOWN) else after
        after = after.swapaxes(1, 2) if action in (UP, DOWN) else after
        return after, np.asarray([points for _, points in found]).reshape(-1, 4).sum(1)

    player = engine.random_legal(game)

    @jax.jit
    @jax.vmap
    def play(key):
        def step(state, key):
            act_key, luck_key = jax.random.split(key)
            action = player(state, act_key)
            out = game.step(state, action, luck_key)
            return out.state, (state.board, game.legal(state), action, out.state.board, out.reward, out.over)

        return jax.lax.scan(step, game.reset(key), jax.random.split(key, 200))[1]

    seed = 0
    while checked < steps:
        shown = [np.asarray(x) for x in play(jax.random.split(jax.random.key(seed), 200))]
        seed += 1
        playing = np.cumsum(shown[-1], 1) - shown[-1] == 0
        before, masks, actions, after, rewards, overs = (x[playing] for x in shown)
        ways = [slid(before, a) for a in range(4)]
        np.testing.assert_array_equal(masks, np.stack([(board != before).any((1, 2)) for board, _ in ways], 1))
        rows = np.arange(len(before))
        moved = np.stack([board for board, _ in ways], 1)[rows, actions]
        np.testing.assert_array_equal(rewards, np.stack([points for _, points in ways], 1)[rows, actions])
        new = moved != after
        assert (new.sum((1, 2)) == 1).all() and (moved[new] == 0).all() and set(after[new].tolist()) <= {1, 2}
        stuck = np.stack([(slid(after, a)[0] == after).all((1, 2)) for a in range(4)]).all(0)
        np.testing.assert_array_equal(overs, stuck)
        checked += len(before)


def test_tile_mass_grows_by_the_new_tile_alone(walk):
    mass = {name: np.where(walk[name] > 0, 2 ** walk[name], 0).sum((2, 3)) for name in ("before", "after")}
    grown = mass["after"] - mass["before"]
    assert set(np.unique(grown[walk["legal"]])) == {2, 4}
    assert set(np.unique(grown[~walk["legal"]])) == {0}


def test_random_play_scores_as_published(walk):
    """VLM-Gym's row: 701 points in 100 uniform random moves, lost steps counted; 702 +- 10 measured elsewhere."""
    scores = walk["reward"].sum(1)
    assert abs(scores.mean() - 702) < 30
    assert 110 < scores.std() < 160


@pytest.mark.parametrize("size", [3, 4, 6])
def test_any_board_slides_like_the_oracle(size):
    """Boards that play hardly reaches: full ones, ones of few kinds, and every tile up to 131072."""
    rng = np.random.default_rng(size)
    kinds = rng.integers(1, LARGEST + 1, (150, 1, 1))  # boards of few kinds merge more
    top = rng.integers(kinds, LARGEST + 1)
    boards = np.where(rng.random((150, size, size)) < 0.8, top - rng.integers(0, kinds, (150, size, size)), 0)
    boards = boards.astype(np.int32)
    assert boards.max() == LARGEST
    slides = jax.jit(jax.vmap(jax.vmap(rules._slide, (None, 0)), (0, None)))
    after, points = map(np.asarray, slides(jnp.asarray(boards), jnp.arange(4, dtype=jnp.int32)))
    legal = np.asarray(jax.jit(jax.vmap(rules.legal))(State(jnp.asarray(boards))))
    for i, board in enumerate(map(values_of, boards)):
        for action in range(4):
            expected, score = slide(board, action)
            assert values_of(after[i, action]) == expected and points[i, action] == score
            assert legal[i, action] == (expected != board)


# Drawn boards


BOARD = """
 2 2 2 .
 2 2 4 .
 8 . . 8
 2 2 2 2
"""
SLID = {
    LEFT: (" 4 2 . . \n 4 4 . . \n 16 . . . \n 4 4 . . ", 32),
    RIGHT: (" . . 2 4 \n . . 4 4 \n . . . 16 \n . . 4 4 ", 32),
    UP: (" 4 4 2 8 \n 8 2 4 2 \n 2 . 2 . \n . . . . ", 8),
    DOWN: (" . . . . \n 4 . 2 . \n 8 2 4 8 \n 2 4 2 2 ", 8),
}


@pytest.mark.parametrize("action", SLID)
def test_drawn_slides(game, action):
    board, points = SLID[action]
    slid = board_of(board).board
    out = jax.jit(game.step)(board_of(BOARD), jnp.int32(action), jax.random.key(0))
    assert out.reward == points and not out.over
    appeared = out.state.board != slid
    assert appeared.sum() == 1 and slid[appeared] == 0


@pytest.mark.parametrize(
    ("line", "slid", "points"),
    [
        ("2 2 2 .", "4 2 . .", 4),
        ("2 2 4 .", "4 4 . .", 4),
        ("2 2 2 2", "4 4 . .", 8),
        (". 4 2 2", "4 4 . .", 4),
        ("2 . . 2", "4 . . .", 4),
        ("4 2 2 4", "4 4 4 .", 4),
        ("65536 65536 2 .", "131072 2 . .", 131072),
        ("131072 131072 2 2", "131072 131072 4 .", 4),
    ],
)
def test_drawn_lines(line, slid, points):
    """Nearest the wall first, each tile once; two 131072 do not merge."""
    after, score = rules._left(board_of(line).board)
    assert after.tolist() == board_of(slid).board.tolist() and score == points


def test_two_of_the_largest_tiles_are_stuck_on_a_full_board(game):
    rows = ["131072 131072 2 4", "4 2 4 2", "2 4 2 4", "4 2 4 2"]
    assert not game.legal(board_of("\n".join(rows))).any()
    rows[0] = "65536 65536 2 4"
    assert game.legal(board_of("\n".join(rows))).tolist() == [False, True, False, True]


def test_over_is_when_the_new_tile_fills_the_board(game):
    stuck = board_of("8 16 8 16 \n 16 8 16 8 \n 32 16 8 16 \n 8 32 64 .")
    free = board_of("8 16 8 16 \n 16 8 16 8 \n 32 16 8 16 \n 2 32 64 .")  # unless the new tile beside the 2 is a 4
    step = jax.jit(jax.vmap(game.step, (None, None, 0)))
    keys = jax.random.split(jax.random.key(0), 64)
    assert step(stuck, jnp.int32(RIGHT), keys).over.all()
    out = step(free, jnp.int32(RIGHT), keys)
    np.testing.assert_array_equal(out.over, out.state.board[:, 3, 0] == 2)
    assert out.over.any() and not out.over.all()


# Luck


def test_new_tiles_are_uniform_and_one_in_ten_is_a_four(game):
    state, n = board_of("2 4 . . \n . 8 . 2 \n . . . . \n 64 . 2 ."), 20_000
    slid, _ = rules._slide(state.board, jnp.int32(LEFT))
    outs = jax.jit(jax.vmap(lambda key: game.step(state, jnp.int32(LEFT), key)))(jax.random.split(jax.random.key(2), n))
    new = np.asarray(outs.state.board) - np.asarray(slid)
    empty = np.asarray(slid) == 0
    counts = (new > 0).sum(0)
    assert (counts[~empty] == 0).all()
    expected = n / empty.sum()
    assert (np.abs(counts[empty] - expected) < 4.5 * np.sqrt(expected)).all()
    assert abs((new == 2).sum() - 0.1 * n) < 4 * np.sqrt(0.09 * n)


@pytest.mark.parametrize(("fours", "exponent"), [(0.0, 1), (0, 1), (1.0, 2)])
def test_share_of_fours_may_be_none_or_all(fours, exponent):
    game = twenty_forty_eight(fours=fours)
    boards = jax.jit(jax.vmap(game.reset))(jax.random.split(jax.random.key(0), 200)).board
    assert set(np.unique(boards)) == {0, exponent}


@pytest.mark.parametrize("size", [3, 4, 5, 6])
def test_reset_deals_two_tiles_anywhere(size):
    reset = jax.jit(jax.vmap(twenty_forty_eight(size=size).reset))
    boards = np.asarray(reset(jax.random.split(jax.random.key(1), 2000)).board)
    assert boards.shape == (2000, size, size)
    assert ((boards > 0).sum((1, 2)) == 2).all() and boards.max() == 2
    assert (boards > 0).any(0).all()


# The teacher


def worth(board):
    """The teacher's opinion, in words of its own: board is a list of rows of tile values."""
    total = 0.0
    for line in [*board, *map(list, zip(*board, strict=True))]:
        heights = [(t.bit_length() - 1) ** 2 if t else 0 for t in line]
        steps = [a - b for a, b in itertools.pairwise(heights)]
        total += rules.DISORDER * min(sum(s for s in steps if s > 0), -sum(s for s in steps if s < 0))
        total += rules.EQUAL * sum(a == b != 0 for a, b in itertools.pairwise(line))
    return total + rules.EMPTY * sum(row.count(0) for row in board)


def search(board, action, fours):
    """Expectimax by hand: the move, every new tile, the best reply."""
    after, reward = slide(board, action)
    if after == board:
        return -np.inf
    total, places = 0.0, [(r, c) for r, row in enumerate(after) for c, tile in enumerate(row) if not tile]
    for (r, c), (tile, chance) in itertools.product(places, ((2, 1 - fours), (4, fours))):
        after[r][c] = tile
        replies = [(points + worth(b)) for b, points in (slide(after, a) for a in range(4)) if b != after]
        total += chance * max(replies, default=rules.LOST)
        after[r][c] = 0
    return reward + total / len(places)


def test_teacher_searches_as_it_says(game, walk):
    states = walk["before"][::64, ::25].reshape(-1, 4, 4)
    found = jax.jit(jax.vmap(game.values, (0, None)))(State(jnp.asarray(states)), jax.random.key(0))
    expected = [[search(values_of(board), a, 0.1) for a in range(4)] for board in states]
    assert np.isfinite(found).any(1).all()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=0.05)


def test_teacher_plays_well(game):
    """100 moves from fresh boards: a greedy player scores 1056, the tile mass allows about 1180."""
    deal_keys, play_keys = jax.random.split(jax.random.key(5), (2, 64))
    play = jax.vmap(lambda state, key: engine.rollout(game, engine.teacher(game), state, key, 100)[1])
    steps = jax.jit(play)(jax.jit(jax.vmap(game.reset))(deal_keys), play_keys)
    assert steps.legal.all() and not steps.over.any()
    assert steps.reward.sum(1).mean() > 1060


# Words and pictures


@pytest.mark.parametrize(
    ("board", "action", "text"),
    [
        ("2 2 . . \n . . . . \n . . . . \n . . . 8", LEFT, "left: merges 2 and 2 for 4 points."),
        ("2 2 4 4 \n 8 . 8 . \n . . . . \n . . . 8", LEFT, "left: 3 merges for 28 points."),
        ("2 2 4 4 \n 8 . 8 . \n . . . . \n . . . 8", UP, "up: no merge, 9 cells empty."),
        ("8 16 8 16 \n 16 8 16 8 \n 8 16 8 16 \n 16 8 16 .", DOWN, "down: no merge, 1 cell empty."),
        ("2 . . . \n 4 . . . \n . . . . \n . . . .", LEFT, "left: changes nothing."),
    ],
)
def test_explanations_are_true(game, board, action, text):
    assert game.explain(board_of(board), action) == text


def test_explanations_agree_with_the_reward(game, walk):
    rewarded = 0
    for i in range(300):
        state, action = State(walk["before"][i, 50]), int(walk["action"][i, 50])
        text, points = game.explain(state, action), slide(values_of(state.board), action)[1]
        assert text.startswith(f"{NAMES[action]}: ")
        assert text.endswith(f" for {points} points.") == (points > 0)
        assert ("changes nothing" in text) == (not walk["legal"][i, 50])
        rewarded += points > 0
    assert rewarded > 50


def test_names_are_the_tile_values(game):
    assert game.sheet.names == ("empty", *(str(2**k) for k in range(1, 18)))
    assert game.sheet.names[-1] == "131072"
    assert jaxgym.describe(game.sheet, board_of("2 . 65536 131072").board) == "2 | empty | 65536 | 131072"


@pytest.mark.parametrize("theme", ["classic", "light", "pastel", "dark"])
def test_tiles_look_different(theme):
    """No two sprites share a fill: the corner inside the frame differs by more than noise would."""
    sheet = twenty_forty_eight(look=jaxgym.Look(theme=theme, picture=0, patch=28)).sheet
    fills = np.asarray(sheet.pixels)[:, 3:6, 3:6].reshape(18, -1).astype(np.float32)
    apart = np.abs(fills[:, None] - fills[None]).mean(-1) + 255 * np.eye(18)
    assert apart.min() > 6


@pytest.mark.parametrize(
    "options", [{"size": 2}, {"size": 7}, {"size": 4.0}, {"fours": -0.1}, {"fours": float("nan")}, {"fours": True}]
)
def test_bad_options_are_refused_in_one_line(options):
    (name,) = options
    with pytest.raises(ValueError, match=rf"^{name}=.*: give [^\n]*$"):
        twenty_forty_eight(**options)


@pytest.mark.parametrize("size", [3, 4, 6])
def test_new_tiles_are_uniform_on_boards_of_every_size(size):
    """A random half of the cells is empty; 36 cells are more than one word has bits."""
    board = np.random.default_rng(size).permutation(np.arange(size * size) % 2 * 5).reshape(size, size).astype(np.int32)
    spawn = jax.jit(jax.vmap(lambda key: rules._spawn(jnp.asarray(board), key, fours=0.25)))
    after = np.asarray(spawn(jax.random.split(jax.random.key(size), 40_000)))
    new = after - board
    assert ((new > 0).sum((1, 2)) == 1).all() and not new[:, board > 0].any()
    expected = 40_000 / (board == 0).sum()
    assert (np.abs((new > 0).sum(0)[board == 0] - expected) < 4.5 * np.sqrt(expected)).all()
    fours = (new == 2).sum(0)[board == 0] / (new > 0).sum(0)[board == 0]  # as often on one cell as on another
    assert (np.abs(fours - 0.25) < 4.5 * np.sqrt(0.1875 / expected)).all()
    full = jnp.full((size, size), 3, jnp.int32)
    np.testing.assert_array_equal(rules._spawn(full, jax.random.key(0), fours=0.25), full)
