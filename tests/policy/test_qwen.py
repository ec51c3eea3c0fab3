"""Qwen2.5-VL and Qwen3-VL: small random models in Hugging Face's format, against what `transformers` makes of them.

Its answers are stored; `test_parity` asks it anew where torch is installed.
"""

import copy
import dataclasses
import json
import re
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from safetensors.numpy import load_file, save_file
from tokenizers import normalizers
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import policy
from policy import layers, qwen, sample, sharding, weights
from policy.config import VisionConfig
from policy.decoder import Block
from policy.model import logits, outline, reply_logits
from policy.positions import stretched, token_positions, windows
from policy.tokenizer import Turn, prompt_ids
from policy.vision import VisionBlock, patchify
from tests.policy import qwen_folders as folders
from tests.policy.qwen_folders import CASES, KINDS, edit


@pytest.fixture(scope="module")
def vlm(folder):
    return policy.load(folder)


@pytest.fixture(scope="module")
def golden(folder):
    return np.load(folders.GOLDEN / f"{folder.name}.npz")


def given(case):
    return jnp.asarray(case.ids), jnp.asarray(case.lengths), [jnp.asarray(picture) for picture in case.pictures]


def alike(found, wanted):
    """Largest difference, against the largest number; what is never said is so in both."""
    there = np.isfinite(wanted)
    np.testing.assert_array_equal(np.isfinite(found), there)
    return np.abs(found[there] - wanted[there]).max() / np.abs(wanted[there]).max()


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(vlm, golden, name):
    case = CASES[name]
    found, wanted = np.asarray(vlm.logits(*given(case)))[..., :: folders.EVERY], golden[f"{name}: logits"]
    said = np.setdiff1d(np.arange(0, folders.VOCAB, folders.EVERY), [folders.IMAGE, folders.VIDEO]) // folders.EVERY
    for row, length in enumerate(case.lengths):
        assert alike(found[row, :length][:, said], wanted[row, :length][:, said]) < 1e-4


@pytest.mark.parametrize("name", CASES)
def test_greedy_continuations_are_those_of_transformers(vlm, golden, name):
    case = CASES[name]
    said = vlm.generate(*given(case), key=jax.random.key(0), max_new_tokens=64, temperature=0.0)
    for row, length in enumerate(said.lengths.tolist()):
        assert said.ids[row, :length].tolist() == golden[f"{name}: greedy {row}"].tolist()


_ONE = ["qwen2_5_vl", pytest.param("qwen3_vl", marks=pytest.mark.slow)]  # its greedy replies have told, above


