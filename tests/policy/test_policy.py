"""The model as its users call it: laws of decoding, sampling, positions, folders."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

import policy
from policy import sample
from policy import tokenizer as tokens
from policy.config import PRESETS, VisionConfig
from policy.layers import Keys
from policy.model import reply_logits
from policy.positions import counted_positions, token_positions
from policy.vision import VisionTower, patchify
from tests.policy.qwen_folders import edit


@pytest.fixture(scope="module")
def vlm() -> policy.VLM:
    words = tokens.build(["red circle | ", "red circle\n", "(0, 1)"], ["what is there to see here"], merges=16)
    return policy.load("tiny", tokenizer=words, key=jax.random.key(3))


def prompts(vlm: policy.VLM, texts: list[str], key: int = 0) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Right-padded prompts with a random picture of 2 x 3 image tokens each."""
    rows = [tokens.prompt_ids(vlm.tokenizer, text, 6, vlm.config.image_id) for text in texts]
    ids = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = row
    pictures = jax.random.randint(jax.random.key(key), (len(rows), 32, 48, 3), 0, 256).astype(jnp.uint8)
    return jnp.asarray(ids), jnp.asarray([len(row) for row in rows], jnp.int32), pictures


def test_positions_of_text_then_a_picture():
    ids = jnp.asarray([[9, 9, 2, 2, 2, 2, 9, 9, 9]], jnp.int32)
    time, row, column = token_positions(ids, 2, [(2, 2)])[:, 0].tolist()
    assert time == [0, 1, 2, 2, 2, 2, 4, 5, 6]
    assert row == [0, 1, 2, 2, 3, 3, 4, 5, 6]
    assert column == [0, 1, 2, 3, 2, 3, 4, 5, 6]


def test_a_reply_stands_as_far_from_a_pictures_kth_token_whatever_its_size():
    small, large = jnp.asarray([[9, 2, 2, 8, 7, 6]]), jnp.asarray([[9, 2, 2, 2, 2, 8, 7, 6]])
    assert counted_positions(small, 2, [(1, 2)], 10)[0, 0].tolist() == [0, 1, 2, 11, 12, 13]
    assert counted_positions(large, 2, [(2, 2)], 10)[0, 0].tolist() == [0, 1, 2, 3, 4, 11, 12, 13]
    two = jnp.asarray([[2, 2, 8, 2, 2, 7]])
    assert counted_positions(two, 2, [(1, 2)] * 2, 10)[:, 0].tolist() == [[0, 1, 10, 11, 12, 21]] * 3
    for span in (0, 1, 4):  # a picture never takes up less than its tokens
        assert counted_positions(large, 2, [(2, 2)], span)[0, 0].tolist() == list(range(8))


def test_positions_of_two_pictures():
    ids = jnp.asarray([[9, 2, 2, 9, 2, 2, 9]], jnp.int32)
    time, row, column = token_positions(ids, 2, [(1, 2)] * 2)[:, 0].tolist()
    assert time == [0, 1, 1, 3, 4, 4, 6]
    assert row == [0, 1, 1, 3, 4, 4, 6]
    assert column == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("merge", "temporal"), [(1, 1), (2, 2)])
def test_patches_are_cut_block_by_block(merge, temporal):
    config = VisionConfig(width=8, layers=1, heads=1, hidden=8, patch=4, temporal=temporal, merge=merge)
    picture = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    found = np.asarray(patchify(jnp.asarray(picture)[None], config))[0]
    scaled = (picture / np.float32(255) - np.float32(config.mean)) / np.float32(config.std)
    wanted = []
    for block_row in range(0, 16, 4 * merge):
        for block_column in range(0, 24, 4 * merge):
            for row in range(block_row, block_row + 4 * merge, 4):
                for column in range(block_column, block_column + 4 * merge, 4):
                    patch = scaled[row : row + 4, column : column + 4].transpose(2, 0, 1)
                    wanted.append(np.repeat(patch[:, None], temporal, axis=1).ravel())
    np.testing.assert_allclose(found, np.stack(wanted), atol=1e-6)


def test_it_is_shown_in_one_short_line(vlm):
    count = sum(leaf.size for leaf in jax.tree.leaves(vlm.params))
    assert f"{count:,} parameters in float32" in repr(vlm) and len(repr(vlm)) < 100 and "\n" not in repr(vlm)


