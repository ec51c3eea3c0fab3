"""Adapters: they begin as nothing, learn alone, and can be merged into what they stand beside."""

import dataclasses
import errno
import math
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import policy
from policy import adapters, lora
from policy.model import logits
from policy.weights import named
from tests.policy import qwen_folders as folders
from tests.policy.test_qwen import CASES, alike, given


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    return policy.load(folders.write(tmp_path_factory.mktemp("lora"), "qwen3_vl"))


def learned(vlm, much=0.1):
    """The model after its adapters have learned something."""
    noise = jax.random.key(1)
    changed = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + much * jax.random.normal(noise, leaf.shape) if lora.adapter(path) else leaf,
        vlm.params,
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_alone_are_read_back_exactly(dtype, tmp_path):
    """Merged into bfloat16, such small changes are lost. They go on from there, and beside a folder of our own too."""
    base = folders.write(tmp_path / "base", "qwen2_5_vl")
    plain = policy.load(base, dtype=dtype)
    after = learned(plain.with_lora(rank=3, alpha=6.0, modules=("down", "q")), 1e-3)
    policy.save_adapters(after, tmp_path / "apart", base)
    again = policy.load(tmp_path / "apart", dtype=dtype)
    assert again.adapted == after.adapted == (3, 6.0, ("q", "down")) and again.origin.kind == "qwen2_5_vl"
    assert jax.tree.structure(again.params) == jax.tree.structure(after.params)
    for path, leaf in named(again.params).items():
        assert leaf.dtype == named(after.params)[path].dtype and np.array_equal(leaf, named(after.params)[path]), path
    further = learned(again, 1e-3)
    policy.save_adapters(further, tmp_path / "further", tmp_path / "apart")
    merged = named(policy.load(tmp_path / "further", dtype=dtype).merged().params)
    for path, leaf in named(further.merged().params).items():
        assert np.array_equal(leaf, merged[path]), path
    policy.save(again.merged(), tmp_path / "own")
    assert policy.load(tmp_path / "own").adapted is None
    small = learned(policy.load("tiny").with_lora(rank=2))
    policy.save(policy.load("tiny"), tmp_path / "tiny")
    policy.save_adapters(small, tmp_path / "small", tmp_path / "tiny")
    for path, leaf in named(policy.load(tmp_path / "small").params).items():
        assert np.array_equal(leaf, named(small.params)[path]), path


def cut(tensors):
    tensors.pop(next(iter(tensors)))


def widen(tensors):
    name = next(iter(tensors))
    tensors[name] = np.ones((5, 5), np.float32)


def spoil(tensors):
    next(iter(tensors.values()))[0] = np.nan


def whole(tensors):
    for name in tensors:
        tensors[name] = tensors[name].astype(np.int8)


def twice(tensors):
    name = next(iter(tensors))
    tensors[name.replace(".weight", ".other.weight")] = tensors[name]


def add(tensors):
    tensors["base_model.model.model.visual.blocks.0.attn.qkv.lora_A.weight"] = np.ones((2, 4), np.float32)


