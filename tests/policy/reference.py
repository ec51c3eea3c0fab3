"""What `transformers`' PyTorch classes say: the reference of the parity tests. Needs torch."""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig, Qwen3VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.policy import qwen_folders as folders


def open_model(folder: Path):
    """The PyTorch model of a folder, and what it found missing or unexpected there."""
    model, info = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    model.set_attn_implementation("eager")
    return model.eval(), {k: sorted(v) for k, v in info.items() if v}


def saved_tensors(kind: str, folder: Path) -> dict[str, list[int]]:
    """Names and shapes that the PyTorch class of a kind saves."""
    make = {"qwen2_5_vl": Qwen2_5_VLConfig, "qwen3_vl": Qwen3VLConfig}[kind]
    model = AutoModelForImageTextToText.from_config(make.from_dict(folders.config(kind)))
    model.save_pretrained(folder)
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: file.get_slice(name).get_shape() for name in sorted(file.keys())}


def inputs(folder: Path, case: folders.Case, row: int | None = None) -> dict:
    """A case (or one row of it, without its padding) as the PyTorch classes take it."""
    rows = range(len(case.ids)) if row is None else [row]
    width = case.ids.shape[1] if row is None else case.lengths[row]
    ids = torch.tensor(case.ids[list(rows), :width], dtype=torch.long)
    mask = torch.arange(width)[None] < torch.tensor(case.lengths[list(rows)])[:, None]
    given = {"input_ids": ids, "attention_mask": mask.long()}
    taken, pictures = list(case.pictures), []
    for i, said in enumerate(case.ids):
        left = int((said == folders.IMAGE).sum())
        while left:
            picture = taken.pop(0)
            left -= picture.shape[0] * picture.shape[1] // 64
            pictures += [picture] if i in rows else []
    if pictures:
        config = json.loads((folder / "preprocessor_config.json").read_text())
        colours = {name: config[name] for name in ("image_mean", "image_std")}
        processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, **colours)
        made = processor(images=pictures, do_resize=False, return_tensors="np")
        given |= {
            "pixel_values": torch.tensor(made["pixel_values"]),
            "image_grid_thw": torch.tensor(made["image_grid_thw"]),
            "mm_token_type_ids": (ids == folders.IMAGE).int(),
        }
    return given


@torch.no_grad()
def logits(model, given: dict) -> np.ndarray:
    """float32 [B, T, V]."""
    model.model.rope_deltas = None
    return model(**given).logits.numpy()


def positions(model, given: dict) -> np.ndarray:
    """M-RoPE positions int [3, B, T]."""
    keys = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
    return model.model.get_rope_index(**{k: given[k] for k in keys})[0].numpy()


@torch.no_grad()
def greedy(model, given: dict, count: int) -> list[int]:
    """The likeliest continuation of one row, placeholders never said, its stop token included."""
    model.model.rope_deltas = None
    said = model.generate(
        **given, max_new_tokens=count, do_sample=False, suppress_tokens=[folders.IMAGE, folders.VIDEO],
        eos_token_id=[folders.STOP, folders.END], pad_token_id=folders.END,
    )  # fmt: skip
    return said[0, given["input_ids"].shape[1] :].tolist()


def write_golden(kind: str, scratch: Path) -> None:
    """Write the stored values of a kind anew."""
    folders.GOLDEN.mkdir(parents=True, exist_ok=True)
    (folders.GOLDEN / f"{kind}.json").write_text(json.dumps(saved_tensors(kind, scratch / "saved"), indent=0) + "\n")
    folder = folders.write(scratch / kind, kind)
    model, _ = open_model(folder)
    kept = {}
    for name, case in folders.CASES.items():
        whole = logits(model, inputs(folder, case))
        kept[f"{name}: logits"] = whole[..., :: folders.EVERY]
        for row in range(len(case.ids)):
            kept[f"{name}: greedy {row}"] = np.asarray(greedy(model, inputs(folder, case, row), 64), np.int32)
    np.savez_compressed(folders.GOLDEN / f"{kind}.npz", **kept)
