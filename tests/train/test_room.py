"""How often a model is in memory while it learns."""

import gc
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from policy import Reply
from train import learner, optimizer
from train.loop import Trainer
from train.parts import Base, Coldstart, Grpo, Sight


@pytest.mark.slow
def test_a_model_is_in_memory_no_more_often_than_learning_needs(tmp_path, small, monkeypatch):
    """Itself and two moments in float32; in half precision the one before RL, where it is asked. Gradients are there
    once, for however many games and parts; and what played a moment ago is not there any more.
    """
    gc.collect()
    others = jax.live_arrays()  # of other tests
    known = {id(leaf) for leaf in others}
    few = {"sight": Sight(), "base": Base(steps=0), "coldstart": Coldstart()}
    grpo = Grpo(updates=9, states=4, group=4, credit="reply")
    config = small(games=("2048", "shisen_sho"), dtype="bfloat16", accumulate=2, grpo=grpo, **few)
    trainer = Trainer(config, tmp_path)
    shape = trainer.state.params["embedding"]["embedding"][...].shape

    def copies() -> dict[str, int]:
        gc.collect()
        here = [leaf for leaf in jax.live_arrays() if id(leaf) not in known and leaf.shape == shape]
        return {kind: sum(str(leaf.dtype) == kind for leaf in here) for kind in ("float32", "bfloat16")}

    seen, parts, apply = [], [], optimizer.apply

    def watched(rule, state, total, games, lr, *, mesh):
        seen.append(copies())
        after, norm = apply(rule, state, total, games, lr, mesh=mesh)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state._replace(heads={})))
        return after, norm

    def ones(frame, learned, *_):  # as long as it has them the real one has them
        parts.append(copies())
        return {"loss": jnp.float32(0)}, jax.tree.map(jnp.ones_like, learned)

    def write(graphdef, params, prompts, key, group, temperature, room):
        count = group * len(prompts.ids)
        return Reply(jnp.ones((count, room), jnp.int32), jnp.full(count, room), jnp.zeros((count, room)))

    monkeypatch.setattr("train.rollout.write_replies", write)
    monkeypatch.setattr(optimizer, "apply", watched)
    monkeypatch.setattr(learner, "grpo_gradients", ones)
    monkeypatch.setattr(learner, "score", lambda frame, params, tried, *_: (jnp.zeros(tried.ids.shape), None))
    monkeypatch.setattr("train.reinforce._teaches", lambda *_: True)
    for _ in range(2):
        trainer._reinforce()
        assert copies() == {"float32": 3, "bfloat16": 1}
    assert seen == 2 * [{"float32": 4, "bfloat16": 1}]
    assert [part["float32"] for part in parts] == 2 * [3, 4, 4, 5]  # a game's parts are added up, then games are
    monkeypatch.undo()
    unasked = Trainer(replace(config, grpo=replace(grpo, kl=0.0)), tmp_path / "unasked")
    assert unasked.phase == "grpo" and unasked.reference is None and trainer.reference is not None
