"""The shape of a vision-language model, and named presets of it.

One decoder and one vision tower, built of the parts that Qwen-VL models are built of: Qwen2.5-VL, Qwen3-VL and the
presets, which are small, are settings of the same classes.
"""

import sys
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin

import numpy as np

_MAY_BE_ZERO = ("vocab", "image_id", "stop_id", "pad_id", "grid", "span", "window", "least")


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The vision tower: patches -> features. Sizes in patches or features unless said otherwise."""

    width: int
    layers: int
    heads: int
    hidden: int  # of the SwiGLU
    patch: int  # pixels
    temporal: int = 2  # how often a still picture is repeated on the time axis
    merge: int = 2  # merge x merge patches become one image token
    grid: int = 0  # side of the table of learned absolute positions; 0: none
    stretch: bool = False  # the table is stretched over a picture of any size; else places beyond it are refused
    window: int = 0  # side, in image tokens, of the windows that blocks see; 0: they see the whole picture
    full: tuple[int, ...] = ()  # the blocks that see the whole picture all the same
    deepstack: tuple[int, ...] = ()  # the blocks that are also added in the decoder, each to one of its first blocks
    norm: Literal["rms", "layer"] = "rms"
    mlp: Literal["swiglu", "gelu"] = "swiglu"
    embed_bias: bool = False
    rope_theta: float = 10_000.0
    looks: bool = False  # heads begin by looking at one neighbour each; for towers trained from scratch
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    least: int = 0  # pixels to which its own image processor enlarges smaller pictures; here they are taken as they are
    eps: float = 1e-6

    def __post_init__(self) -> None:
        _check(self)
        if self.width % (4 * self.heads):  # pairs of numbers turn, half of them with the row and half with the column
            raise ValueError(f"vision width={self.width} is no multiple of 4 x heads={self.heads}")
        for name in ("full", "deepstack"):
            if not all(0 <= block < self.layers for block in getattr(self, name)):
                raise ValueError(f"vision {name}={getattr(self, name)} does not name some of {self.layers} blocks")
        if min(self.std) <= 0:
            raise ValueError(f"vision std={self.std}: deviations must be more than 0")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def patch_values(self) -> int:
        """Numbers in one flattened patch."""
        return 3 * self.temporal * self.patch**2

    def patches(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of a picture of so many pixels; raises ValueError when it does not fit."""
        side = self.patch * self.merge
        if not height or not width or height % side or width % side:
            raise ValueError(f"a picture of {height}x{width} pixels is not made of {side}x{side} blocks")
        rows, columns = height // self.patch, width // self.patch
        if self.grid and not self.stretch and max(rows, columns) > self.grid:
            raise ValueError(
                f"a picture of {height}x{width} pixels has {rows}x{columns} patches, but this model knows places of "
                f"{self.grid}x{self.grid}: give a picture of at most {self.grid * self.patch} pixels a side"
            )
        return rows, columns


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The decoder: token and image embeddings -> logits."""

    width: int
    layers: int
    heads: int
    kv_heads: int  # grouped-query attention: heads / kv_heads queries share one key and value
    head_dim: int
    hidden: int  # of the SwiGLU
    rope_theta: float = 1_000_000.0
    mrope: bool = True  # image tokens stand at rows and columns; else they count up one by one, like words
    span: int = 0  # without M-RoPE: places that a picture takes up at least, so that replies begin at the same place
    sections: tuple[int, int, int] = (16, 24, 24)  # M-RoPE: frequencies that turn with time, row, column
    interleaved: bool = False  # these take turns, frequency by frequency; else each has a stretch of its own
    qkv_bias: bool = False
    qk_norm: bool = False
    copies: bool = False  # heads begin by copying what is alike; for decoders trained from scratch
    tied: bool = True  # logits come from the embedding table
    eps: float = 1e-6

    def __post_init__(self) -> None:
        _check(self)
        if self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} is no multiple of kv_heads={self.kv_heads}")
        if 2 * sum(self.sections) != self.head_dim:
            raise ValueError(f"sections {self.sections} do not add up to half of head_dim={self.head_dim}")

    @property
    def axes(self) -> np.ndarray:
        """What each frequency turns with: 0 time, 1 row, 2 column; int [head_dim / 2]."""
        if not self.interleaved:
            return np.repeat(np.arange(3), self.sections)
        axes = np.zeros(self.head_dim // 2, int)
        for axis in (1, 2):
            axes[axis : 3 * self.sections[axis] : 3] = axis
        return axes


@dataclass(frozen=True, kw_only=True)
class VLMConfig:
    """A whole model."""

    vision: VisionConfig
    decoder: DecoderConfig
    vocab: int
    image_id: int  # placeholder id of one image token; never sampled
    stop_id: int  # ends a reply
    pad_id: int
    stops: tuple[int, ...] = ()  # further ids that end a reply
    unsaid: tuple[int, ...] = ()  # further ids that are never sampled: other placeholders
    remat: bool = False  # blocks are computed again in the backward pass: a third more work, far less memory

    def __post_init__(self) -> None:
        _check(self)
        named = {"image_id": (self.image_id,), "stop_id": (self.stop_id,), "pad_id": (self.pad_id,)}
        for name, ids in (named | {"stops": self.stops, "unsaid": self.unsaid}).items():
            if self.vocab and not all(0 <= each < self.vocab for each in ids):  # a preset's vocabulary comes later
                raise ValueError(f"{name}={getattr(self, name)} is not in the vocabulary of {self.vocab} tokens")
        if len(self.vision.deepstack) > self.decoder.layers:
            raise ValueError(
                f"deepstack={self.vision.deepstack} asks for more than {self.decoder.layers} decoder layers"
            )

    def image_tokens(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of image tokens of a picture of so many pixels; raises ValueError when it does not fit."""
        rows, columns = self.vision.patches(height, width)
        return rows // self.vision.merge, columns // self.vision.merge

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(record: dict[str, Any]) -> "VLMConfig":
        """Inverse of `to_dict`, after JSON too; raises ValueError for a field that is missing, unknown or cannot be."""
        parts = {"vision": VisionConfig, "decoder": DecoderConfig}
        return _build(VLMConfig, {k: _build(parts[k], v) if k in parts else v for k, v in record.items()})


