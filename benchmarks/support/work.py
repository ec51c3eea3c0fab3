"""Models of true shapes with random weights, and what reading, writing and learning take at least."""

import argparse
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import policy
from policy import model, qwen, sharding
from policy.config import VLMConfig
from policy.qwen.shapes import SHAPES
from policy.weights import Origin
from support.measure import bandwidth, matrix_rate


class Work(NamedTuple):
    """What something takes at least: floating-point operations, and bytes read from memory."""

    flops: float
    bytes: float


def count(config: VLMConfig, itemsize: int) -> dict[str, float]:
    """Parameters in products, by part, and what a token costs in the cache (bytes)."""
    _, params = model.outline(config)

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
    graphdef, shapes = model.outline(config)
    fill = jax.jit(lambda key, like: 0.02 * jax.random.normal(key, like.shape, dtype), static_argnums=1)
    leaves, tree = jax.tree.flatten(shapes)
    filled = [fill(jax.random.key(i), jax.ShapeDtypeStruct(leaf.shape, dtype)) for i, leaf in enumerate(leaves)]
    return graphdef, jax.tree.unflatten(tree, filled)


def stand_in(shape: str, *_: Any, dtype: str, remat: bool = False, mesh: Any = None, **__: Any) -> policy.VLM:
    """What `policy.load` would load, with random weights and a tokenizer of Qwen's size that spells words in bytes."""
    config = replace(qwen.read(SHAPES[shape], {}, {}), remat=remat)
    graphdef, params = blank(config, jnp.dtype(dtype))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    first = config.stop_id - 2  # of the special tokens
    words = [*letters, *(f"word{i}" for i in range(first - len(letters)))]
    inner = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    names = {config.image_id: "<|image_pad|>", first: "<|endoftext|>", config.stop_id: "<|im_end|>"}
    marks = [names.get(i, f"<|mark{i}|>") for i in range(first, config.image_id + 2)]
    inner.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in marks])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=marks[0], eos_token="<|im_end|>", chat_template=_TEMPLATE
    )
    return policy.VLM(
        replace(config, pad_id=first), graphdef, sharding.spread(params, mesh), tokenizer,
        Origin(SHAPES[shape]["model_type"]), mesh,
    )  # fmt: skip


_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image_pad|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


def prompts(config: VLMConfig, rows: int, context: int, picture: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rows of one picture and words up to so many tokens."""
    tokens = int(np.prod(config.image_tokens(picture, picture)))
    if tokens >= context:
        raise ValueError(f"--context {context}: the picture alone has {tokens} tokens")
    ids = np.full((rows, context), 5, np.int32)
    ids[:, 1 : 1 + tokens] = config.image_id
    pictures = jax.random.randint(jax.random.key(0), (rows, picture, picture, 3), 0, 256).astype(jnp.uint8)
    return jnp.asarray(ids), jnp.full(rows, context, jnp.int32), pictures


class Machine(NamedTuple):
    """What the machine does at best, measured: products in the model's dtype, flop/s, and copies, bytes/s."""

    products: float
    copies: float


def arguments(says: str) -> argparse.ArgumentParser:
    """What the model and its rows are."""
    parser = argparse.ArgumentParser(description=says)
    parser.add_argument("--shape", default="small", choices=[*policy.PRESETS, *SHAPES], help="(default: small)")
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 64], help="rows in a batch (default: 16 64)")
    parser.add_argument("--context", type=int, default=128, help="tokens of a prompt (default: 128)")
    parser.add_argument("--new", type=int, default=64, help="tokens of a reply (default: 64)")
    parser.add_argument("--picture", type=int, default=128, help="side of the picture in pixels (default: 128)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="(default: float32)")
    return parser


def configured(parser: argparse.ArgumentParser, options: argparse.Namespace, remat: bool = False) -> VLMConfig:
    """The model of some options; ends the program in one line where they do not fit."""
    if min(*options.rows, options.context, options.new - 1) < 1:
        parser.error("--rows and --context must be at least 1, --new at least 2")
    try:
        config = replace(policy.PRESETS[options.shape], vocab=640) if options.shape in policy.PRESETS else None
        config = replace(config or qwen.read(SHAPES[options.shape], {}, {}), remat=remat)
        prompts(config, 1, options.context, options.picture)
    except ValueError as error:
        parser.error(str(error))
    return config


def machine(dtype: str) -> Machine:
    """Measure it, and say it in a line."""
    found = Machine(matrix_rate(jnp.dtype(dtype)), bandwidth())
    print(f"products {found.products / 1e12:.2f} TFLOP/s in {dtype}, copies {found.copies / 1e9:.1f} GB/s")
    print(f"{'':<8}{'rows':>6}{'tokens/s':>14}{'ms':>12}{'GFLOP':>12}{'of rate':>10}{'GB':>10}{'of bandwidth':>14}")
    return found


def row(name: str, rows: int, tokens: int, seconds: float, work: Work, best: Machine) -> dict[str, float]:
    """Say in a line, and return, what so many tokens in so many seconds are of what the machine can do."""
    rate, width = work.flops / seconds / best.products, work.bytes / seconds / best.copies
    print(
        f"{name:<8}{rows:>6}{tokens / seconds:>14,.0f}{seconds * 1e3:>12.1f}{work.flops / 1e9:>12,.1f}{rate:>10.0%}"
        + (f"{work.bytes / 1e9:>10.2f}{width:>14.0%}" if work.bytes else ""),
        flush=True,
    )
    return {
        "tokens_per_second": tokens / seconds, "seconds": seconds, "flops": work.flops, "bytes": work.bytes,
        "of_products": rate, "of_copies": width,
    }  # fmt: skip
