"""Env: the marks of an episode under each kind of auto-reset, exactly on the corridor and by law on every game."""

import pickle
import time

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgym
from jaxgym import Env

LEFT, RIGHT = 0, 1


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def marks(env, answers, seed=0):
    """Play answers one by one: (cell, reward, terminated, truncated, legal, steps of the returned state) a step."""
    _, state = env.reset(jax.random.key(seed))
    step = jax.jit(env.step)
    seen = []
    for key, answer in zip(keys(len(answers), seed + 1), answers, strict=True):
        _, state, reward, terminated, truncated, info = step(key, state, answer)
        row = (state.board.cell, reward, terminated, truncated, info["legal"], state.steps)
        seen.append(tuple(x.item() for x in row))
    return seen


# Arguments


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("game", "2048"),
        ("max_steps", 0),
        ("max_steps", -3),
        ("max_steps", 2.5),
        ("max_steps", True),
        ("autoreset", "sometimes"),
        ("autoreset", True),
        ("observe", "pixels"),
        ("observe", np.zeros(2)),
    ],
)
def test_bad_arguments(corridor, argument, value):
    with pytest.raises(ValueError, match=argument):
        Env(**{"game": corridor, argument: value})


@pytest.mark.parametrize("autoreset", [None, "same_step", "next_step"])
def test_a_state_of_another_environment_is_told(corridor, autoreset):
    """Of a smaller board, of another game, of a batch; also while a step is compiled."""
    key = jax.random.key(0)
    env, small, other = (
        Env(game, autoreset=autoreset) for game in (jaxgym.make("2048"), jaxgym.make("2048", size=3), corridor)
    )
    for step in (env.step, jax.jit(env.step)):
        with pytest.raises(ValueError, match=r"state.board is \[3, 3\]: a board of this 2048 has \[4, 4\]"):
            step(key, small.reset(key)[1], 0)
        with pytest.raises(ValueError, match=r"state is a .*: a board of 2048 is a .*twenty_forty_eight"):
            step(key, other.reset(key)[1], 0)
    held = jax.tree.map(np.asarray, env.reset(key)[1])
    np.testing.assert_array_equal(env.step(key, held, 0)[0], env.step(key, env.reset(key)[1], 0)[0])


def test_action_is_one_integer(corridor):
    env = Env(corridor)
    _, state = env.reset(jax.random.key(0))
    for action in (0.0, jnp.zeros(2, jnp.int32), True):
        with pytest.raises(ValueError, match="one integer"):
            env.step(jax.random.key(0), state, action)


# One episode


def test_illegal_answers_cost_a_step(corridor):
    answers = [LEFT, -1, 2, 2**31 - 1, -(2**31), RIGHT]
    assert marks(Env(corridor), answers) == [(0, 0.0, False, False, False, t) for t in range(1, 6)] + [
        (1, 1.0, False, False, True, 6)
    ]


def test_integers_of_any_width(corridor):
    env = Env(corridor)
    _, state = env.reset(jax.random.key(0))
    assert env.step(jax.random.key(0), state, np.int8(RIGHT))[-1]["legal"]
    for lost in (np.uint8(255), np.int16(-1), np.uint32(2**32 - 1)):
        assert not env.step(jax.random.key(0), state, lost)[-1]["legal"]
    with jax.enable_x64(True):
        for wide in (2**32 + RIGHT, -(2**32) + RIGHT, 2**63 - 1):
            assert not env.step(jax.random.key(0), state, np.int64(wide))[-1]["legal"], "no wrapping into a move"
        assert env.step(jax.random.key(0), state, np.int64(RIGHT))[-1]["legal"]


def test_a_finished_board_is_frozen(corridor):
    seen = marks(Env(corridor, max_steps=9), [RIGHT] * 6)
    assert seen[3] == (4, 1.0, True, False, True, 4)
    assert seen[4:] == [(4, 0.0, True, False, False, 4)] * 2