def _build(kind: Any, record: Any) -> Any:
    """A record of a kind from what JSON keeps of it."""
    if not isinstance(record, dict):
        raise ValueError(f"{record!r} is no {kind.__name__}")
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in record.items()})
    except TypeError as error:
        raise ValueError(str(error).replace(f"{kind.__name__}.__init__()", kind.__name__)) from None


def plain(value: Any) -> Any:
    """A number of NumPy's as one of Python's; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's type: a finite number, a bool, a string, a choice, a tuple of these, a class."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        kinds = kinds[:1] * len(value) if kinds[-1] is ... and isinstance(value, tuple) else kinds
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(fits, value, kinds))
    if kind in (int, float):
        return isinstance(value, kind | int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, kind)


def _check(part: Any) -> None:
    """Raise ValueError for a value of another type than its field, or for a size that is none."""
    for field in fields(part):
        value = plain(getattr(part, field.name))
        object.__setattr__(part, field.name, value)
        least = 0 if field.name in _MAY_BE_ZERO else 1
        if not fits(value, field.type) or (field.type is int and value < least):
            raise ValueError(f"{type(part).__name__} {field.name}={value!r} cannot be")


_TINY = VLMConfig(
    vision=VisionConfig(
        width=32, layers=2, heads=2, hidden=64, patch=16, temporal=1, merge=1, grid=16, rope_theta=10.0, looks=True
    ),
    decoder=DecoderConfig(
        width=32, layers=2, heads=2, kv_heads=1, head_dim=16, hidden=64,
        rope_theta=100_000.0, mrope=False, span=128, sections=(8, 0, 0), copies=True,
    ),
    vocab=0, image_id=2, stop_id=1, pad_id=0,
)  # fmt: skip

_SMALL = replace(
    _TINY,
    vision=replace(_TINY.vision, width=64, layers=4, heads=4, hidden=160),
    decoder=replace(
        _TINY.decoder, width=64, layers=3, heads=4, kv_heads=2, head_dim=32, hidden=160, sections=(16, 0, 0)
    ),
)

_MEDIUM = replace(
    _TINY,
    vision=replace(_TINY.vision, width=192, layers=6, heads=6, hidden=512),
    decoder=replace(
        _TINY.decoder, width=192, layers=6, heads=6, kv_heads=2, head_dim=32, hidden=512, sections=(16, 0, 0)
    ),
)

PRESETS: dict[str, VLMConfig] = {"tiny": _TINY, "small": _SMALL, "medium": _MEDIUM}
