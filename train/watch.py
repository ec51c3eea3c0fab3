"""Tell when a run stands still, and where: a rollout that hangs, a disk or another process that does not answer; and
when it goes on for nothing.
"""

import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

_OURS = Path(__file__).parent.parent
_TROUBLE = 3  # updates in a row in which something is wrong: then it is told
_TIMES = 20.0  # as long as the longest step so far: then it is told


class Troubles:
    """Tells once what goes wrong in several updates in a row."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[str, int]] = {}  # what each had last, and in how many updates
        self._told: set[str] = set()

    def tell(self, name: str, found: str) -> list[str]:
        """A line to show, or none. found: what is wrong now with what has this name, "" if nothing is."""
        before, count = self._rows.get(name, ("", 0))
        self._rows[name] = found, count + 1 if found == before else 1
        note = f"{name}: {found}"
        if not found or self._rows[name][1] < _TROUBLE or note in self._told:
            return []
        self._told.add(note)
        return [note]


class Watch:
    """Watches a thread while it is entered; `beat` says that it is alive.

    Once there is no beat for `least` seconds, nor for 20 times as long as the longest step took (the first one compiles
    its programs), `tell` is given one line that names the place in our code where the thread stands. Each further line
    waits twice as long.
    """

    def __init__(self, tell: Callable[[str], None], least: float = 600.0) -> None:
        self._tell, self._least = tell, least
        self._thread = threading.get_ident()
        self._beaten, self._longest, self._wait = time.monotonic(), 0.0, least
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watch", daemon=True)

    def __enter__(self) -> "Watch":
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watcher.join()

    def beat(self) -> None:
        """The thread is alive."""
        now = time.monotonic()
        self._longest, self._beaten = max(self._longest, now - self._beaten), now
        self._wait = max(self._least, _TIMES * self._longest)

    def _watch(self) -> None:
        while not self._over.wait(self._least / 20):
            silent = time.monotonic() - self._beaten
            if silent > self._wait:
                self._wait *= 2
                self._tell(f"nothing has happened for {silent:.0f} s: the run stands {self._place()}")

    def _place(self) -> str:
        frame = sys._current_frames().get(self._thread)
        ours = [at for at in traceback.extract_stack(frame) if Path(at.filename).is_relative_to(_OURS)]
        ours = [at for at in ours if "site-packages" not in at.filename]
        return f"in {ours[-1].name} ({Path(ours[-1].filename).name}, line {ours[-1].lineno})" if ours else "still"
