"""Games in tokens: a tokenizer from the games' own words, and each game's texts as token ids.

The only place that knows how a reply lies in tokens. Texts are made and read on the host; boards stay on the device.
"""

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from transformers import PreTrainedTokenizerFast

import jaxgym
from jaxgym.contract import explained
from jaxgym.game import Game
from policy import VLM
from policy import tokenizer as tokens
from policy.config import DecoderConfig
from policy.weights import OWN

_BORDERS = (b"</perception>", b"</think>")
_READS = re.compile(b"perception>|think>|answer>")
MOVE = "Your move.\n"  # what the prompt says of a turn that is past
NEWS = {  # what became of the answer before
    "legal": "",
    "illegal": "Your answer was no legal move: the board is as it was.\n",
    "over": "The board before is finished: this is a new one.\n",
}
_GLUE = ("<perception>", "</perception><think>", "</think><answer>", "</answer>")


def phrases(game: Game[Any]) -> list[str]:
    """What becomes one token each: borders of blocks, cells of a board, cells of an action, the prompt's sentences."""
    names = list(dict.fromkeys(game.sheet.names))
    parts = sorted({part for name in game.actions.names for part in _parts(name)})
    return [
        *_GLUE,
        MOVE,
        *filter(None, NEWS.values()),
        *_sentences(game),
        *(name + end for name in names for end in ("", " | ", "\n")),
        *parts,
    ]


def _parts(action: str) -> list[str]:
    """`(0, 1) (2, 3)` -> `(0, 1) ` and `(2, 3)`; a move is one part."""
    first, gap, second = action.partition(") (")
    return [first + ") ", "(" + second] if gap else [action]


def _sentences(game: Game[Any]) -> list[str]:
    return [line + "\n" for line in jaxgym.prompt(game).splitlines()]


@functools.partial(jax.jit, static_argnums=0)
def _legal(game: Game[Any], states: Any) -> jax.Array:
    return jax.vmap(game.legal)(states)


def build_tokenizer(games: Sequence[Game[Any]], states: Sequence[Any], count: int = 64) -> PreTrainedTokenizerFast:
    """A tokenizer for these games: their phrases, and merges learned from explanations of legal moves on some states.

    states: for each game a batch of boards in play, on the host.
    """
    corpus = []
    for game, batch in zip(games, states, strict=True):
        legal = np.asarray(_legal(game, batch))
        for i in range(min(count, len(legal))):
            allowed = np.flatnonzero(legal[i])
            if len(allowed):
                corpus.append(explained(game, take(batch, i), int(allowed[i % len(allowed)])))
    return tokens.build([phrase for game in games for phrase in phrases(game)], corpus)


def strange(vlm: VLM, title: str, game: Game[Any]) -> list[str]:
    """A line where a model's words are the games' own, but not all of this one's."""
    texts = phrases(game) if vlm.origin.kind == OWN else []
    rows = vlm.tokenizer(texts, add_special_tokens=False).input_ids if texts else []
    lacking = [text for text, row in zip(texts, rows, strict=True) if len(row) != 1]
    if not lacking:
        return []
    first = lacking[0].strip()
    shown = first if len(first) <= 40 else first[:40] + "..."
    return [
        f"{title}: this model has not met {len(lacking)} of its words and sentences, such as {shown!r}: expect poor "
        "replies, or train one from scratch with the games and --states-levels it is to know"
    ]


def enlarged(vlm: VLM, title: str, language: "Language") -> list[str]:
    """A line where a game's pictures are smaller than those that a model's own image processor hands on."""
    vision = vlm.config.vision
    side = vision.patch * vision.merge
    pixels = language.image_tokens * side**2
    if pixels >= vision.least:
        return []
    enough = side * math.ceil(math.sqrt(vision.least) / side)
    return [
        f"{title}: other programs enlarge this model's pictures to at least {vision.least:,} pixels (by its "
        f"preprocessor_config.json), and here they have {pixels:,}: --picture {enough} trains on such as they show"
    ]


def take(states: Any, i: int) -> Any:
    """One board of a batch."""
    return jax.tree.map(lambda leaf: leaf[i], states)


