"""Where else a run's measurements go while it goes on: TensorBoard, Weights & Biases.

Scalars are called `phase/game/name`, those of the whole run `phase/run/name`, scores `phase/game/evaluation/name`;
their steps are those of the phase. The run's folder is what counts and trackers are told what stands in it: one that
fails is switched off, and a run that goes on tells them everything from its folder again, which doubles nothing.
"""

import difflib
import importlib
import importlib.util
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from train import files
from train.config import Config
from train.metrics import Records, Table
from train.report.record import finite

_PATIENCE = 120.0  # seconds that sending what is left may take at the end


class Entry(NamedTuple):
    """Something to tell a tracker."""

    phase: str
    step: int  # of the phase
    number: int  # of the entry's step among those of all phases, the evaluation of a game after one counted as a step
    time: float  # seconds since 1970
    scalars: dict[str, float]  # by tag
    lasting: bool = False  # scalars are results, not one of many measurements
    picture: np.ndarray | None = None  # uint8 [H, W, 3], what the model saw
    tag: str = ""  # of the picture
    reply: str = ""  # to the picture


class Tracker(Protocol):
    """Somewhere to put entries."""

    def write(self, entry: Entry) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run's folder `tensorboard`, written anew by every run that begins or goes on."""

    package = "tensorboardX"

    def __init__(self, config: Config, run: Path) -> None:
        del config  # stands in the folder above
        module = importlib.import_module(self.package)
        where = run / "tensorboard"
        for file in where.glob("events.out.tfevents.*"):
            file.unlink()
        # A TensorBoard that looks on forgets what it has read from earlier files: what is of step 0 or later.
        self.writer: Any = module.SummaryWriter(str(where), purge_step=0, flush_secs=10)

    def write(self, entry: Entry) -> None:
        for tag, value in entry.scalars.items():
            self.writer.add_scalar(tag, value, entry.step, entry.time)
        if entry.picture is not None:
            self.writer.add_image(entry.tag, entry.picture, entry.step, entry.time, dataformats="HWC")
            self.writer.add_text(entry.tag, "    " + entry.reply.replace("\n", "\n    "), entry.step, entry.time)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of Weights & Biases of the folder's name, in $WANDB_PROJECT (default: jaxgym); the folder keeps its id."""

    package = "wandb"

    def __init__(self, config: Config, run: Path) -> None:
        self.module = importlib.import_module(self.package)
        file = run / "wandb" / "id"
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            files.write(file, uuid.uuid4().hex[:8])
        self.run = self.module.init(
            id=file.read_text(encoding="utf-8"),
            resume="allow",
            dir=str(run),
            name=run.name,
            project=os.environ.get("WANDB_PROJECT", "jaxgym"),
            config=config.to_dict(),
            settings=self.module.Settings(
                console="off", silent=True, finish_timeout=_PATIENCE, finish_timeout_raises=True
            ),  # the terminal is the run's own
        )
        self.known = int(self.run.step) if self.run.resumed else 0  # steps below it are there already
        for phase in dict.fromkeys([*config.phases, "base"]):  # "base": the model that RL begins with, trained or not
            self.run.define_metric(f"{phase}/step")
            self.run.define_metric(f"{phase}/*", step_metric=f"{phase}/step")

    def write(self, entry: Entry) -> None:
        if entry.lasting:  # the summary holds the last value of each: it may be told twice
            self.run.summary.update(entry.scalars)
        elif entry.number >= self.known:
            values: dict[str, Any] = entry.scalars | {f"{entry.phase}/step": entry.step}
            if entry.picture is not None:
                values[entry.tag] = self.module.Image(entry.picture, caption=entry.reply)
            self.run.log(values, step=entry.number)

    def close(self) -> None:
        self.run.finish()


KINDS: dict[str, type[TensorBoard] | type[WandB]] = {"tensorboard": TensorBoard, "wandb": WandB}


def check(names: tuple[str, ...]) -> None:
    """Raise ValueError, in one line, for a tracker that is unknown or whose package is not installed."""
    for name in names:
        if name not in KINDS:
            near = difflib.get_close_matches(name, KINDS, n=1)
            raise ValueError(
                f"track={name}: " + (f"did you mean {near[0]}?" if near else f"must be {' or '.join(KINDS)}")
            )
        package = KINDS[name].package
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"--track {name} needs the package {package}, which is not installed: pip install {package}"
            )


