"""The gym from a terminal: play a game by hand, film a player, draw every game on one page.

python -m jaxgym play 2048
python -m jaxgym film swap swap.gif --player teacher
python -m jaxgym gallery
"""

import argparse
import contextlib
import os
import sys
from pathlib import Path

from jaxgym import engine, gallery, registry, show, terminal

PLAYERS = {"random": engine.random_legal, "teacher": engine.teacher}


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jaxgym", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    play = commands.add_parser("play", help="play a game by hand")
    film = commands.add_parser("film", help="let a player play, and write what is seen as a .gif, .webp or .mp4")
    draw = commands.add_parser("gallery", help="write a page with every game in every level and look")
    for command in (play, film):
        command.add_argument("game", help=", ".join(registry.names()) + ", or MODULE:FUNCTION, one of yours")
        command.add_argument("--level", default="paper", help="easy, paper, hard or extreme (default: paper)")
        command.add_argument("--theme", default="classic", help="(default: classic)")
    film.add_argument("file", help="where to write it")
    film.add_argument("--player", default="teacher", choices=PLAYERS, help="(default: teacher)")
    film.add_argument("--steps", type=int, default=50, help="at most (default: 50)")
    draw.add_argument("--games", default="all", help="names separated by commas (default: all)")
    draw.add_argument("--out", default="gallery.html", help="where to write it (default: gallery.html)")
    for command in (play, film, draw):
        command.add_argument("--seed", type=int, default=0, help="(default: 0)")
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace")):
        with contextlib.suppress(AttributeError):  # a closed or captured one
            stream.reconfigure(errors=errors)  # type: ignore[union-attr]  # what is no text, and what it cannot show
    options = parser.parse_args(arguments)
    try:
        if options.command == "gallery":
            names = registry.names() if options.games == "all" else options.games.split(",")
            if not Path(options.out).resolve().parent.is_dir() or Path(options.out).is_dir():
                raise ValueError(f"--out {options.out}: give a file, in a folder that there is")
            Path(options.out).write_text(gallery.page(names, options.seed))
            print(f"written to {options.out}")
            return 0
        game = registry.make(options.game, level=options.level, theme=options.theme)
        if options.command == "film":
            player = PLAYERS[options.player]
            print(f"written to {show.film(game, options.file, player=player, seed=options.seed, steps=options.steps)}")
        else:
            colours = bool(sys.stdout and sys.stdout.isatty())
            score = terminal.play(game, options.seed, terminal.keyboard(game), print, colours)
            print(f"score {score:g}")
    except BrokenPipeError:  # whoever read it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        print(f"python -m jaxgym: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