@dataclass(frozen=True, kw_only=True, eq=False)
class Language:
    """One game as one model writes and reads it."""

    game: Game[Any]
    tokenizer: PreTrainedTokenizerFast
    prompt: np.ndarray  # int32 [P]: picture and prompt
    image_tokens: int  # of a picture
    image_id: int
    cells: np.ndarray  # int32 [R * C]: the image token in the middle of every cell
    stops: tuple[int, ...]  # ids that end a reply; written ones end with the first
    pad: int
    room: int  # tokens that a reply may have
    spelling: np.ndarray  # object [V]: the bytes that each id stands for
    named: "Named | None"  # where the tokenizer is made of the game's own words

    def encode_replies(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Replies with their stop token: ids int32 [B, R] padded on the right, lengths int32 [B].

        R is `room`, or where that does not do the next multiple of 64, so that few lengths are compiled.
        """
        rows = [[*ids, self.stops[0]] for ids in self.tokenizer(list(texts), add_special_tokens=False).input_ids]
        return self._padded(rows, self.pad), np.asarray([len(row) for row in rows], np.int32)

    def encode_boards(self, boards: Sequence[str]) -> np.ndarray:
        """How replies begin that read boards, given in words, without a mistake: int32 [B, P], -1 past the end.

        P is as many as all of them have; where they differ (boards of several sizes, words that a model has not met) it
        is that of `encode_replies`.
        """
        texts = [f"{_GLUE[0]}{board}{_GLUE[1]}" for board in boards]
        rows = self.tokenizer(texts, add_special_tokens=False).input_ids
        return self._padded(rows, -1) if len({*map(len, rows)}) > 1 else np.asarray(rows, np.int32)

    def _padded(self, rows: Sequence[Sequence[int]], fill: int) -> np.ndarray:
        longest = max(map(len, rows))
        ids = np.full((len(rows), self.room if longest <= self.room else -(-longest // 64) * 64), fill, np.int32)
        for target, row in zip(ids, rows, strict=True):
            target[: len(row)] = row
        return ids

    def decode_replies(self, ids: np.ndarray, lengths: np.ndarray) -> list[str]:
        """Texts of sampled replies, without their stop token; ids int32 [B, R], lengths int32 [B].

        What the tokenizer makes of them, but ten times as fast; bytes that are no text become U+FFFD.
        """
        ends = (lengths - self.ended(ids, lengths)).tolist()
        spelled = self.spelling[ids].tolist()
        return [b"".join(row[:end]).decode(errors="replace") for row, end in zip(spelled, ends, strict=True)]

    def ended(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Which replies came to their end, and were not cut off for their length: bool [B]."""
        last = np.take_along_axis(ids, np.maximum(lengths - 1, 0)[:, None], axis=1)[:, 0]
        return np.isin(last, self.stops) & (lengths > 0)

    def blocks(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Which block of its reply each token is of: int32 [B, R], 0 perception, 1 think, 2 answer, -1 past the end.

        ids int32 [B, R], lengths int32 [B]. A token is of the block in which it begins; the tag that ends a block is
        part of it. A reply that never comes to a perception begins with what is thought, so that what the game says of
        it is learned from all the same.
        """
        found = np.full(ids.shape, -1, np.int32)
        for target, row, length in zip(found, self.spelling[ids].tolist(), lengths.tolist(), strict=True):
            parts = row[:length]
            begins = np.cumsum([0, *map(len, parts)])[:-1]
            text, behind = b"".join(parts), 0
            tag = _READS.search(text)
            first = 0 if tag and tag[0] == b"perception>" else 1
            target[:length] = first
            for border in _BORDERS[first:]:
                at = text.find(border, behind)
                if at < 0:
                    break
                behind = at + len(border)
                target[:length] += begins >= behind
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Named:
    """How a tokenizer that is made of a game's own words writes its actions: one token a cell, one a move."""

    answers: np.ndarray  # int32 [A, 1 or 2]: every action's text
    start: int  # rotary position of a reply's first token
    opening: np.ndarray  # int32 [L]: a reply's tokens up to where it first names its action

    def decision(self, ids: np.ndarray, blocks: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Where each reply first names its action: int32 [B], -1 where it does not. From there on it is copied.

        ids, blocks int32 [B, R], actions int32 [B]. Not in what it reads: a cell may be called as a move is.
        """
        later = np.where(blocks == 0, -1, ids)
        found = [_find(row, self.answers[action]) for row, action in zip(later, actions, strict=True)]
        return np.asarray(found, np.int32)


@functools.partial(jax.jit, static_argnums=0)
def _seen(game: Game[Any], state: Any) -> tuple[jax.Array, jax.Array]:
    return game.tiles(state), game.legal(state)


def speak(vlm: VLM, game: Game[Any], state: Any, room: int = 0) -> Language:
    """Prepare a game for a model, given one board in play; room = tokens that a reply may have (0: what one needs).

    Raises ValueError when its picture does not fit the model's patches or its actions the tokenizer.
    """
    tiles, legal = jax.device_get(_seen(game, state))
    board = tiles.shape
    rows, columns = vlm.config.image_tokens(*game.sheet.canvas(*board))
    tokenizer = vlm.tokenizer
    try:
        prompt = tokens.prompt_ids(tokenizer, jaxgym.prompt(game), rows * columns, vlm.config.image_id)
    except ValueError as error:
        raise ValueError(f"{game.name}: its prompt does not serve: {error}") from None
    action = int(np.argmax(legal))
    example = _example(game, state, tiles, action, tokenizer)
    own = vlm.origin.kind == OWN
    needed = len(example) + (12 if own else 16 + len(example) // 4)  # explanations can be longer
    named = None
    if own:
        encoded = tokenizer(list(game.actions.names), add_special_tokens=False).input_ids
        if {*map(len, encoded)} not in ({1}, {2}):
            raise ValueError(
                f"{game.name}: this model's words are those of the games it was trained on, and its actions are not "
                "among them: name those with --games, or train one from scratch with this one"
            )
        answers = np.asarray(encoded, np.int32)
        start = len(prompt) - rows * columns + _places(vlm.config.decoder, rows, columns)
        named = Named(answers=answers, start=start, opening=example)
    language = Language(
        game=game,
        tokenizer=tokenizer,
        prompt=np.asarray(prompt, np.int32),
        image_tokens=rows * columns,
        image_id=vlm.config.image_id,
        cells=_middles(game, board, vlm.config.vision.patch * vlm.config.vision.merge, columns),
        stops=(vlm.config.stop_id, *vlm.config.stops),
        pad=vlm.config.pad_id,
        room=room or needed,
        spelling=np.asarray(tokens.spelling(tokenizer, vlm.config.vocab), object),
        named=named,
    )
    if named is None:
        return language
    blocks = language.blocks(example[None], np.asarray([len(example)]))
    (first,) = named.decision(example[None], blocks, np.asarray([action]))
    return replace(language, named=replace(named, opening=example[:first]))


def playable(game: Game[Any], state: Any) -> bool:
    """Whether any action is legal on a board: one may be over as it is dealt."""
    return bool(_seen(game, state)[1].any())


def _places(decoder: DecoderConfig, rows: int, columns: int) -> int:
    """How many positions a picture takes up."""
    return max(rows, columns) if decoder.mrope else max(rows * columns, decoder.span)


def _middles(game: Game[Any], board: tuple[int, ...], side: int, columns: int) -> np.ndarray:
    """The image token (of `side` pixels, `columns` of them in a row) under the middle of each cell."""
    origin, tile = game.sheet.origin(*board), game.sheet.tile
    row, column = ((start + tile * np.arange(n) + tile // 2) // side for start, n in zip(origin, board, strict=True))
    return (row[:, None] * columns + column[None]).ravel().astype(np.int32)


def _example(
    game: Game[Any], state: Any, tiles: np.ndarray, action: int, tokenizer: PreTrainedTokenizerFast
) -> np.ndarray:
    """The tokens of a reply to a board: int32 [L]."""
    board = jaxgym.describe(game.sheet, tiles)
    text = jaxgym.write_reply(board, explained(game, state, action), game.actions.format(action))
    return np.asarray(tokenizer.encode(text, add_special_tokens=False), np.int32)


def _find(row: np.ndarray, part: np.ndarray) -> int:
    """Where a part first stands in a row of tokens; -1 where it does not."""
    hits = np.flatnonzero((np.lib.stride_tricks.sliding_window_view(row, len(part)) == part).all(1))
    return int(hits[0]) if len(hits) else -1
