"""The run folder's records: metrics.jsonl, table.json, samples."""

import io
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from train import devices, files

Table = dict[str, Any]  # {"games": {name: {"columns": ..., "extra": ...}}, "order": [column, ...]}


class Follower(Protocol):
    """Someone who is told what is written, as it is."""

    def measured(self, row: dict[str, Any]) -> None: ...

    def scored(self, table: Table) -> None: ...

    def sampled(self, row: dict[str, Any], picture: np.ndarray) -> None: ...


class Records:
    """Writes what a run measures into its folder, as it goes; the first process does. `table`: the results so far."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.follower: Follower | None = None
        self._writes = devices.is_first()
        if self._writes:
            (run / "samples").mkdir(parents=True, exist_ok=True)
            for name in ("metrics.jsonl", "samples.jsonl"):
                files.end_line(run / name)
        self.table, self.damaged = read_table(run / "table.json")  # and what is wrong with it, "" if nothing is

    def log(self, phase: str, step: int, seconds: float, game: str | None, values: dict[str, Any]) -> None:
        """One line of metrics.jsonl: scalars of one game, or of the whole run (game None); null where not finite."""
        row: dict[str, Any] = {"phase": phase, "step": step, "seconds": round(seconds, 2), "game": game}
        row |= {k: float(f"{float(v):.7g}") for k, v in values.items()}
        self._append("metrics.jsonl", row)
        if self.follower:
            self.follower.measured(row)

    def forget_after(self, steps: dict[str, int]) -> None:
        """Drop metrics of steps that a resumed run will do again: keep, of every phase, those up to its step."""
        file = self.run / "metrics.jsonl"
        if self._writes and file.exists():
            rows = [row for row in files.read_lines(file) if isinstance(row.get("step"), int)]
            kept = [files.to_json(row) + "\n" for row in rows if row["step"] <= steps.get(str(row.get("phase")), 0)]
            files.write(file, "".join(kept))

    def forget_samples(self) -> None:
        """Drop replies beside scores that are not in the table: what they show will be played again."""
        file, games = self.run / "samples.jsonl", self.table["games"]
        if self._writes and file.exists():
            rows = files.read_lines(file)
            kept = [
                row for row in rows if str(row.get("phase")) in games.get(str(row.get("game")), {}).get("columns", ())
            ]
            if len(kept) < len(rows):
                files.write(file, "".join(files.to_json(row) + "\n" for row in kept))

    def sync(self) -> None:
        """Have the disk hold the metrics so far, also where there are none yet: a checkpoint that outlives a loss of
        power relies on them.
        """
        if self._writes:
            with (self.run / "metrics.jsonl").open("a") as out:
                os.fsync(out.fileno())

    def sample(self, name: str, picture: np.ndarray, row: dict[str, Any]) -> None:
        """A reply beside its picture: uint8 [H, W, 3]."""
        if not self._writes:
            return
        file, packed = f"samples/{files.portable(name)}.png", io.BytesIO()
        scale = max(1, 224 // picture.shape[0])
        picture = picture.repeat(scale, 0).repeat(scale, 1)
        Image.fromarray(picture).save(packed, "PNG")
        files.write(self.run / file, packed.getvalue())
        row = {"picture": file, **row}
        self._append("samples.jsonl", row)
        if self.follower:
            self.follower.sampled(row, picture)

    def mend_table(self, kept: Table) -> str:
        """Take the results that a checkpoint kept where those of the folder are damaged or missing; says which, in one
        line, "" if neither.
        """
        why = f"{self.damaged}; it is kept as table-damaged.json, and" if self.damaged else ""
        if not why and kept.get("games") and not self.table["games"]:
            why = f"{self.run / 'table.json'} is missing:"
        if not why:
            return ""
        self.table |= kept
        self.keep_table()
        return f"{why} the results of the last checkpoint stand" if kept else f"{why} its scores will be measured anew"

    def keep_table(self) -> None:
        """Write the results as they are now; one that was damaged is kept aside."""
        if not self._writes:
            return
        file = self.run / "table.json"
        if self.damaged and file.exists():
            file.rename(file.with_name("table-damaged.json"))
        self.damaged = ""
        files.write(file, files.to_json(self.table, indent=1) + "\n")
        if self.follower:
            self.follower.scored(self.table)

    def _append(self, file: str, row: dict[str, Any]) -> None:
        if self._writes:
            files.append(self.run / file, row)


def read_table(file: Path) -> tuple[Table, str]:
    """The results in a file, none where there is none or it is damaged; and what is wrong with it, "" if nothing is."""
    empty: Table = {"games": {}, "order": []}
    try:
        table = files.read_json(file)
    except FileNotFoundError:
        return empty, ""
    except ValueError as error:
        return empty, str(error)
    try:
        entries = [(dict(e["columns"]), dict(e["extra"])) for e in table["games"].values()]
        sound = all({"mean", "low", "high"} <= set(c) for columns, _ in entries for c in columns.values())
        sound = sound and all(isinstance(name, str) for name in table["order"])
    except (AttributeError, KeyError, TypeError, ValueError):
        sound = False
    return (table, "") if sound else (empty, f"{file} is damaged: it is no table of results")