def test_the_time_limit_truncates_and_freezes(corridor):
    seen = marks(Env(corridor, max_steps=2), [RIGHT] * 4)
    assert seen == [
        (1, 1.0, False, False, True, 1),
        (2, 1.0, False, True, True, 2),
        (2, 0.0, False, True, False, 2),
        (2, 0.0, False, True, False, 2),
    ]


def test_a_game_won_on_the_last_step_is_terminated(corridor):
    assert marks(Env(corridor, max_steps=4), [RIGHT] * 4)[-1] == (4, 1.0, True, False, True, 4)


def test_score_and_steps_add_up(corridor):
    env = Env(corridor)
    _, state = env.reset(jax.random.key(0))
    for t, (answer, score) in enumerate([(RIGHT, 1), (RIGHT, 2), (LEFT, 2), (-1, 2), (RIGHT, 3)], start=1):
        _, state, _, _, _, info = env.step(jax.random.key(t), state, answer)
        assert state.score == info["score"] == score
        assert state.steps == info["steps"] == t


# Auto-reset


def test_same_step_deals_at_once_and_keeps_the_end(corridor):
    env = Env(corridor, max_steps=6, autoreset="same_step")
    _, state = env.reset(jax.random.key(0))
    state = state._replace(board=state.board._replace(cell=jnp.int32(3)), score=jnp.float32(3), steps=jnp.int32(3))
    key = jax.random.key(11)
    obs, fresh, reward, terminated, truncated, info = env.step(key, state, RIGHT)
    assert (terminated, truncated, reward) == (True, False, 1)
    assert (fresh.board.cell, fresh.over, fresh.steps, fresh.score) == (0, False, 0, 0)
    assert (info["score"], info["steps"], info["legal"]) == (4, 4, True)
    end = info["final_state"]
    assert (end.board.cell, end.over, end.steps, end.score) == (4, True, 4, 4)
    np.testing.assert_array_equal(obs, env.observation(fresh))
    np.testing.assert_array_equal(info["mask"], corridor.legal(fresh.board))
    assert end.board.coin != fresh.board.coin


def test_same_step_marks(corridor):
    episode = [(1, 1.0, False, False, True, 1), (0, 1.0, False, True, True, 0)]
    assert marks(Env(corridor, max_steps=2, autoreset="same_step"), [RIGHT] * 4) == episode * 2


def test_next_step_marks(corridor):
    """The step after the end deals and ignores its answer, even a legal one."""
    episode = [(1, 1.0, False, False, True, 1), (2, 1.0, False, True, True, 2), (0, 0.0, False, False, False, 0)]
    assert marks(Env(corridor, max_steps=2, autoreset="next_step"), [RIGHT] * 6) == episode * 2


def test_next_step_after_a_win(corridor):
    seen = marks(Env(corridor, autoreset="next_step"), [RIGHT] * 6)
    assert seen[3] == (4, 1.0, True, False, True, 4)
    assert seen[4:] == [(0, 0.0, False, False, False, 0), (1, 1.0, False, False, True, 1)]


def test_resets_deal_different_boards(corridor):
    env = Env(corridor, max_steps=1, autoreset="same_step", observe="tiles")
    _, state = env.reset(jax.random.key(0))
    _, coins = jax.lax.scan(lambda s, k: (env.step(k, s, -1)[1], s.board.coin), state, keys(20))
    assert len(set(coins.tolist())) == 20


def test_luck_does_not_depend_on_auto_reset(corridor):
    args = jax.random.key(4), Env(corridor).reset(jax.random.key(0))[1], RIGHT
    plain, same_step, next_step = (Env(corridor, autoreset=a).step(*args) for a in (None, "same_step", "next_step"))
    same(plain, next_step)
    same(plain[:5], same_step[:5])


@pytest.mark.parametrize("autoreset", [None, "same_step", "next_step"])
def test_the_picture_is_drawn_once(corridor, monkeypatch, autoreset):
    drawn = []
    monkeypatch.setattr(jaxgym.env, "render", lambda *args: drawn.append(args) or jaxgym.render(*args))
    env = Env(corridor, autoreset=autoreset)
    _, state = jax.vmap(env.reset)(keys(3))
    drawn.clear()
    jaxpr = jax.make_jaxpr(jax.vmap(env.step))(keys(3), state, jnp.ones(3, jnp.int32))
    assert len(drawn) == 1
    assert "scan[" not in str(jaxpr), "and nothing goes board by board"


