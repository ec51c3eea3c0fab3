"""The games as Gymnasium has them: its checks pass, episodes end and begin as it says, arrays are what was asked."""

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers.vector import ClipReward, RecordEpisodeStatistics

import jaxgym
from jaxgym.gymnasium import Env, VectorEnv

RIGHT = 1


@pytest.mark.parametrize("name", jaxgym.names())
def test_gymnasium_has_every_game(name):
    env = gymnasium.make(f"jaxgym/{name}-v0", max_steps=3, level="easy", picture=112)
    check_env(env.unwrapped, skip_render_check=True)
    obs, info = env.reset(seed=5)
    assert obs.shape == (112, 112, 3) and (info["score"], info["steps"]) == (0, 0)
    action = int(np.flatnonzero(info["action_mask"])[0])
    _, reward, _, _, info = env.step(action)
    assert info["legal"] and info["score"] == reward and info["steps"] == 1
    assert (info["action_mask"] == env.unwrapped.action_masks()).all()


def test_a_board_is_drawn_whatever_is_observed(corridor):
    env = Env(corridor, observe="tiles", render_mode="rgb_array")
    obs, _ = env.reset(seed=0)
    assert obs in env.observation_space and obs.shape == (1, 5)
    assert (env.render() == jaxgym.render(corridor.sheet, obs)).all()
    assert Env(corridor).render() is None


def walk(envs, answers=(RIGHT,) * 6, seed=0):
    """What every step says of two boards of which the second stays where it is."""
    envs.reset(seed=seed)
    return [envs.step(np.asarray([answer, 0])) for answer in answers]


def test_the_next_step_begins_anew(corridor):
    envs = VectorEnv(corridor, 2, observe="tiles", max_steps=50)
    assert envs.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.NEXT_STEP
    steps = walk(envs)
    assert [int(obs[0].argmax()) for obs, *_ in steps] == [1, 2, 3, 4, 0, 1]
    assert [bool(terminated[0]) for _, _, terminated, *_ in steps] == [False] * 3 + [True] + [False] * 2
    assert [float(reward[0]) for _, reward, *_ in steps] == [1, 1, 1, 1, 0, 1]
    assert not any(reward[1] or terminated[1] or truncated[1] for _, reward, terminated, truncated, _ in steps)


def test_the_same_step_begins_anew_and_keeps_the_end(corridor):
    envs = VectorEnv(corridor, 2, observe="tiles", max_steps=50, autoreset=gymnasium.vector.AutoresetMode.SAME_STEP)
    assert envs.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.SAME_STEP
    steps = walk(envs)
    assert [int(obs[0].argmax()) for obs, *_ in steps] == [1, 2, 3, 0, 1, 2]
    assert ["final_obs" in infos for *_, infos in steps] == [False] * 3 + [True] + [False] * 2
    infos = steps[3][-1]
    assert infos["_final_obs"].tolist() == infos["_final_info"].tolist() == [True, False]
    assert infos["final_obs"][0].argmax() == 4 and infos["final_info"]["score"][0] == infos["score"][0] == 4


def test_without_reset_boards_stay_until_they_are_chosen(corridor):
    envs = VectorEnv(corridor, 2, observe="tiles", max_steps=5, autoreset=None)
    assert envs.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.DISABLED
    steps = walk(envs)
    assert [int(obs[0].argmax()) for obs, *_ in steps] == [1, 2, 3, 4, 4, 4]
    assert [truncated.tolist() for *_, truncated, _ in steps[3:]] == [[False, False], [False, True], [False, True]]
    obs, infos = envs.reset(options={"reset_mask": np.asarray([True, False])})
    assert obs[0].argmax() == 0 and infos["steps"].tolist() == [0, 5]
    assert [each.tolist() for each in envs.step(np.asarray([RIGHT, RIGHT]))[2:4]] == [[False, False], [False, True]]


def test_what_is_told_may_be_changed_in_place(corridor):
    """As wrappers of Gymnasium's do."""
    envs = ClipReward(VectorEnv(corridor, 2, observe="tiles", max_steps=2, autoreset="same_step"), -1, 0.5)
    envs.reset(seed=0)
    for _ in range(2):
        _, rewards, terminated, truncated, infos = envs.step(np.asarray([RIGHT, 0]))
        assert rewards.tolist() == [0.5, 0]
        told = {k: v for k, v in infos.items() if "final" not in k} | infos.get("final_info", {})
        for each in (terminated, truncated, infos["action_mask"], *told.values(), envs.unwrapped.action_masks()):
            each[:] = 0


def test_what_one_board_shows_may_be_changed_in_place(corridor):
    """PyTorch warns of an array that may not be."""
    env = Env(corridor, observe="tiles")
    seen, _ = env.reset(seed=0)
    after, *_ = env.step(RIGHT)
    assert seen.flags.writeable and after.flags.writeable and not np.shares_memory(seen, after)


