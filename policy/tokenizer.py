"""A tokenizer built from the words of the texts it is to serve, read back with `AutoTokenizer`.

Every phrase given is one token (a whole cell of a board, a coordinate, a game's rules); every other text is spelled in
merges learned from a corpus, down to bytes, so nothing is unknown.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from policy.tensors import read_json

PAD, STOP, IMAGE, TURN = "<|pad|>", "<|stop|>", "<|image|>", "<|reply|>"
SPECIALS = (PAD, STOP, IMAGE, TURN)  # ids 0, 1, 2, 3
_THINK = "<think>"  # how templates of models that think at length end: a reply's own think block comes later


def build(phrases: Iterable[str], corpus: Iterable[str], merges: int = 256) -> PreTrainedTokenizerFast:
    """Build a tokenizer: `phrases` become one token each, `merges` more tokens are learned from `corpus` (BPE)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(SPECIALS) + len(alphabet) + merges,
        special_tokens=list(SPECIALS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False, special=False) for phrase in dict.fromkeys(phrases)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=STOP,
        extra_special_tokens=[IMAGE, TURN],
        clean_up_tokenization_spaces=False,
    )


def read(folder: Path, vocab: int, image_id: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder of ours, for a model of so many tokens.

    Raises ValueError, one line, where it does not fit.
    """
    words = _open(folder)
    ids = {name: words.convert_tokens_to_ids(name) for name in SPECIALS}
    _check_size(words, folder, vocab)
    if ids[IMAGE] != image_id or None in ids.values():
        raise ValueError(f"the tokenizer of {folder} is of another model: its special tokens are {ids}")
    return words


def read_chat(folder: Path, vocab: int, image_id: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder of a chat model, for a model of so many tokens.

    Raises ValueError, one line, where it does not fit, or has no chat template that serves.
    """
    if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.json")):  # else one would be made up
        raise ValueError(f"{folder} has no tokenizer: put its tokenizer.json there")
    words = _open(folder)
    _check_size(words, folder, vocab)
    own = read_json(folder / "chat_template.json").get("chat_template")  # for pictures, where the tokenizer has another
    words.chat_template = own or words.chat_template
    if not words.chat_template:
        raise ValueError(f"the tokenizer of {folder} has no chat template: put its chat_template.jinja there")
    if words.pad_token_id is None:
        raise ValueError(f"the tokenizer of {folder} has no pad_token: name one in its tokenizer_config.json")
    try:
        prompt_ids(words, "?", 1, image_id)
    except ValueError as error:
        raise ValueError(f"the chat template of {folder} does not serve: {error}") from None
    return words


def _open(folder: Path) -> PreTrainedTokenizerFast:
    try:
        words = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        if not words.get_vocab():
            raise ValueError("its vocabulary is empty")
        return words
    except Exception as error:  # the readers of a damaged file raise anything, `Exception` itself among it
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{folder} has no readable tokenizer: {why}") from None


def _check_size(words: PreTrainedTokenizerFast, folder: Path, vocab: int) -> None:
    largest = max(words.get_vocab().values())
    if largest >= vocab:
        raise ValueError(f"the tokenizer of {folder} has ids up to {largest}, but the model has {vocab} tokens")


def spelling(tokenizer: PreTrainedTokenizerFast, vocab: int) -> list[bytes]:
    """The bytes that each of `vocab` ids stands for; none for ids that the tokenizer does not have."""
    added = {id: token.content for id, token in tokenizer.added_tokens_decoder.items()}
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in kept]  # byte-level BPE writes them as letters from 256 on
    byte_of = {chr(byte): byte for byte in kept} | {chr(256 + i): byte for i, byte in enumerate(others)}
    spelled = [b""] * vocab
    for token, id in tokenizer.get_vocab().items():
        spelled[id] = added[id].encode() if id in added else bytes(byte_of[letter] for letter in token)
    return spelled


class Turn(NamedTuple):
    """What was said before: a user's text, with a picture or without, and the reply to it."""

    text: str
    pictured: bool
    reply: str


def prompt_ids(
    tokenizer: PreTrainedTokenizerFast, text: str, image_tokens: int, image_id: int, past: Sequence[Turn] = ()
) -> list[int]:
    """A prompt of one picture and a text, ready to be replied to: by the tokenizer's chat template where it has one.

    past: what was said before; it stands there as it was said, whatever a template would leave out of it. Where a
    template opens a block of thoughts for the reply to come, it is closed. All pictures have so many image tokens.
    Raises ValueError when the template has not one place for each picture and each reply, and when a text spells a
    special token, which would be one in what the template makes of it: a picture, or the end of a turn.
    """
    if not tokenizer.chat_template:
        return _plain_ids(tokenizer, text, image_tokens, image_id, past)
    if spelled := _special(tokenizer).search("\n".join([text, *(turn.text for turn in past)])):
        raise ValueError(f"it has {spelled[0]} in its text, which the model's chat template is to write: leave it out")
    messages = []
    for i, turn in enumerate((*past, Turn(text, True, ""))):
        picture = [{"type": "image"}] if turn.pictured else []
        messages.append({"role": "user", "content": [*picture, {"type": "text", "text": turn.text}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": f"\ue000{i}\ue001"}]})
    try:
        chat = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from None
    if (start := chat.rstrip()).endswith(_THINK):
        chat = start + "\n\n</think>\n\n"
    around = re.split("\ue000(\\d+)\ue001", chat)
    if around[1::2] != [str(i) for i in range(len(past))]:
        raise ValueError("it has not one place for each reply")
    ids = tokenizer.encode(around[0], add_special_tokens=False)
    for turn, after in zip(past, around[2::2], strict=True):
        ids += [*said(tokenizer, turn.reply), *tokenizer.encode(after, add_special_tokens=False)]
    wanted = 1 + sum(turn.pictured for turn in past)
    if (found := ids.count(image_id)) != wanted:
        pictures = "one picture" if wanted == 1 else f"{wanted} pictures"
        raise ValueError(f"a prompt of {pictures} has {found} image tokens (id {image_id})")
    return [each for token in ids for each in ([token] if token != image_id else [image_id] * image_tokens)]


def _plain_ids(
    tokenizer: PreTrainedTokenizerFast, text: str, image_tokens: int, image_id: int, past: Sequence[Turn]
) -> list[int]:
    """A prompt without a template: picture, text and a mark, reply and stop, and so on."""
    ids = []
    mark, stop = tokenizer.convert_tokens_to_ids([TURN, STOP])
    for turn in (*past, Turn(text, True, "")):
        picture = [image_id] * image_tokens if turn.pictured else []
        ids += [*picture, *said(tokenizer, turn.text), mark, *said(tokenizer, turn.reply), stop]
    return ids[:-1]  # the reply to come


def said(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The ids of a text as it reads: where it spells a special token it has none, no picture and no end of a turn."""
    parts = _special(tokenizer).split(text)  # every other one is such a name
    pieces = [piece for i, part in enumerate(parts) for piece in ((part[:1], part[1:]) if i % 2 else (part,))]
    return [id for piece in pieces for id in tokenizer.encode(piece, add_special_tokens=False)]


@functools.lru_cache(maxsize=8)
def _special(tokenizer: PreTrainedTokenizerFast) -> re.Pattern[str]:
    """What a tokenizer takes for a special token, wherever it stands."""
    names = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return re.compile(f"({'|'.join(map(re.escape, names))})" if names else "(?!)")
