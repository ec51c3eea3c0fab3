"""What `benchmarks/` measures of models runs."""

from dataclasses import replace

import jax.numpy as jnp
import pytest
import train_step  # of benchmarks/, which pyproject.toml puts on the path of tests
from support import work

from policy import PRESETS


@pytest.mark.parametrize("rank", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_update_of_a_model_can_be_measured(rank):
    config = replace(PRESETS["tiny"], vocab=64)
    graphdef, params = work.blank(config, jnp.dtype("float32"))
    seconds, needs = train_step.update_time(graphdef, params, work.prompts(config, 2, 40, 32), 3, rank)
    assert seconds > 0 and needs["seconds_to_compile"] > 0 and needs["bytes_beside"] > 0
