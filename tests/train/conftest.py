"""What tests of the trainer share: Flax's and Optax's own arithmetic is not strict about dtypes and ranks."""

import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def lenient():
    jax.config.update("jax_numpy_rank_promotion", "allow")
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    yield
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
