"""The shape of a vision-language model, and named presets of it.

One decoder and one vision tower, built of the parts that Qwen-VL models are built of; the presets are small settings of
the same classes.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any


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
    rope_theta: float = 10_000.0
    looks: bool = False  # heads begin by looking at one neighbour each; for towers trained from scratch
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def patch_values(self) -> int:
        """Numbers in one flattened patch."""
        return 3 * self.temporal * self.patch**2


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
    sections: tuple[int, int, int] = (16, 24, 24)  # M-RoPE: frequencies that turn with time, row, column
    qkv_bias: bool = False
    qk_norm: bool = False
    copies: bool = False  # heads begin by copying what is alike; for decoders trained from scratch
    tied: bool = True  # logits come from the embedding table
    eps: float = 1e-6


@dataclass(frozen=True, kw_only=True)
class VLMConfig:
    """A whole model."""

    vision: VisionConfig
    decoder: DecoderConfig
    vocab: int
    image_id: int  # placeholder id of one image token; never sampled
    stop_id: int  # ends a reply
    pad_id: int

    def image_tokens(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of image tokens of a picture of so many pixels; raises ValueError when it does not fit."""
        side = self.vision.patch * self.vision.merge
        if height % side or width % side:
            raise ValueError(f"a picture of {height}x{width} pixels is not made of {side}x{side} blocks")
        return height // side, width // side

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(record: dict[str, Any]) -> "VLMConfig":
        """Inverse of `to_dict`, also after JSON; raises KeyError or TypeError when fields are missing or unknown."""
        vision, decoder = dict(record["vision"]), dict(record["decoder"])
        for part, names in ((vision, ("mean", "std")), (decoder, ("sections",))):
            part.update({name: tuple(part[name]) for name in names})
        rest = {k: v for k, v in record.items() if k not in ("vision", "decoder")}
        return VLMConfig(vision=VisionConfig(**vision), decoder=DecoderConfig(**decoder), **rest)


_TINY = VLMConfig(
    vision=VisionConfig(
        width=32, layers=2, heads=2, hidden=64, patch=16, temporal=1, merge=1, grid=16, rope_theta=10.0, looks=True
    ),
    decoder=DecoderConfig(
        width=32, layers=2, heads=2, kv_heads=1, head_dim=16, hidden=64,
        rope_theta=100_000.0, mrope=False, sections=(8, 0, 0), copies=True,
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
