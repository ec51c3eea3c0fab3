"""Gradients of a game's batch."""

import functools
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from policy import lora, sharding
from policy.model import Model, Params, reader
from train import choices, coldstart, grpo
from train.advantages import Credit, Scale
from train.memory import Prompts


class Frame(NamedTuple):
    """What of a model does not change while it learns; hashable."""

    graphdef: nnx.GraphDef[Model]
    dtype: jnp.dtype  # of the computation
    mesh: jax.sharding.Mesh | None = None  # the devices it is spread over


def divide(params: Params, *, adapters: bool, tower: bool) -> tuple[Params, Params]:
    """What of a model learns, in float32, and what stays as it is.

    adapters: only LoRA's matrices learn; tower: the vision tower may. Rounded to eight bits of precision, most updates
    would be lost: so what learns is float32 whatever the computation is.
    """

    def learns(path: Any, _: Any) -> bool:
        return (lora.adapter(path) or not adapters) and (tower or path[0] != "vision")

    learned, fixed = nnx.split_state(params, learns, ...)
    return cast(learned, jnp.dtype("float32")), fixed


def cast(params: Params, dtype: jnp.dtype) -> Params:
    """Parameters in a dtype; those that are in it already are not copied."""
    return jax.tree.map(lambda leaf: leaf if leaf.dtype == dtype else leaf.astype(dtype), params)


