"""The games of a run, each with all that its steps need, and the model that is to learn them."""

import functools
import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

import jaxgym
import policy
from jaxgym import own, photos
from policy.tokenizer import Turn, prompt_ids
from train import choices, coldstart, dense, devices
from train.config import Config
from train.language import Language, build_tokenizer, playable, speak, take
from train.protocol import protocol
from train.rollout import BATCH, Boards, wander

PAPER = "paper"  # the level of the protocol, which all phases but RL keep to
PHOTOS = "shisen_sho_photo"  # the game that is drawn with a user's own


class Course(NamedTuple):
    """One game of a run, with all that its steps need."""

    language: Language
    tables: dense.Tables | None  # for what is taught where it arises; None: by words alone
    names: choices.Names | None  # of its actions; None: they are told in whatever tokens
    limit: int  # steps after which a board is dealt anew
    scale: float  # how far apart the teacher's values usually lie
    own: Callable[..., Any] | None = None  # a user's reward


def course_name(game: str, level: str) -> str:
    """What the course of a game's level is called: as the game, but where it is not the paper's."""
    return game if level == PAPER else f"{game}/{level}"


def prepare(config: Config, key: jax.Array) -> tuple[policy.VLM, dict[str, Course], dict[str, Boards]]:
    """The model of a run, and by name its courses and their boards at every stage of random play.

    Every game has one of the paper's level, which come first, and one of each further level that RL is to have.
    """
    reward = own.function(config.reward.own, "reward own") if config.reward.own else None
    titles = [course_name(name, level) for name, level in _wanted(config)]
    vlm, games, pools = _model_and_games(config, key)
    courses = {}
    for title, game, pool in zip(titles, games, pools, strict=True):
        states = jax.device_get(pool.state)
        boards = (take(states, i) for i in range(BATCH))
        board = next((each for each in boards if playable(game, each)), take(states, 0))
        language = speak(vlm, game, board, config.reply)
        scale = coldstart.measure_scale(game, pool.state, key)
        names = choices.names(language.named.answers) if language.named else None
        courses[title] = Course(language, coldstart.tables(language), names, protocol(game).steps, scale, reward)
    return vlm, courses, dict(zip(titles, pools, strict=True))


@functools.cache
def make(name: str, level: str, picture: int, side: int, album: str) -> jaxgym.Game[Any]:
    """A game whose pictures are made of blocks of `side` pixels, what a model sees as one image token.

    The same one for the same arguments: what was compiled for it serves the next run of a process as well.
    """
    options = {"photos": album} if name == PHOTOS else {}
    return jaxgym.make(name, level=level, picture=picture, patch=side, **options)


def photos_fingerprint(config: Config) -> int:
    """A number of the photos that a run is shown, others have another; 0 where none are of a user's own."""
    if PHOTOS not in config.names() or config.photos == Config().photos:
        return 0
    album = photos.load(config.photos)
    return zlib.crc32("\n".join(album.names).encode() + album.labels.tobytes() + album.pictures.tobytes())


def _wanted(config: Config) -> list[tuple[str, str]]:
    """The courses of a run, each by its game and level."""
    levels = [PAPER, *(level for level in config.states.levels if level != PAPER)]
    return [(name, level) for level in levels for name in config.names()]


def _check_template(config: Config, vlm: policy.VLM, folder: str) -> None:
    """Raise ValueError where turns before are to be shown, and a model's chat template does not show them."""
    if config.episodes.history:
        try:
            prompt_ids(vlm.tokenizer, "?", 1, vlm.config.image_id, [Turn("?", False, "?")])
        except ValueError as error:
            given = f"episodes history={config.episodes.history}"
            raise ValueError(f"{given}: the chat template of {folder} does not serve: {error}; give 0") from None


def _adapted(config: Config, vlm: policy.VLM, key: jax.Array) -> policy.VLM:
    """A model as it is to learn. Adapters that it has are merged, or go on learning where adapters are asked for."""
    part = config.lora
    if not part.rank:
        return vlm.merged()
    if not (there := vlm.adapted):
        return vlm.with_lora(rank=part.rank, alpha=part.alpha, modules=part.modules, key=key)
    rank, alpha, modules = there
    if (rank, set(modules)) != (part.rank, set(part.modules)) or not math.isclose(alpha, part.alpha, rel_tol=1e-5):
        raise ValueError(
            f"the adapters of {config.model} would go on learning: give them as they are, --lora-rank {rank} "
            f"--lora-alpha {alpha:g} --lora-modules {','.join(modules)}, or --lora-rank 0 to have them merged"
        )
    return vlm


def _model_and_games(config: Config, key: jax.Array) -> tuple[policy.VLM, list[jaxgym.Game[Any]], list[Boards]]:
    loaded, mesh = None, devices.make_mesh(config)
    if config.model not in policy.PRESETS:
        loaded = policy.load(config.model, dtype=config.dtype, mesh=mesh, remat=config.remat)
        _check_template(config, loaded, config.model)
        loaded = _adapted(config, loaded, key) if config.phases else loaded
    vision = loaded.config.vision if loaded else policy.PRESETS[config.model].vision
    side = vision.patch * vision.merge
    games = [make(name, level, config.picture, side, config.photos) for name, level in _wanted(config)]
    pools = [wander(game, jax.random.fold_in(key, i), BATCH, protocol(game).steps) for i, game in enumerate(games)]
    if loaded:
        return loaded, games, pools
    tokenizer = build_tokenizer(games, [jax.device_get(pool.state) for pool in pools])
    return policy.load(config.model, mesh=mesh, remat=config.remat, tokenizer=tokenizer, key=key), games, pools