@pytest.mark.parametrize("folder", _ONE, indirect=True)
def test_cached_decoding_equals_the_full_forward_pass(vlm):
    case = CASES["one picture"]
    ids, lengths, pictures = given(case)
    said = vlm.generate(ids, lengths, pictures, key=jax.random.key(1), max_new_tokens=9, samples=2)
    grouped = reply_logits(vlm.graphdef, vlm.params, ids, lengths, jnp.stack(pictures), said.ids)
    for row in range(4):
        n, m = int(lengths[row // 2]), int(said.lengths[row])
        whole = jnp.concatenate([ids[row // 2, :n], said.ids[row, :m]])[None]
        full = vlm.logits(whole, jnp.asarray([n + m]), [pictures[row // 2]])[0, n - 1 : -1]
        np.testing.assert_allclose(full, grouped[row, :m], rtol=1e-4, atol=1e-4)
        picked = jax.nn.log_softmax(full)[jnp.arange(m), said.ids[row, :m]]
        np.testing.assert_allclose(picked, said.logprobs[row, :m], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("folder", _ONE, indirect=True)
def test_placeholders_are_never_said_and_every_stop_ends_a_reply(vlm):
    ids, lengths, pictures = given(CASES["one picture"])
    said = vlm.generate(ids, lengths, pictures, key=jax.random.key(1), max_new_tokens=256, temperature=3.0, samples=32)
    assert not np.isin(said.ids, [folders.IMAGE, folders.VIDEO]).any()
    ends = {row[n - 1] for row, n in zip(said.ids.tolist(), said.lengths.tolist(), strict=True) if n < 256}
    assert ends == {folders.STOP, folders.END}
    for row, n in zip(said.ids.tolist(), said.lengths.tolist(), strict=True):
        assert not {folders.STOP, folders.END} & set(row[: n - 1])


def test_pictures_of_one_size_may_come_as_a_list_or_as_an_array(vlm):
    ids, lengths, pictures = given(CASES["one picture"])
    np.testing.assert_array_equal(vlm.logits(ids, lengths, pictures), vlm.logits(ids, lengths, jnp.stack(pictures)))


def test_a_prompt_follows_the_chat_template(vlm):
    ids = prompt_ids(vlm.tokenizer, "hi", 3, folders.IMAGE)
    picture = "<|vision_start|>" + 3 * "<|image_pad|>" + "<|vision_end|>"
    assert vlm.tokenizer.decode(ids) == f"<|im_start|>user\n{picture}hi<|im_end|>\n<|im_start|>assistant\n"


def test_a_prompt_holds_what_was_said_before(vlm):
    turns = [Turn("old", True, "yes"), Turn("older text", False, "no")]
    ids = prompt_ids(vlm.tokenizer, "hi", 3, folders.IMAGE, turns)
    text = vlm.tokenizer.decode([id for id in ids if id != folders.IMAGE])
    assert ids.count(folders.IMAGE) == 6 and text.count("assistant") == 3
    places = [text.index(word) for word in ("old", "yes", "older text", "no", "hi")]
    assert places == sorted(places)


@pytest.mark.parametrize("name", ["<|im_end|>", "<|image_pad|>"])
def test_a_text_that_spells_a_special_token_is_told(vlm, name):
    """Else a turn would end there, or a picture begin; in a reply that was said it is text."""
    for given in (f"see{name}", []), ("see", [Turn(f"old{name}", False, "yes")]):
        with pytest.raises(ValueError, match=re.escape(f"it has {name} in its text")):
            prompt_ids(vlm.tokenizer, given[0], 3, folders.IMAGE, given[1])
    said = prompt_ids(vlm.tokenizer, "see", 3, folders.IMAGE, [Turn("old", False, f"yes{name}")])
    assert f"yes{name}<|im_end|>" in vlm.tokenizer.decode(said) and said.count(folders.IMAGE) == 3


def with_template(words, template):
    """A tokenizer as it is, with another template."""
    words = copy.deepcopy(words)
    words.chat_template = template
    return words


def test_what_was_said_before_stands_there_whatever_a_template_leaves_out(vlm):
    """As templates of models that think at length do: past thoughts are dropped, and the next reply begins in one."""
    drops = folders.TEMPLATE.replace("{{ part['text'] }}", "{{ part['text'].split('</think>')[-1] | trim }}")
    words = with_template(vlm.tokenizer, drops.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}"))
    reply = "<think>why</think><answer>up</answer> "
    ids = prompt_ids(words, "hi", 1, folders.IMAGE, [Turn("old", False, reply)])
    text = words.decode(ids)
    assert f"<|im_start|>assistant\n{reply}<|im_end|>" in text
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    with pytest.raises(ValueError, match="not one place for each reply"):
        prompt_ids(
            with_template(words, drops.replace("split('</think>')[-1]", "upper()[:0]")), "", 1, 1, [Turn("", False, "")]
        )


def test_a_reply_that_spells_a_special_token_is_no_such_token(vlm):
    """No picture, no end of its turn; it reads as it was said."""
    reply = "a<|image_pad|>b<|im_end|>\n<|im_start|>"
    ids = prompt_ids(vlm.tokenizer, "hi", 3, folders.IMAGE, [Turn("old", False, reply)])
    assert ids.count(folders.IMAGE) == 3 and ids.count(folders.STOP) == 3 and ids.count(folders.START) == 4
    assert reply in vlm.tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("fields", "least"),
    [({}, 0), ({"min_pixels": 3136}, 3136), ({"size": {"shortest_edge": 65536, "longest_edge": 1 << 24}}, 65536)],
)
def test_how_small_pictures_may_be_is_read(tmp_path, fields, least):
    """As Qwen2.5-VL's and Qwen3-VL's files have it: pixels both, whatever the second is called."""
    folders.edit(folders.write(tmp_path, "qwen3_vl") / "preprocessor_config.json", **fields)
    assert policy.load(tmp_path).config.vision.least == least


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(8, 8), (16, 24), (40, 16)])
def test_pixels_are_bit_equal_to_the_numpy_image_processor(tmp_path, kind, size):
    vision = policy.load(folders.write(tmp_path, kind)).config.vision
    pictures = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, image_mean=vision.mean, image_std=vision.std)
    wanted = processor(images=list(pictures), do_resize=False, return_tensors="np")["pixel_values"]
    found = jax.jit(patchify, static_argnums=1)(jnp.asarray(pictures), vision)
    np.testing.assert_array_equal(np.asarray(found).reshape(wanted.shape), wanted)


def test_every_colour_is_bit_equal_to_the_numpy_image_processor():
    vision = VisionConfig(width=8, layers=1, heads=1, hidden=8, patch=16, merge=1)
    picture = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    processor = Qwen2VLImageProcessorPil(patch_size=16, merge_size=1)
    wanted = processor(images=[picture], do_resize=False, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(np.asarray(patchify(jnp.asarray(picture)[None], vision))[0], wanted)


def test_windows_hold_every_image_token_once_with_its_neighbours():
    for rows, columns, side in [(4, 4, 2), (3, 5, 2), (1, 7, 4), (9, 2, 3)]:
        table = windows(rows, columns, side)
        assert sorted(table[table >= 0]) == list(range(rows * columns))
        for window in table:
            there = window[window >= 0]
            assert len({(token // columns // side, token % columns // side) for token in there}) == 1
            assert (np.diff(there) > 0).all()


def test_a_stretched_table_is_bilinear_with_its_corners_on_the_corners():
    side = 5
    table = np.random.default_rng(0).normal(size=(side, side))
    for rows, columns in [(5, 5), (4, 7), (1, 3), (9, 2)]:
        where = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2)
        around, weights = stretched(rows, columns, side, where)
        found = (table.reshape(-1)[around] * weights).sum(1).reshape(rows, columns)
        for row in range(rows):
            for column in range(columns):
                y, x = (k * (side - 1) / max(n - 1, 1) for k, n in ((row, rows), (column, columns)))
                top, left = min(int(y), side - 2), min(int(x), side - 2)
                a, b = y - top, x - left
                wanted = (
                    (1 - a) * (1 - b) * table[top, left] + (1 - a) * b * table[top, left + 1]
                    + a * (1 - b) * table[top + 1, left] + a * b * table[top + 1, left + 1]
                )  # fmt: skip
                np.testing.assert_allclose(found[row, column], wanted, atol=1e-6)


def test_positions_of_pictures_of_several_sizes():
    ids = jnp.asarray([[9, 2, 2, 2, 2, 2, 2, 9, 2, 2, 9], [9, 9, 2, 2, 2, 2, 9, 9, 9, 9, 9]])
    time, row, column = token_positions(ids, 2, [(2, 3), (2, 1), (1, 4)]).tolist()
    assert time[0] == [0, 1, 1, 1, 1, 1, 1, 4, 5, 5, 7]
    assert row[0] == [0, 1, 1, 1, 2, 2, 2, 4, 5, 6, 7]
    assert column[0] == [0, 1, 2, 3, 1, 2, 3, 4, 5, 5, 7]
    assert time[1] == [0, 1, 2, 2, 2, 2, 6, 7, 8, 9, 10]
    assert column[1] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]


def shard(folder, i):
    return folder / f"model-{i:05d}-of-00002.safetensors"


def tensors_of(folder, change):
    """Change the tensors of the first file; the index stays."""
    found = change(load_file(shard(folder, 1)))
    save_file(found, shard(folder, 1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: edit(f / "config.json", model_type="llama"),
            "holds a 'llama' model; this version reads jaxgym_vlm, ",
        ),
        (lambda f: edit(f / "config.json", hidden_size="wide"), "cannot be read: .*hidden_size"),
        (lambda f: edit(f / "config.json", hidden_act="relu"), "hidden_act='relu': only 'silu' is supported"),
        (lambda f: edit(f / "config.json", num_attention_heads=0), "by zero"),
        (lambda f: edit(f / "config.json", use_sliding_window=True, sliding_window=8), "use_sliding_window=True"),
        (lambda f: edit(f / "config.json", "rope_scaling", type="yarn", factor=2.0), "rope_type='yarn'"),
        (lambda f: edit(f / "config.json", "vision_config", window_size=12), "window_size"),
        (lambda f: edit(f / "config.json", "vision_config", out_hidden_size=32), "out_hidden_size=32: only 64"),
        (lambda f: edit(f / "config.json", num_key_value_heads=3), "no multiple of kv_heads=3"),
        (lambda f: edit(f / "config.json", num_attention_heads=8), "sections .* do not add up"),
        (lambda f: edit(f / "config.json", image_token_id=9999), "image_id=9999 is not in the vocabulary"),
        (lambda f: edit(f / "config.json", image_token_id=folders.SEEN + 10), "has 0 image tokens"),
        (lambda f: edit(f / "config.json", vocab_size=260), "is not in the vocabulary of 260"),
        (
            lambda f: edit(f / "config.json", vocab_size=280),
            "misshapen tensors: .*embed_tokens.weight .* instead of .280",
        ),
        (lambda f: edit(f / "config.json", num_hidden_layers=4), "12 missing tensors: .*layers.3"),
        (lambda f: edit(f / "config.json", num_hidden_layers=2), "12 unexpected tensors: .*layers.2"),
        (lambda f: (f / "generation_config.json").write_text("{"), "generation_config.json is damaged"),
        (lambda f: (f / "preprocessor_config.json").write_text("[]"), "preprocessor_config.json is damaged"),
        (lambda f: edit(f / "preprocessor_config.json", rescale_factor=1), "rescale_factor"),
        (
            lambda f: edit(f / "preprocessor_config.json", do_normalize=False),
            "do_normalize of the image processor=False",
        ),
        (lambda f: edit(f / "preprocessor_config.json", do_rescale=False), "do_rescale of"),
        (lambda f: edit(f / "preprocessor_config.json", patch_size=8), "patch_size of .*=8: only 4"),
        (lambda f: edit(f / "preprocessor_config.json", image_std=[0.5, 0, 0.5]), r"vision std=\(0.5, 0, 0.5\): dev"),
        (lambda f: edit(f / "preprocessor_config.json", merge_size=4), "merge_size of .*=4: only 2"),
        (lambda f: edit(f / "preprocessor_config.json", image_mean=0.5), "image_mean=0.5 of .*: give three numbers"),
        (
            lambda f: edit(f / "preprocessor_config.json", image_mean=[0.5, "a", 0]),
            "image_mean='a' of .*: give a number",
        ),
        (lambda f: edit(f / "preprocessor_config.json", min_pixels="x"), "min_pixels='x' of the image processor"),
        (lambda f: edit(f / "preprocessor_config.json", size=5), "size=5 of the image processor: give an object"),
        (lambda f: edit(f / "config.json", vision_config=None), "has no vision_config"),
        (lambda f: tensors_of(f, lambda t: {"v_head.weight": t.pop(next(iter(t))), **t}), "1 missing .* 1 unexpected"),
        (
            lambda f: [
                edit(f / "config.json", quantization_config={"quant_method": "awq"}),
                tensors_of(f, lambda t: {k: v.astype(np.int8) for k, v in t.items()}),
            ],
            "by config.json it is quantized, awq: give the folder of its bfloat16 weights",
        ),
        (
            lambda f: (f / "tokenizer.json").write_text("version https://git-lfs\noid sha256:0\nsize 7\n"),
            "only pointers to 1 of its files, run git lfs pull in it: tokenizer.json",
        ),
        (lambda f: shard(f, 2).unlink(), "lacks 1 of 2 files of tensors: model-00002-of-00002.safetensors"),
        (
            lambda f: shard(f, 1).write_bytes(shard(f, 1).read_bytes()[:-9]),
            "model-00001-of-00002.safetensors is damaged",
        ),
        (lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b"}}'), "no weight_map"),
        (lambda f: (f / "model.safetensors.index.json").unlink(), "model.safetensors is missing"),
        (
            lambda f: [(f / "model.safetensors.index.json").unlink(), (f / "pytorch_model.bin").write_text("")],
            "save the model as safetensors first",
        ),
        (lambda f: tensors_of(f, lambda t: {k: v.astype(np.int8) for k, v in t.items()}), "integer or 8-bit tensors"),
        (lambda f: tensors_of(f, lambda t: {k: v * np.inf for k, v in t.items()}), "tensors that are not finite"),
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer: put its tokenizer.json there"),
        (lambda f: (f / "chat_template.jinja").unlink(), "has no chat template"),
        (lambda f: (f / "chat_template.jinja").write_text("{% if %}"), "chat template of .* does not serve"),
        (lambda f: (f / "chat_template.jinja").write_text("no picture"), "one picture has 0 image tokens"),
    ],
)
def test_a_folder_that_cannot_serve_is_told_in_one_line(tmp_path, damage, message):
    folders.write(tmp_path, "qwen2_5_vl")
    damage(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        policy.load(tmp_path)
    assert "\n" not in str(error.value)


def test_names_that_other_writers_give_are_read(tmp_path):
    """A model without a head has no `model`, a tied one may have kept the head of the two, older ones their buffers."""
    folders.write(tmp_path, "qwen2_5_vl", files=1)
    file, case = tmp_path / "model.safetensors", given(CASES["one picture"])
    stored, wanted = load_file(file), policy.load(tmp_path).logits(*case)
    bare = {name.replace("model.", "language_model.", 1): tensor for name, tensor in stored.items()}
    headed = stored | {"lm_head.weight": stored["model.embed_tokens.weight"]}
    del headed["model.embed_tokens.weight"]
    for names in (bare, headed, stored | {"visual.rotary_pos_emb.inv_freq": np.ones(4, np.float32)}):
        save_file(names, file, metadata={"format": "pt"})
        np.testing.assert_array_equal(policy.load(tmp_path).logits(*case), wanted)


def test_colours_that_a_processor_leaves_out_are_those_of_its_class(tmp_path):
    """`transformers` then takes CLIP's for both kinds."""
    file = folders.write(tmp_path, "qwen3_vl") / "preprocessor_config.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in record.items() if k not in ("image_mean", "image_std")}))
    vision = policy.load(tmp_path).config.vision
    plain = policy.load(folders.write(tmp_path / "other", "qwen2_5_vl")).config.vision
    assert (vision.mean, vision.std) == (plain.mean, plain.std) and vision.mean[0] == pytest.approx(0.48145466)


def test_a_folder_that_holds_one_names_it(tmp_path):
    """That of a cache, of a run; and a file of one."""
    inner = folders.write(tmp_path / "snapshots" / "abc", "qwen3_vl")
    with pytest.raises(ValueError, match=f"it is not a model; give {inner}"):
        policy.load(tmp_path)
    (tmp_path / "config.json").write_text('{"games": ["2048"]}')  # that of a run
    with pytest.raises(ValueError, match=f"holds no model; give {inner}"):
        policy.load(tmp_path)
    with pytest.raises(ValueError, match="give the folder that it is in"):
        policy.load(inner / "config.json")
    with pytest.raises(ValueError, match="tokenizer and key are for presets"):
        policy.load(inner, key=jax.random.key(0))


def test_a_folder_needs_no_generation_and_no_preprocessor_config(vlm, folder, tmp_path):
    """Older ones have neither; the stop token is then that of config.json, the colours those of the kind."""
    folders.write(tmp_path, folder.name)
    for name in ("generation_config.json", "preprocessor_config.json"):
        (tmp_path / name).unlink()
    bare = policy.load(tmp_path)
    assert bare.config == dataclasses.replace(vlm.config, stops=())


@pytest.mark.parametrize("folder", ["qwen2_5_vl"], indirect=True)
def test_no_pictures_of_some_size_are_none(vlm):
    ids, lengths, pictures = given(CASES["one picture"])
    empty = np.zeros((0, 24, 40, 3), np.uint8)
    found = vlm.logits(ids, lengths, [empty, *pictures, empty])
    np.testing.assert_array_equal(found, vlm.logits(ids, lengths, pictures))


def test_nothing_is_left_of_a_model_where_another_is_saved(tmp_path):
    other, there = folders.write(tmp_path / "other", "qwen3_vl"), tmp_path / "there"
    processor = json.loads((other / "preprocessor_config.json").read_text())
    (other / "processor_config.json").write_text(json.dumps({"image_processor": processor}))
    for name in ("preprocessor_config.json", "generation_config.json"):
        (other / name).unlink()
    vlm = policy.load(other)
    for each in (policy.load(folders.write(tmp_path / "one", "qwen2_5_vl")), vlm):
        policy.save(each, there)
    assert policy.load(there).config == vlm.config
    assert {file.name for file in there.glob("*_config.json")} == {file.name for file in other.glob("*_config.json")}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_numbers_of_one_kind_are_not_taken_for_another(folder, dtype):
    vlm = policy.load(folder, dtype=dtype)
    seen = vlm._given(*given(CASES["several pictures"]))

    def slopes(params):
        return jax.grad(lambda params: nnx.merge(vlm.graphdef, params).answered(*seen, seen[0]).logprobs.sum())(params)

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        jax.eval_shape(slopes, vlm.params)


def test_a_processor_that_was_saved_in_one_file_comes_first(tmp_path):
    """As `transformers` has it, whose newer versions leave an older file as it was."""
    inside = {"image_processor": {"image_mean": [0.25] * 3, "image_std": [0.125] * 3}}
    (folders.write(tmp_path, "qwen2_5_vl") / "processor_config.json").write_text(json.dumps(inside))
    vision = policy.load(tmp_path).config.vision
    assert vision.mean == (0.25,) * 3 and vision.std == (0.125,) * 3


@pytest.mark.parametrize("parts", [1, 3])
def test_a_model_goes_into_a_folder_and_back(vlm, tmp_path, parts):
    """The very same tensors under the very same names, whichever files they are in; all else is as it was."""
    limit = -(-sum(leaf.nbytes for leaf in jax.tree.leaves(vlm.params)) // parts) + 1
    weights.write(tmp_path, vlm.config, vlm.params, vlm.tokenizer, vlm.origin, limit=limit)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == parts if parts == 1 else len(files) > 1
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    kind = vlm.origin.kind
    wanted = folders.weights(folders.tensors(kind))
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor, wanted[name])
    again = policy.load(tmp_path)
    assert again.config == vlm.config and again.origin.kind == kind
    for name in ("generation_config.json", "preprocessor_config.json"):
        assert (tmp_path / name).read_bytes() == vlm.origin.files[name]
    policy.save(vlm, tmp_path)  # into one file: the parts of before are gone
    assert [file.name for file in tmp_path.glob("model*")] == ["model.safetensors"]
    assert policy.load(tmp_path).config == vlm.config


def test_the_files_of_a_tokenizer_are_as_they_were(folder, tmp_path):
    """Other versions of `transformers`, and what else reads the folder, understand what it was published with."""
    here, there = folders.write(tmp_path / "here", folder.name), tmp_path / "there"
    edit(here / "tokenizer_config.json", additional_special_tokens=["<|vision_start|>"])
    (here / "merges.txt").write_text("#version: 0.2\n")
    others = "additional_chat_templates"
    for folder, name in ((here, "tools"), (there, "stale")):
        (folder / others).mkdir(parents=True)
        (folder / others / f"{name}.jinja").write_text("tools")
    vlm = policy.load(here)
    policy.save(vlm, there)
    assert [file.name for file in (there / others).iterdir()] == ["tools.jinja"]
    assert (there / "model.safetensors").stat().st_mode == (there / "config.json").stat().st_mode
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "merges.txt"):
        assert (there / name).read_bytes() == (here / name).read_bytes()
    changed = policy.load(here)
    changed.tokenizer.add_tokens(["swap!"])
    changed.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    changed.tokenizer.model_max_length = 77
    policy.save(changed, there)
    again = policy.load(there).tokenizer
    assert again.get_vocab()["swap!"] == changed.tokenizer.get_vocab()["swap!"] and again.model_max_length == 77
    assert again.encode("A") == vlm.tokenizer.encode("a")
    (there / "added_tokens.json").write_text('{"other": 900}')
    policy.save(vlm, there)  # nothing is left of the tokenizer that was there
    assert not (there / "added_tokens.json").exists()
    assert policy.load(there).tokenizer.get_vocab() == vlm.tokenizer.get_vocab()


def test_a_chat_template_in_a_file_of_its_own(vlm, folder, tmp_path):
    """Where older versions of `transformers` put it."""
    folders.write(tmp_path, folder.name)
    template = tmp_path / "chat_template.jinja"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template.read_text()}))
    template.unlink()
    asked = [prompt_ids(each.tokenizer, "hi", 3, folders.IMAGE) for each in (policy.load(tmp_path), vlm)]
    assert asked[0] == asked[1]


def test_a_template_of_its_own_file_comes_before_the_tokenizers(vlm, folder, tmp_path):
    """As in `transformers`' processor: the tokenizer's may be of a model without pictures, and then fails with them."""
    template = (folders.write(tmp_path, folder.name) / "chat_template.jinja").read_text()
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    for_text = "{% for message in messages %}{{ message.role + message.content }}{% endfor %}"
    edit(tmp_path / "tokenizer_config.json", chat_template=for_text)
    loaded = policy.load(tmp_path)
    asked = [prompt_ids(each.tokenizer, "hi", 3, folders.IMAGE) for each in (loaded, vlm)]
    assert asked[0] == asked[1]
    policy.save(loaded, tmp_path / "again")
    assert prompt_ids(policy.load(tmp_path / "again").tokenizer, "hi", 3, folders.IMAGE) == asked[0]


def test_a_head_that_is_stored_is_the_head(tmp_path):
    """Although config.json says that it is the embedding: so reads `transformers`."""
    folders.write(tmp_path, "qwen2_5_vl", files=1)
    file, case = tmp_path / "model.safetensors", given(CASES["text"])
    stored = load_file(file)
    table, wanted = stored["model.embed_tokens.weight"], policy.load(tmp_path).logits(*case)
    for head, tied in ((table, True), (-3 * table, False)):
        save_file(stored | {"lm_head.weight": head}, file, metadata={"format": "pt"})
        vlm = policy.load(tmp_path)
        said = vlm.logits(*case)
        there = np.isfinite(wanted)
        np.testing.assert_allclose(said[there], (1 if tied else -3) * wanted[there], rtol=1e-4, atol=1e-4)
        policy.save(vlm, tmp_path / "again")
        assert json.loads((tmp_path / "again" / "config.json").read_text())["tie_word_embeddings"] == tied
        np.testing.assert_array_equal(policy.load(tmp_path / "again").logits(*case), said)


def test_older_transformers_say_nothing_of_how_patches_are_turned(vlm, folder, monkeypatch):
    read = qwen.config._KINDS[folder.name].from_dict

    def older(record):
        config = read(record)
        vars(config.vision_config).pop("rope_parameters")
        return config

    record = folders.config(folder.name)
    wanted = qwen.read(record, {}, {})
    monkeypatch.setitem(qwen.config._KINDS, folder.name, SimpleNamespace(from_dict=older))
    assert qwen.read(record, {}, {}) == wanted


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_everything_is_computed_in_the_dtype_of_the_parameters(vlm, dtype):
    """In half precision no part may fall back to float32, which takes a GPU several times as long."""
    case, kind = CASES["one picture"], jnp.dtype(dtype)
    ids, lengths, pictures = given(case)
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, kind), vlm.params)

    def parts(params):
        model = nnx.merge(vlm.graphdef, params)
        seen = model.look(jnp.stack(pictures))
        prompt = model.prefill(ids, lengths, jnp.stack(pictures))
        hidden, cache = model.continued(prompt, jnp.zeros((len(ids), 4), jnp.int32))
        return seen, prompt.hidden, prompt.cache.keys, prompt.cache.values, hidden, cache.keys, cache.values

    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(parts, params))} == {kind}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_half_precision_model_is_saved_as_such(vlm, folder, tmp_path, dtype):
    whole = shutil.copytree(folder, tmp_path / "whole")
    given = json.loads((whole / "config.json").read_text())  # of one that was once quantised, and is no more
    (whole / "config.json").write_text(json.dumps(given | {"quantization_config": {"quant_method": "bitsandbytes"}}))
    half = policy.load(whole, dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype(dtype)}
    tmp_path /= "half"
    policy.save(half, tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    assert "quantization_config" not in record
    assert dtype in (record.get("torch_dtype"), record.get("text_config", {}).get("dtype"))
    again = policy.load(tmp_path, dtype=dtype)
    for a, b in zip(jax.tree.leaves(half.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bfloat16_is_close_to_float32(vlm, folder):
    """As close as rounding every weight to bfloat16 makes it, within a factor."""
    case = CASES["several pictures"]
    half = policy.load(folder, dtype="bfloat16")
    rounded = dataclasses.replace(
        vlm, params=jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), vlm.params)
    )
    whole, only, all_ = (jax.nn.softmax(m.logits(*given(case))[0, case.lengths[0] - 1]) for m in (vlm, rounded, half))
    assert jnp.abs(all_ - whole).sum() < 4 * jnp.abs(only - whole).sum() + 0.02


@pytest.mark.parametrize(("sizes", "parts"), [((8, 1, 1), 1), ((1, 8, 1), 8), ((1, 1, 8), 8), ((2, 2, 2), 4)])
def test_every_matrix_of_a_block_is_cut_where_the_mesh_cuts_models(vlm, sizes, parts):
    mesh = sharding.make_mesh(*sizes, devices=jax.devices("cpu")[:8])
    matrices = {path: leaf for path, leaf in weights.named(vlm.params).items() if leaf.ndim == 2 and "blocks" in path}
    for path, leaf in matrices.items():
        spec = sharding.spec(path, leaf.shape, mesh)
        assert np.prod([mesh.shape[axis] for axis in spec if axis]) == parts, path


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, -1, 1), (-1, 3, 1), (0, 1, 8), (16, 1, 1)])
def test_a_mesh_that_the_devices_do_not_make_up_is_told(sizes):
    with pytest.raises(ValueError, match="do not make up 8 devices"):
        sharding.make_mesh(*sizes, devices=jax.devices("cpu")[:8])


_SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in (("qwen2_5_vl", 1), ("qwen3_vl", 7))]


@pytest.fixture
def compiled_anew():
    """Nothing is taken from the programs that were compiled before: of those nobody warns any more."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # else it remembers that there is one
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


# Block by block; computed again in loops, as large models are.
@pytest.mark.parametrize(("folder", "many"), [("qwen2_5_vl", 7), ("qwen3_vl", 1), *_SLOW], indirect=["folder"])
def test_spread_over_eight_devices_a_model_says_and_learns_the_same(
    vlm, folder, monkeypatch, many, capfd, compiled_anew
):
    """And XLA, as it compiles that, does not warn that it sends around what it need not."""
    monkeypatch.setattr(layers, "_MANY", many)
    mesh = sharding.make_mesh(2, -1, 2, devices=jax.devices("cpu")[:8])
    spread = policy.load(folder, mesh=mesh, remat=many == 1)
    assert len([leaf for leaf in jax.tree.leaves(spread.params) if not leaf.sharding.is_fully_replicated]) > 20
    case = folders.case(5, *[[2 + row, (16, 24), 3] for row in range(8)])
    ids, lengths, pictures = given(case)

    def learned(model):
        seen, there = model._given(ids, lengths, pictures), jnp.arange(ids.shape[1])[None] < lengths[:, None]

        def said(params):
            found = logits.__wrapped__(model.graphdef, params, *seen)
            return jnp.where(there[..., None], jax.nn.log_softmax(found), 0.0)[..., : folders.IMAGE].sum(), found

        return jax.jit(jax.grad(said, has_aux=True))(model.params)

    (slopes, said), (of_eight, said_by_eight) = learned(vlm), learned(spread)
    assert alike(np.asarray(said_by_eight), np.asarray(said)) < 1e-5
    for (path, one), eight in zip(jax.tree_util.tree_leaves_with_path(slopes), jax.tree.leaves(of_eight), strict=True):
        assert alike(np.asarray(eight), np.asarray(one)) < 1e-5, path
    assert "rematerialization" not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("folder", folders.KINDS, indirect=True)
def test_each_device_has_its_rows_and_what_is_sent_are_parameters(folder):
    """However large the batch, and however large the vocabulary, where parameters are cut as batches are (`fsdp`)."""
    spread = policy.load(folder, mesh=sharding.make_mesh(1, 8, 1, devices=jax.devices("cpu")[:8]))
    alone, work, sent = policy.load(folder), {}, {}
    for rows in (16, 64):
        case = folders.case(5, *[[2, (16, 16), 30]] * rows)
        prompts = [jnp.asarray(case.ids), jnp.asarray(case.lengths), jnp.stack([*map(jnp.asarray, case.pictures)])]
        for model in (spread, alone) if rows == 16 else (spread,):

            def worth(params, *given, model=model):
                return nnx.merge(model.graphdef, params).answered(*given).logprobs.sum()

            def slopes(*given, worth=worth, model=model):
                return sharding.hold(jax.grad(worth)(*given), model.mesh)

            given = sharding.cut_rows((*prompts, jnp.ones((rows, 17), jnp.int32)), model.mesh)
            program = jax.jit(slopes).lower(model.params, *given).compile()
            work[rows, model] = program.cost_analysis()["flops"]
            sent[rows, model] = sum(
                np.prod([int(n) for n in shape.split(",") if n])
                for line in program.as_text().splitlines()
                for made in re.findall(
                    r"= (.+?) (?:all-gather|all-reduce|reduce-scatter|all-to-all)(?:-start)?\(", line
                )
                for shape in re.findall(r"\w+\[([\d,]*)\]", re.sub(r"\{[^}]*\}", "", made))
            )
    assert 8 * work[16, spread] < 1.05 * work[16, alone] and work[64, spread] < 1.05 * 4 * work[16, spread]
    assert sent[16, alone] == 0 < sent[64, spread] < 1.25 * sent[16, spread]


@pytest.mark.parametrize("folder", ["qwen2_5_vl"], indirect=True)  # the other's loops are spread over devices above
def test_many_blocks_in_a_row_are_a_loop_that_says_and_learns_the_same(vlm, monkeypatch):
    """Where they are computed again: in prompts, and in replies, two to each."""
    graphdef, _ = outline(dataclasses.replace(vlm.config, remat=True))
    seen, replies = vlm._given(*given(CASES["one picture"])), jnp.arange(20, dtype=jnp.int32).reshape(4, 5)

    def worth(params):
        return nnx.merge(graphdef, params).answered(*seen, replies).logprobs.sum()

    ways, sizes = [], []
    for many in (100, 1):
        monkeypatch.setattr(layers, "_MANY", many)
        traced = jax.jit(jax.value_and_grad(worth)).trace(vlm.params)
        sizes.append(str(traced.jaxpr).count(" scan["))
        ways.append(traced.lower().compile()(vlm.params))
    assert sizes[1] > sizes[0]
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(ways[0]), jax.tree.leaves(ways[1]), strict=True):
        assert alike(np.asarray(other), np.asarray(one)) < 1e-5, path


def test_who_only_reads_and_writes_stacks_no_parameters(vlm, monkeypatch):
    """Nothing is learned there: a copy of the model would be for nothing. Nor beside adapters that learn alone."""
    monkeypatch.setattr(layers, "_MANY", 1)
    graphdef, _ = outline(dataclasses.replace(vlm.config, remat=True))
    seen, replies = vlm._given(*given(CASES["one picture"])), jnp.arange(20, dtype=jnp.int32).reshape(4, 5)
    key, heat = jax.random.key(0), jnp.float32(1)

    def loops(run, *args, static=(0,)):
        return str(jax.jit(run, static_argnums=static).trace(*args).jaxpr).count(" scan[")

    def written(graphdef, params):
        return sample.generate.__wrapped__(graphdef, params, *seen, key, heat, 5, 2)

    def read(graphdef, params):
        return reply_logits.__wrapped__(graphdef, params, *seen, replies)

    def learned(graphdef, params):
        return jax.grad(lambda params: nnx.merge(graphdef, params).answered(*seen, replies).logprobs.sum())(params)

    for run in (written, read):
        assert loops(run, graphdef, vlm.params) == loops(run, vlm.graphdef, vlm.params)
    adapted = dataclasses.replace(vlm, graphdef=graphdef).with_lora(rank=2)
    tower = loops(lambda graphdef, params: nnx.merge(graphdef, params).look(seen[2]), graphdef, vlm.params)
    assert loops(learned, graphdef, vlm.params) > loops(learned, adapted.graphdef, adapted.params) >= tower


@pytest.mark.parametrize("length", [6, 7])
@pytest.mark.parametrize("counted", [True, False])
def test_fused_attention_sees_even_lengths_whatever_they_are(length, counted, monkeypatch):
    """cuDNN has no gradient of odd ones."""
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, length, 4, 8))
    count, seen, attention = jnp.array([length - 3, length]), [], jax.nn.dot_product_attention
    keys = jnp.arange(length)
    mask = (keys <= keys[:, None]) & (keys < count[:, None, None] if counted else True)

    def plain(q, k, v):
        scores = jnp.einsum("bthd,bkhd->bhtk", q, k) * 8**-0.5
        odds = jax.nn.softmax(jnp.where(mask if mask.ndim == 2 else mask[:, None], scores, -jnp.inf))
        return jnp.einsum("bhtk,bkhd->bthd", odds, v)

    def fused(q, k, v):
        return layers.attention(q, k, v, count if counted else None, causal=True)

    def watched(q, k, v, **how):
        seen.append((q.shape[1], k.shape[1]))
        return attention(q, k, v, **how)

    monkeypatch.setattr(jax.nn, "dot_product_attention", watched)

    def both(way):
        slopes = jax.grad(lambda *given: (way(*given) ** 2).sum(), (0, 1, 2))
        return jax.jit(lambda *given: (way(*given), *slopes(*given)))(q, k, v)

    for found, wanted in zip(both(fused), both(plain), strict=True):
        assert alike(np.asarray(found), np.asarray(wanted)) < 1e-5
    assert set(seen) == {(length + length % 2,) * 2}


@pytest.mark.parametrize(("hidden", "bias"), [(27, True), (27, False), (24, False)])
def test_a_hidden_width_that_a_gpu_is_slow_at_is_widened(hidden, bias, monkeypatch):
    """Same values and gradients as on a CPU, by products whose sides are even."""
    graphdef, params = nnx.split(layers.SwiGLU(16, hidden, 1, bias=bias, rngs=layers.Keys(jax.random.key(0))))
    x, products, matmul = jax.random.normal(jax.random.key(1), (2, 3, 16)), [], jnp.matmul

    def slope(params, x):
        return jax.value_and_grad(lambda params, x: (nnx.merge(graphdef, params)(x) ** 2).sum(), (0, 1))(params, x)

    wanted = jax.tree.leaves(slope(params, x))
    monkeypatch.setattr(layers, "fused", lambda dtype: True)
    monkeypatch.setattr(jnp, "matmul", lambda a, b: products.append(b.shape) or matmul(a, b))
    with jax.numpy_rank_promotion("raise"):
        found = jax.tree.leaves(slope(params, x))
    for a, b in zip(found, wanted, strict=True):
        assert alike(np.asarray(a), np.asarray(b)) < 1e-5
    assert products == [(16, 64), (16, 64), (64, 16)] * (hidden % 8 > 0)


def test_fused_attention_says_the_same(vlm, monkeypatch):
    """What a GPU does in half precision, through the same calls, on a CPU.

    In every block of the decoder, and of the tower but where windows have to be filled: of three sizes, at two.
    """
    if jax.default_backend() != "cpu":
        pytest.skip("cuDNN's kernel is for half precision, and this model is float32")
    case, calls, attention = CASES["several pictures"], [], layers.attention
    wanted = np.asarray(vlm.logits(*given(case)))
    monkeypatch.setattr(layers, "fused", lambda dtype: True)
    monkeypatch.setattr(layers, "attention", lambda *args, **how: calls.append(how) or attention(*args, **how))
    monkeypatch.setattr(Block, "read", Block.read.__wrapped__)  # each by itself, not one traced for all
    monkeypatch.setattr(VisionBlock, "__call__", VisionBlock.__call__.__wrapped__)
    anew = jax.jit(lambda params, *seen: logits.__wrapped__(vlm.graphdef, params, *seen))
    found = np.asarray(anew(vlm.params, *vlm._given(*given(case))))
    for row, length in enumerate(case.lengths):
        assert alike(found[row, :length], wanted[row, :length]) < 1e-5
    assert calls.count({"causal": True}) == vlm.config.decoder.layers
    windowed = vlm.config.vision.layers - len(vlm.config.vision.full) if vlm.config.vision.window else 0
    assert calls.count({}) == 3 * vlm.config.vision.layers - 2 * windowed
