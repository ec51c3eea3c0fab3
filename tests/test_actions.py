"""Text <-> integer: what is read, what is not, and that nothing raises."""

import pickle
import time

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgym import INVALID
from jaxgym.actions import cell_pairs, cells, moves, swaps

MOVES = moves(("up", "right", "down", "left"))
PAIRS = cell_pairs(6, 6)
SWAPS = swaps(8, 8)
CELLS = cells(3, 12)
ALL = pytest.mark.parametrize(
    "actions", [MOVES, CELLS, PAIRS, SWAPS, swaps(2, 5)], ids=["moves", "cells", "pairs", "swaps", "oblong"]
)


def test_counts():
    assert (MOVES.n, PAIRS.n, SWAPS.n, swaps(2, 5).n) == (4, 36 * 36, 2 * 8 * 7, 2 * 4 + 5)


@ALL
def test_round_trip(actions):
    assert [actions.parse(actions.format(a)) for a in range(actions.n)] == list(range(actions.n))


@ALL
@pytest.mark.parametrize("action", [-1, -5, "n", 10**30])
def test_format_outside_the_actions(actions, action):
    with pytest.raises(IndexError, match="not in"):
        actions.format(actions.n if action == "n" else action)


def test_moves_are_read_whatever_their_capitals_and_must_differ():
    loud = moves(("Up", " Down "))
    assert [loud.parse(text) for text in ("Up", "up", "down", " Down ", "left")] == [0, 0, 1, 1, INVALID]
    for names in (("up", "UP"), ("up", "up "), ("up", ""), ("up", "a" * 201)):
        with pytest.raises(ValueError, match="names="):
            moves(names)


def test_pair_index_is_the_documented_one():
    for r1, c1, r2, c2 in ((0, 0, 0, 1), (5, 5, 0, 0), (2, 3, 4, 1)):
        text = f"({r1}, {c1}) ({r2}, {c2})"
        assert PAIRS.parse(text) == (r1 * 6 + c1) * 36 + r2 * 6 + c2
        assert PAIRS.format(PAIRS.parse(text)) == text


def test_a_cell_is_named_by_row_and_column():
    assert CELLS.n == 36 and CELLS.parse("(2, 11)") == CELLS.parse("(2,11)") == 35 and CELLS.cells[35].tolist() == [35]
    assert [CELLS.parse(text) for text in ("(3, 0)", "(0, 12)", "2, 11", "(1, 1) (1, 1)")] == [INVALID] * 4
    drawn = jax.vmap(CELLS.guess)(jax.random.split(jax.random.key(0), 1000))
    assert len(np.unique(drawn)) == 36


def test_swaps_are_neighbours_in_either_order():
    text = [("(0, 0)", "(0, 1)"), ("(3, 4)", "(4, 4)"), ("(7, 6)", "(7, 7)")]
    for a, b in text:
        assert SWAPS.parse(f"{a} {b}") == SWAPS.parse(f"{b} {a}") != INVALID
    for far in ("(0, 0) (0, 2)", "(0, 0) (1, 1)", "(0, 7) (1, 0)", "(2, 2) (2, 2)"):
        assert SWAPS.parse(far) == INVALID
    for a, b in SWAPS.cells:
        assert abs(a // 8 - b // 8) + abs(a % 8 - b % 8) == 1


WAYS = ["(1, 2) (3, 4)", "(1,2) (3,4)", " (1, 2), (3, 4)\n", "(1,2)(3,4)", "(01, 002) (3, 4)"]


@pytest.mark.parametrize("text", WAYS)
def test_ways_to_write_a_pair(text):
    assert PAIRS.parse(text) == (1 * 6 + 2) * 36 + 3 * 6 + 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "None",
        "null",
        "-1",
        "0",
        "(1, 2)",
        "(1, 2) (3, 4) (5, 5)",
        "(1, 2) (3, 6)",
        "(6, 0) (0, 0)",
        "(-1, 0) (0, 0)",
        "(1.0, 2) (3, 4)",
        "(1e0, 2) (3, 4)",
        "(1_0, 2) (3, 4)",
        "(" + "9" * 50 + ", 0) (0, 1)",
        "(٠, ١) (٢, ٣)",  # noqa: RUF001
        "(０, １) (２, ３)",  # noqa: RUF001
        "(¹, ²) (³, 0)",
        "（1, 2） （3, 4）",  # noqa: RUF001
        "(1, 2) (3, 4)\x00",
        "(1, 2)\n\n\n\n(3, 4)",
        "((1, 2) (3, 4))",
        "up or down",
        "ｕｐ",  # noqa: RUF001
        "\ud800",
    ],
)
def test_unreadable(text):
    assert PAIRS.parse(text) == SWAPS.parse(text) == MOVES.parse(text) == INVALID


