"""The picture against a slow drawing, cell by cell, from the sheet's own sprites."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgym import Look, describe, make, read_words, render
from jaxgym.looks import COLOURS, SHAPES, THEMES
from jaxgym.render import _in_halves, _in_words
from jaxgym.sprites import draw, kinds, photos

BOARDS = [(4, 4), (6, 6), (8, 8), (3, 5), (1, 7), (12, 12)]
PICTURES = [0, 112, 168, 224, 448]


def shapes_sheet(board, **look):
    return kinds(12, board, Look(**look), colours=4, shapes=3)


def tiles_for(board, seed=0, top=13):
    return np.random.default_rng(seed).integers(0, top, board).astype(np.int32)


def slow_drawing(sheet, tiles, theme="classic"):
    rows, columns = tiles.shape
    height, width = sheet.canvas(rows, columns)
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = THEMES[theme].page
    sprites = np.asarray(sheet.pixels)
    top, left = sheet.origin(rows, columns)
    for r in range(rows):
        for c in range(columns):
            y, x = top + r * sheet.tile, left + c * sheet.tile
            picture[y : y + sheet.tile, x : x + sheet.tile] = sprites[tiles[r, c]]
    return picture


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("picture", PICTURES)
def test_picture_is_the_slow_drawing(theme, picture):
    for board in BOARDS:
        sheet = shapes_sheet(board, theme=theme, picture=picture)
        tiles = tiles_for(board)
        np.testing.assert_array_equal(render(sheet, jnp.asarray(tiles)), slow_drawing(sheet, tiles, theme))


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("picture", PICTURES)
def test_geometry(board, picture):
    """The board lies whole inside the canvas, in the middle up to one grain; cells lie on patches where they can."""
    rows, columns = board
    sheet = shapes_sheet(board, picture=picture)
    height, width = sheet.canvas(rows, columns)
    top, left = sheet.origin(rows, columns)
    bottom, right = height - top - rows * sheet.tile, width - left - columns * sheet.tile
    assert min(top, left, bottom, right) >= 0
    assert 0 <= bottom - top <= 2 * 28 and 0 <= right - left <= 2 * 28
    assert (height, width) == ((picture, picture) if picture else (rows * 28, columns * 28))
    if sheet.tile >= 28:
        assert sheet.tile % 28 == top % 28 == left % 28 == 0
    assert sheet.tile % 4 == top % 4 == left % 4 == 0


def test_sizes_of_the_standard_boards():
    sizes = {board: shapes_sheet(board).tile for board in ((4, 4), (6, 6), (8, 8), (12, 12))}
    assert sizes == {(4, 4): 56, (6, 6): 28, (8, 8): 28, (12, 12): 16}


def test_batch_is_board_by_board():
    sheet = shapes_sheet((6, 6))
    tiles = np.stack([tiles_for((6, 6), seed) for seed in range(5)])
    batch = jax.jit(jax.vmap(render, (None, 0)))(sheet, tiles)
    assert batch.dtype == jnp.uint8
    for picture, board in zip(batch, tiles, strict=True):
        np.testing.assert_array_equal(picture, slow_drawing(sheet, board))


def test_a_look_for_each_board():
    """Sheets of one size are stacked like any pytree, and each board of a batch has its own."""
    sheets = [shapes_sheet((6, 6), theme=theme) for theme in THEMES]
    stacked = jax.tree.map(lambda *lines: jnp.stack(lines), *sheets)
    tiles = np.stack([tiles_for((6, 6), seed) for seed in range(len(sheets))])
    batch = jax.jit(jax.vmap(render))(stacked, tiles)
    for picture, sheet, board, theme in zip(batch, sheets, tiles, THEMES, strict=True):
        np.testing.assert_array_equal(picture, slow_drawing(sheet, board, theme))


@pytest.mark.parametrize("size", [4, 12, 56])
def test_pieces_are_put_together_alike_on_every_device(size):
    """Whole words at once, as on a GPU, or bytes in two parts, as on a CPU."""
    luck = np.random.default_rng(size)
    pieces = jnp.asarray(luck.integers(0, 256, (30, size * 3), np.uint8))
    piece = jnp.asarray(luck.integers(0, 30, 501, np.int32))
    for gather in (_in_halves, _in_words):
        np.testing.assert_array_equal(gather(pieces, piece), np.asarray(pieces)[np.asarray(piece)])


def test_a_board_too_large_for_its_sheet():
    with pytest.raises(ValueError, match="5x4 cells of 56 pixels do not fit into a picture of 224"):
        render(shapes_sheet((4, 4)), jnp.zeros((5, 4), jnp.int32))


def test_ids_outside_the_sheet_are_clamped():
    sheet = shapes_sheet((2, 2))
    wild = jnp.array([[-1, 13], [-(2**31), 2**31 - 1]], jnp.int32)
    np.testing.assert_array_equal(render(sheet, wild), render(sheet, jnp.array([[0, 12], [0, 12]], jnp.int32)))


def test_words_are_the_names_of_the_same_ids():
    sheet = shapes_sheet((2, 3))
    assert describe(sheet, np.array([[0, 1, 2], [3, 4, 12]])) == (
        "empty | red circle | red square\nred triangle | green circle | yellow triangle"
    )


# Sheets


@pytest.mark.parametrize("theme", THEMES)
def test_kinds_can_be_told_apart(theme):
    """No two of all the kinds look alike, even at the smallest common tile: some pixels differ by a good deal."""
    sheet = kinds(36, (8, 8), Look(theme=theme, picture=168), colours=6, shapes=6)
    assert len(set(sheet.names)) == 37
    sprites = np.asarray(sheet.pixels).reshape(37, -1).astype(np.int32)
    apart = np.sort(np.abs(sprites[:, None] - sprites[None]), axis=-1)[..., -12]
    np.fill_diagonal(apart, 255)
    assert apart.min() > 24


def test_pixels_unpack_what_was_packed():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 26, 26, 3)).astype(np.uint8)
    sheet = photos(["cat", "dog", "cat"], pictures, (4, 4), Look(picture=0))
    assert sheet.names == ("empty", "cat", "dog", "cat")
    np.testing.assert_array_equal(np.asarray(sheet.pixels)[1:, 1:-1, 1:-1], pictures)


def test_names_and_painters_pair_up():
    with pytest.raises(ValueError):
        draw(["a", "b"], [None], (2, 2), Look())


@pytest.mark.parametrize("name", ["", " ", "a|b", "a\nb", "a\u2028b", "<b>", " a", "a\t", 2, None, b"a"])
def test_a_name_that_a_board_could_not_be_read_by_is_refused(name):
    with pytest.raises(ValueError, match=r"^the sprite named .*$") as error:
        draw(["empty", name], [None, None], (2, 2), Look())
    assert repr(name) in str(error.value)


@pytest.mark.parametrize("name", ["a b", "d\u00fcnkel", "\u706b", "(0, 1)", "2048", "a>b"])
def test_other_names_are_read_as_they_are_said(name):
    sheet, tiles = draw(["empty", name], [None, None], (2, 2), Look()), np.asarray([[0, 1], [1, 0]])
    assert read_words(describe(sheet, tiles)) == [["empty", name], [name, "empty"]]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("theme", "neon"),
        ("picture", 225),
        ("picture", -4),
        ("picture", 224.0),
        ("picture", "224"),
        ("patch", 0),
        ("patch", 14),
        ("patch", None),
    ],
)
def test_bad_looks(argument, value):
    with pytest.raises(ValueError, match=argument):
        Look(**{argument: value})


def test_a_picture_too_small_for_its_board():
    with pytest.raises(ValueError, match="at least 64"):
        shapes_sheet((8, 8), picture=60)


@pytest.mark.parametrize(
    "bad",
    [
        {"colours": 0, "shapes": 3},
        {"colours": len(COLOURS) + 1, "shapes": 3},
        {"colours": 4, "shapes": len(SHAPES) + 1},
        {"colours": 2, "shapes": 2},
    ],
)
def test_bad_kinds(bad):
    with pytest.raises(ValueError, match="colours"):
        kinds(12, (6, 6), Look(), **bad)


def test_look_is_a_value():
    assert Look() == Look(theme="classic") and hash(Look()) == hash(Look())
    with pytest.raises(dataclasses.FrozenInstanceError):
        Look().theme = "dark"


@functools.cache
def fresh(name):
    game = make(name)
    return game, np.asarray(game.tiles(jax.jit(game.reset)(jax.random.key(0))))


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.int64, np.uint64])
@pytest.mark.parametrize("name", ["swap", "shisen_sho", "shisen_sho_photo"])
def test_integers_of_any_width_are_drawn_as_they_are_said(name, kind):
    """The rows of a sheet are counted in hundreds: a narrow id must not be multiplied in its own type."""
    game, tiles = fresh(name)
    tiles = (tiles % 100).astype(kind)
    for given in (tiles, jnp.asarray(tiles)):
        assert describe(game.sheet, given) == describe(game.sheet, tiles.astype(np.int32))
        np.testing.assert_array_equal(render(game.sheet, given), render(game.sheet, jnp.asarray(tiles, jnp.int32)))


@pytest.mark.parametrize(
    ("ids", "shown"),
    [
        (np.asarray([[-1, 13, 10**6]]), [0, 12, 12]),
        (np.asarray([[2**32 + 3, -(2**32), 2**63 - 1]]), [12, 0, 12]),
        (np.asarray([[2**64 - 1, 2**31, 0]], np.uint64), [12, 12, 0]),
        (np.asarray([[255, 128, 3]], np.uint8), [12, 12, 3]),
        (np.asarray([[-128, 127, 3]], np.int8), [0, 12, 3]),
    ],
)
def test_ids_outside_the_sheet_are_the_nearest_inside_it(ids, shown):
    sheet = shapes_sheet((1, 3))
    tiles = jnp.asarray([shown], jnp.int32)
    assert describe(sheet, ids) == describe(sheet, tiles)
    np.testing.assert_array_equal(render(sheet, ids), render(sheet, tiles))
    if ids.dtype.itemsize < 8:
        np.testing.assert_array_equal(jax.jit(lambda x: render(sheet, x))(ids), render(sheet, tiles))


@pytest.mark.parametrize(
    "tiles", [np.zeros((2, 2)), np.zeros((1, 2, 2), int), np.zeros(4, int), np.zeros((2, 2), bool)]
)
def test_what_is_no_grid_of_integers_is_refused(tiles):
    for shown in (render, describe):
        with pytest.raises(ValueError, match="tiles are integers"):
            shown(shapes_sheet((2, 2)), tiles)
