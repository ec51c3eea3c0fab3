"""How many pictures a second, against what the device can copy? Boards drawn in a loop that carries their pictures.

    python benchmarks/render.py [--games all] [--pictures 112 224 448] [--boards 64 1024] [--seconds 0.3]

The bound is a copy of as many bytes as the pictures have, measured in turns with the drawing; it reads and writes every
byte, a picture is only written, so more than 100 % is possible. Every picture lies in memory before the next one is
drawn, and numbers from all over it are consumed. Memory is used again and again: what is measured is no allocation.
"""

import argparse
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from support import plot
from support.measure import checksum, device_line, side_by_side, write

import jaxgym


def drawing(game: jaxgym.Game[Any], boards: int) -> Any:
    """`runs(n)`: draw a batch of boards n times, each time with other boards in other places."""
    draw = jax.vmap(lambda tiles: jaxgym.render(game.sheet, tiles))
    deal = jax.jit(jax.vmap(lambda key: game.tiles(game.reset(key))))
    tiles = deal(jax.random.split(jax.random.key(0), boards))

    @partial(jax.jit, donate_argnums=0)
    def run(carry: tuple[jax.Array, ...], steps: jax.Array) -> tuple[jax.Array, ...]:
        def one(_: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            tiles, pictures, total = carry
            total += jax.vmap(checksum)(pictures).sum(dtype=jnp.uint32)
            # Hanging on the sum, the next pictures are drawn after the last ones are read: over them, without a copy.
            tiles = jnp.roll(tiles, 1, axis=0) + (total == jnp.uint32(0xDEADBEEF)).astype(tiles.dtype)
            return tiles, draw(tiles), total

        return jax.lax.fori_loop(0, steps, one, carry)

    kept = [(tiles, jax.jit(draw)(tiles), jnp.uint32(0))]

    def on(steps: int) -> jax.Array:
        kept[0] = run(kept[0], jnp.int32(steps))
        return kept[0][2]

    return lambda steps: partial(on, steps)


def copying(count: int) -> Any:
    """`runs(n)`: copy so many bytes n times, each time changed a little, into the same memory."""
    add = jax.jit(lambda words, _, i: words + i, donate_argnums=1, keep_unused=True)
    words = jnp.zeros(count // 4, jnp.uint32)
    kept = [jnp.ones_like(words)]

    def copy(times: int) -> jax.Array:
        for i in range(times):
            kept[0] = add(words, kept[0], jnp.uint32(i))
        return kept[0]

    return lambda times: partial(copy, times)


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--games", default="all", help="names separated by commas (default: all)")
    parser.add_argument("--pictures", type=int, nargs="+", default=[112, 224, 448], help="sides in pixels")
    parser.add_argument("--boards", type=int, nargs="+", default=[64, 1024], help="boards in a batch")
    parser.add_argument("--seconds", type=float, default=0.3, help="of one round (default: 0.3)")
    options = parser.parse_args()
    names = jaxgym.names() if options.games == "all" else options.games.split(",")
    if min(options.boards) < 1 or not options.seconds > 0:
        parser.error("--boards must be at least 1, --seconds above 0")
    results: dict[str, Any] = {}
    print(device_line())
    print(f"{'':<18}{'pixels':>8}{'boards':>9}{'pictures/s':>14}{'GB/s':>8}{'of copy':>9}")
    for side in options.pictures:
        try:
            games = {name: jaxgym.make(name, picture=side, patch=28 if side % 28 == 0 else 4) for name in names}
        except ValueError as error:
            parser.error(str(error))
        for boards in options.boards:
            size = boards * side * side * 3
            runs = {name: drawing(game, boards) for name, game in games.items()} | {"copy": copying(size)}
            found = side_by_side(runs, options.seconds)
            results.setdefault(str(side), {})[str(boards)] = {
                name: {"per_second": rate * boards, "bytes_per_second": rate * size, "of_copy": rate / found["copy"]}
                for name, rate in found.items()
            }
            for name, rate in found.items():
                print(
                    f"{name:<18}{side:>8}{boards:>9,}{rate * boards:>14,.0f}{rate * size / 1e9:>8.2f}"
                    f"{rate / found['copy']:>9.0%}",
                    flush=True,
                )
    ratios = {
        f"{name}, {side} px, {boards} boards: copy": each["of_copy"]
        for side, batches in results.items()
        for boards, found in batches.items()
        for name, each in found.items()
        if name != "copy"
    }
    file = write("render", vars(options), {"pictures": results, "ratios": ratios})
    panels = []
    for side, batches in results.items():
        curves = {
            name: {boards: found[name]["bytes_per_second"] / 1e9 for boards, found in batches.items()}
            for name in [*games, "copy"]
        }
        panels.append(plot.Panel(f"{side} x {side} pixels", "boards", "GB/s", curves))
    print(f"written to {file}; {plot.save(file, panels)}")


if __name__ == "__main__":
    main()
