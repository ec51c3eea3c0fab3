"""Golden files: a short game of every kind, in words and as a picture in every theme.

`make golden` draws them anew. Look at them before you commit them: they are what a player sees.
"""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jaxgym
from jaxgym import engine
from jaxgym.looks import THEMES

FOLDER = Path(__file__).parent / "golden"
STEPS = 12


@pytest.fixture(scope="module")
def played(game):
    """The last board of a short random game, and the game move by move in words."""
    deal_key, play_key = jax.random.split(jax.random.key(2048))
    run = jax.jit(lambda state, key: engine.rollout(game, engine.random_legal(game), state, key, STEPS))
    state, steps = run(game.reset(deal_key), play_key)
    lines = [
        f"{game.actions.format(action)}: {reward:g}"
        for action, reward in zip(steps.action.tolist(), steps.reward.tolist(), strict=True)
    ]
    tiles = game.tiles(state)
    return tiles, "\n".join([*lines, "", jaxgym.describe(game.sheet, tiles), ""])


@pytest.fixture
def update(request):
    return request.config.getoption("--update-golden")


def test_golden_words(game, played, update):
    file = FOLDER / f"{game.name}.txt"
    if update:
        file.write_text(played[1])
    assert file.read_text() == played[1]


@pytest.mark.parametrize("theme", THEMES)
def test_golden_picture(game, played, update, theme):
    """Fonts and filters may round otherwise in another Pillow: a few pixels may differ, no tile can."""
    file = FOLDER / f"{game.name}-{theme}.png"
    picture = np.asarray(jaxgym.render(jaxgym.make(game.name, theme=theme).sheet, played[0]))
    if update:
        Image.fromarray(picture).save(file, optimize=True)
    golden = np.asarray(Image.open(file)).astype(np.int32)
    assert golden.shape == picture.shape
    assert (np.abs(golden - picture) > 16).any(-1).mean() < 0.002
