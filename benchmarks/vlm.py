"""How fast does a model read, write and learn, against what the machine can do? Random weights in true shapes.

    python benchmarks/vlm.py                                              a tiny model, on whatever device there is
    python benchmarks/vlm.py --shape qwen2.5-vl-3b --dtype bfloat16 --picture 448 --context 768 --rows 64 256

One table: prefill (a picture and a prompt a row), decode (a token a row, each row with a cache of its own), update (the
gradient of a supervised step, and AdamW). Operations and bytes are counted from the shapes; the matrix rate and the
bandwidth that they are held against are measured first, on the same machine. Memory is what the device reports.
"""

import argparse
import functools
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from support.measure import bandwidth, best_of, matrix_rate, write

import policy
from policy import lora, qwen, sample
from policy import model as models
from policy.config import VLMConfig
from policy.qwen.shapes import SHAPES
from train import learner


class Work(NamedTuple):
    """What something takes at least: floating-point operations, and bytes read from memory."""

    flops: float
    bytes: float


def count(config: VLMConfig, itemsize: int) -> dict[str, float]:
    """Parameters in products, by part, and what a token costs in the cache (bytes)."""
    _, params = models.outline(config)

    def size(part: Any) -> int:
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(part))

    decoder, tower = config.decoder, params["vision"]
    return {
        "tower": size([tower["embed"], tower["blocks"]]),  # works on patches
        "mergers": size([tower["merger"], tower.get("deep", {})]),  # work on image tokens
        "decoder": size(params["decoder"]),
        "head": config.vocab * decoder.width,
        "cache": 2 * decoder.layers * decoder.kv_heads * decoder.head_dim * itemsize,
    }


def reading(config: VLMConfig, rows: int, context: int, picture: int, itemsize: int) -> Work:
    """Work of reading prompts of so many tokens, a square picture of so many pixels among them, up to their logits."""
    n, vision, decoder = count(config, itemsize), config.vision, config.decoder
    patches = int(np.prod(vision.patches(picture, picture)))
    windowed = vision.layers - len(vision.full) if vision.window else 0
    seen = windowed * min(patches, (vision.window * vision.merge) ** 2) + (vision.layers - windowed) * patches
    look = 2 * (n["tower"] + n["mergers"] / vision.merge**2) * patches + 4 * patches * vision.width * seen
    attend = 2 * context**2 * decoder.heads * decoder.head_dim * decoder.layers  # each token sees half of the others
    flops = rows * (look + 2 * n["decoder"] * context + attend + 2 * n["head"])
    return Work(flops, itemsize * (n["tower"] + n["mergers"] + n["decoder"] + n["head"]) + rows * context * n["cache"])


def writing(config: VLMConfig, rows: int, context: float, itemsize: int) -> Work:
    """Work of one token a row, each row with so many tokens in its cache."""
    n, decoder = count(config, itemsize), config.decoder
    attend = 4 * context * decoder.heads * decoder.head_dim * decoder.layers
    flops = rows * (2 * (n["decoder"] + n["head"]) + attend)
    return Work(flops, itemsize * (n["decoder"] + n["head"]) + rows * context * n["cache"])


def blank(config: VLMConfig, dtype: jnp.dtype) -> tuple[Any, Any]:
    """A model with random weights."""
    graphdef, shapes = models.outline(config)
    fill = jax.jit(lambda key, like: 0.02 * jax.random.normal(key, like.shape, dtype), static_argnums=1)
    leaves, tree = jax.tree.flatten(shapes)
    filled = [fill(jax.random.key(i), jax.ShapeDtypeStruct(leaf.shape, dtype)) for i, leaf in enumerate(leaves)]
    return graphdef, jax.tree.unflatten(tree, filled)


