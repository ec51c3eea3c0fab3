"""The games as gymnax has them, where it is installed: its wrappers work, limits are data, only what ended is dealt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgym

pytest.importorskip("gymnax")

from gymnax.wrappers.purerl import FlattenObservationWrapper, LogWrapper

from jaxgym.gymnax import Environment

RIGHT = jnp.int32(1)


@pytest.fixture(autouse=True)
def as_users_have_it():
    """Gymnax's own arithmetic is not strict about dtypes."""
    jax.config.update("jax_numpy_dtype_promotion", "standard")


@pytest.mark.parametrize("name", jaxgym.names())
def test_gymnax_has_every_game(name):
    env = Environment(name, level="easy", picture=112)
    assert env.name == name and env.num_actions == env.action_space().n == env.game.actions.n
    space = env.observation_space(env.default_params)
    keys = jax.random.split(jax.random.key(0), 3)
    obs, state = jax.vmap(env.reset)(keys)
    assert obs.shape == (3, *space.shape) and obs.dtype == space.dtype and space.contains(obs[0])
    action = jnp.argmax(state.mask, axis=1)
    obs, after, reward, _, _, info = jax.vmap(env.step)(keys, state, action)
    assert info["legal"].all() and (info["score"] == reward).all() and (info["mask"] == after.mask).all()


def test_episodes_end_and_begin(corridor):
    env = LogWrapper(Environment(corridor, observe="tiles"))
    _, state = env.reset(jax.random.key(0))
    seen, ended, returns = [], [], []
    for i in range(6):
        obs, state, _, terminated, truncated, info = env.step(jax.random.key(i), state, RIGHT)
        seen.append((int(obs.argmax()), int(info["final_observation"].argmax())))
        ended.append((bool(terminated), bool(truncated)))
        returns.append(float(info["returned_episode_returns"]))
    assert seen == [(1, 1), (2, 2), (3, 3), (0, 4), (1, 1), (2, 2)]
    assert ended == [(False, False)] * 3 + [(True, False)] + [(False, False)] * 2
    assert returns == [0, 0, 0, 4, 4, 4]


def test_the_limit_is_data(corridor):
    env = Environment(corridor, observe="tiles", max_steps=3)
    assert env.default_params.max_steps_in_episode == 3
    _, state = env.reset(jax.random.key(0))

    @jax.jit
    def step(params):
        return env.step(jax.random.key(1), state, RIGHT, params)[3:5]

    limits = (1, 2, 3)
    found = [[bool(each) for each in step(env.default_params.replace(max_steps_in_episode=n))] for n in limits]
    assert found == [[False, True], [False, False], [False, False]] and step._cache_size() == 1


def test_a_game_that_ends_on_the_very_last_step_is_over(corridor):
    env = Environment(corridor, observe="tiles", max_steps=1)
    _, state = env.reset(jax.random.key(0))
    beside = state._replace(board=state.board._replace(cell=jnp.int32(3)))
    *_, terminated, truncated, _ = env.step(jax.random.key(1), beside, RIGHT)
    assert terminated and not truncated


def test_wrappers_that_look_at_the_space():
    env = FlattenObservationWrapper(Environment("2048", picture=112))
    obs, state = env.reset(jax.random.key(0))
    assert obs.shape == env.observation_space(env.default_params).shape == (112 * 112 * 3,)
    np.testing.assert_array_equal(obs.reshape(112, 112, 3), env.observe(None, state, None, None))


def test_what_cannot_be_is_told(corridor):
    with pytest.raises(ValueError, match="did you mean 2048"):
        Environment("204")
    for steps in (0, 2**31):
        with pytest.raises(ValueError, match=f"max_steps={steps}"):
            Environment(corridor, max_steps=steps)
    with pytest.raises(ValueError, match=r"give them to jaxgym\.make"):
        Environment(corridor, level="easy")
