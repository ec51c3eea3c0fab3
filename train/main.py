"""`python -m train.main`: flags -> Config -> loop. Only it and `terminal` print.

python -m train.main --games all                    all games, from scratch, on whatever device there is
python -m train.main --games 2048,swap --seed 1     some of them
python -m train.main --config FILE --seed 1         what a run's config.json holds, or some of it, and changes
python -m train.main --resume runs/2026-01-31-1200  go on where a run stopped
python -m train.main --games all --mesh-data -1     on all devices of the machine
"""

import _thread
import argparse
import dataclasses
import gc
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Literal, get_args, get_origin

from rich.console import Console

from policy.config import PRESETS

try:
    from train import devices, files, folder, trackers
    from train.command import Parser, any_encoding, one_line, out_of_memory, wake
    from train.config import Config, changed
    from train.terminal import Display, say, show_results
    from train.watch import Watch
except ValueError as wrong:  # JAX reads its environment when it is imported
    sys.exit(f"error: {wrong}")


def parser() -> argparse.ArgumentParser:
    """Every field of Config as a flag; those of its parts with the part's name in front."""
    out = Parser("python -m train.main", "Train a vision-language model on visual games.")
    out.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with a run that was stopped; takes no other flag but --mesh-..., and --model, --photos and "
        "--coldstart-data where these have moved",
    )
    out.add_argument(
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="JSON as a run's config.json, or some of it; flags change it",
    )
    out.add_argument(
        "--distributed", metavar="SECONDS", type=int, nargs="?", const=300, default=argparse.SUPPRESS,
        help="this is one of several processes of one run (jax.distributed), which wait so long for one another to "
        "begin (default: 300): of a cluster that JAX knows, or as JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and "
        "JAX_PROCESS_ID say",
    )  # fmt: skip
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
        kind = {"type": lambda text: tuple(text.split(",")) if text or default else (), "metavar": "NAME,..."}
    text = field.metadata["help"].replace("%", "%%") + (f" (default: {shown})" if shown != "" else "")
    group.add_argument("--" + name.replace("_", "-"), default=argparse.SUPPRESS, help=text, **kind)


def read_config(flags: dict[str, Any], base: Config) -> Config:
    """The configuration that flags ask for, given what it is without them; raises ValueError for what cannot be."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        if dataclasses.is_dataclass(field.default):
            own = {n: flags[k] for k in flags for n in [k.removeprefix(field.name + "_")] if n != k}
            changes[field.name] = changed(getattr(base, field.name), field.name, own)
        elif field.name in flags:
            changes[field.name] = flags[field.name]
    return dataclasses.replace(base, **changes)


_TWICE = 0.5  # seconds: `timeout` and others send a signal to a process and to its group, which is one wish
_SOON = 0.05  # seconds


class Stop:
    """Signals to stop, while it is entered. Once it is `patient`, the first lets the step under way end; while it is
    `deaf` they do nothing.
    """

    def __init__(self) -> None:
        self.signal, self.patient, self.at_once, self.deaf = 0, False, False, False
        self.told = False  # what has come of it
        self._asked = -math.inf  # when it was
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                known = getattr(signal, name, None)  # Windows has no SIGHUP
                if known and not (name == "SIGHUP" and signal.getsignal(known) == signal.SIG_IGN):  # that is `nohup`
                    self._before[known] = signal.signal(known, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for known, handler in self._before.items():
            signal.signal(known, handler)

    @property
    def status(self) -> int:
        """The exit status of a program that such a signal ended."""
        return 128 + (self.signal or signal.SIGINT)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.deaf or time.monotonic() - self._asked < _TWICE:
            return
        if _collecting(frame):  # what is raised there is printed and lost: ask again when that is over
            threading.Timer(_SOON, _send, (number,)).start()
            return
        self._asked = time.monotonic()
        self.at_once = not self.patient or bool(self.signal)
        self.signal = number
        if self.at_once:
            raise KeyboardInterrupt


def _send(number: int) -> None:
    """A signal to the main thread, which breaks off what it waits for; on Windows it is heard after that."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(signal.Signals(number))