def prompts(config: VLMConfig, rows: int, context: int, picture: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rows of one picture and words up to so many tokens."""
    tokens = int(np.prod(config.image_tokens(picture, picture)))
    if tokens >= context:
        raise ValueError(f"--context {context}: the picture alone has {tokens} tokens")
    ids = np.full((rows, context), 5, np.int32)
    ids[:, 1 : 1 + tokens] = config.image_id
    pictures = jax.random.randint(jax.random.key(0), (rows, picture, picture, 3), 0, 256).astype(jnp.uint8)
    return jnp.asarray(ids), jnp.full(rows, context, jnp.int32), pictures


def prefill_time(graphdef: Any, params: Any, given: tuple[jax.Array, ...]) -> float:
    """Seconds of reading prompts, up to the logits of the token to come."""
    return best_of(lambda i: sample.generate(graphdef, params, *given, jax.random.key(i), jnp.float32(1), 1, 1))


def decode_time(graphdef: Any, params: Any, given: tuple[jax.Array, ...], new: int, prefill: float) -> float:
    """Seconds of one more token a row."""
    whole = best_of(lambda i: sample.generate(graphdef, params, *given, jax.random.key(i), jnp.float32(1), 1 + new, 1))
    return (whole - prefill) / new


def update_time(graphdef: Any, params: Any, given: tuple[jax.Array, ...], new: int, rank: int) -> float:
    """Seconds of a gradient of the cross-entropy of replies of so many tokens to prompts, and AdamW.

    What learns is float32, the computation in the dtype of the parameters. rank: of adapters that learn alone (0: all).
    """
    rule, dtype = optax.adamw(1e-6), jax.tree.leaves(params)[0].dtype
    if rank:
        graphdef, params = lora.add(graphdef, params, rank, 32.0, lora.MODULES, jax.random.key(0))
    learned, fixed = learner.divide(params, adapters=rank > 0, tower=True)
    del params
    replies = jnp.full((given[0].shape[0], new), 7, jnp.int32)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(learned: Any, state: Any, fixed: Any) -> tuple[Any, Any]:
        def loss(learned: Any) -> jax.Array:
            model = nnx.merge(graphdef, learner.whole(learned, fixed, dtype))
            return -jnp.mean(model.said(model.continued(model.prefill(*given), replies), replies).logprobs)

        updates, state = rule.update(jax.grad(loss)(learned), state, learned)
        return optax.apply_updates(learned, updates), state

    kept = [learned, jax.jit(rule.init)(learned)]

    def step(_: int) -> Any:
        kept[0], kept[1] = update(*kept, fixed)
        return kept[0]

    return best_of(step)


def measure(config: VLMConfig, options: argparse.Namespace, rows: int, rates: tuple[float, float]) -> dict[str, Any]:
    """Every question for so many rows."""
    dtype = jnp.dtype(options.dtype)
    graphdef, params = blank(config, dtype)
    given, size = prompts(config, rows, options.context, options.picture), dtype.itemsize
    found: dict[str, Any] = {}
    read = reading(config, rows, options.context, options.picture, size)
    seconds = prefill_time(graphdef, params, given)
    if "prefill" in options.what:
        found["prefill"] = (rows * options.context, seconds, read)
    if "decode" in options.what:
        step = decode_time(graphdef, params, given, options.new, seconds)
        found["decode"] = (rows, step, writing(config, rows, options.context + options.new / 2, size))
    if "update" in options.what:
        length = options.context + options.new
        whole = reading(config, rows, length, options.picture, size)
        heads = 2 * rows * (options.new - 1) * count(config, size)["head"]
        times = 2 if options.lora else 3  # forward, backward to what came in, and to the weights if they learn
        work = Work(times * (whole.flops + heads), 0.0)  # what is computed again is not counted
        found["update"] = (rows * length, update_time(graphdef, params, given, options.new, options.lora), work)
    rate, width = rates
    print(f"{rows} rows")
    for name, (tokens, seconds, work) in found.items():
        share = f"{work.bytes / seconds / width:>12.0%}" if work.bytes else f"{'':>12}"
        print(f"  {name:<8}{tokens / seconds:>14,.0f}{seconds * 1e3:>12.1f}{work.flops / 1e9:>12,.1f}", end="")
        print(f"{work.flops / seconds / rate:>10.0%}{work.bytes / 1e9:>10.2f}{share}")
    return {
        name: {
            "tokens_per_second": round(tokens / seconds), "seconds": seconds, "flops": work.flops, "bytes": work.bytes,
            "share_of_matrix_rate": work.flops / seconds / rate, "share_of_bandwidth": work.bytes / seconds / width,
        }
        for name, (tokens, seconds, work) in found.items()
    }  # fmt: skip


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", default="small", choices=[*policy.PRESETS, *SHAPES], help="(default: small)")
    parser.add_argument("--what", nargs="+", default=["prefill", "decode", "update"], help="(default: all three)")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[16], help="rows in a batch, one or several (default: 16)"
    )
    parser.add_argument("--context", type=int, default=128, help="tokens of a prompt (default: 128)")
    parser.add_argument("--new", type=int, default=64, help="tokens of a reply (default: 64)")
    parser.add_argument("--picture", type=int, default=128, help="side of the picture in pixels (default: 128)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="(default: float32)")
    parser.add_argument(
        "--lora", type=int, default=0, help="rank of adapters that learn alone (default: 0, all learns)"
    )
    parser.add_argument("--remat", action="store_true", help="compute activations again in the backward pass")
    options = parser.parse_args()
    known = ("prefill", "decode", "update")
    if min(*options.rows, options.context, options.new, options.lora + 1) < 1 or not set(options.what) <= set(known):
        parser.error(
            f"--rows, --context and --new must be at least 1, --lora at least 0, --what some of {', '.join(known)}"
        )
    try:
        config = replace(policy.PRESETS[options.shape], vocab=640) if options.shape in policy.PRESETS else None
        config = replace(config or qwen.read(SHAPES[options.shape], {}, {}), remat=options.remat)
        prompts(config, 1, options.context, options.picture)
    except ValueError as error:
        parser.error(str(error))
    rates = matrix_rate(jnp.dtype(options.dtype)), bandwidth()
    print(f"{options.shape}, {options.dtype}: products {rates[0] / 1e12:.2f} TFLOP/s, copies {rates[1] / 1e9:.1f} GB/s")
    print(f"  {'':<8}{'tokens/s':>14}{'ms':>12}{'GFLOP':>12}{'of rate':>10}{'GB':>10}{'of bandwidth':>13}")
    results = {str(rows): measure(config, options, rows, rates) for rows in options.rows}
    stats = jax.devices()[0].memory_stats() or {}
    if peak := stats.get("peak_bytes_in_use"):
        print(f"peak of memory: {peak / 2**30:.1f} GiB")
    found = {"matrix_rate": rates[0], "bandwidth": rates[1], "peak_bytes": peak, "measured": results}
    print(f"written to {write('vlm', vars(options), found)}")


if __name__ == "__main__":
    main()
