"""Files of a run: written aside and renamed, so that none is ever half there; JSON without what JSON does not know."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Mendable(ValueError):
    """What failed is a file or a function of the user's: once that is mended, a run can go on."""


def write(path: Path, data: str | bytes) -> None:
    """Replace a file by new contents, all at once: whatever happens, the old ones or the new are there.

    Raises OSError, which names the file.
    """
    draft = path.with_name(path.name + ".part")
    try:
        with _named(path), draft.open("wb") as out:
            out.write(data.encode() if isinstance(data, str) else data)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)  # a full disk needs the room
        raise


def portable(name: str) -> str:
    """A game's name as part of a file's: Windows and some archives know no colon there."""
    return name.replace(":", "-")


def append(path: Path, *records: dict[str, Any]) -> None:
    """Add a line each to a jsonl file, and make it if there is none; raises OSError, which names the file."""
    lines = "".join(to_json(record) + "\n" for record in records)
    with _named(path), path.open("a", encoding="utf-8") as out:
        out.write(lines)


def end_line(file: Path) -> None:
    """A last line that a crash cut short ends here, so that the next one is whole."""
    if file.exists() and not file.read_bytes().endswith(b"\n"):
        with file.open("a") as out:
            out.write("\n")


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Have an error say which file it is about: one of a file that is open already, as of a full disk, does not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def to_json(value: Any, **layout: Any) -> str:
    """A value as JSON; numbers that are not finite, which JSON has no word for, become null."""
    return json.dumps(_finite(value), allow_nan=False, **layout)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """What stands in a JSON file. Raises ValueError, one line that names it, when it is damaged, OSError without it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a jsonl file; lines that are cut short or hold something else are passed over."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        rows += [row] if isinstance(row, dict) else []
    return rows
