"""Work for few boards of a batch: rows stay what they would be alone, whoever else needs it, and however they lie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgym.rare import LEAST, SHARE, rarely, repeatedly


def halve(n, key):
    """Steps of n to 1 (n/2, or 3n + 1), and a number that is the row's own luck."""

    def step(carry):
        n, steps = carry
        return jnp.where(n % 2 == 0, n // 2, 3 * n + 1), steps + 1

    _, steps = jax.lax.while_loop(lambda carry: carry[0] > 1, step, (n, jnp.int32(0)))
    return steps, jax.random.bits(key, (), jnp.uint32)


def halve_again(carry, key):
    """The same, one step at a time, and the luck of the last."""
    n, steps, _ = carry
    n = jnp.where(n % 2 == 0, n // 2, 3 * n + 1)
    return (n, steps + 1, jax.random.bits(jax.random.fold_in(key, steps), (), jnp.uint32)), n > 1


def one(needed, n, key):
    return rarely(needed, halve, (n, jnp.uint32(0)), n, key)


SHARES = 0.0, 0.02, 0.5, 1.0  # of rows that have need of it: data, for which nothing is compiled anew


@pytest.mark.parametrize("rows", [1, LEAST, 50, 1000])
def test_a_batch_is_its_rows(rows):
    keys, n = jax.random.split(jax.random.key(0), rows), 1 + jnp.arange(rows, dtype=jnp.int32)
    run = jax.jit(jax.vmap(one))
    wanted_steps, wanted_luck = jax.jit(jax.vmap(halve))(n, keys)
    for share in SHARES:
        needed = jax.random.uniform(jax.random.key(1), (rows,), jnp.float32) < share
        steps, luck = run(needed, n, keys)
        np.testing.assert_array_equal(steps, jnp.where(needed, wanted_steps, n))
        np.testing.assert_array_equal(luck, jnp.where(needed, wanted_luck, jnp.uint32(0)))


@pytest.mark.parametrize("rows", [1, LEAST, 50, 1000])
def test_a_batch_of_loops_is_its_rows(rows):
    keys, n = jax.random.split(jax.random.key(0), rows), 2 + jnp.arange(rows, dtype=jnp.int32)
    start = n, jnp.zeros(rows, jnp.int32), jnp.zeros(rows, jnp.uint32)
    alone = jax.jit(lambda needed, key, *start: repeatedly(needed, halve_again, start, key))
    run = jax.jit(jax.vmap(alone))
    wanted, _ = jax.jit(jax.vmap(halve))(n, keys)
    for share in SHARES:
        needed = jax.random.uniform(jax.random.key(1), (rows,), jnp.float32) < share
        after, steps, luck = run(needed, keys, *start)
        np.testing.assert_array_equal(after, jnp.where(needed, 1, n))
        np.testing.assert_array_equal(steps, jnp.where(needed, wanted, 0))
        for row in range(0, rows, 97):
            assert luck[row] == alone(needed[row], keys[row], *(leaf[row] for leaf in start))[2]


def test_no_row_pays_for_the_longest_loop():
    """One row of 1,000 goes on for long, 200 go once: it alone is left, and room for others is not looked at twice."""
    turns = []

    def attempt(left, _):
        jax.debug.callback(turns.append, left)
        return left - 1, left > 1

    left = jnp.where(jnp.arange(1000) == 0, 30, (jnp.arange(1000) % 5 == 0).astype(jnp.int32)).astype(jnp.int32)
    out = jax.jit(jax.vmap(lambda left: repeatedly(left > 0, attempt, left, left)))(left)
    jax.effects_barrier()
    np.testing.assert_array_equal(out, jnp.zeros_like(out))
    lanes = 1000 // SHARE
    assert len(turns) == 30 * lanes  # not 30 + 200 / lanes turns: the others go through beside it


def test_one_row_alone():
    for needed in (True, False):
        steps, luck = jax.jit(one)(jnp.bool_(needed), jnp.int32(7), jax.random.key(0))
        assert steps == (16 if needed else 7) and (luck != 0) == needed


def test_batches_of_batches_and_what_all_rows_share():
    keys = jax.random.split(jax.random.key(0), (6, 30))
    n = 1 + jnp.arange(180, dtype=jnp.int32).reshape(6, 30)
    needed = n % 7 == 0
    steps, luck = jax.jit(jax.vmap(jax.vmap(one)))(needed, n, keys)
    flat = jax.vmap(one)(needed.ravel(), n.ravel(), keys.ravel())
    np.testing.assert_array_equal(steps.ravel(), flat[0])
    np.testing.assert_array_equal(luck.ravel(), flat[1])
    shared, _ = jax.jit(jax.vmap(jax.vmap(one, (0, None, None)), (0, None, 0)))(needed, n[2, 2], keys[:, 0])
    np.testing.assert_array_equal(shared, jnp.where(needed, halve(n[2, 2], keys[0, 0])[0], n[2, 2]))


def test_only_rows_that_need_it_are_worked_on():
    """1,000 rows of which 3 need it: one look at as many as are looked at together."""
    looks = []

    def work(x):
        jax.debug.callback(looks.append, x)
        return x + 1

    x = jnp.arange(1000, dtype=jnp.int32)
    out = jax.jit(jax.vmap(lambda x: rarely(x % 400 == 1, work, x, x)))(x)
    jax.effects_barrier()
    np.testing.assert_array_equal(out, jnp.where(x % 400 == 1, x + 1, x))
    assert len(looks) == 1000 // SHARE
