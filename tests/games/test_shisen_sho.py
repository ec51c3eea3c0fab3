"""Shisen-Sho: every move against a walker of paths, the rules as drawn boards, and how well its players play."""

import math
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgym
from jaxgym import engine
from jaxgym.games import shisen_sho
from jaxgym.games.shisen_sho import State

# The oracle: paths are walked cell by cell, on the host, as the rules say it.

DIRECTIONS = ((0, 1), (1, 0), (0, -1), (-1, 0))


def walk(cells, start):
    """The fewest turns from `start` to every other tile that a path finds: {cell: turns}."""
    queue = deque((start, direction, 0) for direction in range(4))
    seen, found = set(), {}
    while queue:
        (r, c), direction, turns = queue.popleft()
        down, right = DIRECTIONS[direction]
        cell = (r + down, c + right)
        tile = cells.get(cell)
        if tile:
            found.setdefault(cell, turns)
        elif tile == 0 and (cell, direction) not in seen:
            seen.add((cell, direction))
            queue.appendleft((cell, direction, turns))  # straight on before any turn: the fewest turns come first
            queue.append((cell, (direction + 1) % 4, turns + 1))
            queue.append((cell, (direction - 1) % 4, turns + 1))
    found.pop(start, None)
    return found


def oracle_turns(board, ring):
    """{(cell, other): fewest turns} of every pair of equal tiles that some path joins."""
    ground = np.pad(board, 1) if ring else board
    cells = {(r - ring, c - ring): int(ground[r, c]) for r, c in np.ndindex(ground.shape)}
    starts = [cell for cell, tile in cells.items() if tile]
    return {(a, b): turns for a in starts for b, turns in walk(cells, a).items() if cells[a] == cells[b]}


def oracle_legal(board, max_turns, ring):
    size = len(board)
    mask = np.zeros((size, size, size, size), bool)
    for (a, b), turns in oracle_turns(board, ring).items():
        mask[a + b] = turns <= max_turns
    return mask.ravel()


def record(game, boards, steps, seed):
    """Random legal play on the device: boards, masks, actions, rewards, over, boards after; [boards, steps, ...]."""

    def step(state, key):
        mask = game.legal(state)
        action = jax.random.categorical(key, jnp.where(mask, 0.0, -jnp.inf)).astype(jnp.int32)
        out = game.step(state, action, key)
        return out.state, (state.board, mask, action, out.reward, out.over, out.state.board)

    def play(key):
        deal_key, play_key = jax.random.split(key)
        return jax.lax.scan(step, game.reset(deal_key), jax.random.split(play_key, steps))[1]

    return [np.asarray(x) for x in jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(seed), boards))]


SETTINGS = [  # size, kinds, max_turns, ring, boards
    (4, 4, 2, True, 200),
    (4, 2, 1, False, 120),
    (4, 2, 0, True, 60),
    (6, 9, 2, True, 20),
    (12, 36, 2, True, 1),
]


def compare(game, max_turns, ring, boards, seed):
    """Compare every step of so many boards with the oracle; how many there were."""
    steps, most = 0, math.isqrt(game.actions.n) // 2
    for before, masks, actions, rewards, overs, after in zip(*record(game, boards, most, seed), strict=True):
        legal = oracle_legal(before[0], max_turns, ring)
        assert legal.any(), "a deal has a pair"
        for board, mask, action, reward, over, result in zip(
            before, masks, actions, rewards, overs, after, strict=True
        ):
            np.testing.assert_array_equal(mask, legal, str(board))
            expected = board.copy()
            expected.ravel()[list(divmod(action, board.size))] = 0
            np.testing.assert_array_equal(result, expected)
            legal = oracle_legal(expected, max_turns, ring)
            assert reward == 1 and over == (not legal.any())
            steps += 1
            if over:
                break
    return steps


def test_every_step_agrees_with_the_oracle():
    steps = 0
    for seed, (size, kinds, max_turns, ring, boards) in enumerate(SETTINGS):
        game = jaxgym.make("shisen_sho", size=size, kinds=kinds, max_turns=max_turns, ring=ring)
        steps += compare(game, max_turns, ring, boards, seed)
    assert steps >= 2_500  # a million in `slow`


