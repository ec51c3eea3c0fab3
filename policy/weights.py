"""Folders of models: config.json, safetensors and the tokenizer's files.

Two kinds are read and written: our own, whose tensors are named as the parameters are, and Hugging Face's Qwen2.5-VL
and Qwen3-VL. Tensors are read one by one, each device only its part of them.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from transformers import PreTrainedTokenizerFast

from policy import lora, qwen, tensors, tokenizer
from policy.config import VLMConfig
from policy.model import Model, Params, outline
from policy.sharding import path_of, place, to_host
from policy.tensors import read_json, some

OWN = "jaxgym_vlm"
_SHARD = 5 << 30  # bytes in one file
_KEPT = ("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
         "video_preprocessor_config.json")  # fmt: skip
_WORDS = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json",
          "added_tokens.json", "chat_template.json", "chat_template.jinja")  # fmt: skip
_TEMPLATES = "additional_chat_templates/*.jinja"
_Leaves = Iterator[tuple[str, jax.Array]]  # by dotted path


@dataclass(frozen=True)
class Origin:
    """The folder that a model came from: what kind it is, and what of it is written back as it was."""

    kind: str = OWN
    files: Mapping[str, bytes] = field(default_factory=dict)
    words: Mapping[str, bytes] = field(default_factory=dict)  # the tokenizer's files, which other versions wrote
    digest: str = ""  # of what that tokenizer says


def read(
    folder: Path, dtype: jnp.dtype, mesh: jax.sharding.Mesh | None, *, remat: bool
) -> tuple[VLMConfig, nnx.GraphDef[Model], Params, PreTrainedTokenizerFast, Origin]:
    """The model in a folder. Raises ValueError, in one line, when the folder is not whole."""
    record = read_json(folder / "config.json", needed="it is not a model" + _within(folder))
    kind = record.get("format", record.get("model_type"))
    tensors.check_fetched(folder)
    if kind == OWN:
        config, words, origin = *_read_own(folder, record), Origin()
    elif kind in qwen.KINDS:
        config, words, origin = _read_qwen(folder, record)
    else:
        what = f"a {kind!r} model" if kind else "no model"
        mend = _within(folder) or f"; this version reads {', '.join((OWN, *qwen.KINDS))}"
        raise ValueError(f"{folder} holds {what}{mend}")
    config, stored = replace(config, remat=remat), tensors.find(folder)
    if origin.kind != OWN and config.decoder.tied and _has_a_head_of_its_own(stored):
        config = replace(config, decoder=replace(config.decoder, tied=False))
    graphdef, blank = outline(config)
    try:
        params = _fill(blank, folder, stored, origin.kind, config, dtype, mesh)
    except ValueError as error:
        if not (packed := record.get("quantization_config")):
            raise
        way = packed.get("quant_method") if isinstance(packed, dict) else None
        how = f"quantized, {way}" if way else "quantized"
        raise ValueError(f"{error} (by config.json it is {how}: give the folder of its bfloat16 weights)") from None
    return config, graphdef, params, words, origin


def _within(folder: Path) -> str:
    """Where in a folder that holds none a model is: in a cache's snapshot, or in a run's folder."""
    inner = sorted((*folder.glob("snapshots/*/config.json"), *folder.glob("*/config.json")))
    inner = inner or sorted(folder.glob("*/adapter_config.json"))
    return f"; give {inner[0].parent}" if inner else ""


def write(
    folder: Path,
    config: VLMConfig,
    params: Params,
    words: PreTrainedTokenizerFast,
    origin: Origin,
    *,
    scale: float | None = None,
    limit: int = _SHARD,
) -> None:
    """Write a model into a folder, every file aside first; see `policy.save`. scale: of its adapters, if it has any."""
    check_finite(lora.plain(params, scale))
    laid_out = _laid_out(lora.plain(params, scale), origin.kind, config)
    if jax.process_index():  # it only gives its parts of the tensors to the first process, which writes
        for _ in laid_out:
            pass
        return
    folder.mkdir(parents=True, exist_ok=True)
    for killed in folder.glob(".part-*"):  # what was begun and not finished
        shutil.rmtree(killed, ignore_errors=True)
    with told_as_os_error(folder), tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as draft:
        aside = Path(draft)
        tensors.write(aside, laid_out, limit)
        as_it_was = origin.words if origin.kind != OWN and origin.digest == _digest(words) else {}
        if not as_it_was:
            words.save_pretrained(aside)
        for name, content in (*origin.files.items(), *as_it_was.items()):
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_bytes(content)
        dtype = next(leaf for path, leaf in named(params).items() if "lora_" not in path).dtype.name
        if origin.kind == OWN:
            record = {"format": OWN, **config.to_dict()}
        else:
            record = _with(json.loads(origin.files["config.json"]), dtype, tied=config.decoder.tied)
        (aside / "config.json").write_text(json.dumps(record, indent=2) + "\n")
        for file in aside.glob("*.safetensors"):  # which safetensors writes for its owner alone
            file.chmod((aside / "config.json").stat().st_mode)
        new = sorted(file.relative_to(aside) for file in aside.rglob("*") if file.is_file())
        old = [folder / name for name in (tensors.INDEX, *_KEPT, *_WORDS)]
        old += [*folder.glob("model*.safetensors"), *folder.glob(_TEMPLATES)]
        for path in new:
            (folder / path).parent.mkdir(exist_ok=True)
            (aside / path).replace(folder / path)
        for file in {*old} - {folder / path for path in new}:  # of other parts, another tokenizer or processor
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def told_as_os_error(folder: Path) -> Iterator[None]:
    """Have every error of the disk be an OSError that names the folder: safetensors and tokenizers have their own."""
    try:
        yield
    except Exception as error:  # tokenizers raises `Exception` itself, safetensors a class of its own
        found = re.search(r"\(os error (\d+)\)", str(error))
        number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(folder)) from None


def named(params: Params) -> dict[str, Any]:
    """The leaves of a tree of parameters by dotted path."""
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def _read_own(folder: Path, record: dict[str, Any]) -> tuple[VLMConfig, PreTrainedTokenizerFast]:
    try:
        config = VLMConfig.from_dict({k: v for k, v in record.items() if k != "format"})
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'} is damaged: {error}") from None
    return config, tokenizer.read(folder, config.vocab, config.image_id)


def _read_qwen(folder: Path, record: dict[str, Any]) -> tuple[VLMConfig, PreTrainedTokenizerFast, Origin]:
    generation = read_json(folder / "generation_config.json")
    processor = read_json(folder / "processor_config.json").get("image_processor")  # first, as `transformers` has it
    processor = processor or read_json(folder / "preprocessor_config.json")
    try:
        config = qwen.read(record, generation, processor)
    except ValueError as error:
        raise ValueError(f"{folder} cannot be read: {error}") from None
    words = tokenizer.read_chat(folder, config.vocab, config.image_id)
    config = replace(config, pad_id=words.pad_token_id)
    templates = (str(file.relative_to(folder)) for file in folder.glob(_TEMPLATES))
    files, said = ({name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
                   for names in (_KEPT, (*_WORDS, *templates)))  # fmt: skip
    return config, words, Origin(record["model_type"], files, said, _digest(words))


def _digest(words: PreTrainedTokenizerFast) -> str:
    """Of all that matters of a tokenizer."""
    beside = words.chat_template, words.special_tokens_map, words.padding_side, words.model_max_length
    return hashlib.sha256((words.backend_tokenizer.to_str() + repr(beside)).encode()).hexdigest()


def _has_a_head_of_its_own(stored: dict[str, np.ndarray]) -> bool:
    """Whether a head is stored that is not the embedding; `transformers` then takes it, whatever config.json says."""
    named = {qwen.canonical(name): tensor for name, tensor in stored.items()}
    head, table = (named.get(qwen.name_of(path, "")) for path in ("head.kernel", "embedding.embedding"))
    return head is not None and table is not None and not np.array_equal(head, table)


def _fill(
    blank: Params,
    folder: Path,
    stored: dict[str, np.ndarray],
    kind: str,
    config: VLMConfig,
    dtype: jnp.dtype,
    mesh: jax.sharding.Mesh | None,
) -> Params:
    found: dict[str, np.ndarray] = {}
    originals: dict[str, str] = {}
    for name, tensor in stored.items():
        found[qwen.canonical(name)], originals[qwen.canonical(name)] = tensor, name
    head, table = (qwen.name_of(path, kind) for path in ("head.kernel", "embedding.embedding"))
    if kind != OWN and config.decoder.tied and table not in found and head in found:
        found[table] = found.pop(head)  # the name that some writers keep of two for one tensor
    wanted = {path: _source(path, leaf.shape, kind, config) for path, leaf in named(blank).items()}
    names = {source.name for source in wanted.values()}
    missing = names - found.keys()
    unexpected = {originals[name] for name in found.keys() - names if kind == OWN or not qwen.may_stand_by(name)}
    there = [source for source in wanted.values() if source.name in found]
    misshapen = [
        f"{source.name} {list(found[source.name].shape)} instead of {list(source.shape)}"
        for source in there
        if found[source.name].shape != source.shape
    ]
    numbers = [source.name for source in there if found[source.name].dtype == np.bool_]
    beside = f"; and {len(unexpected)} unexpected: {some(unexpected)}" if unexpected else ""
    for what, wrong, mend in (
        ("missing", missing, beside),
        ("unexpected", unexpected, " (take them out if the model does without them)"),
        ("misshapen", misshapen, ""),
        ("integer or 8-bit", numbers, ""),
    ):
        if wrong:
            raise ValueError(f"{folder} has {len(wrong)} {what} tensors: {some(wrong)}{mend}")

    broken, large = set[str](), set[str]()

    def make(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        source = wanted[path_of(path)]
        part = found[source.name]

        def cut(index: Any) -> np.ndarray:
            piece = tensors.laid(source.cut(part, index), dtype)  # a copy: the file may change one day
            with np.errstate(invalid="ignore"):
                total = piece.sum(dtype=np.float64)  # to which no finite numbers add up that are no float64
            if not np.isfinite(total):
                (broken if not np.isfinite(part).all() else large).add(source.name)
            return piece

        home = place(path_of(path), leaf.shape, mesh)
        if home is None:  # not pinned: a program would be compiled once for it and once for what comes out
            made = jax.device_put(cut((slice(None),) * len(leaf.shape)))
        else:
            made = jax.make_array_from_callback(leaf.shape, home, cut)
        return made.block_until_ready()  # the host lets go of a tensor before it reads the next

    params = jax.tree_util.tree_map_with_path(make, blank)
    if broken:
        raise ValueError(f"{folder} has {len(broken)} tensors that are not finite: {some(broken)}")
    if large:
        raise ValueError(f"{folder} has {len(large)} tensors too large for {dtype}, take bfloat16: {some(large)}")
    return params


@dataclass(frozen=True)
class _Source:
    """Where a parameter comes from: a tensor's name, its shape there, and how it lies."""

    name: str
    shape: tuple[int, ...]
    form: str

    def cut(self, tensor: np.ndarray, index: tuple[slice, ...]) -> np.ndarray:
        """The part of the parameter at an index, from the tensor in the file."""
        if self.form == "turned":
            return tensor[index[::-1]].T
        if self.form == "patches":
            whole = tensor[index[1]]
            return whole.reshape(len(whole), -1).T[index[0]]
        if self.form == "places":
            side = round(self.shape[0] ** 0.5)
            return tensor[:].reshape(side, side, -1)[index]
        return tensor[index]

    def lay(self, value: np.ndarray) -> np.ndarray:
        """The tensor as it lies in the file, from the whole parameter."""
        value = tensors.laid(value.T) if self.form in ("turned", "patches") else np.ascontiguousarray(value)
        return value.reshape(self.shape)


