"""The objective of group relative policy optimization and its kin, as pure functions.

What stands past a reply's end is masked before anything is made of it: a `where` afterwards would stop the value but
not the gradient, for 0 times the slope of an overflowed exponential is NaN. Tokens that count are bounded: where two
policies are more than e**20 apart, how much more no longer matters.

logprobs, old, advantage: float32 [B, R], of the tokens said, now and when the update began; mask bool [B, R].
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

Objective = Literal["clip", "cispo", "gspo"]

_FARTHEST = 20.0  # nats; e**20 and its square are finite in float32


class Clip(NamedTuple):
    """Ratios of probabilities count within 1 - low and 1 + high: float32 [] each.

    A high above low leaves unlikely tokens room to grow ("clip-higher", DAPO, arXiv 2503.14476).
    """

    low: jax.Array | float
    high: jax.Array | float

    def __call__(self, ratio: jax.Array) -> jax.Array:
        return jnp.clip(ratio, 1 - self.low, 1 + self.high)


def apart(logprobs: jax.Array, old: jax.Array, mask: jax.Array) -> jax.Array:
    """logprobs - old where the mask holds, within -20 and 20; else 0."""
    return jnp.clip(jnp.where(mask, logprobs - old, 0.0), -_FARTHEST, _FARTHEST)


def ratio(logprobs: jax.Array, old: jax.Array, mask: jax.Array) -> jax.Array:
    """How much likelier each token is now: float32 [B, R] in [e**-20, e**20]; 1 where the mask does not hold."""
    return jnp.exp(apart(logprobs, old, mask))


def clipped_gain(
    logprobs: jax.Array, old: jax.Array, advantage: jax.Array, clip: Clip, mask: jax.Array | bool = True
) -> jax.Array:
    """min(ratio A, clip(ratio) A) of every token (PPO, arXiv 1707.06347, eq. 7): float32 [B, R]."""
    change = ratio(logprobs, old, jnp.asarray(mask))
    return jnp.minimum(change * advantage, clip(change) * advantage)


def cispo_gain(
    logprobs: jax.Array, old: jax.Array, advantage: jax.Array, clip: Clip, mask: jax.Array | bool = True
) -> jax.Array:
    """sg(clip(ratio)) A log p of every token, up to a constant: float32 [B, R] (CISPO, MiniMax-M1, arXiv 2506.13585).

    The weight is clipped, not the token: none loses its gradient.
    """
    change = apart(logprobs, old, jnp.asarray(mask))
    return jax.lax.stop_gradient(clip(jnp.exp(change))) * advantage * change


def gspo_gain(
    logprobs: jax.Array, old: jax.Array, advantage: jax.Array, clip: Clip, mask: jax.Array | bool = True
) -> jax.Array:
    """min(s A, clip(s) A) with one ratio s a reply (GSPO, arXiv 2507.18071, eq. 7).

    As in its eq. 15 (GSPO-token), each token carries its own part of the gradient of s, so that tokens of a reply may
    have advantages of their own; where they have the same, the gradient is that of GSPO: replies then count alike,
    whatever their length.
    """
    s = reply_ratio(logprobs, old, jnp.broadcast_to(jnp.asarray(mask), logprobs.shape))
    return jnp.minimum(s * advantage, clip(s) * advantage)


def reply_ratio(logprobs: jax.Array, old: jax.Array, mask: jax.Array) -> jax.Array:
    """The geometric mean of the ratios of a reply's tokens, at each of them: float32 [B, R].

    Its gradient at a token is that of the token's own ratio.
    """
    change = apart(logprobs, old, mask)
    whole = jnp.sum(change, axis=1, keepdims=True) / jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1)
    return jnp.exp(jax.lax.stop_gradient(whole) + change - jax.lax.stop_gradient(change))


GAINS = {"clip": clipped_gain, "cispo": cispo_gain, "gspo": gspo_gain}


def correction(old: jax.Array, sampler: jax.Array, cap: jax.Array | float, mask: jax.Array | bool = True) -> jax.Array:
    """min(p / q, cap) of every token, p the trainer's probability and q the sampler's: float32 [B, R], no gradient.

    Where the two compute differently (another precision, other kernels) replies are drawn from q but learned from as if
    from p: truncated importance sampling (Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL
    Training", 2025).
    """
    return jax.lax.stop_gradient(jnp.minimum(ratio(old, sampler, jnp.asarray(mask)), cap))


def k1(logprobs: jax.Array, reference: jax.Array, mask: jax.Array | bool = True) -> jax.Array:
    """logprobs - reference: the unbiased estimate of KL(policy || reference), which one token may make negative.

    (Schulman, "Approximating KL Divergence", 2020.) It belongs into the advantage: as a loss, its expected gradient is
    zero whatever the reference (arXiv 2506.09477). float32 [B, R], 0 where the mask does not hold.
    """
    return apart(logprobs, reference, jnp.asarray(mask))


def k3(logprobs: jax.Array, reference: jax.Array, mask: jax.Array | bool = True) -> jax.Array:
    """exp(d) - d - 1 with d = reference - logprobs: an estimate of KL(policy || reference) that is never negative.

    (Schulman, "Approximating KL Divergence", 2020; DeepSeekMath eq. 4.) float32 [B, R], 0 where the mask does not hold.
    """
    d = apart(reference, logprobs, jnp.asarray(mask))
    return jnp.expm1(d) - d  # exact to d^2, where exp(d) - 1 is rounded to a step of 1


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over the entries where the mask (bool) holds; 0 when there is none."""
    return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(jnp.sum(mask), 1).astype(jnp.float32)
