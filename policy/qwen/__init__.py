"""What is special in Hugging Face's folders of Qwen2.5-VL and Qwen3-VL: configuration and names of tensors."""

from policy.qwen.config import KINDS, read
from policy.qwen.names import canonical, form_of, may_stand_by, name_of, published

__all__ = ["KINDS", "canonical", "form_of", "may_stand_by", "name_of", "published", "read"]
