"""`python -m train.export`: boards with what the teacher would say of them, as a folder that the cold start reads.

python -m train.export --games all --boards 1000 --out FOLDER
python -m train.main --games all --model Qwen2.5-VL-3B-Instruct --picture 224 --coldstart-data FOLDER ...
"""

import argparse
import contextlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from rich.console import Console

import jaxgym
from jaxgym import engine
from train import coldstart, files
from train.command import Parser, finish
from train.config import Config
from train.course import PAPER, course_name, make
from train.dataset import NAME
from train.parts import States
from train.protocol import protocol
from train.rollout import BATCH, choose, wander
from train.terminal import say

PLAYERS = {"random": engine.random_legal, "teacher": engine.teacher}


def boards(game: jaxgym.Game[Any], play: Sequence[str], count: int, key: jax.Array) -> Iterator[tuple[np.ndarray, str]]:
    """Pictures uint8 [H, W, 3] of boards at every stage of some players' play, in equal parts, each with a reply."""
    whose = jnp.asarray(np.resize(np.arange(len(play)), BATCH))
    scale = None
    for first in range(0, count, BATCH):
        teach_key, scale_key, *keys = jax.random.split(jax.random.fold_in(key, first), 2 + len(play))
        state: Any = None
        for i, (player, own_key) in enumerate(zip(play, keys, strict=True)):
            own = wander(game, own_key, BATCH, protocol(game).steps, PLAYERS[player]).state
            state = own if state is None else choose(whose == i, own, state)
        scale = scale or coldstart.measure_scale(game, state, scale_key)
        lesson = coldstart.teach(game, state, scale, teach_key, guess=False)
        texts = coldstart.compose(game, lesson, guess=False)
        order = np.random.default_rng(first).permutation(BATCH)[: count - first]  # rows are ordered by their stage
        yield from ((picture, texts[i]) for i, picture in zip(order, np.asarray(lesson.pictures)[order], strict=True))


def export(config: Config, play: Sequence[str], count: int, side: int, out: Path) -> Iterator[str]:
    """Write `count` boards of every game and level of a configuration; yields the name of each when it is done.

    Raises ValueError where there is something of that name. What could not be finished is removed again.
    """
    if out.exists():
        raise ValueError(f"{out} exists already: give another --out")
    (out / "pictures").mkdir(parents=True)
    try:
        yield from _fill(config, play, count, side, out)
    except BaseException:  # Ctrl-C as well: half a folder is of no use, and would stand in the way
        shutil.rmtree(out, ignore_errors=True)
        raise


def _fill(config: Config, play: Sequence[str], count: int, side: int, out: Path) -> Iterator[str]:
    rows = []
    for i, (name, level) in enumerate((n, level) for n in config.names() for level in config.states.levels):
        game = make(name, level, config.picture, side, config.photos)
        key = jax.random.fold_in(jax.random.key(config.seed), i)
        for number, (picture, reply) in enumerate(boards(game, play, count, key)):
            path = f"pictures/{files.portable(name)}-{level}-{number:06d}.png"
            Image.fromarray(picture).save(out / path)
            rows.append({"game": name, "picture": path, "prompt": jaxgym.prompt(game), "reply": reply})
        yield course_name(name, level)
    files.write(out / NAME, "".join(files.to_json(row) + "\n" for row in rows))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    def names(text: str) -> tuple[str, ...]:
        return tuple(text.split(","))

    parser = Parser("python -m train.export", "Replies for a cold start.")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="to write, made anew")
    parser.add_argument("--games", type=names, default=("all",), help="names separated by commas (default: all)")
    parser.add_argument("--levels", type=names, default=(PAPER,), help=f"how hard they are (default: {PAPER})")
    parser.add_argument("--boards", type=int, default=1000, help="of each game and level (default: 1000)")
    parser.add_argument(
        "--play",
        type=names,
        default=tuple(PLAYERS),
        help=f"who led there, in equal parts (default: {','.join(PLAYERS)})",
    )
    parser.add_argument("--picture", type=int, default=0, help="side in pixels; 0: one block a cell (default: 0)")
    parser.add_argument(
        "--block",
        type=int,
        default=28,
        help="pixels of the blocks that pictures are made of, an image token each: 28 for Qwen2.5-VL, 32 for Qwen3-VL, "
        "for a preset its patch (default: 28)",
    )
    parser.add_argument("--photos", default="digits", help="as in train.main (default: digits)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    return parser.parse_args(arguments)


def _write(given: argparse.Namespace) -> None:
    states = States(levels=given.levels)
    config = Config(games=given.games, seed=given.seed, picture=given.picture, photos=given.photos, states=states)
    config.check()
    if given.boards < 1 or given.block < 1:
        raise ValueError(f"--boards {given.boards} and --block {given.block}: must both be at least 1")
    if given.picture % given.block:
        raise ValueError(f"--picture {given.picture}: must be a multiple of --block, {given.block}")
    if not set(given.play) <= PLAYERS.keys():
        raise ValueError(f"--play {','.join(given.play)}: must be some of {','.join(PLAYERS)}")
    console = Console(width=200)
    for done in export(config, given.play, given.boards, given.block, given.out):
        with contextlib.suppress(OSError, SystemExit):  # where nobody reads any more, it is written all the same
            say(console, f"{done}: {given.boards} boards")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments and write; what is wrong with them is told in one line."""
    given = _parse(arguments)
    return finish(lambda: _write(given))


if __name__ == "__main__":
    sys.exit(main())
