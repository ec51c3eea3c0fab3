"""What a game and a player say to each other: a prompt, and a reply of three blocks.

`<perception>` the board in words, as `describe` writes it; `<think>` a reason; `<answer>` one action.
Replies come from a model: anything may stand in them, and reading them never raises and takes linear time.
"""

from typing import NamedTuple

from jaxgym.actions import INVALID
from jaxgym.game import Game

BLOCKS = ("perception", "think", "answer")
_TAGS = tuple((f"<{name}>", f"</{name}>") for name in BLOCKS)
_CLOSED = tuple(closing[1:] for _, closing in _TAGS)
_LONGEST = 1 << 16  # characters; a longer reply is no reply


class Reply(NamedTuple):
    """A reply taken apart. A block that does not stand exactly once is None; action is -1 when unreadable."""

    perception: str | None
    think: str | None
    answer: str | None
    action: int
    formatted: bool  # the three blocks, once each, in order, and nothing else


_NOTHING = Reply(None, None, None, INVALID, False)


def prompt(game: Game) -> str:
    """What the player is told beside the picture."""
    return f"{game.rules}\n{instructions(game)}\n"


def instructions(game: Game) -> str:
    """How the player is to reply."""
    return (
        "Reply with <perception>the board, one line a row, cells joined by ' | '</perception>"
        f"<think>why</think><answer>{game.actions.hint}</answer>"
    )


def write_reply(perception: str, think: str, answer: str) -> str:
    """The reply that `read_reply` takes apart again."""
    return f"<perception>{perception}</perception><think>{think}</think><answer>{answer}</answer>"


def read_reply(game: Game, text: str) -> Reply:
    """Take a reply apart and read its action. Never raises; an answer in another, repeated or missing is -1."""
    if not isinstance(text, str) or len(text) > _LONGEST or "<" not in text:
        return _NOTHING
    whole = _whole(text)
    (perception, think, answer), formatted = (whole, True) if whole else _parts(text)
    return Reply(perception, think, answer, INVALID if answer is None else game.actions.parse(answer), formatted)


def read_words(perception: str) -> list[list[str]]:
    """A board in words, as `describe` writes it, taken apart into rows of cells.

    White space around the board, a row or a cell is layout and does not count.
    """
    return [[cell.strip() for cell in row.split("|")] for row in perception.strip().split("\n")]


def _whole(text: str) -> tuple[str, str, str] | None:
    """The blocks of a reply that is well-formed and has no other `<`, as nearly all have; None for any other."""
    pieces = text.split("<")
    if len(pieces) != 7:
        return None
    before, perception, first, think, second, answer, third = pieces
    if before.strip() or (first.rstrip(), second.rstrip(), third.rstrip()) != _CLOSED:
        return None
    parts = perception.partition(">"), think.partition(">"), answer.partition(">")
    if any(not end or name != block for (name, end, _), block in zip(parts, BLOCKS, strict=True)):
        return None
    return parts[0][2], parts[1][2], parts[2][2]


def _parts(text: str) -> tuple[tuple[str | None, str | None, str | None], bool]:
    """The blocks that stand once each in any text, and whether the reply is well-formed."""
    perception, think, answer = _block(text, *_TAGS[0]), _block(text, *_TAGS[1]), _block(text, *_TAGS[2])
    inner = (perception and perception.inner, think and think.inner, answer and answer.inner)
    if not (perception and think and answer):
        return inner, False
    ends = (0, perception.end, think.end, answer.end)
    starts = (perception.start, think.start, answer.start, len(text))
    return inner, all(e <= s and not text[e:s].strip() for e, s in zip(ends, starts, strict=True))


class _Block(NamedTuple):
    """Where a block stands, and what is in it."""

    start: int  # in the reply, with its tags
    end: int
    inner: str


def _block(text: str, opening: str, closing: str) -> _Block | None:
    """The one block of these tags, if there is exactly one."""
    start = text.find(opening)
    if start < 0 or text.rfind(opening) > start:
        return None
    end = text.find(closing)
    if end < start or text.rfind(closing) > end:
        return None
    return _Block(start, end + len(closing), text[start + len(opening) : end])
