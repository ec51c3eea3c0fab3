"""Sheets: every sprite of a game with its name, drawn once on the host with Pillow and kept on the device.

A sheet's pixels lie as lines, one pixel high, because pictures that are gathered by whole lines are drawn at the speed
of a copy. Pictures and words come from the same ids, so they cannot disagree.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxgym.checks import integer

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Theme:
    """The colours that a sheet is drawn with: page behind the board, cell behind a sprite, line around a cell."""

    page: Colour
    cell: Colour
    line: Colour
    vivid: float = 1.0  # 1 keeps the named colours, 0 turns them into the cell's own


THEMES: dict[str, Theme] = {
    "classic": Theme(page=(250, 248, 239), cell=(238, 228, 218), line=(187, 173, 160)),
    "light": Theme(page=(255, 255, 255), cell=(255, 255, 255), line=(208, 208, 208)),
    "pastel": Theme(page=(250, 250, 252), cell=(246, 243, 250), line=(222, 216, 230), vivid=0.62),
    "dark": Theme(page=(18, 20, 24), cell=(32, 36, 42), line=(58, 64, 74)),
}

COLOURS: dict[str, Colour] = {
    "red": (214, 39, 40),
    "green": (44, 150, 60),
    "blue": (37, 99, 205),
    "yellow": (245, 200, 20),
    "purple": (138, 63, 179),
    "orange": (245, 125, 20),
    "cyan": (20, 180, 200),
    "pink": (240, 110, 180),
    "brown": (125, 75, 40),
    "grey": (125, 125, 125),
    "lime": (150, 215, 40),
    "navy": (20, 35, 110),
    "teal": (10, 110, 105),
    "maroon": (115, 15, 45),
    "olive": (120, 120, 20),
    "black": (25, 25, 25),
}


def _ngon(corners: int, turn: float = 0.0, inner: float = 1.0) -> list[tuple[float, float]]:
    """Corners on the unit circle, the first one on top; with `inner` < 1 a star of that inner radius."""
    steps = corners if inner == 1.0 else 2 * corners
    radius = [1.0 if i % 2 == 0 else inner for i in range(steps)] if inner != 1.0 else [1.0] * steps
    angles = [turn - math.pi / 2 + 2 * math.pi * i / steps for i in range(steps)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radius, angles, strict=True)]


_A = 0.34  # half the width of a cross's arm
SHAPES: dict[str, list[tuple[float, float]]] = {
    "circle": _ngon(48),
    "square": [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)],
    "triangle": [(0.0, -0.95), (0.98, 0.8), (-0.98, 0.8)],
    "diamond": [(0.0, -1.0), (0.72, 0.0), (0.0, 1.0), (-0.72, 0.0)],
    "star": _ngon(5, inner=0.42),
    "cross": [
        (-_A, -1), (_A, -1), (_A, -_A), (1, -_A), (1, _A), (_A, _A),
        (_A, 1), (-_A, 1), (-_A, _A), (-1, _A), (-1, -_A), (-_A, -_A),
    ],
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a game is drawn; never how it is played.

    theme: one of `THEMES`. picture: side of the square canvas in pixels, on which the board is centred; 0 draws the
    board alone at one patch a cell. patch: cells lie on whole patches of this many pixels where the canvas allows.
    """

    theme: str = "classic"
    picture: int = 224
    patch: int = 28

    def __post_init__(self) -> None:
        if not isinstance(self.theme, str) or self.theme not in THEMES:
            raise ValueError(f"theme {self.theme!r} is not one of {', '.join(THEMES)}")
        for name, least in (("picture", 0), ("patch", 4)):
            value = integer(getattr(self, name))
            if value is None or value < least or value % 4:
                raise ValueError(f"{name}={getattr(self, name)!r}: give a multiple of 4, at least {least}")
            object.__setattr__(self, name, value)

    def tile(self, rows: int, columns: int) -> int:
        """Side of a cell in pixels on a board of that size."""
        if not self.picture:
            return self.patch
        room = self.picture // max(rows, columns)
        tile = room // self.patch * self.patch or room // 4 * 4
        if tile < 8:
            least = 8 * max(rows, columns)
            raise ValueError(f"picture={self.picture} is too small for a {rows}x{columns} board: give at least {least}")
        return tile


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("lines",),
    meta_fields=("names", "tile", "picture", "patch"),
)
@dataclass(frozen=True, kw_only=True)
class Sheet:
    """K sprites of T x T pixels and their names. A pytree: `vmap` over sheets of one size gives each board its look."""

    lines: jax.Array  # uint8 [K * T + 1, T * 3]: row y of sprite k stands at k * T + y; the last is of the page
    names: tuple[str, ...]  # [K]; several sprites may share a name
    tile: int  # T, pixels
    picture: int  # side of the canvas, pixels; 0 for the board alone
    patch: int  # pixels

    def canvas(self, rows: int, columns: int) -> tuple[int, int]:
        """Height and width of the picture of a board, in pixels."""
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
        """The sprites, uint8 [K, T, T, 3]."""
        return self.lines[:-1].reshape(len(self.names), self.tile, self.tile, 3)


