"""Optimizer steps: gradients game by game, one update from their mean."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from flax import nnx

from policy import Reply
from policy.model import Model, Params
from train import coldstart, grpo
from train.config import Grpo

_DECAY = 0.01  # of weights


class TrainState(NamedTuple):
    """What learning changes."""

    params: Params
    heads: dict[str, dict[str, jax.Array]]  # of every game; they exist in training only
    optimizer: optax.OptState
    skipped: jax.Array  # int32 [2]: updates left out because they were not finite: of this phase, and now in a row


def optimizer(lr: float, steps: int, *, muon: bool = False) -> optax.GradientTransformation:
    """AdamW with gradients clipped to norm 1, a warm-up over a tenth of the steps (at most 50) and a cosine to 5 %.

    muon: the matrices inside the blocks are learned by Muon instead (Jordan et al., 2024), at ten times the rate: all
    directions of a matrix move alike, which from scratch saves about half of the steps.
    """
    warmup = min(50, max(1, steps // 10))

    def schedule(peak: float) -> optax.Schedule:
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, warmup + 1), peak * 0.05)

    if not muon:
        rule = optax.adamw(schedule(lr), b2=0.98, weight_decay=_DECAY)
    else:
        rule = optax.contrib.muon(
            schedule(10 * lr),
            weight_decay=_DECAY,
            adam_learning_rate=schedule(lr),
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


@functools.partial(jax.jit, static_argnums=0)
def apply(
    rule: optax.GradientTransformation, state: TrainState, gradients: tuple[tuple[Params, dict[str, Any]], ...]
) -> tuple[TrainState, jax.Array]:
    """One update from the mean of the games' gradients; heads belong to one game each. Also the gradient's norm.

    Where that norm is not finite the update is left out, and counted. Where it is, so is all that comes of it: the
    gradient is clipped to norm 1, Adam's steps are bounded by the learning rate, and that is at most 1.
    """
    n = jnp.float32(len(gradients))
    mean = jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]) / n, *(params for params, _ in gradients))
    heads = {name: jax.tree.map(lambda leaf: leaf / n, head) for _, own in gradients for name, head in own.items()}
    norm = optax.tree.norm((mean, heads))

    def learn() -> TrainState:
        trained = (state.params, {name: state.heads[name] for name in heads})
        updates, inner = rule.update((mean, heads), state.optimizer, trained)
        params, changed = optax.apply_updates(trained, updates)
        return TrainState(params, {**state.heads, **changed}, inner, state.skipped * jnp.asarray([1, 0], jnp.int32))

    return jax.lax.cond(jnp.isfinite(norm), learn, lambda: state._replace(skipped=state.skipped + 1)), norm


def start(rule: optax.GradientTransformation, params: Params, heads: dict[str, Any], *, with_heads: bool) -> TrainState:
    """A phase begins with a fresh optimizer."""
    return TrainState(params, heads, jax.jit(rule.init)((params, heads if with_heads else {})), jnp.zeros(2, jnp.int32))


supervised_gradients = jax.jit(
    jax.value_and_grad(coldstart.loss, argnums=(1, 2), has_aux=True), static_argnums=0
)  # arguments and reports are those of `coldstart.loss`

sight_gradients = jax.jit(jax.value_and_grad(coldstart.sight_loss, argnums=(1, 2), has_aux=True), static_argnums=0)


class Tried(NamedTuple):
    """Groups of replies to boards of one game: B = S * G rows, a board's group side by side."""

    prompt: jax.Array  # int32 [P]
    pictures: jax.Array  # uint8 [S, H, W, 3]
    ids: jax.Array  # int32 [B, R]
    lengths: jax.Array  # int32 [B]
    logprobs: jax.Array  # float32 [B, R], of the sampler
    credit: grpo.Credit


def learned_from(
    prompt: jax.Array, pictures: jax.Array, said: Reply, earned: grpo.Rewards, borders: tuple[int, int], part: Grpo
) -> Tried:
    """What of groups of replies (B = S * G rows) is learned from, each token with its credit."""
    states, group = earned.game.shape
    keep = part.keep or group
    best = grpo.farthest(sum(earned, jnp.float32(0)), keep) if keep < group else jnp.arange(group)[None]
    rows = (jnp.arange(states, dtype=jnp.int32)[:, None] * group + best).reshape(-1)
    ids, lengths, logprobs = (leaf[rows] for leaf in said)
    kept = grpo.Rewards(*(each.reshape(-1)[rows].reshape(states, keep) for each in earned))
    share_out = {"block": grpo.credit_by_block, "reply": grpo.credit_by_reply}[part.credit]
    credit = share_out(kept, grpo.blocks(ids, lengths, borders), scale=part.scale)
    return Tried(prompt, pictures, ids, lengths, logprobs, credit)


class Hyper(NamedTuple):
    """Numbers of the objective, float32 []."""

    temperature: jax.Array
    kl: jax.Array
    clip: jax.Array


def grpo_loss(
    graphdef: nnx.GraphDef[Model], params: Params, reference: Params, tried: Tried, hyper: Hyper
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Minus the clipped gain, as its credit is shared out, plus the mean KL to the reference; and what to report."""

    def said(params: Params) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(graphdef, params)
        prompts = tried.pictures.shape[0]
        prompt = jnp.broadcast_to(tried.prompt[None], (prompts, tried.prompt.shape[0]))
        lengths = jnp.full(prompts, tried.prompt.shape[0], jnp.int32)
        logits = model.continued(model.prefill(prompt, lengths, tried.pictures), tried.ids)
        logprobs = jax.nn.log_softmax(logits / hyper.temperature, axis=-1)
        return logprobs, jnp.take_along_axis(logprobs, tried.ids[..., None], axis=-1)[..., 0]

    everything, logprobs = said(params)
    _, frozen = said(reference)
    mask = jnp.arange(tried.ids.shape[1], dtype=jnp.int32)[None] < tried.lengths[:, None]
    gain = grpo.clipped_gain(logprobs, tried.logprobs, tried.credit.advantage, hyper.clip, mask)
    kl = grpo.masked_mean(grpo.k3(logprobs, jax.lax.stop_gradient(frozen), mask), mask)
    ratio = grpo.ratio(logprobs, tried.logprobs, mask)
    groups = tried.credit.advantage.reshape(tried.pictures.shape[0], -1)
    report = {
        "kl": kl,
        "entropy": grpo.masked_mean(grpo.entropy(everything), mask),
        "clipped": grpo.masked_mean((jnp.abs(ratio - 1) > hyper.clip).astype(jnp.float32), mask),
        "differ": jnp.mean(jnp.any(groups != 0, axis=1).astype(jnp.float32)),
    }
    return hyper.kl * kl - jnp.sum(tried.credit.share * gain), report


grpo_gradients = jax.jit(jax.value_and_grad(grpo_loss, argnums=1, has_aux=True), static_argnums=0)