def test_heads_begin_by_looking_at_their_neighbours(vlm):
    from policy.positions import patch_angles, patch_coordinates, rotate

    config = PRESETS["small"].vision
    tower = VisionTower(config, 64, rngs=Keys(jax.random.key(0)))
    q, k, _ = np.asarray(tower.blocks[0].attention.qkv.bias[...]).reshape(3, config.heads, config.head_dim)
    angles = jnp.asarray(patch_angles(patch_coordinates(8, 8, 1), config.head_dim, config.rope_theta))
    turned = [rotate(jnp.broadcast_to(jnp.asarray(x)[None], (64, *x.shape)), angles) for x in (q, k)]
    scores = jnp.einsum("qhd,khd->hqk", *turned)
    seen = [(int(i) // 8 - 3, int(i) % 8 - 4) for i in jnp.argmax(scores[:, 3 * 8 + 4], axis=-1)]
    assert seen == [(0, 1), (0, -1), (1, 0), (-1, 0)]


def test_a_padded_row_reads_as_if_it_were_alone(vlm):
    ids, lengths, pictures = prompts(vlm, ["see", "what is there to see here (0, 1)"])
    together = vlm.logits(ids, lengths, pictures)
    alone = vlm.logits(ids[:1, : lengths[0]], lengths[:1], pictures[:1])
    np.testing.assert_allclose(together[0, : lengths[0]], alone[0], rtol=1e-4, atol=1e-4)


def test_a_row_knows_its_own_picture_only(vlm):
    ids, lengths, pictures = prompts(vlm, ["see", "see"])
    before = vlm.logits(ids, lengths, pictures)
    after = vlm.logits(ids, lengths, pictures.at[1].set(255 - pictures[1]))
    np.testing.assert_array_equal(before[0], after[0])
    assert not np.allclose(before[1], after[1])


def test_cached_decoding_equals_the_full_forward_pass(vlm):
    ids, lengths, pictures = prompts(vlm, ["see", "what is there to see here (0, 1)"])
    said = vlm.generate(ids, lengths, pictures, key=jax.random.key(1), max_new_tokens=12, samples=3)
    grouped = reply_logits(vlm.graphdef, vlm.params, ids, lengths, pictures, said.ids)
    for row in range(6):
        n, m = int(lengths[row // 3]), int(said.lengths[row])
        whole = jnp.concatenate([ids[row // 3, :n], said.ids[row, :m]])[None]
        full = vlm.logits(whole, jnp.asarray([n + m], jnp.int32), pictures[row // 3][None])[0, n - 1 : -1]
        np.testing.assert_allclose(full, grouped[row, :m], rtol=1e-4, atol=1e-4)
        picked = jax.nn.log_softmax(full)[jnp.arange(m), said.ids[row, :m]]
        np.testing.assert_allclose(picked, said.logprobs[row, :m], rtol=1e-4, atol=1e-4)
        assert (said.ids[row, m:] == vlm.config.pad_id).all() and (said.logprobs[row, m:] == 0).all()


def test_greedy_takes_the_likeliest_token_and_needs_no_luck(vlm):
    ids, lengths, pictures = prompts(vlm, ["see", "what"])
    a, b = (
        vlm.generate(ids, lengths, pictures, key=jax.random.key(k), max_new_tokens=6, temperature=0.0) for k in (1, 2)
    )
    np.testing.assert_array_equal(a.ids, b.ids)
    first = vlm.logits(ids, lengths, pictures)[jnp.arange(2), lengths - 1]
    np.testing.assert_array_equal(a.ids[:, 0], jnp.argmax(first, axis=-1))


def test_samples_of_a_prompt_differ_and_repeat_with_the_key(vlm):
    ids, lengths, pictures = prompts(vlm, ["see"])
    a, b = (vlm.generate(ids, lengths, pictures, key=jax.random.key(1), max_new_tokens=8, samples=4) for _ in range(2))
    np.testing.assert_array_equal(a.ids, b.ids)
    assert len({tuple(row) for row in a.ids.tolist()}) == 4


@pytest.mark.parametrize("kind", [np.int64, np.uint16])
def test_ids_are_whole_numbers_of_any_kind(vlm, kind):
    ids, lengths, pictures = prompts(vlm, ["see", "what"])
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        found = vlm.logits(np.asarray(ids, kind), np.asarray(lengths, kind), pictures)
    np.testing.assert_array_equal(found, vlm.logits(ids, lengths, pictures))


def test_image_tokens_are_never_said_and_stop_ends_a_reply(vlm):
    ids, lengths, pictures = prompts(vlm, ["see"] * 8)
    said = vlm.generate(ids, lengths, pictures, key=jax.random.key(2), max_new_tokens=400, temperature=2.0, samples=4)
    assert not (said.ids == vlm.config.image_id).any()
    assert vlm.logits(ids, lengths, pictures)[..., vlm.config.image_id].max() == -jnp.inf
    stopped = 0
    for row, n in zip(said.ids.tolist(), said.lengths.tolist(), strict=True):
        assert vlm.config.stop_id not in row[: n - 1]
        stopped += row[n - 1] == vlm.config.stop_id
    assert stopped > 0


def test_image_tokens_must_match_the_pictures(vlm):
    ids, lengths, pictures = prompts(vlm, ["see"])
    with pytest.raises(ValueError, match="2 pictures need 12 image tokens, the ids have 6"):
        vlm.logits(ids, lengths, jnp.concatenate([pictures, pictures]))
    with pytest.raises(ValueError, match="blocks"):
        vlm.logits(ids, lengths, pictures[:, :30])


def test_every_row_has_the_image_tokens_of_whole_pictures(vlm):
    """Else a row would be shown a part of another's picture."""
    ids, lengths, pictures = prompts(vlm, ["see", "see"])
    image = np.flatnonzero(ids[0] == vlm.config.image_id)
    moved = ids.at[0, image[:2]].set(5)
    longer = jnp.pad(ids, ((0, 0), (0, 2)), constant_values=5).at[1, -2:].set(vlm.config.image_id)
    pictures = jnp.concatenate([pictures[:1], pictures[:1]])
    moved = jnp.pad(moved, ((0, 0), (0, 2)), constant_values=5).at[1, -2:].set(vlm.config.image_id)
    vlm.logits(ids, lengths, pictures)
    with pytest.raises(ValueError, match="row 0 has image tokens of a part of a picture"):
        vlm.logits(moved, lengths + 2, pictures)
    with pytest.raises(ValueError, match="2 pictures need 12 image tokens, the ids have 12 within their lengths"):
        vlm.logits(longer, lengths, pictures)
    with pytest.raises(ValueError, match="2 pictures need 12 image tokens, the ids have 10 within their lengths"):
        vlm.logits(moved, lengths, pictures)


def test_prompts_may_be_lists_and_a_key_is_one_or_one_for_each(vlm):
    ids, lengths, pictures = prompts(vlm, ["see"])
    listed = vlm.generate(ids.tolist(), lengths.tolist(), pictures, key=jax.random.key(0), max_new_tokens=3)
    said = vlm.generate(ids, lengths, pictures, key=jax.random.key(0), max_new_tokens=3)
    np.testing.assert_array_equal(listed.ids, said.ids)
    vlm.generate(ids, lengths, pictures, key=jax.random.key(0)[None], max_new_tokens=3)
    vlm.generate(ids, lengths, pictures, key=jax.random.PRNGKey(0), max_new_tokens=3)
    for key in (jax.random.split(jax.random.key(0), 3), jax.random.split(jax.random.PRNGKey(0), 1), 0):
        with pytest.raises(ValueError, match="one for each of 1 prompts"):
            vlm.generate(ids, lengths, pictures, key=key, max_new_tokens=3)


def test_phrases_are_one_token_and_any_text_survives(vlm):
    words = vlm.tokenizer
    assert len(words.encode("red circle | red circle\n(0, 1)", add_special_tokens=False)) == 3
    for text in ("naïve 机器 🙂 \n\t <think>", "red circle | (0, 1) red", "", "\u2028"):
        assert words.decode(words.encode(text, add_special_tokens=False)) == text


def test_a_model_goes_into_a_folder_and_back(vlm, tmp_path):
    policy.save(vlm, tmp_path / "model")
    again = policy.load(tmp_path / "model")
    assert again.config == vlm.config
    ids, lengths, pictures = prompts(vlm, ["see (0, 1)"])
    np.testing.assert_array_equal(vlm.logits(ids, lengths, pictures), again.logits(ids, lengths, pictures))
    text = "red circle | hello\n"
    assert AutoTokenizer.from_pretrained(tmp_path / "model").encode(text) == vlm.tokenizer.encode(text)


def test_bfloat16_is_close_to_float32(vlm):
    half = policy.load("tiny", tokenizer=vlm.tokenizer, key=jax.random.key(3), dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype("bfloat16")}
    ids, lengths, pictures = prompts(vlm, ["see"])
    a, b = (jax.nn.log_softmax(m.logits(ids, lengths, pictures)[0, -1]) for m in (vlm, half))
    assert jnp.abs(jnp.exp(a) - jnp.exp(b)).max() < 0.05


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is damaged"),
        (lambda f: (f / "config.json").write_text('{"model_type": "llama"}'), "holds a"),
        (lambda f: (f / "model.safetensors").unlink(), "is missing"),
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:1000]), "is damaged"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "is damaged"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "config.json is damaged"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), "config.json is damaged"),
        (lambda f: (f / "config.json").write_text("[]"), "it is no JSON object"),
        (lambda f: edit(f / "config.json", vocab="many"), "config.json is damaged: VLMConfig vocab='many'"),
        (lambda f: edit(f / "config.json", vision=3), "config.json is damaged: 3 is no VisionConfig"),
        (lambda f: edit(f / "config.json", colour=3), "config.json is damaged: .*'colour'"),
        (lambda f: edit(f / "config.json", "decoder", layers=-1), "DecoderConfig layers=-1"),
        (lambda f: edit(f / "config.json", "decoder", heads=3, kv_heads=2), "no multiple of kv_heads"),
        (lambda f: edit(f / "config.json", "decoder", sections=[1, 2]), r"sections=\(1, 2\)"),
        (lambda f: edit(f / "config.json", "vision", eps=float("nan")), "eps=nan"),
        (lambda f: edit(f / "config.json", image_id=1 << 20), "not in the vocabulary"),
        (lambda f: edit(f / "config.json", image_id=5), "is of another model"),
        (lambda f: [(f / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")], "tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "no readable tokenizer"),
        (lambda f: edit(f / "tokenizer.json", "model", type="BPEv2"), "no readable tokenizer"),
    ],
)
def test_a_damaged_folder_is_told_in_one_line(vlm, tmp_path, damage, message):
    policy.save(vlm, tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        policy.load(tmp_path)
    assert "\n" not in str(error.value)


def test_an_unknown_source_is_told():
    with pytest.raises(ValueError, match="neither a folder nor one of the presets tiny, small, medium"):
        policy.load("gigantic")
    for source in ("", "x" * 5000):
        with pytest.raises(ValueError, match=r"neither a folder .*; nothing is fetched: download it first") as error:
            policy.load(source)
        assert len(str(error.value)) < 400


def test_missing_and_misshapen_tensors_are_named(vlm, tmp_path):
    policy.save(vlm, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(iter(sorted(tensors)))
    save_file({k: v for k, v in tensors.items() if k != name}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"1 missing tensors: {name}"):
        policy.load(tmp_path)
    save_file(tensors | {name: tensors[name][..., :1]}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"1 misshapen tensors: {name}"):
        policy.load(tmp_path)


def test_a_picture_beyond_the_table_of_places_is_refused(vlm):
    """Clipping would give rows 16 to 27 of 448 pixels one and the same place."""
    assert vlm.config.image_tokens(256, 256) == (16, 16)
    with pytest.raises(ValueError, match=r"28x28 patches.*places of 16x16.*at most 256 pixels"):
        vlm.config.image_tokens(448, 448)
    tower = VisionTower(PRESETS["tiny"].vision, 32, rngs=Keys(jax.random.key(0)))
    with pytest.raises(ValueError, match="17x16 patches"):
        tower(jnp.zeros((1, 272, 256, 3), jnp.uint8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids, n, pics: (ids.at[0, -1].set(1 << 20), n, pics), "do not all lie in"),
        (lambda ids, n, pics: (ids.at[0, -1].set(-1), n, pics), "do not all lie in"),
        (lambda ids, n, pics: (ids, n - 0.5, pics), "ids and lengths are integers, not int32 and float32"),
        (lambda ids, n, pics: (ids.astype(jnp.float32), n, pics), "ids and lengths are integers, not float32"),
        (lambda ids, n, pics: (ids, n, ["picture.png"]), "or a list of arrays, not of str"),
        (lambda ids, n, pics: (ids, n * 0, pics), r"lengths 0 \.\. 0"),
        (lambda ids, n, pics: (ids, n + 1, pics), "lengths"),
        (lambda ids, n, pics: (ids[0], n, pics), r"ids are \[B, T\]"),
        (lambda ids, n, pics: (ids[:0], n[:0], None), r"ids are \[B, T\]"),
        (lambda ids, n, pics: (ids, n, pics / 255), "pictures are uint8"),
        (lambda ids, n, pics: (ids, n, pics[0]), "pictures are uint8"),
    ],
)
def test_what_would_be_read_as_something_else_is_refused(vlm, change, message):
    with pytest.raises(ValueError, match=message):
        vlm.logits(*change(*prompts(vlm, ["see"])))


@pytest.mark.parametrize("dtype", ["foo", "int8", None, 3])
def test_a_dtype_that_cannot_be_is_told(dtype):
    with pytest.raises(ValueError, match="is not one of float32, bfloat16, float16"):
        policy.load("tiny", dtype=dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", jnp.bfloat16, np.float16])
def test_a_half_precision_model_goes_into_a_folder_and_back(vlm, tmp_path, dtype):
    half = policy.load("tiny", tokenizer=vlm.tokenizer, dtype=dtype)
    policy.save(half, tmp_path)
    again = policy.load(tmp_path, dtype=dtype)
    for a, b in zip(jax.tree.leaves(half.params), jax.tree.leaves(again.params), strict=True):
        assert a.dtype == b.dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(a, b)


def test_wider_numbers_make_no_other_weights(vlm):
    with jax.enable_x64(True):
        wide = policy.load("tiny", tokenizer=vlm.tokenizer, key=jax.random.key(3))
    for a, b in zip(jax.tree.leaves(wide.params), jax.tree.leaves(vlm.params), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def test_a_folder_without_a_name_is_none(vlm):
    with pytest.raises(ValueError, match=r'^folder="": give the name of one'):
        policy.save(vlm, "")


def test_what_is_not_finite_is_neither_saved_nor_loaded(vlm, tmp_path):
    policy.save(vlm, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    broken = dataclasses.replace(vlm, params=jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), vlm.params))
    with pytest.raises(ValueError, match="not finite"):
        policy.save(broken, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"decoder.norm.scale": np.full(32, np.inf, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 tensors that are not finite: decoder\.norm\.scale"):
        policy.load(tmp_path)


@pytest.mark.filterwarnings("error")
def test_what_a_dtype_cannot_hold_is_told(vlm, tmp_path):
    policy.save(vlm, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for name in ("decoder.norm.scale", "embedding.embedding"):
        file = tmp_path / "model.safetensors"
        save_file(tensors | {name: np.full_like(tensors[name], 1e5)}, file)
        policy.load(tmp_path, dtype="bfloat16")
        with pytest.raises(ValueError, match=f"1 tensors too large for float16, take bfloat16: {name}"):
            policy.load(tmp_path, dtype="float16")


def test_a_model_can_be_pickled(vlm):
    again = pickle.loads(pickle.dumps(vlm))
    ids, lengths, pictures = prompts(vlm, ["see (0, 1)"])
    np.testing.assert_array_equal(vlm.logits(ids, lengths, pictures), again.logits(ids, lengths, pictures))


@pytest.mark.parametrize("vocab", [1, 2, 7, 624])
def test_a_token_is_drawn_where_the_cumulative_probability_passes_the_luck(vocab):
    """Against NumPy in float64: equally spaced luck says every token as often as its probability asks, in order."""
    logits = np.random.default_rng(vocab).normal(size=vocab).astype(np.float32) * 2
    logits[vocab // 2 + 1 :: 3] = -np.inf
    luck = (np.arange(5000) + 0.5) / 5000
    rows = jnp.broadcast_to(jnp.asarray(logits), (5000, vocab))
    token, logprob = map(np.asarray, sample.draw(rows, jnp.asarray(luck, jnp.float32), jnp.float32(0.7)))
    odds = np.exp(logits.astype(np.float64) / 0.7)
    odds /= odds.sum()
    assert (np.diff(token) >= 0).all()
    np.testing.assert_allclose(np.bincount(token, minlength=vocab) / 5000, odds, atol=1.5 / 5000)
    np.testing.assert_allclose(logprob, np.log(odds[token]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("luck", [0.0, 1 - 2**-24])
def test_what_has_no_probability_is_never_drawn(luck):
    logits = jax.random.normal(jax.random.key(0), (512, 1000)) * 4
    never = jax.random.bernoulli(jax.random.key(1), 0.5, logits.shape)
    token, logprob = sample.draw(jnp.where(never, -jnp.inf, logits), jnp.full(512, luck), jnp.float32(1))
    assert not jnp.take_along_axis(never, token[:, None], axis=1).any() and jnp.isfinite(logprob).all()


@pytest.mark.parametrize("temperature", [0.0, 1e-37, 1e-20, 1e-6])
def test_the_coldest_sampling_is_greedy(temperature):
    logits = jnp.asarray([[1e4, -1e4, 9e3, -jnp.inf], [0.0, 1.0, 0.5, -jnp.inf]])
    token, logprob = sample.draw(logits, jnp.asarray([0.9, 0.9]), jnp.float32(temperature))
    assert token.tolist() == [0, 1] and jnp.isfinite(logprob).all()
    if temperature:
        np.testing.assert_allclose(logprob, 0, atol=1e-6)


@pytest.mark.parametrize(
    ("top_k", "top_p"), [(1, None), (5, None), (0, 0.6), (0, 1e-6), (8, 0.5), (3, 0.999), (99, None)]
)
def test_only_the_likeliest_are_drawn_and_as_often_as_they_ask(top_k, top_p):
    """Against the definitions, in NumPy: sort, cut to top_k, cut where the cumulative probability reaches top_p."""
    logits = np.random.default_rng(0).normal(size=40).astype(np.float32) * 2
    odds = np.exp(logits.astype(np.float64) / 0.7)
    kept = np.argsort(-odds)[: top_k or None]
    if top_p is not None:
        share = np.cumsum(odds[kept]) / odds[kept].sum()
        kept = kept[: np.argmax(share >= top_p) + 1]
    odds = np.where(np.isin(np.arange(40), kept), odds, 0)
    odds /= odds.sum()
    luck = jnp.asarray((np.arange(5000) + 0.5) / 5000, jnp.float32)
    share = None if top_p is None else jnp.float32(top_p)
    rows = jnp.broadcast_to(jnp.asarray(logits), (5000, 40))
    token, logprob = map(np.asarray, sample.draw(rows, luck, jnp.float32(0.7), top_k, share))
    np.testing.assert_allclose(np.bincount(token, minlength=40) / 5000, odds, atol=1.5 / 5000)
    np.testing.assert_allclose(logprob, np.log(odds[token]), rtol=1e-4, atol=1e-5)


def test_top_k_of_one_is_greedy(vlm):
    ids, lengths, pictures = prompts(vlm, ["see", "what"])
    a = vlm.generate(ids, lengths, pictures, key=jax.random.key(1), max_new_tokens=6, temperature=2.0, top_k=1)
    b = vlm.generate(ids, lengths, pictures, key=jax.random.key(2), max_new_tokens=6, temperature=0.0)
    np.testing.assert_array_equal(a.ids, b.ids)
    c = vlm.generate(ids, lengths, pictures, key=jax.random.key(1), max_new_tokens=6, top_p=1e-46)  # 0 as float32
    np.testing.assert_array_equal(c.ids, b.ids)
    hot = vlm.generate(ids, lengths, pictures, key=jax.random.key(1), max_new_tokens=2, temperature=1e38)
    said = vlm.config.vocab - 1 - len(vlm.config.unsaid)  # of which all are as likely
    np.testing.assert_allclose(hot.logprobs, -np.log(said), rtol=1e-5)
    for wrong in ({"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_p": float("nan")}):
        with pytest.raises(ValueError, match="top_p"):
            vlm.generate(ids, lengths, pictures, key=jax.random.key(1), **wrong)
