"""VLM: a model to use, with its tokenizer. `load` makes one, `save` keeps it."""

import operator
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from transformers import PreTrainedTokenizerFast

from policy import model, sample, tokenizer, weights
from policy.config import PRESETS, VLMConfig
from policy.model import Model, Params
from policy.sample import Reply


@dataclass(frozen=True, eq=False)
class VLM:
    """A model as a value: its shape, its modules, its parameters and its tokenizer."""

    config: VLMConfig
    graphdef: nnx.GraphDef[Model]
    params: Params
    tokenizer: PreTrainedTokenizerFast

    def logits(self, ids: jax.Array, lengths: jax.Array, pictures: jax.Array) -> jax.Array:
        """Logits after every token.

        ids int32 [B, T] right-padded, with one placeholder (`config.image_id`) per image token; lengths int32 [B];
        pictures uint8 [M, H, W, 3] in reading order -> float32 [B, T, V]. What stands past a row's length is undefined.
        Raises ValueError when the placeholders do not match the pictures, or an id or a length cannot be.
        """
        self._check(ids, lengths, pictures)
        return model.logits(self.graphdef, self.params, ids, lengths, pictures)

    def generate(
        self,
        ids: jax.Array,
        lengths: jax.Array,
        pictures: jax.Array,
        *,
        key: jax.Array,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        samples: int = 1,
    ) -> Reply:
        """Continue prompts (as in `logits`), `samples` replies each: arrays [B * samples, ...].

        A temperature of 0 is greedy. Each row stops by itself; each prompt is read once. Raises ValueError as `logits`
        does, and for a number that cannot be.
        """
        longest, count = operator.index(max_new_tokens), operator.index(samples)
        if longest < 1 or count < 1 or not 0 <= temperature < np.inf:
            raise ValueError(
                f"max_new_tokens={max_new_tokens} and samples={samples} must be at least 1, "
                f"temperature={temperature} at least 0 and finite"
            )
        self._check(ids, lengths, pictures)
        heat = jnp.float32(temperature)
        return sample.generate(self.graphdef, self.params, ids, lengths, pictures, key, heat, longest, count)

    def _check(self, ids: jax.Array, lengths: jax.Array, pictures: jax.Array) -> None:
        """What would otherwise be read as something else, silently."""
        if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.dtype != np.uint8:
            raise ValueError(f"pictures are uint8 [M, H, W, 3], not {pictures.dtype}{list(pictures.shape)}")
        said, counts, vocab = np.asarray(ids), np.asarray(lengths), self.config.vocab
        if said.ndim != 2 or counts.shape != said.shape[:1]:
            raise ValueError(f"ids are [B, T] and lengths [B], not {list(said.shape)} and {list(counts.shape)}")
        if said.size and not 0 <= said.min() <= said.max() < vocab:
            raise ValueError(f"ids {said.min()} .. {said.max()} do not all lie in [0, {vocab}), the model's vocabulary")
        if counts.size and not 1 <= counts.min() <= counts.max() <= said.shape[1]:
            raise ValueError(f"lengths {counts.min()} .. {counts.max()} do not all lie in [1, {said.shape[1]}]")
        rows, columns = self.config.image_tokens(*pictures.shape[1:3])
        wanted, found = pictures.shape[0] * rows * columns, int(np.sum(said == self.config.image_id))
        if wanted != found:
            raise ValueError(f"{pictures.shape[0]} pictures need {wanted} image tokens, the ids have {found}")


def load(
    source: str | Path,
    *,
    dtype: str = "float32",
    tokenizer: PreTrainedTokenizerFast | None = None,
    key: jax.Array | None = None,
) -> VLM:
    """Load a model from a folder that `save` wrote, or make a preset with fresh weights.

    dtype: "float32", "bfloat16" or "float16". A preset takes its vocabulary from `tokenizer` (without one: bytes) and
    its weights from `key` (without one: seed 0). Raises ValueError, in one line, when the source is neither, the folder
    is not whole or the dtype is none of these.
    """
    kind = _float(dtype)
    if str(source) in PRESETS:
        words = tokenizer or _bytes()
        config = replace(PRESETS[str(source)], vocab=-(-len(words) // 16) * 16)
        graphdef, params = model.create(config, jax.random.key(0) if key is None else key)
    else:
        folder = Path(str(source))
        if not folder.is_dir():
            raise ValueError(f"{source} is neither a folder nor one of the presets {', '.join(PRESETS)}")
        config, graphdef, params, words = weights.read(folder)
    return VLM(config, graphdef, jax.tree.map(lambda leaf: jnp.asarray(leaf, kind), params), words)


def save(vlm: VLM, folder: str | Path) -> None:
    """Write a model into a folder (made if need be), from which `load` reads it back exactly.

    Every file is written aside and then renamed, so a write that fails leaves a model that was there as it was. Raises
    ValueError, and writes nothing, when a parameter is not finite.
    """
    weights.write(Path(folder), vlm.config, vlm.params, vlm.tokenizer)


def _bytes() -> PreTrainedTokenizerFast:
    return tokenizer.build([], [], merges=0)


def _float(dtype: str) -> jnp.dtype:
    names = ("float32", "bfloat16", "float16")
    for name in names:
        if dtype == name or dtype == jnp.dtype(name):
            return jnp.dtype(name)
    raise ValueError(f"dtype={dtype!r} is not one of {', '.join(names)}")