def _collecting(frame: FrameType | None) -> bool:
    """Whether a call back from Python's collector of garbage is under way, as JAX has one."""
    codes = {getattr(call, "__code__", None) for call in gc.callbacks}
    while frame:
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False


class _Console(Console):
    """Where nobody reads any more (`| head`), printing stops the run as Ctrl-C does, and is silent from then on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise KeyboardInterrupt


def start(flags: dict[str, Any], console: Console, stop: Stop) -> int:
    """Run what the flags ask for; returns the exit status."""
    resumed, patience = flags.pop("resume", None), flags.pop("distributed", None)
    if patience is not None:
        devices.connect(patience)
        stop.patient = devices.several()  # from here on they stop together
    if resumed is None:
        config = devices.in_all(lambda: _new(flags))
        _wake(console)
        with folder.new(config) as run, folder.held(run):
            return _train(config, run, console, stop, resume=False)
    devices.in_all(lambda: _check_elsewhere(flags, resumed))
    _wake(console)
    with folder.held(Path(resumed)):
        return _go_on(Path(resumed), flags, console, stop)


def _new(flags: dict[str, Any]) -> Config:
    """The configuration of a new run, checked."""
    base = flags.pop("config", None)
    config = read_config(flags, Config() if base is None else folder.read_base(Path(base))).settled()
    config.check()
    trackers.check(config.track)
    return config


_MOVED = ("model", "photos", "coldstart_data")  # what a run needs beside its folder


def _check_elsewhere(flags: dict[str, Any], run: str) -> None:
    """Raise ValueError for what may not change when a run goes on."""
    if any(name not in _MOVED and not name.startswith("mesh_") for name in flags):
        raise ValueError(
            "--resume takes no other flag but --mesh-..., and --model, --photos and --coldstart-data where these have "
            "moved: a run goes on with the configuration it began with"
        )
    if not run:
        raise ValueError("--resume: give the folder of a run")


def _go_on(run: Path, where: dict[str, Any], console: Console, stop: Stop) -> int:
    """Go on with a run; where: flags that say what is elsewhere now."""
    began, mended = folder.old(run)
    config = read_config(dict(where), began)
    for note in mended:
        say(console, note)
    for name, before, now, kept in (
        ("model", began.model, config.model, PRESETS),
        ("photos", began.photos, config.photos, ("digits",)),
        ("coldstart-data", began.coldstart.data, config.coldstart.data, ("",)),
    ):
        if before != now and (before in kept or now in kept):
            raise ValueError(f"--{name} {now}: the run began with {before or 'none'}, and only files can have moved")
        if now not in kept and not Path(now).exists():
            raise ValueError(f"{name} {now!r} is not there: if it has moved, add --{name} PATH")
    config.check()
    trackers.check(config.track)
    return _train(config, run, console, stop, resume=True)


def _train(config: Config, run: Path, console: Console, stop: Stop, *, resume: bool) -> int:
    """Train and evaluate, in a run's folder; what a full disk or the user's own file ends can go on, and says how."""
    try:
        return _follow(config, run, console, stop, resume=resume)
    except (OSError, files.Mendable) as error:
        if not folder.has_checkpoint(run):
            raise
        hint = f"mend that, and go on: python -m train.main --resume {folder.quoted(run)}"
        raise OSError(f"{one_line(error)}: {hint}") from None


def _follow(config: Config, run: Path, console: Console, stop: Stop, *, resume: bool) -> int:
    import jax

    from train import report  # after the flags have been read: a mistake in them is told at once
    from train.loop import Trainer

    devices.same(config)
    folder.shared(run)
    mesh = devices.make_mesh(config)
    where = f"{mesh.size if mesh else 1} x {jax.devices()[0].device_kind}"
    say(console, f"run {folder.quoted(run)}: {', '.join(config.names())} on {where}")
    trainer = Trainer(config, run)
    found = resume and trainer.resume()
    if devices.any_of(bool(stop.signal)):  # nothing is there to be saved yet; what it raised may have been lost
        raise KeyboardInterrupt
    while trainer.notes:
        say(console, trainer.notes.pop(0))
    if resume:
        where = f"{trainer.phase} step {trainer.step}" if found else "the beginning: there is no checkpoint yet"
        say(console, f"going on from {where}")
    tracked = config if devices.is_first() else dataclasses.replace(config, track=())
    following = trackers.Trackers(tracked, trainer.records, lambda line: say(console, line))
    display, stop.patient = Display(console), True
    try:
        with display.progress, Watch(lambda line: say(console, line)) as watch:
            for event in trainer.events():
                watch.beat()
                display.show(*event)
                while trainer.notes:
                    say(console, trainer.notes.pop(0))
                if devices.any_of(bool(stop.signal)):
                    stop.at_once = False  # here all processes are between two steps
                    raise KeyboardInterrupt
            while trainer.notes:
                say(console, trainer.notes.pop(0))
        stop.told = True  # all that was asked for is done
    except KeyboardInterrupt:
        stop.deaf = True  # whatever else is asked, a checkpoint under way is finished
        say(console, f"stopped at {trainer.phase} step {trainer.step}" + ("" if stop.at_once else ": saving"))
        if stop.at_once:  # perhaps within a step: what stands now is not to be kept
            trainer.checkpoints.land()
            kept = "not saved, but for the last checkpoint" if folder.has_checkpoint(run) else "nothing is saved yet"
        else:
            trainer.save()
            trainer.checkpoints.wait()
            kept = "saved"
        stop.told = True
        say(console, f"{kept}. To go on: python -m train.main --resume {folder.quoted(run)}")
        return stop.status
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        less = config.less_memory(trainer.phase)
        raise ValueError(f"out of memory in {trainer.phase or 'the evaluation'}: in a new run {less}") from None
    finally:
        failed = sys.exc_info()[0]
        try:
            trainer.checkpoints.close()
            if devices.is_first():
                report.write(run)
        except OSError:
            if not failed:  # else that is what a user should know
                raise
        stop.deaf = False
        following.close()
    show_results(console, trainer.records.table)
    paths = f"Report: {folder.quoted(run / 'report.html')}  Model: {folder.quoted(run / 'model')}"
    say(console, f"{trainer.seconds:.0f} s in all. {paths}")
    return 0


def _wake(console: Console) -> None:
    """Start JAX; of several processes the first alone prints."""
    wake()
    console.quiet = not devices.is_first()


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags and run; what is wrong with them is told in one line."""
    any_encoding()
    console, stop = _Console(width=None if sys.stdout and sys.stdout.isatty() else 200), Stop()
    try:
        with stop:
            status = start(vars(parser().parse_args(arguments)), console, stop)
        if stop.at_once:
            devices.leave(status)
        return status
    except KeyboardInterrupt:
        if not stop.told:
            say(console, "stopped before there was anything new to save")
        if stop.at_once:
            devices.leave(stop.status)
        return stop.status
    except (ValueError, OSError) as error:
        why = one_line(error)
    except (MemoryError, RuntimeError) as error:
        if out_of_memory(error):
            why = "out of memory before the first step: take a smaller --model, or --dtype bfloat16"
        elif type(error).__module__.startswith("jax"):  # the programs it ran are ours, what they ran on is the user's
            why = one_line(error)
        else:
            raise
    sys.stderr.write(f"error: {why}{devices.gone(why)}\n")
    devices.leave(devices.FAILED)
    return devices.FAILED


if __name__ == "__main__":
    sys.exit(main())
