"""Names and layouts of the tensors in Hugging Face's folders, against the parameters of a Model."""

from typing import Literal

Form = Literal["same", "turned", "patches", "places"]  # how a tensor lies in a folder against its parameter

_TEXT = {
    "blocks": "layers", "norm1": "input_layernorm", "norm2": "post_attention_layernorm", "attention": "self_attn",
    "q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "o_proj", "gate": "gate_proj", "up": "up_proj",
    "down": "down_proj", "kernel": "weight", "scale": "weight",
}  # fmt: skip
_VISION = {"attention": "attn", "out": "proj", "kernel": "weight", "scale": "weight"}
_MLP = {
    "qwen2_5_vl": {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"},
    "qwen3_vl": {"up": "linear_fc1", "down": "linear_fc2"},
}
_MERGER = {
    "qwen2_5_vl": {"norm": "ln_q", "up": "mlp.0", "down": "mlp.2"},
    "qwen3_vl": {"norm": "norm", "up": "linear_fc1", "down": "linear_fc2"},
}
_TOP = {
    "embedding.embedding": "model.language_model.embed_tokens.weight",
    "head.kernel": "lm_head.weight",
    "vision.embed.kernel": "model.visual.patch_embed.proj.weight",
    "vision.embed.bias": "model.visual.patch_embed.proj.bias",
    "vision.places": "model.visual.pos_embed.weight",
}


def name_of(path: str, kind: str) -> str:
    """The name of a parameter (its dotted path in a Model) in a folder of a kind, as newer versions write it."""
    if path in _TOP:
        return _TOP[path]
    room, *steps = path.split(".")
    if room == "decoder":
        return ".".join(["model.language_model", *(_TEXT.get(step, step) for step in steps)])
    part, words = steps[0], dict(_VISION)
    if part == "blocks":
        words |= _MLP[kind] if "mlp" in steps else {}
    else:
        words |= _MERGER[kind] | {"deep": "deepstack_merger_list"}
    return ".".join(["model.visual", *(words.get(step, step) for step in steps)])


def form_of(path: str) -> Form:
    """How the tensor of a parameter lies in the folder."""
    special: dict[str, Form] = {"vision.embed.kernel": "patches", "vision.places": "places"}
    return special.get(path, "turned" if path.endswith(".kernel") else "same")


def canonical(name: str) -> str:
    """A tensor's name as newer versions write it: the published Qwen2.5-VL folders have `model.layers` and `visual`,
    those of a model without a head no `model` at all.
    """
    if name.startswith(("visual.", "language_model.")):
        return "model." + name
    room, _, rest = name.partition(".")
    if room == "model" and not rest.startswith(("language_model.", "visual.")):
        return f"model.language_model.{rest}"
    return name


def published(name: str, kind: str) -> str:
    """Inverse of `canonical`: a tensor's name as the published folders of a kind have it."""
    if kind != "qwen2_5_vl":
        return name
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


def may_stand_by(name: str) -> bool:
    """Whether a tensor may be in a folder although no parameter is made of it: what is computed from the configuration
    (older versions stored it), and the head where it is the embedding.
    """
    return name == "lm_head.weight" or name.endswith(("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq"))
