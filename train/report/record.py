"""A run folder as a record: `read` takes what stands in it now, and never raises for what the files hold."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from train.report.charts import Phase

PHASES = {"sight": "sight", "base": "base", "coldstart": "cold start", "grpo": "RL"}
COLUMNS = {
    "random": "uniform random",
    "random_legal": "random legal",
    "teacher": "teacher",
    "player": "player",
    "model": "the model",
    "sight": "after sight",
    "base": "base model",
    "coldstart": "after cold start",
    "grpo": "after RL",
}

Series = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]  # metric -> phase -> steps, values: float64 [n]


class Run(NamedTuple):
    """What a run folder holds, as far as it can be read."""

    folder: Path
    config: dict[str, Any]
    table: dict[str, dict[str, Any]]  # by game
    order: list[str]  # columns of the table
    series: dict[str | None, Series]  # by game; None for the whole run
    phases: list[Phase]
    seconds: float
    samples: list[dict[str, Any]]
    games: list[str]
    tested: bool  # it learned nothing: a model, or another player, was evaluated
    notes: list[str]  # what could not be read


def read(folder: Path) -> Run:
    """Read a run folder; never raises for what the files hold."""
    notes: list[str] = []
    config = as_dict(_json(folder / "config.json", "the configuration", notes))
    document = as_dict(_json(folder / "table.json", "the final table, written by the evaluation at the end,", notes))
    tested = as_dict(config.get("grpo")).get("updates") == 0 and not (folder / "metrics.jsonl").exists()
    records = [] if tested else _lines(folder / "metrics.jsonl", "measurements", notes)
    samples = _lines(folder / "samples.jsonl", "sample replies", notes)
    records = [r for r in records if isinstance(r.get("phase"), str) and finite(r.get("step"))]
    series, phases, seconds = _measure(records)
    table = {str(game): as_dict(row) for game, row in as_dict(document.get("games")).items()}
    present = {name for row in table.values() for name in as_dict(row.get("columns"))}
    order = [str(c) for c in as_list(document.get("order"))] or list(COLUMNS)
    named, measured = as_list(config.get("games")), [*table, *series, *(s.get("game") for s in samples)]
    named = [*measured, *named] if "all" in named else [*named, *measured]  # those measured are in their order
    games = list(dict.fromkeys(g for g in named if isinstance(g, str)))
    return Run(
        folder=folder,
        config=config,
        table=table,
        order=[c for c in dict.fromkeys([*order, *sorted(present)]) if c in present],
        series=series,
        phases=phases,
        seconds=seconds,
        samples=samples,
        games=[g for g in games if g != "all"] or games,
        tested=tested,
        notes=notes,
    )


def _json(path: Path, what: str, notes: list[str]) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        notes.append(f"{path.name} is not there yet: {what} will stand here.")
    except (OSError, ValueError, RecursionError):
        notes.append(f"{path.name} cannot be read (half written, perhaps): {what} is left out.")
    return None


def _lines(path: Path, what: str, notes: list[str]) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        notes.append(f"{path.name} is not there yet: {what} will stand here.")
        return []
    records, broken = [], 0
    for line in filter(str.strip, text.split("\n")):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        records += [record] if isinstance(record, dict) else []
        broken += not isinstance(record, dict)
    if broken:
        notes.append(f"{path.name}: {broken} broken or half-written line{'s' * (broken > 1)} left out.")
    return records


def as_dict(value: Any) -> dict[str, Any]:
    """The value where it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """The value where it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def finite(value: Any) -> TypeGuard[float]:
    """Whether it is a number that can be drawn."""
    return isinstance(value, int | float) and abs(value) < 1e30 and math.isfinite(value)


def _measure(records: Sequence[dict[str, Any]]) -> tuple[dict[str | None, Series], list[Phase], float]:
    """Records as series. A step measured again (after a resume) counts as it was measured last."""
    known = [p for p in PHASES if any(r["phase"] == p for r in records)]
    names = dict.fromkeys([*known, *(r["phase"] for r in records)])
    spent = dict.fromkeys(names, 0.0)
    clock = 0.0
    values: dict[str | None, dict[str, dict[str, dict[float, float]]]] = {}
    for record in records:
        now = float(record["seconds"]) if finite(record.get("seconds")) else clock
        spent[record["phase"]] += max(now - clock, 0.0)  # a clock that went back was a resumed run's
        clock = now
        game = record.get("game")
        for name, value in record.items():
            if name not in ("phase", "step", "seconds", "game") and finite(value) and isinstance(game, str | None):
                at = values.setdefault(game, {}).setdefault(name, {}).setdefault(record["phase"], {})
                at[record["step"]] = float(value)
    series = {
        game: {name: {phase: _sorted(at) for phase, at in phases.items()} for name, phases in metrics.items()}
        for game, metrics in values.items()
    }
    steps = {name: [int(r["step"]) for r in records if r["phase"] == name] for name in names}
    phases = [
        Phase(name=n, title=PHASES.get(n, n), first=min(at), last=max(at), seconds=spent[n]) for n, at in steps.items()
    ]
    return series, phases, sum(spent.values())


def _sorted(at: dict[float, float]) -> tuple[np.ndarray, np.ndarray]:
    steps = sorted(at)
    return np.asarray(steps, np.float64), np.asarray([at[s] for s in steps], np.float64)
