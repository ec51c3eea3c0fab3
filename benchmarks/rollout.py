"""Where does the time of a rollout go? Groups of replies to boards, from the pictures to the games' outcomes.

    python benchmarks/rollout.py [--games all] [--model small] [--states 32] [--group 16] [--seconds 1]

What the trainer does for a batch of replies is measured in turns with its part outside the model: drawing the boards,
decoding and reading replies that were written before, playing their answers. A preset has fresh weights here, so nearly
every reply is as long as there is room for.
"""

import argparse
from typing import Any

import jax
import numpy as np
from support import plot
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
        model = vlm.graphdef, vlm.params, course.language
        replies = rollout.try_replies(*model, state, jax.random.key(0), options.group, 1.0)

        def whole(n: int, model: Any = model, state: Any = state) -> Any:
            keys = jax.random.split(jax.random.key(n), n)
            return lambda: [rollout.try_replies(*model, state, key, options.group, 1.0).score for key in keys]

        def outside(
            n: int,
            language: Any = course.language,
            state: Any = state,
            prompts: Any = replies.prompts,
            written: Any = replies.sampled,
        ) -> Any:
            keys = jax.random.split(jax.random.key(n), n)
            return lambda: [
                rollout.judge(language, state, *rollout.show(language.game, state), prompts, written, key).score
                for key in keys
            ]

        found = side_by_side({"whole": whole, "outside": outside}, options.seconds)
        count, length = options.states * options.group, float(np.mean(jax.device_get(replies.sampled.lengths)))
        share = found["whole"] / found["outside"]
        results[name] = {
            "replies_per_second": found["whole"] * count, "tokens": length, "outside_the_model": share,
        }  # fmt: skip
        print(
            f"{name:<18}{count:>9,}{length:>13.1f}{found['whole'] * count:>12,.0f}"
            f"{found['whole'] * count * length:>11,.0f}{share:>19.1%}",
            flush=True,
        )
    ratios = {f"{name}: whole to outside": 1 / each["outside_the_model"] for name, each in results.items()}
    file = write("rollout", vars(options), {"games": results, "ratios": ratios})
    curves = {key: {name: each[key] for name, each in results.items()} for key in ("replies_per_second", "tokens")}
    print(f"written to {file}; {plot.save(file, [plot.Panel('rollouts', '', '', curves)])}")


if __name__ == "__main__":
    main()