def sheet(names: Sequence[str], sprites: np.ndarray, look: Look) -> Sheet:
    """Pack drawn sprites, uint8 [K, T, T, 3], into a sheet."""
    count, tile = sprites.shape[:2]
    page = np.tile(np.array(THEMES[look.theme].page, np.uint8), tile)
    lines = np.concatenate([sprites.reshape(count * tile, tile * 3), page[None]])
    return Sheet(
        lines=jnp.asarray(lines),
        names=tuple(names),
        tile=tile,
        picture=look.picture,
        patch=look.patch,
    )


Painter = Callable[[ImageDraw.ImageDraw, int], None]  # draws on a cell of so many pixels


def draw(names: Sequence[str], painters: Sequence[Painter | None], board: tuple[int, int], look: Look) -> Sheet:
    """Draw one sprite a name, on a cell with a line around it, smoothed from a drawing four times as large."""
    tile, theme = look.tile(*board), THEMES[look.theme]
    big = tile * 4
    sprites = np.empty((len(names), tile, tile, 3), np.uint8)
    for sprite, paint in zip(sprites, painters, strict=True):
        image = Image.new("RGB", (big, big), theme.line)
        pen = ImageDraw.Draw(image)
        pen.rectangle(_inset(big), fill=theme.cell)
        if paint is not None:
            paint(pen, big)
        sprite[:] = np.asarray(image.resize((tile, tile), Image.Resampling.BOX))
    return sheet(names, sprites, look)


def _inset(size: int) -> tuple[int, int, int, int]:
    gap = max(2, size // 28)
    return gap, gap, size - 1 - gap, size - 1 - gap


def kinds(count: int, board: tuple[int, int], look: Look, *, colours: int, shapes: int) -> Sheet:
    """`empty` and `count` kinds of coloured shapes: kind k has colour k // shapes and shape k % shapes."""
    if not 1 <= shapes <= len(SHAPES) or not 1 <= colours <= len(COLOURS):
        raise ValueError(f"colours is 1 to {len(COLOURS)} and shapes is 1 to {len(SHAPES)}, not {colours} and {shapes}")
    if not 1 <= count <= colours * shapes:
        raise ValueError(f"{count} kinds need more than {colours} colours x {shapes} shapes")
    looks = [(c, s) for c in list(COLOURS)[:colours] for s in list(SHAPES)[:shapes]][:count]
    names = ["empty", *(f"{c} {s}" for c, s in looks)]
    return draw(names, [None, *(_shape(c, s, look) for c, s in looks)], board, look)


def _shape(colour: str, shape: str, look: Look) -> Painter:
    theme = THEMES[look.theme]
    fill = _mix(COLOURS[colour], theme.cell, theme.vivid)

    def paint(pen: ImageDraw.ImageDraw, size: int) -> None:
        middle, radius = size / 2, size * 0.4
        pen.polygon([(middle + radius * x, middle + radius * y) for x, y in SHAPES[shape]], fill=fill)

    return paint


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    r, g, b = (round(share * a + (1 - share) * o) for a, o in zip(colour, other, strict=True))
    return r, g, b


def plate(text: str, fill: Colour, ink: Colour, look: Look) -> Painter:
    """A filled cell with a number on it, as large as fits."""
    theme = THEMES[look.theme]

    def paint(pen: ImageDraw.ImageDraw, size: int) -> None:
        pen.rectangle(_inset(size), fill=_mix(fill, theme.cell, theme.vivid))
        font = ImageFont.load_default(size * min(0.62, 1.36 / len(text)))
        pen.text((size / 2, size / 2), text, fill=ink, font=font, anchor="mm")

    return paint


def photos(names: Sequence[str], pictures: np.ndarray, board: tuple[int, int], look: Look) -> Sheet:
    """`empty` and one sprite a photo: pictures uint8 [N, h, w, 3] named `names[n]`, framed like every other sprite."""
    tile = look.tile(*board)
    frame = np.asarray(draw(["empty"], [None], board, look).pixels[0])
    sprites = np.repeat(frame[None], 1 + len(pictures), axis=0)
    edge = max(1, tile // 28)
    for sprite, picture in zip(sprites[1:], pictures, strict=True):
        scaled = Image.fromarray(picture).resize((tile - 2 * edge, tile - 2 * edge), Image.Resampling.BICUBIC)
        sprite[edge : tile - edge, edge : tile - edge] = np.asarray(scaled)
    return sheet(["empty", *names], sprites, look)
