"""Timing, what the machine can do at best, and the record of a measurement."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

RESULTS = Path(__file__).parents[1] / "results"


def best_of(call: Callable[[int], Any], runs: int = 3) -> float:
    """Seconds of the fastest of so many calls, after one that compiles."""
    jax.block_until_ready(call(0))
    times = []
    for i in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(call(i + 1))
        times.append(time.perf_counter() - start)
    return min(times)


def side_by_side(runs: dict[str, Callable[[int], Callable[[], Any]]], seconds: float = 0.5) -> dict[str, float]:
    """How often a second each of several things can be done, measured in turns so that all meet the same machine.

    `runs[name](n)` is a call that does it n times. n grows until a call takes that long; then the fastest of five
    rounds counts.
    """
    counts: dict[str, int] = {}
    for name, make in runs.items():
        count, taken = 1, 0.0
        jax.block_until_ready(make(1)())
        while taken < seconds / 2:
            start = time.perf_counter()
            jax.block_until_ready(make(count)())
            taken = time.perf_counter() - start
            counts[name], count = count, max(2 * count, int(count * seconds / max(taken, 1e-6)))
    best = dict.fromkeys(runs, 0.0)
    for _ in range(5):
        for name, make in runs.items():
            call = make(counts[name])
            start = time.perf_counter()
            jax.block_until_ready(call())
            best[name] = max(best[name], counts[name] / (time.perf_counter() - start))
    return best


def checksum(seen: jax.Array) -> jax.Array:
    """A number from all over an observation, uint32 []; every sixteenth row and column of a picture.

    XLA adds up bytes at 1 GB/s on a CPU: a sum of all of them would measure that sum. That all are written is sure
    where the observation is what a loop carries.
    """
    return jnp.sum(seen[::16, ::16] if seen.dtype == jnp.uint8 else seen, dtype=jnp.uint32)


def bandwidth() -> float:
    """Bytes a second that a copy moves, read and written."""
    count, times = (1 << 30 if jax.default_backend() == "gpu" else 1 << 27) // 4, 8
    add = jax.jit(lambda data, _, i: data + i, donate_argnums=1, keep_unused=True)
    data = jnp.zeros(count, jnp.float32)
    kept = [jnp.ones_like(data)]

    def copy(_: int) -> jax.Array:
        for i in range(times):  # a device is asked for all at once: what is measured is not the asking
            kept[0] = add(data, kept[0], jnp.float32(i))
        return kept[0]

    return times * 2 * data.nbytes / best_of(copy, 5)


def matrix_rate(dtype: jnp.dtype) -> float:
    """Floating-point operations a second of large square products in a dtype."""
    side, times = (8192, 16) if jax.default_backend() == "gpu" else (1024, 4)
    # Random data: a GPU multiplies ones faster than it ever does a model's numbers.
    data, product = jax.random.normal(jax.random.key(0), (side, side), dtype), jax.jit(jnp.matmul)
    return times * 2 * side**3 / best_of(lambda _: [product(data, data) for _ in range(times)], 5)


def fits(count: float) -> bool:
    """Whether the device has room for so many bytes; where it does not tell, yes."""
    room = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    return room is None or count <= room


def device_line() -> str:
    """What is measured on, in a line."""
    device = jax.devices()[0]
    return f"{device.device_kind}, {os.cpu_count()} CPU cores, jax {jax.__version__}"


def _commit() -> str:
    """What is measured, by its name in git; empty where that cannot be told."""
    ask = ["git", "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def write(question: str, settings: dict[str, Any], results: dict[str, Any]) -> Path:
    """Keep results with what they were measured on.

    results["ratios"], name -> number, is what `make bench-compare` holds against an earlier run: the higher the better.
    """
    device = jax.devices()[0].device_kind
    record = {
        "device": device,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "date": date.today().isoformat(),
        "peak_bytes": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),  # None where it is not told
        "commit": _commit(),
        **settings,
        **results,
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{question}-{device.lower().replace(' ', '-')}.json"
    file.write_text(json.dumps(record, indent=1) + "\n")
    return file
