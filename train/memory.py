"""What a player remembers: the turns before, as they were said, in front of the present prompt."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxgym
from policy.tokenizer import Turn, prompt_ids
from train.language import MOVE, NEWS, Language

_BUCKET, _WIDER = 64, 1.25  # lengths of prompts are multiples of it, each so much more than the last: few to compile


class Prompts(NamedTuple):
    """S prompts with K pictures each."""

    ids: jax.Array  # int32 [S, P], right-padded
    lengths: jax.Array  # int32 [S]
    pictures: jax.Array  # uint8 [S * K, H, W, 3], a prompt's side by side, the oldest first


def _roomy(length: int) -> int:
    """The least of the lengths that are compiled which a prompt fits into."""
    room = _BUCKET
    while room < length:
        room = -(-int(room * _WIDER) // _BUCKET) * _BUCKET
    return room


class _Past(NamedTuple):
    pictures: jax.Array  # uint8 [S, H, W, 3]
    asked: list[str]
    replies: Sequence[str]


class Memory:
    """The last turns of S boards that are answered in step.

    history: turns that are remembered; pictures: how many of the turns shown, the present one among them, have theirs.
    """

    def __init__(self, language: Language, history: int = 0, pictures: int = 1) -> None:
        self.language, self.history, self.pictures = language, history, pictures
        self._past: list[_Past] = []
        self._news: list[str] = []

    def prompts(self, seen: jax.Array) -> Prompts:
        """What S boards are asked now: seen uint8 [S, H, W, 3], as they are."""
        count, language = seen.shape[0], self.language
        if not self._past:
            plain = jnp.broadcast_to(jnp.asarray(language.prompt)[None], (count, len(language.prompt)))
            return Prompts(plain, jnp.full(count, len(language.prompt), jnp.int32), seen)
        text = jaxgym.prompt(language.game)
        rows = []
        for i in range(count):
            turns = [
                Turn(past.asked[i], ago < self.pictures, past.replies[i])
                for ago, past in zip(range(len(self._past), 0, -1), self._past, strict=True)
            ]
            given = language.tokenizer, self._news[i] + text, language.image_tokens, language.image_id
            rows.append(prompt_ids(*given, turns))
        lengths = np.asarray([len(row) for row in rows], np.int32)
        ids = np.full((count, _roomy(int(lengths.max()))), language.pad, np.int32)
        for target, row in zip(ids, rows, strict=True):
            target[: len(row)] = row
        shown = [past.pictures for past in self._past[-(self.pictures - 1) :]] if self.pictures > 1 else []
        pictures = jnp.stack([*shown, seen], axis=1).reshape(-1, *seen.shape[1:])
        return Prompts(jnp.asarray(ids), jnp.asarray(lengths), pictures)

    def remember(self, seen: jax.Array, replies: Sequence[str], legal: np.ndarray, over: np.ndarray) -> None:
        """A turn is past: what was seen, what was replied, whether that was a legal move, bool [S], and the last."""
        if self.history:
            asked = [news + MOVE for news in self._news or [""] * len(replies)]
            self._past = [*self._past, _Past(seen, asked, replies)][-self.history :]
            became = np.where(over, "over", np.where(legal, "legal", "illegal"))
            self._news = [NEWS[each] for each in became]