@ALL
@given(text=st.one_of(st.text(max_size=300), st.text("0123456789(), \n", max_size=300), st.binary().map(str)))
def test_parse_never_raises(actions, text):
    assert INVALID <= actions.parse(text) < actions.n


@given(st.tuples(*[st.integers(0, 5)] * 4), st.sampled_from([",", ", "]), st.sampled_from(["", " ", ", ", ";"]))
def test_any_pair_is_read(cells, comma, gap):
    r1, c1, r2, c2 = cells
    assert PAIRS.parse(f"({r1}{comma}{c1}){gap}({r2}{comma}{c2})") == (r1 * 6 + c1) * 36 + r2 * 6 + c2


@ALL
def test_megabytes_are_refused_at_once(actions):
    for text in ("(1, 2) " * 2_000_000, " " * 10_000_000 + "up", "9" * 10_000_000):
        start = time.perf_counter()
        assert actions.parse(text) == INVALID
        assert time.perf_counter() - start < 0.2


@ALL
def test_guess_is_uniform_over_what_it_names(actions):
    draws = 20_000
    guesses = np.asarray(jax.jit(jax.vmap(actions.guess))(jax.random.split(jax.random.key(0), draws)))
    counts = np.bincount(guesses[guesses >= 0], minlength=actions.n)
    named = counts[counts > 0]
    assert named.max() / named.mean() < 1 + 6 / np.sqrt(named.mean())


def test_guess_of_swaps_is_two_cells_of_which_few_are_neighbours():
    """Two different cells at random are neighbours in 224 of 64 * 63 orders: 5.6 %."""
    guesses = np.asarray(jax.jit(jax.vmap(SWAPS.guess))(jax.random.split(jax.random.key(1), 20_000)))
    assert abs((guesses >= 0).mean() - 224 / (64 * 63)) < 0.01


def test_guess_of_pairs_never_names_one_cell_twice():
    guesses = np.asarray(jax.jit(jax.vmap(PAIRS.guess))(jax.random.split(jax.random.key(1), 20_000)))
    cells = PAIRS.cells[guesses]
    assert guesses.min() >= 0
    assert (cells[:, 0] != cells[:, 1]).all()


@ALL
@pytest.mark.parametrize("text", [None, 3, 1.5, b"up", ["up"], {}, object(), np.str_("no move"), float("nan")])
def test_what_is_no_text_is_unreadable(actions, text):
    assert actions.parse(text) == INVALID


@ALL
def test_actions_can_be_pickled(actions):
    again = pickle.loads(pickle.dumps(actions))
    assert [again.parse(name) for name in actions.names] == list(range(actions.n))
    key = jax.random.key(1)
    assert again.guess(key) == actions.guess(key)


@pytest.mark.parametrize("kind", [cells, cell_pairs, swaps])
@pytest.mark.parametrize(("sides", "told"), [((0, 3), "rows=0"), ((2, 1001), "columns=1001"), ((2.0, 2), "rows=2.0")])
def test_cells_that_no_text_could_name_are_refused(kind, sides, told):
    with pytest.raises(ValueError, match=f"{told}: give a whole number from 1 to 1000"):
        kind(*sides)


@pytest.mark.parametrize("made", [swaps, cell_pairs])
def test_pairs_of_more_cells_than_a_table_holds_are_refused(made):
    with pytest.raises(ValueError, match=r"rows=1000, columns=5: .* at most 4096 cells"):
        made(1000, 5)
    assert cells(1000, 5).n == 5000


@pytest.mark.parametrize("names", [(), (1, 2), ("up", "UP"), ("up", ""), ("up", "<down>")])
def test_moves_that_no_text_could_name_are_refused(names):
    with pytest.raises(ValueError, match="give moves different names"):
        moves(names)
