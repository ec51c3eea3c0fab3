"""`python -m train.main`: flags -> Config -> loop. The only file that prints.

python -m train.main --games all                    all games, from scratch, on whatever device there is
python -m train.main --games 2048,swap --seed 1     some of them
python -m train.main --resume runs/2026-01-31-1200  go on where a run stopped
"""

import argparse
import dataclasses
import difflib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from train.config import Config
from train.report.record import COLUMNS

_LINE_EVERY = 15.0  # seconds between lines where the output is no terminal


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the flags in one line, with near misses."""

    def error(self, message: str) -> NoReturn:
        known = [option for action in self._actions for option in action.option_strings]
        for word in message.split():
            if word.startswith("--") and "unrecognized" in message:
                near = difflib.get_close_matches(word.split("=")[0], known, n=2)
                message = f"no flag {word}" + (f": did you mean {' or '.join(near)}?" if near else "")
                break
        self.exit(2, f"error: {message} (--help lists all flags)\n")


def parser() -> argparse.ArgumentParser:
    """Every field of Config as a flag; those of its parts with the part's name in front."""
    out = _Parser(
        prog="python -m train.main", description="Train a vision-language model on visual games.", allow_abbrev=False
    )
    out.add_argument("--resume", metavar="RUN", help="go on with a run that was stopped; takes no other flag")
    for field in dataclasses.fields(Config):
        if dataclasses.is_dataclass(field.default):
            part = field.default
            group = out.add_argument_group(field.name, (type(part).__doc__ or "").strip())
            for inner in dataclasses.fields(part):
                _add(group, f"{field.name}-{inner.name}", inner, getattr(part, inner.name))
        else:
            _add(out, field.name, field, field.default)
    return out


def _add(group: Any, name: str, field: Any, default: Any) -> None:
    shown = ",".join(default) if isinstance(default, tuple) else default
    kind: dict[str, Any] = {"type": type(default)}
    if get_origin(field.type) is Literal:
        kind = {"choices": get_args(field.type)}
    elif isinstance(default, bool):
        kind = {"action": argparse.BooleanOptionalAction}
    elif isinstance(default, tuple):
        kind = {"type": lambda text: tuple(text.split(",")), "metavar": "NAME,..."}
    text = field.metadata["help"].replace("%", "%%") + (f" (default: {shown})" if shown != "" else "")
    group.add_argument(f"--{name}", default=argparse.SUPPRESS, help=text, **kind)


def read_config(flags: dict[str, Any]) -> Config:
    """The configuration that flags ask for; raises ValueError for values that cannot be."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        if dataclasses.is_dataclass(field.default):
            own = {n: flags[k] for k in flags for n in [k.removeprefix(field.name + "_")] if n != k}
            changes[field.name] = dataclasses.replace(field.default, **own)  # type: ignore[type-var]
        elif field.name in flags:
            changes[field.name] = flags[field.name]
    return Config(**changes)


class Display:
    """Progress bars on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
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
            self.task = self.progress.add_task(stage, total=total, values="")
        assert self.task is not None
        self.progress.update(self.task, completed=done, total=total, values=self.values)
        if not self.console.is_terminal and (done == total or now - self.told > _LINE_EVERY):
            self.told, spent = now, now - self.began
            left = spent / max(done, 1) * (total - done)
            self.console.print(
                f"{stage}: {done}/{total}, {spent:.0f} s, {left:.0f} s left  {self.values}", highlight=False
            )
        if done == total:
            self.values = ""


def results(table: dict[str, Any]) -> Table:
    """The final table: mean and 95 % interval, beside the anchors and the published numbers."""
    out = Table(title="Scores by VLM-Gym's protocol: mean and 95 % interval, fresh boards", title_justify="left")
    published = list(dict.fromkeys(name for entry in table["games"].values() for name in entry["published"]))
    for title in ("game", *(COLUMNS[c] for c in table["order"]), *(f"{name}, published" for name in published)):
        out.add_column(title, justify="left" if title == "game" else "right")
    for name, entry in table["games"].items():
        cells = [f"{name}\n{entry['unit']}"]
        for column in table["order"]:
            score = entry["columns"].get(column)
            cells.append(
                f"{_number(score['mean'])}\n{_number(score['low'])} .. {_number(score['high'])}" if score else "-"
            )
        out.add_row(*cells, *(f"{entry['published'].get(p, '-')}" for p in published), end_section=True)
    return out


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 200 else f"{value:.2f}"


def reading(table: dict[str, Any]) -> Table:
    """What the model saw and what it made of it."""
    out = Table(title="Reading and reasoning, over all steps of the evaluation", title_justify="left")
    titles = ("cells read right", "boards read exactly", "legal replies", "good move when read exactly", "well-formed")
    for title in ("game", "model", *titles):
        out.add_column(title, justify="right" if title in titles else "left")
    for name, entry in table["games"].items():
        for column, extra in entry["extra"].items():
            keys = ("cells", "board", "legal", "reason", "formatted")
            out.add_row(name, COLUMNS[column], *(f"{100 * extra[k]:.1f} %" for k in keys))
    return out


def _new_run(config: Config) -> Path:
    run = Path(config.run or time.strftime("runs/%Y-%m-%d-%H%M%S"))
    if run.exists():
        raise ValueError(f"{run} exists already: give another --run, or go on with it: --resume {run}")
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    return run


def _old_run(run: Path) -> Config:
    try:
        return Config.from_dict(json.loads((run / "config.json").read_text()))
    except FileNotFoundError:
        raise ValueError(f"{run} is not the folder of a run: it has no config.json") from None
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{run}/config.json is damaged: {error}") from None


def start(flags: dict[str, Any], console: Console) -> int:
    """Run what the flags ask for; returns the exit status."""
    resumed = flags.pop("resume", None)
    if resumed is not None and flags:
        raise ValueError("--resume takes no other flag: a run goes on with the configuration it began with")
    config = _old_run(Path(resumed)) if resumed is not None else read_config(flags)
    config.check()
    run = Path(resumed) if resumed is not None else _new_run(config)

    import jax  # after the flags have been read: a mistake in them is told at once

    from train import report
    from train.loop import Trainer

    device = jax.devices()[0]
    console.print(
        f"run {run}: {', '.join(config.names())} on {jax.device_count()} x {device.device_kind}", highlight=False
    )
    try:
        trainer = Trainer(config, run)
    except ValueError:
        if resumed is None:
            shutil.rmtree(run)  # made just now, and nothing is in it
        raise
    if resumed is not None:
        found = trainer.resume()
        where = f"{trainer.phase} step {trainer.step}" if found else "the beginning: there is no checkpoint yet"
        console.print(f"going on from {where}", highlight=False)
    display = Display(console)
    try:
        with display.progress:
            for event in trainer.events():
                display.show(*event)
    except KeyboardInterrupt:
        console.print(f"stopped at {trainer.phase} step {trainer.step}; saving", highlight=False)
        trainer.save()
        console.print(f"saved. To go on: python -m train.main --resume {run}", highlight=False)
        return 130
    finally:
        trainer.checkpoints.close()
        page = report.write(run)
    table = trainer.records.table()
    console.print(reading(table), results(table), sep="\n")
    console.print(
        f"{time.monotonic() - trainer.began:.0f} s in all. Report: {page}  Model: {run / 'model'}", highlight=False
    )
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags and run; what is wrong with them is told in one line."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    try:
        return start(vars(parser().parse_args(arguments)), console)
    except KeyboardInterrupt:
        console.print("stopped before there was anything to save", highlight=False)
        return 130
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {str(error).splitlines()[0]}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
