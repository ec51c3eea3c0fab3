"""The objective of group relative policy optimization, as pure functions."""

import jax
import jax.numpy as jnp


def advantages(rewards: jax.Array) -> jax.Array:
    """(r - mean) / std within each group: rewards float32 [S, G] -> float32 [S, G] (arXiv 2402.03300, section 4.1).

    A group whose rewards are all equal teaches nothing: its advantages are 0.
    """
    centred = rewards - jnp.mean(rewards, axis=1, keepdims=True)
    return centred / (jnp.std(rewards, axis=1, keepdims=True) + jnp.float32(1e-4))


def clipped_gain(logprobs: jax.Array, old: jax.Array, advantage: jax.Array, clip: jax.Array | float) -> jax.Array:
    """min(ratio A, clip(ratio, 1 - clip, 1 + clip) A) of every token (PPO, arXiv 1707.06347, eq. 7).

    logprobs, old: float32 [B, R] of the tokens said; advantage: float32 [B] -> float32 [B, R].
    """
    ratio = jnp.exp(logprobs - old)
    return jnp.minimum(ratio * advantage[:, None], jnp.clip(ratio, 1 - clip, 1 + clip) * advantage[:, None])


def k3(logprobs: jax.Array, reference: jax.Array) -> jax.Array:
    """exp(d) - d - 1 with d = reference - logprobs: an estimate of KL(policy || reference) that is never negative.

    (Schulman, "Approximating KL Divergence", 2020; DeepSeekMath eq. 4.) float32 [B, R], of the tokens said.
    """
    d = reference - logprobs
    return jnp.exp(d) - d - 1


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over the entries where the mask (bool) holds; 0 when there is none."""
    return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(jnp.sum(mask), 1).astype(jnp.float32)
