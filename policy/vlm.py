"""VLM: a model to use, with its tokenizer. `load` makes one, `save` keeps it."""

import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from transformers import PreTrainedTokenizerFast

from policy import adapters, lora, model, sample, sharding, tokenizer, weights
from policy.config import PRESETS, VLMConfig
from policy.model import Model, Params, Pictures, picture_grids
from policy.sample import Reply


@dataclass(frozen=True, eq=False)
class VLM:
    """A model as a value: its shape, its modules, its parameters and its tokenizer."""

    config: VLMConfig
    graphdef: nnx.GraphDef[Model]
    params: Params
    tokenizer: PreTrainedTokenizerFast
    origin: weights.Origin = field(default_factory=weights.Origin)  # the kind of folder it came from, and goes into
    mesh: jax.sharding.Mesh | None = None  # the devices it is spread over; None: the first

    def __post_init__(self) -> None:
        if self.params is not None:
            object.__setattr__(self, "graphdef", model.spread_over(self.graphdef, self.params, self.mesh))

    def __repr__(self) -> str:
        """One line, without what the parameters are."""
        leaves = jax.tree.leaves(self.params)
        count, dtypes = sum(leaf.size for leaf in leaves), sorted({str(leaf.dtype) for leaf in leaves})
        return f"VLM({self.origin.kind}, {count:,} parameters in {', '.join(dtypes)})"

    def logits(self, ids: jax.Array, lengths: jax.Array, pictures: Pictures | Sequence[jax.Array] | None) -> jax.Array:
        """Logits after every token.

        ids int32 [B, T] right-padded, with one placeholder (`config.image_id`) per image token; lengths int32 [B];
        pictures uint8 [M, H, W, 3] in reading order -> float32 [B, T, V]. What stands past a row's length is undefined;
        what is never said (`config.image_id`, `config.unsaid`) is -inf.
        Pictures of several sizes come as a list of [H, W, 3] or [M, H, W, 3], in reading order; none is None. Raises
        ValueError when the placeholders do not match the pictures, or an id or a length cannot be.
        """
        return model.logits(self.graphdef, self.params, *self._given(ids, lengths, pictures))

    def generate(
        self,
        ids: jax.Array,
        lengths: jax.Array,
        pictures: Pictures | Sequence[jax.Array] | None,
        *,
        key: jax.Array,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        samples: int = 1,
    ) -> Reply:
        """Continue prompts (as in `logits`), `samples` replies each: arrays [B * samples, ...].

        A temperature of 0 is greedy (its logprobs are those at 1); a repetition penalty that a folder's
        generation_config.json asks for is not applied. Only the top_k likeliest tokens are sampled from (0: all), and
        of these the fewest that together have a share of top_p. Each row stops by itself; each prompt is read once.
        key: one for all, or one for each prompt, [B]. Raises ValueError as `logits` does, and for a number that cannot
        be.
        """
        longest, count, few = operator.index(max_new_tokens), operator.index(samples), operator.index(top_k)
        if (
            longest < 1
            or count < 1
            or few < 0
            or not 0 <= temperature <= np.finfo(np.float32).max
            or not 0 < top_p <= 1
        ):
            raise ValueError(
                f"max_new_tokens={max_new_tokens} and samples={samples} must be at least 1, temperature={temperature} "
                f"at least 0 and finite, top_k={top_k} at least 0, top_p={top_p} above 0 and at most 1"
            )
        shape = getattr(key, "shape", None)
        typed = shape is not None and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        if shape not in ((), (len(ids),)) if typed else shape is None or len(shape) != 1:
            raise ValueError(
                f"key is one of jax.random.key, or one for each of {len(ids)} prompts, not of shape {shape}"
            )
        given = self._given(ids, lengths, pictures)
        heat = jnp.float32(min(temperature, 1e30))  # of which float32 has the inverse; all are as likely long before
        share = None if top_p == 1 else jnp.float32(max(top_p, np.finfo(np.float32).tiny))
        return sample.generate(self.graphdef, self.params, *given, key, heat, longest, count, top_k=few, top_p=share)

    def with_lora(
        self, *, rank: int, alpha: float = 32.0, modules: Sequence[str] = lora.MODULES, key: jax.Array | None = None
    ) -> "VLM":
        """The same model with LoRA adapters (arXiv 2106.09685) beside dense layers of its decoder's blocks.

        modules are some of q, k, v, out, gate, up, down. It says the same until the adapters, parameters named `lora_a`
        and `lora_b`, have learned. `save` merges them, `save_adapters` keeps them apart. Raises ValueError for what
        cannot be.
        """
        drawn = jax.random.key(0) if key is None else key
        graphdef, params = lora.add(self.graphdef, self.params, rank, alpha, modules, drawn)
        return replace(self, graphdef=graphdef, params=sharding.spread(params, self.mesh))

    @property
    def adapted(self) -> tuple[int, float, tuple[str, ...]] | None:
        """Rank, alpha and modules of its adapters; None where it has none."""
        return lora.kind_of(self.graphdef, self.params)

    def merged(self) -> "VLM":
        """The same model without adapters: what they do is added to what they stand beside."""
        if not lora.has(self.params):
            return self
        graphdef, params = lora.merge(self.graphdef, self.params)
        return replace(self, graphdef=graphdef, params=params)

    def _given(
        self, ids: jax.Array, lengths: jax.Array, pictures: Pictures | Sequence[jax.Array] | None
    ) -> tuple[jax.Array, jax.Array, Pictures]:
        """Prompts as the model takes them; raises for what would otherwise be read as something else, silently."""
        seen = _pictures(pictures)
        said, counts, vocab = np.asarray(ids), np.asarray(lengths), self.config.vocab
        if said.ndim != 2 or counts.shape != said.shape[:1] or not len(said):
            raise ValueError(f"ids are [B, T] and lengths [B], not {list(said.shape)} and {list(counts.shape)}")
        if not all(np.issubdtype(given.dtype, np.integer) for given in (said, counts)):
            raise ValueError(f"ids and lengths are integers, not {said.dtype} and {counts.dtype}")
        if said.size and not 0 <= said.min() <= said.max() < vocab:
            raise ValueError(f"ids {said.min()} .. {said.max()} do not all lie in [0, {vocab}), the model's vocabulary")
        if counts.size and not 1 <= counts.min() <= counts.max() <= said.shape[1]:
            raise ValueError(f"lengths {counts.min()} .. {counts.max()} do not all lie in [1, {said.shape[1]}]")
        grids = picture_grids(self.config, seen)
        there = said == self.config.image_id
        ends = np.cumsum([rows * columns for rows, columns in grids], dtype=int)  # where each picture ends
        found = np.cumsum((there & (np.arange(said.shape[1]) < counts[:, None])).sum(1))  # where each row does
        wanted = int(ends[-1]) if len(ends) else 0
        if not wanted == found[-1] == there.sum():
            told = f"the ids have {found[-1]}" + (" within their lengths" if found[-1] != there.sum() else "")
            raise ValueError(f"{len(grids)} pictures need {wanted} image tokens, {told}")
        if (cut := ~np.isin(found, [0, *ends])).any():
            raise ValueError(f"row {cut.argmax()} has image tokens of a part of a picture: of each it needs all")
        return sharding.cut_rows((jnp.asarray(ids, jnp.int32), jnp.asarray(lengths, jnp.int32), seen), self.mesh)


