"""What the engine owes every game: legality, freezing, branching, rollouts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgym
from jaxgym import engine

HUGE = 2**31 - 1


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_unreadable_and_illegal_answers_change_nothing(game, walk):
    masks = np.asarray(jax.jit(jax.vmap(jax.vmap(game.legal)))(walk.state))
    board, step, illegal = np.argwhere(~masks & ~np.asarray(walk.over)[..., None])[0]
    state = jax.tree.map(lambda x: x[board, step], walk.state)
    n = game.actions.n
    bad = jnp.array([-1, -2, n, n + 1, HUGE, -HUGE - 1, illegal], jnp.int32)
    tried = jax.jit(lambda s: engine.branch(game, s, bad, jax.random.key(0)))(state)
    for i in range(len(bad)):
        same(jax.tree.map(lambda x, i=i: x[i], tried.state), state)
    assert not np.asarray(tried.legal).any()
    assert not np.asarray(tried.reward).any()
    assert not np.asarray(tried.over).any()


def test_a_legal_answer_is_the_games_own_step(game, walk):
    state, action, key = jax.tree.map(lambda x: x[0, 0], (walk.state, walk.action, walk.key))
    outcome = jax.jit(game.step)(state, action, key)
    played = jax.tree.map(lambda x: x[0, 0], walk.played)
    same(outcome.state, played.state)
    assert outcome.reward == played.reward and outcome.over == played.over and played.legal


def test_a_finished_board_is_frozen(walk, play):
    state, action, key = jax.tree.map(lambda x: x[0, 0], (walk.state, walk.action, walk.key))
    out = play(state, jnp.bool_(True), action, key)
    same(out.state, state)
    assert out.over and not out.legal and out.reward == 0


def test_a_lost_answer_never_ends_the_game(corridor):
    """Not even where the only legal move would."""
    game = dataclasses.replace(corridor, legal=lambda state: jnp.array([False, True]))
    state = game.reset(jax.random.key(0))._replace(cell=jnp.int32(3))
    for answer, over in ((-1, False), (0, False), (1, True)):
        assert engine.play(game, state, jnp.bool_(False), jnp.int32(answer), jax.random.key(1)).over == over


def test_corridor_ends_at_its_end(corridor):
    """The marks of a whole game, answer by answer: illegal, three to the right, back, to the end, and nothing after."""
    state, over = corridor.reset(jax.random.key(0)), jnp.bool_(False)
    seen = []
    for answer in (0, 1, 1, 1, 0, 1, 1, 1, 0):
        out = engine.play(corridor, state, over, jnp.int32(answer), jax.random.key(answer))
        state, over = out.state, out.over
        seen.append((int(state.cell), float(out.reward), bool(out.legal), bool(over)))
    assert seen == [
        (0, 0, False, False),
        (1, 1, True, False),
        (2, 1, True, False),
        (3, 1, True, False),
        (2, 0, True, False),
        (3, 1, True, False),
        (4, 1, True, True),
        (4, 0, False, True),
        (4, 0, False, True),
    ]


# Branching


def test_shared_luck_gives_equal_actions_equal_outcomes(game, walk):
    state, action, key = jax.tree.map(lambda x: x[0, 0], (walk.state, walk.action, walk.key))
    actions = jnp.stack([action, jnp.int32(-1), action])
    tried = jax.jit(lambda s: engine.branch(game, s, actions, key))(state)
    same(*(jax.tree.map(lambda x, i=i: x[i], tried) for i in (0, 2)))
    same(jax.tree.map(lambda x: x[0], tried), jax.tree.map(lambda x: x[0, 0], walk.played))
    assert np.asarray(tried.legal).tolist() == [True, False, True]


def test_independent_luck_differs(corridor):
    state = corridor.reset(jax.random.key(0))
    actions = jnp.ones(16, jnp.int32)
    coins = {
        luck: np.unique(engine.branch(corridor, state, actions, jax.random.key(2), luck).state.coin).size
        for luck in ("shared", "independent")
    }
    assert coins == {"shared": 1, "independent": 16}


def test_independent_luck_in_2048():
    game = jaxgym.make("2048")

    @functools.partial(jax.jit, static_argnums=0)
    def boards(luck):
        state = jax.jit(game.reset)(jax.random.key(0))
        actions = jnp.full(16, jnp.argmax(game.legal(state)), jnp.int32)
        return jax.vmap(game.tiles)(engine.branch(game, state, actions, jax.random.key(2), luck).state)

    assert len({np.asarray(board).tobytes() for board in boards("independent")}) > 4
    assert len({np.asarray(board).tobytes() for board in boards("shared")}) == 1


def test_luck_is_one_of_two_words(corridor):
    with pytest.raises(ValueError, match="independent"):
        engine.branch(corridor, corridor.reset(jax.random.key(0)), jnp.zeros(1, jnp.int32), jax.random.key(0), "own")


def test_what_is_no_board_and_no_key_is_told(corridor):
    key, player = jax.random.key(0), engine.random_legal(corridor)
    state, envs = corridor.reset(key), jaxgym.Env(corridor).reset(key)[1]
    tries = (lambda *given: engine.branch(corridor, given[0], jnp.zeros(2, jnp.int32), given[1]),
             lambda *given: engine.rollout(corridor, player, *given, 3))  # fmt: skip
    many = jax.tree.map(lambda leaf: leaf[None], state)
    for act in tries:
        for given, told in (
            ((state, 0), "key: give a PRNG key"),
            ((envs, key), "an EnvState has it in .board"),
            ((many, key), "vmap over a batch"),
        ):
            with pytest.raises(ValueError, match=rf"^[^\n]*{told}[^\n]*$"):
                act(*given)
        act(state, key)


# Rollouts


def test_rollout_records_what_happened(corridor):
    state, steps = engine.rollout(
        corridor, lambda state, key: jnp.int32(1), corridor.reset(jax.random.key(0)), jax.random.key(1), 6
    )
    assert state.cell == 4
    assert steps.action.tolist() == [1] * 6
    assert steps.reward.tolist() == [1, 1, 1, 1, 0, 0]
    assert steps.legal.tolist() == [True] * 4 + [False] * 2
    assert steps.over.tolist() == [False] * 3 + [True] * 3


def test_players(corridor):
    keys = jax.random.split(jax.random.key(3), 64)
    middle = corridor.reset(keys[0])._replace(cell=jnp.int32(2))
    start = corridor.reset(keys[0])

    def answers(player, state):
        return np.asarray(jax.vmap(lambda key: player(corridor)(state, key))(keys))

    assert set(answers(engine.random_legal, middle)) == {0, 1}
    assert set(answers(engine.random_legal, start)) == {1}
    assert set(answers(engine.random_answer, start)) == {0, 1}
    assert set(answers(engine.teacher, middle)) == {1}


@pytest.mark.parametrize("player", [engine.random_legal, engine.random_answer, engine.teacher])
def test_players_answer_the_same_under_x64(corridor, player):
    middle = corridor.reset(jax.random.key(0))._replace(cell=jnp.int32(2))
    answers = jax.vmap(lambda key: player(corridor)(middle, key))
    keys = jax.random.split(jax.random.key(3), 64)
    expected = answers(keys)
    with jax.enable_x64(True):
        wide = answers(keys)
    assert wide.dtype == jnp.int32
    same(wide, expected)


def test_select_takes_whole_states_and_keys():
    keys = jax.random.split(jax.random.key(0))
    chosen = engine.select(jnp.bool_(False), {"key": keys[0], "x": jnp.ones(3)}, {"key": keys[1], "x": jnp.zeros(3)})
    assert chosen["key"] == keys[1]
    assert not chosen["x"].any()


@pytest.mark.parametrize(
    "answers",
    [
        np.asarray([2**32, 1, 2**32 + 1, -1], np.int64),
        np.asarray([2**63, 1, 2**32 + 1, 7], np.uint64),
        np.asarray([2**64, 1, 10**30, 7], object),
        np.asarray([255, 1, 128, 7], np.uint8),
        np.asarray([-1, 1, -128, 7], np.int8),
        jnp.asarray([255, 1, 128, 7], jnp.uint8),
    ],
)
def test_branch_reads_integers_of_any_width(corridor, answers):
    """Only the second of these is a move."""
    played = engine.branch(corridor, corridor.reset(jax.random.key(0)), answers, jax.random.key(1))
    assert played.legal.tolist() == [False, True, False, False]


@pytest.mark.parametrize("answers", [np.zeros(2), np.zeros((2, 2), int), np.asarray([True]), np.asarray(["up"]), 3])
def test_branch_refuses_what_are_no_integers(corridor, answers):
    with pytest.raises(ValueError, match="integer"):
        engine.branch(corridor, corridor.reset(jax.random.key(0)), answers, jax.random.key(1))


@pytest.mark.parametrize("size", [1, 4, 5, 112, 1296])
def test_a_legal_action_is_drawn_uniformly(size):
    mask = np.random.default_rng(size).random(size) < 0.3
    mask[-1] = True
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = np.bincount(jax.jit(jax.vmap(engine.draw_legal, (None, 0)))(mask, keys), minlength=size)
    assert drawn.shape == (size,) and not drawn[~mask].any()
    expected = 20_000 / mask.sum()
    assert (np.abs(drawn[mask] - expected) < 4.5 * np.sqrt(expected)).all()
    assert engine.draw_legal(np.zeros(size, bool), keys[0]) == 0


@pytest.mark.parametrize("side", [4080, 4081, 4096])
def test_draws_and_stand_ins_among_the_most_actions_there_can_be(side):
    """Pairs of as many cells, of which all are legal, or those from one place on."""
    mask = np.ones(side**2, bool)
    drawn = jax.jit(jax.vmap(engine.draw_legal, (None, 0)))(mask, jax.random.split(jax.random.key(0), 64))
    assert len(set(drawn.tolist())) == 64 and (drawn > side**2 // 2).sum() in range(16, 49)
    mask[: side * (side // 2)] = False
    assert engine._first(jnp.asarray(mask)) == side * (side // 2)


@pytest.mark.parametrize("over", [False, True])
def test_whether_a_board_is_over_may_be_a_bool_of_python(over):
    game = jaxgym.make("2048")
    state = game.reset(jax.random.key(0))
    said, told = (jaxgym.play(game, state, each, game.legal(state).argmax(), jax.random.key(1)) for each in
                  (over, jnp.asarray(over)))  # fmt: skip
    assert said.over.dtype == said.legal.dtype == jnp.bool_ and ~said.legal == over
    jax.tree.map(np.testing.assert_array_equal, said, told)


def test_what_is_known_to_be_legal_is_what_the_game_says(game, walk):
    np.testing.assert_array_equal(walk.played.mask, jax.jit(jax.vmap(jax.vmap(game.legal)))(walk.played.state))


@pytest.mark.parametrize("size", [1, 4, 64, 65, 1296, 20736])
def test_the_first_legal_action(size):
    """What stands in for an illegal answer: as `argmax` has it."""
    at = {0, size // 2, size - 1}
    masks = np.stack([np.zeros(size, bool), np.ones(size, bool), *(np.arange(size) >= first for first in at)])
    np.testing.assert_array_equal(jax.vmap(engine._first)(jnp.asarray(masks)), masks.argmax(1))
