"""Parts that the vision tower and the decoder share."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from flax import nnx


def linear(inputs: int, outputs: int, *, bias: bool, rngs: nnx.Rngs, shrink: float = 1.0) -> nnx.Linear:
    """A dense layer; `shrink` divides its first weights' variance (twice the depth, on the way out of a block)."""
    init = nnx.initializers.variance_scaling(1.0 / shrink, "fan_in", "truncated_normal")
    return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=init, rngs=rngs)


_Arrays = TypeVar("_Arrays", bound=tuple[Any, ...])


def as_it_is(arrays: _Arrays, /, *, dtype: Any = None, inexact: bool = True) -> _Arrays:
    """Let a table of embeddings have its parameters' dtype: Flax's keeps the one that it was made in, float32."""
    del dtype, inexact
    return arrays


_Method = TypeVar("_Method", bound=Callable[..., Any])


def alike(method: _Method) -> _Method:
    """A module's method, traced and lowered once for all modules that differ in their parameters only.

    Many layers then take a few times as long as one of them, not as many times as there are. XLA puts the calls back
    where they stand: programs are as fast as before. Arguments are arrays, pytrees of them, or None.
    """

    @functools.partial(jax.jit, static_argnums=0)
    def run(graphdef: Any, state: Any, *args: Any) -> Any:
        return method(nnx.merge(graphdef, state), *args)

    @functools.wraps(method)
    def call(module: nnx.Module, *args: Any) -> Any:
        return run(*nnx.split(module), *args)

    return cast(_Method, call)


def fused(dtype: jnp.dtype) -> bool:
    """Whether whole sequences are attended to by one fused kernel: in half precision, on a GPU, where cuDNN has it."""
    return jax.default_backend() == "gpu" and dtype in (jnp.bfloat16, jnp.float16)


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array | None = None, *, causal: bool = False
) -> jax.Array:
    """Attention without a matrix of scores in memory: q [B, T, heads, d], k and v [B, K, kv_heads, d] -> as q.

    lengths int32 [B]: how many of the keys count (None: all).
    """
    return jax.nn.dot_product_attention(
        q, k, v, is_causal=causal, key_value_seq_lengths=lengths,
        implementation="cudnn" if jax.default_backend() == "gpu" else "xla",
    )  # fmt: skip


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer, arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int, layers: int, *, bias: bool, rngs: nnx.Rngs) -> None:
        self.gate = linear(width, hidden, bias=bias, rngs=rngs)
        self.up = linear(width, hidden, bias=bias, rngs=rngs)
        self.down = linear(hidden, width, bias=bias, rngs=rngs, shrink=2 * layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class MLP(nnx.Module):
    """down(gelu(up(x))), with the tanh that approximates the error function."""

    def __init__(self, width: int, hidden: int, layers: int, *, rngs: nnx.Rngs) -> None:
        self.up = linear(width, hidden, bias=True, rngs=rngs)
        self.down = linear(hidden, width, bias=True, rngs=rngs, shrink=2 * layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.gelu(self.up(x), approximate=True))


class RMSNorm(nnx.Module):
    """x / rms(x) * scale: the norm in float32, the product in the dtype of x."""

    def __init__(self, width: int, *, eps: float) -> None:
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        whole = x.astype(jnp.float32)
        mean = jnp.mean(whole * whole, axis=-1, keepdims=True)
        return _row(self.scale, x) * (whole * jax.lax.rsqrt(mean + self.eps)).astype(x.dtype)


class LayerNorm(nnx.Module):
    """(x - mean) / deviation * scale + bias, in float32 and back."""

    def __init__(self, width: int, *, eps: float) -> None:
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        whole = x.astype(jnp.float32)
        centred = whole - jnp.mean(whole, axis=-1, keepdims=True)
        normal = centred * jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + self.eps)
        return (_row(self.scale, x) * normal + _row(self.bias, x)).astype(x.dtype)


def _row(vector: nnx.Param[jax.Array], x: jax.Array) -> jax.Array:
    """A vector as the last axis of something of the rank of x."""
    return vector[...].reshape((1,) * (x.ndim - 1) + (-1,))
