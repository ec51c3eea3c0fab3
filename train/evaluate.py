"""`python -m train.evaluate`: test a model on games by VLM-Gym's protocol; a saved one, or whatever writes replies.

python -m train.evaluate --model runs/NAME/model --games swap --out tested/swap
python -m train.evaluate --player mine:answer --games all --boards 32 --out tested/mine

A player is a function of yours that is given pictures, NumPy uint8 [H, W, 3], and prompts, and gives a reply to each.
It may ask another program, or another machine:

def answer(pictures: list[np.ndarray], prompts: list[str]) -> list[str]
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

import jaxgym
from jaxgym import own
from policy import PRESETS
from train import files, folder, learner, report, rewards
from train.command import Parser, finish, one_line, out_of_memory, wake
from train.config import Config
from train.course import PAPER, make, prepare
from train.metrics import Records
from train.parts import Episodes, Evaluation, Grpo
from train.protocol import Answers, ModelWriter, Writer
from train.rollout import play_groups, show
from train.scoreboard import Scoreboard
from train.terminal import Display, say, show_results

REPLIES = "replies.jsonl"  # in the folder: what a player has said so far
_SIDE = 28  # pixels of a cell, where a player is shown a picture of a side that the game chooses
Player = Callable[[list[np.ndarray], list[str]], list[str]]


class PlayerWriter:
    """A player of the user's. What it says is kept in a file, and not asked again where it stands there already."""

    def __init__(self, game: jaxgym.Game[Any], player: Player, name: str, file: Path) -> None:
        self.game, self._player, self._name, self._file = game, player, name, file
        files.end_line(file)
        rows = files.read_lines(file) if file.exists() else []
        self._known: dict[tuple[Any, Any], dict[str, Any]] = {
            (row.get("board"), row.get("step")): row
            for row in rows
            if row.get("game") == game.name
            and isinstance(row.get("reply"), str)
            and all(isinstance(row.get(name), int) for name in ("board", "step"))
        }
        self._first, self._step = 0, 0  # of the boards that are played now; of the protocol
        self._played = 0  # boards behind these
        self.prompt = jaxgym.prompt(game) + f"Cells are called: {', '.join(dict.fromkeys(game.sheet.names))}\n"

    def begin(self) -> None:
        """The boards that follow are fresh ones."""
        self._first, self._step = self._played, 0

    def answer(self, state: Any, playing: np.ndarray, key: jax.Array, luck: jax.Array) -> Answers:
        """Have the player reply to the boards in play."""
        del key
        seen, tiles = map(np.asarray, show(self.game, state))
        self._played = self._first + len(playing)
        known = [self._known.get((self._first + i, self._step), {}) for i in range(len(playing))]
        texts = [row.get("reply", "") for row in known]
        asked = [i for i in np.flatnonzero(playing).tolist() if not known[i]]
        if asked and not self._step:  # have it compiled before anything is said that a signal could lose
            play_groups(self.game, state, np.full(len(playing), -1, np.int32), luck)
        for i, text in zip(asked, self._ask([seen[i] for i in asked]) if asked else [], strict=True):
            texts[i] = text
        said: Answers | None = None
        try:
            said = self._judged(state, seen, tiles, texts, luck)
        finally:  # what broke off before it was judged is told again, with its outcome
            new = [i for i in np.flatnonzero(playing).tolist() if "legal" not in known[i]] if said else asked
            if new:
                files.append(self._file, *(self._row(texts[i], said, i) for i in new))
        return said

    def _judged(self, state: Any, seen: np.ndarray, tiles: np.ndarray, texts: list[str], luck: jax.Array) -> Answers:
        truths = [jaxgym.describe(self.game.sheet, grid) for grid in tiles]
        reading = rewards.read([jaxgym.read_reply(self.game, text) for text in texts], truths)
        played = play_groups(self.game, state, reading.actions, luck)
        legal, score = map(np.asarray, (played.legal, played.reward))
        return Answers(seen, texts, truths, reading, legal, rewards.sound(self.game.name, score))

    def remember(self, said: Answers, dealt: np.ndarray) -> None:
        """What was said is past; a player is told of nothing but the boards it sees."""
        del said, dealt
        self._step += 1

    def _ask(self, pictures: list[np.ndarray]) -> list[str]:
        wrong = f"--player {self._name}"
        try:
            texts = self._player([*pictures], [self.prompt] * len(pictures))
        except (Exception, SystemExit) as error:  # whatever a user's function does
            raise ValueError(f"{wrong} failed: {type(error).__name__}: {one_line(error)}") from error
        if not isinstance(texts, list | tuple):
            raise ValueError(
                f"{wrong} gave a {type(texts).__name__}: a list of str, one for each picture, is asked for"
            )
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"{wrong} gave a {type(text).__name__} as reply {i}: give a str, '' for none")
        if len(texts) != len(pictures):
            raise ValueError(f"{wrong} gave {len(texts)} replies to {len(pictures)} pictures")
        return list(texts)

    def _row(self, text: str, said: Answers | None, i: int) -> dict[str, Any]:
        row = {"game": self.game.name, "board": self._first + i, "step": self._step, "reply": text}
        if said is None:
            return row
        action = int(said.reading.actions[i])
        return row | {
            "action": self.game.actions.format(action) if action >= 0 else None,
            "legal": bool(said.legal[i]),
            "score": float(said.score[i]),
            "cells": float(said.reading.cells[i]),
        }


