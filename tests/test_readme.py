"""The README's examples of the gym run as they stand."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxgym
from jaxgym import engine, own
from jaxgym.games import Recipe
from train.config import Config

TEXT = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_examples_of_the_gym_run():
    gym = TEXT[TEXT.index("## The gym in a minute") : TEXT.index("## The model in a minute")]
    blocks = re.findall(r"```python\n(.*?)```", gym, re.DOTALL)
    assert len(blocks) == 5
    names: dict = {}
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # as users have it
    for block in blocks:
        exec(block, names)
    assert names["image"].shape == (448, 448, 3) and names["pictures"].shape == (32, 224, 224, 3)
    seen, _, reward, *ends, score = names["batch"]
    assert seen.shape == (16, 256, 84, 84, 3) and (reward.sum(axis=0) == score[-1]).all() and not np.any(ends)
    assert names["reply"].formatted and names["tries"].legal.shape == (16,) and len(names["env_state"].steps) == 1024
    assert names["obs"].shape == (256, 224, 224, 3) and names["infos"]["action_mask"].shape == (256, 112)
    assert names["boards"].which.tolist() == [0] * 32 + [1] * 32 + [2] * 32


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The README's game, as a user has it."""
    code = re.findall(r"```python\n(.*?)```", TEXT[TEXT.index("**A game of your own**") :], re.DOTALL)[0]
    (tmp_path / "mine_walks.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    return "mine_walks:walk"


def test_a_game_of_ones_own(mine):
    game = jaxgym.make(mine, size=5, theme="dark")
    assert (game.name, game.sheet.looks) == (mine, 1) and list(jaxgym.levels(mine)) == ["paper"]
    player, keys = engine.teacher(game), jax.random.split(jax.random.key(0), 64)
    walk = jax.jit(jax.vmap(lambda key: engine.rollout(game, player, game.reset(key), key, 8)[1]))(keys)
    np.testing.assert_array_equal(walk.reward.sum(1), np.ones(64))  # 8 steps lead from corner to corner
    assert walk.legal[np.asarray(walk.over).cumsum(1) == 0].all()
    state = game.reset(keys[0])
    words = jaxgym.describe(game.sheet, game.tiles(state))
    assert (words.count("flag"), words.count("walker"), words.count("empty")) == (1, 1, 23)
    assert jaxgym.read_reply(game, jaxgym.write_reply(words, game.explain(state, 0), "left")).action == 3
    assert jaxgym.mix([game, jaxgym.make("2048", size=5)]).actions.n == 4
    Config(games=(mine, "swap")).check()


def test_levels_of_a_game_of_ones_own(mine, monkeypatch):
    module = own.find(mine, "game").__module__
    monkeypatch.setattr(
        f"{module}.GAME", Recipe(own.find(mine, "game"), {"paper": {}, "wide": {"size": 7}}), raising=False
    )
    game = jaxgym.make(f"{module}:GAME", level="wide")
    assert game.tiles(game.reset(jax.random.key(0))).shape == (7, 7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine_walks:run", "cannot be imported: AttributeError"),
        ("no_such_module:walk", "cannot be imported: ModuleNotFoundError"),
        ("mine_walks:State", "must be a function that takes look="),
        ("mine_walks:__name__", "must be a function that takes look="),
        ("builtins:dict", "must be a function that takes look="),
        (":walk", "give MODULE:NAME"),
    ],
)
def test_what_is_no_game_of_ones_own_is_told_in_one_line(mine, name, message):
    with pytest.raises(ValueError, match=message) as caught:
        Config(games=(name,)).check()
    assert name in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="no option 'sise'"):
        jaxgym.make(mine, sise=5)
    with pytest.raises(ValueError, match=r"has no level 'hard'; it has paper \(a jaxgym.games.Recipe gives"):
        jaxgym.make(mine, level="hard")
