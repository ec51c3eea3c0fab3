"""One page with every game: in every level, in every theme, in looks drawn at random."""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

from jaxgym import dialogue, engine, looks, registry, show
from jaxgym.game import Game

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>jaxgym</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto; padding: 0 1rem }}
h2 {{ margin-top: 3rem }} .row {{ display: flex; flex-wrap: wrap; gap: 16px }}
figure {{ margin: 0; width: 224px }} img {{ width: 224px; display: block; border: 1px solid #8886; border-radius: 4px }}
figcaption {{ font-size: 13px; opacity: .8 }} pre {{ white-space: pre-wrap; font-size: 12px; opacity: .8 }}
</style><h1>jaxgym</h1><p>Every game in every level and look. Rows of looks show the very same board.</p>
{games}</html>
"""


def page(names: Sequence[str], seed: int = 0) -> str:
    """The page, HTML that needs nothing else."""
    return _PAGE.format(games="\n".join(_section(name, seed) for name in names))


def _section(name: str, seed: int) -> str:
    plain, drawn = registry.make(name), looks.random_looks(8, seed)
    board, many = _played(plain, 12, seed), registry.make(name, looks=drawn)
    levels = []
    for level, options in registry.levels(name).items():
        game = registry.make(name, level=level)
        levels.append(_figure(game, _played(game, 3, seed), f"{level}: {_options(options)}"))
    themes = [_figure(registry.make(name, theme=theme), board, theme) for theme in looks.THEMES]
    random = [
        _figure(many, board, f"{look.theme}, {look.numbers}, noise {look.noise:.0f}, turned {look.rotation:.0f}", i)
        for i, look in enumerate(drawn)
    ]
    rows = [("Levels", levels), ("Themes", themes), ("Looks drawn at random", random)]
    body = "".join(f'<h3>{title}</h3><div class="row">{"".join(figures)}</div>' for title, figures in rows)
    told = html.escape(dialogue.prompt(plain))
    return f"<h2>{html.escape(name)}</h2><pre>{told}</pre><p>{plain.actions.n} answers</p>{body}"


def _played(game: Game[Any], steps: int, seed: int) -> Any:
    """A board after some random steps."""
    *_, state = show.episode(game, engine.random_legal, seed, steps)
    return state


def _options(options: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in options.items()) or "as in the paper"


def _figure(game: Game[Any], state: Any, caption: str, look: int = 0) -> str:
    file = io.BytesIO()
    show.image(game, state, look).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    shown = f'<img alt="" src="data:image/png;base64,{data}">'
    return f"<figure>{shown}<figcaption>{html.escape(caption)}</figcaption></figure>"
