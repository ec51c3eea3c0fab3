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


def bandwidth() -> float:
    """Bytes a second that a copy moves, read and written."""
    count = (1 << 30 if jax.default_backend() == "gpu" else 1 << 27) // 4
    data, add = jnp.zeros(count, jnp.float32), jax.jit(lambda x, i: x + i)
    return 2 * data.nbytes / best_of(lambda i: add(data, jnp.float32(i)), 5)


def matrix_rate(dtype: jnp.dtype) -> float:
    """Floating-point operations a second of a large square product in a dtype."""
    side = 8192 if jax.default_backend() == "gpu" else 1024
    data, product = jnp.ones((side, side), dtype), jax.jit(jnp.matmul)
    return 2 * side**3 / best_of(lambda _: product(data, data), 5)


def write(question: str, settings: dict[str, Any], results: dict[str, Any]) -> Path:
    """Keep results with what they were measured on."""
    device = jax.devices()[0].device_kind
    record = {
        "device": device,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "date": date.today().isoformat(),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        **settings,
        **results,
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{question}-{device.lower().replace(' ', '-')}.json"
    file.write_text(json.dumps(record, indent=1) + "\n")
    return file
