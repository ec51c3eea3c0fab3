"""How many steps a second? Random legal play of every game, beside what one would use instead, in one run.

    python benchmarks/env_step.py [--games all] [--boards 64 1024] [--picture 224] [--seconds 0.5]

Four columns: plain steps (a board that has ended stays), with auto-reset, with auto-reset and a picture of every board,
and a plain Python and pygame gym like VLM-Gym's in one process a core, pictures included. Below, for 2048: Pgx and
Jumanji, where they are installed. What is compared is measured in turns, the best of five rounds counts, and every
number is consumed. Several numbers of boards may be given.
"""

import argparse
import os
from typing import Any

import jax
import jax.numpy as jnp
from support import plot, python_gym, rivals
from support.measure import checksum, device_line, fits, side_by_side, write
from support.rivals import Player

import jaxgym
from jaxgym import Env, engine

PLAIN, RESET, DRAWN = "steps", "with auto-reset", "and pictures"


def ours(game: jaxgym.Game[Any], autoreset: Any, observe: Any) -> Player:
    """A game through `Env`, as a user steps it."""
    env = Env(game, autoreset=autoreset, observe=observe, max_steps=10**9)

    def step(carry: Any, action: jax.Array, key: jax.Array) -> tuple[Any, jax.Array]:
        before, state = carry
        total = checksum(before)  # of what lies in memory
        # Hanging on the sum, the next picture is drawn after the last one is read: over it, without a copy.
        seen, state, reward, _, _, _ = env.step(
            key, state, action + (total == jnp.uint32(0xDEADBEEF)).astype(jnp.int32)
        )
        return (seen, state), reward + total.astype(jnp.float32)

    return Player(env.reset, lambda carry: carry[1].mask, step)


def measure(players: dict[str, Player], boards: int, seconds: float) -> dict[str, float]:
    """Steps a second of all boards together, for each of several players."""
    calls = {name: rivals.play(player, boards, engine.draw_legal) for name, player in players.items()}
    return {name: rate * boards for name, rate in side_by_side(calls, seconds).items()}


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--games", default="all", help="names separated by commas (default: all)")
    parser.add_argument(
        "--boards", type=int, nargs="+", default=[64, 1024], help="boards in a batch (default: 64 1024)"
    )
    parser.add_argument("--picture", type=int, default=224, help="side of the pictures in pixels (default: 224)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of one round (default: 0.5)")
    options = parser.parse_args()
    names = jaxgym.names() if options.games == "all" else options.games.split(",")
    if min(options.boards) < 1 or not options.seconds > 0:
        parser.error("--boards must be at least 1, --seconds above 0")
    try:
        games = {name: jaxgym.make(name, picture=options.picture) for name in names}
    except ValueError as error:
        parser.error(str(error))
    cores = os.cpu_count() or 1
    plain = {}
    if python_gym.available():
        plain = {name: python_gym.steps_per_second(name, cores) for name in names if name in python_gym.GAMES}
    else:
        print("pygame is not installed, so no Python gym stands beside: pip install -e '.[bench]'")
    print(device_line())
    print(f"{'':<18}{'boards':>9}{PLAIN:>14}{RESET:>17}{DRAWN:>14}{'Python gym':>12}{'ratio':>7}")
    ratios: dict[str, float] = {}
    results: dict[str, Any] = {"python_gym": plain, "games": {}, "rivals": {}, "ratios": ratios}
    for boards in options.boards:
        for name, game in games.items():
            players = {
                PLAIN: ours(game, None, "tiles"),
                RESET: ours(game, "same_step", "tiles"),
            }
            if fits(1.5 * boards * 3 * options.picture**2):  # besides the pictures: the boards, the programs
                players[DRAWN] = ours(game, "same_step", "picture")
            found = measure(players, boards, options.seconds)
            results["games"].setdefault(name, {})[str(boards)] = found
            drawn = f"{found[DRAWN]:,.0f}" if DRAWN in found else "do not fit"
            line = f"{name:<18}{boards:>9,}{found[PLAIN]:>14,.0f}{found[RESET]:>17,.0f}{drawn:>14}"
            if name in plain and DRAWN in found:
                ratio = ratios[f"{name}, {boards} boards, pictures: Python gym"] = found[DRAWN] / plain[name]
                line += f"{plain[name]:>12,.0f}{ratio:>7.1f}"
            print(line, flush=True)
    for boards in options.boards if "2048" in games else ():
        found = {}
        for kind, reset in ((PLAIN, False), (RESET, True)):
            mine = ours(games["2048"], "same_step" if reset else None, "tiles")
            found[kind] = measure({"jaxgym": mine, **rivals.players(reset)}, boards, options.seconds)
        results["rivals"][str(boards)] = found
        for library in found[PLAIN]:
            line = f"2048 {library:<13}{boards:>9,}"
            for kind, width in ((PLAIN, 14), (RESET, 17)):
                line += f"{found[kind][library]:>{width},.0f}"
                if library != "jaxgym":
                    ratio = ratios[f"2048, {boards} boards, {kind}: {library}"] = (
                        found[kind]["jaxgym"] / found[kind][library]
                    )
                    line += f" (1/{ratio:.1f})"
            print(line, flush=True)
    file, panels = write("env_step", vars(options), results), []
    for kind in (PLAIN, RESET, DRAWN):
        curves = {
            name: {boards: found[kind] for boards, found in by.items() if kind in found}
            for name, by in results["games"].items()
        }
        for library in ("pgx", "jumanji"):
            beside = {boards: found[kind].get(library) for boards, found in results["rivals"].items() if kind in found}
            curves |= {f"{library}'s 2048": beside} if all(beside.values()) and beside else {}
        panels.append(plot.Panel(kind, "boards", "steps/s", curves))
    print(f"written to {file}; {plot.save(file, panels)}")


if __name__ == "__main__":
    main()
