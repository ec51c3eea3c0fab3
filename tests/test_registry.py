"""`make`: a game by its name, and one clear line when that cannot be."""

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
