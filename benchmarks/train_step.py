"""How fast does a model learn, against what the machine can do? Random weights in true shapes.

    python benchmarks/train_step.py                                           a small model, on whatever device there is
    python benchmarks/train_step.py --shape qwen2.5-vl-3b --dtype bfloat16 --picture 448 --context 768 --new 256 --remat

One update: the gradient of the cross-entropy of a reply to a picture and a prompt a row, and AdamW. Its operations are
counted from the shapes: forward, backward to what came in and to the weights; what is computed again is not counted.
"""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from support import plot
from support.measure import best_of, device_line, write
from support.work import Work, arguments, blank, configured, count, machine, prompts, reading, row

from policy import lora
from train import learner


def update_time(
    graphdef: Any, params: Any, given: tuple[jax.Array, ...], new: int, rank: int
) -> tuple[float, dict[str, float]]:
    """Seconds of a gradient of the cross-entropy of replies of so many tokens to prompts, and AdamW; also what comes
    before them.

    What learns is float32, the computation in the dtype of the parameters. rank: of adapters that learn alone (0: all).
    """
    rule, dtype = optax.adamw(1e-6), jax.tree.leaves(params)[0].dtype
    if rank:
        graphdef, params = lora.add(graphdef, params, rank, 32.0, lora.MODULES, jax.random.key(0))
    learned, fixed = learner.divide(params, adapters=rank > 0, tower=True)
    del params
    said = *given, jnp.full((given[0].shape[0], new), 7, jnp.int32)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(learned: Any, state: Any, fixed: Any, said: Any) -> tuple[Any, Any]:
        def loss(learned: Any) -> jax.Array:
            model = nnx.merge(graphdef, learner.whole(learned, fixed, dtype))
            return -jnp.mean(model.answered(*said).logprobs)

        updates, state = rule.update(jax.grad(loss)(learned), state, learned)
        return optax.apply_updates(learned, updates), state

    kept = [learned, jax.jit(rule.init)(learned)]
    start = time.perf_counter()
    compiled = update.lower(*kept, fixed, said).compile()
    seconds, room = time.perf_counter() - start, compiled.memory_analysis().temp_size_in_bytes
    print(f"compiled in {seconds:.1f} s; {room / 1e9:.2f} GB beside the state")

    def step(_: int) -> Any:
        kept[0], kept[1] = compiled(*kept, fixed, said)
        return kept[0]

    return best_of(step), {"seconds_to_compile": seconds, "bytes_beside": room}


def main() -> None:
    """Measure and print one table."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--lora", type=int, default=0, help="rank of adapters that learn alone (default: 0, all learns)"
    )
    parser.add_argument("--remat", action="store_true", help="compute activations again in the backward pass")
    options = parser.parse_args()
    if options.lora < 0:
        parser.error("--lora must be at least 0")
    config, dtype = configured(parser, options, options.remat), jnp.dtype(options.dtype)
    print(f"{device_line()}; {options.shape}")
    best = machine(options.dtype)
    length, head = options.context + options.new, count(config, dtype.itemsize)["head"]
    found: dict[str, dict[str, float]] = {}
    for rows in options.rows:
        graphdef, params = blank(config, dtype)
        given = prompts(config, rows, options.context, options.picture)
        forward = (
            reading(config, rows, length, options.picture, dtype.itemsize).flops + 2 * rows * (options.new - 1) * head
        )
        work = Work((2 if options.lora else 3) * forward, 0.0)
        seconds, needs = update_time(graphdef, params, given, options.new, options.lora)
        found[str(rows)] = row("update", rows, rows * length, seconds, work, best) | needs
    ratios = {f"{options.shape}, update, {rows} rows: products": each["of_products"] for rows, each in found.items()}
    file = write("train_step", vars(options), {"machine": best._asdict(), "measured": found, "ratios": ratios})
    curves = {"update": {rows: each["tokens_per_second"] for rows, each in found.items()}}
    print(f"written to {file}; {plot.save(file, [plot.Panel(options.shape, 'rows', 'tokens/s', curves)])}")


if __name__ == "__main__":
    main()
