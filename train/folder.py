"""The folder of a run: made for a new one and removed again where nothing came of it, read again for an old one."""

import contextlib
import dataclasses
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train import devices, files
from train.checkpoint import Checkpoints
from train.config import Config
from train.metrics import read_table


@contextlib.contextmanager
def new(config: Config) -> Iterator[Path]:
    """A folder for a new run. If the run fails before it has a checkpoint or a model, what was made is removed again.

    The first process makes it, for all. Raises ValueError when there is something of that name already.
    """
    made: list[Path] = []

    def make() -> str:
        run = Path(config.run or time.strftime("runs/%Y-%m-%d-%H%M%S"))
        try:
            str(run).encode()
        except UnicodeEncodeError:
            raise ValueError(f"--run {run}: give a name in UTF-8") from None
        if run.exists() or run.is_symlink():
            on = f", or go on with it: --resume {quoted(run)}" if (run / "config.json").exists() else ""
            raise ValueError(f"{run} exists already: give another --run{on}")
        made.extend(folder for folder in (run, *run.parents) if not folder.exists())
        try:
            run.mkdir(parents=True)
        except OSError as error:
            raise ValueError(f"--run {run}: no folder can be made there: {error.strerror}") from None
        return str(run)

    run = Path(devices.first(make))
    try:
        if devices.is_first():
            write_config(run, config)
        yield run
    except BaseException:
        if made and not has_checkpoint(run) and not (run / "model" / "config.json").exists():
            shutil.rmtree(run, ignore_errors=True)
            with contextlib.suppress(OSError):  # another run may stand there by now
                for folder in made[1:]:
                    folder.rmdir()
        raise


def shared(run: Path) -> None:
    """Raise ValueError where a process does not see the run's folder, in which each writes its part of checkpoints."""

    def look() -> None:
        for _ in range(20):  # a disk over a network may need a while
            if (run / "config.json").exists():
                return
            time.sleep(0.5)
        raise ValueError(f"--run {run}: process {devices.number()} does not see it: give a folder that all share")

    devices.in_all(look)


def old(run: Path) -> tuple[Config, list[str]]:
    """The configuration of a run that was begun before, and what had to be mended in order to read it.

    The first process reads it, for all. Raises ValueError when there is none.
    """
    file = run / "config.json"

    def read() -> tuple[dict[str, Any] | None, str]:
        try:
            return read_config(file).to_dict(), ""
        except (FileNotFoundError, NotADirectoryError):
            if not has_checkpoint(run):
                raise ValueError(f"{run} is not the folder of a run: it has no config.json") from None
            return None, f"{file} is missing"
        except ValueError as error:
            if is_model(file):
                raise ValueError(f"{run} is the folder of a model, not of a run: give its run, or --model") from None
            return None, str(error)

    if devices.first(lambda: _is_evaluation(run)):
        raise ValueError(f"{run} is the folder of an evaluation: to go on with it, give train.evaluate as before")
    record, wrong = devices.first(read)
    if record is not None:
        return Config.from_dict(record), []
    kept, damaged = _kept(run)
    if kept is None:
        raise ValueError(wrong)
    aside = ""
    if devices.is_first():
        if file.exists():
            file.replace(run / "config-damaged.json")
            aside = "it is kept as config-damaged.json, and "
        write_config(run, kept)
    mended = [f"{wrong}; {aside}the last checkpoint's own configuration stands"]
    return kept, mended + ([damaged] if damaged else [])


@contextlib.contextmanager
def held(run: Path) -> Iterator[None]:
    """Let no other process write into a run's folder meanwhile; raises ValueError where one does.

    The first process holds it, for all. Where the system or the disk knows no locks, or it is the folder of no run,
    nothing is held.
    """
    handles: list[int] = []

    def hold() -> str:
        if is_model(run / "config.json") or (not (run / "config.json").exists() and not has_checkpoint(run)):
            return ""
        try:
            import fcntl

            handles.append(os.open(run / ".lock", os.O_RDWR | os.O_CREAT, 0o666))  # NFS locks what may be written
            fcntl.flock(handles[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return f"{run} is in use by another process: wait for it, or stop it"
        except (ImportError, OSError):
            pass
        return ""

    try:
        if taken := devices.first(hold):
            raise ValueError(taken)
        yield
    finally:
        for handle in handles:
            os.close(handle)


def is_model(file: Path) -> bool:
    """Whether a configuration is that of a model."""
    try:
        return bool(files.read_json(file).keys() & {"format", "model_type"})
    except (OSError, ValueError, AttributeError):
        return False


def _is_evaluation(run: Path) -> bool:
    """Whether a folder is one of `train.evaluate`, as far as that has come."""
    return (
        run.is_dir()
        and not has_checkpoint(run)
        and bool({"model", "player"} & {*read_table(run / "table.json")[0]["order"]})
    )


def has_checkpoint(run: Path) -> bool:
    """Whether a run has come so far that it could go on."""
    return any(place.name.isdecimal() for place in (run / "checkpoints").glob("[0-9]*"))


def write_config(run: Path, config: Config) -> None:
    """Write the configuration into a run's folder."""
    files.write(run / "config.json", files.to_json(config.to_dict(), indent=2) + "\n")


def read_config(file: Path) -> Config:
    """Read a configuration; raises FileNotFoundError, or ValueError that names the file."""
    record = files.read_json(file)
    try:
        return Config.from_dict(record)
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from None


def read_base(file: Path) -> Config:
    """The configuration that a new run begins with, from a file that holds all of it or some; never the run's folder.

    Raises ValueError, in one line that names the file.
    """
    try:
        return dataclasses.replace(Config.from_dict(files.read_json(file)), run="")
    except OSError as error:
        raise ValueError(f"--config {file}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"--config {str(error) if str(file) in str(error) else f'{file}: {error}'}") from None


def _kept(run: Path) -> tuple[Config | None, str]:
    """The configuration that the newest checkpoint kept, where there is one; and which checkpoints were damaged."""
    try:
        checkpoints = Checkpoints(run)
        kept = Config.from_dict(checkpoints.progress()["config"]) if checkpoints.latest() is not None else None
        return kept, checkpoints.what_was_damaged()
    except (OSError, ValueError, KeyError):
        return None, ""


def quoted(path: Path) -> str:
    """A path as it can be pasted into a shell, where it is no flag."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))
