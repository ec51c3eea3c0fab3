"""How fast does a model read and write, against what the machine can do? Random weights in true shapes.

    python benchmarks/decode.py                                              a small model, on whatever device there is
    python benchmarks/decode.py --shape qwen2.5-vl-3b --dtype bfloat16 --picture 448 --context 768 --rows 64 256

Prefill: a picture and a prompt a row. Decode: a token a row, each row with a cache of its own. Operations and bytes are
counted from the shapes; what the machine does at best, which they are held against, is measured first in the same run.
"""

from typing import Any

import jax
import jax.numpy as jnp
from support import plot
from support.measure import best_of, device_line, write
from support.work import arguments, blank, configured, machine, prompts, reading, row, writing

from policy import sample


def prefill_time(graphdef: Any, params: Any, given: tuple[jax.Array, ...]) -> float:
    """Seconds of reading prompts, up to the logits of the token to come."""
    return best_of(lambda i: sample.generate(graphdef, params, *given, jax.random.key(i), jnp.float32(1), 1, 1))


def decode_time(graphdef: Any, params: Any, given: tuple[jax.Array, ...], new: int, prefill: float) -> float:
    """Seconds of one more token a row."""
    whole = best_of(lambda i: sample.generate(graphdef, params, *given, jax.random.key(i), jnp.float32(1), new, 1))
    return (whole - prefill) / (new - 1)  # the first is drawn from what was read


def main() -> None:
    """Measure and print one table."""
    parser = arguments((__doc__ or "").splitlines()[0])
    options = parser.parse_args()
    config, dtype = configured(parser, options), jnp.dtype(options.dtype)
    print(f"{device_line()}; {options.shape}")
    best = machine(options.dtype)
    graphdef, params = blank(config, dtype)
    found: dict[str, dict[str, dict[str, float]]] = {"prefill": {}, "decode": {}}
    for rows in options.rows:
        given = prompts(config, rows, options.context, options.picture)
        seconds = prefill_time(graphdef, params, given)
        work = reading(config, rows, options.context, options.picture, dtype.itemsize)
        found["prefill"][str(rows)] = row("prefill", rows, rows * options.context, seconds, work, best)
        step = decode_time(graphdef, params, given, options.new, seconds)
        work = writing(config, rows, options.context + options.new / 2, dtype.itemsize)
        found["decode"][str(rows)] = row("decode", rows, rows, step, work, best)
    ratios = {
        f"{options.shape}, {name}, {rows} rows: {bound}": each[f"of_{bound}"]
        for name, bound in (("prefill", "products"), ("decode", "copies"))
        for rows, each in found[name].items()
    }
    file = write("decode", vars(options), {"machine": best._asdict(), "measured": found, "ratios": ratios})
    curves = {name: {rows: each["tokens_per_second"] for rows, each in by.items()} for name, by in found.items()}
    print(f"written to {file}; {plot.save(file, [plot.Panel(options.shape, 'rows', 'tokens/s', curves)])}")


if __name__ == "__main__":
    main()
