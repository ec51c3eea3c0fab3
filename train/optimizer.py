"""Optimizer steps, a part of the model at a time.

What learns is cut into parts: every block of decoder and tower is one, all else is another. Blocks are alike, so one
small program serves all of them, where that of all parameters at once takes half a minute to compile for a model of 3B.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from policy import sharding
from policy.model import Params

Tree = TypeVar("Tree")

_DECAY = 0.01  # of weights
_BLOCK = re.compile(r"(.*\bblocks)\.(\d+)(\..*)")  # the path of a parameter inside a block: of which, and where in it


class TrainState(NamedTuple):
    """What learning changes."""

    params: Params  # what learns of the model, float32
    heads: dict[str, dict[str, jax.Array]]  # of every game; they exist in training only
    optimizer: dict[str, optax.OptState]  # of every part
    skipped: jax.Array  # int32 [2]: updates left out because they were not finite: of this phase, and now in a row


def rate(peak: float, steps: int, step: int) -> float:
    """The learning rate of a step: a warm-up over a tenth of the steps (at most 50), then a cosine to 5 %.

    At the first step, if it is not the only one, it is 0: Adam's moments see a gradient before anything moves. (A rate
    from the first step on cost a sixth of the score in swap, see CHANGELOG.)
    """
    if steps == 1:
        return peak
    warmup = min(50, max(1, steps // 10))
    return float(optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, warmup + 1), peak * 0.05)(step))


@functools.cache
def make(*, muon: bool = False) -> optax.GradientTransformation:
    """AdamW at a learning rate of 1; `apply` brings the rate, and gradients clipped to norm 1.

    muon: the matrices inside the blocks are learned by Muon instead (Jordan et al., 2024), at ten times the rate: all
    directions of a matrix move alike, which from scratch saves about half of the steps.
    """
    if not muon:
        return optax.adamw(1.0, b2=0.98, weight_decay=_DECAY)
    return optax.contrib.muon(
        10.0,
        weight_decay=_DECAY,
        adam_learning_rate=1.0,
        adam_b2=0.98,
        adam_weight_decay=_DECAY,
        muon_weight_dimension_numbers=_matrices,
    )


def _matrices(part: Any) -> Any:
    """For every parameter, whether it is a matrix inside a block, in Muon's words."""

    def judge(path: Any, leaf: jax.Array) -> Any:
        inside = leaf.ndim == 2 and "blocks" in sharding.path_of(path).split(".")
        return optax.contrib.MuonDimensionNumbers() if inside else None

    return jax.tree_util.tree_map_with_path(judge, part)


def start(
    rule: optax.GradientTransformation,
    params: Params,
    heads: dict[str, Any],
    *,
    with_heads: bool,
    mesh: jax.sharding.Mesh | None = None,
) -> TrainState:
    """A phase begins with a fresh optimizer, whose moments live where their parameters do."""
    parts = _cut((params, heads if with_heads else {}))
    moments = {name: _begin(rule, part, mesh) for name, part in parts.items()}
    return TrainState(params, heads, moments, sharding.spread(jnp.zeros(2, jnp.int32), mesh))


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
    trained = (state.params, {name: state.heads[name] for name in total[1]})
    mine, slopes, count = _cut(trained), _cut(total), jnp.float32(games)
    norm, skipped = _judge([_squares(part, count) for part in slopes.values()], state.skipped)
    moved = {
        name: _learn(rule, mesh, part, state.optimizer[name], slopes[name], count, norm, lr)
        for name, part in mine.items()
    }
    params, heads = _joined(jax.tree.structure(trained), {name: part for name, (part, _) in moved.items()})
    moments = {name: inner for name, (_, inner) in moved.items()}
    return TrainState(params, {**state.heads, **heads}, moments, skipped), norm


def add(total: Tree | None, more: Tree) -> Tree:
    """Trees of gradients added up (the first may be None), in the memory of the first: there is no room for many of a
    large model. Who calls lets go of the second.
    """
    return more if total is None else _by_parts(_add, total, more)


def over(total: Tree, count: jax.Array) -> Tree:
    """A tree of gradients divided by a number, in its own memory."""
    return _by_parts(lambda part: _over(part, count), total)


Part = dict[str, jax.Array]  # by path; that of a block's parameter is without the block's number


@functools.cache
def _layout(structure: Any) -> dict[str, dict[str, int]]:
    """The parts of a tree: where among its leaves each of their parameters is."""
    parts: dict[str, dict[str, int]] = {}
    numbered = jax.tree.unflatten(structure, range(structure.num_leaves))
    for where, (steps, _) in enumerate(jax.tree_util.tree_leaves_with_path(numbered)):
        path = sharding.path_of(steps)
        block = _BLOCK.fullmatch(path)
        part, name = (f"{block[1]}.{block[2]}", block[1] + block[3]) if block else ("rest", path)
        parts.setdefault(part, {})[name] = where
    return parts


def _cut(tree: Any) -> dict[str, Part]:
    """The parts of a tree, by name."""
    leaves, structure = jax.tree.flatten(tree)
    return {part: {name: leaves[i] for name, i in places.items()} for part, places in _layout(structure).items()}


def _joined(structure: Any, parts: dict[str, Part]) -> Any:
    """The tree that has these parts."""
    leaves = {i: parts[part][name] for part, places in _layout(structure).items() for name, i in places.items()}
    return jax.tree.unflatten(structure, [leaves[i] for i in range(len(leaves))])


def _by_parts(program: Callable[..., Part], tree: Tree, *others: Tree) -> Tree:
    """What a program makes of every part of a tree, with those of others like it."""
    cuts = [*map(_cut, (tree, *others))]
    return _joined(jax.tree.structure(tree), {name: program(*(cut[name] for cut in cuts)) for name in cuts[0]})


@functools.partial(jax.jit, donate_argnums=0)
def _add(total: Part, more: Part) -> Part:
    return jax.tree.map(jnp.add, total, more)


@functools.partial(jax.jit, donate_argnums=0)
def _over(total: Part, count: jax.Array) -> Part:
    return jax.tree.map(lambda leaf: leaf / count, total)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _begin(rule: optax.GradientTransformation, part: Part, mesh: jax.sharding.Mesh | None) -> optax.OptState:
    return sharding.hold(rule.init(part), mesh)


@jax.jit
def _squares(total: Part, count: jax.Array) -> jax.Array:
    """The squared norm of the mean gradient of a part."""
    return optax.tree.norm(jax.tree.map(lambda leaf: leaf / count, total), squared=True)


@functools.partial(jax.jit, donate_argnums=1)
def _judge(squares: list[jax.Array], skipped: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The norm of all parts, and how many updates have been skipped after this one."""
    norm = jnp.sqrt(sum(squares))
    return norm, jnp.where(jnp.isfinite(norm), skipped * jnp.asarray([1, 0]), skipped + 1)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def _learn(
    rule: optax.GradientTransformation,
    mesh: jax.sharding.Mesh | None,
    part: Part,
    moments: optax.OptState,
    total: Part,
    count: jax.Array,
    norm: jax.Array,
    lr: jax.Array,
) -> tuple[Part, optax.OptState]:
    """A part and its moments after the update; as they were where the norm of all is not finite."""

    def learn() -> tuple[Part, optax.OptState]:
        clipped = jax.tree.map(lambda leaf: leaf / count / jnp.maximum(norm, 1.0), total)
        updates, inner = rule.update(clipped, moments, part)
        return optax.apply_updates(part, optax.tree.scale(lr, updates)), inner

    return sharding.hold(jax.lax.cond(jnp.isfinite(norm), learn, lambda: (part, moments)), mesh)
