"""Adapters alone in a folder, beside the model that they were learned with, as PEFT keeps them.

`adapter_config.json` names the folder of that model; `adapter_model.safetensors` has two thin matrices of each adapted
layer, float32 whatever the model is. Layers of a Hugging Face folder are named as `transformers` names them.
"""

import json
import math
import re
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from policy import lora, qwen, tensors
from policy.lora import Split
from policy.model import Params
from policy.sharding import path_of, to_host
from policy.weights import OWN, check_finite, named, told_as_os_error

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_ROOM = "base_model.model."  # PEFT's module, in which the model is
_PARTS = {"lora_a": "lora_A", "lora_b": "lora_B"}
_HARMLESS = {  # fields that say nothing of what adapters do beside a model as it is in its folder
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode", "layers_pattern", "lora_alpha",
    "lora_dropout", "megatron_core", "peft_version", "r", "revision", "runtime_config", "target_modules", "task_type",
    "use_rslora", "ensure_weight_tying", "qalora_group_size", "lora_dtype", "lorap_lr_ratio", "lorap_emb_lr",
}  # fmt: skip
_PLAIN = {"peft_type": ("LORA",), "bias": ("none",), "init_lora_weights": (True, "gaussian", "orthogonal")}
_CLASSES = {"qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration", "qwen3_vl": "Qwen3VLForConditionalGeneration"}


def are_in(folder: Path) -> bool:
    """Whether a folder has adapters and no model."""
    return (folder / CONFIG).is_file() and not any(folder.glob("model*.safetensors"))


def base(folder: Path) -> Path:
    """The folder of the model that adapters stand beside; raises ValueError where it is not there."""
    given = tensors.read_json(folder / CONFIG).get("base_model_name_or_path")
    if not isinstance(given, str) or not given or not Path(given).is_dir() or are_in(Path(given)):
        raise ValueError(
            f"{folder} has adapters of {given!r}, which is no folder of a model here: have base_model_name_or_path "
            f"in its {CONFIG} name one"
        )
    return Path(given)


def write(folder: Path, params: Params, scale: float, kind: str, base: Path) -> None:
    """Write the adapters of a model into a folder; scale: `lora.scale_of`, kind: of the model's own folder."""
    found, names, rank = {}, set[str](), 0
    adapters = {path: leaf for path, leaf in named(params).items() if path.endswith((*_PARTS,))}
    check_finite(iter(adapters.items()))
    for path, leaf in adapters.items():
        owner, _, part = path.rpartition(".")
        names.add(_layer(owner, kind))
        found[f"{_ROOM}{_layer(owner, kind)}.{_PARTS[part]}.weight"] = tensors.laid(to_host(leaf).T)
        rank = leaf.shape[1] if part == "lora_a" else rank
    if jax.process_index():
        return
    alike = sorted({re.sub(r"\d+", lambda _: r"\d+", re.escape(name)) for name in names})
    record: dict[str, Any] = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(base.resolve()),
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": "|".join(alike),  # none of the tower, some of which have the same last name
        "inference_mode": True,
        "task_type": None,
    }
    if kind in _CLASSES:  # what PEFT's AutoPeftModel makes
        library = f"transformers.models.{kind}.modeling_{kind}"
        record["auto_mapping"] = {"base_model_class": _CLASSES[kind], "parent_library": library}
    folder.mkdir(parents=True, exist_ok=True)
    with told_as_os_error(folder), tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as draft:
        save_file(found, Path(draft) / TENSORS, metadata={"format": "pt"})
        (Path(draft) / CONFIG).write_text(json.dumps(record, indent=2) + "\n")
        (Path(draft) / TENSORS).chmod((Path(draft) / CONFIG).stat().st_mode)
        for name in (TENSORS, CONFIG):
            (Path(draft) / name).replace(folder / name)


def read(folder: Path, plain: Split, kind: str) -> Split:
    """A model with a folder's adapters beside its layers; raises ValueError, in one line, where they do not fit."""
    record = tensors.read_json(folder / CONFIG)
    rank, alpha = record.get("r"), record.get("lora_alpha")
    others = [f"{k} {v!r}" for k, v in record.items() if v and k not in _HARMLESS and v not in _PLAIN.get(k, ())]
    if others:
        raise ValueError(f"{folder} has adapters with {', '.join(others)}: this version reads plain LoRA")
    if type(rank) is not int or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ValueError(f"{folder / CONFIG} is damaged: r is {rank!r}, lora_alpha {alpha!r}")
    tensors.check_fetched(folder)
    if not (folder / TENSORS).exists() and any(folder.glob("*.bin")):
        raise ValueError(f"{folder} holds PyTorch's .bin files: save the adapters as safetensors first")
    there = tensors.read_file(folder / TENSORS)
    stored = {_told(name): (name, tensor) for name, tensor in there.items()}
    if len(stored) < len(there):
        raise ValueError(f"{folder / TENSORS} has several adapters for a layer: {tensors.some(there)}")
    slots = [
        path.removesuffix(".kernel") for path in named(plain[1]) if re.match(r"decoder\.blocks\..*\.kernel$", path)
    ]
    modules = {slot.rpartition(".")[2] for slot in slots if f"{_layer(slot, kind)}.lora_A" in stored}
    if not modules:
        raise ValueError(f"{folder} has none of a decoder like that of its model: {tensors.some(stored)}")
    alpha = alpha * rank**0.5 if record.get("use_rslora") else alpha
    try:
        graphdef, params = lora.add(*plain, rank, alpha, sorted(modules), jax.random.key(0))
    except ValueError as error:
        raise ValueError(f"{folder} cannot be read: {error}") from None
    wanted = {
        f"{_layer(path.rpartition('.')[0], kind)}.{_PARTS[path.rpartition('.')[2]]}": leaf.shape[::-1]
        for path, leaf in named(params).items()
        if path.endswith((*_PARTS,))
    }
    wrong = {
        "missing": wanted.keys() - stored.keys(),
        "unexpected": {name for key, (name, _) in stored.items() if key not in wanted},
        "misshapen": {name for name in wanted.keys() & stored.keys() if stored[name][1].shape != wanted[name]},
        "integer or 8-bit": {name for name, (_, tensor) in stored.items() if tensor.dtype == np.bool_},
        "not finite": {
            name for name, (_, tensor) in stored.items() if not np.isfinite(tensor.astype(np.float32)).all()
        },
    }
    for what, those in wrong.items():
        if those:
            raise ValueError(f"{folder} has {len(those)} tensors that are {what}: {tensors.some(those)}")

    def fill(path: Any, leaf: jax.Array) -> jax.Array:
        owner, _, part = path_of(path).rpartition(".")
        if part not in _PARTS:
            return leaf
        return jax.numpy.asarray(tensors.laid(stored[f"{_layer(owner, kind)}.{_PARTS[part]}"][1].T, leaf.dtype))

    return graphdef, jax.tree_util.tree_map_with_path(fill, params)


def _layer(owner: str, kind: str) -> str:
    """A layer's name beside its model: that of its tensor, without what is said of the tensor."""
    return owner if kind == OWN else qwen.name_of(f"{owner}.kernel", kind).removesuffix(".weight")


def _told(name: str) -> str:
    """A tensor's name as this version calls it: others name layers as older versions of `transformers` did, or adapters
    by a name of their own.
    """
    found = re.fullmatch(r"(?:base_model\.model\.)?(.*)\.(lora_[AB])(?:\.\w+)?\.weight", name)
    return f"{qwen.canonical(found[1])}.{found[2]}" if found else name
