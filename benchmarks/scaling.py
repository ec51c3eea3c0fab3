"""How do time and memory grow? With boards, their size, groups of answers, devices; and how long does it take to begin?

    python benchmarks/scaling.py [--boards 1 64 1024 16384] [--seconds 0.2]

Steps are random legal play with auto-reset through `Env`, observed as tiles. Memory is what the compiled step with a
picture needs a board, as XLA counts it: what it is given, what it returns and what it uses meanwhile. A group of legal
answers, drawn at random, is tried from each board by `branch`; the board that the first leads to is the next. To begin
is to `make` a game, and the first `reset`, `step` and picture of one board in a fresh process: compiled anew, and from
the persistent cache. Devices are all that there are, or as many virtual ones as the CPU has cores.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from typing import Any

import jax
import numpy as np
from env_step import ours
from support import plot, rivals
from support.measure import device_line, side_by_side, write

import jaxgym
from jaxgym import Env, engine

SIZES = {"2048": (3, 4, 6), "shisen_sho": (4, 6, 8, 12), "swap": (4, 8, 12)}
BATCH = 1024  # boards where something else grows
GROUPS, GROUPED = (1, 4, 16, 64), 64  # answers a board, and boards


def sized(name: str, size: int) -> jaxgym.Game[Any]:
    """A game on a board of that size."""
    kinds = {"shisen_sho": {"kinds": size * size // 4}, "swap": {"kinds": min(12, size + 2)}}
    return jaxgym.make(name, size=size, **kinds.get(name, {}))


def rates(games: dict[str, jaxgym.Game[Any]], boards: int, seconds: float) -> dict[str, float]:
    """Steps/s of all boards together."""
    runs = {
        name: rivals.play(ours(game, "same_step", "tiles"), boards, engine.draw_legal) for name, game in games.items()
    }
    return {name: rate * boards for name, rate in side_by_side(runs, seconds).items()}


def memory(game: jaxgym.Game[Any], boards: int) -> float:
    """Bytes a board of a step with a picture."""
    env = Env(game, autoreset="same_step")
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), boards))
    states = jax.eval_shape(jax.vmap(env.reset), keys)[1]
    actions = jax.ShapeDtypeStruct((boards,), np.int32)
    used = jax.jit(jax.vmap(env.step), donate_argnums=1).lower(keys, states, actions).compile().memory_analysis()
    total = used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes
    return (total - used.alias_size_in_bytes) / boards


def by_groups(game: jaxgym.Game[Any], seconds: float) -> dict[str, float]:
    """Answers/s, of all groups together, as the group grows."""
    dealt = jax.jit(jax.vmap(game.reset))(jax.random.split(jax.random.key(0), GROUPED))

    def play(group: int) -> Any:
        def board(state: Any, first: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            act_key, luck_key = jax.random.split(key)
            mask = game.legal(state)
            actions = jax.vmap(lambda key: engine.draw_legal(mask, key))(jax.random.split(act_key, group))
            tried = jaxgym.branch(game, state, actions, luck_key)
            after = jax.tree.map(lambda leaf: leaf[0], (tried.state, tried.over))
            return engine.select(after[1], first, after[0]), (tried.reward + tried.over.astype(np.float32)).sum()

        @jax.jit
        def run(key: jax.Array, times: jax.Array) -> tuple[Any, jax.Array]:
            def one(i: jax.Array, carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
                keys = jax.random.split(jax.random.fold_in(key, i), GROUPED)
                states, worth = jax.vmap(board)(carry[0], dealt, keys)
                return states, carry[1] + worth

            return jax.lax.fori_loop(0, times, one, (dealt, np.zeros(GROUPED, np.float32)))

        return lambda times: lambda: run(jax.random.key(times), np.int32(times))

    found = side_by_side({str(n): play(n) for n in GROUPS}, seconds)
    return {n: rate * GROUPED * int(n) for n, rate in found.items()}


def over_devices(game: jaxgym.Game[Any], boards: int, seconds: float) -> dict[str, float]:
    """Steps/s of as many boards over one device, two, four, ... up to all."""
    devices = jax.devices()
    counts = [n for n in (1, 2, 4, 8, 16) if n <= len(devices) and boards % n == 0]
    env = Env(game, autoreset="same_step", observe="tiles")

    def play(n: int) -> Any:
        mesh = jax.sharding.Mesh(np.asarray(devices[:n]), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        spec = jax.sharding.PartitionSpec("data")

        @jax.jit
        @partial(jax.shard_map, mesh=mesh, in_specs=(spec, None, None), out_specs=(spec, spec))
        def run(state: Any, key: jax.Array, steps: jax.Array) -> tuple[Any, jax.Array]:
            def one(i: jax.Array, carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
                state, total = carry
                own = jax.random.fold_in(jax.random.fold_in(key, i), jax.lax.axis_index("data"))
                act_key, luck_key = jax.random.split(own)
                rows = len(total)
                action = jax.vmap(engine.draw_legal)(state.mask, jax.random.split(act_key, rows))
                _, state, reward, *_ = jax.vmap(env.step)(jax.random.split(luck_key, rows), state, action)
                return state, total + reward

            return jax.lax.fori_loop(0, steps, one, (state, state.score * 0))

        place = jax.sharding.NamedSharding(mesh, spec)
        start = jax.device_put(jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), boards))[1], place)
        return lambda steps: lambda: run(start, jax.random.key(steps), np.int32(steps))

    found = side_by_side({str(n): play(n) for n in counts}, seconds)
    return {n: rate * boards for n, rate in found.items()}


def begin(name: str) -> None:
    """In a fresh process: print the seconds of `make`, and of the first reset, step and picture."""
    start = time.perf_counter()
    game = jaxgym.make(name)
    made = time.perf_counter()
    env, key = Env(game, autoreset="same_step"), jax.random.key(0)
    _, state = jax.jit(env.reset)(key)
    jax.block_until_ready(jax.jit(env.step)(key, state, np.int32(0)))
    print(made - start, time.perf_counter() - made)


def beginnings(name: str) -> dict[str, float]:
    """Seconds of `make`, and of the first reset, step and picture, cold and with a persistent cache that has them."""
    with tempfile.TemporaryDirectory() as cache:
        given = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        command = [sys.executable, __file__, "--begin", name]
        both = [
            subprocess.run(command, env=os.environ | given, capture_output=True, text=True, check=True).stdout.split()
            for _ in range(2)
        ]
    return {"make": float(both[0][0]), "first step": float(both[0][1]), "from the cache": float(both[1][1])}


def main() -> None:
    """Measure and print six tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--boards", type=int, nargs="+", default=[1, 64, 1024, 16384], help="boards in a batch")
    parser.add_argument("--seconds", type=float, default=0.2, help="of one round (default: 0.2)")
    parser.add_argument("--begin", choices=jaxgym.names(), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.begin:
        begin(options.begin)
        return
    if min(options.boards) < 1 or not options.seconds > 0:
        parser.error("--boards must be at least 1, --seconds above 0")
    if jax.config.jax_num_cpu_devices < 0:
        jax.config.update("jax_num_cpu_devices", os.cpu_count())
    games = {name: jaxgym.make(name) for name in jaxgym.names()}
    print(device_line())
    beginning = {name: beginnings(name) for name in games}
    tell("seconds to begin", beginning, "{:.2f}")
    by_boards: dict[str, dict[str, float]] = {name: {} for name in games}
    bytes_each: dict[str, dict[str, float]] = {name: {} for name in games}
    for boards in options.boards:
        for name, rate in rates(games, boards, options.seconds).items():
            by_boards[name][str(boards)] = rate
            bytes_each[name][str(boards)] = memory(games[name], boards)
    tell("steps/s, by boards", by_boards)
    tell("bytes a board, step and picture", bytes_each)
    by_size: dict[str, dict[str, float]] = {name: {} for name in SIZES}
    for name, sizes in SIZES.items():
        for size, rate in rates({str(n): sized(name, n) for n in sizes}, BATCH, options.seconds).items():
            by_size[name][size] = rate
    tell(f"steps/s of {BATCH:,} boards, by size", by_size)
    by_group = {name: by_groups(game, options.seconds) for name, game in games.items()}
    tell(f"answers/s to {GROUPED} boards, by group", by_group)
    by_devices = {name: over_devices(game, BATCH, options.seconds) for name, game in games.items()}
    tell(f"steps/s of {BATCH:,} boards, by devices", by_devices)
    file = write(
        "scaling", {"boards": options.boards, "seconds": options.seconds},
        {
            "begin": beginning, "steps": by_boards, "bytes": bytes_each, "sizes": by_size, "groups": by_group,
            "devices": by_devices,
        },
    )  # fmt: skip
    panels = [
        plot.Panel("boards", "boards", "steps/s", by_boards),
        plot.Panel("memory", "boards", "bytes a board", bytes_each),
        plot.Panel(f"{BATCH:,} boards", "rows and columns", "steps/s", by_size),
        plot.Panel(f"{GROUPED} boards", "answers a board", "answers/s", by_group),
        plot.Panel(f"{BATCH:,} boards", "devices", "steps/s", by_devices),
    ]
    print(f"written to {file}; {plot.save(file, panels)}")


def tell(what: str, found: dict[str, dict[str, float]], form: str = "{:,.0f}") -> None:
    """Print a table: a line a game."""
    heads = list(dict.fromkeys(head for row in found.values() for head in row))
    print(f"{what:<34}" + "".join(f"{head:>16}" for head in heads))
    for name, row in found.items():
        print(f"  {name:<32}" + "".join(f"{form.format(row[head]) if head in row else '':>16}" for head in heads))
    print(end="", flush=True)


if __name__ == "__main__":
    main()
