"""A mixture: every board is what its own game makes of it, whatever stands beside it in the batch."""

import pickle
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgym
from jaxgym import Env, engine, mix

KINDS = {
    "2048": {"size": 3},
    "shisen_sho": {"size": 4, "kinds": 4},
    "swap": {"size": 5, "kinds": 4},
}


@pytest.fixture(scope="module")
def games():
    return [jaxgym.make(name, tile=28, **options) for name, options in KINDS.items()]


@pytest.fixture(scope="module")
def sizes():
    """One game in three sizes, where it does not matter which games they are: soon compiled."""
    return [jaxgym.make("2048", size=size, tile=28) for size in (3, 4, 5)]


@pytest.fixture(scope="module")
def mixture(games):
    return mix(games)


@pytest.fixture(scope="module")
def batch(mixture):
    """Boards after some random steps: [64]."""
    keys = jax.random.split(jax.random.key(0), 64)

    def board(key):
        return engine.rollout(mixture, engine.random_legal(mixture), mixture.reset(key), key, 6)[0]

    return jax.jit(jax.vmap(board))(keys)


def row(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_all_games_are_dealt(batch):
    assert set(batch.which.tolist()) == {0, 1, 2}


def test_every_board_is_that_of_its_game(games, mixture, batch):
    """Legal answers, words, reasons, what a step does and what a teacher thinks: as the game itself has them."""
    legal = jax.jit(jax.vmap(mixture.legal))(batch)
    key = jax.random.key(5)
    chosen = jnp.argmax(legal, axis=1)
    stepped = jax.jit(jax.vmap(mixture.step, (0, 0, None)))(batch, chosen, key)
    worth = jax.jit(jax.vmap(mixture.values, (0, None)))(batch, key)
    shown = jax.jit(jax.vmap(mixture.tiles))(batch)
    steps, values_of, legal_of = ([jax.jit(getattr(game, of)) for game in games] for of in ("step", "values", "legal"))
    for i in range(12):
        g = int(batch.which[i])
        game, board = games[g], row(batch.boards[g], i)
        names = {name: a for a, name in enumerate(game.actions.names)}
        mine = np.asarray(legal_of[g](board))
        for a, name in enumerate(mixture.actions.names):
            own = game.actions.parse(name)
            assert bool(legal[i, a]) == (own >= 0 and bool(mine[own])), (game.name, name)
        if not mine.any():
            continue  # the board is over
        action = names[game.actions.format(game.actions.parse(mixture.actions.format(int(chosen[i]))))]
        out = steps[g](board, jnp.int32(action), key)
        same(row(stepped.state.boards[g], i), out.state)
        assert (stepped.reward[i], stepped.over[i]) == (out.reward, out.over)
        assert jaxgym.describe(mixture.sheet, shown[i]) == jaxgym.describe(game.sheet, game.tiles(board))
        said = mixture.explain(row(batch, i), int(chosen[i]))
        assert said.startswith(mixture.actions.format(int(chosen[i])))
        assert said.partition(":")[2] == game.explain(board, action).partition(":")[2]
        values = np.asarray(values_of[g](board, key))
        assert np.max(worth[i]) == values.max() and worth[i, int(chosen[i])] == values[action]


def test_pictures_are_those_of_the_games(games, mixture, batch):
    for i in range(12):
        board = row(batch, i)
        game = games[int(board.which)]
        picture = np.asarray(jaxgym.render(mixture.sheet, mixture.tiles(board)))
        alone = np.asarray(jaxgym.render(game.sheet, game.tiles(board.boards[int(board.which)])))
        # The same board on the same page; where it stands may differ by one cell, for grids are centred in the largest.
        inside = alone[(alone != alone[0, 0]).any((1, 2))][:, (alone != alone[0, 0]).any((0, 2))]
        shown = picture[(picture != picture[0, 0]).any((1, 2))][:, (picture != picture[0, 0]).any((0, 2))]
        np.testing.assert_array_equal(inside, shown)


def test_a_batch_is_row_by_row(mixture, batch):
    keys = jax.random.split(jax.random.key(1), 64)
    actions = jnp.argmax(batch.mask, axis=1)
    stepped = jax.jit(jax.vmap(mixture.step))(batch, actions, keys)
    one = jax.jit(mixture.step)
    for i in range(0, 64, 5):
        same(row(stepped, i), one(row(batch, i), actions[i], keys[i]))


def test_so_many_boards_of_each(mixture):
    which = jnp.repeat(jnp.arange(3), 5)
    boards = jax.jit(jax.vmap(mixture.deal))(jax.random.split(jax.random.key(2), 15), which)
    np.testing.assert_array_equal(boards.which, which)
    assert boards.mask.any(axis=1).all()


def test_boards_to_learn_to_see_from_are_those_of_the_games_that_have_such(mixture):
    boards = jax.jit(jax.vmap(mixture.practice))(jax.random.split(jax.random.key(2), 64))
    same(mixture.legal(row(boards, 0)), mixture.legal(mixture.practice(jax.random.split(jax.random.key(2), 64)[0])))
    assert set(boards.which.tolist()) == {0, 1, 2}
    kinds = [len(np.unique(board)) for board in np.asarray(boards.boards[2].board)[np.asarray(boards.which) == 2]]
    assert {*kinds} == {3}
    assert mix([jaxgym.make("2048", tile=28)]).practice is None


def test_another_guise_is_that_of_the_boards_own_game(games, mixture, batch):
    """The legal answers are those of that guise, as many as before of the game's own."""
    other = jax.jit(jax.vmap(mixture.augment))(batch, jax.random.split(jax.random.key(2), 64))
    same((other.which, other.odds), (batch.which, batch.odds))
    assert {*batch.which[(other.mask != batch.mask).any(axis=1)].tolist()} == {0, 1, 2}
    legal_of = [jax.jit(game.legal) for game in games]
    for i in range(0, 64, 4):
        game, which = games[batch.which[i]], int(batch.which[i])
        legal = [np.asarray(legal_of[which](row(boards.boards[which], i))) for boards in (batch, other)]
        assert legal[0].sum() == legal[1].sum()
        said = {game.actions.parse(mixture.actions.format(a)) for a in np.flatnonzero(other.mask[i])}
        assert said == {*np.flatnonzero(legal[1]).tolist()}
    walkers = [replace(jaxgym.make("2048", tile=28, size=n), augment=None) for n in (3, 4)]
    assert mix(walkers).augment is None
    half = mix([jaxgym.make("2048", tile=28, size=3), walkers[1]])
    boards = jax.jit(jax.vmap(half.reset))(jax.random.split(jax.random.key(3), 64))
    other = jax.jit(jax.vmap(half.augment))(boards, jax.random.split(jax.random.key(4), 64))
    before, after = (np.asarray(jax.jit(jax.vmap(half.tiles))(each)) for each in (boards, other))
    turned = (before != after).any(axis=(1, 2))
    assert turned[np.asarray(boards.which) == 0].any() and not turned[np.asarray(boards.which) == 1].any()


def test_what_comes_next_is_steered_board_by_board(sizes):
    """A curriculum: odds are data, so that nothing is compiled anew when they change."""
    env = Env(mix(sizes), max_steps=1, autoreset="same_step", observe="tiles")
    step = jax.jit(jax.vmap(env.step))
    keys = jax.random.split(jax.random.key(3), 30)
    state = jax.jit(jax.vmap(env.reset))(keys)[1]
    for hope in (0, 2, 1):
        odds = jnp.zeros((30, 3), jnp.float32).at[:15, hope].set(1.0).at[15:, 0].set(2.0)
        state = state._replace(board=state.board._replace(odds=odds))
        _, state, *_, info = step(keys, state, jnp.zeros(30, jnp.int32))
        assert state.board.which.tolist() == [hope] * 15 + [0] * 15
        assert (info["final_state"].steps == 1).all() and (state.steps == 0).all()
        np.testing.assert_array_equal(state.board.odds, odds)
    assert step._cache_size() == 1


def test_an_explanation_begins_with_the_answer_as_it_was_given():
    """Two cells that one game has in one order, another has in both."""
    for order in (1, -1):
        both = mix([jaxgym.make("shisen_sho", size=4, kinds=4, tile=28), jaxgym.make("swap", size=4, tile=28)][::order])
        board = both.deal(jax.random.key(0), 1 if order == 1 else 0)
        good = [int(a) for a in np.flatnonzero(board.mask)]
        for action in good[:6] + good[-6:]:
            assert both.explain(board, action).startswith(both.actions.format(action) + ":")


def test_a_game_that_deals_after_what_has_ended_does_so_in_a_mixture(sizes):
    """And a mixture is such a game: within another it keeps its odds while its boards follow each other."""
    inner = mix(sizes[:2], odds=(1, 0))
    outer = mix([inner, sizes[2]])
    keys = jax.random.split(jax.random.key(0), 16)

    def after(which, odds):
        board = outer.deal(keys[0], which)
        inside = board.boards[0]._replace(odds=jnp.asarray([0, 1], jnp.float32))
        board = board._replace(odds=jnp.asarray(odds, jnp.float32), boards=(inside, *board.boards[1:]))
        return jax.jit(jax.vmap(outer.renew, (None, 0)))(board, keys)

    assert after(0, (1, 0)).boards[0].which.tolist() == [1] * 16
    assert after(1, (1, 0)).boards[0].which.tolist() == [0] * 16
    assert after(0, (0, 1)).which.tolist() == [1] * 16


def test_no_game_is_asked_what_comes_after_a_board_that_never_was(games):
    """Where the board that ended is another game's, its own is blank."""
    seen = []

    def renew(state, key):
        jax.debug.callback(lambda board: seen.append(int(board.max())), state.board)
        return state

    ended = mix([games[0], replace(games[0], renew=renew)], odds=(0, 1))
    for which in (0, 1, 0):
        ended.renew(ended.deal(jax.random.key(1), which), jax.random.key(2))
    jax.effects_barrier()
    assert seen and min(seen) > 0


def test_a_game_that_there_is_not_is_the_nearest(games, mixture):
    for asked, dealt in ((-5, 0), (len(games), len(games) - 1)):
        same(mixture.deal(jax.random.key(1), asked), mixture.deal(jax.random.key(1), dealt))


def test_odds(sizes):
    rare = mix(sizes, odds=(0, 1, 3))
    which = jax.jit(jax.vmap(lambda key: rare.reset(key).which))(jax.random.split(jax.random.key(0), 400))
    counts = np.bincount(which, minlength=3)
    assert counts[0] == 0 and 60 < counts[1] < 140
    nothing = rare.reset(jax.random.key(0))._replace(odds=jnp.zeros(3, jnp.float32))
    again = jax.jit(jax.vmap(rare.renew, (None, 0)))(nothing, jax.random.split(jax.random.key(1), 100))
    assert set(again.which.tolist()) == {0, 1, 2}  # no odds at all are like odds


def test_replies_are_read_as_the_board_has_them(games, mixture):
    """An answer that another of the games would understand is no legal move."""
    board = mixture.deal(jax.random.key(0), 0)
    assert mixture.actions.parse(" UP ") >= 0 and mixture.actions.parse("nonsense") == jaxgym.INVALID
    far = mixture.actions.parse("(4, 4) (4, 3)")  # of swap only
    for text, action in (("(0, 0) (0, 1)", mixture.actions.parse("(0, 0) (0, 1)")), ("(4, 4) (4, 3)", far)):
        assert action >= 0, text
        assert not engine.play(mixture, board, jnp.bool_(False), action, jax.random.key(1)).legal
    assert mixture.explain(board, far) == "(4, 3) (4, 4): 2048 has no such answer."
    guesses = jax.vmap(mixture.actions.guess)(jax.random.split(jax.random.key(0), 200))
    assert {mixture.actions.names[a] for a in guesses.tolist() if a >= 0} > {"up", "left"}
    for game in games:
        assert game.rules in mixture.rules


def test_answers_name_cells_where_all_games_have_them_in_one_place(mixture):
    """What an answer names in the grid is what it takes from the picture, whichever game is shown."""
    pairs, swap = jaxgym.make("shisen_sho", size=4, kinds=4, tile=28), jaxgym.make("swap", size=5, kinds=4, tile=28)
    for games in ((pairs, swap), (swap, pairs)):  # 4x4 and 5x5: both begin in the corner of the grid
        both = mix(games)
        cells = both.actions.cells
        assert cells.shape == (both.actions.n, 2) and cells.dtype == np.int32
        for name, (a, b) in zip(both.actions.names, cells.tolist(), strict=True):
            assert name == f"({a // 5}, {a % 5}) ({b // 5}, {b % 5})"
        board = both.deal(jax.random.key(0), games.index(pairs))
        action = int(jnp.argmax(both.legal(board)))
        before, after = (np.ravel(both.tiles(b)) for b in (board, both.step(board, action, jax.random.key(1)).state))
        assert sorted(np.flatnonzero(before != after)) == sorted(cells[action])
    moves = [jaxgym.make("2048", size=size, tile=28) for size in (3, 4)]
    shifted = [pairs, jaxgym.make("shisen_sho", size=6, kinds=9, tile=28)]  # 4x4 stands a cell further in
    for none in (mixture, mix(moves), mix(shifted)):
        assert none.actions.cells.shape == (none.actions.n, 0)


def test_one_game_at_several_difficulties(sizes):
    """Padded to the largest, boards of three sizes are in one batch."""
    ladder = mix(sizes)
    boards = jax.jit(jax.vmap(ladder.deal))(jax.random.split(jax.random.key(0), 6), jnp.arange(6) % 3)
    tiles = jax.jit(jax.vmap(ladder.tiles))(boards)
    words = [jaxgym.describe(ladder.sheet, each).splitlines() for each in tiles]
    assert tiles.shape == (6, 5, 5) and [len(rows) for rows in words] == [3, 4, 5] * 2
    assert ladder.actions.names == ("up", "right", "down", "left") and ladder.name == "2048"


def test_looks_of_a_mixture():
    looks = jaxgym.random_looks(2, tile=28, theme="light")
    games = [jaxgym.make(name, looks=looks, **options) for name, options in KINDS.items()]
    both = mix(games)
    board = both.deal(jax.random.key(0), 2)
    pictures = [np.asarray(jaxgym.render(both.sheet, both.tiles(board), look)) for look in (0, 1)]
    own = [np.asarray(jaxgym.render(games[2].sheet, games[2].tiles(board.boards[2]), look)) for look in (0, 1)]
    np.testing.assert_array_equal(pictures, own)


@pytest.mark.slow
def test_a_mixture_over_devices(mixture, mesh):
    spec = jax.sharding.PartitionSpec("data")
    keys = jax.random.split(jax.random.key(4), 64)
    env = Env(mixture, max_steps=2, autoreset="same_step", observe="tiles")

    def play(keys):
        _, state = jax.vmap(env.reset)(keys)
        for _ in range(3):
            _, state, *_ = jax.vmap(env.step)(keys, state, jnp.argmax(state.mask, axis=1))
        return state

    spread = jax.jit(jax.shard_map(play, mesh=mesh, in_specs=spec, out_specs=spec))(keys)
    same(jax.device_get(spread), jax.device_get(jax.jit(play)(keys)))


def test_it_can_be_pickled(mixture):
    again = pickle.loads(pickle.dumps(mixture))
    same(again.reset(jax.random.key(0)), mixture.reset(jax.random.key(0)))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (lambda games: mix([]), "give a list of games"),
        (lambda games: mix(["2048"]), "give a list of games"),
        (lambda games: mix(None), "give a list of games"),
        (lambda games: mix(games, odds="abc"), "one number a game"),
        (lambda games: mix(games, odds=(1, 2)), "one number a game"),
        (lambda games: mix(games, odds=(1, -2, 3)), "one number a game"),
        (lambda games: mix(games, odds=(0, 0, 0)), "one number a game"),
        (lambda games: mix(games, odds=(3e38, 3e38, 0)), "none too large"),
        (lambda games: mix(games, odds=(float("nan"), 1, 0)), "one number a game"),
        (lambda games: mix([*games, jaxgym.make("swap", tile=20)]), "differ in tile"),
        (lambda games: mix([*games, jaxgym.make("swap", tile=28, picture=448)]), "differ in picture"),
        (lambda games: mix([*games, jaxgym.make("swap", looks=jaxgym.random_looks(2, tile=28))]), "differ in looks"),
    ],
)
def test_what_cannot_be_mixed(games, given, told):
    with pytest.raises(ValueError, match=told) as caught:
        given(games)
    assert "\n" not in str(caught.value)
