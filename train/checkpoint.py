"""Checkpoints of a run, with Orbax: the newest that is whole is what `--resume` goes on from."""

import contextlib
import json
import logging
import os
import re
import shutil
import sys
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from train import devices, files

_SUMS = "sums.json"  # beside what Orbax writes: the size and CRC-32 of each of its files
_ANOTHER = "another process of this run could not write its part"
_PART = ".part"  # behind the number of one that is not there yet, or no more


class Checkpoints:
    """The checkpoints of one run folder: the `keep` newest and, if wanted, the best as well.

    They are written while the run goes on, one at a time, and have their name once they have their sums. One that is
    not as it was written is moved aside, into `checkpoints-damaged`, and named in `damaged`; the one before it then is
    the newest.
    """

    def __init__(self, run: Path, keep: int = 2, *, best: bool = False) -> None:
        self._folder = (run / "checkpoints").resolve()
        self._aside = self._folder.with_name("checkpoints-damaged")
        self._keep, self._keep_best = keep, best
        self.damaged: list[int] = devices.first(self._begin)
        # Without OCDBT: merging its parts reads the folder's name as a pattern, and finds none under `runs/[lr=1]`.
        handlers = {"tree": ocp.StandardCheckpointHandler(use_ocdbt=False), "progress": ocp.JsonCheckpointHandler()}
        for name in ("absl", "asyncio"):
            logging.getLogger(name).addFilter(_is_news)
        warnings.filterwarnings("ignore", "coroutine 'async_serialize.* was never awaited", RuntimeWarning)
        sys.unraisablehook = _Hook(getattr(sys.unraisablehook, "before", sys.unraisablehook))
        self._stages = _Stages()
        options = ocp.options.AsyncOptions(barrier_sync_fn=self._stages)
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(**handlers), async_options=options)
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[str] | None = None
        self._scores: dict[int, float | None] = {}  # of every checkpoint that is there, by its number
        for number in sorted(_numbers(self._folder)):
            self._scores[number] = self._score(number)

    def what_was_damaged(self) -> str:
        """One line on the checkpoints that were moved aside, "" when none was."""
        numbers = ", ".join(map(str, self.damaged))
        return f"checkpoint {numbers} is damaged and was moved to {self._aside}" if numbers else ""

    def latest(self) -> int | None:
        """The number of the newest checkpoint that is whole: optimizer steps since the run began."""
        return max(self._scores, default=None)

    def best(self) -> int | None:
        """The number of the checkpoint with the highest score; None where none has one."""
        scores = {number: score for number, score in self._scores.items() if score is not None}
        return max(scores, key=lambda number: (scores[number], number), default=None)

    def sound_best(self) -> int | None:
        """The best one that is whole; better ones that are not are moved aside as well, and named in `damaged`."""

        def look() -> Any:
            while (number := self.best()) is not None and not _is_whole(self._folder / str(number)):
                _move(self._folder, self._aside, number)
                self.damaged.append(number)
                del self._scores[number]
            return number, [*self._scores.items()], self.damaged

        number, scores, self.damaged = devices.first(look)
        self._scores = dict(scores)
        return number

    def save(self, number: int, progress: dict[str, Any], tree: Any, score: float | None = None) -> str:
        """Begin to write a pytree of arrays, which must not change, and a JSON record of where the run stands. Each
        process writes what it has of them.

        Waits for the write before, if that is still under way. Returns what went wrong with it, in one line, "" if
        nothing did. score: by which the best is known.
        """
        failed = self._settle()
        if number == self.latest():
            return failed
        if impossible := devices.first(lambda: self._look(number)):  # within Orbax others would wait for the first
            self._writing = self._thread.submit(lambda: impossible)
        else:
            record = json.loads(files.to_json(progress | {"score": score}))  # a copy: the run goes on
            items = ocp.args.Composite(tree=ocp.args.StandardSave(tree), progress=ocp.args.JsonSave(record))
            self._stages.begin()
            try:
                self._orbax.save(self._folder / f"{number}{_PART}", args=items, force=True)
            except OSError as error:
                self._writing = self._thread.submit(self._fail, number, error)
            else:
                self._writing = self._thread.submit(self._finish, number, score)
        return failed

    def wait(self) -> None:
        """Wait until all is written; raises OSError, one line, when it cannot be."""
        if failed := self._settle():
            raise OSError(failed)

    def progress(self) -> dict[str, Any]:
        """The newest record of where the run stands."""
        return self._progress(self.latest())

    def restore(self, like: Any, number: int | None = None) -> Any:
        """The newest pytree, or that of a number, shaped as `like`; raises ValueError when it is not."""
        place = self._folder / str(self.latest() if number is None else number)
        try:
            tree = self._orbax.restore(place, args=ocp.args.Composite(tree=ocp.args.StandardRestore(like)))["tree"]
            return jax.tree.map(_unpinned, tree)
        except (ValueError, KeyError, TypeError):  # it is whole, so it is of another version; Orbax's words say less
            mend = "go on with the version that wrote it, or begin anew with another --run"
            raise ValueError(f"{place} does not fit this version, which keeps other arrays: {mend}") from None

    def land(self) -> str:
        """Wait until this process has written what it has of a checkpoint; what went wrong.

        No word of it to the others: they may have failed, or be in the midst of something else.
        """
        writing, self._writing = self._writing, None
        return writing.result() if writing else ""

    def close(self) -> None:
        """Wait until all is written, and let go; raises OSError, one line, when it cannot be."""
        try:
            if failed := self.land():
                raise OSError(failed)
        finally:
            self._thread.shutdown()
            self._orbax.close()

    def _progress(self, number: int | None) -> dict[str, Any]:
        wanted = ocp.args.Composite(progress=ocp.args.JsonRestore())
        return dict(self._orbax.restore(self._folder / str(number), args=wanted)["progress"])

    def _score(self, number: int) -> float | None:
        try:
            return self._progress(number).get("score")
        except (OSError, ValueError, KeyError):  # an old one, only looked into where the newer ones are damaged
            return None

    def _finish(self, number: int, score: float | None) -> str:
        """Wait until Orbax has written a checkpoint, put its sums to it, and let others go; what went wrong."""
        place = self._folder / f"{number}{_PART}"
        try:
            self._orbax.wait_until_finished()
            if not devices.is_first():
                return ""  # the first sees to the rest, and `_settle` tells what came of it
            files.write(place / _SUMS, files.to_json(_sums(place, sync=True)))
            place.rename(self._folder / str(number))
        except (OSError, ValueError) as error:  # Orbax has a ValueError for a full disk
            return self._fail(number, error)
        except jax.errors.JaxRuntimeError as error:
            waited = "DEADLINE_EXCEEDED" in str(error)  # for a process that has failed before any of the stages
            return self._fail(number, OSError(_ANOTHER) if waited else error)
        self._scores[number] = score
        kept = {*sorted(self._scores)[-self._keep :]} | ({self.best()} if self._keep_best else set())
        for old in self._scores.keys() - kept:
            del self._scores[old]
            with contextlib.suppress(OSError):  # then there is one too many
                (self._folder / str(old)).rename(self._folder / f"{old}{_PART}")  # from here on it is none
        self._tidy()
        return ""

    def _look(self, number: int) -> str:
        """Why no checkpoint can be begun, "" if it can."""
        place = self._folder / f"{number}{_PART}-begun"
        try:
            place.mkdir(parents=True, exist_ok=True)
            place.rmdir()
        except OSError as error:
            return _failure(number, error)
        return ""

    def _fail(self, number: int, error: Exception) -> str:
        """Clear up after a checkpoint that this process could not write, so that no other waits for it; the reason."""
        self._stages.leave()
        if devices.is_first():
            self._tidy()
        return _failure(number, error)

    def _settle(self) -> str:
        """Wait for the write under way; what went wrong with it, in whichever process."""
        failed = min(devices.of_all(self.land()), key=lambda why: (not why, _ANOTHER in why))
        self._scores = dict(devices.first(lambda: [*self._scores.items()]))
        return failed

    def _begin(self) -> list[int]:
        """Move aside what is damaged, remove what is unfinished; the numbers of what was damaged."""
        damaged = _set_aside(self._folder, self._aside)
        self._tidy()
        return damaged

    def _tidy(self) -> None:
        """Remove what is no checkpoint, not yet or no more."""
        for place in self._folder.glob("[0-9]*"):
            if not place.name.isdecimal() or not (place / _SUMS).exists():
                shutil.rmtree(place, ignore_errors=True)


