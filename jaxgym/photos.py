"""Photos to play with: scanned digits that come with scikit-learn, or a local copy of CIFAR-10.

Nothing is downloaded, and nothing that a file says is executed: a batch of CIFAR-10 is a pickle, so it is read by an
unpickler of bytes, lists, numbers and what is said of arrays, and of nothing else.
"""

import functools
import importlib.util
import io
import os
import pickle
import pickletools
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

PER_CLASS = 200  # photos of a class that are kept at most, so that a sheet stays small
_CLASSES, _SIDE = 10, 32  # of CIFAR-10
_META, _BATCHES = "batches.meta", tuple(f"data_batch_{i}" for i in range(1, 6))
_LARGEST = 1 << 26  # bytes of a batch: twice what CIFAR-10's have
_FOLDER = "cifar-10-batches-py"
_MEND = 'give photos="digits", or the path of cifar-10-python.tar.gz or of its unpacked folder cifar-10-batches-py'


class Photos(NamedTuple):
    """Pictures and what they show."""

    names: tuple[str, ...]  # of the classes
    pictures: np.ndarray  # uint8 [N, h, w, 3]
    labels: np.ndarray  # int32 [N], a class each


def load(source: str | os.PathLike[str]) -> Photos:
    """Load "digits", or CIFAR-10 from the path of its official Python archive or of the archive's unpacked folder.

    At most `PER_CLASS` photos of a class are kept. Raises ValueError, one line that says how to mend it, when there is
    no such path or when what lies there is not complete and sound.
    """
    try:
        path = Path(source)
    except TypeError:
        raise ValueError(f"photos={source!r} is no path: {_MEND}") from None
    return digits() if str(source) == "digits" else cifar(path)


@functools.cache
def digits() -> Photos:
    """Handwritten digits that come with scikit-learn: 8x8 scans drawn larger, dark on light; 0 is the last class."""
    table = _digits_table()
    scans = np.pad(table[:, :64].reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))  # paper around the ink
    strip = Image.fromarray(scans.reshape(-1, 10))
    large = np.asarray(strip.resize((40, 4 * strip.height), Image.Resampling.BICUBIC)).reshape(-1, 40, 40)
    grey = np.concatenate([_grey(part) for part in np.array_split(large, 64)])  # in parts that stay in the cache
    labels = (table[:, 64].astype(np.int32) - 1) % _CLASSES
    names = tuple(f"digit {(k + 1) % 10}" for k in range(_CLASSES))
    return _keep(names, np.repeat(grey[..., None], 3, axis=3), labels)


def _grey(scans: np.ndarray) -> np.ndarray:
    """Amounts of ink, 0 to 16, as greys, uint8: steeper than the scan's own, for enlarged edges are to stay crisp."""
    ink = np.clip(scans / 16 * 1.7 - 0.35, 0, 1)
    return (255 - np.round(ink * 255)).astype(np.uint8)


def _digits_table() -> np.ndarray:
    """float32 [N, 65]: 8x8 amounts of ink, 0 to 16, and the digit."""
    package = importlib.util.find_spec("sklearn")
    for folder in (package.submodule_search_locations or ()) if package else ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():  # importing the package for this one file takes a second or more
            return np.loadtxt(file, delimiter=",", dtype=np.float32)
    raise ValueError('photos="digits" needs the data of scikit-learn: install scikit-learn, or give a path to CIFAR-10')


def cifar(path: Path) -> Photos:
    """CIFAR-10 from its archive or folder; see `load`."""
    try:
        there = path.exists()  # raises for a name that no file can have
        found = dict(_folder(path) if path.is_dir() else _archive(path)) if there else {}
    except Exception as error:  # a damaged or hostile archive raises anything: a KeyError for a link to nowhere, say
        why = " ".join(str(error).split())[:100] or "it is cut short"
        raise ValueError(f"photos={str(path)!r} cannot be read ({why}): {_MEND}") from None
    if not there:
        raise ValueError(f"photos={str(path)!r} does not exist: {_MEND}")
    missing = [name for name in (_META, *_BATCHES) if name not in found]
    if missing:
        raise ValueError(f"photos={str(path)!r} is not complete CIFAR-10, it lacks {', '.join(missing)}: {_MEND}")
    names = _class_names(found[_META], path)
    batches = [_batch(found[name], name, path) for name in _BATCHES]
    return _keep(names, *(np.concatenate(parts) for parts in zip(*batches, strict=True)))


def _folder(path: Path) -> Iterator[tuple[str, bytes]]:
    inner = path / _FOLDER
    for name in (_META, *_BATCHES):
        file = (inner if inner.is_dir() else path) / name
        if file.is_file():
            yield name, file.read_bytes()


