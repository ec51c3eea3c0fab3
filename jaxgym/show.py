"""Boards for people: one as an image, an episode as a film, a board in a terminal."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxgym import engine
from jaxgym.checks import key_of, number, whole
from jaxgym.contract import check_state
from jaxgym.game import Game
from jaxgym.render import render, sprite_ids

MARGIN = 4  # characters before a board in a terminal, where its rows are numbered
_STILLS = (".gif", ".webp", ".png")


def image(game: Game[Any], state: Any, look: int = 0) -> Image.Image:
    """One board as a Pillow image, which notebooks show: a game's state, not a batch."""
    return Image.fromarray(np.asarray(_draw(game, state, look)))


def film(
    game: Game[Any],
    file: str | Path,
    *,
    player: Callable[[Game[Any]], engine.Player] = engine.random_legal,
    seed: int = 0,
    steps: int = 50,
    seconds: float = 0.4,
    look: int = 0,
) -> Path:
    """Play an episode and write it: .gif, .webp or .png (animated), or .mp4 where ffmpeg is installed.

    player: such as `jaxgym.engine.teacher` or `random_legal`. The film ends with the episode, or after so many steps;
    each board is shown for so many seconds, the last one three times as long. Returns the file; raises ValueError, in
    one line, for what cannot be.
    """
    file, count, pause = Path(file), whole("steps", steps, 0), number("seconds", seconds, 0.02, 60)
    if file.suffix not in (*_STILLS, ".mp4"):
        raise ValueError(f"{file}: a film is a {', '.join(_STILLS)} or .mp4")
    if file.suffix == ".mp4" and not shutil.which("ffmpeg"):
        raise ValueError(f"{file}: ffmpeg, which writes .mp4, is not installed; write a .gif")
    if not file.parent.is_dir():
        raise ValueError(f"{file}: there is no folder {file.parent}")
    frames = [np.asarray(_draw(game, state, look)) for state in episode(game, player, seed, count)]
    if file.suffix == ".mp4":
        _write_mp4(file, frames, pause)
    else:
        first, *others = map(Image.fromarray, frames)
        shown = [1000 * pause] * len(others) + [3000 * pause]
        first.save(file, save_all=True, append_images=others, duration=[int(ms) for ms in shown], loop=0)
    return file


def episode(game: Game[Any], player: Callable[[Game[Any]], engine.Player], seed: int, steps: int) -> Iterator[Any]:
    """The boards of an episode, the first and the last among them."""

    @jax.jit
    def step(state: Any, key: jax.Array) -> engine.Played:
        act_key, luck_key = jax.random.split(key)
        return engine.play(game, state, jnp.bool_(False), player(game)(state, act_key), luck_key)

    deal_key, play_key = jax.random.split(key_of(seed))
    state = jax.jit(game.reset)(deal_key)
    yield state
    for i in range(steps):
        played = step(state, jax.random.fold_in(play_key, i))
        if bool(played.legal):
            yield played.state
        if bool(played.over):
            return
        state = played.state


def blocks(game: Game[Any], state: Any, width: int = 80) -> str:
    """A board for a terminal of so many columns: two pixels a character, 24-bit colours, rows and columns numbered."""
    tiles = np.asarray(sprite_ids(game.sheet, game.tiles(state)))
    rows, columns = tiles.shape
    side = max(2, min(16, (width - MARGIN) // columns) // 2 * 2)
    small = [
        Image.fromarray(sprite).resize((side, side), Image.Resampling.BOX) for sprite in np.asarray(game.sheet.pixels)
    ]
    board = np.block([[[np.asarray(small[i])] for i in row] for row in tiles.tolist()])
    lines = [" " * MARGIN + "".join(f"{c:^{side}}" for c in range(columns))]
    for y in range(0, rows * side, 2):
        name = f"{y // side:>3} " if y % side == side // 2 // 2 * 2 else " " * MARGIN
        cells = [
            f"\x1b[38;2;{';'.join(map(str, a))};48;2;{';'.join(map(str, b))}m\u2580"
            for a, b in zip(board[y].tolist(), board[y + 1].tolist(), strict=True)
        ]
        lines.append(name + "".join(cells) + "\x1b[0m")
    return "\n".join(lines)


def _draw(game: Game[Any], state: Any, look: int) -> jax.Array:
    check_state(game, state)
    return render(game.sheet, game.tiles(state), whole("look", look, 0, game.sheet.looks - 1))


def _write_mp4(file: Path, frames: list[np.ndarray], pause: float) -> None:
    height, width, _ = frames[0].shape
    frames = [*frames, *frames[-1:] * 2]
    command = [
        "ffmpeg", "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}",
        "-r", f"{1 / pause:.4f}", "-i", "-", "-pix_fmt", "yuv420p", "-r", f"{max(25, 1 / pause):.4f}",
        f"file:{file}",  # whatever the name is, a file
    ]  # fmt: skip
    done = subprocess.run(
        command, input=b"".join(frame.tobytes() for frame in frames), capture_output=True, check=False
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [
            f"nothing, and ends with {done.returncode}"
        ]
        raise ValueError(f"{file}: ffmpeg says {said[-1]}")
