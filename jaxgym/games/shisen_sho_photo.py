"""Shisen-Sho with photos: two tiles match when they show the same class, and every tile is another picture of it.

The rules, the reward and the teacher are those of `shisen_sho`; only the tiles differ:

        cat(17) dog(3)  cat(102)        the two cats match, though their pictures differ
        dog(88) car(51) car(7)          and so do the dogs and the cars
"""

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym import photos as albums
from jaxgym import sprites
from jaxgym.carry import varied
from jaxgym.game import Game
from jaxgym.games.shisen_sho import Rules, State, build, check
from jaxgym.looks import Look, Looks

LEVELS: dict[str, dict[str, Any]] = {
    "easy": {"size": 4, "kinds": 4},
    "paper": {},
    "hard": {"size": 8, "kinds": 8},
    "extreme": {"size": 12, "kinds": 9},
}


def deck(luck: jax.Array, *, rules: Rules, album: int) -> jax.Array:
    """Different pictures of every class, int32 [R * C]; the `album` pictures of a class are sprites in a row.

    luck: random words, uint32 [R * C].
    """
    luck = (luck >> 8).astype(jnp.float32).reshape(rules.copies, rules.kinds) * 2.0**-24

    def choose(chosen: jax.Array, each: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        """One more picture of every class: any of the first `last + 1`, or the last of them if that is taken."""
        i, luck = each
        last = album - rules.copies + i
        drawn = jnp.minimum((luck * (last + 1).astype(jnp.float32)).astype(jnp.int32), last)
        there = (chosen == drawn[None]).any(0)
        return chosen.at[i].set(jnp.where(there, last, drawn)), None

    # Floyd's sampling without repetition (Bentley and Floyd, CACM 30(9), 1987); the deal shuffles them.
    none = varied(jnp.full((rules.copies, rules.kinds), -1, jnp.int32), luck)
    chosen, _ = jax.lax.scan(choose, none, (jnp.arange(rules.copies, dtype=jnp.int32), luck))
    first = 1 + album * jnp.arange(rules.kinds, dtype=jnp.int32)
    return (first[:, None] + chosen.T).reshape(-1)


def shisen_sho_photo(
    *,
    size: int = 6,
    kinds: int = 9,
    max_turns: int = 2,
    ring: bool = True,
    photos: str | os.PathLike[str] = "digits",
    look: Looks = Look(),
) -> Game[State]:
    """Tiles of photos.

    photos: "digits", or a local copy of CIFAR-10 (see `jaxgym.photos.load`). The other arguments are those of
    `shisen_sho`, with at most as many kinds as there are classes. Raises ValueError for anything else.
    """
    names, pictures, labels = albums.load(photos)
    asked = check(size=size, kinds=kinds, max_turns=max_turns, ring=ring, most_kinds=len(names))
    size, kinds = asked["size"], asked["kinds"]
    album = int(np.bincount(labels, minlength=len(names))[:kinds].min())  # as many of every class
    if album < size * size // kinds:
        raise ValueError(
            f"photos={str(photos)!r} has {album} pictures of some class, but kinds={kinds} on {size}x{size} needs "
            f"{size * size // kinds} different ones of each: give more photos, more kinds or a smaller size"
        )
    chosen = np.concatenate([np.flatnonzero(labels == k)[:album] for k in range(kinds)])
    sheet = sprites.photos([names[k] for k in labels[chosen]], pictures[chosen], (size, size), look)
    kind_of = np.concatenate([[0], labels[chosen] + 1]).astype(np.int32)
    rules = Rules(**asked, kind_of=kind_of)
    return build(
        "shisen_sho_photo",
        "the same thing, though in different pictures",
        sheet=sheet,
        rules=rules,
        deck=functools.partial(deck, rules=rules, album=album),
    )
