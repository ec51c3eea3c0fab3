"""What becomes of measured numbers: the README's tables, and what is told when one has fallen."""

import json
from pathlib import Path

import pytest
from support import compare, tables, work  # of benchmarks/, which pyproject.toml puts on the path of tests

from policy import tokenizer
from tests.policy import qwen_folders as folders

ROOT = Path(__file__).parents[1]


def test_the_readme_has_the_numbers_that_were_measured():
    text = (ROOT / "README.md").read_text()
    assert tables.filled(text) == text
    for file in (ROOT / "benchmarks" / "results").glob("*.json"):
        record = json.loads(file.read_text())
        if "ratios" in record:
            assert tables.machine(record) in text


@pytest.mark.parametrize(("now", "told"), [(2.0, []), (1.71, []), (1.69, ["a 2.00 -> 1.69"]), (9.0, [])])
def test_a_ratio_that_has_fallen_is_told(now, told):
    before, after = {"ratios": {"a": 2.0, "gone": 1.0}}, {"ratios": {"a": now, "new": 0.1}}
    assert compare.fallen(before, after) == told


def test_a_model_of_true_shapes_can_be_spoken_to(monkeypatch):
    monkeypatch.setitem(work.SHAPES, "little", folders.config("qwen2_5_vl"))
    vlm = work.stand_in("little", dtype="float32")
    ids = tokenizer.prompt_ids(vlm.tokenizer, "What is here?", 4, vlm.config.image_id)
    assert ids.count(vlm.config.image_id) == 4 and max(ids) < len(vlm.tokenizer) <= vlm.config.vocab
    assert vlm.tokenizer.decode(ids, skip_special_tokens=True) == "What is here?"
    assert vlm.tokenizer.convert_tokens_to_ids("<|im_end|>") == vlm.config.stop_id


def test_a_python_gym_keeps_to_the_rules(monkeypatch):
    pytest.importorskip("pygame")
    from support import python_gym

    for name, kind in python_gym.GAMES.items():
        game = kind()
        for _ in range(30):
            picture = game.step()
        assert picture.dtype == "uint8" and picture.shape[2] == 3, name
    line, points = python_gym.Merging()._pull([1, 1, 2, 2])
    assert (line, points) == ([2, 3, 0, 0], 12)
