"""The protocol, tried on every registered game. A new game passes these before it has a test of its own."""

import copy
import dataclasses
import functools
import json
import operator
import os
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgym
from jaxgym import engine
from tests.walks import digest


def same(a, b):
    """Two pytrees of one structure, equal in every dtype and value."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def at(tree, *index):
    return jax.tree.map(lambda x: x[index], tree)


def flat(tree):
    """[boards, steps, ...] -> [boards * steps, ...]"""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def in_play(walk):
    """The walk's states before a move of a board that is not over, [N, ...]."""
    rows = np.flatnonzero(~np.asarray(walk.over).ravel())
    return at(flat(walk.state), rows)


# The record


def test_record_is_complete_and_static(game):
    assert game.name in jaxgym.names()
    assert game.rules.strip() and "\t" not in game.rules
    assert jax.jit(lambda g, key: g.legal(g.reset(key)), static_argnums=0)(game, jax.random.key(0)).any()
    with pytest.raises(dataclasses.FrozenInstanceError):
        game.name = "other"


def test_a_game_may_be_made_of_whatever_can_be_called(game):
    """Of what Python's own functions make, which `jax.jit` cannot know again; and it can be pickled all the same."""
    state = game.reset(jax.random.key(0))
    mine = dataclasses.replace(game, tiles=operator.attrgetter("board"), reset=functools.partial(game.reset))
    again = pickle.loads(pickle.dumps(dataclasses.replace(game, tiles=operator.attrgetter("board"))))
    for each in (mine, again, copy.deepcopy(mine)):
        np.testing.assert_array_equal(each.tiles(state), state.board)
        same(each.reset(jax.random.key(0)), state)


def test_it_is_shown_in_one_short_line(game):
    for text in (repr(game), repr(jaxgym.Env(game))):
        assert repr(game.name) in text and str(game.actions.n) in text and len(text) < 200 and "\n" not in text


def test_prompt_tells_rules_and_format(game):
    text = jaxgym.prompt(game)
    assert game.rules in text and game.actions.hint in text
    for block in ("perception", "think", "answer"):
        assert text.count(f"<{block}>") == text.count(f"</{block}>") == 1


# Reset and step


def test_reset_is_a_function_of_the_key(game):
    key, other = jax.random.key(3), jax.random.key(4)
    jitted = jax.jit(game.reset)
    same(game.reset(key), jitted(key))
    same(jitted(key), jitted(key))
    boards = [np.asarray(game.tiles(jitted(k))) for k in (key, other)]
    assert (boards[0] != boards[1]).any()


def test_boards_to_learn_to_see_from_are_boards_of_the_game(game):
    if game.practice is None:
        pytest.skip("this game learns from boards of play")
    key = jax.random.key(3)
    board = jax.jit(game.practice)(key)
    same(board, game.practice(key))
    jax.tree.map(
        lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype) or pytest.fail(f"{a} {b}"), board, game.reset(key)
    )
    assert game.legal(board).any()
    assert (game.tiles(board) != game.tiles(game.practice(jax.random.key(4)))).any()


def test_another_guise_is_the_same_problem(game, walk):
    """As many legal actions, and as many tiles of a kind, whichever kind that is."""
    if game.augment is None:
        pytest.skip("boards of this game have no other guise")
    state = jax.tree.map(lambda leaf: leaf[:, ::8].reshape(-1, *leaf.shape[2:]), walk.state)
    keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(state)[0]))
    other = jax.jit(jax.vmap(game.augment))(state, keys)
    same(at(other, 3), game.augment(at(state, 3), keys[3]))
    jax.tree.map(
        lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype) or pytest.fail(f"{a} {b}"), at(other, 0), at(state, 0)
    )
    legal, tiles = jax.jit(jax.vmap(game.legal)), jax.jit(jax.vmap(game.tiles))
    np.testing.assert_array_equal(legal(other).sum(axis=1), legal(state).sum(axis=1))
    names = np.asarray(game.sheet.names)
    for before, after in zip(*(np.asarray(tiles(each)) for each in (state, other)), strict=True):
        counts = [sorted(np.unique(names[board], return_counts=True)[1].tolist()) for board in (before, after)]
        assert counts[0] == counts[1]
    assert (np.asarray(tiles(other)) != np.asarray(tiles(state))).any(axis=(1, 2)).mean() > 0.5


