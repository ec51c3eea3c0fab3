"""policy: a vision-language model in Flax. It sees pictures, token ids and strings, never a game."""

from policy.config import PRESETS, DecoderConfig, VisionConfig, VLMConfig
from policy.sample import Reply
from policy.vlm import VLM, load, save

__all__ = ["PRESETS", "VLM", "DecoderConfig", "Reply", "VLMConfig", "VisionConfig", "load", "save"]
