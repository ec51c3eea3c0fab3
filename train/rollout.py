"""Where jaxgym meets policy: boards -> pictures -> replies -> outcomes."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym import describe, engine, read_reply, render
from jaxgym.game import Game
from policy import Reply, sharding
from policy.sample import generate
from train import cores, rewards
from train.cores import side_by_side
from train.language import Language
from train.memory import Memory, Prompts
from train.parts import POOL
from train.rewards import Reading

_PARTS = 4  # of a batch of replies, on a CPU
BATCH = POOL  # boards are stepped in batches of one size, so that each game compiles once


class Boards(NamedTuple):
    """Boards of one game in play, leading axis [n]."""

    state: Any
    steps: jax.Array  # int32: steps since the deal
    plan: np.ndarray | jax.Array | None = None  # int32: the moves that are still to be made in RL; see `states`


@functools.partial(jax.jit, static_argnums=0)
def deal(game: Game[Any], keys: jax.Array) -> Any:
    """Fresh states, one a key."""
    return jax.vmap(game.reset)(keys)


@functools.partial(jax.jit, static_argnums=0)
def practice(game: Game[Any], keys: jax.Array) -> Any:
    """States to learn to see from, one a key, of a game that has such."""
    assert game.practice
    return jax.vmap(game.practice)(keys)


@functools.partial(jax.jit, static_argnums=0)
def play(game: Game[Any], state: Any, actions: jax.Array, keys: jax.Array) -> engine.Played:
    """Try actions int32 [n] on boards in play, each with the luck of its key."""
    return jax.vmap(lambda s, a, k: engine.play(game, s, jnp.bool_(False), a, k))(state, actions, keys)


@functools.partial(jax.jit, static_argnums=(0, 4))
def play_groups(
    game: Game[Any], state: Any, actions: jax.Array | np.ndarray, key: jax.Array, share: int = 1
) -> engine.Played:
    """Try actions int32 [n * G] on n boards, G each side by side, which share their board's luck.

    share: so many boards side by side have the same luck.
    """
    keys = jnp.repeat(jax.random.split(key, len(jax.tree.leaves(state)[0]) // share), share)
    over, tried = jnp.bool_(False), jnp.reshape(jnp.asarray(actions), (len(keys), -1))

    def board(state: Any, actions: jax.Array, key: jax.Array) -> engine.Played:
        mask = game.legal(state)
        return jax.vmap(lambda action: engine.play(game, state, over, action, key, mask))(actions)

    played = jax.vmap(board)(state, tried, keys)
    return jax.tree.map(lambda leaf: leaf.reshape(tried.size, *leaf.shape[2:]), played)


@functools.partial(jax.jit, static_argnums=0)
def permitted(game: Game[Any], state: Any) -> jax.Array:
    """The legal actions of every board: bool [n, A]."""
    return jax.vmap(game.legal)(state)


@functools.partial(jax.jit, static_argnums=0)
def show(game: Game[Any], state: Any) -> tuple[jax.Array, jax.Array]:
    """Pictures uint8 [n, H, W, 3] and sprite ids int32 [n, R, C]."""
    tiles = jax.vmap(game.tiles)(state)
    return jax.vmap(lambda grid: render(game.sheet, grid))(tiles), tiles


@functools.partial(jax.jit, static_argnums=(0, 1))
def act(game: Game[Any], player: Callable[[Game[Any]], engine.Player], state: Any, key: jax.Array) -> jax.Array:
    """What a player on the device does on each board: int32 [n]."""
    keys = jax.random.split(key, jax.tree.leaves(state)[0].shape[0])
    return jax.vmap(player(game))(state, keys)


@functools.partial(jax.jit, static_argnums=0)
def augmented(game: Game[Any], state: Any, where: jax.Array | np.ndarray, key: jax.Array) -> Any:
    """States, those of `where` bool [n] in another guise, if their game has one."""
    if game.augment is None:
        return state
    keys = jax.random.split(key, len(where))
    return choose(where, jax.vmap(game.augment)(state, keys), state)


@jax.jit
def choose(condition: jax.Array, then: Any, otherwise: Any) -> Any:
    """Row by row, one of two batches of boards."""
    return jax.vmap(engine.select)(condition, then, otherwise)


def fresh(game: Game[Any], key: jax.Array, n: int) -> Boards:
    """Boards just dealt."""
    return Boards(deal(game, jax.random.split(key, n)), jnp.zeros(n, jnp.int32))


def luck_of(key: jax.Array) -> jax.Array:
    """The luck that `advance` has with a key, for `play_groups` to try the same moves before."""
    return jax.random.split(key)[0]


def advance(
    game: Game[Any], boards: Boards, actions: jax.Array, key: jax.Array, limit: int | None
) -> tuple[Boards, engine.Played]:
    """Play actions int32 [n]; boards that are over or have had `limit` steps are dealt anew (None: none ever is)."""
    n = boards.steps.shape[0]
    luck_key, deal_key = jax.random.split(key)
    played = play(game, boards.state, actions, jax.random.split(luck_key, n))
    after = Boards(played.state, boards.steps + 1)
    if limit is None:
        return after, played
    ended = played.over | ~jnp.any(played.mask, axis=1) | (after.steps >= limit)
    if bool(jnp.any(ended)):
        after = choose(ended, fresh(game, deal_key, n), after)
    return after, played


def wander(
    game: Game[Any],
    key: jax.Array,
    n: int,
    limit: int,
    player: Callable[[Game[Any]], engine.Player] = engine.random_legal,
) -> Boards:
    """Boards at every stage of play, random or another player's: each has had its own number of moves, to the limit."""
    deal_key, play_key = jax.random.split(key)
    boards = fresh(game, deal_key, n)
    due = jnp.arange(n, dtype=jnp.int32) * limit // n
    for step in range(limit):
        act_key, luck_key = jax.random.split(jax.random.fold_in(play_key, step))
        moved, _ = advance(game, boards, act(game, player, boards.state, act_key), luck_key, limit)
        boards = choose(boards.steps < due, moved, boards)
    return boards


