"""Games in tokens: a tokenizer from the games' own words, and each game's texts as token ids.

The only place that knows how a reply lies in tokens. Texts are made and read on the host; boards stay on the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from transformers import PreTrainedTokenizerFast

import jaxgym
from jaxgym.game import Game
from policy import VLM
from policy import tokenizer as tokens
from policy.config import DecoderConfig

_GLUE = ("<perception>", "</perception><think>", "</think><answer>", "</answer>")


def phrases(game: Game[Any]) -> list[str]:
    """What becomes one token each: borders of blocks, cells of a board, cells of an action, the prompt's sentences."""
    names = list(dict.fromkeys(game.sheet.names))
    parts = sorted({part for name in game.actions.names for part in _parts(name)})
    return [*_GLUE, *_sentences(game), *(name + end for name in names for end in ("", " | ", "\n")), *parts]


def _parts(action: str) -> list[str]:
    """`(0, 1) (2, 3)` -> `(0, 1) ` and `(2, 3)`; a move is one part."""
    first, gap, second = action.partition(") (")
    return [first + ") ", "(" + second] if gap else [action]


def _sentences(game: Game[Any]) -> list[str]:
    return [line + "\n" for line in jaxgym.prompt(game).splitlines()]


def build_tokenizer(games: Sequence[Game[Any]], states: Sequence[Any], count: int = 64) -> PreTrainedTokenizerFast:
    """A tokenizer for these games: their phrases, and merges learned from explanations of legal moves on some states.

    states: for each game a batch of boards in play, on the host.
    """
    corpus = []
    for game, batch in zip(games, states, strict=True):
        legal = np.asarray(jax.jit(jax.vmap(game.legal))(batch))
        for i in range(min(count, len(legal))):
            allowed = np.flatnonzero(legal[i])
            if len(allowed):
                corpus.append(game.explain(take(batch, i), int(allowed[i % len(allowed)])))
    return tokens.build([phrase for game in games for phrase in phrases(game)], corpus)


def take(states: Any, i: int) -> Any:
    """One board of a batch."""
    return jax.tree.map(lambda leaf: leaf[i], states)


@dataclass(frozen=True, kw_only=True, eq=False)
class Language:
    """One game as one model writes and reads it."""

    game: Game[Any]
    tokenizer: PreTrainedTokenizerFast
    prompt: np.ndarray  # int32 [P]: picture and prompt
    answers: np.ndarray  # int32 [A, 1 or 2]: every action's text
    start: int  # rotary position of a reply's first token
    cells: np.ndarray  # int32 [R * C]: the image token in the middle of every cell
    stop: int
    pad: int
    room: int  # tokens that the longest reply needs
    borders: tuple[int, int]  # the tokens that end perception and think
    opening: np.ndarray  # int32 [L]: a reply's tokens up to where it first names its action

    def encode_replies(self, texts: Sequence[str], length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Replies with their stop token: ids int32 [B, R] padded on the right, lengths int32 [B]."""
        rows = [[*ids, self.stop] for ids in self.tokenizer(list(texts), add_special_tokens=False).input_ids]
        longest = max(map(len, rows))
        length = length or longest
        if longest > length:
            raise ValueError(f"{self.game.name}: a reply of {longest} tokens does not fit into {length}")
        ids = np.full((len(rows), length), self.pad, np.int32)
        for target, row in zip(ids, rows, strict=True):
            target[: len(row)] = row
        return ids, np.asarray([len(row) for row in rows], np.int32)

    def decode_replies(self, ids: np.ndarray, lengths: np.ndarray) -> list[str]:
        """Texts of sampled replies, without their stop token; ids int32 [B, R], lengths int32 [B]."""
        rows = [
            row[: n - 1] if n and row[n - 1] == self.stop else row[:n]
            for row, n in zip(ids.tolist(), lengths.tolist(), strict=True)
        ]
        return self.tokenizer.batch_decode(rows, skip_special_tokens=False)

    def decision(self, ids: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Where each reply first names its action: int32 [B], -1 where it does not. From there on it is copied."""
        found = [_find(row, self.answers[action]) for row, action in zip(ids, actions, strict=True)]
        return np.asarray(found, np.int32)


def speak(vlm: VLM, game: Game[Any], state: Any) -> Language:
    """Prepare a game for a model, given one board in play.

    Raises ValueError when its picture does not fit the model's patches or its actions the tokenizer.
    """
    board = game.tiles(state).shape
    rows, columns = vlm.config.image_tokens(*game.sheet.canvas(*board))
    tokenizer = vlm.tokenizer
    prompt = tokens.prompt_ids(tokenizer, jaxgym.prompt(game), rows * columns, vlm.config.image_id)
    encoded = tokenizer(list(game.actions.names), add_special_tokens=False).input_ids
    if {*map(len, encoded)} not in ({1}, {2}):
        raise ValueError(f"{game.name}: this tokenizer does not write actions in one token each, nor in two")
    answers = np.asarray(encoded, np.int32)
    action = int(np.argmax(game.legal(state)))
    example = _example(game, state, action, tokenizer)
    return Language(
        game=game,
        tokenizer=tokenizer,
        prompt=np.asarray(prompt, np.int32),
        answers=answers,
        start=len(prompt) - rows * columns + _places(vlm.config.decoder, rows, columns),
        cells=_middles(game, board, vlm.config.vision.patch * vlm.config.vision.merge, columns),
        stop=vlm.config.stop_id,
        pad=vlm.config.pad_id,
        room=len(example) + 12,  # explanations can be longer
        borders=tuple(tokenizer.convert_tokens_to_ids(list(_GLUE[1:3]))),
        opening=example[: _find(example, answers[action])],
    )


def _places(decoder: DecoderConfig, rows: int, columns: int) -> int:
    """How many positions a picture takes up."""
    return max(rows, columns) if decoder.mrope else max(rows * columns, decoder.span)


def _middles(game: Game[Any], board: tuple[int, ...], side: int, columns: int) -> np.ndarray:
    """The image token (of `side` pixels, `columns` of them in a row) under the middle of each cell."""
    origin, tile = game.sheet.origin(*board), game.sheet.tile
    row, column = ((start + tile * np.arange(n) + tile // 2) // side for start, n in zip(origin, board, strict=True))
    return (row[:, None] * columns + column[None]).ravel().astype(np.int32)


def _example(game: Game[Any], state: Any, action: int, tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """The tokens of a reply to a board: int32 [L]."""
    board = jaxgym.describe(game.sheet, game.tiles(state))
    text = jaxgym.write_reply(board, game.explain(state, action), game.actions.format(action))
    return np.asarray(tokenizer.encode(text, add_special_tokens=False), np.int32)


def _find(row: np.ndarray, part: np.ndarray) -> int:
    """Where a part first stands in a row of tokens; -1 where it does not."""
    hits = np.flatnonzero((np.lib.stride_tricks.sliding_window_view(row, len(part)) == part).all(1))
    return int(hits[0]) if len(hits) else -1
