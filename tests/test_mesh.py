"""On eight devices: games, environments and sampling under `shard_map`, where a loop must carry what it begins with.

What varies over the mesh is part of a value's type, so tracing a function finds what breaks; that the results are those
of one device is then tried where the most is going on.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import jaxgym
import policy
from jaxgym import Env, engine, render
from policy import sample
from policy import tokenizer as tokens
from policy.model import logits
from policy.sharding import make_mesh
from policy.sharding import spread as spread_params

ROWS = PartitionSpec("data")


@pytest.fixture(scope="module")
def spread(mesh):
    """A function of rows, jitted, its rows spread over the devices."""
    return lambda f: jax.jit(jax.shard_map(f, mesh=mesh, in_specs=ROWS, out_specs=ROWS))


def keys() -> jax.Array:
    return jax.random.split(jax.random.key(5), 8)


def every_function(game):
    def one(key):
        reset_key, step_key, branch_key = jax.random.split(key, 3)
        state = game.reset(reset_key)
        values = game.values(state, step_key)
        out = game.step(state, jnp.argmax(values).astype(jnp.int32), step_key)
        tried = engine.branch(game, state, jnp.arange(2, dtype=jnp.int32), branch_key, "independent")
        return state, values, out, tried, render(game.sheet, game.tiles(out.state))

    return one


def an_episode(game, autoreset):
    env = Env(game, max_steps=2, autoreset=autoreset, observe="tiles")

    def one(key):
        def step(state, key):
            action = jnp.argmax(game.legal(state.board)).astype(jnp.int32)
            _, state, *rest = env.step(key, state, action)
            return state, rest

        return jax.lax.scan(step, env.reset(key)[1], jax.random.split(key, 3))

    return one


def a_rollout(game):
    return lambda key: engine.rollout(game, engine.random_legal(game), game.reset(key), key, 4)


@pytest.mark.parametrize("batched", [True, False])
def test_everything_can_be_spread(game, spread, batched):
    """Also one board a device without `vmap`: there `cond` stays a branch, both sides of which must vary alike."""
    for f in (
        every_function(game),
        a_rollout(game),
        *(an_episode(game, how) for how in (None, "same_step", "next_step")),
    ):
        rows = jax.vmap(f) if batched else lambda keys, f=f: jax.tree.map(lambda leaf: leaf[None], f(keys[0]))
        spread(rows).trace(keys())


@pytest.mark.parametrize("name", [pytest.param("2048", marks=pytest.mark.slow), "swap"])
def test_eight_devices_play_as_one(name, spread):
    """Also over the mesh that JAX makes by default, whose axes are explicit."""
    play = jax.vmap(an_episode(jaxgym.make(name), "same_step"))
    alone = jax.tree.leaves(jax.jit(play)(keys()))
    explicit = jax.make_mesh((8,), ("data",))
    rows = jax.device_put(keys(), jax.sharding.NamedSharding(explicit, ROWS))
    over = jax.jit(jax.shard_map(play, mesh=explicit, in_specs=ROWS, out_specs=ROWS))
    for together in (spread(play)(keys()), over(rows)):
        for a, b in zip(alone, jax.tree.leaves(together), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def write():
    vlm = policy.load("tiny")

    def write(ids, lengths, pictures, key):
        return sample.generate(vlm.graphdef, vlm.params, ids, lengths, pictures, key, jnp.float32(1), 6, 2)

    row = tokens.prompt_ids(vlm.tokenizer, "see", 6, vlm.config.image_id)
    pictures = jax.random.randint(jax.random.key(1), (8, 32, 48, 3), 0, 256).astype(jnp.uint8)
    rows = jnp.tile(jnp.asarray(row, jnp.int32)[None], (8, 1)), jnp.full(8, len(row), jnp.int32), pictures
    return write, rows


def test_sampling_can_be_spread_over_prompts(write, spread):
    write, rows = write
    spread(lambda *rows: write(*rows, jax.random.key(2))).trace(*rows)


@pytest.mark.slow
def test_a_model_may_leave_its_mesh():
    """For one device, for another mesh, and for `shard_map`, where every device works on its own."""
    meshes = [make_mesh(*sizes, devices=jax.devices("cpu")[:8]) for sizes in ((2, 4, 1), (4, 1, 2))]
    vlm = policy.load("tiny", mesh=meshes[0])
    ids, lengths = jnp.tile(jnp.asarray([[40, 41, 42]], jnp.int32), (8, 1)), jnp.full(8, 3)
    wanted = vlm.logits(ids, lengths, None)
    params, rows, none = (
        jax.device_get(vlm.params),
        PartitionSpec(("data", "fsdp")),
        jnp.zeros((0, 32, 48, 3), jnp.uint8),
    )

    alone = dataclasses.replace(vlm, params=jax.device_put(params, jax.devices()[0]), mesh=None)
    other = dataclasses.replace(vlm, params=spread_params(params, meshes[1]), mesh=meshes[1])

    def said(ids, lengths):
        return logits(vlm.graphdef, params, ids, lengths, none)

    over = jax.jit(jax.shard_map(said, mesh=meshes[0], in_specs=rows, out_specs=rows))
    for found in (alone.logits(ids, lengths, None), other.logits(ids, lengths, None), over(ids, lengths)):
        there = np.isfinite(wanted)
        np.testing.assert_allclose(np.asarray(found)[there], np.asarray(wanted)[there], atol=1e-4)


def test_eight_devices_sample_each_with_its_key(write, spread):
    write, rows = write
    prompt = [leaf[:1] for leaf in rows]
    together = spread(lambda keys: write(*prompt, keys[0]))(keys())
    for i, key in enumerate(keys()):
        alone = write(*prompt, key)
        np.testing.assert_array_equal(together.ids[2 * i : 2 * i + 2], alone.ids)
        np.testing.assert_allclose(together.logprobs[2 * i : 2 * i + 2], alone.logprobs, atol=1e-5)
