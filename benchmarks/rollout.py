"""Where does the time of a rollout go? Groups of replies to boards, from the pictures to the games' outcomes.

    python benchmarks/rollout.py [--games all] [--model small] [--states 32] [--group 16] [--seconds 1]

`whole` is what the trainer does for a batch of replies; `model` is its part that reads the pictures and writes the
replies, with the same inputs; what lies between is drawing, decoding, reading replies, judging and playing them. Both
are measured in turns. A preset has fresh weights here, so nearly every reply is as long as there is room for.
"""

import argparse
from typing import Any

import jax
import numpy as np
from support.measure import device_line, side_by_side, write

from train import rollout
from train.config import Config
from train.course import prepare


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--games", default="all", help="names separated by commas (default: all)")
    parser.add_argument("--model", default="small", help="a preset or the folder of a model (default: small)")
    parser.add_argument("--states", type=int, default=32, help="boards in a rollout (default: 32)")
    parser.add_argument("--group", type=int, default=16, help="replies to each (default: 16)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one round (default: 1)")
    options = parser.parse_args()
    if min(options.states, options.group) < 1 or options.states > rollout.BATCH or not options.seconds > 0:
        parser.error(f"--states must be 1 to {rollout.BATCH}, --group at least 1, --seconds above 0")
    try:
        config = Config(games=tuple(options.games.split(",")), model=options.model)
        config.check()
        vlm, courses, boards = prepare(config, jax.random.key(0))
    except ValueError as error:
        parser.error(str(error))
    results: dict[str, Any] = {}
    print(device_line())
    print(f"{'':<18}{'replies':>9}{'tokens each':>13}{'replies/s':>12}{'tokens/s':>11}{'outside the model':>19}")
    for name, course in courses.items():
        state = jax.tree.map(lambda leaf: leaf[: options.states], boards[name].state)
        seen, _ = jax.block_until_ready(rollout.show(course.language.game, state))
        model = vlm.graphdef, vlm.params, course.language

        def whole(n: int, model: Any = model, state: Any = state) -> Any:
            keys = jax.random.split(jax.random.key(n), n)
            return lambda: [rollout.try_replies(*model, state, key, options.group, 1.0).score for key in keys]

        def alone(n: int, model: Any = model, seen: Any = seen) -> Any:
            keys = jax.random.split(jax.random.key(n), n)
            return lambda: [
                rollout.write_replies(*model, seen, jax.random.split(key)[0], options.group, 1.0) for key in keys
            ]

        found = side_by_side({"whole": whole, "model": alone}, options.seconds)
        replies = rollout.try_replies(*model, state, jax.random.key(0), options.group, 1.0)
        count, length = options.states * options.group, float(np.mean(jax.device_get(replies.sampled.lengths)))
        outside = 1 - found["whole"] / found["model"]
        results[name] = {
            "replies_per_second": found["whole"] * count, "tokens": length, "outside_the_model": outside,
        }  # fmt: skip
        print(
            f"{name:<18}{count:>9,}{length:>13.1f}{found['whole'] * count:>12,.0f}"
            f"{found['whole'] * count * length:>11,.0f}{outside:>19.1%}",
            flush=True,
        )
    print(f"written to {write('rollout', vars(options), {'games': results})}")


if __name__ == "__main__":
    main()