class Replies(NamedTuple):
    """Groups of replies, tried from the very boards they answer: B = S * G rows, a board's group side by side."""

    pictures: jax.Array  # uint8 [S, H, W, 3]: of the boards
    prompts: Prompts
    sampled: Reply  # on the device
    texts: list[str]
    truths: list[str]
    reading: Reading  # on the host
    played: engine.Played  # on the device
    legal: np.ndarray  # bool [B]
    score: np.ndarray  # float32 [B]: the game's own score of the move


def write_replies(
    graphdef: Any, params: Any, prompts: Prompts, key: jax.Array, group: int, temperature: float, room: int
) -> Reply:
    """Write `group` replies to every prompt, on the devices that the parameters are spread over.

    On a single CPU in parts, side by side: small products leave cores idle, and two parts at a time take little more
    than half as long. Every prompt has a key of its own: the replies are the same in however many parts.
    """
    n, mesh = prompts.ids.shape[0], sharding.mesh_of(params)
    parts = _PARTS if cores.free(mesh) and n % _PARTS == 0 else 1
    heat = jnp.float32(temperature)

    def write(given: tuple[jax.Array, ...]) -> Reply:
        there = sharding.cut_rows(given, mesh)
        written = generate(graphdef, params, *there, heat, room, group)
        return jax.block_until_ready(sharding.gather(written, mesh))

    given = zip(*(jnp.split(leaf, parts) for leaf in (*prompts, jax.random.split(key, n))), strict=True)
    replies = list(side_by_side(write, given, together=parts > 1))
    return replies[0] if parts == 1 else jax.tree.map(lambda *rows: jnp.concatenate(rows), *replies)


def try_replies(
    graphdef: Any,
    params: Any,
    language: Language,
    state: Any,
    key: jax.Array,
    group: int,
    temperature: float,
    memory: Memory | None = None,
    share: int = 1,
    luck: jax.Array | None = None,
) -> Replies:
    """Let the model answer S boards `group` times each, and try every answer from that very board, with shared luck.

    memory: what is put before the prompts. share: so many boards side by side have the same luck as well. luck: its
    key, where that is known.
    """
    sample_key, luck_key = jax.random.split(key)
    seen, tiles = show(language.game, state)
    prompts = (memory or Memory(language)).prompts(seen)
    sampled = write_replies(graphdef, params, prompts, sample_key, group, temperature, language.room)
    return judge(language, state, seen, tiles, prompts, sampled, luck_key if luck is None else luck, share)


def judge(
    language: Language,
    state: Any,
    seen: jax.Array,
    tiles: jax.Array,
    prompts: Prompts,
    sampled: Reply,
    luck_key: jax.Array,
    share: int = 1,
) -> Replies:
    """Read the replies written to S boards, and try every answer from its very board, with shared luck."""
    game, group = language.game, len(sampled.ids) // len(tiles)
    tokens, counts, grids = jax.device_get((sampled.ids, sampled.lengths, tiles))
    texts = language.decode_replies(tokens, counts)
    truths = [t for grid in grids for t in [describe(game.sheet, grid)] * group]
    reading = rewards.read([read_reply(game, text) for text in texts], truths)
    played = play_groups(game, state, reading.actions, luck_key, share)
    legal, score = jax.device_get((played.legal, played.reward))
    return Replies(seen, prompts, sampled, texts, truths, reading, played, legal, rewards.sound(game.name, score))
