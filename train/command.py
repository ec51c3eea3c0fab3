"""What the commands share: their flags, how JAX is started, and that whatever is wrong is told in one line."""

import argparse
import contextlib
import difflib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import jax


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the flags in one line, with near misses."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        known = [option for action in self._actions for option in action.option_strings]
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            flag = next((word for word in unknown.split() if word.startswith("-")), "")
            near = difflib.get_close_matches(flag.split("=")[0], known, n=2)
            if flag:
                message = f"no flag {flag}" + (f": did you mean {' or '.join(near)}?" if near else "")
            else:
                message = f"belongs to no flag: {unknown}; names of a list are joined by commas, without spaces"
        self.exit(2, f"error: {message} (--help lists all flags)\n")


def any_encoding() -> None:
    """Have what a terminal or a file cannot show written as an escape, which would end a command otherwise."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a closed or captured one
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def finish(command: Callable[[], Any]) -> int:
    """Do what a command does; its exit status. What is wrong is told in one line, Ctrl-C and its like in none."""
    any_encoding()
    heard = [signal.SIGINT]

    def stop(number: int, _: FrameType | None) -> None:
        heard.append(signal.Signals(number))
        raise KeyboardInterrupt

    try:
        with _heard(stop):
            command()
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 128 + heard[-1]
    return 0


@contextlib.contextmanager
def _heard(stop: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Signals to end, but for those that are ignored, are given to a function meanwhile."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():  # others hear nothing
        numbers = []
    before = {number: signal.getsignal(number) for number in numbers}
    asked = [number for number, old in before.items() if old not in (signal.SIG_IGN, None)]  # None: not Python's
    for number in asked:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in asked:
            signal.signal(number, before[number])


def wake() -> None:
    """Start JAX, and have it keep compiled programs. Raises ValueError when the back end does not start."""
    _keep_programs()
    try:
        jax.devices()
    except Exception as error:  # a back end that does not start raises a RuntimeError, an AssertionError, anything
        asked = os.environ.get("JAX_PLATFORMS")
        mend = f"unset JAX_PLATFORMS (now {asked!r})" if asked else "check the installation of jax"
        raise ValueError(f"JAX finds no device to run on: {one_line(error)}; {mend}") from None


def _keep_programs() -> None:
    """Have JAX find the programs that it compiled in an earlier run, unless its environment says where, or not to."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        except RuntimeError:  # a user without a home
            return
        jax.config.update("jax_compilation_cache_dir", str(Path(caches) / "jaxgym"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # hundreds of small ones add up to seconds
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def out_of_memory(error: BaseException) -> bool:
    """Of the host, or of a device."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def one_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
