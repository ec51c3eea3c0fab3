"""Parts that the vision tower and the decoder share."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from flax import nnx

from policy.sharding import rows


class Keys:
    """A key for each parameter, one after another: those of `nnx.Rngs(params=key)`.

    Its counter is an array there: to trace it takes time that grows with the square of the number of parameters,
    seconds for a model of billions.
    """

    def __init__(self, key: jax.Array) -> None:
        self._key, self._count = key, 0

    def params(self) -> jax.Array:
        """The next one."""
        self._count += 1
        return jax.random.fold_in(self._key, self._count - 1)


def linear(inputs: int, outputs: int, *, bias: bool, rngs: Keys, shrink: float = 1.0) -> nnx.Linear:
    """A dense layer; `shrink` divides its first weights' variance (twice the depth, on the way out of a block)."""
    init = nnx.initializers.variance_scaling(1.0 / shrink, "fan_in", "truncated_normal")
    return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=init, rngs=cast(nnx.Rngs, rngs))


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


_MANY = 7  # modules in a row that are worth a loop


def in_turn(
    step: Callable[[Any, jax.Array, Any], tuple[jax.Array, Any]],
    modules: Sequence[nnx.Module],
    x: jax.Array,
    own: Sequence[Any],
    *,
    remat: bool,
    mesh: jax.sharding.Mesh | None,
) -> tuple[jax.Array, list[Any]]:
    """x through modules that differ in their parameters only, one after another: step(module, x, own of it) -> x, more.

    Also returns what more each gave. remat: what happens inside of them is computed again in the backward pass. Many of
    them are a loop then: a compiler has one to read, not dozens, and cannot keep what is to be computed again. That
    costs a copy of their parameters, little beside what learning takes; but where adapters learn alone it would be most
    of all that is in memory, and there is no loop.
    """
    graphdefs, states = zip(*(nnx.split(module) for module in modules), strict=True)

    def one(graphdef: Any, state: Any, x: jax.Array, mine: Any) -> tuple[jax.Array, Any]:
        x, more = step(nnx.merge(graphdef, state), rows(x, mesh), mine)
        return rows(x, mesh), more

    run = jax.checkpoint(one, static_argnums=0) if remat else one
    if remat and len(modules) >= _MANY and not _adapted(states[0]):
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *zip(states, own, strict=True))
        x, each = jax.lax.scan(lambda x, given: run(graphdefs[0], given[0], x, given[1]), x, stacked)
        return x, [jax.tree.map(lambda leaf, i=i: leaf[i], each) for i in range(len(modules))]
    found = []
    for graphdef, state, mine in zip(graphdefs, states, own, strict=True):
        x, more = run(graphdef, state, x, mine)
        found.append(more)
    return x, found


def _adapted(state: Any) -> bool:
    """Whether adapters stand beside the layers of a module (see `policy.lora`)."""
    return any("lora_a" in jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state))


def fused(dtype: jnp.dtype) -> bool:
    """Whether whole sequences are attended to by one fused kernel: in half precision, on a GPU, where cuDNN has it."""
    return jax.default_backend() == "gpu" and dtype in (jnp.bfloat16, jnp.float16)


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array | None = None, *, causal: bool = False
) -> jax.Array:
    """Attention without a matrix of scores in memory: q [B, T, heads, d], k and v [B, K, kv_heads, d] -> as q.

    lengths int32 [B]: how many of the keys count (None: all). Whatever T and K are: cuDNN has gradients of even lengths
    only.
    """
    rows, length = q.shape[:2]
    if length % 2 or k.shape[1] % 2:
        lengths = jnp.full(rows, k.shape[1], jnp.int32) if lengths is None else lengths
        q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
    mixed = jax.nn.dot_product_attention(
        q, k, v, is_causal=causal, key_value_seq_lengths=lengths,
        implementation="cudnn" if jax.default_backend() == "gpu" else "xla",
    )  # fmt: skip
    return mixed[:, :length]


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer, arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int, layers: int, *, bias: bool, rngs: Keys) -> None:
        self.gate = linear(width, hidden, bias=bias, rngs=rngs)
        self.up = linear(width, hidden, bias=bias, rngs=rngs)
        self.down = linear(hidden, width, bias=bias, rngs=rngs, shrink=2 * layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        if not fused(x.dtype):
            return self.down(jax.nn.silu(self.gate(x)) * self.up(x))
        plain = all(isinstance(layer, nnx.Linear) for layer in (self.gate, self.up, self.down))  # without adapters
        if plain and self.gate.out_features % 8:
            return self._widened(x)
        # Or XLA makes one product of both where rows are few, by a slow kernel that joins their matrices as it goes.
        return self.down(jax.nn.silu(self.gate(x)) * self.up(jax.lax.optimization_barrier(x)))

    def _widened(self, x: jax.Array) -> jax.Array:
        """The same with zeros at the end of what is hidden: silu(0) * 0 adds nothing, and learns nothing.

        Where rows of a matrix do not begin at multiples of 16 bytes, as the 3420 columns of Qwen2.5-VL's towers do not,
        a GPU multiplies at a third to a half of its speed.
        """
        more = -self.gate.out_features % 64

        def hidden(layer: nnx.Linear) -> jax.Array:
            made = jnp.matmul(x, jnp.pad(layer.kernel[...], ((0, 0), (0, more))))
            return made if layer.bias is None else made + _row(jnp.pad(layer.bias[...], (0, more)), x)

        mixed = jax.nn.silu(hidden(self.gate)) * hidden(self.up)
        made = jnp.matmul(mixed, jnp.pad(self.down.kernel[...], ((0, more), (0, 0))))
        return made if self.down.bias is None else made + _row(self.down.bias[...], x)


class MLP(nnx.Module):
    """down(gelu(up(x))), with the tanh that approximates the error function."""

    def __init__(self, width: int, hidden: int, layers: int, *, rngs: Keys) -> None:
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
        return _row(self.scale[...], x) * (whole * jax.lax.rsqrt(mean + self.eps)).astype(x.dtype)


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
        scale, bias = (_row(each[...], x).astype(jnp.float32) for each in (self.scale, self.bias))
        return (scale * normal + bias).astype(x.dtype)


def _row(vector: jax.Array, x: jax.Array) -> jax.Array:
    """A vector as the last axis of something of the rank of x."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))
