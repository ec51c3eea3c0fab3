"""The published sizes, as their config.json has them: for measuring without a download."""

from typing import Any

_EYES = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "window_size": 112,
         "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "fullatt_block_indexes": [7, 15, 23, 31],
         "hidden_act": "silu"}  # fmt: skip
_LARGE_EYES = _EYES | {"intermediate_size": 3456}
_THIRD_EYES = {"patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_heads": 16,
               "num_position_embeddings": 2304, "hidden_act": "gelu_pytorch_tanh"}  # fmt: skip
_SMALL_EYES = _THIRD_EYES | {
    "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17],
}  # fmt: skip
_BIG_EYES = _THIRD_EYES | {
    "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24],
}  # fmt: skip


def _second(
    width: int, hidden: int, layers: int, heads: int, kv: int, vocab: int, eyes: Any, tied: bool
) -> dict[str, Any]:
    return {
        "model_type": "qwen2_5_vl", "hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv, "vocab_size": vocab, "tie_word_embeddings": tied,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "eos_token_id": 151645, "vision_config": eyes | {"out_hidden_size": width},
    }  # fmt: skip


def _third(width: int, hidden: int, layers: int, heads: int, eyes: Any, tied: bool) -> dict[str, Any]:
    rope = {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"}
    text = {
        "hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "rms_norm_eps": 1e-6, "rope_theta": 5e6,
        "rope_scaling": rope, "eos_token_id": 151645, "attention_bias": False,
    }  # fmt: skip
    eyes = eyes | {"out_hidden_size": width}
    return {"model_type": "qwen3_vl", "text_config": text, "vision_config": eyes, "tie_word_embeddings": tied}


SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-vl-3b": _second(2048, 11008, 36, 16, 2, 151936, _EYES, tied=True),
    "qwen2.5-vl-7b": _second(3584, 18944, 28, 28, 4, 152064, _EYES, tied=False),
    "qwen2.5-vl-32b": _second(5120, 27648, 64, 40, 8, 152064, _LARGE_EYES, tied=False),
    "qwen2.5-vl-72b": _second(8192, 29568, 80, 64, 8, 152064, _LARGE_EYES, tied=False),
    "qwen3-vl-2b": _third(2048, 6144, 28, 16, _SMALL_EYES, tied=True),
    "qwen3-vl-4b": _third(2560, 9728, 36, 32, _SMALL_EYES, tied=True),
    "qwen3-vl-8b": _third(4096, 12288, 36, 32, _BIG_EYES, tied=False),
    "qwen3-vl-32b": _third(5120, 25600, 64, 64, _BIG_EYES, tied=False),
}
