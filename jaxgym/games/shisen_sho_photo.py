"""Shisen-Sho with photos: two tiles match when they show the same class, and every tile is another picture of it.

The rules, the reward and the teacher are those of `shisen_sho`; only the tiles differ:

        cat(17) dog(3)  cat(102)        the two cats match, though their pictures differ
        dog(88) car(51) car(7)          and so do the dogs and the cars
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym import photos as albums
from jaxgym import sprites
from jaxgym.game import Game
from jaxgym.games.shisen_sho import Rules, State, build, check
from jaxgym.sprites import Look


def deck(key: jax.Array, *, rules: Rules, album: int) -> jax.Array:
    """Different pictures of every class, int32 [R * C]; the `album` pictures of a class are sprites in a row."""
    order = jax.random.bits(key, (rules.kinds, album), jnp.uint32)
    _, picture = jax.lax.top_k(order, rules.copies)
    first = 1 + album * jnp.arange(rules.kinds, dtype=jnp.int32)
    return (first[:, None] + picture.astype(jnp.int32)).reshape(-1)


def shisen_sho_photo(
    *,
    size: int = 6,
    kinds: int = 9,
    max_turns: int = 2,
    ring: bool = True,
    photos: str | os.PathLike[str] = "digits",
    look: Look = Look(),
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
            f"{size * size // kinds} different ones of each: give more kinds or a smaller size"
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
