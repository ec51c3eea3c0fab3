"""Files of tensors (safetensors): read where they lie, written in parts, with an index where there are several."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

INDEX = "model.safetensors.index.json"
_STRIP = 128  # columns that are copied at a time
_DTYPES = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16),
    "BF16": jnp.dtype(jnp.bfloat16),
}  # fmt: skip


def check_fetched(folder: Path) -> None:
    """Raise ValueError where a folder was cloned without its large files: short texts stand for them."""
    mark, small = b"version https://git-lfs", 1024
    files = [file for file in folder.iterdir() if file.is_file() and file.stat().st_size < small]
    if bare := [file.name for file in files if file.read_bytes().startswith(mark)]:
        raise ValueError(
            f"{folder} has only pointers to {len(bare)} of its files, run git lfs pull in it: {some(bare)}"
        )


def find(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of a folder by name, whichever files they are in; ValueError when one is missing or damaged."""
    whole = folder / "model.safetensors"
    if whole.exists():
        files = [whole]
    elif (folder / INDEX).exists():
        listed = read_json(folder / INDEX).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(v, str) and Path(v).name == v for v in listed.values()):
            raise ValueError(f"{folder / INDEX} is damaged: it has no weight_map of file names")
        files = [folder / name for name in sorted(set(listed.values()))]
        if lost := [file.name for file in files if not file.exists()]:
            raise ValueError(f"{folder} lacks {len(lost)} of {len(files)} files of tensors: {some(lost)}")
    elif list(folder.glob("*.bin")):
        raise ValueError(f"{folder} holds PyTorch's .bin files: save the model as safetensors first")
    else:
        raise ValueError(f"{whole} is missing")
    return {name: tensor for file in files for name, tensor in read_file(file).items()}


def read_file(file: Path) -> dict[str, np.ndarray]:
    """The tensors of one file; ValueError when it is not there or damaged."""
    try:
        return _mapped(file)
    except FileNotFoundError:
        raise ValueError(f"{file} is missing") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {error}") from None


def _mapped(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a file, read where they lie: no more of them is in memory than is looked at.

    What is no floating-point number is shown as booleans.
    """
    with safe_open(file, "np"):  # checks that the file is whole
        pass
    data = np.memmap(file, np.uint8, "r")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8:start].tobytes())
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        dtype = _DTYPES.get(entry["dtype"])
        raw = (
            np.broadcast_to(np.False_, entry["shape"])
            if dtype is None
            else data[start + first : start + last].view(dtype)
        )
        tensors[name] = raw.reshape(entry["shape"])
    return tensors


def laid(tensor: np.ndarray, dtype: jnp.dtype | None = None) -> np.ndarray:
    """A copy that lies row by row; of a matrix that lies column by column in a quarter of NumPy's time.

    It goes in strips, in which what is read and what is written both stay in the processor's cache.
    """
    copy = np.empty(tensor.shape, dtype or tensor.dtype)
    with np.errstate(over="ignore"):  # what is too large for the dtype becomes infinite
        for strip in range(0, tensor.shape[1], _STRIP) if tensor.ndim == 2 else ():
            columns = slice(strip, strip + _STRIP)
            copy[:, columns] = tensor[:, columns]
        if tensor.ndim != 2:
            copy[...] = tensor
    return copy


def write(folder: Path, tensors: Iterator[tuple[str, np.ndarray]], limit: int) -> None:
    """Write tensors into files of at most so many bytes (or one tensor each), with an index where there are several."""
    files: list[list[str]] = []
    total, size, pending = 0, 0, dict[str, np.ndarray]()

    def flush() -> None:
        save_file(pending, folder / f"part-{len(files)}", metadata={"format": "pt"})
        files.append(list(pending))
        pending.clear()

    for name, tensor in tensors:
        if pending and size + tensor.nbytes > limit:
            flush()
            size = 0
        pending[name] = tensor
        total, size = total + tensor.nbytes, size + tensor.nbytes
    flush()
    count = len(files)
    called = [
        f"model-{i + 1:05d}-of-{count:05d}.safetensors" if count > 1 else "model.safetensors" for i in range(count)
    ]
    for i, name in enumerate(called):
        (folder / f"part-{i}").rename(folder / name)
    if count > 1:
        where = {name: called[i] for i, names in enumerate(files) for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def read_json(file: Path, needed: str = "") -> dict[str, Any]:
    """A JSON file's record; {} where there is none, unless it is needed (for that reason)."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if needed:
            raise ValueError(f"{file.parent} has no {file.name}: {needed}") from None
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{file} is damaged: it is no JSON object")
    return record


def some(names: Iterable[str]) -> str:
    """The first few of many names."""
    return ", ".join(sorted(names)[:5])