class _Stages:
    """Where the processes of a run wait for each other while they write a checkpoint, as Orbax has it: once all have
    written their parts, and once the first has put them together. One that fails goes to neither, and the others
    would wait for it for 20 minutes; here it lets them pass, and they find that it has failed.
    """

    _made = 0

    def __init__(self) -> None:
        self._meet = ocp.multihost.get_barrier_sync_fn()
        self._written = self._stage = 0
        _Stages._made = self._run = _Stages._made + 1  # all processes have as many, one after another

    def __call__(self, *, key: str, timeout_ms: int) -> None:  # noqa: ARG002
        """What Orbax calls; the `key` of a checkpoint that is written a second time would not be new."""
        self._pass(timeout_ms)
        if self._stage == 1:
            try:  # those that have not failed come here at the same time
                self._meet(key=f"{self._name()} sound", timeout_ms=30_000)
            except jax.errors.JaxRuntimeError:
                raise OSError(_ANOTHER) from None

    def begin(self) -> None:
        """Before a checkpoint: all processes have written as many."""
        self._written, self._stage = self._written + 1, 0

    def leave(self) -> None:
        """Where this process has failed: go on to where the others will be."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # one is gone, which is told elsewhere
            while self._stage < 2:
                self._pass(1_200_000)

    def _pass(self, timeout_ms: int) -> None:
        self._stage += 1
        self._meet(key=f"{self._name()} stage {self._stage}", timeout_ms=timeout_ms)

    def _name(self) -> str:
        """Of no other checkpoint before."""
        return f"checkpoint {self._written} of run {self._run}"


def _unpinned(leaf: Any) -> jax.Array:
    """Through the host, but for what is spread: what Orbax pins to a device would have every program compiled again."""
    spread = isinstance(getattr(leaf, "sharding", None), jax.sharding.NamedSharding)
    return leaf if spread else jnp.asarray(np.asarray(leaf))


def _failure(number: int, error: Exception) -> str:
    why = " ".join(str(error).split())
    if "No space left" in why:
        why = "no space left on the device"
    elif known := re.search(r"os_error_code='(\d+)'", why):  # tensorstore names its files twice before it
        why = os.strerror(int(known[1])).lower()
    return f"checkpoint {number} could not be written: {why[:200]}"


_NO_NEWS = (  # meant so; told by `save` and `wait`
    "Skipping merge of OCDBT",
    "raised an exception",
    "Failed to run",
    "wait_for_base_dir_creation",
    "Error writing local file",  # of each of the parts that Orbax writes side by side
    "Future exception was never retrieved",
)


def _is_news(record: logging.LogRecord) -> bool:
    return not any(words in record.getMessage() for words in _NO_NEWS)


class _Hook:
    """Shows what was raised where nobody can catch it, but for what is no news: where a part of a checkpoint could not
    be written, the threads that write the others come back to an event loop that is gone.
    """

    def __init__(self, before: Callable[[Any], Any]) -> None:
        self.before = before

    def __call__(self, raised: Any) -> None:
        if not isinstance(raised.exc_value, RuntimeError) or str(raised.exc_value) != "Event loop is closed":
            self.before(raised)


def _numbers(folder: Path) -> list[int]:
    return [int(place.name) for place in folder.glob("*") if place.name.isdecimal()]


def _set_aside(folder: Path, aside: Path) -> list[int]:
    """Move the newest checkpoints away until one is whole; their numbers."""
    moved: list[int] = []
    for number in sorted(_numbers(folder), reverse=True):
        if _is_whole(folder / str(number)):
            break
        _move(folder, aside, number)
        moved.append(number)
    return moved


def _move(folder: Path, aside: Path, number: int) -> None:
    """Move a checkpoint away, over what was moved there before."""
    aside.mkdir(exist_ok=True)
    shutil.rmtree(aside / str(number), ignore_errors=True)
    (folder / str(number)).rename(aside / str(number))


def _is_whole(checkpoint: Path) -> bool:
    try:
        return bool(files.read_json(checkpoint / _SUMS) == json.loads(files.to_json(_sums(checkpoint))))
    except (OSError, ValueError):
        return False


def _sums(checkpoint: Path, *, sync: bool = False) -> dict[str, list[int]]:
    """The size and CRC-32 of every file of a checkpoint; with `sync`, the disk has them before this returns."""
    sums = {}
    for file in sorted(checkpoint.rglob("*")):
        if file.is_file() and file.name != _SUMS:
            size, crc = 0, 0
            with file.open("rb+" if sync else "rb") as data:
                while block := data.read(1 << 22):
                    size, crc = size + len(block), zlib.crc32(block, crc)
                if sync:
                    os.fsync(data.fileno())
            sums[str(file.relative_to(checkpoint))] = [size, crc]
    return sums
