"""Flags of the commands: what is wrong with them is told in one line."""

import argparse
import difflib
import sys
from collections.abc import Callable
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the flags in one line, with near misses."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        known = [option for action in self._actions for option in action.option_strings]
        for word in message.split():
            if word.startswith("--") and "unrecognized" in message:
                near = difflib.get_close_matches(word.split("=")[0], known, n=2)
                message = f"no flag {word}" + (f": did you mean {' or '.join(near)}?" if near else "")
                break
        self.exit(2, f"error: {message} (--help lists all flags)\n")


def finish(command: Callable[[], Any]) -> int:
    """Do what a command does; its exit status. What is wrong is told in one line, Ctrl-C in none."""
    try:
        command()
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
