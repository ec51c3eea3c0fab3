"""What `benchmarks/` measures of models runs."""

from dataclasses import replace

import jax.numpy as jnp
import pytest
import train_step  # of benchmarks/, which pyproject.toml puts on the path of tests
import update
from support import work

from policy import PRESETS
from train.config import Config
from train.parts import Grpo


@pytest.mark.parametrize("rank", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_update_of_a_model_can_be_measured(rank):
    config = replace(PRESETS["tiny"], vocab=64)
    graphdef, params = work.blank(config, jnp.dtype("float32"))
    seconds, needs = train_step.update_time(graphdef, params, work.prompts(config, 2, 40, 32), 3, rank)
    assert seconds > 0 and needs["seconds_to_compile"] > 0 and needs["bytes_beside"] > 0


@pytest.mark.parametrize("credit", [pytest.param("reply", marks=pytest.mark.slow), "action"])
def test_the_benchmark_times_every_part_of_an_update(credit):
    """Replies of a model that has learned nothing all earn the same: the optimizer makes its step all the same."""
    config = Config(games=("2048",), model="tiny", recipe="g0", grpo=Grpo(states=4, group=2, credit=credit, kl=0.01))
    first, found, judged = update.measure(config, 1)
    assert judged == (credit == "action") and first > 0
    timed = {part for part, seconds in found.items() if seconds > 0}
    assert timed >= {*update.PARTS, "boards moving on"} - ({"teacher's values"} if not judged else set())