def _archive(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:  # one pass: going back in a compressed file means reading it again
            folder, _, name = member.name.removeprefix("./").rpartition("/")
            if folder == _FOLDER and name in (_META, *_BATCHES):
                if not member.isfile():  # following a link means going back, or round in circles
                    raise ValueError(f"{name} is not a file in it")
                if member.size > _LARGEST:
                    raise ValueError(f"{name} has {member.size} bytes")
                data = archive.extractfile(member)
                assert data is not None  # of a file it never is
                yield name, data.read()
        assert archive.fileobj is not None
        while archive.fileobj.read(1 << 20):  # up to its checksum
            pass


class _Kind:
    """Whether what a pickle calls a dtype is that of bytes."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.of_bytes = name in ("u1", b"u1")

    def __setstate__(self, state: Any) -> None:
        """The order of bytes in a number, of which here there is one."""


class _Array:
    """What a pickle says of an array, of which NumPy is not asked to make one: it follows pointers that it is given."""

    def __init__(self, data: Any = b"", kind: Any = None, shape: Any = (), order: Any = "C") -> None:
        self.data, self.kind, self.shape, self.order = data, kind, shape, order

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.kind, turned, self.data = state
        self.order = "F" if turned else "C"

    def pixels(self) -> np.ndarray | None:
        """It, if it is one of bytes."""
        if not (isinstance(self.kind, _Kind) and self.kind.of_bytes and isinstance(self.data, bytes | bytearray)):
            return None
        try:
            return np.frombuffer(self.data, np.uint8).reshape(self.shape, order=self.order)
        except (TypeError, ValueError):  # of another shape
            return None


class _Unpickler(pickle.Unpickler):
    """Reads what is said of arrays, strings, lists and numbers; refuses every other thing that a pickle can name."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy", "ndarray"): None,  # only named
            ("numpy", "dtype"): _Kind,
            ("multiarray", "_reconstruct"): lambda *_: _Array(),
            ("numeric", "_frombuffer"): _Array,
            ("_codecs", "encode"): lambda text, codec: text.encode("latin1"),  # how Python 3 writes bytes for Python 2
        }
        place = module
        for package in ("numpy.core.", "numpy._core."):  # which has had two names over the years
            place = place.removeprefix(package)
        if (place, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return known[place, name]


def _unpickle(data: bytes, name: str, path: Path) -> dict[Any, Any]:
    try:
        for step, place, _ in pickletools.genops(data):  # of which none may ask for more room than the file has
            if step.name in ("PUT", "LONG_BINPUT") and place is not None and place > len(data):
                raise pickle.UnpicklingError(f"it keeps more than {len(data)} things")
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle may raise anything
        why = " ".join(str(error).split())[:100]  # a hostile one may say anything
        raise _unsound(path, name, f"it is not a pickle of arrays: {why}") from None
    if not isinstance(content, dict):
        raise _unsound(path, name, "it holds no dictionary")
    return content


def _class_names(data: bytes, path: Path) -> tuple[str, ...]:
    names = _unpickle(data, _META, path).get(b"label_names")
    if not isinstance(names, list) or not all(isinstance(name, bytes) and name.isalpha() for name in names):
        raise _unsound(path, _META, "label_names is not a list of words")
    if len(set(names)) != _CLASSES:
        raise _unsound(path, _META, f"label_names are not {_CLASSES} different words")
    return tuple(name.decode("ascii") for name in names)


def _batch(stored: bytes, name: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The pictures and labels of one batch file."""
    content = _unpickle(stored, name, path)
    data, labels = content.get(b"data"), content.get(b"labels")
    pixels = data.pixels() if isinstance(data, _Array) else None
    if pixels is None or pixels.shape[1:] != (3 * _SIDE**2,):
        raise _unsound(path, name, f"data is not uint8 [N, {3 * _SIDE**2}]")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not len(labels):
        raise _unsound(path, name, f"labels is not a list of {len(pixels)} numbers")
    if not all(isinstance(label, int) and 0 <= label < _CLASSES for label in labels):
        raise _unsound(path, name, f"some label is not a number from 0 to {_CLASSES - 1}")
    return pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1), np.array(labels, np.int32)


def _unsound(path: Path, name: str, why: str) -> ValueError:
    return ValueError(f"photos={str(path)!r} is damaged, {name}: {why}; {_MEND}")


def _keep(names: tuple[str, ...], pictures: np.ndarray, labels: np.ndarray) -> Photos:
    """The first photos of every class, class by class."""
    kept = np.concatenate([np.flatnonzero(labels == k)[:PER_CLASS] for k in range(len(names))])
    return Photos(names, np.ascontiguousarray(pictures[kept]), labels[kept])
