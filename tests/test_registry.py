"""`make`: a game by its name, and one clear line when that cannot be."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgym


def test_the_games_of_vlm_gym_are_there():
    assert {"2048", "shisen_sho", "shisen_sho_photo", "swap"} <= set(jaxgym.names())


def test_public_names_exist():
    assert all(hasattr(jaxgym, name) for name in jaxgym.__all__)
    assert sorted(set(jaxgym.__all__), key=str.lower) == sorted(jaxgym.__all__, key=str.lower)


def test_a_game_bears_its_name(game):
    assert jaxgym.make(game.name).name == game.name


@pytest.mark.parametrize(
    ("name", "near"), [("shisen-sho", "shisen_sho"), ("swpa", "swap"), ("2O48", "2048"), ("Swap", "swap")]
)
def test_near_misses_of_a_name(name, near):
    with pytest.raises(ValueError, match=f"did you mean .*{near}"):
        jaxgym.make(name)


@pytest.mark.parametrize("name", ["", "chess", 2048, None, ("swap",)])
def test_no_such_game(name):
    with pytest.raises(ValueError, match=r"no game is called .*swap") as caught:
        jaxgym.make(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("says", "told"), [("raise RuntimeError('a\\nb')", "RuntimeError: a b"), ("exit(3)", "SystemExit: 3")]
)
def test_a_module_of_ones_own_that_fails_is_told_in_one_line(says, told, tmp_path, monkeypatch):
    (tmp_path / "broken_game.py").write_text(says)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=f"game='broken_game:make' cannot be imported: {told}$"):
        jaxgym.make("broken_game:make")


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("def make(*, look): raise KeyError('a')", "fails: KeyError: 'a'"),
        ("def make(size, *, look): pass", r"fails: TypeError: make\(\) missing 1 required .* 'size'"),
        ("def make(*, look): raise ValueError('size=3: too small')", "^size=3: too small"),
        ("def make(*, look): return 3", "gave no jaxgym.Game but int"),
    ],
)
def test_a_function_of_ones_own_that_makes_no_game_is_told_in_one_line(says, told, tmp_path, monkeypatch):
    (tmp_path / "unmade.py").write_text(says)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "unmade", raising=False)
    with pytest.raises(ValueError, match=told) as caught:
        jaxgym.make("unmade:make")
    assert "\n" not in str(caught.value)


def test_a_function_of_ones_own_may_take_any_option(tmp_path, monkeypatch):
    (tmp_path / "anything.py").write_text(
        "from dataclasses import replace\nimport jaxgym\n"
        "def make(*, look, **options): return replace(jaxgym.make('2048'),"
        " rules=f'{options} {look.theme}')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert jaxgym.make("anything:make", size=5, theme="dark").rules == "{'size': 5} dark"


def test_an_option_of_ones_own_comes_before_a_part_of_the_look(tmp_path, monkeypatch):
    (tmp_path / "seeded.py").write_text(
        "from dataclasses import replace\nimport jaxgym\n"
        "def make(*, seed=0, grid=3, look):\n"
        "    one = look[0] if isinstance(look, tuple) else look\n"
        "    said = seed, grid, one.seed, one.grid, one.theme\n"
        "    return replace(jaxgym.make('2048', looks=look), rules=' '.join(map(str, said)))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plain = jaxgym.Look()
    made = jaxgym.make("seeded:make", seed=5, grid=10, theme="dark")
    assert made.rules == f"5 10 {plain.seed} {plain.grid} dark"
    looks = jaxgym.random_looks(2)
    assert jaxgym.make("seeded:make", seed=5, looks=looks).rules.startswith(f"5 3 {looks[0].seed} ")


def test_near_misses_of_an_option():
    with pytest.raises(ValueError, match=r"no option 'szie' \(did you mean size"):
        jaxgym.make("shisen_sho", szie=8)
    with pytest.raises(ValueError, match=r"did you mean theme"):
        jaxgym.make("2048", them="dark")


def test_the_look_is_given_by_its_parts(game):
    with pytest.raises(ValueError, match="no option 'look'"):
        jaxgym.make(game.name, look=jaxgym.Look())


def test_options_reach_the_sheet(game):
    sheet = jaxgym.make(game.name, theme="pastel", picture=448, patch=56).sheet
    assert (sheet.canvas(4, 4), sheet.tile % 56) == ((448, 448), 0)


@pytest.mark.parametrize("option", [{"theme": "neon"}, {"picture": 7}, {"patch": 0}])
def test_bad_values_of_a_look(game, option):
    with pytest.raises(ValueError, match=next(iter(option))):
        jaxgym.make(game.name, **option)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int32])
def test_numpy_integers_are_integers(kind):
    assert jaxgym.make("2048", size=kind(5), fours=np.float32(0.5)).sheet.canvas(5, 5) == (224, 224)
    assert (
        jaxgym.make("shisen_sho", size=kind(4), kinds=kind(4), max_turns=kind(1), ring=np.bool_(False)).actions.n == 256
    )
    assert jaxgym.make("shisen_sho_photo", size=kind(4), kinds=kind(4)).actions.n == 256
    assert jaxgym.make("swap", size=kind(5), kinds=kind(6), run=kind(3), picture=kind(140)).sheet.picture == 140


@pytest.mark.parametrize("value", [4.0, "4", True, None, np.bool_(True), np.float64(4), np.asarray([4]), 10**30])
def test_what_is_no_integer_is_refused(game, value):
    with pytest.raises(ValueError, match="size"):
        jaxgym.make(game.name, size=value)


def test_a_game_is_made_without_compiling_anything(game, caplog):
    with jax.log_compiles():
        made = jaxgym.make(game.name, picture=316)  # a size that nothing else has
        assert "Compiling" not in caplog.text
        jnp.asarray(np.asarray(made.sheet.lines))
    assert "Compiling" in caplog.text  # what is looked for would be there
