"""What is asked of arguments, in one place: whole numbers of any kind that Python and NumPy have, and nothing else."""

import numbers
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def integer(value: Any) -> int | None:
    """An int, NumPy's included, as an int; None for anything else, a bool too."""
    if type(value).__name__ in ("bool", "bool_") or getattr(value, "shape", ()) != ():
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def whole(name: str, value: Any, least: int, most: int | None = None, why: str = "") -> int:
    """The whole number that an argument must be; raises ValueError, naming it, for anything else."""
    number = integer(value)
    if number is None or number < least or (most is not None and number > most):
        wanted = f"a whole number from {least} to {most}" if most is not None else f"a whole number, at least {least}"
        raise ValueError(f"{name}={value!r}: give {wanted}{why}")
    return number


def key_of(seed: Any) -> jax.Array:
    """The PRNG key of a seed; raises ValueError for what is none."""
    return jax.random.key(whole("seed", seed, 0, 2**63 - 1))


def check_key(key: Any) -> None:
    """Raise ValueError for what is no PRNG key, neither a typed one nor one of `jax.random.PRNGKey`."""
    dtype = getattr(key, "dtype", None)
    old = dtype == np.uint32 and key.ndim > 0
    if not (dtype is not None and (jnp.issubdtype(dtype, jax.dtypes.prng_key) or old)):
        raise ValueError(f"key: give a PRNG key, such as jax.random.key(0), not {dtype or type(key).__name__}")


def word(name: str, value: Any, allowed: Sequence[str | None]) -> None:
    """Raise ValueError, naming the argument, for what is none of some words (or None)."""
    if not (value is None or isinstance(value, str)) or value not in allowed:
        *others, last = ("None" if each is None else f'"{each}"' for each in allowed)
        raise ValueError(f"{name}={value!r}: give {', '.join(others)} or {last}")


def one_of(name: str, value: Any, allowed: Sequence[int], why: str = "") -> int:
    """The whole number, one of a list, that an argument must be; raises ValueError, naming it, for anything else."""
    number = integer(value)
    if number is None or number not in allowed:
        kind = "" if number is not None else " (whole numbers)"
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(str, allowed))}{kind}{why}")
    return number


def number(name: str, value: Any, low: float, high: float) -> float:
    """The number in a range that an argument must be; raises ValueError, naming it, for anything else."""
    kind = type(value).__name__
    real = isinstance(value, numbers.Real) and kind not in ("bool", "bool_")
    if not real or not low <= float(value) <= high:
        raise ValueError(f"{name}={value!r}: give a number from {low} to {high}")
    return float(value)