def oracle_masks(kinds, max_turns, ring):
    """`oracle_legal` of many boards at once, int [N, R, C] -> bool [N, A]: rays are cast from all cells of all boards.

    A word holds 64 starts, one a bit.
    """
    n, size, _ = kinds.shape
    ground = np.pad(kinds, ((0, 0), (ring, ring), (ring, ring)))
    inside = slice(ring, ring + size)
    empty, found = ground == 0, []
    for first in range(0, size * size, 64):
        front = np.zeros(ground.shape, np.uint64)
        for cell in range(first, min(first + 64, size * size)):
            front[:, ring + cell // size, ring + cell % size] = np.uint64(1 << (cell - first))
        reached = np.zeros_like(front)
        for _ in range(max_turns + 1):
            passed = np.zeros_like(front)
            for axis, back in ((1, False), (1, True), (2, False), (2, True)):
                ray = front
                while ray.any():
                    ray = np.roll(ray, -1 if back else 1, axis)
                    edge = [slice(None)] * 3
                    edge[axis] = -1 if back else 0
                    ray[tuple(edge)] = 0  # what leaves on one side does not come back on the other
                    reached |= np.where(empty, np.uint64(0), ray)
                    ray = np.where(empty, ray, np.uint64(0))
                    passed |= ray
            front = passed
        bits = reached[:, inside, inside].reshape(n, 1, -1) >> np.arange(64, dtype=np.uint64)[:, None] & np.uint64(1)
        found.append(bits.astype(bool))
    joined = np.concatenate(found, 1)[:, : size * size]  # [N, start, cell]
    flat = kinds.reshape(n, -1)
    equal = (flat[:, :, None] == flat[:, None]) & (flat > 0)[:, :, None] & ~np.eye(size * size, dtype=bool)
    return (joined & equal).reshape(n, -1)


@pytest.mark.parametrize(("size", "kinds", "max_turns", "ring", "boards"), SETTINGS)
def test_both_oracles_agree(size, kinds, max_turns, ring, boards):
    game = jaxgym.make("shisen_sho", size=size, kinds=kinds, max_turns=max_turns, ring=ring)
    walked = record(game, min(boards, 3), size, 1)[0].reshape(-1, size, size)
    expected = [oracle_legal(board, max_turns, ring) for board in walked]
    np.testing.assert_array_equal(oracle_masks(walked, max_turns, ring), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shisen_sho", "shisen_sho_photo"])
def test_a_million_steps_agree_with_the_oracle(name, steps=1_000_000):
    """Random legal play: masks, boards, rewards and ends."""
    game, boards, checked = jaxgym.make(name), 500, 0
    words = np.asarray(game.sheet.names)
    kind_of = np.where(
        words == "empty", 0, np.unique(words, return_inverse=True)[1] + 1
    )  # what is called alike is alike
    for seed in range(10**6):
        if checked >= steps:
            break
        before, masks, actions, rewards, overs, after = record(game, boards, 18, seed)
        playing = np.cumsum(overs, 1) - overs == 0
        before, masks, actions, rewards, overs, after = (
            x[playing] for x in (before, masks, actions, rewards, overs, after)
        )
        np.testing.assert_array_equal(masks, oracle_masks(kind_of[before], 2, True))
        expected = before.copy().reshape(len(before), -1)
        rows = np.arange(len(before))
        expected[rows, actions // 36] = expected[rows, actions % 36] = 0
        np.testing.assert_array_equal(after.reshape(len(before), -1), expected)
        # Where a board is over no pair can go; where it is not it is the next step's board, and has been checked.
        assert masks.any(1).all() and not oracle_masks(kind_of[after[overs]], 2, True).any()
        assert (rewards == 1).all() and (np.diff(np.flatnonzero(overs), prepend=-1) <= 18).all() and overs[-1]
        checked += len(before)
    assert checked >= steps


# The rules, drawn. Letters are kinds, a dot is an empty cell.


def drawn(text):
    rows = [line.split() for line in text.strip().splitlines()]
    return State(jnp.array([[" ABCDEFGHI".index(c) if c != "." else 0 for c in row] for row in rows], jnp.int32))


def pairs(state, **options):
    """The pairs that can go, as text, each once, the cell nearer the top left first."""
    size = len(state.board)
    game = jaxgym.make("shisen_sho", size=size, kinds=4, **options)
    mask = np.asarray(game.legal(state)).reshape(size**2, size**2)
    np.testing.assert_array_equal(mask, mask.T)
    return {game.actions.format(int(a) * size**2 + int(b)) for a, b in np.argwhere(np.triu(mask))}


@pytest.mark.parametrize(
    ("board", "fewest"),
    [
        ("A A . .\n B C . .\n . . . .\n . . . .", 0),  # neighbours
        ("A . . A\n B C B C\n . . . .\n . . . .", 0),  # along a row
        (". . B .\n . . A B\n . A C .\n . . . .", 1),  # round one corner
        (". B . .\n C A B A\n . . D .\n . . . .", 2),  # down, along the last row, up
        ("A B A C\n . . . .\n B . . .\n C . . .", 2),  # down, along, up: or out over the top
        ("B C B C\n A B C A\n B C B C\n . . . .", None),  # walled in between tiles
        (". B . .\n B A B .\n . B . .\n . . . A", None),  # one tile walled in
        ("A B C .\n B B D .\n . . D A\n . . . B", 2),  # along the edge
        (". B . .\n . A D .\n . C B .\n . . A .", 2),  # out to the left and back below, or right and down
        ("B . . .\n A C . .\n B C A C\n . B . .", None),  # three turns are too many
    ],
)
def test_fewest_turns(board, fewest):
    """A pair may go from the limit that its best path needs, no sooner."""
    cells = [tuple(cell) for cell in np.argwhere(np.asarray(drawn(board).board) == 1)]
    text = " ".join(f"({r}, {c})" for r, c in cells)
    for max_turns in (0, 1, 2):
        assert (text in pairs(drawn(board), max_turns=max_turns)) == (fewest is not None and max_turns >= fewest)


AROUND = """
    A B C A
    C D D B
    B D D C
    C B A B
"""


def test_a_path_may_leave_the_board_by_its_ring():
    inside = {"(1, 1) (1, 2)", "(2, 1) (2, 2)", "(1, 1) (2, 1)", "(1, 2) (2, 2)"}
    assert pairs(drawn(AROUND), ring=False) == inside
    with_ring = pairs(drawn(AROUND), ring=True)
    assert "(0, 0) (0, 3)" in with_ring, "over the top: up, along, down"
    assert "(1, 0) (3, 0)" in with_ring, "along the left side"
    assert "(0, 0) (3, 2)" not in with_ring, "round a corner of the board: three turns"
    assert pairs(drawn(AROUND), ring=True, max_turns=1) == inside, "around the outside takes two turns"


def test_step_takes_the_pair_and_nothing_else():
    game = jaxgym.make("shisen_sho", size=4, kinds=4)
    before = drawn("A . . A\n B C C B\n D . . .\n . . . D")
    after = jax.jit(game.step)(before, jnp.int32(game.actions.parse("(0, 0) (0, 3)")), jax.random.key(0))
    np.testing.assert_array_equal(after.state.board, drawn(". . . .\n B C C B\n D . . .\n . . . D").board)
    assert after.reward == 1 and not after.over


@pytest.mark.parametrize(
    ("board", "over"),
    [
        ("A A . .\n . . . .\n . . . .\n . . . .", True),  # cleared
        ("A A B C\n D B C D\n C D B C\n D B C B", True),  # stuck when only one kind of straight line is allowed
        ("A A B B\n . . . .\n . . . .\n . . . .", False),
    ],
)
def test_over_when_cleared_or_stuck(board, over):
    game = jaxgym.make("shisen_sho", size=4, kinds=4, max_turns=0, ring=False)
    after = jax.jit(game.step)(drawn(board), jnp.int32(game.actions.parse("(0, 1) (0, 0)")), jax.random.key(0))
    assert bool(after.over) == over


@pytest.mark.parametrize(
    "options",
    [{}, {"size": 4, "kinds": 8, "max_turns": 0, "ring": False}, {"size": 8, "kinds": 2}, {"size": 12, "kinds": 72}],
)
def test_deals_have_every_kind_equally_often_and_a_pair(options):
    game = jaxgym.make("shisen_sho", **options)
    states = jax.jit(jax.vmap(game.reset))(jax.random.split(jax.random.key(1), 64))
    size, kinds = options.get("size", 6), options.get("kinds", 9)
    for board in np.asarray(states.board):
        counts = np.bincount(board.ravel(), minlength=kinds + 1)
        assert counts.tolist() == [0] + [size * size // kinds] * kinds
    assert np.asarray(jax.jit(jax.vmap(game.legal))(states)).any(1).all()
    assert len({board.tobytes() for board in np.asarray(states.board)}) == 64


def test_deals_are_uniform():
    """Every cell shows every kind equally often: 36 x 9 counts of 4096 deals, each within five standard deviations."""
    game = jaxgym.make("shisen_sho")
    boards = np.asarray(jax.jit(jax.vmap(game.reset))(jax.random.split(jax.random.key(2), 4096)).board)
    counts = np.stack([(boards == k).sum(0) for k in range(1, 10)])
    assert abs(counts - 4096 / 9).max() < 5 * np.sqrt(4096 * (1 / 9) * (8 / 9))


# Its players


def cleared(game, player, boards, steps, seed):
    """Pairs that were removed from each of so many deals, float32 [boards]."""

    def play(key):
        deal_key, play_key = jax.random.split(key)
        return engine.rollout(game, player, game.reset(deal_key), play_key, steps)[1].reward.sum()

    return np.asarray(jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(seed), boards)))


@pytest.mark.slow
def test_players_are_as_strong_as_published():
    game = jaxgym.make("shisen_sho")
    guesses = cleared(game, engine.random_answer(game), 1024, 36, 3).mean()
    assert 0.35 < guesses < 0.55, "published: 0.4 pairs of 18"
    at_random = cleared(game, engine.random_legal(game), 256, 18, 4)
    assert 17.2 < at_random.mean() < 17.9, "measured: 17.6"
    taught = cleared(game, engine.teacher(game), 128, 18, 4)
    assert (taught == 18).mean() >= 0.99
    assert (at_random == 18).mean() < 0.97, "the same deals do take looking ahead"


def test_teacher_grades_moves_by_what_can_still_go():
    """Straight lines only. Any of the upper three may go first, but two of the three choices leave a tile behind."""
    game = jaxgym.make("shisen_sho", max_turns=0, ring=False)
    state = drawn("A A A . . .\n" + ". . . . . .\n" + ". A . . . .\n" + ". . . . . .\n" * 3)
    values = np.asarray(jax.jit(game.values)(state, jax.random.key(0)))
    worth = {game.actions.format(int(a)): values[a] for a in np.flatnonzero(values > -np.inf)}
    both_ways = {"(0, 0) (0, 1)": 1, "(0, 1) (0, 2)": 1, "(0, 1) (2, 1)": 2}
    assert worth == both_ways | {f"{text[7:]} {text[:6]}": v for text, v in both_ways.items()}


def test_teacher_counts_a_fresh_board_in_pairs():
    game = jaxgym.make("shisen_sho", size=4, kinds=1)  # many tiles of one kind: more pairs than playouts could force
    states = jax.jit(jax.vmap(game.reset))(jax.random.split(jax.random.key(5), 8))
    values = np.asarray(jax.jit(jax.vmap(game.values))(states, jax.random.split(jax.random.key(6), 8)))
    np.testing.assert_array_equal(values > -np.inf, np.asarray(jax.jit(jax.vmap(game.legal))(states)))
    assert (values.max(1) == 8).all()
    square = values.reshape(8, 16, 16)
    np.testing.assert_array_equal(square, square.transpose(0, 2, 1))


def test_teacher_looks_until_there_is_nothing_to_learn(monkeypatch):
    """It stops at boards whose pairs are all proven, and only there: each pair's worth is that of all its looks."""
    game, looks = jaxgym.make("shisen_sho"), []
    rules, play, most = (
        game.values.__wrapped__.keywords["rules"],
        shisen_sho._playout,
        shisen_sho.PLAYOUTS + shisen_sho.RETRIES,
    )

    def counted(*given):
        jax.debug.callback(looks.append, jnp.int32(0))
        return play(*given)

    whims = jax.random.bits(jax.random.key(0), (most, 36), jnp.uint32)

    def every_look(state):
        dealt, left = shisen_sho._deal_out(state.board, rules), (state.board > 0).sum() / 2

        def look(i, worth):
            taken = play(dealt, whims[i], (i >= shisen_sho.PLAYOUTS) & (worth < left), rules)
            return jnp.maximum(worth, jnp.where(taken, taken.sum() / 2, 0))

        worth = jax.lax.fori_loop(0, most, look, jnp.zeros((rules.kinds, 4, 4)))
        pairs = jnp.ones((36, 36))
        pairs = pairs.at[dealt.cell[:, :, None], dealt.cell[:, None, :]].max(worth, mode="drop")
        return jnp.where(game.legal(state), pairs.reshape(-1), -jnp.inf)

    boards = jnp.asarray(record(game, 5, 18, 9)[0].reshape(-1, 6, 6))
    boards = boards[jax.vmap(lambda board: game.legal(State(board)).any())(boards)]
    wanted = np.asarray(jax.jit(jax.vmap(lambda board: every_look(State(board))))(boards))
    monkeypatch.setattr(shisen_sho, "_playout", counted)
    values = jax.jit(lambda board: game.values(State(board), jax.random.key(0)))
    counts = []
    for board, each in zip(boards, wanted, strict=True):
        np.testing.assert_array_equal(values(board), each)
        jax.effects_barrier()
        counts.append(len(looks))
        looks.clear()
        proven = np.isin(each, (-np.inf, float((board > 0).sum()) / 2)).all()
        assert proven or counts[-1] == most
    assert np.mean(counts) < most / 2 and min(counts) == 1


@pytest.mark.parametrize("ring", [True, False])
def test_explain_is_true(ring):
    game = jaxgym.make("shisen_sho", ring=ring)
    boards, masks, _, _, overs, _ = record(game, 6, 18, 7)
    playing = np.cumsum(overs, 1) - overs == 0
    for board, mask in zip(boards[playing], masks[playing], strict=True):
        fewest = oracle_turns(board, ring)
        for action in np.flatnonzero(mask)[:4]:
            a, b = (divmod(int(cell), 6) for cell in divmod(action, 36))
            turns, name = fewest[a, b], game.sheet.names[board[a]]
            said = f"{a} {b}: two {name}, joined with {turns} turn{'s' if turns != 1 else ''}."
            assert game.explain(State(jnp.asarray(board)), int(action)) == said


@pytest.mark.parametrize("text", ["(0, 0) (0, 0)", "(0, 0) (0, 1)", "(3, 3) (3, 2)", "(0, 0) (2, 0)"])
def test_explain_never_praises_what_cannot_go(text):
    game = jaxgym.make("shisen_sho", size=4, kinds=4, ring=False)
    board = drawn("A B . .\n B B . .\n A C . .\n . . . .")
    assert game.explain(board, game.actions.parse(text)) == f"{text}: this pair cannot go."


# The factory


def test_kinds_are_colours_by_shapes():
    names = jaxgym.make("shisen_sho").sheet.names
    assert set(names[1:]) == {f"{c} {s}" for c in ("red", "green", "blue") for s in ("circle", "square", "triangle")}
    hard = jaxgym.make("shisen_sho", size=12, kinds=36)
    assert len(set(hard.sheet.names)) == 37 and hard.actions.n == 144 * 144


def test_rules_say_what_is_asked():
    assert "at most 1 turn joins" in jaxgym.make("shisen_sho", max_turns=1, ring=False).rules
    assert "outside" in jaxgym.make("shisen_sho").rules
    assert "outside" not in jaxgym.make("shisen_sho", ring=False).rules


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 5}, "size=5 is not one of 4, 6, 8, 10, 12"),
        ({"size": "6"}, "size='6' is not one of"),
        ({"size": 14}, "size=14"),
        ({"kinds": 4}, "kinds=4 is not one of 1, 2, 3, 6, 9, 18"),
        ({"kinds": 36}, "kinds=36"),
        ({"kinds": 9.0}, "kinds=9.0"),
        ({"max_turns": 3}, "max_turns=3 is not one of 0, 1, 2"),
        ({"max_turns": True}, "max_turns=True"),
        ({"ring": 1}, "ring=1 is not True or False"),
        ({"size": 12, "kinds": 36, "picture": 56}, "picture=56 is too small"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, message):
    with pytest.raises(ValueError) as raised:
        jaxgym.make("shisen_sho", **options)
    assert message in str(raised.value) and "\n" not in str(raised.value)
