"""Small random models in Hugging Face's real format: what the tests of Qwen2.5-VL and Qwen3-VL read and compare.

Sizes are such that everything special matters: windows that are not full, blocks that see all, a stretched table of
places, DeepStack from two blocks, grouped heads, a head of its own or the embedding.
"""

import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

GOLDEN = Path(__file__).parents[1] / "golden" / "qwen"
KINDS = ("qwen2_5_vl", "qwen3_vl")
SPECIALS = [
    f"<|{name}|>"
    for name in ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
]
END, START, STOP, SEE, SEEN, IMAGE, VIDEO = range(256, 263)
VOCAB = 272
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": SEE, "vision_end_token_id": SEEN}


def config(kind: str, *, tied: bool | None = None, **text: Any) -> dict[str, Any]:
    """A config.json as published: that of Qwen2.5-VL is flat, that of Qwen3-VL in two parts."""
    shared = {
        "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "max_position_embeddings": 512, "bos_token_id": END, "eos_token_id": STOP,
    } | text  # fmt: skip
    see = {"depth": 4, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64,
           "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}  # fmt: skip
    if kind == "qwen2_5_vl":
        see |= {
            "model_type": kind,
            "hidden_act": "silu",
            "in_chans": 3,
            "window_size": 16,
            "fullatt_block_indexes": [1, 3],
        }
        return {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": kind, "vision_config": see,
            "rope_theta": 10000.0, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
            "torch_dtype": "float32",
            "use_sliding_window": False, "tie_word_embeddings": bool(tied) if tied is not None else True,
            **shared, **_IDS,
        }  # fmt: skip
    see |= {"model_type": kind, "hidden_act": "gelu_pytorch_tanh", "in_channels": 3, "num_position_embeddings": 36,
            "deepstack_visual_indexes": [0, 2]}  # fmt: skip
    rope = {"mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_type": "default"}
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"], "model_type": kind, "vision_config": see,
        "text_config": {"model_type": "qwen3_vl_text", "head_dim": 32, "rope_theta": 50000.0, "rope_scaling": rope,
                        "attention_bias": False, "dtype": "float32", **shared},
        "tie_word_embeddings": bool(tied) if tied is not None else False, **_IDS,
    }  # fmt: skip


def tensors(kind: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that `transformers` saves for `config(kind)`."""
    return {name: tuple(shape) for name, shape in json.loads((GOLDEN / f"{kind}.json").read_text()).items()}


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Random tensors of these names, the same on every machine."""
    made = {}
    for name, shape in shapes.items():
        noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            made[name] = (1 if name.endswith("weight") else 0) + np.float32(0.1) * noise
        else:
            # Small embeddings: where they are also the head, a model that only repeats itself would prove little.
            fan_in = 25 if "embed" in name and "patch" not in name else int(np.prod(shape[1:]))
            made[name] = noise * np.float32(1.2 * fan_in**-0.5)
    return made


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, the special tokens of Qwen, and a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in SPECIALS])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=SPECIALS[2], pad_token=SPECIALS[0], chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def write(
    folder: Path,
    kind: str,
    *,
    record: dict[str, Any] | None = None,
    files: int = 2,
) -> Path:
    """A folder of a small random model, its tensors in so many files."""
    folder.mkdir(parents=True, exist_ok=True)
    record = record or config(kind)
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [STOP, END], "pad_token_id": END}))
    mean = [0.5] * 3 if kind == "qwen3_vl" else [0.48145466, 0.4578275, 0.40821073]
    std = [0.5] * 3 if kind == "qwen3_vl" else [0.26862954, 0.26130258, 0.27577711]
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": mean, "image_std": std, "patch_size": 4})
    )
    made = weights(tensors(kind))
    if record["tie_word_embeddings"]:
        made.pop("lm_head.weight", None)
    elif "lm_head.weight" not in made:
        made |= weights({"lm_head.weight": (VOCAB, 64)})
    names = sorted(made)
    if files == 1:
        save_file(made, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        where = {}
        for i in range(files):
            called = f"model-{i + 1:05d}-of-{files:05d}.safetensors"
            save_file({name: made[name] for name in names[i::files]}, folder / called, metadata={"format": "pt"})
            where |= dict.fromkeys(names[i::files], called)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    tokenizer().save_pretrained(folder)
    return folder


def edit(file: Path, *path: str, **values: Any) -> None:
    """Change fields of a JSON file, of the record at a path in it."""
    record = json.loads(file.read_text())
    inner = record
    for name in path:
        inner = inner[name]
    inner.update(values)
    file.write_text(json.dumps(record))


class Case(NamedTuple):
    """Right-padded prompts and their pictures, in reading order."""

    ids: np.ndarray  # int32 [B, T]
    lengths: np.ndarray  # int32 [B]
    pictures: list[np.ndarray]  # uint8 [H, W, 3] each


def case(seed: int, *rows: list[tuple[int, int] | int]) -> Case:
    """Rows of so many words (an int) and pictures of so many pixels (a pair)."""
    rng = np.random.default_rng(seed)
    said, pictures = [], []
    for row in rows:
        ids: list[int] = []
        for part in row:
            if isinstance(part, int):
                ids += rng.integers(0, 256, part).tolist()
            else:
                ids += [SEE, *[IMAGE] * (part[0] * part[1] // 64), SEEN]
                pictures.append(rng.integers(0, 256, (*part, 3), np.uint8))
        said.append(ids)
    lengths = np.asarray([len(ids) for ids in said], np.int32)
    padded = np.full((len(said), lengths.max()), END, np.int32)
    for target, ids in zip(padded, said, strict=True):
        target[: len(ids)] = ids
    return Case(padded, lengths, pictures)


CASES = {
    "text": case(1, [9], [14]),
    "one picture": case(2, [3, (16, 16), 5], [2, (16, 16), 9]),
    "an odd picture": case(3, [2, (24, 40), 4]),
    "several pictures": case(4, [1, (16, 24), 2, (40, 16), 3], [7, (32, 32), 4], [11]),
}
EVERY = 5  # of the vocabulary, in stored logits
