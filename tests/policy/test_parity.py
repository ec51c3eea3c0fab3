"""`transformers`' PyTorch classes asked anew, where torch is installed: what is stored holds, what is saved loads."""

import dataclasses

import jax
import numpy as np
import pytest

pytest.importorskip("torch")

import policy
from policy.positions import token_positions
from tests.policy import qwen_folders as folders
from tests.policy import reference
from tests.policy.qwen_folders import CASES, KINDS
from tests.policy.test_lora import learned
from tests.policy.test_qwen import alike, given


@pytest.fixture(scope="module")
def theirs(folder):
    return reference.open_model(folder)


def test_what_is_stored_is_what_transformers_says(folder, theirs, request, tmp_path):
    if request.config.getoption("--update-golden"):
        reference.write_golden(folder.name, tmp_path)
    stored = np.load(folders.GOLDEN / f"{folder.name}.npz")
    saved = reference.saved_tensors(folder.name, tmp_path / "saved")
    assert {name: tuple(shape) for name, shape in saved.items()} == folders.tensors(folder.name)
    for name, case in CASES.items():
        again = reference.logits(theirs[0], reference.inputs(folder, case))[..., :: folders.EVERY]
        np.testing.assert_allclose(stored[f"{name}: logits"], again, rtol=1e-4, atol=1e-4)


def test_the_folders_of_these_tests_are_of_the_real_format(theirs):
    assert theirs[1] == {}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.pictures])
def test_positions_are_equal(folder, theirs, name):
    case = CASES[name]
    wanted = reference.positions(theirs[0], reference.inputs(folder, case))
    grids = [(picture.shape[0] // 8, picture.shape[1] // 8) for picture in case.pictures]
    found = np.asarray(token_positions(case.ids, folders.IMAGE, grids))
    for row, length in enumerate(case.lengths):
        np.testing.assert_array_equal(found[:, row, :length], wanted[:, row, :length])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_loads_in_transformers_and_says_the_same(kind, tied, tmp_path):
    record = folders.config(kind, tied=tied)
    vlm = policy.load(folders.write(tmp_path / "first", kind, record=record, files=1))
    changed = jax.tree.map(lambda leaf: leaf * 1.01, vlm.params)
    policy.save(dataclasses.replace(vlm, params=changed), tmp_path / "second")
    model, wrong = reference.open_model(tmp_path / "second")
    assert wrong == {}
    case = CASES["several pictures"]
    wanted = reference.logits(model, reference.inputs(tmp_path / "second", case))
    found = np.asarray(policy.load(tmp_path / "second").logits(*given(case)))
    said = np.setdiff1d(np.arange(folders.VOCAB), [folders.IMAGE, folders.VIDEO])
    for row, length in enumerate(case.lengths):
        assert alike(found[row, :length][:, said], wanted[row, :length][:, said]) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_load_in_peft_and_those_of_peft_load(kind, tmp_path):
    """Those of PEFT stand beside other layers, have a name, and are scaled by the root of their rank."""
    peft = pytest.importorskip("peft")
    base, case = folders.write(tmp_path / "base", kind, files=1), CASES["several pictures"]
    said = np.setdiff1d(np.arange(folders.VOCAB), [folders.IMAGE, folders.VIDEO])

    def of(model):
        """What one of their models or of ours says of every token."""
        if isinstance(model, policy.VLM):
            spoken = np.asarray(model.logits(*given(case)))
        else:
            spoken = reference.logits(model, reference.inputs(base, case))
        return np.concatenate([row[:length, said] for row, length in zip(spoken, case.lengths, strict=True)])

    plain = of(policy.load(base))
    ours = learned(policy.load(base).with_lora(rank=3, alpha=8.0, modules=("q", "out", "up", "down")))
    policy.save_adapters(ours, tmp_path / "ours", base)
    read = peft.PeftModel.from_pretrained(reference.open_model(base)[0], tmp_path / "ours")
    assert alike(of(read), of(ours)) < 1e-4 < 1e-2 < alike(of(ours), plain)
    whole = peft.AutoPeftModel.from_pretrained(tmp_path / "ours")
    whole.base_model.model.set_attn_implementation("eager")
    assert alike(of(whole), of(ours)) < 1e-4

    part = peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=r".*language_model.*(k_proj|gate_proj)")
    theirs = peft.get_peft_model(reference.open_model(base)[0], part, adapter_name="mine")
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.1)
    theirs.save_pretrained(tmp_path / "theirs")
    assert alike(of(policy.load(tmp_path / "theirs" / "mine")), of(theirs)) < 1e-4 < 1e-2 < alike(of(theirs), plain)
