"""Games side by side on the cores of a CPU."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train import cores, optimizer
from train.cores import side_by_side
from train.loop import Trainer


def test_all_is_done_at_once_and_comes_in_order():
    meet = threading.Barrier(3, timeout=20)  # passed by three who are there at the same time

    def work(x):
        meet.wait()
        return 2 * x

    assert list(side_by_side(work, [3, 1, 2], together=True)) == [6, 2, 4]
    assert list(side_by_side(work, [], together=True)) == []


def test_what_is_short_of_memory_is_done_when_it_is_asked_for():
    done = []
    found = side_by_side(lambda x: done.append(x) or x, "abc", together=False)
    assert done == [] and next(found) == "a" and done == ["a"]
    assert list(found) == ["b", "c"]


@pytest.mark.parametrize("together", [True, False])
def test_what_goes_wrong_is_told(together):
    with pytest.raises(ValueError, match="b"):
        list(side_by_side(lambda x: x if x == "a" else int(x), "ab", together=together))


def test_cores_are_free_on_one_cpu_where_memory_is_not_short(mesh, monkeypatch):
    assert cores.free(None) and not cores.free(mesh) and not cores.free(None, parts=2)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not cores.free(None)


def test_side_by_side_games_teach_the_same(tmp_path, small, monkeypatch):
    """Bit for bit: whatever runs at once, gradients are added up game by game."""
    trainer = Trainer(small(games=("2048", "shisen_sho")), tmp_path)
    trainer._enter("sight")
    found, asked = [], []

    def apply(rule, state, total, *_, **__):
        found.append(total)
        return state, jnp.float32(0)

    monkeypatch.setattr(optimizer, "apply", apply)
    for together in (True, False):
        monkeypatch.setattr(cores, "free", lambda *_, together=together: asked.append(together) or together)
        trainer.step = 0
        trainer._supervise("sight")
    assert asked == [True, False]
    pairs = list(zip(*map(jax.tree.leaves, found), strict=True))
    assert sum(bool(a.any()) for a, _ in pairs) > 10
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)
