"""Models from and to folders: config.json, model.safetensors and the tokenizer's files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from policy.config import PRESETS, VLMConfig
from policy.tokenizer import build
from policy.vlm import VLM, Params, create, outline

_KIND = "jaxgym_vlm"


def load(
    source: str | Path,
    *,
    dtype: str = "float32",
    tokenizer: PreTrainedTokenizerFast | None = None,
    key: jax.Array | None = None,
) -> VLM:
    """Load a model from a folder that `save` wrote, or make a preset with fresh weights.

    A preset takes its vocabulary from `tokenizer` (without one: bytes) and its weights from `key` (without one: seed
    0). Raises ValueError, in one line, when the source is neither or the folder is not whole.
    """
    if str(source) in PRESETS:
        tokenizer = tokenizer or build([], [], merges=0)
        config = replace(PRESETS[str(source)], vocab=-(-len(tokenizer) // 16) * 16)
        graphdef, params = create(config, jax.random.key(0) if key is None else key)
        return VLM(config, graphdef, _cast(params, dtype), tokenizer)
    folder = Path(source)
    if not folder.is_dir():
        raise ValueError(f"{source} is neither a folder nor one of the presets {', '.join(PRESETS)}")
    config = _read_config(folder)
    graphdef, blank = outline(config)
    params = _fill(blank, _read_tensors(folder / "model.safetensors"), folder)
    try:
        words = AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} has no readable tokenizer: {str(error).splitlines()[0]}") from None
    return VLM(config, graphdef, _cast(params, dtype), words)


def save(vlm: VLM, folder: str | Path) -> None:
    """Write a model into a folder (made if need be), from which `load` reads it back exactly."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"format": _KIND, **vlm.config.to_dict()}, indent=2) + "\n")
    save_file({name: np.asarray(leaf) for name, leaf in _named(vlm.params).items()}, folder / "model.safetensors")
    vlm.tokenizer.save_pretrained(folder)


def _cast(params: Params, dtype: str) -> Params:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.dtype(dtype)), params)


def _name(path: Any) -> str:
    return ".".join(
        str(getattr(step, "key", getattr(step, "idx", step))) for step in path if getattr(step, "name", "") != "value"
    )


def _named(params: Params) -> dict[str, Any]:
    """The leaves of a tree of parameters by dotted path."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def _read_config(folder: Path) -> VLMConfig:
    try:
        record = json.loads((folder / "config.json").read_text())
        kind = record.pop("format", None)
        if kind != _KIND:
            raise ValueError(f"{folder} holds a {kind!r} model; this version reads {_KIND!r}")
        return VLMConfig.from_dict(record)
    except FileNotFoundError:
        raise ValueError(f"{folder} has no config.json: it is not a model") from None
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder}/config.json is damaged: {error}") from None


def _read_tensors(file: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(file)
    except FileNotFoundError:
        raise ValueError(f"{file} is missing") from None
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged: {error}") from None


def _fill(blank: Params, tensors: dict[str, np.ndarray], folder: Path) -> Params:
    wanted = {name: leaf.shape for name, leaf in _named(blank).items()}
    missing, unexpected = wanted.keys() - tensors.keys(), tensors.keys() - wanted.keys()
    misshapen = [name for name in wanted.keys() & tensors.keys() if wanted[name] != tensors[name].shape]
    for what, found in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen)):
        if found:
            raise ValueError(f"{folder} has {len(found)} {what} tensors: {', '.join(sorted(found)[:5])}")
    return jax.tree_util.tree_map_with_path(lambda path, leaf: jnp.asarray(tensors[_name(path)]), blank)
