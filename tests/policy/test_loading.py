"""What it costs the host to read a folder."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import policy
from policy import qwen, tensors, weights
from policy.model import outline
from tests.policy import qwen_folders as folders

_WATCH = """
import sys, threading, jax, policy

def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) << 10

def watch():
    while not done:
        seen.append(anonymous())

policy.load(sys.argv[1])  # what is held once and for all
done, seen, start = [], [], anonymous()
watcher = threading.Thread(target=watch)
watcher.start()
vlm = policy.load(sys.argv[2])
done.append(True)
watcher.join()
print(max(seen) - start - sum(leaf.nbytes for leaf in jax.tree.leaves(vlm.params)))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_host_never_holds_twice_the_largest_tensor(tmp_path):
    record = folders.config("qwen3_vl", hidden_size=1024, intermediate_size=12288)
    record["vision_config"]["out_hidden_size"] = 1024
    small = policy.load(folders.write(tmp_path / "small", "qwen3_vl"))
    config = dataclasses.replace(qwen.read(record, {}, {}), pad_id=small.config.pad_id)
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01), outline(config)[1])
    origin = dataclasses.replace(small.origin, files={"config.json": json.dumps(record).encode()})
    weights.write(tmp_path / "wide", config, params, small.tokenizer, origin)
    command = [sys.executable, "-c", _WATCH, str(tmp_path / "small"), str(tmp_path / "wide")]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(out.stdout) < 2 * max(leaf.nbytes for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    "room", ["train.main", *(pytest.param(each, marks=pytest.mark.slow) for each in ("policy", "train.evaluate"))]
)
def test_a_room_is_opened_in_silence(room):
    bare = {name: value for name, value in os.environ.items() if "TRANSFORMERS" not in name}  # as a user has it
    out = subprocess.run([sys.executable, "-c", f"import {room}"], capture_output=True, text=True, check=True, env=bare)
    assert (out.stdout, out.stderr) == ("", "")


@pytest.mark.parametrize("shape", [(3, 5), (5, 300), (300, 5), (7,), (2, 3, 4), (0, 4)])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_a_copy_lies_row_by_row_and_is_the_same(shape, dtype):
    whole = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for given in (whole, whole.T, whole[..., ::2]):
        copy = tensors.laid(given, jnp.dtype(dtype))
        assert copy.flags.c_contiguous and copy.flags.owndata and copy.dtype == dtype
        np.testing.assert_array_equal(copy, given.astype(dtype))
