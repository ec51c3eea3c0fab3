"""Folders of models: config.json, model.safetensors and the tokenizer's files."""

import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedTokenizerFast

from policy import tokenizer
from policy.config import VLMConfig
from policy.model import Model, Params, outline

_KIND = "jaxgym_vlm"


def read(folder: Path) -> tuple[VLMConfig, nnx.GraphDef[Model], Params, PreTrainedTokenizerFast]:
    """The model that `write` put into a folder. Raises ValueError, in one line, when the folder is not whole."""
    config = _read_config(folder)
    words = tokenizer.read(folder, config.vocab, config.image_id)
    graphdef, blank = outline(config)
    return config, graphdef, _fill(blank, _read_tensors(folder / "model.safetensors"), folder), words


def write(folder: Path, config: VLMConfig, params: Params, words: PreTrainedTokenizerFast) -> None:
    """Write a model into a folder, every file aside first; see `policy.save`."""
    tensors = {name: np.asarray(leaf) for name, leaf in _named(params).items()}
    _check_finite(tensors, "the model")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as draft:
        aside = Path(draft)
        (aside / "config.json").write_text(json.dumps({"format": _KIND, **config.to_dict()}, indent=2) + "\n")
        save_file(tensors, aside / "model.safetensors")
        words.save_pretrained(aside)
        for file in sorted(aside.iterdir()):
            file.replace(folder / file.name)


def _name(path: Any) -> str:
    return ".".join(
        str(getattr(step, "key", getattr(step, "idx", step))) for step in path if getattr(step, "name", "") != "value"
    )


def _named(params: Params) -> dict[str, Any]:
    """The leaves of a tree of parameters by dotted path."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def _read_config(folder: Path) -> VLMConfig:
    file = folder / "config.json"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} has no config.json: it is not a model") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {error}") from None
    kind = record.pop("format", None) if isinstance(record, dict) else None
    if kind != _KIND:
        raise ValueError(f"{folder} holds a {kind!r} model; this version reads {_KIND!r}")
    try:
        return VLMConfig.from_dict(record)
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from None


def _read_tensors(file: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(file)
    except FileNotFoundError:
        raise ValueError(f"{file} is missing") from None
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}") from None


def _fill(blank: Params, tensors: dict[str, np.ndarray], folder: Path) -> Params:
    wanted = {name: leaf.shape for name, leaf in _named(blank).items()}
    missing, unexpected = wanted.keys() - tensors.keys(), tensors.keys() - wanted.keys()
    misshapen = [name for name in wanted.keys() & tensors.keys() if wanted[name] != tensors[name].shape]
    numbers = [name for name, tensor in tensors.items() if not jnp.issubdtype(tensor.dtype, jnp.floating)]
    for what, found in (
        ("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen), ("no floating-point", numbers),
    ):  # fmt: skip
        if found:
            raise ValueError(f"{folder} has {len(found)} {what} tensors: {_some(found)}")
    _check_finite(tensors, str(folder))
    return jax.tree_util.tree_map_with_path(lambda path, leaf: jnp.asarray(tensors[_name(path)]), blank)


def _check_finite(tensors: dict[str, np.ndarray], what: str) -> None:
    broken = [name for name, tensor in tensors.items() if not np.isfinite(tensor.astype(np.float32)).all()]
    if broken:
        raise ValueError(f"{what} has {len(broken)} tensors that are not finite: {_some(broken)}")


def _some(names: Any) -> str:
    return ", ".join(sorted(names)[:5])
