"""The objective of group relative policy optimization, as pure functions.

What stands past a reply's end is masked before anything is made of it: a `where` afterwards would stop the value but
not the gradient, for 0 times the slope of an overflowed exponential is NaN. Tokens that count are bounded: where two
policies are more than e**20 apart, how much more no longer matters.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_FARTHEST = 20.0  # nats; e**20 and its square are finite in float32
_ALIKE = 1e-5  # of the largest reward: closer together than this, the rewards of a group differ by rounding only


def differ(rewards: jax.Array) -> jax.Array:
    """Whether there is anything to learn from a group: rewards float32 [S, G] -> bool [S], not all of them alike."""
    spread = jnp.max(rewards, axis=1) - jnp.min(rewards, axis=1)
    return spread > _ALIKE * jnp.maximum(jnp.max(jnp.abs(rewards), axis=1), 1)


def advantages(rewards: jax.Array, *, scale: bool = True) -> jax.Array:
    """(r - mean) / std within each group: rewards float32 [S, G] -> float32 [S, G] (arXiv 2402.03300, section 4.1).

    Without `scale` the division is left out (Dr. GRPO, arXiv 2503.20783): a small difference stays small. A group whose
    rewards are all equal, but for rounding, teaches nothing: its advantages are exactly 0.
    """
    centred = rewards - jnp.mean(rewards, axis=1, keepdims=True)
    if scale:
        centred = centred / (jnp.std(rewards, axis=1, keepdims=True) + jnp.float32(1e-4))
    return jnp.where(differ(rewards)[:, None], centred, jnp.float32(0))


def farthest(rewards: jax.Array, keep: int) -> jax.Array:
    """Which replies of each group tell most: rewards float32 [S, G] -> int32 [S, keep], those of the largest variance.

    They are some of the best and some of the worst ("max-variance down-sampling", PODS, arXiv 2504.13818).
    """
    order = jnp.argsort(rewards, axis=1)
    size = rewards.shape[1]
    ways = [np.r_[0:low, size - keep + low : size].astype(np.int32) for low in range(keep + 1)]
    each = jnp.stack([order[:, way] for way in ways], axis=1)  # [S, ways, keep]
    spread = jnp.var(jnp.take_along_axis(rewards[:, None], each, axis=2), axis=2)
    return jnp.take_along_axis(each, jnp.argmax(spread, axis=1)[:, None, None], axis=1)[:, 0]


class Rewards(NamedTuple):
    """What replies earned, part by part, weighted: float32 [S, G] each."""

    game: jax.Array
    format: jax.Array
    perception: jax.Array


class Credit(NamedTuple):
    """What every token of B = S * G replies of R tokens is credited with.

    It depends on the block that a token is of, int32 [B, R]: 0 perception, 1 think, 2 answer, -1 past the end.
    """

    advantage: jax.Array  # float32 [B, R]
    share: jax.Array  # float32 [B, R]: of the objective, adding up to 1; 0 past a reply's end


def credit_by_reply(rewards: Rewards, blocks: jax.Array, *, scale: bool) -> Credit:
    """All tokens of a reply share the advantage of the sum of its rewards, and count alike (arXiv 2402.03300)."""
    whole = rewards.game + rewards.format + rewards.perception
    said = (blocks >= 0).astype(jnp.float32)
    advantage = jnp.broadcast_to(advantages(whole, scale=scale).reshape(-1, 1), blocks.shape)
    return Credit(advantage, said / jnp.maximum(jnp.sum(said), 1))


def credit_by_block(rewards: Rewards, blocks: jax.Array, *, scale: bool) -> Credit:
    """Perception is judged by perception and format, think and answer by game and format; each block counts alike.

    Else the tokens that read sixty cells would drown the two that decide, and be praised for what those did.
    """
    seen = advantages(rewards.perception + rewards.format, scale=scale).reshape(-1, 1)
    done = advantages(rewards.game + rewards.format, scale=scale).reshape(-1, 1)
    each = [(blocks == i).astype(jnp.float32) for i in range(3)]
    present = sum((jnp.any(mask > 0) for mask in each), jnp.float32(0))
    share = sum((mask / jnp.maximum(jnp.sum(mask), 1) for mask in each), jnp.zeros(blocks.shape, jnp.float32))
    return Credit(jnp.where(blocks == 0, seen, done), share / jnp.maximum(present, 1))


def ratio(logprobs: jax.Array, old: jax.Array, mask: jax.Array) -> jax.Array:
    """How much likelier each token is now: float32 [B, R] in [e**-20, e**20]; 1 where the mask, bool [B, R], is not."""
    return jnp.exp(jnp.clip(jnp.where(mask, logprobs - old, 0.0), -_FARTHEST, _FARTHEST))


def clipped_gain(
    logprobs: jax.Array, old: jax.Array, advantage: jax.Array, clip: jax.Array | float, mask: jax.Array | bool = True
) -> jax.Array:
    """min(ratio A, clip(ratio, 1 - clip, 1 + clip) A) of every token (PPO, arXiv 1707.06347, eq. 7).

    logprobs, old, advantage: float32 [B, R], of the tokens said; mask bool [B, R] -> float32 [B, R].
    """
    change = ratio(logprobs, old, jnp.asarray(mask))
    return jnp.minimum(change * advantage, jnp.clip(change, 1 - clip, 1 + clip) * advantage)


def k3(logprobs: jax.Array, reference: jax.Array, mask: jax.Array | bool = True) -> jax.Array:
    """exp(d) - d - 1 with d = reference - logprobs: an estimate of KL(policy || reference) that is never negative.

    (Schulman, "Approximating KL Divergence", 2020; DeepSeekMath eq. 4.) float32 [B, R], of the tokens said; 0 where the
    mask, bool [B, R], does not hold.
    """
    d = jnp.clip(jnp.where(jnp.asarray(mask), reference - logprobs, 0.0), -_FARTHEST, _FARTHEST)
    return jnp.exp(d) - d - 1


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over the entries where the mask (bool) holds; 0 when there is none."""
    return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(jnp.sum(mask), 1).astype(jnp.float32)
