"""What a game and a player say to each other: a prompt, and a reply of three blocks.

`<perception>` the board in words, as `describe` writes it; `<think>` a reason; `<answer>` one action.
Replies come from a model: anything may stand in them, and reading them never raises and takes linear time.
"""

from dataclasses import dataclass

from jaxgym.actions import INVALID
from jaxgym.game import Game

BLOCKS = ("perception", "think", "answer")
_LONGEST = 1 << 16  # characters; a longer reply is no reply


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A reply taken apart. A block that does not stand exactly once is None; action is -1 when unreadable."""

    perception: str | None
    think: str | None
    answer: str | None
    action: int
    formatted: bool  # the three blocks, once each, in order, and nothing else


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
    """Take a reply apart and read its action. Never raises; an answer nested, repeated or missing is -1."""
    if not isinstance(text, str) or len(text) > _LONGEST:
        return Reply(perception=None, think=None, answer=None, action=INVALID, formatted=False)
    blocks = {name: _block(text, name) for name in BLOCKS}
    inner = {name: found[1] if found else None for name, found in blocks.items()}
    spans = [found[0] for found in blocks.values() if found]
    formatted = len(spans) == len(BLOCKS)
    if formatted:
        ends = [0, *(end for _, end in spans)]
        starts = [*(start for start, _ in spans), len(text)]
        formatted = all(end <= start and not text[end:start].strip() for end, start in zip(ends, starts, strict=True))
    answer = inner["answer"]
    return Reply(**inner, action=INVALID if answer is None else game.actions.parse(answer), formatted=formatted)


def read_words(perception: str) -> list[list[str]]:
    """A board in words, as `describe` writes it, taken apart into rows of cells.

    White space around the board, a row or a cell is layout and does not count.
    """
    return [[cell.strip() for cell in row.split("|")] for row in perception.strip().split("\n")]


def _block(text: str, name: str) -> tuple[tuple[int, int], str] | None:
    """Where the one block of that name stands and what is in it, if there is exactly one."""
    opening, closing = f"<{name}>", f"</{name}>"
    if text.count(opening) != 1 or text.count(closing) != 1:
        return None
    start, end = text.find(opening), text.find(closing)
    if end < start:
        return None
    return (start, end + len(closing)), text[start + len(opening) : end]
