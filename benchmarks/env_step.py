"""How many steps and pictures a second? Random legal play with auto-reset, on whatever device there is.

    python benchmarks/env_step.py [--boards 1024] [--steps 100] [--picture 224]

Prints one table and writes it, with hardware, versions and commit, to benchmarks/results/env_step-<device>.json.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
from support.measure import best_of, write

import jaxgym
from jaxgym import engine


def steps_per_second(game: jaxgym.Game[Any], boards: int, steps: int, observe: str | None) -> float:
    """Steps of all boards together in a second, the best of three runs after one that compiles."""

    def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        act_key, luck_key, deal_key = jax.random.split(key, 3)
        action = engine.random_legal(game)(state, act_key)
        out = engine.play(game, state, jnp.bool_(False), action, luck_key)
        after = engine.select(out.over, game.reset(deal_key), out.state)
        if observe == "picture":  # the pixels are consumed: nothing is optimised away
            return after, jnp.sum(jaxgym.render(game.sheet, game.tiles(after)), dtype=jnp.uint32)
        return after, out.reward.astype(jnp.uint32)

    @jax.jit
    def run(states: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        def one(states: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            return jax.vmap(step)(states, jax.random.split(key, boards))

        states, sums = jax.lax.scan(one, states, jax.random.split(key, steps))
        return states, jnp.sum(sums)

    states = jax.jit(jax.vmap(game.reset))(jax.random.split(jax.random.key(0), boards))
    return steps * boards / best_of(lambda i: run(states, jax.random.key(i)))


def main() -> None:
    """Measure every game and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--boards", type=int, default=1024, help="boards in one batch (default: 1024)")
    parser.add_argument("--steps", type=int, default=100, help="steps of each board in a run (default: 100)")
    parser.add_argument("--picture", type=int, default=224, help="side of the pictures in pixels (default: 224)")
    arguments = parser.parse_args()
    for name in ("boards", "steps"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name}: must be at least 1")
    try:
        games = {name: jaxgym.make(name, picture=arguments.picture) for name in jaxgym.names()}
    except ValueError as error:
        parser.error(str(error))
    rows = {}
    print(f"{'game':<18}{'steps/s':>12}{'with pictures':>16}")
    for name, game in games.items():
        plain, drawn = (steps_per_second(game, arguments.boards, arguments.steps, o) for o in (None, "picture"))
        rows[name] = {"steps_per_second": round(plain), "with_pictures": round(drawn)}
        print(f"{name:<18}{plain:>12,.0f}{drawn:>16,.0f}")
    print(f"written to {write('env_step', vars(arguments), {'games': rows})}")


if __name__ == "__main__":
    main()
