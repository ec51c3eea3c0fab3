"""Replies on disk: .jsonl files with a record a line, which the cold start learns from by their words alone.

{"game": "2048", "picture": "pictures/2048-0.png", "prompt": "What is beside the picture.", "reply": "<perception>..."}

The picture's path is relative to the file; without a prompt it is that of the game. `train.export` writes such files.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import ExifTags, Image, ImageOps

import jaxgym
from jaxgym import registry
from policy import VLM
from policy import tokenizer as tokens
from train.coldstart import Written
from train.files import Mendable
from train.language import Language
from train.memory import Prompts

NAME = "replies.jsonl"  # what `train.export` calls its file
_UNREADABLE = (ValueError, OSError, SyntaxError, RuntimeError, Image.DecompressionBombError)  # of Pillow's readers


class Record(NamedTuple):
    """A line of a file."""

    where: str  # FILE:LINE
    game: str
    picture: Path
    height: int  # pixels
    width: int
    prompt: str
    reply: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Shelf:
    """Records of one game that can be learned from at once: their pictures have one size. On the host, axis [n]."""

    records: Sequence[Record]
    prompts: np.ndarray  # int32 [n, P], right-padded
    prompt_lengths: np.ndarray  # int32 [n]
    ids: np.ndarray  # int32 [n, R]: the replies, right-padded
    lengths: np.ndarray  # int32 [n]


def read(place: Path) -> list[Record]:
    """The records of a file, or of all .jsonl files of a folder.

    Raises ValueError, one line that names file and line, for one that is none or whose picture cannot be opened.
    """
    found = sorted(place.glob("*.jsonl")) if place.is_dir() else [place]
    if not found or not all(file.is_file() for file in found):
        raise ValueError(f"coldstart data {str(place)!r} is neither a .jsonl file nor a folder that has one")
    records = []
    for file in found:
        lines = file.read_bytes().split(b"\n")
        records += [_record(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    return records


def _record(file: Path, number: int, line: bytes) -> Record:
    where = f"{file}:{number}"
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise ValueError(f"{where} is no record of a game, a picture and a reply")
    for key in ("game", "picture", "reply"):
        if not isinstance(given.get(key), str) or not given[key]:
            raise ValueError(f"{where} has no {key}: it must be a text that is not empty")
    if not isinstance(given.get("prompt", ""), str):
        raise ValueError(f"{where} has a prompt that is no text")
    for key in ("reply", "prompt"):
        try:
            given.get(key, "").encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{where} has a {key} that is no valid text: {error.reason}") from None
    picture = file.parent / given["picture"]
    try:
        registry.find(given["game"])
        with Image.open(picture) as opened:
            width, height = _size(opened)
    except _UNREADABLE as error:
        missing = isinstance(error, FileNotFoundError)
        raise ValueError(f"{where}: " + (f"there is no picture {picture}" if missing else str(error))) from None
    prompt = given.get("prompt") or _prompt(given["game"])
    return Record(where, given["game"], picture, height, width, prompt, given["reply"])


def _turned(opened: Image.Image) -> int:
    """How a picture is to be turned before it is looked at, as cameras say it: 1, not at all, to 8."""
    if opened.format == "PNG" and "exif" not in opened.info:  # to ask would read all of it
        return 1
    try:
        turn = opened.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # what is damaged, of whatever class, says nothing
        return 1
    return turn if turn in range(1, 9) else 1


def _size(opened: Image.Image) -> tuple[int, int]:
    """Width and height as it is looked at. Raises ValueError for what is more than a picture of eight bits."""
    if opened.mode in ("I", "F") or opened.mode.startswith("I;16"):
        raise ValueError("its picture has more than 8 bits a channel: save it with 8")
    if getattr(opened, "is_animated", False) and opened.format != "MPO":  # a camera's, with a preview behind it
        raise ValueError("its picture moves: save the frame that is meant")
    if _turned(opened) < 5:
        return opened.size
    # Pillow says of a TIFF how it is looked at, of all others how they lie, and newer versions may say otherwise
    return ImageOps.exif_transpose(opened).size if opened.format == "TIFF" else opened.size[::-1]


def _flat(opened: Image.Image) -> Image.Image:
    """A picture as it is looked at: turned as its camera says, on white where one sees through it."""
    if _turned(opened) > 1:
        opened = ImageOps.exif_transpose(opened)
    if opened.has_transparency_data:
        seen = opened.convert("RGBA")
        opened = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
    return opened.convert("RGB")


@functools.cache
def _prompt(game: str) -> str:
    return jaxgym.prompt(jaxgym.make(game))


def shelve(place: Path, vlm: VLM, games: Sequence[str], room: int) -> dict[str, list[Shelf]]:
    """By game, what there is to learn from; records of other games are passed over.

    room: tokens that a reply may have (0: as many as it needs). Raises ValueError, one line, where a game has no
    record, or a record's picture or reply does not fit.
    """
    alike: dict[str, dict[tuple[int, int], list[Record]]] = {name: {} for name in games}
    for each in read(place):
        if each.game in alike:
            alike[each.game].setdefault((each.height, each.width), []).append(each)
    for name, found in alike.items():
        if not found:
            raise ValueError(f"coldstart data {str(place)!r} has no record of {name}: leave it out of --games")
    shelves = {name: [_shelf(records, vlm) for records in found.values()] for name, found in alike.items()}
    lengths = ((shelf.lengths.max(), shelf) for each in shelves.values() for shelf in each)
    most, longest = max(lengths, key=lambda pair: pair[0])
    if 0 < room < most:
        where = longest.records[int(longest.lengths.argmax())].where
        raise ValueError(f"{where}: the reply has {most} tokens, more than any other: raise --reply, which is {room}")
    return shelves


def _shelf(records: list[Record], vlm: VLM) -> Shelf:
    first = records[0]
    try:
        rows, columns = vlm.config.image_tokens(first.height, first.width)
    except ValueError as error:
        raise ValueError(f"{first.where}: {error}") from None
    asked: dict[str, list[int]] = {}
    for each in records:
        if each.prompt not in asked:
            try:
                asked[each.prompt] = tokens.prompt_ids(vlm.tokenizer, each.prompt, rows * columns, vlm.config.image_id)
            except ValueError as error:
                raise ValueError(f"{each.where}: its prompt does not serve: {error}") from None
    said = [[*tokens.said(vlm.tokenizer, each.reply), vlm.config.stop_id] for each in records]
    prompts, prompt_lengths = _pad([asked[each.prompt] for each in records], vlm.config.pad_id)
    ids, lengths = _pad(said, vlm.config.pad_id)
    return Shelf(records=records, prompts=prompts, prompt_lengths=prompt_lengths, ids=ids, lengths=lengths)


def _pad(rows: Sequence[Sequence[int]], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids as one array, padded on the right, and their lengths."""
    lengths = np.asarray([len(row) for row in rows], np.int32)
    ids = np.full((len(rows), lengths.max()), pad, np.int32)
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = row
    return ids, lengths