class OnAnotherDevice:
    """As PyTorch's arrays on a GPU are: NumPy cannot have them."""

    def __init__(self, values):
        self.values = values

    def __array__(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __dlpack__(self, **how):
        return self.values.__dlpack__(**how)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


def test_actions_that_numpy_cannot_have(corridor):
    envs = VectorEnv(corridor, 2, observe="tiles", arrays="jax")
    envs.reset(seed=0)
    obs, *_ = envs.step(OnAnotherDevice(np.asarray([RIGHT, -1])))
    assert obs[:, 0].argmax(-1).tolist() == [1, 0]


def test_what_is_told_may_be_given_away(corridor):
    envs = VectorEnv(corridor, 2, observe="tiles", arrays="jax", autoreset="same_step")
    _, infos = envs.reset(seed=0)
    masks = envs.action_masks()
    for each in (*infos.values(), masks):
        each.delete()  # as one that is donated
    _, _, _, _, infos = envs.step(np.asarray([RIGHT, RIGHT]))
    for each in jax.tree.leaves(infos):
        each.delete()
    assert envs.step(np.asarray([RIGHT, RIGHT]))[0].shape[0] == 2


@pytest.fixture(scope="module")
def three():
    return VectorEnv("2048", 3, observe="tiles")


def test_a_seed_begins_the_same_episodes_and_boards_differ(three):
    first, _ = three.reset(seed=7)
    moved = three.step(np.asarray([0, 1, 2]))[0]
    assert len({board.tobytes() for board in first}) == 3
    assert (three.reset()[0] != first).any()
    assert (three.reset(seed=7)[0] == first).all() and (three.step(np.asarray([0, 1, 2]))[0] == moved).all()


def test_statistics_are_those_that_the_game_tells():
    envs = RecordEpisodeStatistics(VectorEnv("2048", 4, max_steps=6, observe="tiles"))
    envs.reset(seed=1)
    for _ in range(6):
        *_, infos = envs.step(envs.action_space.sample())
    assert (infos["episode"]["r"] == infos["score"]).all() and (infos["episode"]["l"] == 6).all()


@pytest.mark.parametrize("autoreset", [None, "same_step", "next_step"])
def test_arrays_stay_on_the_device_where_that_is_asked(autoreset):
    options = {"autoreset": autoreset, "max_steps": 1, "observe": "tiles"}
    envs = [VectorEnv("2048", 2, arrays=arrays, **options) for arrays in ("numpy", "jax")]
    host, device = (env.reset(seed=3) for env in envs)
    jax.tree.map(np.testing.assert_array_equal, host, device)
    host, device = (env.step(np.asarray([0, 1])) for env in envs)
    jax.tree.map(np.testing.assert_array_equal, host, device)
    assert all(isinstance(leaf, np.ndarray | np.generic) for leaf in jax.tree.leaves(host))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(device))
    assert host[0] in envs[0].observation_space


@pytest.mark.parametrize(
    "given",
    [np.asarray([-1, 4, 1 << 32]), np.asarray([255, 4, 9], np.uint8), np.asarray([4, 1 << 63, 1 << 32], np.uint64)],
)
def test_a_number_that_is_no_action_costs_a_step(three, given):
    before, _ = three.reset(seed=0)
    after, reward, *_, infos = three.step(given)
    assert (after == before).all() and not reward.any() and not infos["legal"].any()
    assert infos["steps"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: VectorEnv("204"), "did you mean 2048"),
        (lambda: VectorEnv("2048", 0), "num_envs=0"),
        (lambda: VectorEnv("2048", arrays="torch"), 'give "numpy" or "jax"'),
        (lambda: VectorEnv(jaxgym.make("2048"), level="easy"), "give them to jaxgym.make"),
        (lambda: VectorEnv("2048", max_episode_steps=4), "max_episode_steps is called max_steps here"),
        (lambda: VectorEnv("2048", render_mode="human"), 'give None or "rgb_array"'),
        (lambda: VectorEnv("2048", 2).step(np.asarray([0, 0])), "call reset() first"),
        (lambda: begun().step(np.asarray([0.5, 1.0])), "actions are float64 [2]: give integers [2]"),
        (lambda: begun().step(np.asarray([0])), "give integers [2]"),
        (lambda: Env("2048").step(np.asarray([1, 2])), "action has shape [2]: give one integer"),
        (lambda: begun().reset(options={"reset_mask": [0, 1]}), "give bools [2]"),
        (lambda: begun().reset(options=[1]), "options=[1]: give a dict"),
        (lambda: begun().reset(seed=[1, 2]), "seed=[1, 2]: give a whole number, at least 0"),
        (lambda: Env("2048").reset(seed=-1), "seed=-1: give a whole number, at least 0"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(wrong, told):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        wrong()
    assert told in str(error.value)


def begun():
    envs = VectorEnv("2048", 2, observe="tiles")
    envs.reset(seed=0)
    return envs
