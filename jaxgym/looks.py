"""Looks: how a game is drawn, never how it is played: colours, shapes, and all that makes a picture harder to read."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import ImageFont

from jaxgym.checks import integer, number, whole

Colour = tuple[int, int, int]

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

# Near the colours above, but any two of them, and white, lie at least 18 apart in CIE Lab also as people see them who
# lack a kind of cone (as simulated by Machado, Oliveira and Fernandes, IEEE TVCG 15(6), 2009).
SAFE: dict[str, Colour] = {
    "red": (197, 37, 64),
    "green": (27, 131, 87),
    "blue": (22, 98, 233),
    "yellow": (221, 225, 5),
    "purple": (145, 46, 173),
    "orange": (255, 119, 12),
    "cyan": (44, 182, 228),
    "pink": (226, 97, 188),
    "brown": (100, 48, 12),
    "grey": (106, 114, 123),
    "lime": (134, 202, 68),
    "navy": (40, 25, 104),
    "teal": (14, 83, 119),
    "maroon": (124, 1, 64),
    "olive": (146, 97, 7),
    "black": (13, 11, 16),
}


@dataclass(frozen=True, kw_only=True)
class Theme:
    """The colours that a sheet is drawn with: page behind the board, cell behind a sprite, line around a cell."""

    page: Colour
    cell: Colour
    line: Colour
    vivid: float = 1.0  # 1 keeps the named colours, 0 turns them into the cell's own
    colours: Mapping[str, Colour] = field(default_factory=lambda: COLOURS)

    def colour(self, colour: str | Colour) -> Colour:
        """A colour, by name or as it is, as this theme shows it."""
        named = self.colours[colour] if isinstance(colour, str) else colour
        r, g, b = (round(self.vivid * a + (1 - self.vivid) * c) for a, c in zip(named, self.cell, strict=True))
        return r, g, b


THEMES: dict[str, Theme] = {
    "classic": Theme(page=(250, 248, 239), cell=(238, 228, 218), line=(187, 173, 160)),
    "light": Theme(page=(255, 255, 255), cell=(255, 255, 255), line=(208, 208, 208)),
    "pastel": Theme(page=(250, 250, 252), cell=(246, 243, 250), line=(222, 216, 230), vivid=0.62),
    "dark": Theme(page=(18, 20, 24), cell=(32, 36, 42), line=(58, 64, 74), colours=COLOURS | {"black": (0, 0, 0)}),
    "safe": Theme(page=(255, 255, 255), cell=(255, 255, 255), line=(190, 190, 190), colours=SAFE),
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

NUMBERS = ("digits", "bold", "outlined", "powers")
_RANGES = {"rotation": (0, 20), "blur": (0, 3), "brightness": (0.3, 1.7), "noise": (0, 60)}


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a game is drawn; never how it is played.

    theme: one of `THEMES`; "safe" has colours that the colour-blind tell apart. picture: side of the square canvas in
    pixels, on which the board is centred; 0 draws the board alone. patch: cells lie on whole patches of this many
    pixels where the canvas allows. tile: side of a cell in pixels; 0: as many patches as there is room for.

    gap: from the edge of a cell to what is on it, in 28ths of the cell, 0 to 6. grid: is the gap a line, or page?
    numbers: one of `NUMBERS`; `powers` writes 2048 as 2 to the 11th. font: a TrueType file; "" is the built-in one.
    Both concern games that write something, such as 2048; the others are drawn the same with any, so that one look
    does for all games of a mixture.

    What makes reading harder: rotation, each sprite turned by up to so many degrees, 0 to 20; blur, its standard
    deviation in pixels, 0 to 3; brightness, 0.3 to 1.7: times the light, or, above 1, what is missing to white divided
    by it; noise, its standard deviation in levels of 255, 0 to 60; marks, specks a cell that mean nothing, 0 to 8.
    `seed` settles all that is random in it. Raises ValueError, in one line, for what cannot be.
    """

    theme: str = "classic"
    picture: int = 224
    patch: int = 28
    tile: int = 0
    gap: int = 1
    grid: bool = True
    numbers: str = "digits"
    font: str = ""
    rotation: float = 0.0
    blur: float = 0.0
    brightness: float = 1.0
    noise: float = 0.0
    marks: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("theme", THEMES), ("numbers", NUMBERS)):
            if not isinstance(getattr(self, name), str) or getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is not one of {', '.join(known)}")
        for name, least in (("picture", 0), ("patch", 4), ("tile", 0)):
            value = integer(getattr(self, name))
            if value is None or value < least or value % 4:
                raise ValueError(f"{name}={getattr(self, name)!r}: give a multiple of 4, at least {least}")
            self._set(name, value)
        if not isinstance(self.grid, bool | np.bool_):
            raise ValueError(f"grid={self.grid!r}: give True or False")
        for name, most in (("gap", 6), ("marks", 8)):
            self._set(name, whole(name, getattr(self, name), 0, most))
        self._set("seed", whole("seed", self.seed, 0))
        for name, (low, high) in _RANGES.items():
            self._set(name, number(name, getattr(self, name), low, high))
        if not isinstance(self.font, str):
            raise ValueError(f"font={self.font!r}: give the path of a TrueType file as text, or none")
        _font(self.font, 10.0)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def letters(self, size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        """The font, so many pixels high."""
        return _font(self.font, size)

    def side(self, rows: int, columns: int) -> int:
        """Side of a cell in pixels on a board of that size."""
        if self.tile:
            if self.picture and self.tile * max(rows, columns) > self.picture:
                room = self.tile * max(rows, columns)
                raise ValueError(f"tile={self.tile} on {rows}x{columns} cells needs picture={room} or more")
            return self.tile
        if not self.picture:
            return self.patch
        room = self.picture // max(rows, columns)
        tile = room // self.patch * self.patch or room // 4 * 4
        if tile < 8:
            least = 8 * max(rows, columns)
            raise ValueError(f"picture={self.picture} is too small for a {rows}x{columns} board: give at least {least}")
        return tile


Looks = Look | tuple[Look, ...]  # one, or several that are drawn alike large


def each(look: Looks) -> tuple[Look, ...]:
    """One look or several, as several; raises ValueError for anything else."""
    looks = tuple(look) if isinstance(look, tuple | list) else (look,)
    if not looks or not all(isinstance(one, Look) for one in looks):
        raise ValueError(f"looks={look!r}: give a Look or several, such as jaxgym.random_looks(8)")
    return looks


def random_looks(count: int, seed: int = 0, **fixed: Any) -> tuple[Look, ...]:
    """So many looks, drawn at random but for what is fixed: fields of `Look`."""
    known = {f.name for f in dataclasses.fields(Look)}
    if unknown := sorted(fixed.keys() - known):
        raise ValueError(f"a look has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    luck = np.random.default_rng(whole("seed", seed, 0))

    def one() -> Look:
        drawn: dict[str, Any] = {
            "theme": str(luck.choice(list(THEMES))),
            "gap": int(luck.integers(0, 4)),
            "grid": bool(luck.integers(2)),
            "numbers": str(luck.choice(NUMBERS)),
            "rotation": float(luck.uniform(0, 12)),
            "blur": float(luck.uniform(0, 0.7)),
            "brightness": float(luck.uniform(0.75, 1.25)),
            "noise": float(luck.uniform(0, 16)),
            "marks": int(luck.integers(0, 3)),
            "seed": int(luck.integers(2**31)),
        }
        return Look(**drawn | fixed)

    return tuple(one() for _ in range(whole("count", count, 1)))


@functools.lru_cache(maxsize=64)
def _font(file: str, size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if not file:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(file, size)
    except (OSError, ValueError, TypeError):
        raise ValueError(f"font={file!r} cannot be read: give a TrueType file, or none for the built-in font") from None
