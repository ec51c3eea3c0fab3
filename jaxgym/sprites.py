"""Sheets: every sprite of a game with its name, drawn once on the host with Pillow and kept on the device.

A sheet's pixels lie as lines, one pixel high, because pictures that are gathered by whole lines are drawn at the speed
of a copy. Pictures and words come from the same ids, so they cannot disagree. A sheet may have several looks: the same
sprites under the same names, drawn otherwise.
"""

import functools
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from jaxgym.looks import COLOURS, SHAPES, THEMES, Colour, Look, Looks, each


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("lines",),
    meta_fields=("names", "tile", "picture", "patch", "looks"),
)
@dataclass(frozen=True, kw_only=True)
class Sheet:
    """K sprites of T x T pixels and their names, in L looks. A pytree: sheets of one size can be stacked."""

    lines: jax.Array  # uint8 [L * (K * T + 1), T * 3]: row y of sprite k stands at k * T + y; the last is of the page
    names: tuple[str, ...]  # [K]; several sprites may share a name
    tile: int  # T, pixels
    picture: int  # side of the canvas, pixels; 0 for the board alone
    patch: int  # pixels
    looks: int = 1  # L

    def canvas(self, rows: int, columns: int) -> tuple[int, int]:
        """Height and width of the picture of a board, in pixels; raises ValueError for a board that it cannot hold."""
        if self.picture and self.tile * max(rows, columns) > self.picture:
            raise ValueError(
                f"{rows}x{columns} cells of {self.tile} pixels do not fit into a picture of {self.picture} pixels"
            )
        if self.picture:
            return self.picture, self.picture
        return rows * self.tile, columns * self.tile

    def origin(self, rows: int, columns: int) -> tuple[int, int]:
        """Pixel of the board's top left corner in its picture: centred, on a whole patch where cells are."""
        grain = self.patch if self.tile % self.patch == 0 else 4
        height, width = self.canvas(rows, columns)
        return (height - rows * self.tile) // 2 // grain * grain, (width - columns * self.tile) // 2 // grain * grain

    @property
    def pixels(self) -> jax.Array:
        """The sprites in the first look, uint8 [K, T, T, 3]."""
        count = len(self.names)
        return self.lines[: count * self.tile].reshape(count, self.tile, self.tile, 3)

    def __repr__(self) -> str:
        looks = f" in {self.looks} looks" if self.looks > 1 else ""
        return f"Sheet({len(self.names)} sprites of {self.tile} x {self.tile} pixels{looks})"

    def _repr_png_(self) -> bytes:
        """All sprites in a row, for notebooks."""
        row, file = np.concatenate(list(np.asarray(self.pixels)), axis=1), io.BytesIO()
        Image.fromarray(row).save(file, "PNG")
        return file.getvalue()


def sheet(names: Sequence[str], drawn: Sequence[np.ndarray], look: Looks) -> Sheet:
    """Pack sprites, uint8 [K, T, T, 3] for each look, into a sheet; raises ValueError where looks differ in size, and
    for names that could not be read back from the text of a board.
    """
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"the sprite named {name!r}: give a text")
        if not name or name != name.strip() or len(name.splitlines()) > 1 or any(sign in name for sign in "|<"):
            raise ValueError(
                f"the sprite named {name!r}: in the text of a board a name is between ` | `, so it is not empty, has"
                " no | and no <, is one line, and has no white space around it"
            )
    looks = each(look)
    for name in ("picture", "patch"):
        if len({getattr(one, name) for one in looks}) > 1:
            raise ValueError(f"the looks of one sheet differ in {name}: give all of them the same")
    if len({sprites.shape for sprites in drawn}) > 1:
        raise ValueError("the looks of one sheet differ in the size of a cell: give all of them the same tile")
    tile, lines = drawn[0].shape[1], []
    for one, sprites in zip(looks, drawn, strict=True):
        page = Image.new("RGB", (tile, 1), THEMES[one.theme].page)
        lines += [sprites.reshape(-1, tile * 3), _lit(np.asarray(page), one).reshape(1, tile * 3)]
    return Sheet(
        lines=jax.device_put(np.concatenate(lines)),  # `asarray` would compile a copy, which takes longer than to draw
        names=tuple(names),
        tile=tile,
        picture=looks[0].picture,
        patch=looks[0].patch,
        looks=len(looks),
    )


Painter = Callable[[ImageDraw.ImageDraw, int, Look], None]  # draws on a cell of so many pixels


def draw(names: Sequence[str], painters: Sequence[Painter | None], board: tuple[int, int], look: Looks) -> Sheet:
    """Draw one sprite a name, on a cell with a line around it, smoothed from a drawing four times as large.

    A painter may be None: such a cell is empty, and has a name as well, as what stands there in the text of a board.
    """
    if len(names) != len(painters):
        raise ValueError(f"{len(names)} names for {len(painters)} painters")
    return sheet(names, [_drawn(painters, board, one) for one in each(look)], look)


def _drawn(painters: Sequence[Painter | None], board: tuple[int, int], look: Look) -> np.ndarray:
    """The sprites in one look, uint8 [K, T, T, 3]."""
    tile, luck, sprites = look.side(*board), np.random.default_rng(look.seed), []
    for paint in painters:
        image = _cell(tile * 4, look)
        if paint is not None:
            ink = Image.new("RGBA", image.size)
            paint(ImageDraw.Draw(ink), tile * 4, look)
            _put(image, ink, (0, 0), look, luck)
        sprites.append(_finished(image.resize((tile, tile), Image.Resampling.BOX), look, luck))
    return np.stack(sprites)


def _cell(size: int, look: Look) -> Image.Image:
    """An empty cell, so many pixels wide."""
    theme = THEMES[look.theme]
    image = Image.new("RGB", (size, size), theme.line if look.grid else theme.page)
    ImageDraw.Draw(image).rectangle(_inset(size, look), fill=theme.cell)
    return image


