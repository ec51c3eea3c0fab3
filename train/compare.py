"""`python -m train.compare RUN RUN ...`: finished or unfinished runs side by side, on the terminal and on a page.

python -m train.compare runs/a runs/b                      scores, measures, and the settings in which they differ
python -m train.compare runs/a runs/b --html compared.html the same on a page, with the curves of all of them
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from train import files, folder
from train.command import Parser, finish
from train.metrics import read_table
from train.report import overlay
from train.report.record import COLUMNS, Run, finite, read
from train.terminal import amount, narrowest, number, say

_SHARES = {"cells": "cells\nread", "legal": "legal", "sight": "first\nsight", "formatted": "format"}


def open_run(place: Path) -> Run:
    """What a run's folder holds. Raises ValueError, one line, where that is no run or is damaged."""
    if not (place / "config.json").is_file():
        raise ValueError(f"{place} is not the folder of a run: it has no config.json")
    if folder.is_model(place / "config.json"):
        raise ValueError(f"{place} is the folder of a model, not of a run: give its run")
    if not isinstance(files.read_json(file := place / "config.json"), dict):
        raise ValueError(f"{file} is damaged: it holds no record")
    if damaged := read_table(place / "table.json")[1]:
        raise ValueError(damaged)
    return read(place)


def scores(runs: Sequence[Run]) -> Table:
    """Per game and stage of training, a row a run: the score with its 95 % interval, and what was read and said.

    A star marks a score whose interval lies above those of all other runs at that stage. Runs that differ in nothing
    but their seed have a row more for all of them.
    """
    out = Table(title=Text("Scores by VLM-Gym's protocol, and shares of replies"), title_justify="left")
    out.add_column(Text("game"), no_wrap=True)
    out.add_column(Text("run"), overflow="fold")
    for title in ("score", "95 % interval", *_SHARES.values()):
        out.add_column(Text(title), justify="right", no_wrap=True)
    names, families = overlay.names(runs), overlay.seeds(runs)
    for game in overlay.games_of(runs):
        rows = overlay.results(runs, game)
        out.add_row(Text(f"{game}, {overlay.unit(runs, game)}".replace(" in ", "\nin "), style="bold"))
        for at, (column, i, mark, extra) in enumerate(rows):
            others = [m for c, j, m, _ in rows if c == column and j != i]
            star = "\u2605 " if others and all(mark.low > m.high for m in others) else ""
            shares = (float(value) if finite(value := extra.get(name)) else None for name in _SHARES)
            new = at == 0 or rows[at - 1][0] != column
            title = f"  {COLUMNS.get(column, column)}" if new else ""
            out.add_row(*_row(title, names[i], star, mark, shares))
            if at + 1 == len(rows) or rows[at + 1][0] != column:
                for same in families:
                    found = [(m, e) for c, j, m, e in rows if c == column and j in same]
                    if len(found) > 1:
                        means = (_mean([e.get(name) for _, e in found]) for name in _SHARES)
                        mark = overlay.pooled([m for m, _ in found])
                        out.add_row(*_row("", f"all {len(found)} seeds", "", mark, means), style="bold")
        if not rows:
            out.add_row(Text("  no scores yet"))
        out.add_section()
    return out


def _row(title: str, name: str, star: str, mark: overlay.Mark, shares: Iterable[float | None]) -> Iterator[Text]:
    interval = f"{number(mark.low)} .. {number(mark.high)}"
    return map(Text, (title, name, star + number(mark.mean), interval, *map(amount, shares)))


def _mean(values: Sequence[Any]) -> float | None:
    known = [float(value) for value in values if finite(value)]
    return sum(known) / len(known) if known else None


def settings(runs: Sequence[Run]) -> Table:
    """The settings in which the runs differ: a row a setting, a column a run."""
    out = Table(title=Text("Settings in which they differ"), title_justify="left")
    out.add_column(Text("flag"), no_wrap=True)
    for name in overlay.names(runs):
        out.add_column(Text(name), overflow="fold")
    for key, values in overlay.differences(runs).items():
        out.add_row(Text(f"--{key}"), *map(Text, values))
    return out


def compare(folders: Sequence[Path], page: Path | None, console: Console) -> None:
    """Print the tables, and write the page where one is wanted. Raises ValueError or OSError in one line."""
    if page and (page.is_dir() or not page.resolve().parent.is_dir()):
        raise ValueError(f"--html {page}: give a file, in a folder that there is")
    runs = [open_run(folder) for folder in dict.fromkeys(folders)]
    different = settings(runs)
    tables = [scores(runs), *([different] if different.row_count else [])]
    for table in tables:
        console.print(table, width=max(console.width, narrowest(console, table)), crop=False)
    if not different.row_count and len(runs) > 1:
        say(console, "All of them have the same settings.")
    for run in runs:
        for note in run.notes:
            say(console, f"{run.folder}: {note}")
    if page:
        say(console, f"Page: {overlay.write(runs, page)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments and compare; what is wrong with them is told in one line."""
    parser = Parser("python -m train.compare", "Runs side by side.")
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="the folder of a run")
    parser.add_argument("--html", metavar="FILE", type=Path, help="a page to write, with the curves of all runs")
    given = parser.parse_args(arguments)
    return finish(lambda: compare(given.runs, given.html, Console(width=None if sys.stdout.isatty() else 200)))


if __name__ == "__main__":
    sys.exit(main())