class Trackers:
    """The trackers of a run, told what its records hold, and then what is added to them until they are closed.

    A tracker that fails is switched off; `tell` is given the one line that says so.
    """

    def __init__(self, config: Config, records: Records, tell: Callable[[str], None]) -> None:
        self.config, self.records, self.tell = config, records, tell
        self._open: dict[str, Tracker] = {}
        self._began = time.time()
        self._clock: dict[str, float] = {}  # when each phase was last measured
        self._scored: set[tuple[str, str]] = set()  # games and columns whose scores have been told
        self._games = config.names()
        trained = config.phases
        order = dict.fromkeys((*trained[: "sight" in trained], "base", *trained))  # RL may begin with a model as it is
        self._lengths = {phase: config.length(phase) if phase in trained else 0 for phase in order}
        for name in dict.fromkeys(config.track):
            try:
                self._open[name] = KINDS[name](config, records.run)
            except Exception as error:  # of a package and a service that are not ours
                self._fail(name, error)
        for entry in self._past() if self._open else ():
            self._write(entry)
        records.follower = self

    def close(self) -> None:
        """Send what is left; from here on they are told nothing."""
        self.records.follower = None
        for name, tracker in [*self._open.items()]:
            try:
                tracker.close()
            except Exception as error:  # of a package and a service that are not ours
                self._fail(name, error)

    def measured(self, row: dict[str, Any]) -> None:
        """Pass a line of metrics.jsonl on."""
        self._write(self._measurement(row))

    def scored(self, table: Table) -> None:
        """Pass on what a table of results has that is new."""
        for entry in self._scores(table):
            self._write(entry)

    def sampled(self, row: dict[str, Any], picture: np.ndarray) -> None:
        """Pass a line of samples.jsonl on, with its picture."""
        self._write(self._sample(row, picture))

    def _past(self) -> list[Entry]:
        """What the records hold, in order."""
        run = self.records.run
        rows, samples = (files.read_lines(run / name) if (run / name).exists() else [] for name in _LOGS)
        self._began -= next((row["seconds"] for row in reversed(rows) if finite(row.get("seconds"))), 0.0)
        entries = [self._measurement(row) for row in rows if isinstance(row.get("step"), int)]
        entries += self._scores(self.records.table)
        for row in samples:
            try:
                with Image.open(run / str(row.get("picture"))) as picture:
                    entries.append(self._sample(row, np.asarray(picture.convert("RGB"))))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # damaged
                continue
        return sorted(entries, key=lambda entry: entry.number)

    def _measurement(self, row: dict[str, Any]) -> Entry:
        phase, step, game = str(row.get("phase")), int(row["step"]), row.get("game") or "run"
        self._clock[phase] = self._began + (row["seconds"] if finite(row.get("seconds")) else 0.0)
        values = {f"{phase}/{game}/{k}": float(v) for k, v in row.items() if k not in _PLACE and finite(v)}
        return Entry(phase, step, self._before(phase) + step, self._clock[phase], values)

    def _scores(self, table: Table) -> list[Entry]:
        entries = []
        for game, results in table["games"].items():
            for column, extra in results["extra"].items():
                if (game, column) not in self._scored and column in results["columns"]:
                    self._scored.add((game, column))
                    score = results["columns"][column]
                    named = {"score": score["mean"], "score_low": score["low"], "score_high": score["high"], **extra}
                    values = {f"{column}/{game}/evaluation/{k}": float(v) for k, v in named.items() if finite(v)}
                    entries.append(self._result(column, game, values, lasting=True))
        return entries

    def _sample(self, row: dict[str, Any], picture: np.ndarray) -> Entry:
        phase, game, name = str(row.get("phase")), str(row.get("game")), Path(str(row.get("picture"))).stem
        return self._result(phase, game, {}, picture=picture, tag=f"{phase}/{game}/{name}", reply=str(row.get("reply")))

    def _result(self, column: str, game: str, scalars: dict[str, float], **more: Any) -> Entry:
        """What the evaluation of a game found: it stands at the end of its phase."""
        step = self._lengths.get(column, 0)
        place = self._games.index(game) + 1 if game in self._games else 0
        number = self._before(column) + step + place
        return Entry(column, step, number, self._clock.get(column, self._began), scalars, **more)

    def _before(self, phase: str) -> int:
        """How many steps come before a phase; each phase ends with one more for each game, its evaluation."""
        names, more = list(self._lengths), len(self._games)
        return sum(self._lengths[name] + more for name in names[: names.index(phase)]) if phase in names else 0

    def _write(self, entry: Entry) -> None:
        for name, tracker in [*self._open.items()]:
            try:
                tracker.write(entry)
            except Exception as error:  # of a package and a service that are not ours
                self._fail(name, error)

    def _fail(self, name: str, error: Exception) -> None:
        self._open.pop(name, None)
        why = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
        self.tell(f"{name} is switched off, the run goes on without it: {why}")


_LOGS = ("metrics.jsonl", "samples.jsonl")
_PLACE = ("phase", "step", "seconds", "game")  # of a row; the rest was measured