@pytest.mark.parametrize("autoreset", [None, "same_step"])
def test_what_is_called_alone_is_compiled_once(game, autoreset, caplog):
    """In a notebook nobody writes `jax.jit`, and an environment may be stepped a million times."""
    env = jaxgym.Env(game, autoreset=autoreset)

    def once(seed):
        key = jax.random.key(seed)
        _, state = env.reset(key)
        board = state.board
        action = game.legal(board).argmax()
        env.step(key, state, action), env.step(key, state, seed), env.step(key, state, 10**30)
        game.step(board, action, key), game.values(board, key), game.tiles(board), game.reset(key)
        jaxgym.branch(game, board, jnp.arange(4), key)

    with jax.log_compiles():
        once(1)
        assert "Compiling" in caplog.text  # what is looked for would be there
        caplog.clear()
        once(2)
    assert "Compiling" not in caplog.text


@pytest.mark.slow
def test_programs_as_users_compile_them_play_the_same(game):
    """Here they are compiled fast and run slowly; there XLA does to them all it can."""
    if jax.default_backend() != "cpu":
        pytest.skip("the programs of these tests are those of users there")
    code = f"import jaxgym, json; from tests.walks import digest; print(json.dumps(digest(jaxgym.make({game.name!r}))))"
    usual = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")}
    said = subprocess.run([sys.executable, "-c", code], env=usual, capture_output=True, text=True, check=True)
    (theirs, worth), (ours, values) = json.loads(said.stdout), digest(game)
    assert theirs == ours
    np.testing.assert_allclose(worth, values, rtol=1e-6, atol=1e-5)  # differences of numbers of some hundreds


def test_step_is_a_function_of_its_arguments(walk, play):
    """vmap and scan change nothing: row i of the batched walk is the step of that board alone."""
    for board, step in ((0, 0), (3, 2), (15, 7), (8, 39)):
        args = at((walk.state, walk.over, walk.action, walk.key), board, step)
        same(play(*args), at(walk.played, board, step))


def test_walks_of_different_boards_differ(game, walk):
    boards = np.asarray(jax.jit(jax.vmap(game.tiles))(at(walk.state, slice(None), 5)))
    assert len({board.tobytes() for board in boards}) == len(boards)


def test_step_keeps_the_shape_of_the_state(game):
    key = jax.random.key(0)
    state = jax.eval_shape(game.reset, key)
    outcome = jax.eval_shape(game.step, state, jax.ShapeDtypeStruct((), jnp.int32), key)
    assert jax.tree.structure(outcome.state) == jax.tree.structure(state)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(outcome.state), strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
    assert (outcome.reward.shape, outcome.reward.dtype) == ((), jnp.float32)
    assert (outcome.over.shape, outcome.over.dtype) == ((), jnp.bool_)


def test_state_is_small_strict_and_holds_no_key(game):
    state = jax.eval_shape(game.reset, jax.random.key(0))
    assert hasattr(state, "_fields"), "a NamedTuple"
    for leaf in jax.tree.leaves(state):
        assert not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        assert leaf.dtype in (jnp.int32, jnp.float32, jnp.bool_, jnp.uint32, jnp.int8, jnp.uint8)
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) < 16_384


def test_rewards_are_finite_and_stop_with_the_game(game, walk):
    assert np.isfinite(walk.played.reward).all()
    over = np.asarray(walk.over)
    assert not np.asarray(walk.played.reward)[over].any()
    assert not np.asarray(walk.played.legal)[over].any()
    assert np.asarray(walk.played.legal)[~over].all(), "the walk answers legally while the game lasts"


def test_x64_changes_nothing(game, walk):
    args = at((walk.state, walk.over, walk.action, walk.key), 1, 1)
    expected = at(walk.played, 1, 1)

    @jax.jit
    def look(state, key):
        tiles = game.tiles(state)
        return game.legal(state), tiles, jaxgym.render(game.sheet, tiles), game.actions.guess(key)

    seen = look(args[0], args[3])
    with jax.enable_x64(True):
        same(jax.jit(lambda *args: engine.play(game, *args))(*args), expected)
        same(look(args[0], args[3]), seen)
        fresh = jax.eval_shape(game.reset, args[3])
        worth = jax.eval_shape(game.values, args[0], args[3])
    assert fresh == jax.eval_shape(game.reset, args[3])
    assert worth.dtype == jnp.float32


# Legality and worth


def test_legal_is_a_mask_over_the_actions(game, walk):
    states = in_play(walk)
    masks = jax.jit(jax.vmap(game.legal))(states)
    assert masks.dtype == jnp.bool_
    assert masks.shape[1:] == (game.actions.n,)
    assert np.asarray(masks).any(1).all(), "a board in play has a legal action"
    assert not np.asarray(masks).all(1).all(), "and something that is illegal"