def draw(shelves: Sequence[Shelf], language: Language, count: int, key: jax.Array) -> tuple[Prompts, Written]:
    """A batch from one shelf of a game, each as likely as it has records; no record twice where there are enough."""
    chance = np.random.default_rng(jax.device_get(jax.random.key_data(key)))
    sizes = np.asarray([len(shelf.records) for shelf in shelves])
    shelf = shelves[chance.choice(len(shelves), p=sizes / sizes.sum())]
    rows = chance.choice(len(shelf.records), count, replace=len(shelf.records) < count)
    pictures = np.stack([_open(shelf.records[row]) for row in rows])
    ids, lengths = shelf.ids[rows], shelf.lengths[rows]
    undecided = np.full(count, -1, np.int32)
    written = Written(*map(jnp.asarray, (ids, lengths, language.blocks(ids, lengths), undecided)))
    prompts, prompt_lengths = map(jnp.asarray, (shelf.prompts[rows], shelf.prompt_lengths[rows]))
    return Prompts(prompts, prompt_lengths, jnp.asarray(pictures)), written


def _open(record: Record) -> np.ndarray:
    """A picture, uint8 [H, W, 3]."""
    try:
        with Image.open(record.picture) as opened:
            picture = np.asarray(_flat(opened))
    except _UNREADABLE as error:
        raise Mendable(f"{record.where}: {record.picture} cannot be read: {error}") from None
    height, width, _ = picture.shape
    if (height, width) != (record.height, record.width):
        said = f"{record.height}x{record.width} pixels"
        raise Mendable(f"{record.where}: {record.picture} cannot be read: it has {height}x{width} pixels, not {said}")
    return picture
