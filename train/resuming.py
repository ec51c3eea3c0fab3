"""What the folder of a run says of where it stood, and whether it may go on from there."""

from typing import Any, NamedTuple

from train.checkpoint import Checkpoints
from train.config import Config
from train.metrics import Records


class Beside(NamedTuple):
    """Numbers of what a run learns beside, which no checkpoint holds."""

    fixed: int  # `learner.fingerprint` of the parameters that stay
    photos: int  # `course.photos_fingerprint`


def look_back(
    config: Config, beside: Beside, checkpoints: Checkpoints, records: Records
) -> tuple[dict[str, Any] | None, list[str]]:
    """The record of where a run stood, None where it has no checkpoint yet; and what was damaged or is missing.

    The table of results is mended on the way. Raises ValueError, in one line, when no checkpoint is whole,
    or when the run began with another configuration or beside other parameters or photos.
    """
    run, damaged, notes = records.run, checkpoints.what_was_damaged(), []
    progress = None if checkpoints.latest() is None else checkpoints.progress()
    if progress is None and damaged:
        mend = "begin anew with another --run, or put a copy of its checkpoints back"
        raise ValueError(f"{run} has no checkpoint that is whole ({damaged}): {mend}")
    if progress is not None:
        if other := config.differing(Config.from_dict(progress["config"])):
            raise ValueError(
                f"{run / 'config.json'} has other values of --{', --'.join(other)} than the run began with: put them "
                "back, or begin a new run with --config"
            )
        if progress.get("fixed", beside.fixed) != beside.fixed:
            raise ValueError(f"the model in {config.model} is not the one that {run} began with: put that back")
        if progress.get("photos", beside.photos) != beside.photos:
            raise ValueError(f"the photos in {config.photos} are not those that {run} began with: put them back")
        if damaged:
            notes.append(f"{damaged}; going on from the one before")
        if checkpoints.latest() and not (run / "metrics.jsonl").exists():
            notes.append(f"{run / 'metrics.jsonl'} is missing: what was measured before is lost")
    if mended := records.mend_table((progress or {}).get("table") or {}):
        notes.append(mended)
    return progress, notes
