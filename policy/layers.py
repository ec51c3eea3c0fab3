"""Parts that the vision tower and the decoder share."""

import jax
from flax import nnx


def linear(inputs: int, outputs: int, *, bias: bool, rngs: nnx.Rngs, shrink: float = 1.0) -> nnx.Linear:
    """A dense layer; `shrink` divides its first weights' variance (twice the depth, on the way out of a block)."""
    init = nnx.initializers.variance_scaling(1.0 / shrink, "fan_in", "truncated_normal")
    return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=init, rngs=rngs)


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer, arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int, layers: int, *, bias: bool, rngs: nnx.Rngs) -> None:
        self.gate = linear(width, hidden, bias=bias, rngs=rngs)
        self.up = linear(width, hidden, bias=bias, rngs=rngs)
        self.down = linear(hidden, width, bias=bias, rngs=rngs, shrink=2 * layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))
