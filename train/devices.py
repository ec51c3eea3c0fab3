"""The devices and processes of a run. All processes run the same program on the same boards; the first alone writes.

Only the model's work is spread over devices (`policy.sharding`); what joins the processes is JAX's own runtime.
"""

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from policy import sharding
from train.config import Config

T = TypeVar("T")
FAILED = 2  # the exit status of what ended in an error
_GRACE = 5.0  # seconds
_WHERE, _COUNT, _NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def connect(seconds: float) -> None:
    """Join the processes of a run, before anything else is asked of JAX; each waits so long for the others.

    Where they are is known from JAX_COORDINATOR_ADDRESS (HOST:PORT of the first), JAX_NUM_PROCESSES and JAX_PROCESS_ID,
    or else from the cluster (Slurm, Open MPI, Kubernetes, a TPU pod; see `jax.distributed`). Raises ValueError for what
    cannot be; when they do not come together the process ends, with one line and status 2.
    """
    if seconds <= 0:
        raise ValueError(f"distributed={seconds:g}: must be more than 0 seconds")
    address = os.environ.get(_WHERE)
    if address and not address.rpartition(":")[2].isdecimal():
        raise ValueError(f"{_WHERE}={address!r}: must be HOST:PORT")
    try:
        count, number = (int(os.environ[name]) if name in os.environ else None for name in (_COUNT, _NUMBER))
    except ValueError:
        raise ValueError(f"{_COUNT} and {_NUMBER} must be whole numbers") from None

    def give_up() -> None:
        where = f"at {_WHERE}={address}" if address else "where the cluster said"
        sys.stderr.write(f"error: the processes of this run did not come together {where} within {seconds:g} s\n")
        sys.stderr.flush()
        os._exit(2)

    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM for itself; here `main.Stop` has it
    alarm = threading.Timer(seconds, give_up)  # before JAX's own, which ends in a dump of its stack
    alarm.daemon = True
    alarm.start()
    waiting = _stoppable()
    try:
        jax.distributed.initialize(
            num_processes=count, process_id=number, initialization_timeout=math.ceil(seconds) + 60
        )  # fmt: skip
    except (ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"{why} Outside a cluster that JAX knows set {_WHERE}, {_COUNT} and {_NUMBER}") from None
    finally:
        alarm.cancel()
        for each, handler in waiting.items():
            signal.signal(each, handler)


def _stoppable() -> dict[signal.Signals, Any]:
    """Let signals end the process as they do by default: Python's own handlers wait until JAX comes back. What was set.

    `nohup` stays.
    """
    by_hand = threading.current_thread() is threading.main_thread()
    known = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if by_hand and hasattr(signal, name)]
    heard = [each for each in known if signal.getsignal(each) != signal.SIG_IGN]
    return {each: signal.signal(each, signal.SIG_DFL) for each in heard}


def leave(status: int) -> None:
    """End this process where a run has several: JAX would wait for the others, and they wait for this one.

    After an error the first process, without which JAX ends the others in a dump of their stacks, stays a while: they
    are likely to find the same, and say so. (Where a cluster numbers the processes, each stays, the first as well.)
    """
    if jax.distributed.is_initialized():
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if status == FAILED and os.environ.get(_NUMBER, "0") == "0":
            time.sleep(_GRACE)
        os._exit(status)


def gone(why: str) -> str:
    """What may be behind an error where a run has several processes, "" if nothing: what joins them has names like
    UNKNOWN for what is wrong, and raises a ValueError as well.
    """
    joined = jax.distributed.is_initialized() and why.split(":")[0].isupper()
    return "; another process of this run has failed or is gone: go on with --resume" if joined else ""


def make_mesh(config: Config) -> jax.sharding.Mesh | None:
    """The mesh of a run; None where it has one device.

    One process may leave devices alone. Raises ValueError, with what to change, for sizes that do not fit the devices
    or the batches.
    """
    part, devices = config.mesh, jax.devices()
    wanted = part.data * part.fsdp * part.tensor
    if jax.process_count() == 1 and 0 < wanted <= len(devices):
        devices = devices[:wanted]
    try:
        mesh = sharding.make_mesh(part.data, part.fsdp, part.tensor, devices=devices)
    except ValueError as error:
        raise ValueError(f"mesh {error}; --mesh-data -1 takes those that the others leave") from None
    if mesh.size == 1:
        return None
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    for phase in config.phases:
        rows = config.grpo.states // config.grpo.minibatches if phase == "grpo" else getattr(config, phase).boards
        if rows // config.accumulate % parts:
            raise ValueError(
                f"mesh data x fsdp = {parts}: must divide the {rows // config.accumulate} boards that {phase} works "
                "on at a time"
            )
    return mesh


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def number() -> int:
    """That of this process, from 0."""
    return jax.process_index()


def several() -> bool:
    """Whether a run has several processes."""
    return jax.process_count() > 1


def meet() -> None:
    """Wait until every process is here."""
    if several():
        multihost_utils.sync_global_devices("meet")


def any_of(here: bool) -> bool:
    """Whether something is so in any process."""
    if not several():
        return here
    return bool(np.any(multihost_utils.process_allgather(np.asarray(here))))


def of_all(said: str) -> list[str]:
    """What each process says, in their order."""
    if not several():
        return [said]
    text = np.frombuffer(said.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(text)))
    padded = np.zeros(max(lengths) + 1, np.uint8)
    padded[: len(text)] = text
    texts = multihost_utils.process_allgather(padded)
    return [np.asarray(each[:n], np.uint8).tobytes().decode() for each, n in zip(texts, lengths, strict=True)]


def in_all(work: Callable[[], T]) -> T:
    """What `work`, which every process does, gave. Where it fails with ValueError or OSError in one, all fail."""
    if not jax.distributed.is_initialized():
        return work()
    failure: Exception | None = None
    try:
        done = work()
    except (OSError, ValueError) as error:
        failure = error
    if any_of(failure is not None):
        raise failure or ValueError("another process of this run was given what cannot be, and says what")
    return done


def same(config: Config) -> None:
    """Raise ValueError where this process is not to run what the first one is."""
    others = config.differing(Config.from_dict(first(config.to_dict)))
    if others:
        names = ", ".join(f"--{flag}" for flag in others)
        raise ValueError(f"the first process of this run has another {names}: give the same flags to all")


def first(work: Callable[[], Any]) -> Any:
    """What `work`, done by the first process alone, gave: JSON. Where it fails with ValueError or OSError all fail."""
    if not several():
        return work()
    failure: Exception | None = None
    said: dict[str, Any] = {}
    if is_first():
        try:
            said = {"gave": work()}
        except (OSError, ValueError) as error:
            failure, said = error, {"failed": str(error)}
    text = np.frombuffer(json.dumps(said).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    text = multihost_utils.broadcast_one_to_all(np.resize(text, length))
    said = json.loads(np.asarray(text, np.uint8).tobytes())
    if "failed" in said:
        raise failure or ValueError(said["failed"])
    return said["gave"]