def _source(path: str, shape: tuple[int, ...], kind: str, config: VLMConfig) -> _Source:
    if kind == OWN:
        return _Source(path, shape, "same")
    form, vision = qwen.form_of(path), config.vision
    there = shape
    if form == "turned":
        there = shape[::-1]
    elif form == "places":
        there = (shape[0] * shape[1], shape[2])
    elif form == "patches":
        there = (shape[1], 3, vision.temporal, vision.patch, vision.patch)
    return _Source(qwen.name_of(path, kind), there, form)


def _laid_out(params: _Leaves, kind: str, config: VLMConfig) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of a folder, one by one, from parameters."""
    for path, leaf in params:
        source = _source(path, leaf.shape, kind, config)
        yield qwen.published(source.name, kind) if kind != OWN else path, source.lay(to_host(leaf))


def _with(record: dict[str, Any], dtype: str, *, tied: bool) -> dict[str, Any]:
    """A Hugging Face configuration that says in which dtype its tensors are, and whether the head is the embedding.

    Nothing is written as integers, whatever was done with the folder it comes from.
    """
    record = {k: v for k, v in record.items() if k != "quantization_config"}
    parts = {k: _with(v, dtype, tied=tied) for k, v in record.items() if k in ("text_config", "vision_config")}
    says: dict[str, Any] = {k: dtype for k in ("dtype", "torch_dtype") if k in record}
    says |= {"tie_word_embeddings": tied} if record.get("tie_word_embeddings", tied) != tied else {}
    return record | parts | says


@jax.jit
def _finite(leaf: jax.Array) -> jax.Array:
    return jnp.isfinite(leaf).all()


def check_finite(params: _Leaves) -> None:
    """Each device looks at what it has: only what it found is sent between them."""
    found = {name: _finite(leaf) for name, leaf in params}
    if broken := [name for name, sound in jax.device_get(found).items() if not sound]:
        raise ValueError(f"the model has {len(broken)} tensors that are not finite: {some(broken)}")
