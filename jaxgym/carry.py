"""Loops under `jax.shard_map`: what a loop carries must vary over the mesh from the start as it does at the end."""

import functools
from typing import TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")


def varied(start: T, *like: object) -> T:
    """The start of a loop, every part of it varying over a mesh as all its parts and `like` together do.

    A loop often begins with constants, which are the same on every device, and comes to hold what differs between
    them; `shard_map` refuses that change of type. What is added here is a zero that is made of the data: it costs
    nothing, for XLA folds it away. PRNG keys in `start` stay as they are.
    """
    no = functools.reduce(jnp.logical_or, map(_no, jax.tree.leaves((start, like))))

    def vary(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        return leaf | no if leaf.dtype == jnp.bool_ else leaf + no.astype(leaf.dtype)

    return jax.tree.map(vary, start)


def _no(leaf: jax.Array) -> jax.Array:
    """False, as made of that leaf: bool []."""
    if not leaf.size:
        return jnp.bool_(False)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return jnp.ravel(leaf)[0].astype(jnp.bool_) & jnp.bool_(False)
