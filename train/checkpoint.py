"""Checkpoints of a run, with Orbax: the newest that is whole is what `--resume` goes on from."""

import json
import logging
import shutil
import zlib
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from train import files

_SUMS = "sums.json"  # beside what Orbax writes: the size and CRC-32 of each of its files; what lacks it is unfinished


class Checkpoints:
    """The checkpoints of one run folder; the two newest are kept.

    A checkpoint that is not as it was written is moved aside, into `checkpoints-damaged`, and named in `damaged`; the
    one before it then is the newest.
    """

    def __init__(self, run: Path) -> None:
        folder = (run / "checkpoints").resolve()
        self.damaged = _set_aside(folder, folder.with_name("checkpoints-damaged"))
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        # Without OCDBT: merging its parts reads the folder's name as a pattern, and finds none under `runs/[lr=1]`.
        handlers = {"tree": ocp.StandardCheckpointHandler(use_ocdbt=False), "progress": ocp.JsonCheckpointHandler()}
        logging.getLogger("absl").addFilter(_is_news)
        self._folder = folder
        self._manager = ocp.CheckpointManager(folder, options=options, item_handlers=handlers)

    def what_was_damaged(self) -> str:
        """One line on the checkpoints that were moved aside, "" when none was."""
        numbers = ", ".join(map(str, self.damaged))
        where = self._folder.with_name("checkpoints-damaged")
        return f"checkpoint {numbers} is damaged and was moved to {where}" if numbers else ""

    def latest(self) -> int | None:
        """The number of the newest checkpoint: optimizer steps since the run began."""
        return self._manager.latest_step()

    def save(self, number: int, progress: dict[str, Any], tree: Any) -> None:
        """Keep a pytree of arrays, and a JSON record of where the run stands."""
        if number != self.latest():
            items = ocp.args.Composite(tree=ocp.args.StandardSave(tree), progress=ocp.args.JsonSave(progress))
            self._manager.save(number, args=items, force=True)
            files.write(self._folder / str(number) / _SUMS, files.to_json(_sums(self._folder / str(number))))

    def progress(self) -> dict[str, Any]:
        """The newest record of where the run stands."""
        restored = self._manager.restore(self.latest(), args=ocp.args.Composite(progress=ocp.args.JsonRestore()))
        return dict(restored["progress"])

    def restore(self, like: Any) -> Any:
        """The newest pytree, shaped as `like`; raises ValueError when it is not."""
        wanted = ocp.args.Composite(tree=ocp.args.StandardRestore(like))
        try:
            return self._manager.restore(self.latest(), args=wanted)["tree"]
        except (ValueError, KeyError, TypeError) as error:  # it is whole, so it must be of another version
            why = " ".join(str(error).split())[:200]
            raise ValueError(f"{self._folder / str(self.latest())} does not fit this version: {why}") from None

    def close(self) -> None:
        self._manager.close()


def _is_news(record: logging.LogRecord) -> bool:
    return "Skipping merge of OCDBT" not in record.getMessage()  # as is meant, above


def _set_aside(folder: Path, aside: Path) -> list[int]:
    """Move the newest checkpoints away until one is whole; their numbers."""
    moved: list[int] = []
    for number in sorted((int(p.name) for p in folder.glob("*") if p.name.isdecimal()), reverse=True):
        here, there = folder / str(number), aside / str(number)
        if _is_whole(here):
            break
        aside.mkdir(exist_ok=True)
        shutil.rmtree(there, ignore_errors=True)
        here.rename(there)
        moved.append(number)
    return moved


def _is_whole(checkpoint: Path) -> bool:
    try:
        return bool(files.read_json(checkpoint / _SUMS) == json.loads(files.to_json(_sums(checkpoint))))
    except (OSError, ValueError):
        return False


def _sums(checkpoint: Path) -> dict[str, list[int]]:
    """The size and CRC-32 of every file of a checkpoint."""
    sums = {}
    for file in sorted(checkpoint.rglob("*")):
        if file.is_file() and file.name != _SUMS:
            size, crc = 0, 0
            with file.open("rb") as data:
                while block := data.read(1 << 22):
                    size, crc = size + len(block), zlib.crc32(block, crc)
            sums[str(file.relative_to(checkpoint))] = [size, crc]
    return sums