# Laws on every game


# Photos are another sheet for the rules of shisen_sho.
@pytest.mark.parametrize("game", ["2048", "shisen_sho", "swap"], indirect=True)
def test_batched_auto_reset_is_a_loop_over_single_boards(game):
    """vmap + scan with resets equals stepping each board by hand with the plain Env and dealing anew at every end."""
    boards, steps, limit = 3, 12, 5
    plain = Env(game, max_steps=limit, observe="tiles")
    env = Env(game, max_steps=limit, observe="tiles", autoreset="same_step")
    step_keys = jax.random.split(jax.random.key(2), (steps, boards))

    def answer(key, mask):  # every fourth answer is unreadable
        guess = jnp.argmax(jnp.where(mask, jax.random.uniform(key, mask.shape), jnp.float32(-1))).astype(jnp.int32)
        return jnp.where(jax.random.bernoulli(key, 0.25), jnp.int32(-1), guess)

    def step(state, key):
        masks = jax.vmap(game.legal)(state.board)
        out = jax.vmap(env.step)(key, state, jax.vmap(answer)(key, masks))
        return out[1], out

    @jax.jit
    def run(deal_keys):
        return jax.lax.scan(step, jax.vmap(env.reset)(deal_keys)[1], step_keys)[1]

    @jax.jit
    def by_hand(key, state):
        return plain.step(key, state, answer(key, game.legal(state.board)))

    reset = jax.jit(lambda key: (*plain.reset(key), game.legal(plain.reset(key)[1].board)))
    obs, states, rewards, terminated, truncated, info = jax.device_get(run(keys(boards)))
    for board, deal_key in enumerate(keys(boards)):
        _, state, _ = reset(deal_key)
        for t in range(steps):
            key = step_keys[t, board]
            seen, state, reward, over, late, told = by_hand(key, state)
            mask = told["mask"]
            same(jax.tree.map(lambda x, at=(t, board): x[at], info["final_state"]), jax.device_get(state))
            assert (reward, over, late) == (rewards[t, board], terminated[t, board], truncated[t, board])
            assert told["legal"] == info["legal"][t, board]
            if over or late:
                seen, state, mask = reset(jax.random.fold_in(key, jaxgym.env._DEAL))
            same(jax.tree.map(lambda x, at=(t, board): x[at], states), jax.device_get(state))
            np.testing.assert_array_equal(seen, obs[t, board])
            np.testing.assert_array_equal(mask, info["mask"][t, board])
    assert truncated.any()


@pytest.mark.parametrize("autoreset", [None, "same_step", "next_step"])
def test_step_can_be_scanned(game, autoreset):
    """The state that comes out has the type that went in; the observation is the one that reset gives."""
    env = Env(game, autoreset=autoreset)
    key = jax.random.key(0)
    obs, state = jax.eval_shape(env.reset, key)
    again, after, reward, terminated, truncated, info = jax.eval_shape(env.step, key, state, jnp.int32(0))
    assert after == state and again == obs
    assert (obs.shape, obs.dtype) == ((224, 224, 3), jnp.uint8)
    assert [(x.shape, x.dtype) for x in (reward, terminated, truncated)] == [((), jnp.float32)] + [((), jnp.bool_)] * 2
    assert set(info) == {"legal", "mask", "score", "steps"} | ({"final_state"} if autoreset == "same_step" else set())
    assert (info["mask"].shape, info["mask"].dtype) == ((game.actions.n,), jnp.bool_)


def test_observations(game):
    state = jax.jit(Env(game).reset)(jax.random.key(1))[1]
    tiles = game.tiles(state.board)
    np.testing.assert_array_equal(Env(game, observe="tiles").observation(state), tiles)
    np.testing.assert_array_equal(Env(game, observe="picture").observation(state), jaxgym.render(game.sheet, tiles))
    same(jax.jit(Env(game, observe="tiles").reset)(jax.random.key(1))[1], state)