def _pictures(pictures: Pictures | Sequence[jax.Array] | None) -> Pictures:
    """One array of pictures of one size, or a tuple of several."""
    if pictures is None or isinstance(pictures, list | tuple):
        batches = tuple(part[None] if getattr(part, "ndim", 0) == 3 else part for part in pictures or ())
    else:
        batches = (pictures,)
    for part in batches:
        if not hasattr(part, "ndim"):
            raise ValueError(f"pictures are uint8 [M, H, W, 3], or a list of arrays, not of {type(part).__name__}")
        if part.ndim != 4 or part.shape[-1] != 3 or part.dtype != np.uint8:
            raise ValueError(f"pictures are uint8 [M, H, W, 3], not {part.dtype}{list(part.shape)}")
    batches = tuple(part for part in batches if len(part)) or batches[:1]
    if len(batches) == 1:
        return batches[0]
    return jnp.concatenate(batches) if len({part.shape[1:] for part in batches}) == 1 else batches


def load(
    source: str | Path,
    *,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
    remat: bool = False,
    tokenizer: PreTrainedTokenizerFast | None = None,
    key: jax.Array | None = None,
) -> VLM:
    """Load a model from a folder, or make a preset with fresh weights.

    The folder is one that `save` wrote, or a Hugging Face folder of Qwen2.5-VL or Qwen3-VL (config.json, safetensors in
    one file or many, the tokenizer with its chat template), or one of adapters alone, as `save_adapters` and PEFT write
    them: then it is the model that they name, with them beside it. dtype: "float32", "bfloat16" or "float16". mesh:
    devices to spread it over (`policy.sharding.make_mesh`), each reads its part only. remat: compute activations again
    in the backward pass. A preset takes its vocabulary from `tokenizer` (without one: bytes) and its weights from `key`
    (without one: seed 0). Raises ValueError, in one line, when the source is neither, the folder is not whole or the
    dtype is none of these.
    """
    kind = _float(dtype)
    if str(source) in PRESETS:
        words = tokenizer or _bytes()
        config = replace(PRESETS[str(source)], vocab=-(-len(words) // 16) * 16, remat=remat)
        graphdef, params = model.create(config, jax.random.key(0) if key is None else key)
        params = jax.tree.map(lambda leaf: leaf.astype(kind), params)
        return VLM(config, graphdef, sharding.spread(params, mesh), words, mesh=mesh)
    if tokenizer is not None or key is not None:
        raise ValueError(f"tokenizer and key are for presets ({', '.join(PRESETS)}): a folder has its own")
    if not str(source) or not os.path.isdir(source):  # noqa: PTH112 - those of Path raise for a name that is too long
        file = os.path.isfile(source)  # noqa: PTH113
        hint = "give the folder that it is in" if file else "nothing is fetched: download it first"
        raise ValueError(
            f"{str(source)[:200]!r} is neither a folder nor one of the presets {', '.join(PRESETS)}; {hint}"
        )
    folder = Path(source)
    apart = adapters.are_in(folder)
    vlm = VLM(*weights.read(adapters.base(folder) if apart else folder, kind, mesh, remat=remat), mesh=mesh)
    if not apart:
        return vlm
    graphdef, params = adapters.read(folder, (vlm.graphdef, vlm.params), vlm.origin.kind)
    return replace(vlm, graphdef=graphdef, params=sharding.spread(params, mesh))


def save(vlm: VLM, folder: str | Path) -> None:
    """Write a model into a folder (made if need be), from which `load` reads it back exactly.

    A model that came from a Hugging Face folder goes into one that `transformers` reads. Adapters are merged: into
    float32 exactly but for its rounding; into bfloat16 what is less than half of its step is lost, and only
    `save_adapters` keeps it. Every file is written aside and then renamed, so a write that fails leaves a model that
    was there as it was. Raises ValueError, and writes nothing, when a parameter is not finite, and OSError, which names
    the folder, when the disk is full. Where several processes share the model, all of them call this, and the first
    writes.
    """
    if not str(folder):
        raise ValueError('folder="": give the name of one; "." is the current one')
    scale = lora.scale_of(vlm.graphdef, vlm.params)
    weights.write(Path(folder), vlm.config, vlm.params, vlm.tokenizer, vlm.origin, scale=scale)


def save_adapters(vlm: VLM, folder: str | Path, base: str | Path) -> None:
    """Write the adapters of a model into a folder (made if need be), from which `load` reads the model back exactly.

    They are in PEFT's format: `PeftModel.from_pretrained(model, folder)`. base: the folder that the model was loaded
    from. Raises ValueError for a model without adapters or with such as are not finite, and OSError, which names the
    folder, when the disk is full. Where several processes share the model, all of them call this, and the first writes.
    """
    scale = lora.scale_of(vlm.graphdef, vlm.params)
    if scale is None:
        raise ValueError("the model has no adapters: see `VLM.with_lora`")
    if not str(folder):
        raise ValueError('folder="": give the name of one; "." is the current one')
    kept = Path(base)
    if not kept.is_dir():
        raise ValueError(f"base={str(base)!r} is no folder: give that which the model was loaded from")
    kept = adapters.base(kept) if adapters.are_in(kept) else kept
    adapters.write(Path(folder), vlm.params, scale, vlm.origin.kind, kept)


def _bytes() -> PreTrainedTokenizerFast:
    return tokenizer.build([], [], merges=0)


def _float(dtype: str) -> jnp.dtype:
    names = ("float32", "bfloat16", "float16")
    for name in names:
        if dtype == name or dtype == jnp.dtype(name):
            return jnp.dtype(name)
    raise ValueError(f"dtype={dtype!r} is not one of {', '.join(names)}")