def _inset(size: int, look: Look) -> tuple[int, int, int, int]:
    gap = max(2, size * look.gap // 28) if look.gap else 0
    return gap, gap, size - 1 - gap, size - 1 - gap


def _put(image: Image.Image, ink: Image.Image, place: tuple[int, int], look: Look, luck: np.random.Generator) -> None:
    """Lay what is drawn on a cell, turned as the look wants it."""
    if look.rotation:
        ink = ink.convert("RGBA").rotate(luck.uniform(-look.rotation, look.rotation), Image.Resampling.BICUBIC)
    image.paste(ink, place, ink if ink.mode == "RGBA" else None)


def _finished(image: Image.Image, look: Look, luck: np.random.Generator) -> np.ndarray:
    """A sprite with marks, blur, light and noise: uint8 [T, T, 3]."""
    pen, size = ImageDraw.Draw(image), image.width
    for _ in range(look.marks):
        (x, y), turn, grey = luck.uniform(0.1, 0.9, 2) * size, luck.uniform(0, 2 * math.pi), int(luck.integers(60, 200))
        end = x + 0.12 * size * math.cos(turn), y + 0.12 * size * math.sin(turn)
        pen.line((x, y, *end), fill=(grey, grey, grey), width=max(1, size // 28))
    if look.blur:
        image = image.filter(ImageFilter.GaussianBlur(look.blur))
    pixels = np.asarray(image)
    return _lit(pixels + luck.normal(0.0, look.noise, pixels.shape) if look.noise else pixels, look)


def _lit(pixels: np.ndarray, look: Look) -> np.ndarray:
    """Darker towards black, brighter towards white: what differs still does, in pale colours as well."""
    if look.brightness == 1 and pixels.dtype == np.uint8:
        return pixels
    lit = pixels * look.brightness if look.brightness <= 1 else 255 - (255 - pixels) / look.brightness
    return lit.round().clip(0, 255).astype(np.uint8)


def kinds(count: int, board: tuple[int, int], look: Looks, *, colours: int, shapes: int) -> Sheet:
    """`empty` and `count` kinds of coloured shapes: kind k has colour k // shapes and shape k % shapes."""
    if not 1 <= shapes <= len(SHAPES) or not 1 <= colours <= len(COLOURS):
        raise ValueError(f"colours is 1 to {len(COLOURS)} and shapes is 1 to {len(SHAPES)}, not {colours} and {shapes}")
    if not 1 <= count <= colours * shapes:
        raise ValueError(f"{count} kinds need more than {colours} colours x {shapes} shapes")
    pairs = [(c, s) for c in list(COLOURS)[:colours] for s in list(SHAPES)[:shapes]][:count]
    names = ["empty", *(f"{c} {s}" for c, s in pairs)]
    return draw(names, [None, *(_shape(c, s) for c, s in pairs)], board, look)


def _shape(colour: str, shape: str) -> Painter:
    def paint(pen: ImageDraw.ImageDraw, size: int, look: Look) -> None:
        middle, radius = size / 2, size * 0.4
        corners = [(middle + radius * x, middle + radius * y) for x, y in SHAPES[shape]]
        pen.polygon(corners, fill=THEMES[look.theme].colour(colour))

    return paint


def plate(exponent: int, fill: Colour, ink: Colour) -> Painter:
    """A filled cell with a power of two on it, as large as fits."""
    digits, power = str(2**exponent), str(exponent)

    def paint(pen: ImageDraw.ImageDraw, size: int, look: Look) -> None:
        pen.rectangle(_inset(size, look), fill=THEMES[look.theme].colour(fill))
        middle = size / 2
        if look.numbers == "powers":
            pen.text((middle * 0.8, middle * 1.1), "2", fill=ink, font=look.letters(size * 0.62), anchor="mm")
            small = look.letters(size * (0.36 if len(power) == 1 else 0.3))
            pen.text((middle * 1.1, middle * 0.62), power, fill=ink, font=small, anchor="lm")
            return
        room = 1.36 if look.numbers == "digits" else 1.22
        high = size * min(0.62, room / len(digits))
        stroke = 0 if look.numbers == "digits" else max(1, int(high / 20))
        edge = ink if look.numbers == "bold" else (0, 0, 0) if sum(ink) > 380 else (255, 255, 255)
        font = look.letters(high)
        pen.text((middle, middle), digits, fill=ink, font=font, anchor="mm", stroke_width=stroke, stroke_fill=edge)

    return paint


def photos(names: Sequence[str], pictures: np.ndarray, board: tuple[int, int], look: Looks) -> Sheet:
    """`empty` and one sprite a photo: pictures uint8 [N, h, w, 3] named `names[n]`, framed like every other sprite."""
    return sheet(["empty", *names], [_framed(pictures, board, one) for one in each(look)], look)


def _framed(pictures: np.ndarray, board: tuple[int, int], look: Look) -> np.ndarray:
    """The sprites of photos in one look, uint8 [1 + N, T, T, 3]."""
    tile, luck = look.side(*board), np.random.default_rng(look.seed)
    edge = max(1, tile * look.gap // 28) if look.gap else 0
    empty = _cell(tile * 4, look).resize((tile, tile), Image.Resampling.BOX)
    sprites = [_finished(empty.copy(), look, luck)]
    for picture in pictures:
        image, inside = empty.copy(), (tile - 2 * edge, tile - 2 * edge)
        scaled = Image.fromarray(picture).resize(inside, Image.Resampling.BICUBIC)
        _put(image, scaled, (edge, edge), look, luck)
        sprites.append(_finished(image, look, luck))
    return np.stack(sprites)
