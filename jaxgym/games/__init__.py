"""The games. To add one: a file beside this one, its line in this list, and a test file."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxgym.game import Game
from jaxgym.games import shisen_sho, shisen_sho_photo, swap, twenty_forty_eight


class Recipe(NamedTuple):
    """How a game is made: its factory, and options of the factory that have a name together."""

    make: Callable[..., Game[Any]]
    levels: Mapping[str, Mapping[str, Any]]  # by difficulty: easy, paper (as in VLM-Gym), hard, extreme


GAMES: dict[str, Recipe] = {
    "2048": Recipe(twenty_forty_eight.twenty_forty_eight, twenty_forty_eight.LEVELS),
    "shisen_sho": Recipe(shisen_sho.shisen_sho, shisen_sho.LEVELS),
    "shisen_sho_photo": Recipe(shisen_sho_photo.shisen_sho_photo, shisen_sho_photo.LEVELS),
    "swap": Recipe(swap.swap, swap.LEVELS),
}
