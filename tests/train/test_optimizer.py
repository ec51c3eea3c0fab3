"""Optimizer steps, part by part."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import policy
from policy.layers import Keys
from policy.model import Model
from train import optimizer


def drawn(blocks: int) -> tuple[policy.model.Params, dict]:
    """A model with so many blocks in its decoder, and a game's head."""
    tiny = policy.PRESETS["tiny"]
    config = replace(tiny, vocab=64, decoder=replace(tiny.decoder, layers=blocks))
    params = nnx.state(Model(config, rngs=Keys(jax.random.key(0))), nnx.Param)
    return params, {"2048": {"cells": jnp.ones((4, 6))}}


def like(tree, seed: int, size: float):
    """A tree of the same shapes, drawn."""
    luck = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(size * luck.normal(size=leaf.shape), jnp.float32), tree)


@pytest.mark.parametrize(("muon", "size"), [(False, 1e-4), (False, 1.0), (True, 1.0)])  # of gradients; 1: clipped
def test_parts_learn_as_the_whole_would(muon, size):
    """Against optax on all parameters at once, the norm of all of them clipped."""
    params, heads = drawn(2)
    rule, lr = optimizer.make(muon=muon), 1e-3
    whole = optax.chain(optax.clip_by_global_norm(1.0), rule)

    @jax.jit
    def learn(learned, moments, total):
        mean = jax.tree.map(lambda leaf: leaf / 4, total)
        updates, moments = whole.update(mean, moments, learned)
        return optax.apply_updates(learned, optax.tree.scale(lr, updates)), moments, optax.tree.norm(mean)

    expected = jax.tree.map(jnp.array, (params, heads))
    moments = jax.jit(whole.init)(expected)
    state = optimizer.start(rule, params, heads, with_heads=True)
    for seed in range(3):
        total = like(expected, seed, size)
        expected, moments, before_clipping = learn(expected, moments, total)
        state, norm = optimizer.apply(rule, state, total, 4, jnp.float32(lr))
        np.testing.assert_allclose(norm, before_clipping, rtol=1e-6)
    found = state.params, state.heads
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_gradients_are_added_up_and_divided_leaf_by_leaf():
    params, heads = drawn(2)
    one, other = like((params, heads), 0, 1.0), like((params, heads), 1, 1.0)
    expected = jax.tree.map(lambda a, b: (a + b) / 2, *jax.device_get((one, other)))
    total = optimizer.add(optimizer.add(None, one), other)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(one))
    found = optimizer.over(total, jnp.float32(2))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(total))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_deeper_models_need_no_more_programs():
    rule = optax.sgd(1.0)  # of its own, so that nothing is compiled yet

    def programs(blocks: int) -> int:
        params, heads = drawn(blocks)
        state = optimizer.start(rule, params, heads, with_heads=False)
        optimizer.apply(rule, state, (like(params, 0, 1.0), {}), 1, jnp.float32(0))
        return optimizer._learn._cache_size()

    before = optimizer._learn._cache_size()
    first = programs(2)
    assert first - before == 3  # a block of the decoder's, one of the tower's, and the rest
    assert programs(5) == first


def test_muon_learns_the_matrices_of_blocks_and_adam_the_rest():
    params = {"blocks": {0: {"kernel": jnp.zeros((4, 6)), "bias": jnp.zeros(6)}}, "embedding": jnp.zeros((4, 6))}
    rule = optimizer.make(muon=True)
    state = optimizer.start(rule, params, {}, with_heads=False)
    rank_one = jnp.outer(jnp.arange(1.0, 5), jnp.ones(6)) + 0.01 * jax.random.normal(jax.random.key(0), (4, 6))
    gradient = {"blocks": {0: {"kernel": rank_one, "bias": jnp.ones(6)}}, "embedding": rank_one}
    for _ in range(3):
        before = jax.device_get(state.params)
        state, _ = optimizer.apply(rule, state, (gradient, {}), 1, jnp.float32(1e-3))
    moved = jax.tree.map(lambda after, before: np.asarray(after) - before, state.params, before)
    matrix, other = moved["blocks"][0]["kernel"], moved["embedding"]
    spectrum = np.linalg.svd(matrix, compute_uv=False)
    assert spectrum.min() > 0.3 * spectrum.max()  # the gradient's smallest is a thousandth of its largest
    assert np.unique(np.sign(other * rank_one)).tolist() == [-1] and np.ptp(np.abs(other)) < 1e-4 * np.abs(other).max()


def params_like(value):
    return {"w": jnp.full((2, 2), value, jnp.float32)}


def test_an_update_that_is_not_finite_is_left_out_and_counted():
    rule, lr = optimizer.make(), jnp.float32(1e-2)
    state = optimizer.start(rule, params_like(1.0), {"g": {"h": jnp.ones(2)}}, with_heads=True)
    good = params_like(0.5), {"g": {"h": jnp.ones(2)}}
    state, _ = optimizer.apply(rule, state, good, 1, lr)
    state, _ = optimizer.apply(rule, state, good, 1, lr)
    assert state.skipped.tolist() == [0, 0] and (state.params["w"] != 1).all()
    for i, bad in enumerate((jnp.nan, jnp.inf, 1e30)):  # the square of the last overflows
        before = jax.device_get(state)
        after, norm = optimizer.apply(rule, state, (params_like(bad), {"g": {"h": jnp.ones(2)}}), 1, lr)
        assert not jnp.isfinite(norm) and after.skipped.tolist() == [i + 1, i + 1]
        for a, b in zip(jax.tree.leaves(after[:3]), jax.tree.leaves(before[:3]), strict=True):
            np.testing.assert_array_equal(a, b)
        state = after
    state, _ = optimizer.apply(rule, state, good, 1, lr)
    assert state.skipped.tolist() == [3, 0]


@pytest.mark.parametrize("steps", [1, 2, 9, 80, 1200])
def test_rates_rise_from_0_to_the_peak_and_fall(steps):
    """A warm-up, then a cosine to 5 %; a single step is made at the peak, for it is to learn something."""
    rates = np.asarray([optimizer.rate(2.0, steps, i) for i in range(steps)])
    warm = int(rates.argmax())
    assert rates.max() == 2 and warm == (min(50, max(1, steps // 10)) if steps > 1 else 0)
    assert (rates[1:] > 0).all() and (rates[0] == 0) == (steps > 1)
    assert (np.diff(rates[: warm + 1]) > 0).all() and (np.diff(rates[warm:]) < 0).all()
    assert optimizer.rate(2.0, steps, steps) == pytest.approx(0.1) or steps < 3


def test_the_largest_steps_stay_finite():
    rule = optimizer.make()
    state = optimizer.start(rule, params_like(1.0), {}, with_heads=False)
    for i in range(400):
        lr = jnp.float32(optimizer.rate(1.0, 400, i))
        state, _ = optimizer.apply(rule, state, (params_like(1e18 * (-1) ** (i // 7)), {}), 1, lr)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