@pytest.mark.parametrize(
    ("record", "change", "told"),
    [
        (
            {"base_model_name_or_path": "Qwen/Qwen"},
            None,
            "of 'Qwen/Qwen', which is no folder of a model here: have base_",
        ),
        ({"base_model_name_or_path": None}, None, "of None, which is no folder of a model here"),
        ({"base_model_name_or_path": "{apart}"}, None, "which is no folder of a model here"),
        ({"peft_type": "LOHA"}, None, "has adapters with peft_type 'LOHA': this version reads plain LoRA"),
        (
            {"use_dora": True, "bias": "all"},
            None,
            "has adapters with bias 'all', use_dora True: this version reads plain",
        ),
        ({"init_lora_weights": "pissa"}, None, "has adapters with init_lora_weights 'pissa': this version reads plain"),
        ({"alora_invocation_tokens": [5]}, None, "has adapters with alora_invocation_tokens [5]: this version reads"),
        ({"lora_alpha": math.inf}, None, "is damaged: r is 2, lora_alpha inf"),
        ({"r": "two"}, None, "is damaged: r is 'two', lora_alpha 32.0"),
        ({"r": 0}, None, "cannot be read: lora rank=0 must be at least 1"),
        ({"r": 5}, None, "tensors that are misshapen"),
        ({}, dict.clear, "has none of a decoder like that of its model"),
        ({}, cut, "has 1 tensors that are missing: model.language_model.layers.0"),
        ({}, widen, "has 1 tensors that are misshapen: model.language_model.layers.0"),
        ({}, spoil, "has 1 tensors that are not finite: model.language_model.layers.0"),
        ({}, add, "has 1 tensors that are unexpected: base_model.model.model.visual.blocks.0"),
        ({}, "cut", "adapter_model.safetensors is damaged"),
        ({}, whole, "tensors that are integer or 8-bit: "),
        ({}, twice, "adapter_model.safetensors has several adapters for a layer: "),
        ({}, "gone", "adapter_model.safetensors is missing"),
        ({}, "bin", "holds PyTorch's .bin files: save the adapters as safetensors first"),
        ({}, "pointer", "has only pointers to 1 of its files, run git lfs pull in it: adapter_model.safetensors"),
    ],
)
def test_adapters_that_cannot_be_read_are_told(record, change, told, tmp_path):
    base, apart = folders.write(tmp_path / "base", "qwen3_vl"), tmp_path / "apart"
    policy.save_adapters(policy.load(base).with_lora(rank=2), apart, base)
    file = apart / "adapter_model.safetensors"
    given = {k: v.format(apart=apart) if isinstance(v, str) else v for k, v in record.items()}
    folders.edit(apart / "adapter_config.json", **given)
    if change == "gone":
        file.unlink()
    elif change == "bin":
        file.rename(apart / "adapter_model.bin")
    elif change == "pointer":
        file.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif change == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    elif change:
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)
    with pytest.raises(ValueError, match=re.escape(told)) as raised:
        policy.load(apart)
    assert str(apart) in str(raised.value) and "\n" not in str(raised.value)


def test_what_says_nothing_of_adapters_is_passed_over(vlm, tmp_path):
    """As other versions and programs write it; the root of the rank may be what divides."""
    folders.write(tmp_path / "base", "qwen3_vl")
    before = learned(vlm.with_lora(rank=4, alpha=8.0))
    policy.save_adapters(before, tmp_path / "apart", tmp_path / "base")
    others = {
        "modules_to_save": [],
        "rank_pattern": {},
        "use_dora": False,
        "init_lora_weights": "gaussian",
        "bias": None,
    }
    folders.edit(tmp_path / "apart" / "adapter_config.json", use_rslora=True, lora_alpha=4, peft_version="1", **others)
    after = policy.load(tmp_path / "apart")
    assert after.adapted == before.adapted
    with pytest.raises(ValueError, match=re.escape(f"not a model; give {tmp_path / 'apart'}")):
        shutil.rmtree(tmp_path / "base")
        policy.load(tmp_path)


def test_adapters_that_cannot_be_written_are_told(vlm, tmp_path):
    after = vlm.with_lora(rank=2)
    broken = dataclasses.replace(after, params=jax.tree.map(lambda leaf: leaf * np.nan, after.params))
    for model, folder, base, told in (
        (vlm, tmp_path, ".", "the model has no adapters"),
        (after, "", ".", 'folder="": give the name of one'),
        (after, tmp_path, "Qwen/Qwen", "base='Qwen/Qwen' is no folder: give that which the model was loaded from"),
        (broken, tmp_path, ".", "tensors that are not finite"),
    ):
        with pytest.raises(ValueError, match=re.escape(told)):
            policy.save_adapters(model, folder, base)
    assert not [*tmp_path.iterdir()]


def test_a_disk_that_is_full_leaves_adapters_as_they_were(vlm, tmp_path, monkeypatch):
    after = vlm.with_lora(rank=2)
    policy.save_adapters(after, tmp_path, ".")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(adapters, "save_file", full)
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        policy.save_adapters(learned(after), tmp_path, ".")
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


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
        ({"rank": 2.0}, "rank=2.0 must be at least 1, a whole number"),
        ({"rank": 2, "alpha": float("inf")}, "alpha=inf above 0 and finite"),
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
