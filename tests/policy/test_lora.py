"""Adapters: they begin as nothing, learn alone, and can be merged into what they stand beside."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import policy
from policy import lora
from policy.model import logits
from policy.weights import named
from tests.policy import qwen_folders as folders
from tests.policy.test_qwen import CASES, alike, given


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    return policy.load(folders.write(tmp_path_factory.mktemp("lora"), "qwen3_vl"))


def learned(vlm):
    """The model after its adapters have learned something."""
    noise = jax.random.key(1)
    changed = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + 0.1 * jax.random.normal(noise, leaf.shape) if lora.adapter(path) else leaf, vlm.params
    )
    return dataclasses.replace(vlm, params=changed)


def test_adapters_begin_as_nothing_and_merge_into_what_they_do(vlm):
    case = given(CASES["one picture"])
    before, fresh = vlm.logits(*case), vlm.with_lora(rank=4, alpha=8.0, key=jax.random.key(0))
    np.testing.assert_array_equal(before, fresh.logits(*case))
    after = learned(fresh)
    merged = after.merged()
    assert jax.tree.structure(merged.params) == jax.tree.structure(vlm.params) and not lora.has(merged.params)
    found, wanted = np.asarray(merged.logits(*case)), np.asarray(after.logits(*case))
    assert alike(found, wanted) < 1e-5 and alike(wanted, np.asarray(before)) > 1e-2
    assert vlm.merged() is vlm


def test_the_change_is_alpha_over_rank_times_the_product(vlm):
    after = learned(vlm.with_lora(rank=3, alpha=6.0, modules=("q", "down")))
    whole, plain, merged = named(after.params), named(vlm.params), named(after.merged().params)
    adapted = {path.removesuffix(".lora_a") for path in whole if path.endswith("lora_a")}
    assert adapted == {f"decoder.blocks.{i}.{m}" for i in range(3) for m in ("attention.q", "mlp.down")}
    for path in plain:
        owner = path.removesuffix(".kernel")
        change = 2.0 * whole[f"{owner}.lora_a"] @ whole[f"{owner}.lora_b"] if owner in adapted else 0.0
        np.testing.assert_allclose(merged[path], plain[path] + change, rtol=1e-5, atol=1e-6)


def test_saving_merges(vlm, tmp_path, monkeypatch):
    """One matrix after another: a second decoder may not fit."""
    after = learned(vlm.with_lora(rank=2))
    merged = named(after.merged().params)
    monkeypatch.setattr(lora, "merge", None)
    assert {path: leaf.tolist() for path, leaf in lora.plain(after.params, 32 / 2)} == {
        path: leaf.tolist() for path, leaf in merged.items()
    }
    policy.save(after, tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == folders.tensors("qwen3_vl").keys()
    case = given(CASES["text"])
    assert alike(np.asarray(policy.load(tmp_path).logits(*case)), np.asarray(after.logits(*case))) < 1e-5
    assert lora.has(after.params)  # it is not changed by being saved


def test_gradients_reach_the_adapters_of_a_half_precision_model(tmp_path):
    half = policy.load(folders.write(tmp_path, "qwen2_5_vl"), dtype="bfloat16")
    adapted = learned(half.with_lora(rank=2))
    case = given(CASES["text"])

    def said(params):
        return logits(adapted.graphdef, params, *adapted._given(*case))[..., :9].sum()

    for path, slope in named(jax.jit(jax.grad(said))(adapted.params)).items():
        if "lora" in path:
            assert slope.dtype == jnp.float32 and float(jnp.abs(slope).max()) > 0, path


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 0}, "rank=0 must be at least 1"),
        ({"rank": 2, "alpha": 0.0}, "alpha=0.0 above 0"),
        ({"rank": 2, "modules": ("q", "qq")}, "modules qq: there are only q, k, v"),
        ({"rank": 2, "modules": ()}, "no modules"),
    ],
)
def test_adapters_that_cannot_be_are_told(vlm, wrong, message):
    with pytest.raises(ValueError, match=message):
        vlm.with_lora(**wrong)
    with pytest.raises(ValueError, match="has adapters already"):
        vlm.with_lora(rank=1).with_lora(rank=1)
