"""Checkpoints of a run, with Orbax: the newest is what `--resume` goes on from."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp


class Checkpoints:
    """The checkpoints of one run folder; the two newest are kept."""

    def __init__(self, run: Path) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager((run / "checkpoints").resolve(), options=options)

    def latest(self) -> int | None:
        """The number of the newest checkpoint: optimizer steps since the run began."""
        return self._manager.latest_step()

    def save(self, number: int, progress: dict[str, Any], tree: Any) -> None:
        """Keep a pytree of arrays, and a JSON record of where the run stands."""
        if number != self.latest():
            items = ocp.args.Composite(tree=ocp.args.StandardSave(tree), progress=ocp.args.JsonSave(progress))
            self._manager.save(number, args=items, force=True)

    def progress(self) -> dict[str, Any]:
        """The newest record of where the run stands."""
        restored = self._manager.restore(self.latest(), args=ocp.args.Composite(progress=ocp.args.JsonRestore()))
        return dict(restored["progress"])

    def restore(self, like: Any) -> Any:
        """The newest pytree, shaped as `like`."""
        restored = self._manager.restore(self.latest(), args=ocp.args.Composite(tree=ocp.args.StandardRestore(like)))
        return restored["tree"]

    def close(self) -> None:
        self._manager.close()
