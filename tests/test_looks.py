"""Looks change the picture and nothing else; every option of a look does something; several looks share one sheet."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import ImageFont

import jaxgym
from jaxgym import Env, Look, random_looks, render
from jaxgym.looks import COLOURS, SAFE, THEMES

CHANGED = {
    "theme": "dark", "picture": 448, "patch": 16, "tile": 20, "gap": 4, "grid": False, "numbers": "bold",
    "rotation": 15, "blur": 1.0, "brightness": 0.7, "noise": 20, "marks": 3,
}  # fmt: skip


@pytest.mark.parametrize("option", CHANGED)
def test_every_option_changes_the_picture_and_not_the_words(game, option):
    """The same state, shown otherwise: what is said of it stays, and so do its legal moves."""
    other = jaxgym.make(game.name, **{option: CHANGED[option]})
    if option == "numbers" and game.name != "2048":  # games that write nothing take any, so that looks can be shared
        np.testing.assert_array_equal(game.sheet.lines, other.sheet.lines)
        return
    state = jax.jit(game.reset)(jax.random.key(3))
    plain, changed = (np.asarray(render(each.sheet, each.tiles(state))) for each in (game, other))
    assert plain.shape != changed.shape or (plain != changed).any()
    assert jaxgym.describe(game.sheet, game.tiles(state)) == jaxgym.describe(other.sheet, other.tiles(state))
    np.testing.assert_array_equal(game.legal(state), other.legal(state))
    assert jaxgym.prompt(game) == jaxgym.prompt(other)


@pytest.mark.parametrize("theme", THEMES)
def test_no_colour_is_that_of_the_cell_it_is_drawn_on(theme):
    drawn = THEMES[theme]
    for name in drawn.colours:
        assert np.abs(np.subtract(drawn.colour(name), drawn.cell)).max() > 40, name


def test_every_field_of_a_look_is_tried_above():
    assert {f.name for f in dataclasses.fields(Look)} == {*CHANGED, "seed", "font"}


def test_what_is_random_in_a_look_hangs_on_its_seed():
    shown = [jaxgym.make("2048", noise=20, rotation=9, marks=2, seed=seed).sheet.lines for seed in (0, 0, 1)]
    np.testing.assert_array_equal(shown[0], shown[1])
    assert (np.asarray(shown[0]) != np.asarray(shown[2])).any()


def test_numbers_are_written_in_four_ways():
    ways = [np.asarray(jaxgym.make("2048", numbers=way).sheet.pixels[1:]) for way in jaxgym.looks.NUMBERS]
    assert all((a != b).any(axis=(1, 2, 3)).all() for i, a in enumerate(ways) for b in ways[:i])


def test_a_font_of_ones_own(tmp_path):
    file = tmp_path / "own.ttf"
    file.write_bytes(ImageFont.load_default(10).path.getvalue())  # the built-in one, by way of a file
    own, plain = (np.asarray(jaxgym.make("2048", font=font).sheet.pixels, np.int32) for font in (str(file), ""))
    assert np.abs(own - plain).mean() < 12 < np.abs(own - own[:1])[1:].mean()  # numbers in nearly the same places
    with pytest.raises(ValueError, match="give a TrueType file") as caught:
        Look(font=str(tmp_path / "none.ttf"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "bad",
    [
        {"gap": 7}, {"gap": 1.5}, {"grid": 1}, {"numbers": "roman"}, {"rotation": 90}, {"rotation": "a lot"},
        {"blur": -1}, {"blur": float("nan")}, {"brightness": 0}, {"noise": 1000}, {"noise": True}, {"marks": -1},
        {"tile": 10}, {"seed": -1}, {"font": 3}, {"theme": None},
    ],
)  # fmt: skip
def test_what_no_look_can_be(bad):
    with pytest.raises(ValueError, match=next(iter(bad))) as caught:
        Look(**bad)
    assert "\n" not in str(caught.value)


def test_a_tile_that_does_not_fit():
    with pytest.raises(ValueError, match="tile=60 on 6x6 cells needs picture=360"):
        jaxgym.make("shisen_sho", tile=60)


# Colours for the colour-blind

# What people without one kind of cone see, in linear RGB: Machado, Oliveira and Fernandes, IEEE TVCG 15(6), 2009.
CONES = {
    "all": np.eye(3),
    "no long": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no middle": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no short": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def nearest(colours, cones):
    """How far apart the two nearest of some colours are, in CIE Lab."""
    rgb = np.asarray(colours) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.asarray(cones).T, 0, 1)
    xyz = seen @ np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]).T  # fmt: skip  # noqa: E501
    scaled = xyz / [0.95047, 1.0, 1.08883]
    f = np.where(scaled > 0.008856, np.cbrt(scaled), 7.787 * scaled + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    return apart[~np.eye(len(lab), dtype=bool)].min()


@pytest.mark.parametrize("cones", CONES)
def test_the_safe_theme_is_safe(cones):
    theme = THEMES["safe"]
    assert nearest([*(theme.colour(name) for name in SAFE), theme.cell], CONES[cones]) > 18
    assert list(SAFE) == list(COLOURS)


def test_the_others_are_not():
    assert nearest(list(COLOURS.values()), CONES["no long"]) < 5


# Several looks


def test_a_sheet_of_many_looks_shows_each_as_it_is_alone(game):
    looks = random_looks(3, seed=1)
    many = jaxgym.make(game.name, looks=looks)
    state = jax.jit(many.reset)(jax.random.key(0))
    shown = jax.jit(jax.vmap(lambda look: render(many.sheet, many.tiles(state), look)))(jnp.arange(-1, 4))
    for i, look in enumerate((looks[0], *looks, looks[-1])):  # a look outside the sheet is the nearest inside it
        parts = {f.name: getattr(look, f.name) for f in dataclasses.fields(Look)}
        alone = jaxgym.make(game.name, **parts)
        np.testing.assert_array_equal(shown[i], render(alone.sheet, alone.tiles(state)))
    np.testing.assert_array_equal(render(many.sheet, many.tiles(state)), shown[1])
    for look in (2**32, np.uint32(2**32 - 1), jnp.uint32(2**32 - 1), np.int64(2**32), np.int8(2)):  # of any type
        np.testing.assert_array_equal(render(many.sheet, many.tiles(state), look), shown[3])
    assert many.sheet.looks == 3 and many.sheet.pixels.shape == jaxgym.make(game.name).sheet.pixels.shape


def test_boards_of_a_batch_have_looks_of_their_own():
    """A look is drawn with every deal, stays as long as the board, and does not touch the game."""
    game, plain = jaxgym.make("2048", looks=random_looks(4)), jaxgym.make("2048")
    env, other = (Env(each, max_steps=3, autoreset="same_step") for each in (game, plain))
    keys = jax.random.split(jax.random.key(0), 64)
    (_, state), (_, same) = (jax.jit(jax.vmap(each.reset))(keys) for each in (env, other))
    assert set(state.look.tolist()) == {0, 1, 2, 3} and set(same.look.tolist()) == {0}
    looks = [state.look]
    for i in range(3):
        steps = jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys)
        seen, state, *_, info = jax.jit(jax.vmap(env.step))(steps, state, jnp.full(64, i % 4))
        _, same, *_ = jax.jit(jax.vmap(other.step))(steps, same, jnp.full(64, i % 4))
        jax.tree.map(np.testing.assert_array_equal, state.board, same.board)
        looks.append(state.look)
    assert (looks[1] == looks[0]).all() and (looks[2] == looks[0]).all() and (looks[3] != looks[0]).any()
    assert (info["final_state"].look == looks[0]).all()
    expected = jax.vmap(lambda tiles, look: render(game.sheet, tiles, look))(state.board.board, state.look)
    np.testing.assert_array_equal(seen, expected)


def test_random_looks_keep_what_is_fixed():
    looks = random_looks(20, seed=5, theme="dark", picture=112)
    assert {(look.theme, look.picture) for look in looks} == {("dark", 112)} and len(set(looks)) == 20
    assert looks == random_looks(20, seed=5, theme="dark", picture=112) != random_looks(20, seed=6, theme="dark")
    with pytest.raises(ValueError, match="a look has no them"):
        random_looks(2, them="dark")


@pytest.mark.parametrize("looks", [(), "dark", [1], (Look(), None)])
def test_looks_that_are_none(looks):
    with pytest.raises(ValueError, match="give a Look or several"):
        jaxgym.make("swap", looks=looks)


def test_looks_of_one_sheet_are_of_one_size():
    with pytest.raises(ValueError, match="differ in picture"):
        jaxgym.make("swap", looks=(Look(), Look(picture=448)))
    with pytest.raises(ValueError, match="differ in the size of a cell"):
        jaxgym.make("swap", looks=(Look(), Look(tile=20)))
    with pytest.raises(ValueError, match="not both"):
        jaxgym.make("swap", looks=(Look(),), theme="dark")


def test_kinds_can_be_told_apart_in_random_looks():
    """However it is drawn, every sprite is nearer to its own plain drawing in that theme than to any other."""
    for look in random_looks(12, seed=2, brightness=1.0):
        shown = np.asarray(jaxgym.make("swap", looks=(look,)).sheet.pixels, np.float32)
        plain = jaxgym.make("swap", theme=look.theme, gap=look.gap, grid=look.grid).sheet.pixels
        apart = ((shown[:, None] - np.asarray(plain, np.float32)[None]) ** 2).sum((2, 3, 4))
        assert (apart.argmin(1) == np.arange(len(shown))).all(), look


@pytest.mark.parametrize("brightness", [0.3, 1.7])
@pytest.mark.parametrize("theme", sorted(THEMES))
def test_no_light_makes_kinds_the_same(theme, brightness):
    """Some pixel of any two is apart by as much as can be seen, of a blank cell and a shape too."""
    game = jaxgym.make("shisen_sho", level="extreme", theme=theme, brightness=brightness)
    shown = np.asarray(game.sheet.pixels, np.int32).reshape(len(game.sheet.names), -1)
    for i, one in enumerate(shown[:-1]):
        assert np.abs(shown[i + 1 :] - one).max(1).min() >= 5, game.sheet.names[i]


def test_sheets_are_shown_in_notebooks_and_can_be_pickled():
    sheet = jaxgym.make("swap", looks=random_looks(2)).sheet
    assert sheet._repr_png_().startswith(b"\x89PNG")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(sheet)).lines, sheet.lines)


# Levels


@pytest.mark.parametrize("name", jaxgym.names())
def test_every_game_has_the_named_levels(name):
    assert list(jaxgym.levels(name)) == ["easy", "paper", "hard", "extreme"]
    shapes = {}
    for level, options in jaxgym.levels(name).items():
        game = jaxgym.make(name, level=level)
        state = jax.jit(game.reset)(jax.random.key(0))
        assert jax.jit(game.legal)(state).any()
        same = jaxgym.make(name, **options)
        assert (game.rules, game.actions.names, game.sheet.names) == (same.rules, same.actions.names, same.sheet.names)
        shapes[level] = state.board.size
    assert jaxgym.make(name).rules == jaxgym.make(name, level="paper").rules
    assert shapes["paper"] != shapes["extreme"]


def test_options_come_before_a_level():
    board = jaxgym.make("shisen_sho", level="easy", kinds=2).reset(jax.random.key(0)).board
    assert board.shape == (4, 4) and int(board.max()) == 2


@pytest.mark.parametrize("level", ["harder", "", None, 3])
def test_no_such_level(level):
    with pytest.raises(ValueError, match=r"swap has no level .*easy, paper, hard, extreme"):
        jaxgym.make("swap", level=level)
