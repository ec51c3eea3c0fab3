"""Laws that hold on every board, tried on boards, luck and moves that hypothesis looks for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgym
from jaxgym import engine
from jaxgym.games.shisen_sho import State as Pairs
from jaxgym.games.twenty_forty_eight import State as Tiles

# What is compiled is compiled in the first example, which takes as long as it takes.
tried = settings(deadline=None, max_examples=40)
seeds, moves = st.integers(0, 2**32 - 1), st.integers(0, 2**16)


@pytest.fixture(scope="module")
def play():
    """One answer on one board: (game, state, action, seed) -> Played. Compiled once a game."""

    def once(game, state, action, seed):
        return engine.play(game, state, jnp.bool_(False), action, jax.random.key(seed))

    return jax.jit(once, static_argnums=0)


def chosen(mask, number):
    """One of the legal actions; of a board that has some."""
    return np.flatnonzero(mask)[number % np.sum(mask)].astype(np.int32)


@pytest.fixture(scope="module")
def merging():
    return jaxgym.make("2048")


cells_of_2048 = st.lists(st.integers(0, 3) | st.integers(0, 17), min_size=16, max_size=16)


@tried
@given(cells_of_2048, st.integers(0, 3), seeds)
def test_the_mass_of_tiles_is_kept_but_for_the_new_one(merging, play, cells, action, seed):
    """A move of 2048 merges and slides, and neither makes nor loses: what is more afterwards is one 2 or one 4."""
    before = np.asarray(cells, np.int32).reshape(4, 4)
    out = play(merging, Tiles(before), np.int32(action), np.uint32(seed))
    after = np.asarray(out.state.board)
    if not out.legal:
        np.testing.assert_array_equal(after, before)
        assert out.reward == 0
        return
    old, new = (sum(2**k for k in board.ravel().tolist() if k) for board in (before, after))
    assert new - old in (2, 4)
    assert (after > 0).sum() <= (before > 0).sum() + 1


@pytest.fixture(scope="module", params=["shisen_sho", "shisen_sho_photo"])
def pairing(request):
    return jaxgym.make(request.param)


@tried
@given(seeds, st.sets(st.integers(0, 35), max_size=30), moves)
def test_a_pair_leaves_exactly_two_cells(pairing, play, seed, gone, number):
    """Of a deal with any of its tiles taken away: two cells of one kind are empty afterwards, the rest is as it was."""
    deal = np.array(jax.jit(pairing.reset)(jax.random.key(seed)).board)
    deal.flat[list(gone)] = 0
    first = play(pairing, Pairs(deal), np.int32(-1), np.uint32(seed))
    np.testing.assert_array_equal(first.state.board, deal)
    if not first.mask.any():
        return
    action = chosen(first.mask, number)
    out = play(pairing, Pairs(deal), action, np.uint32(seed))
    left = np.flatnonzero(np.asarray(out.state.board) != deal)
    assert out.legal and left.tolist() == sorted(pairing.actions.cells[action])
    assert (np.asarray(out.state.board).flat[left] == 0).all()
    first, second = (pairing.sheet.names[deal.flat[cell]] for cell in left)
    assert first == second != "empty"


@pytest.fixture(scope="module")
def swapping():
    return jaxgym.make("swap", size=5, kinds=4)


@tried
@given(seeds, st.lists(moves, min_size=1, max_size=5))
def test_a_swap_board_never_rests_with_a_run(swapping, play, seed, numbers):
    """Nor with an empty cell, nor without a swap that makes a run; the deal and after every move."""
    state = jax.jit(swapping.reset)(jax.random.key(seed))
    mask = np.asarray(jax.jit(swapping.legal)(state))
    for i, number in enumerate([*numbers, 0]):
        board = np.asarray(state.board)
        for lines in (board, board.T):
            windows = np.lib.stride_tricks.sliding_window_view(lines, 3, axis=1)
            assert not (windows == windows[..., :1]).all(-1).any()
        assert board.min() >= 1 and mask.any()
        out = play(swapping, state, chosen(mask, number), np.uint32(seed + i & 0xFFFFFFFF))
        assert out.legal and out.reward >= 6
        state, mask = out.state, np.asarray(out.mask)


@pytest.fixture(scope="module", params=jaxgym.names())
def drawn(request):
    """A game in several looks, and its pictures: (tiles, look) -> uint8 [H, W, 3]."""
    game = jaxgym.make(request.param, looks=jaxgym.random_looks(3, picture=112, patch=4))
    return game, jax.jit(lambda tiles, look: jaxgym.render(game.sheet, tiles, look))


@tried
@given(seeds, st.dictionaries(st.integers(0, 15), st.integers(0, 2**16), max_size=2), st.integers(0, 2))
def test_equal_pictures_mean_equal_words(drawn, seed, changed, look):
    """Boards that are said otherwise look otherwise, in any look, even where they differ in one cell only."""
    game, render = drawn
    names, shape = game.sheet.names, jax.eval_shape(lambda key: game.tiles(game.reset(key)), jax.random.key(0)).shape
    one = np.random.default_rng(seed).integers(0, len(names), shape, np.int32)
    other = one.copy()
    for cell, sprite in changed.items():
        other.flat[cell] = sprite % len(names)
    words = [jaxgym.describe(game.sheet, tiles) for tiles in (one, other)]
    pictures = [np.asarray(render(tiles, np.int32(look))) for tiles in (one, other)]
    assert words[0] == words[1] or (pictures[0] != pictures[1]).any()
    assert (one != other).any() or (pictures[0] == pictures[1]).all()
