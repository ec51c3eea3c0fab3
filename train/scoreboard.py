"""The table of a run: who scored what on which game, and replies to show beside it."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxgym.game import Game
from train import rewards
from train.metrics import Records
from train.protocol import Result, Score, Writer, anchors, evaluate, keys_of, protocol

_ORDER = ("random", "random_legal", "teacher", "player", "model", "sight", "base", "coldstart", "grpo")
_SAMPLES = 3  # replies of a game in a column


class Scoreboard:
    """Fills the table of a run's records: a column a player, an entry a game."""

    def __init__(self, records: Records) -> None:
        self.records = records

    def test(
        self,
        name: str,
        game: Game[Any],
        column: str,
        writer: Writer,
        key: jax.Array,
        boards: int,
        temperature: float | None,
        step: int = 0,
    ) -> Iterator[tuple[int, int]]:
        """Have someone play so many boards of the game of that name, and enter the score; nothing where it stands there
        already. key: of the seed. Yields how much is done, of how much.
        """
        if self.has(game, column):
            return
        for event in evaluate(game, writer, keys_of(key, name)[0], boards, temperature):
            if isinstance(event, int):
                yield event, boards * protocol(game).steps
            else:
                self.enter_model(game, column, event, step)
        self.keep()

    def test_anchors(self, name: str, game: Game[Any], key: jax.Array, boards: int) -> Iterator[tuple[int, int]]:
        """The same of the players without a model."""
        if self.has(game, "teacher"):
            return
        for done, (player, score) in enumerate(anchors(game, keys_of(key, name)[1], boards)):
            self.enter(game, player, score)
            yield done + 1, 3
        self.keep()

    def has(self, game: Game[Any], column: str) -> bool:
        """Whether a player's score on a game stands there already."""
        return column in self._entry(game)["columns"]

    def enter(self, game: Game[Any], column: str, score: Score) -> None:
        """Enter a score."""
        self._entry(game)["columns"][column] = score._asdict()
        table = self.records.table
        table["order"] = [c for c in _ORDER if c in {*table["order"], column}]

    def enter_model(self, game: Game[Any], column: str, result: Result, step: int) -> None:
        """Enter what a model did, with some of its replies; `step` is that of the column's phase."""
        self.enter(game, column, result.score)
        names = ("cells", "board", "legal", "reason", "formatted", "sight", "cleared", "temperature")
        extra = {name: getattr(result, name) for name in names}
        self._entry(game)["extra"][column] = {name: value for name, value in extra.items() if value is not None}
        tried = result.first
        for i, picture in enumerate(np.asarray(tried.pictures[:_SAMPLES])):
            action = int(tried.reading.actions[i])
            row = {
                "game": game.name,
                "phase": column,
                "step": step,
                "reply": tried.texts[i],
                "truth": tried.truths[i],
                "action": game.actions.format(action) if action >= 0 else None,
                "legal": bool(tried.legal[i]),
                "reward": float(rewards.outcome(tried.legal, tried.score)[i]),
                "cells": float(tried.reading.cells[i]),
            }
            self.records.sample(f"{game.name}-{column}-{i}", picture, row)

    def keep(self) -> None:
        """Write the table."""
        self.records.keep_table()

    def _entry(self, game: Game[Any]) -> dict[str, Any]:
        rules = protocol(game)
        empty = {"columns": {}, "extra": {}, "unit": rules.unit, "published": dict(rules.published)}
        entry: dict[str, Any] = self.records.table["games"].setdefault(game.name, empty)
        return entry
