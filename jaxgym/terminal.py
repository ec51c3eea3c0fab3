"""Play a game by hand, in a terminal."""

import itertools
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgym import engine, show
from jaxgym.actions import INVALID
from jaxgym.checks import key_of
from jaxgym.contract import explained
from jaxgym.game import Game
from jaxgym.render import describe

_ARROWS = {"\x1b[A": "up", "\x1b[B": "down", "\x1b[C": "right", "\x1b[D": "left"}
_ESCAPE = 0.1  # seconds in which what follows an escape character belongs to it: an arrow key sends three
_COMMANDS = {"h": "a hint", "u": "undo", "w": "the board in words", "n": "a new board", "q": "quit"}


def play(
    game: Game[Any], seed: int, ask: Callable[[str], str], say: Callable[[str], None], colours: bool = True
) -> float:
    """Play until `q` or the end of what is asked for; returns the score. Where the game has a move of that name, `:q`.

    ask: gives what the player types, for a line to show before it; raises EOFError when nothing more comes.
    colours: is the board drawn, or said in words?
    """
    step = jax.jit(lambda state, action, key: engine.play(game, state, jnp.bool_(False), action, key))
    teach = jax.jit(engine.teacher(game))
    legal = jax.jit(game.legal)
    key = key_of(seed)
    keys = (jax.random.fold_in(key, i) for i in itertools.count())
    history: list[tuple[Any, float, bool]] = [(game.reset(next(keys)), 0.0, False)]
    marks = {name: f":{name}" if game.actions.parse(name) != INVALID else name for name in _COMMANDS}
    usage = ", ".join(f"{marks[name]} {what}" for name, what in _COMMANDS.items())
    ended = f"The game is over: {marks['n']} for a new board, {marks['u']} to take one back, {marks['q']} to quit."
    say(f"{game.rules}\nAnswer with {game.actions.hint}; {usage}.")
    fresh = True
    while True:
        state, score, over = history[-1]
        over = over or not bool(legal(state).any())
        if fresh:
            say(f"\n{_shown(game, state, colours)}\nscore {score:g}, {len(history) - 1} moves")
            if over:
                say(ended)
        fresh = True
        try:
            text = ask("> ").strip()
        except EOFError:
            return score
        command = next((name for name, mark in marks.items() if text in (mark, f":{name}")), "")
        if command == "q":
            return score
        if command == "n":
            history = [(game.reset(next(keys)), 0.0, False)]
        elif command == "u":
            history = history[:-1] or history
        elif command == "w":
            say(describe(game.sheet, game.tiles(state)))
            fresh = False
        elif over:
            say(ended)
            fresh = False
        elif command == "h":
            try:
                say(explained(game, jax.tree.map(np.asarray, state), int(teach(state, jax.random.key(0)))))
            except ValueError as error:
                say(str(error))
            fresh = False
        else:
            fresh = _answer(game, text, history, step, next(keys), say, usage)


def _shown(game: Game[Any], state: Any, colours: bool) -> str:
    """A board, drawn where the terminal is wide enough, else in words."""
    tiles, width = game.tiles(state), shutil.get_terminal_size().columns
    drawn = colours and width >= show.MARGIN + 2 * tiles.shape[1]
    return show.blocks(game, state, width) if drawn else describe(game.sheet, tiles)


def _answer(
    game: Game[Any],
    text: str,
    history: list[tuple[Any, float, bool]],
    step: Callable[..., engine.Played],
    key: jax.Array,
    say: Callable[[str], None],
    usage: str,
) -> bool:
    """Try an answer; whether the board has changed."""
    digits = text.replace(",", " ").split()
    if len(digits) in (2, 4) and all(part.isdigit() for part in digits):  # 0 1 0 4 for (0, 1) (0, 4)
        text = " ".join(f"({row}, {column})" for row, column in zip(digits[::2], digits[1::2], strict=True))
    action = game.actions.parse(text)
    if action == INVALID:
        say(f"{text!r} is no answer: give {game.actions.hint}; {usage}")
        return False
    state, score, _ = history[-1]
    played = step(state, jnp.int32(action), key)
    if not bool(played.legal):
        say(f"{game.actions.format(action)} is not legal here")
        return False
    history.append((played.state, score + float(played.reward), bool(played.over)))
    return True


def keyboard(game: Game[Any]) -> Callable[[str], str]:
    """What reads the player's answers: lines, or single keys where the game is one of moves and the terminal can."""
    if sys.stdin is None or sys.stdout is None:  # closed
        return _nobody
    if not set(game.actions.names) <= set(_ARROWS.values()) or not sys.stdin.isatty():
        return input
    try:
        import select
        import termios
        import tty
    except ImportError:  # not a Unix
        return input

    def ask(prompt: str) -> str:
        print(f"{prompt}(arrow keys) ", end="", flush=True)
        file = sys.stdin.fileno()
        before = termios.tcgetattr(file)
        try:
            tty.setcbreak(file, termios.TCSADRAIN)  # what was typed ahead stays
            typed = os.read(file, 1)
            while typed.startswith(b"\x1b") and len(typed) < 3 and select.select([file], [], [], _ESCAPE)[0]:
                typed += os.read(file, 1)
        finally:
            termios.tcsetattr(file, termios.TCSADRAIN, before)
        print()
        if typed in (b"", b"\x04"):
            raise EOFError
        pressed = typed.decode(errors="replace").replace("\x1bO", "\x1b[")  # what some terminals send for arrows
        return _ARROWS.get(pressed, pressed)

    return ask


def _nobody(_: str) -> str:
    """What a player types who cannot type or sees nothing."""
    raise EOFError
