"""The games. To add one: a file beside this one, its factory in this list, and a test file."""

from collections.abc import Callable
from typing import Any

from jaxgym.game import Game
from jaxgym.games.shisen_sho import shisen_sho
from jaxgym.games.shisen_sho_photo import shisen_sho_photo
from jaxgym.games.swap import swap
from jaxgym.games.twenty_forty_eight import twenty_forty_eight

FACTORIES: dict[str, Callable[..., Game[Any]]] = {
    "2048": twenty_forty_eight,
    "shisen_sho": shisen_sho,
    "shisen_sho_photo": shisen_sho_photo,
    "swap": swap,
}
