"""How strong are the teachers? Whole games, with intervals (95 %, Wilson).

    python benchmarks/teachers.py [--boards 1024] [--games-2048 512]

2048: games to their end, and how many reach the tile 2048. Shisen-Sho: how many of all deals are cleared; some deals
cannot be, so the share of those that can is no smaller. Swap: legal swaps and points in 100 steps. Beside each stands
random legal play.
"""

import argparse
from functools import partial
from math import sqrt
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from support.measure import device_line, write

import jaxgym
from jaxgym import engine

PLAYERS = {"teacher": engine.teacher, "random": engine.random_legal}


def interval(good: int, tries: int) -> tuple[float, float]:
    """Wilson's interval of a share."""
    share, z = good / tries, 1.96
    middle = (share + z * z / (2 * tries)) / (1 + z * z / tries)
    half = z * sqrt(share * (1 - share) / tries + z * z / (4 * tries * tries)) / (1 + z * z / tries)
    return middle - half, middle + half


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def played(game: jaxgym.Game[Any], player: str, boards: int, steps: int) -> tuple[Any, jax.Array, jax.Array]:
    """The last boards, the moves and the scores of so many games, of so many steps at most; whole games at a time."""
    choose = PLAYERS[player](game)

    def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        i, states, over, moves, score = carry
        keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, i)))(own)
        actions = jax.vmap(choose)(states, keys[:, 0])
        out = jax.vmap(partial(engine.play, game))(states, over, actions, keys[:, 1])
        return i + 1, out.state, out.over, moves + out.legal, score + out.reward

    own = jax.random.split(jax.random.key(1), boards)
    states = jax.vmap(game.reset)(jax.random.split(jax.random.key(0), boards))
    start = jnp.int32(0), states, jnp.zeros(boards, bool), jnp.zeros(boards, jnp.int32), jnp.zeros(boards)
    end = jax.lax.while_loop(lambda carry: (carry[0] < steps) & ~carry[2].all(), step, start)
    return end[1], end[3], end[4]


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--boards", type=int, default=1024, help="deals of Shisen-Sho and Swap (default: 1024)")
    parser.add_argument("--games-2048", type=int, default=512, help="games of 2048 (default: 512)")
    options = parser.parse_args()
    if min(options.boards, options.games_2048) < 1:
        parser.error("--boards and --games-2048 must be at least 1")
    asked = {
        "2048: reaches 2048": (jaxgym.make("2048"), options.games_2048, 20_000, lambda b: (b >= 11).any((1, 2))),
        "shisen_sho 6x6: cleared": (jaxgym.make("shisen_sho"), options.boards, 18, lambda b: (b == 0).all((1, 2))),
        "shisen_sho 8x8: cleared": (
            jaxgym.make("shisen_sho", size=8, kinds=16), options.boards, 32, lambda b: (b == 0).all((1, 2))
        ),
        "swap 8x8: 98 legal swaps of 100": (jaxgym.make("swap"), options.boards, 100, None),
    }  # fmt: skip
    print(device_line())
    print(f"{'':<34}{'player':<10}{'games':>7}{'share':>9}{'interval':>19}{'mean moves':>12}{'mean score':>12}")
    results: dict[str, Any] = {}
    for what, (game, boards, steps, good) in asked.items():
        for player in PLAYERS:
            states, moves, score = jax.device_get(played(game, player, boards, steps))
            hits = int((good(np.asarray(states.board)) if good else moves >= 98).sum())
            low, high = interval(hits, boards)
            results.setdefault(what, {})[player] = {
                "games": boards, "share": hits / boards, "low": low, "high": high,
                "moves": float(moves.mean()), "score": float(score.mean()),
            }  # fmt: skip
            between = f"{low:.2%} .. {high:.2%}"
            print(
                f"{what:<34}{player:<10}{boards:>7}{hits / boards:>9.2%}{between:>19}{moves.mean():>12.1f}"
                f"{score.mean():>12.1f}",
                flush=True,
            )
    print(f"written to {write('teachers', vars(options), {'teachers': results})}")


if __name__ == "__main__":
    main()
