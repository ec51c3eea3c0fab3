"""Hugging Face's config.json of Qwen2.5-VL and Qwen3-VL, read as a VLMConfig."""

import math
from typing import Any

from transformers import PreTrainedConfig, Qwen2_5_VLConfig, Qwen3VLConfig

from policy.config import DecoderConfig, VisionConfig, VLMConfig

_KINDS: dict[str, type[PreTrainedConfig]] = {"qwen2_5_vl": Qwen2_5_VLConfig, "qwen3_vl": Qwen3VLConfig}
KINDS = tuple(_KINDS)
_HALF = (0.5, 0.5, 0.5)  # mean and deviation of the published Qwen3-VL; Qwen2.5-VL's are those of CLIP


def read(record: dict[str, Any], generation: dict[str, Any], processor: dict[str, Any]) -> VLMConfig:
    """The shape of a model from its config.json, generation_config.json and preprocessor_config.json.

    The latter two may be empty. Padding is left at 0: the tokenizer knows it. Raises ValueError, in one line, for what
    is no Qwen2.5-VL or Qwen3-VL, or has something that neither of the published models has.
    """
    kind = record.get("model_type")
    if kind not in _KINDS:
        raise ValueError(f"model_type {kind!r} is not one of {', '.join(KINDS)}")
    if not isinstance(record.get("vision_config"), dict):  # else the class would make one up
        raise ValueError("config.json has no vision_config: it is of a model without a tower, or cut off")
    try:
        config = _KINDS[kind].from_dict(record)
    except Exception as error:  # its checks raise classes of their own, that share nothing but this one
        raise ValueError(" ".join(str(error).split())[:300]) from None
    try:
        return _convert(kind, config, generation, processor)
    except (AttributeError, ArithmeticError, KeyError, TypeError, ValueError) as error:  # what is missing, or no number
        raise ValueError(" ".join(str(error).split())[:300]) from None


def _convert(kind: str, config: Any, generation: dict[str, Any], processor: dict[str, Any]) -> VLMConfig:
    text, vision, third = config.text_config, config.vision_config, kind == "qwen3_vl"
    head_dim = text.head_dim if third else text.hidden_size // text.num_attention_heads
    rope = text.rope_parameters
    _expect("hidden_act", text.hidden_act, "silu")
    _expect("rope_type", rope.get("rope_type", "default"), "default")
    _expect("in_channels", vision.in_channels, 3)
    _expect("vision hidden_act", vision.hidden_act, "gelu_pytorch_tanh" if third else "silu")
    turned = getattr(vision, "rope_parameters", None) or {}  # older transformers have none
    _expect("vision rope_type", turned.get("rope_type", "axial"), "axial")
    _expect("vision out_hidden_size", vision.out_hidden_size, text.hidden_size)
    if third:
        _expect("attention_bias", text.attention_bias, False)
        _expect("mrope_interleaved", rope.get("mrope_interleaved", True), True)
    else:
        _expect("use_sliding_window", bool(text.use_sliding_window), False)
    stops = _ids(generation.get("eos_token_id")) or _ids(getattr(text, "eos_token_id", None))
    if not stops:
        raise ValueError("neither generation_config.json nor config.json has an eos_token_id: no reply would ever end")
    return VLMConfig(
        vision=_vision(vision, theta=turned.get("rope_theta", 10_000.0), third=third, processor=processor),
        decoder=DecoderConfig(
            width=text.hidden_size,
            layers=text.num_hidden_layers,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            head_dim=head_dim,
            hidden=text.intermediate_size,
            rope_theta=float(rope["rope_theta"]),
            sections=tuple(rope.get("mrope_section", (24, 20, 20) if third else (16, 24, 24))),
            interleaved=third,
            qkv_bias=not third,
            qk_norm=third,
            tied=bool(config.tie_word_embeddings),
            eps=text.rms_norm_eps,
        ),
        vocab=text.vocab_size,
        image_id=config.image_token_id,
        stop_id=stops[0],
        stops=stops[1:],
        pad_id=0,
        unsaid=(config.video_token_id,),
    )


def _vision(vision: Any, *, theta: float, third: bool, processor: dict[str, Any]) -> VisionConfig:
    _expect("rescale_factor", round(255 * _number(processor, "rescale_factor", 1 / 255), 6), 1.0)
    for name, wanted in (
        ("do_rescale", True), ("do_normalize", True), ("patch_size", vision.patch_size),
        ("merge_size", vision.spatial_merge_size), ("temporal_patch_size", vision.temporal_patch_size),
    ):  # fmt: skip
        _expect(f"{name} of the image processor", processor.get(name, wanted), wanted)
    own: dict[str, Any]
    if third:
        grid = round(vision.num_position_embeddings**0.5)
        _expect("num_position_embeddings", vision.num_position_embeddings, grid**2)
        deep = tuple(vision.deepstack_visual_indexes)
        own = {"norm": "layer", "mlp": "gelu", "embed_bias": True, "grid": grid, "stretch": True, "deepstack": deep}
        own |= {} if processor else {"mean": _HALF, "std": _HALF}  # the class that it names has those of CLIP
    else:
        side, left = divmod(vision.window_size, vision.patch_size * vision.spatial_merge_size)
        _expect("what is left of window_size over whole image tokens", left, 0)
        own = {"window": side, "full": tuple(vision.fullatt_block_indexes)}
    own |= {k: _colours(processor, f"image_{k}") for k in ("mean", "std") if f"image_{k}" in processor}
    size = processor.get("size") or {}
    if not isinstance(size, dict):
        raise ValueError(f'size={size!r} of the image processor: give an object, such as {{"shortest_edge": 3136}}')
    own["least"] = int(_number(processor, "min_pixels", 0) or _number(size, "shortest_edge", 0))
    return VisionConfig(
        width=vision.hidden_size,
        layers=vision.depth,
        heads=vision.num_heads,
        hidden=vision.intermediate_size,
        patch=vision.patch_size,
        temporal=vision.temporal_patch_size,
        merge=vision.spatial_merge_size,
        rope_theta=float(theta),
        **own,
    )


def _number(fields: dict[str, Any], name: str, default: float) -> float:
    """A number of the image processor's; the default where it says nothing."""
    value = fields.get(name, default)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}={value!r} of the image processor: give a number")
    return value


def _colours(processor: dict[str, Any], name: str) -> tuple[float, ...]:
    value = processor[name]
    if not (isinstance(value, list) and len(value) == 3):
        raise ValueError(f"{name}={value!r} of the image processor: give three numbers, one for each colour")
    return tuple(_number({name: each}, name, math.nan) for each in value)


def _expect(name: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise ValueError(f"{name}={found!r}: only {wanted!r} is supported")


def _ids(value: Any) -> tuple[int, ...]:
    """Token ids of a field that has one, several or none."""
    return () if value is None else tuple(value) if isinstance(value, list | tuple) else (value,)
