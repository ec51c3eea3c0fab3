"""LoRA: a low-rank change beside dense layers of the decoder, learned instead of them (Hu et al., arXiv 2106.09685)."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from policy.layers import Keys
from policy.model import Model, Params
from policy.sharding import path_of

Split = tuple[nnx.GraphDef[Model], Params]

MODULES = ("q", "k", "v", "out", "gate", "up", "down")  # the dense layers of a block


class Adapted(nnx.Module):
    """A dense layer `base` plus alpha / rank times a product of two thin matrices, the second of which begins at 0."""

    def __init__(self, base: nnx.Linear, rank: int, alpha: float, *, rngs: Keys) -> None:
        inputs, outputs = base.kernel[...].shape
        spread = jax.random.normal(rngs.params(), (inputs, rank), jnp.float32) * inputs**-0.5
        self.base, self.scale = base, alpha / rank
        self.lora_a = nnx.Param(spread)
        self.lora_b = nnx.Param(jnp.zeros((rank, outputs), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        a, b = (part[...].astype(x.dtype) for part in (self.lora_a, self.lora_b))
        return self.base(x) + jnp.matmul(jnp.matmul(x, a), b) * jnp.asarray(self.scale, x.dtype)

    def merged(self) -> nnx.Linear:
        """The dense layer that does the same alone."""
        self.base.kernel[...] = _joined(self.base.kernel[...], self.lora_a[...], self.lora_b[...], self.scale)
        return self.base


def _joined(kernel: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    return (kernel.astype(jnp.float32) + jnp.matmul(a, b, precision="highest") * scale).astype(kernel.dtype)


def add(
    graphdef: nnx.GraphDef[Model], params: Params, rank: int, alpha: float, modules: Sequence[str], key: jax.Array
) -> Split:
    """The same model with adapters beside some dense layers of every block of its decoder; it says the same until they
    learn. They are float32 whatever the model is, named `lora_a` and `lora_b`.

    Raises ValueError for a rank below 1, for modules that there are not and for a model that has adapters.
    """
    if not isinstance(rank, int | np.integer) or rank < 1 or not 0 < alpha < math.inf:
        raise ValueError(f"lora rank={rank!r} must be at least 1, a whole number, and alpha={alpha} above 0 and finite")
    if unknown := sorted(set(modules) - set(MODULES)):
        raise ValueError(f"lora modules {', '.join(unknown)}: there are only {', '.join(MODULES)}")
    if not modules or has(params):
        raise ValueError("lora: no modules to adapt" if not modules else "lora: the model has adapters already")
    rngs, model = Keys(key), nnx.merge(graphdef, params)
    for owner, name, layer in _layers(model):
        if name in modules:
            setattr(owner, name, Adapted(layer, rank, alpha, rngs=rngs))
    return nnx.split(model, nnx.Param)


def merge(graphdef: nnx.GraphDef[Model], params: Params) -> Split:
    """The same model without adapters."""
    model = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf, params))  # variables of its own: those given stay
    for owner, name, layer in _layers(model):
        if isinstance(layer, Adapted):
            setattr(owner, name, layer.merged())
    return nnx.split(model, nnx.Param)


def plain(params: Params, scale: float | None) -> Iterator[tuple[str, jax.Array]]:
    """The parameters of `merge`, one after another by dotted path, so that no second decoder is there at any time.

    scale: that of the model's adapters, from `scale_of`.
    """
    leaves = {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    for path, leaf in leaves.items():
        owner, _, part = path.rpartition(".base.")
        if owner and part == "kernel" and scale is not None:
            yield f"{owner}.{part}", _joined(leaf, leaves[f"{owner}.lora_a"], leaves[f"{owner}.lora_b"], scale)
        elif not path.endswith((".lora_a", ".lora_b")):
            yield f"{owner}.{part}" if owner else path, leaf


def scale_of(graphdef: nnx.GraphDef[Model], params: Params) -> float | None:
    """What the product of an adapter's two matrices is multiplied by; None where there are no adapters."""
    layers = (layer for _, _, layer in _layers(nnx.merge(graphdef, params)))
    return next((layer.scale for layer in layers if isinstance(layer, Adapted)), None)


def kind_of(graphdef: nnx.GraphDef[Model], params: Params) -> tuple[int, float, tuple[str, ...]] | None:
    """Rank, alpha and modules of a model's adapters, as `add` takes them; None where there are none."""
    found = {name: layer for _, name, layer in _layers(nnx.merge(graphdef, params)) if isinstance(layer, Adapted)}
    for layer in found.values():
        rank = layer.lora_a[...].shape[-1]
        return rank, layer.scale * rank, tuple(name for name in MODULES if name in found)
    return None


def has(params: Params) -> bool:
    """Whether a model has adapters."""
    return any(adapter(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))


def adapter(path: Any) -> bool:
    """Whether a path in a tree of parameters is that of an adapter."""
    return any(getattr(step, "key", step) in ("lora_a", "lora_b") for step in path)


def _layers(model: Model) -> Iterator[tuple[nnx.Module, str, Any]]:
    for block in model.decoder.blocks:
        for owner, names in ((block.attention, MODULES[:4]), (block.mlp, MODULES[4:])):
            for name in names:
                yield owner, name, getattr(owner, name)
