"""What every test gets: strict numerics, every registered game with a recorded walk, and a game one can see through."""

import contextlib
import functools
import gc
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

import jaxgym
from jaxgym import actions, engine, sprites
from jaxgym.game import Game, Outcome
from tests.walks import Walk, walked

jax.config.update("jax_num_cpu_devices", 8)  # virtual ones; what does not ask for more runs on the first

# XLA's older way to write loops for a CPU compiles these programs in half the time, and not to cut them up for several
# threads takes another 5 to 10 % off; read when the back end starts.
if jaxlib.__version__.startswith(("0.10.", "0.11.")):  # another jaxlib ends at a flag it does not know
    _QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_QUICK}"

# Many tests begin a run, and each run compiles the same programs: compile them once, for all processes of a session and
# for the sessions of the next days.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _COMPILED = Path(__file__).parents[1] / ".pytest_cache" / "compiled"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_COMPILED)
    for _file in _COMPILED.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process has been there
            if time.time() - _file.stat().st_mtime > 7 * 24 * 3600:
                _file.unlink()
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_traceback_in_locations_limit", 0)  # to note where every operation is from takes time


@pytest.fixture(scope="session")
def mesh() -> jax.sharding.Mesh:
    """Eight devices along one axis, "data"."""
    devices = np.asarray(jax.devices("cpu")[:8])
    return jax.sharding.Mesh(devices, ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def _of_models(path: Path, config: pytest.Config) -> bool:
    """Whether a test is of policy or train, not of the engine."""
    return path.relative_to(config.rootpath).parts[1] in ("policy", "train")


def pytest_collection_finish() -> None:
    """What is imported stays; to trace makes many objects, and looking for rings of them took 4 % of all time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture: the engine's arithmetic is strict about dtypes and ranks; Flax's and Optax's is not."""
    models = _of_models(item.path, item.config)
    jax.config.update("jax_numpy_dtype_promotion", "standard" if models else "strict")
    jax.config.update("jax_numpy_rank_promotion", "allow" if models else "raise")
    # Compiling costs more than running.
    jax.config.update("jax_disable_most_optimizations", jax.default_backend() == "cpu")


@pytest.fixture(scope="module", autouse=True)
def let_go() -> Any:
    """Between files compiled programs go once there are many of them.

    Each maps memory, and Linux allows a process 65,530 maps: the whole suite in one process crashed in XLA's compiler.
    One file adds up to some 10,000.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 45_000:
        jax.clear_caches()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew instead of comparing")


@functools.cache
def made(name: str) -> Game:
    """A game as `make` gives it; the very same one for all files, for what has been traced of it."""
    return jaxgym.make(name)


@pytest.fixture(scope="session", params=jaxgym.names())
def game(request: pytest.FixtureRequest) -> Game:
    """Every registered game in turn."""
    return made(request.param)


@pytest.fixture(scope="session")
def walk(game: Game) -> Walk:
    """Boards of a game played at random, so that its laws are tried on more than fresh boards."""
    return walked(game)


@pytest.fixture(scope="session")
def play(game: Game) -> Any:
    """`engine.play` on the game, compiled once: (state, over, action, key) -> Played."""
    return jax.jit(lambda *args: engine.play(game, *args))


class Corridor(NamedTuple):
    cell: jax.Array  # int32 []
    coin: jax.Array  # int32 []: drawn anew at every move


LENGTH = 5


@pytest.fixture(scope="session")
def corridor() -> Game:
    """A walk along five cells, from the left end to the right one: 1 a step to the right, 0 to the left."""

    def coin(key):
        return jax.random.randint(key, (), 0, 1 << 20, jnp.int32)

    def step(state, action, key):
        right = action == 1
        cell = state.cell + jnp.where(right, jnp.int32(1), jnp.int32(-1))
        return Outcome(Corridor(cell, coin(key)), right.astype(jnp.float32), cell == LENGTH - 1)

    return Game(
        name="corridor",
        rules="Walk to the right end.",
        actions=actions.moves(("left", "right")),
        sheet=sprites.draw(
            ["floor", "walker"],
            [None, lambda pen, size, look: pen.ellipse((size // 4, size // 4, size // 2, size // 2), fill=(200, 0, 0))],
            (1, LENGTH),
            jaxgym.Look(),
        ),
        reset=lambda key: Corridor(jnp.int32(0), coin(key)),
        step=step,
        legal=lambda state: jnp.stack([state.cell > 0, state.cell < LENGTH - 1]),
        tiles=lambda state: (jnp.arange(LENGTH, dtype=jnp.int32) == state.cell).astype(jnp.int32)[None],
        values=lambda state, key: jnp.stack([jnp.where(state.cell > 0, jnp.float32(0), -jnp.inf), jnp.float32(1)]),
        explain=lambda state, action: f"{('left', 'right')[action]}: the end is to the right.",
    )