def test_values_are_finite_exactly_where_legal(game, walk):
    states = at(in_play(walk), slice(0, 256, 8))
    count = jax.tree.leaves(states)[0].shape[0]
    values = jax.jit(jax.vmap(game.values))(states, jax.random.split(jax.random.key(1), count))
    masks = np.asarray(jax.jit(jax.vmap(game.legal))(states))
    assert values.dtype == jnp.float32 and values.shape == masks.shape
    np.testing.assert_array_equal(np.isfinite(values), masks)
    assert (np.asarray(values)[~masks] == -np.inf).all()
    assert masks[np.arange(count), np.argmax(values, 1)].all()


def test_explain_begins_with_the_action(game, walk):
    states = in_play(walk)
    for i in (0, 11, 23):
        state = at(states, i)
        for action in np.flatnonzero(jax.jit(game.legal)(state))[:3].tolist():
            reason = game.explain(state, action)
            text = game.actions.format(action)
            assert reason.startswith(text)
            assert len(text) < len(reason) < 400, "a sentence or two"
            assert not any(mark in reason for mark in "<>\n"), "it stands inside <think>"


# What it shows


def test_tiles_are_sprites_of_the_sheet(game, walk):
    tiles = np.asarray(jax.jit(jax.vmap(game.tiles))(flat(walk.played.state)))
    assert tiles.dtype == np.int32 and tiles.ndim == 3
    assert tiles.min() >= 0 and tiles.max() < len(game.sheet.names)


def test_picture_fills_the_canvas(game):
    tiles = game.tiles(jax.jit(game.reset)(jax.random.key(0)))
    picture = jax.jit(jaxgym.render)(game.sheet, tiles)
    assert picture.dtype == jnp.uint8
    assert picture.shape == (*game.sheet.canvas(*tiles.shape), 3) == (224, 224, 3)


def test_words_have_the_shape_of_the_board(game, walk):
    tiles = np.asarray(game.tiles(at(walk.state, 2, 5)))
    lines = jaxgym.describe(game.sheet, tiles).split("\n")
    cells = [line.split(" | ") for line in lines]
    assert np.shape(cells) == tiles.shape
    assert cells == [[game.sheet.names[i] for i in row] for row in tiles]


def test_what_looks_the_same_is_called_the_same(game):
    called: dict[bytes, str] = {}
    for name, sprite in zip(game.sheet.names, np.asarray(game.sheet.pixels), strict=True):
        assert called.setdefault(sprite.tobytes(), name) == name
    assert len(set(called.values())) == len(set(game.sheet.names))


def test_sprite_names_can_be_read_back(game):
    for name in game.sheet.names:
        assert name == name.strip() != ""
        assert not any(mark in name for mark in "|<>\n")


def test_theme_changes_the_picture_and_nothing_else(game):
    other = jaxgym.make(game.name, theme="dark")
    key = jax.random.key(9)
    states = jax.jit(game.reset)(key), jax.jit(other.reset)(key)
    same(*states)
    tiles = game.tiles(states[0])
    same(tiles, other.tiles(states[1]))
    assert game.sheet.names == other.sheet.names
    assert (np.asarray(jaxgym.render(game.sheet, tiles)) != np.asarray(jaxgym.render(other.sheet, tiles))).any()


# Answers


def test_every_action_has_one_text_that_reads_back(game):
    assert len(set(game.actions.names)) == game.actions.n
    for action in range(game.actions.n):
        text = game.actions.format(action)
        assert game.actions.parse(text) == action
    assert game.actions.parse(f" \n {text.upper()}\t") == action


def test_cells_may_be_named_in_either_order(game, walk):
    cells = game.actions.cells
    assert cells.shape[0] == game.actions.n and cells.dtype == np.int32
    if cells.shape[1] != 2:
        assert cells.shape[1] == 0
        return
    mask = np.asarray(jax.jit(game.legal)(at(walk.state, 0, 3)))
    for action, (a, b) in enumerate(cells):
        first, second = game.actions.format(action).replace(") (", ")|(").split("|")
        turned = game.actions.parse(f"{second} {first}")
        assert sorted(cells[turned]) == sorted((a, b))
        assert mask[turned] == mask[action]


def test_guess_draws_answers(game):
    guesses = np.asarray(jax.jit(jax.vmap(game.actions.guess))(jax.random.split(jax.random.key(0), 4096)))
    assert guesses.dtype == np.int32
    assert guesses.min() >= -1 and guesses.max() < game.actions.n
    named = np.unique(guesses[guesses >= 0])
    assert len(named) > min(game.actions.n, 256) // 2
