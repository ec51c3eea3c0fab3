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
