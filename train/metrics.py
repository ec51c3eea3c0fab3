"""The run folder's records: metrics.jsonl, table.json, samples."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


class Records:
    """Writes what a run measures into its folder, as it goes."""

    def __init__(self, run: Path) -> None:
        self.run = run
        (run / "samples").mkdir(parents=True, exist_ok=True)

    def log(self, phase: str, step: int, seconds: float, game: str | None, values: dict[str, Any]) -> None:
        """One line of metrics.jsonl: scalars of one game, or of the whole run (game None)."""
        row = {"phase": phase, "step": step, "seconds": round(seconds, 2), "game": game}
        self._append("metrics.jsonl", row | {k: round(float(v), 6) for k, v in values.items()})

    def forget_after(self, steps: dict[str, int]) -> None:
        """Drop metrics of steps that a resumed run will do again: keep, of every phase, those up to its step."""
        file = self.run / "metrics.jsonl"
        if file.exists():
            rows = [row for row in read_lines(file) if row["step"] <= steps.get(row["phase"], 0)]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def sample(self, name: str, picture: np.ndarray, row: dict[str, Any]) -> None:
        """A reply beside its picture: uint8 [H, W, 3]."""
        file = f"samples/{name}.png"
        scale = max(1, 224 // picture.shape[0])
        Image.fromarray(picture.repeat(scale, 0).repeat(scale, 1)).save(self.run / file)
        self._append("samples.jsonl", {"picture": file, **row})

    def table(self) -> dict[str, Any]:
        """The results so far."""
        file = self.run / "table.json"
        return json.loads(file.read_text()) if file.exists() else {"games": {}, "order": []}

    def write_table(self, table: dict[str, Any]) -> None:
        """Replace the results."""
        (self.run / "table.json").write_text(json.dumps(table, indent=1) + "\n")

    def _append(self, file: str, row: dict[str, Any]) -> None:
        with (self.run / file).open("a") as out:
            out.write(json.dumps(row) + "\n")


def read_lines(file: Path) -> Iterable[dict[str, Any]]:
    """The whole lines of a jsonl file; a last line cut short by a crash is passed over."""
    for line in file.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue
