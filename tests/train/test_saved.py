"""Training what people have: Hugging Face folders of Qwen2.5-VL and Qwen3-VL, by their own tokenizers."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import jaxgym
import policy
from policy import lora
from policy import model as models
from policy.tokenizer import spelling
from policy.weights import named
from tests.policy import qwen_folders as folders
from tests.policy.test_qwen import CASES, given
from train import course, learner
from train import main as program
from train.config import Config
from train.language import build_tokenizer, speak
from train.loop import Trainer
from train.parts import Coldstart, Grpo, Lora

SHORT = [
    "--games", "2048", "--coldstart-boards", "4", "--grpo-states", "2", "--grpo-group", "4",
    "--coldstart-lr", "1e-3", "--evaluation-boards", "4", "--reply", "16",
]  # fmt: skip


@pytest.fixture(scope="module", params=folders.KINDS)
def folder(request, tmp_path_factory):
    return folders.write(tmp_path_factory.mktemp("saved") / request.param, request.param)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A folder, where one kind is as good as the other."""
    return folders.write(tmp_path_factory.mktemp("one"), "qwen2_5_vl")


@pytest.mark.parametrize("folder", [pytest.param("qwen2_5_vl", marks=pytest.mark.slow), "qwen3_vl"], indirect=True)
def test_a_folder_trains_from_start_to_end_and_becomes_a_folder(folder, tmp_path, monkeypatch):
    """One kind as it is; the other with all that saves memory: adapters learn, in half precision, blocks run twice."""
    saving = folder.name == "qwen3_vl"
    if saving:  # a run of every day: to play takes longer than to learn
        monkeypatch.setattr(Trainer, "evaluate", lambda self, column: iter(()))
        monkeypatch.setattr(Trainer, "anchors", lambda self: iter(()))
    more = ["--lora-rank", "2", "--lora-modules", "q,v,down", "--dtype", "bfloat16", "--remat"] if saving else []
    run = tmp_path / "run"
    flags = ["--model", str(folder), "--run", str(run), "--coldstart-steps", "3", "--grpo-updates", "2", *SHORT, *more]
    assert program.main(flags) == 0
    if not saving:
        columns = json.loads((run / "table.json").read_text())["games"]["2048"]["columns"]
        assert set(columns) == {"random", "random_legal", "teacher", "coldstart", "grpo"}
    before, after = (policy.load(place, dtype="bfloat16" if saving else "float32") for place in (folder, run / "model"))
    assert after.config == before.config and after.origin.kind == folder.name
    changed = {
        path for path, leaf in named(after.params).items() if not np.array_equal(leaf, named(before.params)[path])
    }
    inside = {path for path in changed if path.startswith("decoder.blocks")}
    if saving:
        adapted = {path.split(".")[-2] for path in inside}
        assert adapted == {"q", "v", "down"}
        kept = policy.load(run / "adapters", dtype="bfloat16")
        assert kept.adapted == (2, 32.0, ("q", "v", "down"))
        merged = named(kept.merged().params)
        assert all(np.array_equal(leaf, merged[path]) for path, leaf in named(after.params).items())
    else:
        assert {path.split(".")[0] for path in changed} == {"vision", "embedding", "decoder"} and len(inside) > 30


def test_adapters_alone_are_tested_as_they_are_and_go_on_learning(one, tmp_path):
    """Or are merged, where all of a model is to learn."""
    changed = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + 1e-3 if lora.adapter(path) else leaf,
        policy.load(one).with_lora(rank=2, alpha=6.0, modules=("q",)).params,
    )
    beside = replace(policy.load(one).with_lora(rank=2, alpha=6.0, modules=("q",)), params=changed)
    policy.save_adapters(beside, tmp_path / "apart", one)
    config = Config(games=("2048",), model=str(tmp_path / "apart"), coldstart=Coldstart(steps=1, boards=2, lr=1e-3))

    def prepared(config):
        return course.prepare(config, jax.random.key(0))[0]

    exact = prepared(replace(config, recipe="g0", grpo=Grpo(updates=0)))
    assert exact.adapted == beside.adapted
    assert prepared(config).adapted is None
    asked = replace(config, recipe="g0", grpo=Grpo(updates=0), lora=Lora(rank=2), dtype="bfloat16")
    idle = Trainer(asked, tmp_path / "idle")  # nothing is to learn
    idle._write("model")
    idle.checkpoints.close()
    merged = named(policy.load(tmp_path / "apart", dtype="bfloat16").merged().params)
    for path, leaf in named(policy.load(tmp_path / "idle" / "model", dtype="bfloat16").params).items():
        assert np.array_equal(leaf, merged[path]), path
    bare = Trainer(replace(asked, model=str(one)), tmp_path / "bare")
    bare._write("model")
    bare.checkpoints.close()
    assert not (tmp_path / "bare" / "adapters").exists()
    assert np.array_equal(
        *(named(vlm.merged().params)["decoder.blocks.0.attention.q.kernel"] for vlm in (exact, beside))
    )
    with pytest.raises(
        ValueError, match=r"--lora-rank 2 --lora-alpha 6 --lora-modules q, or --lora-rank 0 to have them merged$"
    ):
        prepared(replace(config, lora=Lora(rank=2)))
    trainer = Trainer(replace(config, lora=Lora(rank=2, alpha=6.0, modules=("q",))), tmp_path / "run")
    before = {path: np.asarray(leaf) for path, leaf in named(trainer.final().params).items()}
    trainer._supervise("coldstart")
    trainer._write("model-best")
    trainer.checkpoints.close()
    after = policy.load(tmp_path / "run" / "adapters-best")
    assert after.adapted == beside.adapted
    for path, leaf in named(after.params).items():
        assert np.array_equal(leaf, before[path]) == ("lora" not in path), path
        assert "lora" not in path or np.array_equal(before[path], named(changed)[path]), path


def test_a_frozen_tower_stays_and_written_replies_are_learned(one, tmp_path):
    part = Coldstart(steps=20, boards=2, lr=1e-2)
    trainer = Trainer(Config(games=("2048",), model=str(one), freeze="vision", coldstart=part), tmp_path)
    losses = [values["loss"] for _ in range(20) for values in [trainer._supervise("coldstart")] if values]
    assert losses[-1] < 0.7 * losses[0], losses
    before, after = (named(vlm.params) for vlm in (policy.load(one), trainer.final()))
    for path, leaf in before.items():
        assert np.array_equal(leaf, after[path]) == path.startswith("vision"), path


@pytest.fixture(scope="module")
def language(one):
    game = jaxgym.make("2048", patch=8)
    return speak(policy.load(one), game, jax.jit(game.reset)(jax.random.key(0)))


def test_every_id_is_spelled_as_the_tokenizer_decodes_it(language):
    words = language.tokenizer
    assert spelling(words, folders.VOCAB + 3)[-3:] == [b""] * 3
    for id in words.get_vocab().values():
        assert language.spelling[id].decode(errors="replace") == words.decode([id], skip_special_tokens=False)


def test_replies_are_decoded_as_the_tokenizer_does(language):
    """Any ids at all: characters cut in the middle, special tokens, ids without a token; up to the first stop."""
    ids = np.random.default_rng(0).integers(0, folders.VOCAB, (200, 40)).astype(np.int32)
    lengths = np.arange(200, dtype=np.int32) % 41
    ids[np.arange(0, 200, 3), np.maximum(lengths[::3] - 1, 0)] = language.stops[-1]
    rows = [row[: n - (n > 0 and row[n - 1] in language.stops)] for row, n in zip(ids, lengths, strict=True)]
    decoded = language.tokenizer.batch_decode([row.tolist() for row in rows], skip_special_tokens=False)
    assert language.decode_replies(ids, lengths) == decoded


def test_every_token_is_of_one_block(language):
    texts = {
        "<perception>a</perception><think>b</think><answer>c</answer>": (
            "<perception>a</perception>",
            "<think>b</think>",
        ),
        "a</perception>b</think>c</perception>d": ("a</perception>", "b</think>"),
        "</think>a</perception>b": ("", "</think>"),  # it thinks before it reads
        "<think>a <perception> b</think><answer>c</answer>": ("", "<think>a <perception> b</think>"),
        "no tags at all": ("", "no tags at all"),  # nothing is read: so what is said is thought
        "<think>b</think><answer>c</answer>": ("", "<think>b</think>"),
        "<answer>c</answer>": ("", "<answer>c</answer>"),
        "<perception>é": ("<perception>é", ""),
        "</perception></think>": ("</perception>", "</think>"),
    }
    ids, lengths = language.encode_replies(list(texts))
    found = language.blocks(ids, lengths)
    for row, length, (text, (first, second)) in zip(found, lengths, texts.items(), strict=True):
        sizes = [len(part.encode()) for part in (first, second, text[len(first) + len(second) :])]
        wanted = np.repeat([0, 1, 2], sizes).tolist()  # one token a byte; the stop token comes last
        assert row[: length - 1].tolist() == wanted
        assert row[length - 1] == ([0] + wanted)[-1] or text.endswith(("</perception>", "</think>"))
        assert (row[length:] == -1).all()


def test_blocks_of_a_tokenizer_made_of_the_games_words():
    game = jaxgym.make("2048")
    states = jax.vmap(game.reset)(jax.random.split(jax.random.key(0), 4))
    vlm = policy.load("tiny", tokenizer=build_tokenizer([game], [jax.device_get(states)]))
    language = speak(vlm, game, jax.tree.map(lambda leaf: leaf[0], states))
    ids, lengths = language.encode_replies(["<perception>2 | </perception><think>up</think><answer>up</answer>"])
    tokens = [language.tokenizer.decode([id]) for id in ids[0, : lengths[0]]]
    blocks = language.blocks(ids, lengths)[0, : lengths[0]].tolist()
    assert blocks == sorted(blocks) and set(blocks) == {0, 1, 2}
    assert blocks[tokens.index("</perception><think>")] == 0 and blocks[tokens.index("</think><answer>")] == 1
    assert blocks[tokens.index("</perception><think>") + 1] == 1


def test_a_written_reply_that_needs_more_room_gets_it(language):
    ids, lengths = language.encode_replies(["a" * (language.room + 5)])
    assert lengths[0] == language.room + 6 <= ids.shape[1] and ids.shape[1] % 64 == 0


@pytest.mark.parametrize("frozen", [{"lora": Lora(rank=2)}, {"freeze": "vision"}])
def test_a_run_does_not_go_on_beside_other_weights(tmp_path, frozen):
    """What stays as it is is in no checkpoint: the folder that it came from has to be as it was."""
    base = folders.write(tmp_path / "base", "qwen2_5_vl", files=1)
    config = Config(games=("2048",), model=str(base), coldstart=Coldstart(steps=2, boards=2), **frozen)
    trainer = Trainer(config, tmp_path / "run")
    trainer.save()
    trainer.checkpoints.close()
    assert Trainer(config, tmp_path / "run").resume()
    file = base / "model.safetensors"
    stored = load_file(file)
    name = next(name for name in stored if "visual" in name)
    changed = stored[name].copy()
    changed.flat[0] += 1e-3
    save_file(stored | {name: changed}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"the model in .*base is not the one that .*run began with: put that back"):
        Trainer(config, tmp_path / "run").resume()
    save_file(stored, file, metadata={"format": "pt"})
    assert Trainer(config, tmp_path / "run").resume()


@pytest.mark.parametrize("adapters", [True, False])
@pytest.mark.parametrize("tower", [True, False])
def test_what_learns_and_what_stays_are_the_whole(one, adapters, tower):
    vlm = policy.load(one, dtype="bfloat16").with_lora(rank=2)
    learned, fixed = learner.divide(vlm.params, adapters=adapters, tower=tower)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(learned))
    for path in named(learned):
        assert ("lora" in path or not adapters) and (tower or not path.startswith("vision"))
    for path in named(fixed):
        assert (adapters and "lora" not in path) or (not tower and path.startswith("vision"))
    again = learner.whole(learned, fixed, jnp.dtype("bfloat16"))
    assert jax.tree.structure(again) == jax.tree.structure(vlm.params)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(vlm.params), strict=True):
        np.testing.assert_array_equal(a, b.astype(jnp.bfloat16))


def test_large_vocabularies_are_judged_part_by_part_to_the_same(one, monkeypatch):
    """Values and gradients; 13 states at a time do not divide what there is."""
    vlm = policy.load(one)
    hidden = jax.random.normal(jax.random.key(0), (3, 17, 64))
    ids = jax.random.randint(jax.random.key(1), (3, 17), 0, 256)

    def judge(params, hidden):
        said = nnx.merge(vlm.graphdef, params).said(hidden, ids, 0.7)
        return said.logprobs.sum() + 3 * said.entropy.sum(), said

    ways, loops = [], []
    for size in (1 << 26, 13 * folders.VOCAB):
        monkeypatch.setattr(models, "_LOGITS", size)
        traced = jax.jit(jax.value_and_grad(judge, argnums=(0, 1), has_aux=True)).trace(vlm.params, hidden)
        loops.append(str(traced.jaxpr).count(" scan["))
        ways.append(traced.lower().compile()(vlm.params, hidden))
    assert loops == [0, 2]  # there and back
    for a, b in zip(*map(jax.tree.leaves, ways), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_computing_again_changes_nothing_but_memory(one):
    case = given(CASES["an odd picture"])
    slopes = []
    for remat in (False, True):
        vlm = policy.load(one, remat=remat)
        seen = vlm._given(*case)

        def loss(params, vlm=vlm, seen=seen):
            return models.logits(vlm.graphdef, params, *seen)[..., :99].sum()

        traced = jax.jit(jax.grad(loss)).trace(vlm.params)
        slopes.append(traced.lower().compile()(vlm.params))
        text = str(traced.jaxpr)
        assert ("checkpoint" in text or "remat" in text) == remat
    for a, b in zip(*map(jax.tree.leaves, slopes), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "tiny", "--lora-rank", "4"], "lora rank=4 needs a saved model: 'tiny' is a preset"),
        (["--model", "tiny", "--freeze", "vision"], "freeze=vision needs a saved model"),
        (["--lora-modules", "q,z"], "lora modules=q,z: must be some of q,k,v,out,gate,up,down"),
        (["--lora-rank", "-1"], "lora rank=-1: must be at least 0"),
        (["--dtype", "int8"], "--dtype: invalid choice: 'int8'"),
    ],
)
def test_what_cannot_be_trained_is_told_in_one_line(flags, message, tmp_path, capsys):
    try:
        status = program.main([*flags, "--run", str(tmp_path / "run")])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("rank", "cold", "rl", "told"),
    [(0, 2e-3, 1e-4, ["1e-05", "1e-06"]), (0, 1e-5, 1e-6, []), (16, 1e-4, 1e-4, []), (16, 1e-4, 1e-3, ["1e-05"])],
)
def test_rates_that_would_undo_what_was_learned_are_told(one, tmp_path, rank, cold, rl, told):
    parts = {"coldstart": Coldstart(steps=1, boards=4, lr=cold), "grpo": Grpo(updates=1, lr=rl)}
    trainer = Trainer(Config(games=("2048",), model=str(one), lora=Lora(rank=rank), **parts), tmp_path)
    assert [note.split()[-3] for note in trainer.notes] == told


@pytest.mark.parametrize(
    ("rank", "given", "cold", "rl"), [(0, 0.0, 1e-5, 1e-6), (16, 0.0, 1e-4, 1e-5), (0, 3e-6, 3e-6, 3e-6)]
)
def test_rates_that_are_not_given_suit_the_model(one, tmp_path, rank, given, cold, rl):
    parts = {"coldstart": Coldstart(steps=1, boards=4, lr=given), "grpo": Grpo(updates=1, lr=given)}
    trainer = Trainer(Config(games=("2048",), model=str(one), lora=Lora(rank=rank), **parts), tmp_path)
    assert not trainer.notes and trainer._rate() == pytest.approx(cold)
    trainer._enter("grpo")
    assert trainer._rate() == pytest.approx(rl)


def test_pictures_that_others_would_enlarge_are_told(one, tmp_path):
    """Once a game, by the folder's own image processor."""
    folders.edit(one / "preprocessor_config.json", size={"shortest_edge": 4096, "longest_edge": 1 << 24})
    trainer = Trainer(Config(games=("2048",), model=str(one), recipe="g0"), tmp_path)
    (note,) = trainer.notes
    assert "to at least 4,096 pixels" in note and "they have 1,024: --picture 64 trains on such" in note
    assert not Trainer(Config(games=("2048",), model=str(one), recipe="g0", picture=64), tmp_path).notes


def test_a_folder_whose_patches_do_not_fit_the_picture_is_told(one, tmp_path, capsys):
    assert (
        program.main(["--model", str(one), "--run", str(tmp_path / "run"), "--games", "2048", "--picture", "100"]) == 2
    )
    assert "100" in capsys.readouterr().err
    assert lora.MODULES == Config().lora.modules == Lora().modules
