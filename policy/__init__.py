"""policy: a vision-language model in Flax. It sees pictures, token ids and strings, never a game."""

import os

# `transformers` serves tokenizers and configurations here; that it finds no PyTorch is no news to the user.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

from policy.config import PRESETS, DecoderConfig, VisionConfig, VLMConfig
from policy.sample import Reply
from policy.vlm import VLM, load, save, save_adapters

__all__ = ["PRESETS", "VLM", "DecoderConfig", "Reply", "VLMConfig", "VisionConfig", "load", "save", "save_adapters"]
