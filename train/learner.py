"""Optimizer steps: gradients game by game, one update from their mean."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from flax import nnx

from policy import lora, sharding
from policy.model import Model, Params
from train import choices, coldstart, grpo
from train.advantages import Credit, Scale
from train.memory import Prompts

_DECAY = 0.01  # of weights


class TrainState(NamedTuple):
    """What learning changes."""

    params: Params  # what learns of the model, float32
    heads: dict[str, dict[str, jax.Array]]  # of every game; they exist in training only
    optimizer: optax.OptState
    skipped: jax.Array  # int32 [2]: updates left out because they were not finite: of this phase, and now in a row


def rate(peak: float, steps: int, step: int) -> float:
    """The learning rate of a step: a warm-up over a tenth of the steps (at most 50), then a cosine to 5 %."""
    warmup = min(50, max(1, steps // 10))
    return float(optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, warmup + 1), peak * 0.05)(step))


@functools.cache
def optimizer(*, muon: bool = False) -> optax.GradientTransformation:
    """AdamW at a learning rate of 1 with gradients clipped to norm 1; `apply` brings the rate.

    muon: the matrices inside the blocks are learned by Muon instead (Jordan et al., 2024), at ten times the rate: all
    directions of a matrix move alike, which from scratch saves about half of the steps.
    """
    if not muon:
        rule = optax.adamw(1.0, b2=0.98, weight_decay=_DECAY)
    else:
        rule = optax.contrib.muon(
            10.0,
            weight_decay=_DECAY,
            adam_learning_rate=1.0,
            adam_b2=0.98,
            adam_weight_decay=_DECAY,
            muon_weight_dimension_numbers=_matrices,
        )
    return optax.chain(optax.clip_by_global_norm(1.0), rule)


def _matrices(params: Any) -> Any:
    """For every parameter, whether it is a matrix inside a block, in Muon's words."""

    def judge(path: tuple[Any, ...], leaf: jax.Array) -> Any:
        inside = leaf.ndim == 2 and any(getattr(key, "key", None) == "blocks" for key in path)
        return optax.contrib.MuonDimensionNumbers() if inside else None

    return jax.tree_util.tree_map_with_path(judge, params)


def add(total: Any, more: Any) -> Any:
    """Trees of gradients added up (the first may be None), in the memory of the first: there is no room for many of a
    large model. Who calls lets go of the second.
    """
    return more if total is None else _add(total, more)


@functools.partial(jax.jit, donate_argnums=0)
def _add(total: Any, more: Any) -> Any:
    return jax.tree.map(jnp.add, total, more)


@functools.partial(jax.jit, donate_argnums=0)
def over(total: Any, count: jax.Array) -> Any:
    """A tree of gradients divided by a number, in its own memory."""
    return jax.tree.map(lambda leaf: leaf / count, total)


