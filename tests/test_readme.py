"""The README's examples of the gym run as they stand."""

import re
from pathlib import Path

import jax

TEXT = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_examples_of_the_gym_run():
    gym = TEXT[TEXT.index("## The gym in a minute") : TEXT.index("## The model in a minute")]
    blocks = re.findall(r"```python\n(.*?)```", gym, re.DOTALL)
    assert len(blocks) == 3
    names: dict = {}
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # as users have it
    for block in blocks:
        exec(block, names)
    assert names["image"].shape == (448, 448, 3) and names["pictures"].shape == (32, 224, 224, 3)
    assert names["reply"].formatted and names["tries"].legal.shape == (16,) and len(names["obs"]) == 1024
    assert names["boards"].which.tolist() == [0] * 32 + [1] * 32 + [2] * 32