def copied(params: Params, dtype: jnp.dtype) -> Params:
    """Parameters in a dtype, in memory of their own."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, dtype, copy=True), params)


def whole(learned: Params, fixed: Params, dtype: jnp.dtype) -> Params:
    """All parameters of a model, as it computes with them."""
    return nnx.merge_state(cast(learned, dtype), fixed)


def kept(learned: Params, fixed: Params, dtype: jnp.dtype) -> Params:
    """All parameters of a model, as they are saved: adapters in float32, as they are told of a model that is loaded."""

    def as_saved(path: Any, leaf: jax.Array) -> jax.Array:
        return leaf if lora.adapter(path) or leaf.dtype == dtype else leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(as_saved, nnx.merge_state(learned, fixed))


def fingerprint(params: Params) -> int:
    """A number of all bits of parameters, on whatever devices they lie: others have the same by chance alone, or where
    numbers of one matrix stand in another order.
    """
    sums = jax.device_get([_bits(leaf) for leaf in jax.tree.leaves(params)])
    return zlib.crc32(np.asarray(sums, "<u4").tobytes())


@jax.jit
def _bits(leaf: jax.Array) -> jax.Array:
    kind = jnp.uint32 if leaf.dtype.itemsize == 4 else jnp.uint16
    return jnp.sum(jax.lax.bitcast_convert_type(leaf, kind), dtype=jnp.uint32)


def _gradients(loss: Any) -> Any:
    """The loss of a model with its gradients for what learns: (frame, learned, heads, fixed, ...) as `loss` is given
    (graphdef, params, heads, ...). Returns ((loss, report), (of what learns, of the heads)).
    """

    @functools.partial(jax.jit, static_argnums=0)
    def gradients(frame: Frame, learned: Params, heads: dict[str, jax.Array], fixed: Params, *given: Any) -> Any:
        def lost(learned: Params, heads: dict[str, jax.Array]) -> Any:
            return loss(frame.graphdef, whole(learned, fixed, frame.dtype), heads, *given)

        said, slopes = jax.value_and_grad(lost, argnums=(0, 1), has_aux=True)(learned, heads)
        return said, sharding.hold(slopes, frame.mesh)

    return gradients


supervised_gradients = _gradients(coldstart.loss)
words_gradients = _gradients(coldstart.words_loss)
sight_gradients = _gradients(coldstart.sight_loss)


class Tried(NamedTuple):
    """Groups of replies to S prompts of one game: B = S * G rows, a prompt's group side by side.

    Every leaf's leading axis is S, or a multiple of it.
    """

    prompts: Prompts
    ids: jax.Array  # int32 [B, R]
    sampler: jax.Array  # float32 [B, R]: log-probabilities, of whoever wrote the replies
    old: jax.Array | None  # float32 [B, R]: of the model before the update; None: it is the model as it is
    reference: jax.Array | None  # float32 [B, R]: of the model before RL; None: nobody asks
    credit: Credit
    choice: choices.Choice | None = None  # where every action is judged: then there is one reply to each prompt


class Shares(NamedTuple):
    """How much each token counts, float32 [B, R]."""

    gain: jax.Array  # for the objective
    held: jax.Array  # for divergence and entropy: averaged as the objective is, but over whole replies
    alike: jax.Array  # for plain means: each that counts at all as much as any other; their sum is 1
    boards: tuple[jax.Array, jax.Array] | None = None  # float32 [S], sums of 1: those whose reply names an action, all


@functools.partial(jax.jit, static_argnums=1)
def cut(batch: Any, count: int, rows: np.ndarray) -> Any:
    """Some rows of a batch of `count` prompts, groups and pictures with them."""

    def some(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(count, -1, *leaf.shape[1:])[rows].reshape(-1, *leaf.shape[1:])

    return jax.tree.map(some, batch)


@functools.partial(jax.jit, static_argnums=0)
def score(
    frame: Frame, params: Params, tried: Tried, names: choices.Names | None, temperature: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """The log-probabilities that a model gives to replies, float32 [B, R], and to every action, float32 [S, A].

    names: of the game's actions; None, or where they are not judged: nobody asks for these.
    """
    model = reader(frame.graphdef, params)
    prompt = model.prefill(*tried.prompts)
    hidden, cache = model.continued(prompt, tried.ids)
    said = model.said(hidden, tried.ids, temperature).logprobs
    if names is None or tried.choice is None:
        return said, None
    return said, choices.logprobs(model, prompt, hidden, cache, tried.choice.place, names, temperature)


_READING = 0.4  # of the logarithm of the odds of reading a board: by all of it acting would learn little


class Rule(NamedTuple):
    """What kind of objective; hashable."""

    objective: grpo.Objective = "clip"
    kl_in_advantage: bool = False  # by k1; else k3 is part of the loss
    scale: Scale = "none"  # of the judgement of every action
    entropy: float = 0.0  # its weight


class Hyper(NamedTuple):
    """Numbers of the objective, float32 []."""

    temperature: jax.Array
    clip: grpo.Clip
    kl: jax.Array  # weight of the divergence from the reference
    cover: jax.Array  # weight of what it did well and the policy does no more, where every action is judged
    cap: jax.Array  # of the correction for the sampler's own probabilities; infinite: there is none
    weight: jax.Array  # of the game
    reading: jax.Array  # of reading the board, where every action is judged


def grpo_loss(
    graphdef: nnx.GraphDef[Model],
    params: Params,
    tried: Tried,
    share: Shares,
    names: choices.Names | None,
    rule: Rule,
    hyper: Hyper,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Minus the gain, as its credit is shared out, plus divergences from the reference, minus the entropy; and what to
    report.

    Loss and report are sums over tokens and boards: those of the parts of a batch add up to those of the whole.
    names: of the game's actions, where every one of them is judged; then the logarithm of the odds of reading the whole
    board is gained as well.
    """
    model = nnx.merge(graphdef, params)
    prompt = model.prefill(*tried.prompts)
    hidden, cache = model.continued(prompt, tried.ids)
    now = model.said(hidden, tried.ids, hyper.temperature)
    mask = share.alike > 0
    old = jax.lax.stop_gradient(now.logprobs) if tried.old is None else tried.old

    def mean(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(mask, share.alike * x, 0.0))

    def counted(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(mask, share.held * x, 0.0))

    advantage, kl, held = hyper.weight * tried.credit.advantage, jnp.float32(0), jnp.float32(0)
    if tried.reference is not None:
        apart = grpo.k3(now.logprobs, tried.reference, mask)
        kl, held = mean(apart), counted(apart)
        if rule.kl_in_advantage:
            as_held = share.held / jnp.where(mask, share.gain, 1.0)  # what is weighed by `gain` below counts by `held`
            advantage -= hyper.kl * as_held * jax.lax.stop_gradient(grpo.k1(old, tried.reference, mask))
    gain = grpo.GAINS[rule.objective](now.logprobs, old, advantage, hyper.clip, mask)
    gain = gain * jnp.where(jnp.isfinite(hyper.cap), grpo.correction(old, tried.sampler, hyper.cap, mask), 1.0)
    ratio = (grpo.reply_ratio if rule.objective == "gspo" else grpo.ratio)(now.logprobs, old, mask)
    clipped = hyper.clip(ratio) != ratio
    if rule.objective != "cispo":  # the others clip on the side to which the advantage pulls
        clipped &= (ratio - 1) * advantage > 0
    gained, forgot, spread, told = jnp.sum(share.gain * gain), jnp.float32(0), counted(now.entropy), {}
    if tried.choice is not None and names is not None and share.boards is not None:
        place, worth, truth, usual, before = tried.choice
        likely = choices.logprobs(model, prompt, hidden, cache, place, names, hyper.temperature)
        by_board, expected, cost = choices.gain(likely, worth, rule.scale, usual)
        ids = jnp.maximum(truth, 0)
        read = model.said(model.continued(prompt, ids)[0], ids, hyper.temperature).logprobs
        acting, every = share.boards
        reading = _READING * hyper.reading * jnp.sum(every * jnp.sum(jnp.where(truth >= 0, read, 0.0), axis=1))
        gained += hyper.weight * (jnp.sum(acting * by_board) + reading)
        spread = jnp.sum(acting * choices.spread(likely))
        told = {"expected": jnp.sum(acting * expected), "cost": jnp.sum(acting * cost), "action_entropy": spread}
        if before is not None:
            forgot = told["action_kl"] = jnp.sum(acting * choices.dropped(likely, before, worth))
    loss = -gained + hyper.cover * forgot + (0.0 if rule.kl_in_advantage else hyper.kl * held)
    if rule.entropy:
        loss -= rule.entropy * spread
    return loss, told | {
        "loss": loss,
        "kl": kl,
        "entropy": mean(now.entropy),
        "clipped": mean(clipped.astype(jnp.float32)),
        "sampler_gap": mean(jnp.abs(grpo.apart(old, tried.sampler, mask))),
    }


@functools.partial(jax.jit, static_argnums=(0, 3))
def grpo_gradients(
    frame: Frame,
    learned: Params,
    fixed: Params,
    rule: Rule,
    tried: Tried,
    share: Shares,
    names: choices.Names | None,
    hyper: Hyper,
) -> tuple[dict[str, jax.Array], Params]:
    """What to report of a batch, and the gradient of its loss for what learns."""

    def lost(learned: Params) -> Any:
        return grpo_loss(frame.graphdef, whole(learned, fixed, frame.dtype), tried, share, names, rule, hyper)

    (_, report), gradient = jax.value_and_grad(lost, has_aux=True)(learned)
    return report, sharding.hold(gradient, frame.mesh)