@functools.partial(jax.jit, static_argnums=(0, 3), static_argnames="mesh", donate_argnums=1)
def apply(
    rule: optax.GradientTransformation,
    state: TrainState,
    total: tuple[Params, dict[str, Any]],
    games: int,
    lr: jax.Array,
    *,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[TrainState, jax.Array]:
    """One update, at a learning rate float32 [], from the sum of so many games' gradients, of what learns and of their
    heads, by its mean. Also the gradient's norm.

    The state before is gone: that after takes its memory. Where the norm is not finite the update is left out, and
    counted. Where it is, so is all that comes of it: the gradient is clipped to norm 1, Adam's steps are bounded by the
    learning rate, and that is at most 1.
    """
    mean, heads = jax.tree.map(lambda leaf: leaf / jnp.float32(games), total)
    norm = optax.tree.norm((mean, heads))

    def learn() -> TrainState:
        trained = (state.params, {name: state.heads[name] for name in heads})
        updates, inner = rule.update((mean, heads), state.optimizer, trained)
        params, changed = optax.apply_updates(trained, optax.tree.scale(lr, updates))
        return TrainState(params, {**state.heads, **changed}, inner, state.skipped * jnp.asarray([1, 0], jnp.int32))

    after = jax.lax.cond(jnp.isfinite(norm), learn, lambda: state._replace(skipped=state.skipped + 1))
    return sharding.hold(after, mesh), norm


def start(
    rule: optax.GradientTransformation,
    params: Params,
    heads: dict[str, Any],
    *,
    with_heads: bool,
    mesh: jax.sharding.Mesh | None = None,
) -> TrainState:
    """A phase begins with a fresh optimizer, whose moments live where their parameters do."""
    moments = _begin(rule, (params, heads if with_heads else {}), mesh)
    return TrainState(params, heads, moments, sharding.spread(jnp.zeros(2, jnp.int32), mesh))


@functools.partial(jax.jit, static_argnums=(0, 2))
def _begin(rule: optax.GradientTransformation, trained: Any, mesh: jax.sharding.Mesh | None) -> optax.OptState:
    return sharding.hold(rule.init(trained), mesh)


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
    alike: jax.Array  # for plain means: each that counts at all as much as any other; their sum is 1
    boards: tuple[jax.Array, jax.Array] | None = None  # float32 [S], sums of 1: those whose reply names an action, all


def cut(batch: Any, count: int, rows: np.ndarray) -> Any:
    """Some rows of a batch of `count` prompts, groups and pictures with them."""

    def some(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(count, -1, *leaf.shape[1:])[rows].reshape(-1, *leaf.shape[1:])

    return jax.tree.map(some, batch)


@functools.partial(jax.jit, static_argnums=0)
def score(frame: Frame, params: Params, tried: Tried, temperature: jax.Array) -> jax.Array:
    """The log-probabilities that a model gives to replies: float32 [B, R]."""
    model = nnx.merge(frame.graphdef, params)
    return model.answered(*tried.prompts, tried.ids, temperature).logprobs


_READING = 0.4  # of the logarithm of the odds of reading a board: by all of it acting would learn little


class Rule(NamedTuple):
    """What kind of objective; hashable."""

    objective: grpo.Objective = "clip"
    kl_in_advantage: bool = False  # by k1; else k3 is part of the loss
    scale: Scale = "none"  # of the judgement of every action


class Hyper(NamedTuple):
    """Numbers of the objective, float32 []."""

    temperature: jax.Array
    clip: grpo.Clip
    kl: jax.Array  # weight of the divergence from the reference
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
    """Minus the gain, as its credit is shared out, plus the mean divergence from the reference; and what to report.

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

    advantage, kl = tried.credit.advantage, jnp.float32(0)
    if tried.reference is not None:
        kl = mean(grpo.k3(now.logprobs, tried.reference, mask))
        if rule.kl_in_advantage:
            advantage = advantage - hyper.kl * jax.lax.stop_gradient(grpo.k1(old, tried.reference, mask))
    gain = grpo.GAINS[rule.objective](now.logprobs, old, advantage, hyper.clip, mask)
    gain = gain * jnp.where(jnp.isfinite(hyper.cap), grpo.correction(old, tried.sampler, hyper.cap, mask), 1.0)
    ratio = (grpo.reply_ratio if rule.objective == "gspo" else grpo.ratio)(now.logprobs, old, mask)
    gained, told = jnp.sum(share.gain * gain), {}
    if tried.choice is not None and names is not None and share.boards is not None:
        place, worth, truth, rarest = tried.choice
        likely = choices.logprobs(model, prompt, hidden, cache, place, names, hyper.temperature)
        by_board, expected = choices.gain(likely, worth, rule.scale, rarest)
        read = model.said(model.continued(prompt, truth)[0], truth, hyper.temperature).logprobs
        acting, every = share.boards
        gained += jnp.sum(acting * by_board) + _READING * hyper.reading * jnp.sum(every * jnp.sum(read, axis=1))
        told = {"expected": jnp.sum(acting * expected)}
    loss = -hyper.weight * gained + (0.0 if rule.kl_in_advantage else hyper.kl * kl)
    return loss, told | {
        "loss": loss,
        "kl": kl,
        "entropy": mean(now.entropy),
        "clipped": mean((hyper.clip(ratio) != ratio).astype(jnp.float32)),
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