def test_env_under_x64(game):
    env = Env(game, autoreset="same_step", observe="tiles")
    shapes = jax.eval_shape(env.reset, jax.random.key(0))[1]
    with jax.enable_x64(True):
        assert jax.eval_shape(env.step, jax.random.key(0), shapes, jnp.int32(0))[1] == shapes


@pytest.mark.slow
def test_first_step_comes_soon(game):
    """Dealing, one step and its picture, compilation included, within five seconds on two cores."""
    jax.clear_caches()
    start = time.perf_counter()
    env = Env(game, autoreset="same_step")
    _, state = jax.jit(env.reset)(jax.random.key(0))
    jax.block_until_ready(jax.jit(env.step)(jax.random.key(1), state, jnp.int32(0)))
    assert time.perf_counter() - start < 5


# Whatever kind of number the host has


@pytest.mark.parametrize("wide", [2**32, 2**33, -(2**32), 2**63, 2**64, 10**30])
def test_a_wide_host_integer_is_no_move(corridor, wide):
    env = Env(corridor)
    _, state = env.reset(jax.random.key(0))
    numbers = [wide + RIGHT] + ([np.int64(wide + RIGHT)] if -(2**63) <= wide < 2**63 else [])
    for action in numbers:
        *_, info = env.step(jax.random.key(0), state, action)
        assert not info["legal"]
        assert not jax.jit(lambda key, state, a=action: env.step(key, state, a))(jax.random.key(0), state)[-1]["legal"]


def test_numpy_integers_are_whole_numbers(corridor):
    for kind in (np.int64, np.uint8, np.int32):
        env = Env(corridor, max_steps=kind(7))
        assert env.max_steps == 7 and type(env.max_steps) is int
    assert Env(corridor, max_steps=2**31 - 1).max_steps == 2**31 - 1
    for value in (0, -1, 2**31, 10**10, 1.0, True, np.bool_(True), "7", None, np.float32(3), np.asarray([3])):
        with pytest.raises(ValueError, match="max_steps"):
            Env(corridor, max_steps=value)


def test_an_environment_can_be_pickled(game):
    env = Env(game, max_steps=5, autoreset="same_step")
    again = pickle.loads(pickle.dumps(env))
    key = jax.random.key(3)
    played = []
    for each in (env, again):
        obs, state = jax.jit(each.reset)(key)
        action = int(np.argmax(state.mask))
        played.append((obs, jax.jit(each.step)(key, state, action)))
    for a, b in zip(*map(jax.tree.leaves, played), strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.game.actions.parse(game.actions.names[0]) == 0
    assert again.game.explain(state.board, action) == game.explain(state.board, action)


@pytest.mark.parametrize(
    "name", [*(pytest.param(each, marks=pytest.mark.slow) for each in ("2048", "swap")), "mixture"]
)
def test_the_number_of_boards_may_be_left_open_when_a_program_is_exported(name):
    """Boards that are dealt anew among them, which a batch of a known size does a few at a time."""
    some = [jaxgym.make("2048", tile=28), jaxgym.make("shisen_sho", size=4, kinds=2, tile=28)]
    env = Env(jaxgym.mix(some) if name == "mixture" else jaxgym.make(name), max_steps=2, autoreset="same_step")

    def play(data, action):
        keys = jax.random.wrap_key_data(data)

        def step(state, _):
            obs, state, *rest = jax.vmap(env.step)(keys, state, action)
            return state, (obs, rest)

        return jax.lax.scan(step, jax.vmap(env.reset)(keys)[1], None, 3)[1]

    (count,) = jax.export.symbolic_shape("count")
    shapes = jax.ShapeDtypeStruct((count, 2), jnp.uint32), jax.ShapeDtypeStruct((count,), jnp.int32)
    exported = jax.export.export(jax.jit(play))(*shapes)
    given = jax.random.key_data(keys(9)), jnp.arange(9, dtype=jnp.int32)
    same(exported.call(*given), jax.jit(play)(*given))
