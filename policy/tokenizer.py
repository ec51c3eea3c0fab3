"""A tokenizer built from the words of the texts it is to serve, read back with `AutoTokenizer`.

Every phrase given is one token (a whole cell of a board, a coordinate, a game's rules); every other text is spelled in
merges learned from a corpus, down to bytes, so nothing is unknown.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

PAD, STOP, IMAGE, TURN = "<|pad|>", "<|stop|>", "<|image|>", "<|reply|>"
SPECIALS = (PAD, STOP, IMAGE, TURN)  # ids 0, 1, 2, 3


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
    """The tokenizer of a folder, for a model of so many tokens. Raises ValueError, one line, where it does not fit."""
    try:
        words = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        ids = {name: words.convert_tokens_to_ids(name) for name in SPECIALS}
        largest = max(words.get_vocab().values(), default=-1)
    except Exception as error:  # the readers of a damaged file raise anything, `Exception` itself among it
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{folder} has no readable tokenizer: {why}") from None
    if largest >= vocab:
        raise ValueError(f"the tokenizer of {folder} has ids up to {largest}, but the model has {vocab} tokens")
    if ids[IMAGE] != image_id or None in ids.values():
        raise ValueError(f"the tokenizer of {folder} is of another model: its special tokens are {ids}")
    return words


def prompt_ids(tokenizer: PreTrainedTokenizerFast, text: str, image_tokens: int) -> list[int]:
    """A prompt of one picture and a text, ready to be replied to."""
    picture = [tokenizer.convert_tokens_to_ids(IMAGE)] * image_tokens
    return picture + tokenizer.encode(text, add_special_tokens=False) + [tokenizer.convert_tokens_to_ids(TURN)]
