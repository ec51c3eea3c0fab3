"""The objective of group relative policy optimization, as pure functions.

What stands past a reply's end is masked before anything is made of it: a `where` afterwards would stop the value but
not the gradient, for 0 times the slope of an overflowed exponential is NaN. Tokens that count are bounded: where two
policies are more than e**20 apart, how much more no longer matters.
"""

import jax
import jax.numpy as jnp

_FARTHEST = 20.0  # nats; e**20 and its square are finite in float32
_ALIKE = 1e-5  # of the largest reward: closer together than this, the rewards of a group differ by rounding only


def differ(rewards: jax.Array) -> jax.Array:
    """Whether there is anything to learn from a group: rewards float32 [S, G] -> bool [S], not all of them alike."""
    spread = jnp.max(rewards, axis=1) - jnp.min(rewards, axis=1)
    return spread > _ALIKE * jnp.maximum(jnp.max(jnp.abs(rewards), axis=1), 1)


def advantages(rewards: jax.Array) -> jax.Array:
    """(r - mean) / std within each group: rewards float32 [S, G] -> float32 [S, G] (arXiv 2402.03300, section 4.1).

    A group whose rewards are all equal, but for rounding, teaches nothing: its advantages are exactly 0.
    """
    centred = rewards - jnp.mean(rewards, axis=1, keepdims=True)
    scaled = centred / (jnp.std(rewards, axis=1, keepdims=True) + jnp.float32(1e-4))
    return jnp.where(differ(rewards)[:, None], scaled, jnp.float32(0))


def ratio(logprobs: jax.Array, old: jax.Array, mask: jax.Array) -> jax.Array:
    """How much likelier each token is now: float32 [B, R] in [e**-20, e**20]; 1 where the mask, bool [B, R], is not."""
    return jnp.exp(jnp.clip(jnp.where(mask, logprobs - old, 0.0), -_FARTHEST, _FARTHEST))


def clipped_gain(
    logprobs: jax.Array, old: jax.Array, advantage: jax.Array, clip: jax.Array | float, mask: jax.Array | bool = True
) -> jax.Array:
    """min(ratio A, clip(ratio, 1 - clip, 1 + clip) A) of every token (PPO, arXiv 1707.06347, eq. 7).

    logprobs, old: float32 [B, R] of the tokens said; advantage: float32 [B]; mask bool [B, R] -> float32 [B, R].
    """
    change = ratio(logprobs, old, jnp.asarray(mask))
    return jnp.minimum(change * advantage[:, None], jnp.clip(change, 1 - clip, 1 + clip) * advantage[:, None])


def k3(logprobs: jax.Array, reference: jax.Array, mask: jax.Array | bool = True) -> jax.Array:
    """exp(d) - d - 1 with d = reference - logprobs: an estimate of KL(policy || reference) that is never negative.

    (Schulman, "Approximating KL Divergence", 2020; DeepSeekMath eq. 4.) float32 [B, R], of the tokens said; 0 where the
    mask, bool [B, R], does not hold.
    """
    d = jnp.clip(jnp.where(jnp.asarray(mask), reference - logprobs, 0.0), -_FARTHEST, _FARTHEST)
    return jnp.exp(d) - d - 1


def entropy(logprobs: jax.Array) -> jax.Array:
    """Of distributions given as log-probabilities, float32 [..., V] -> [...]; -inf is a token that is never said."""
    said = jnp.isfinite(logprobs)
    certain = jnp.where(said, logprobs, 0.0)
    return -jnp.sum(jnp.where(said, jnp.exp(certain) * certain, 0.0), axis=-1)


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over the entries where the mask (bool) holds; 0 when there is none."""
    return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(jnp.sum(mask), 1).astype(jnp.float32)
