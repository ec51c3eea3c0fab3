"""Where jaxgym meets policy: boards -> pictures -> replies -> outcomes."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym import describe, engine, read_reply, render
from jaxgym.game import Game
from policy import Reply
from policy.sample import generate
from train import rewards
from train.language import Language
from train.rewards import Reading


class Boards(NamedTuple):
    """Boards of one game in play, leading axis [n]."""

    state: Any
    steps: jax.Array  # int32: steps since the deal


def deal(game: Game[Any], key: jax.Array, n: int) -> Boards:
    """Fresh boards."""
    return Boards(jax.vmap(game.reset)(jax.random.split(key, n)), jnp.zeros(n, jnp.int32))


def advance(
    game: Game[Any], boards: Boards, actions: jax.Array, key: jax.Array, limit: int, redeal: bool = True
) -> tuple[Boards, engine.Played]:
    """Play actions int32 [n]; boards that are over or have had `limit` steps are dealt anew (if they are to be)."""
    n = boards.steps.shape[0]
    luck_key, deal_key = jax.random.split(key)
    played = jax.vmap(lambda s, a, k: engine.play(game, s, jnp.bool_(False), a, k))(
        boards.state, actions, jax.random.split(luck_key, n)
    )
    steps = boards.steps + 1
    if not redeal:
        return Boards(played.state, steps), played
    ended = played.over | (steps >= limit)
    fresh = deal(game, deal_key, n)
    state = jax.vmap(engine.select)(ended, fresh.state, played.state)
    return Boards(state, jnp.where(ended, 0, steps)), played


def pictures(game: Game[Any], state: Any) -> jax.Array:
    """uint8 [n, H, W, 3]."""
    return jax.vmap(lambda s: render(game.sheet, game.tiles(s)))(state)


class Replies(NamedTuple):
    """Groups of replies, tried from the very boards they answer: B = S * G rows, a board's group side by side."""

    pictures: jax.Array  # uint8 [S, H, W, 3]
    sampled: Reply  # on the device
    texts: list[str]
    truths: list[str]
    reading: Reading  # on the host
    legal: np.ndarray  # bool [B]
    score: np.ndarray  # float32 [B]: the game's own score of the move


def try_replies(
    graphdef: Any, params: Any, language: Language, boards: Boards, key: jax.Array, group: int, temperature: float
) -> Replies:
    """Let the model answer each board `group` times and try every answer from that very board, with shared luck."""
    game = language.game
    sample_key, luck_key = jax.random.split(key)
    seen, tiles = show(game, boards.state)
    n = boards.steps.shape[0]
    ids = jnp.broadcast_to(jnp.asarray(language.prompt)[None], (n, len(language.prompt)))
    lengths = jnp.full(n, len(language.prompt), jnp.int32)
    sampled = generate(
        graphdef, params, ids, lengths, seen, sample_key, jnp.float32(temperature), language.room, group
    )
    tokens, counts, grids = jax.device_get((sampled.ids, sampled.lengths, tiles))
    texts = language.decode_replies(tokens, counts)
    truths = [t for grid in grids for t in [describe(game.sheet, grid)] * group]
    reading = rewards.read([read_reply(game, text) for text in texts], truths)
    played = outcomes(game, boards.state, jnp.asarray(reading.actions).reshape(n, group), luck_key)
    legal, score = jax.device_get((played.legal, played.reward))
    return Replies(seen, sampled, texts, truths, reading, legal.reshape(-1), score.reshape(-1))


@functools.partial(jax.jit, static_argnums=0)
def show(game: Game[Any], state: Any) -> tuple[jax.Array, jax.Array]:
    """Pictures uint8 [n, H, W, 3] and sprite ids int32 [n, R, C] of a batch of boards."""
    return pictures(game, state), jax.vmap(game.tiles)(state)


@functools.partial(jax.jit, static_argnums=0)
def outcomes(game: Game[Any], state: Any, actions: jax.Array, key: jax.Array) -> engine.Played:
    """Try actions int32 [S, G] from S boards, each with its own luck, shared by its group; leading axes [S, G]."""
    keys = jax.random.split(key, actions.shape[0])
    return jax.vmap(lambda s, a, k: engine.branch(game, s, a, k))(state, actions, keys)


@functools.partial(jax.jit, static_argnums=(0, 4))
def move_on(game: Game[Any], boards: Boards, chosen: jax.Array, key: jax.Array, limit: int) -> Boards:
    """Play the chosen actions int32 [n]; where one is not legal, a random legal one, so that no board stands still."""
    pick_key, luck_key = jax.random.split(key)
    allowed = jax.vmap(game.legal)(boards.state)
    aimless = jax.random.categorical(pick_key, jnp.where(allowed, 0.0, -jnp.inf)).astype(jnp.int32)
    index = jnp.clip(chosen, 0, game.actions.n - 1)[:, None]
    legal = (chosen >= 0) & jnp.take_along_axis(allowed, index, axis=1)[:, 0]
    return advance(game, boards, jnp.where(legal, chosen, aimless), luck_key, limit)[0]


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def deal_played(game: Game[Any], key: jax.Array, n: int, limit: int) -> Boards:
    """Boards at every stage of random play: each has had its own number of moves, from none to the limit."""
    deal_key, play_key = jax.random.split(key)
    boards = deal(game, deal_key, n)
    due = jnp.arange(n, dtype=jnp.int32) * limit // n

    def step(boards: Boards, key: jax.Array) -> tuple[Boards, None]:
        moved = move_on(game, boards, jnp.full(n, -1, jnp.int32), key, limit + 1)
        return jax.vmap(engine.select)(boards.steps < due, moved, boards), None

    return jax.lax.scan(step, boards, jax.random.split(play_key, limit))[0]
