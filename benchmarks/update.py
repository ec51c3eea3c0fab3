"""Where does the time of an update of RL go? Random weights in true shapes, every part waited for.

    python benchmarks/update.py                        the default run's model and games, on whatever device there is
    python benchmarks/update.py --shape qwen2.5-vl-3b --games shisen_sho --picture 448 --dtype bfloat16 --remat \
        --reply 512 --grpo-credit reply --grpo-states 32 --grpo-group 8 --grpo-kl 0.01 --accumulate 16

Takes the flags of `python -m train.main` as well. The environment is what `jaxgym` does: pictures, reading replies,
playing them, boards that move on (all at once, once in a pass over them: an update has its part of that); detokenizing
and the teacher's values are apart. Random weights write replies as long as there is room for; whatever they earn, the
optimizer makes its step.
"""

import argparse
import contextlib
import functools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import jax
from support.measure import device_line, write
from support.work import stand_in

import policy
from policy.qwen.shapes import SHAPES
from train import main as program
from train import optimizer, reinforce, rollout, rounds, states
from train.config import Config
from train.language import Language
from train.loop import Trainer

PARTS = {
    "pictures": (rollout, "show"),
    "writing": (rollout, "write_replies"),
    "reading and playing": (rollout, "judge"),  # detokenizing is inside, and taken off
    "detokenizing": (Language, "decode_replies"),
    "teacher's values": (rounds, "worth"),
    "the model before RL": (reinforce, "_scored"),
    "gradients": (reinforce, "_gradients"),  # of all games, side by side where cores are free
    "optimizer": (optimizer, "apply"),
}
ENVIRONMENT = ("pictures", "reading and playing", "boards moving on")


def watched(spent: dict[str, float]) -> list[Any]:
    """Patches that have every part add its seconds, to the end of what it does on a device."""

    def timed(part: str, call: Any) -> Any:
        @functools.wraps(call)
        def run(*args: Any, **how: Any) -> Any:
            start = time.perf_counter()
            made = jax.block_until_ready(call(*args, **how))
            spent[part] = spent.get(part, 0.0) + time.perf_counter() - start
            return made

        return run

    return [mock.patch.object(where, name, timed(part, getattr(where, name))) for part, (where, name) in PARTS.items()]


def measure(config: Config, updates: int) -> tuple[float, dict[str, float], bool]:
    """Seconds of the first update, with all that is compiled for it, and of each part of a later one (their sum is the
    whole); also whether every action was judged.
    """
    spent: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as patched:
        trainer = Trainer(config, Path(folder))
        trainer._enter("grpo")
        for patch in watched(spent):
            patched.enter_context(patch)
        patched.enter_context(mock.patch.object(reinforce, "_teaches", lambda *_: True))
        patched.enter_context(mock.patch.object(states, "ready", lambda config, course, old, *_: old))  # see below
        start = time.perf_counter()
        jax.block_until_ready([trainer._reinforce(), trainer.state])
        first, start = time.perf_counter() - start, time.perf_counter()
        spent.clear()
        for _ in range(updates):
            jax.block_until_ready([trainer._reinforce(), trainer.state])
        whole = (time.perf_counter() - start) / updates
        trainer.checkpoints.close()
    found = {part: spent.get(part, 0.0) / updates for part in PARTS}
    found["reading and playing"] -= found["detokenizing"]
    found["the rest"] = whole - sum(found.values())
    judged = all(rounds.every_action(config, course) for course in trainer.courses.values())
    return first, found | {"boards moving on": moving_on(trainer)}, judged


def moving_on(trainer: Trainer) -> float:
    """Seconds that it takes all boards to move on, over the updates of a pass: they do so once in it."""
    turns = rollout.BATCH // trainer.config.grpo.states
    for _ in range(2):  # the first compiles
        start = time.perf_counter()
        for name, course in trainer.courses.items():
            turn = (trainer.standings[name].updates - 1) % turns  # that was answered last
            jax.block_until_ready(states.ready(trainer.config, course, trainer.boards[name], turn, jax.random.key(0)))
        seconds = time.perf_counter() - start
    return seconds / turns


def main() -> None:
    """Measure and print one table."""
    says = f"{(__doc__ or '').splitlines()[0]} Takes the flags of `python -m train.main` as well."
    parser = argparse.ArgumentParser(description=says, allow_abbrev=False)
    parser.add_argument("--shape", default="", choices=[*SHAPES], help="of a model; without one --model is trained")
    parser.add_argument("--updates", type=int, default=3, help="updates that are measured, after one (default: 3)")
    options, rest = parser.parse_known_args()
    if options.updates < 1:
        parser.error("--updates must be at least 1")
    flags = {k: v for k, v in vars(program.parser().parse_args(rest)).items() if v is not None}
    if other := flags.keys() & {"resume", "config", "distributed", "run", "track"}:
        parser.error(f"--{min(other)} is of runs that are kept: this one is not")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as patched:
        if options.shape:
            flags |= {"model": folder, "recipe": "g0"}
            patched.enter_context(mock.patch.object(policy, "load", functools.partial(stand_in, options.shape)))
        try:
            config = program.read_config(flags, Config())
            config.check()
            print(device_line())
            first, found, judged = measure(config, options.updates)
        except ValueError as error:
            sys.exit(f"error: {error}")
    whole, model = sum(found.values()), options.shape or config.model
    share = sum(found[part] for part in ENVIRONMENT) / whole
    print(f"{'':<22}{'seconds':>12}{'of an update':>15}")
    for part, seconds in (found | {"an update": whole, "the environment": share * whole}).items():
        print(f"{part:<22}{seconds:>12.4f}{seconds / whole:>15.2%}")
    print(f"the first update, with what is compiled for it: {first:.1f} s")
    replies = "every action judged" if judged else f"{config.grpo.group} replies to each"
    settings = {"shape": model, "games": config.names(), "states": config.grpo.states, "replies": replies}
    results = {"first": first, "parts": found, "environment": share, "dtype": config.dtype}
    file = write("update", settings, results | {"ratios": {f"{model}: update to environment": 1 / share}})
    print(f"written to {file}")


if __name__ == "__main__":
    main()