def examined(config: Config, player: str, out: Path) -> Iterator[tuple[str, int, int]]:
    """Evaluate on every game of a configuration, into a folder; yields stages, what is done of them, and of how much.

    player: MODULE:FUNCTION; "": the configuration's model. What stands in the folder already is not done again.
    """
    key = jax.random.key(config.seed)
    records = Records(out)
    column, writers = ("player", _players(config, player, out)) if player else ("model", _models(config, key, records))
    records.forget_samples()
    scores = Scoreboard(records)
    part = config.evaluation
    for name, (game, writer) in zip(config.names(), writers, strict=True):
        heat = None if player else part.temperature
        for done, total in scores.test(name, game, column, writer, key, part.boards, heat):
            yield game.name, done, total
        for _ in scores.test_anchors(name, game, key, part.boards):
            pass
    report.write(out)


def _players(config: Config, player: str, out: Path) -> list[tuple[jaxgym.Game[Any], Writer]]:
    function = own.function(player, "--player")
    games = [make(name, PAPER, config.picture, _SIDE, config.photos) for name in config.names()]
    return [(game, PlayerWriter(game, function, player, out / REPLIES)) for game in games]


def _models(config: Config, key: jax.Array, records: Records) -> list[tuple[jaxgym.Game[Any], Writer]]:
    vlm, courses, _ = prepare(config, key)
    bits = learner.fingerprint(vlm.params)
    if records.table.setdefault("model", bits) != bits:
        raise ValueError(f"{records.run} is of the model that {config.model} was before: give another --out")
    given, history = config.evaluation.temperature, (config.episodes.history, config.episodes.pictures)
    languages = [courses[name].language for name in config.names()]
    return [(each.game, ModelWriter(vlm.graphdef, vlm.params, each, given, history)) for each in languages]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("python -m train.evaluate", "Test a model on games by VLM-Gym's protocol.")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument(
        "--model", metavar="FOLDER", help="of a saved model or of adapters: a run's, or one of Hugging Face"
    )
    who.add_argument(
        "--player",
        metavar="MODULE:FUNCTION",
        help="a function of yours, given a list of pictures (NumPy, uint8 [H, W, 3]) and a list of prompts (str), and "
        "giving a list of replies (str); what a call has returned is kept, and not asked again",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="of the results; gone on with where it was stopped"
    )
    parser.add_argument("--games", default="all", metavar="NAME,...", help="(default: all)")
    parser.add_argument("--boards", type=int, default=32, help="fresh boards of each game (default: 32)")
    parser.add_argument(
        "--picture", type=int, help="side in pixels (default: 448 for a player, for a model as in train.main)"
    )
    parser.add_argument("--photos", default="digits", help="as in train.main (default: digits)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    for flag, kind, says in (
        ("--temperature", float, "of sampling (default: 0.7)"),
        ("--reply", int, "tokens that a reply may have (default: what a written one needs, and some more)"),
        ("--dtype", str, "of the computation, float32 or bfloat16 (default: float32)"),
        ("--history", int, "turns before that the prompt shows (default: 0)"),
        ("--pictures", int, "in a prompt: of the present turn and the last ones before it (default: 1)"),
    ):
        parser.add_argument(flag, type=kind, help=f"of a --model: {says}")
    return parser.parse_args(arguments)


def _configured(given: argparse.Namespace) -> Config:
    """What the flags say, as the configuration of a run that learns nothing. Raises ValueError for what cannot be."""
    of_models = {name: getattr(given, name) for name in ("temperature", "reply", "dtype", "history", "pictures")}
    of_models = {name: value for name, value in of_models.items() if value is not None}
    if given.player and of_models:
        raise ValueError(f"--{min(of_models)} is of a --model: a player of yours decides that itself")
    config = Config(
        games=tuple(given.games.split(",")),
        model=given.player or given.model,
        recipe="g0",
        seed=given.seed,
        photos=given.photos,
        picture=(448 if given.player else 0) if given.picture is None else given.picture,
        grpo=Grpo(updates=0),
        evaluation=Evaluation(boards=given.boards, temperature=of_models.get("temperature", 0.7)),
        episodes=Episodes(history=of_models.get("history", 0), pictures=of_models.get("pictures", 1)),
        **{name: of_models[name] for name in ("reply", "dtype") if name in of_models},
    )
    (replace(config, model=next(iter(PRESETS))) if given.player else config).check()
    if not given.player and given.model in PRESETS:
        raise ValueError(f"--model {given.model} is a preset, which has learned nothing: give a folder")
    return config


def _run(given: argparse.Namespace, console: Console) -> None:
    config, out = _configured(given), given.out
    wake()
    begun = out.exists() and not (out.is_dir() and not any(out.iterdir()))
    if begun and (not (out / "config.json").is_file() or folder.read_config(out / "config.json") != config):
        raise ValueError(
            f"{out} is there already, and of something else: give another --out, or the flags it was made by"
        )
    if begun:
        say(console, f"going on with {folder.quoted(out)}")
    else:
        out.mkdir(parents=True, exist_ok=True)
        folder.write_config(out, config)
    display = Display(console)
    try:
        with folder.held(out), display.progress:
            for stage, done, total in examined(config, given.player or "", out):
                display.show(stage, done, total, {})
    except KeyboardInterrupt:
        say(console, "stopped; to go on, give the same command again")
        raise
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise ValueError("out of memory: lower --boards, or give --dtype bfloat16") from None
    finally:
        if not begun and not (out / REPLIES).exists() and not (out / "table.json").exists():
            shutil.rmtree(out, ignore_errors=True)  # nothing has come of it
    show_results(console, Records(out).table)
    say(console, f"Report: {folder.quoted(out / 'report.html')}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments and evaluate; what is wrong with them is told in one line."""
    given = _parse(arguments)
    return finish(lambda: _run(given, Console(width=None if sys.stdout.isatty() else 200)))


if __name__ == "__main__":
    sys.exit(main())
