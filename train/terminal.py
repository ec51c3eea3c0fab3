"""What a run shows on a terminal: progress while it goes, tables at its end. Text in them is never read as markup."""

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from train.report.record import COLUMNS

_LINE_EVERY = 15.0  # seconds between lines where the output is no terminal
_MEASURES = {
    "cells": "cells read right",
    "board": "boards read exactly",
    "legal": "legal replies",
    "reason": "good move when read exactly",
    "sight": "good move at first sight",
    "formatted": "well-formed",
    "cleared": "steps to clear a board",
}
_COUNTED = ("cleared",)  # not a share


def say(console: Console, text: str) -> None:
    """Print a line as it is: no markup, no colours, no breaks, so that a path in it can be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


class _Bars(Progress):
    """Progress bars, and under them what was measured last, in a line that may wrap."""

    values = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(self.values, overflow="fold")


class Display:
    """Progress bars on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = _Bars(
            TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
            BarColumn(bar_width=20),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TextColumn("left", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            console=console,
            disable=not console.is_terminal,
        )
        self.task: TaskID | None = None
        self.stage, self.began, self.told, self.values = "", 0.0, 0.0, ""

    def show(self, stage: str, done: int, total: int, values: dict[str, float]) -> None:
        """Bring the display up to date."""
        now = time.monotonic()
        if values:
            self.values = "  ".join(f"{name} {value:.3g}" for name, value in values.items())
        if stage != self.stage:
            self.stage, self.began, self.told = stage, now, now
            self.task = self.progress.add_task(stage, total=total)
        assert self.task is not None
        self.progress.values = self.values
        self.progress.update(self.task, completed=done, total=total)
        if not self.console.is_terminal and (done == total or now - self.told > _LINE_EVERY):
            self.told, spent = now, now - self.began
            left = spent / max(done, 1) * (total - done)
            say(self.console, f"{stage}: {done}/{total}, {spent:.0f} s, {left:.0f} s left  {self.values}")
        if done == total:
            self.values = ""


def show_results(console: Console, table: dict[str, Any]) -> None:
    """Print what the model read and made of it, and the scores beside the anchors and the published numbers.

    A row a player or a measure, a column a game; where the terminal is too narrow for all games, several tables.
    """
    for make in (_reading, _scores):
        for part in _fitted(console, functools.partial(make, table), list(table["games"])):
            console.print(part, width=max(console.width, narrowest(console, part)), crop=False)


def _fitted(console: Console, make: Callable[[Sequence[str]], Table], names: Sequence[str]) -> list[Table]:
    """Tables of as many columns as go side by side without cutting anything off."""
    for count in range(len(names), 0, -1):
        tables = [make(names[i : i + count]) for i in range(0, len(names), count)]
        if count == 1 or all(narrowest(console, part) <= console.width for part in tables):
            return tables
    return []


def narrowest(console: Console, table: Table) -> int:
    """The width below which something in a table would be cut off."""
    for i, column in enumerate(table.columns):  # of the first, words may go on a line of their own
        texts = [cell for cell in (column.header, *column.cells) if isinstance(cell, Text)]
        lines = [line for text in texts for line in (text.plain.split() if i == 0 else text.plain.splitlines())]
        column.min_width = max(map(cell_len, lines), default=0)
    return table.__rich_measure__(console, console.options.update(width=10_000)).minimum


def _grid(title: str, games: Sequence[str], units: Sequence[str]) -> Table:
    out = Table(title=Text(title), title_justify="left")
    out.add_column(Text(""), overflow="fold")
    for game, unit in zip(games, units, strict=True):
        out.add_column(Text(f"{game}\n{unit}" if unit else game), justify="right", no_wrap=True)
    return out


def _scores(table: dict[str, Any], games: Sequence[str]) -> Table:
    """The scores: mean and 95 % interval."""
    entries = [table["games"][game] for game in games]
    units = [str(entry.get("unit", "")).replace(" in ", "\nin ") for entry in entries]
    out = _grid("Scores by VLM-Gym's protocol: mean and 95 % interval, fresh boards", games, units)
    for column in table["order"]:
        cells = (_score(entry["columns"].get(column)) for entry in entries)
        out.add_row(Text(COLUMNS.get(column, column)), *cells, end_section=True)
    for name in dict.fromkeys(name for entry in entries for name in entry.get("published", {})):
        cells = (Text(str(entry.get("published", {}).get(name, "-"))) for entry in entries)
        out.add_row(Text(f"{name}, published"), *cells)
    return out


def _score(score: dict[str, Any] | None) -> Text:
    if not score:
        return Text("-")
    return Text(f"{number(score['mean'])}\n{number(score['low'])} .. {number(score['high'])}")


def number(value: float | None) -> str:
    """A score."""
    return "-" if value is None else f"{value:.0f}" if abs(value) >= 200 else f"{value:.2f}"


def amount(value: float | None, measure: str = "") -> str:
    """A measure of the evaluation: a share, or a count."""
    return "-" if value is None else f"{value:.1f}" if measure in _COUNTED else f"{100 * value:.1f} %"


def _reading(table: dict[str, Any], games: Sequence[str]) -> Table:
    """What the model saw and what it made of it."""
    entries = [table["games"][game] for game in games]
    heats = {extra.get("temperature") for entry in entries for extra in entry["extra"].values()} - {None}
    sampled = f", sampled at temperature {', '.join(f'{heat:g}' for heat in sorted(heats))}" if heats else ""
    out = _grid(f"Reading and reasoning, over all steps of the evaluation{sampled}", games, [""] * len(games))
    columns = [column for column in table["order"] if any(column in entry["extra"] for entry in entries)]
    for measure, title in _MEASURES.items():
        if not any(entry["extra"].get(column, {}).get(measure) is not None for entry in entries for column in columns):
            continue
        out.add_row(Text(title), *[Text("")] * len(games))
        for column in columns:
            shares = (entry["extra"].get(column, {}).get(measure) for entry in entries)
            cells = (Text(amount(share, measure)) for share in shares)
            out.add_row(Text(f"  {COLUMNS.get(column, column)}"), *cells, end_section=column == columns[-1])
    return out
