"""Replies on disk: what is written is what is read, and what cannot be read is told with its line."""

import json
import os
import re
import shutil
import signal
import zlib
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

import jaxgym
import policy
from tests.policy import qwen_folders as folders
from train import dataset, export, supervise
from train import main as program
from train.files import Mendable
from train.loop import Trainer
from train.metrics import Records
from train.parts import Base, Coldstart, Grpo, Sight, States


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A few boards of 2048 in two sizes, in the pictures of the presets."""
    out = tmp_path_factory.mktemp("written") / "set"
    flags = ["--games", "2048", "--levels", "paper,easy", "--boards", "6", "--block", "16", "--out", str(out)]
    assert export.main(flags) == 0
    return out


@pytest.fixture(scope="module")
def trainer(tmp_path_factory, small, folder):
    """One that reads all day."""
    parts = {
        "sight": Sight(),
        "base": Base(steps=0),
        "grpo": Grpo(updates=0),
        "states": States(levels=("paper", "easy")),
    }
    config = small(coldstart=Coldstart(steps=100, boards=4, data=str(folder)), **parts)
    return Trainer(config, tmp_path_factory.mktemp("run"))


def lines(folder):
    return (folder / dataset.NAME).read_text().splitlines()


def test_what_is_written_is_what_is_read(folder, trainer):
    """The ids that the trainer's own language makes of a reply, its prompt, and the pixels of the board described."""
    paper, easy = trainer.shelves["2048"]
    assert len(paper.records) == len(easy.records) == 6 and len(lines(folder)) == 12
    for shelf, course in ((paper, trainer.ladders["2048"]), (easy, trainer.ladders["2048/easy"])):
        game, language = course.language.game, course.language
        ids, lengths = language.encode_replies([each.reply for each in shelf.records])
        np.testing.assert_array_equal(shelf.lengths, lengths)
        for mine, theirs, length in zip(shelf.ids, ids, lengths, strict=True):
            np.testing.assert_array_equal(mine[:length], theirs[:length])
        np.testing.assert_array_equal(shelf.prompts, np.tile(language.prompt, (6, 1)))
        for each in shelf.records:
            reply = jaxgym.read_reply(game, each.reply)
            assert reply.formatted and reply.action >= 0
            grid = np.asarray([[game.sheet.names.index(word) for word in row.split(" | ")]
                               for row in reply.perception.split("\n")])  # fmt: skip
            drawn = np.asarray(jaxgym.render(game.sheet, jax.numpy.asarray(grid, jax.numpy.int32)))
            np.testing.assert_array_equal(dataset._open(each), drawn)


def test_a_batch_holds_whole_records(trainer):
    shelves, language = trainer.shelves["2048"], trainer.courses["2048"].language
    sizes = set()
    for seed in range(8):
        prompts, written = dataset.draw(shelves, language, 4, jax.random.key(seed))
        (shelf,) = (shelf for shelf in shelves if dataset._open(shelf.records[0]).shape == prompts.pictures.shape[1:])
        sizes.add(prompts.pictures.shape)
        texts = language.decode_replies(np.asarray(written.ids), np.asarray(written.lengths))
        for text, picture in zip(texts, np.asarray(prompts.pictures), strict=True):
            assert any(np.array_equal(picture, dataset._open(r)) for r in shelf.records if r.reply == text)
    assert len(sizes) == 2
    again, _ = dataset.draw(shelves, language, 4, jax.random.key(7))
    np.testing.assert_array_equal(again.pictures, prompts.pictures)
    assert len(dataset.draw(shelves, language, 9, jax.random.key(0))[1].ids) == 9  # more than there are


def test_replies_on_disk_are_learned_and_boards_stay(trainer):
    """Alone: no teacher is asked."""
    before = trainer.boards
    losses = [values["loss"] for _ in range(40) for values in [trainer._supervise("coldstart")] if values]
    assert losses[-1] < 0.8 * losses[0] and not trainer.lessons
    for a, b in zip(*map(jax.tree.leaves, (before, trainer.boards)), strict=True):
        assert a is b


def test_replies_on_disk_are_mixed_with_the_teachers(trainer, monkeypatch):
    """The gradient lies between both by the share; in parts that of replies on disk is the same."""
    found = {}
    for name, share, parts in (("data", 1.0, 1), ("both", 0.25, 1), ("parts", 1.0, 2), ("teacher", 1e-9, 1)):
        part = replace(trainer.config.coldstart, data_share=share)
        monkeypatch.setattr(trainer, "config", replace(trainer.config, coldstart=part, accumulate=parts))
        monkeypatch.setattr("train.optimizer.apply", lambda rule, state, total, games, lr, mesh, name=name: (
            found.setdefault(name, total[0]) and state, 0.0))  # fmt: skip
        monkeypatch.setattr(trainer, "step", 19)
        trainer._supervise("coldstart")
    for data, teacher, both, parts in zip(
        *(jax.tree.leaves(found[name]) for name in ("data", "teacher", "both", "parts")), strict=True
    ):
        np.testing.assert_allclose(both, 0.25 * data + 0.75 * teacher, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(parts, data, rtol=1e-4, atol=1e-5)
    rows = [json.loads(line) for line in (trainer.run / "metrics.jsonl").read_text().splitlines()]
    assert {"data_loss", "data_tokens", "data_board", "dense_cells", "loss"} <= rows[-2].keys()


def test_only_boards_that_a_reply_reads_are_counted(folder, tmp_path, trainer):
    """In parts as in one; not a number where none is."""
    shutil.copytree(folder, tmp_path / "set")
    rows = [json.loads(line) for line in lines(folder)]
    rows = [row for row in rows if row["picture"] == rows[0]["picture"] or row["prompt"] == rows[0]["prompt"]][:4]
    mute = [row | {"reply": "<think>so</think><answer>left</answer>"} for row in rows]
    found = []
    for given, parts in ((mute[:2] + rows[2:], 1), (mute[:2] + rows[2:], 4), (rows, 1), (mute, 1)):
        (tmp_path / "set" / dataset.NAME).write_text("".join(json.dumps(row) + "\n" for row in given))
        shelves = dataset.shelve(tmp_path / "set", trainer.vlm, ("2048",), 0)["2048"]
        pupil = supervise.Pupil(trainer.frame, trainer.state.params, trainer.state.heads["2048"], trainer.fixed)
        config = replace(trainer.config, accumulate=parts)
        found.append(supervise.recalled(config, pupil, trainer.courses["2048"], shelves, jax.random.key(0))[0])
    half, parted, whole, none = ({name: float(value) for name, value in report.items()} for report in found)
    assert half == pytest.approx(parted, rel=1e-4) and half.keys() == {"loss", "tokens", "board"}
    assert 0 < half["tokens"] < 1 and 0 < whole["tokens"] < 1
    assert np.isnan(none["tokens"]) and np.isnan(none["board"]) and none["loss"] > 0


def test_a_run_that_a_file_ended_says_how_to_go_on(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise Mendable("set.jsonl:10: cut.png cannot be read")

    monkeypatch.setattr(program, "_follow", broken)
    with pytest.raises(Mendable, match=r"cannot be read$"):  # there is nothing to go on from
        program._train(None, tmp_path, None, None, resume=False)
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    with pytest.raises(OSError, match=f"cannot be read: mend that, and go on: .* --resume {tmp_path}"):
        program._train(None, tmp_path, None, None, resume=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: "{", ":2 is no JSON: "),
        (lambda row: [row], ":2 is no record of a game, a picture and a reply"),
        (lambda row: row | {"game": "2049"}, ":2: no game is called '2049' (did you mean 2048?)"),
        (lambda row: row | {"reply": None}, ":2 has no reply: it must be a text"),
        (lambda row: row | {"prompt": 3}, ":2 has a prompt that is no text"),
        (lambda row: row | {"picture": "none.png"}, ":2: there is no picture"),
        (lambda row: row | {"picture": dataset.NAME}, ":2: cannot identify image file"),
        (lambda row: row | {"reply": "\ud83d"}, ":2 has a reply that is no valid text"),
        (lambda row: row | {"prompt": "\ud83d"}, ":2 has a prompt that is no valid text"),
        (lambda row: row | {"picture": "vast.png"}, ":2: Image size (1600000000 pixels) exceeds limit"),
        (lambda row: row | {"picture": "odd.png"}, ":2: a picture of 40x40 pixels is not made of 16x16 blocks"),
        (lambda row: row | {"picture": "deep.png"}, ":2: its picture has more than 8 bits a channel: save it with 8"),
        (lambda row: row | {"picture": "moves.gif"}, ":2: its picture moves: save the frame that is meant"),
        (lambda row: row | {"reply": row["reply"] * 9}, "raise --reply, which is 60"),
    ],
)
def test_a_line_that_cannot_be_learned_from_is_told(folder, tmp_path, trainer, change, message):
    shutil.copytree(folder, tmp_path / "set")
    Image.new("RGB", (40, 40)).save(tmp_path / "set" / "odd.png")
    Image.fromarray(np.full((112, 112), 40_000, np.uint16)).save(tmp_path / "set" / "deep.png")
    frames = [Image.new("RGB", (112, 112), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "set" / "moves.gif", save_all=True, append_images=frames[1:])
    written = (tmp_path / "set" / "odd.png").read_bytes()
    header = b"IHDR" + (40_000).to_bytes(4, "big") * 2 + written[24:29]
    vast = written[:12] + header + zlib.crc32(header).to_bytes(4, "big") + written[33:]
    (tmp_path / "set" / "vast.png").write_bytes(vast)
    first, second, *rest = lines(folder)
    changed = change(json.loads(second))
    second = changed if isinstance(changed, str) else json.dumps(changed)
    (tmp_path / "set" / dataset.NAME).write_text("\n".join([first, second, *rest]))
    with pytest.raises(ValueError, match=f"{dataset.NAME}:2") as told:
        dataset.shelve(tmp_path / "set", trainer.vlm, ["2048"], 60)
    assert str(told.value).startswith(str(tmp_path / "set")) and message in str(told.value)
    assert "\n" not in str(told.value)


def test_the_longest_reply_is_told_where_several_are_too_long(folder, tmp_path, trainer):
    shutil.copytree(folder, tmp_path / "set")
    rows = [json.loads(line) for line in lines(folder)]
    for row, times in zip(rows, (3, 9, 5), strict=False):
        row["reply"] *= times
    (tmp_path / "set" / dataset.NAME).write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=rf"{dataset.NAME}:2: the reply has \d+ tokens, more than any other") as told:
        dataset.shelve(tmp_path / "set", trainer.vlm, ["2048"], 60)
    most = max(shelf.lengths.max() for shelf in dataset.shelve(tmp_path / "set", trainer.vlm, ["2048"], 0)["2048"])
    assert f"has {most} tokens" in str(told.value)
    dataset.shelve(tmp_path / "set", trainer.vlm, ["2048"], int(most))


def test_what_spells_a_special_token_is_none(folder, tmp_path, trainer):
    """Neither a picture's place nor the end of a reply."""
    row = json.loads(lines(folder)[0]) | {"prompt": "what <|image|> is", "reply": "a<|image|>b<|stop|>c"}
    shutil.copytree(folder, tmp_path / "set")
    (tmp_path / "set" / dataset.NAME).write_text(json.dumps(row))
    (shelf,) = dataset.shelve(tmp_path / "set", trainer.vlm, ["2048"], 0)["2048"]
    config, words = trainer.vlm.config, trainer.vlm.tokenizer
    assert words.decode(shelf.ids[0]) == row["reply"] + "<|stop|>" and config.image_id not in shelf.ids
    assert shelf.ids[0].tolist().index(config.stop_id) == shelf.lengths[0] - 1
    assert (shelf.prompts == config.image_id).sum() == np.prod(config.image_tokens(*Image.open(
        tmp_path / "set" / row["picture"]).size))  # fmt: skip


@pytest.mark.parametrize("name", ["<|image_pad|>", "<|im_end|>"])
def test_a_prompt_that_a_template_cannot_have_is_told(folder, tmp_path, name):
    vlm = policy.load(folders.write(tmp_path / "model", "qwen2_5_vl"))
    rows = [json.loads(line) | {"picture": str(folder / json.loads(line)["picture"])} for line in lines(folder)[:3]]
    rows[2]["prompt"] = f"what {name} is"
    (tmp_path / "odd.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=rf"odd.jsonl:3: its prompt does not serve: it has {re.escape(name)} in "):
        dataset.shelve(tmp_path / "odd.jsonl", vlm, ["2048"], 0)


def test_pictures_are_read_as_they_are_looked_at(folder, tmp_path):
    """Turned as a camera says, and white where one sees through them."""
    row = json.loads(lines(folder)[0])
    clear = np.zeros((16, 32, 4), np.uint8)
    clear[:, :16] = 200, 0, 0, 255
    Image.fromarray(clear).save(tmp_path / "clear.png")
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter to the right
    Image.fromarray(clear).convert("RGB").save(tmp_path / "turned.jpg", exif=exif, quality=100)
    records = "\n".join(json.dumps(row | {"picture": name}) for name in ("clear.png", "turned.jpg"))
    (tmp_path / "set.jsonl").write_text(records)
    clear, turned = dataset.read(tmp_path / "set.jsonl")
    assert (clear.height, clear.width, turned.height, turned.width) == (16, 32, 32, 16)
    shown = dataset._open(clear)
    assert (shown[:, :16] == (200, 0, 0)).all() and (shown[:, 16:] == 255).all()
    shown = dataset._open(turned)
    assert shown.shape == (32, 16, 3) and (shown[:12, :, 0] > 180).all() and (shown[20:] < 20).all()


@pytest.mark.parametrize("kind", ["jpg", "webp", "tif", "png"])
def test_a_picture_is_turned_as_its_camera_says_in_every_format(folder, tmp_path, kind):
    lies = np.zeros((16, 32), np.uint8)
    lies[:8, :8] = 255
    rows = [json.loads(lines(folder)[0]) | {"picture": f"{turn}.{kind}"} for turn in range(1, 9)]
    for turn, row in enumerate(rows, 1):
        exif = Image.Exif()
        exif[274] = turn
        Image.fromarray(lies).convert("RGB").save(tmp_path / row["picture"], exif=exif, quality=100)
    (tmp_path / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    mirrored, over = np.fliplr(lies), np.flipud(lies)
    right = (
        lies,
        mirrored,
        np.flipud(mirrored),
        over,
        lies.T,
        np.rot90(lies, -1),
        np.rot90(mirrored, -1),
        np.rot90(lies),
    )
    for record, looks in zip(dataset.read(tmp_path / "set.jsonl"), right, strict=True):
        shown = dataset._open(record)
        assert shown.shape == (record.height, record.width, 3)
        np.testing.assert_allclose(shown[..., 0], looks, atol=40)


def test_a_picture_that_became_another_since_is_told(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    first = dataset.read(tmp_path / "set")[0]
    Image.new("RGB", (first.width, 2 * first.height)).save(first.picture)
    with pytest.raises(ValueError, match=rf"replies.jsonl:1: .* it has {2 * first.height}x{first.width} pixels, not "):
        dataset._open(first)


@pytest.mark.parametrize("when", ["open", "load"])
def test_whatever_a_reader_of_pictures_raises_is_told(folder, monkeypatch, when):
    """That of AVIF raises RuntimeError for a file that is damaged."""

    def fail(*_, **__):
        raise RuntimeError("Failed to decode image")

    first = dataset.read(folder)[0]
    monkeypatch.setattr(*(dataset.Image, "open", fail) if when == "open" else (dataset, "_flat", fail))
    with pytest.raises(ValueError, match=r"replies.jsonl:1: .*Failed to decode"):
        dataset.read(folder) if when == "open" else dataset._open(first)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0rubbish", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", "far"])
def test_what_a_camera_says_wrongly_turns_nothing(folder, tmp_path, exif):
    if exif == "far":
        exif = Image.Exif()
        exif[274] = 60
    Image.new("RGB", (32, 16), "red").save(tmp_path / "odd.jpg", exif=exif)
    row = json.loads(lines(folder)[0]) | {"picture": "odd.jpg"}
    (tmp_path / "set.jsonl").write_text(json.dumps(row))
    (record,) = dataset.read(tmp_path / "set.jsonl")
    assert (record.height, record.width) == (16, 32) and dataset._open(record).shape == (16, 32, 3)


def test_a_picture_that_is_damaged_inside_is_told(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    first = dataset.read(tmp_path / "set")[0]
    first.picture.write_bytes(first.picture.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"replies.jsonl:1: .* cannot be read"):
        dataset._open(first)


def test_without_a_prompt_it_is_the_games(folder, tmp_path):
    row = json.loads(lines(folder)[0])
    told = row.pop("prompt")
    (tmp_path / "one.jsonl").write_text(json.dumps(row | {"picture": str(folder / row["picture"])}) + "\n\n")
    (only,) = dataset.read(tmp_path / "one.jsonl")
    assert only.prompt == told


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--coldstart-data", "nowhere"],
            "coldstart data 'nowhere' is neither a .jsonl file nor a folder that has one",
        ),
        (["--coldstart-data", "."], "coldstart data '.' is neither a .jsonl file nor a folder that has one"),
        (["--games", "swap", "--coldstart-data", "SET"], "has no record of swap: leave it out of --games"),
        (["--coldstart-data", "SET", "--recipe", "g0"], "this run has no cold start to learn from it in"),
        (
            ["--coldstart-data-share", "0.5"],
            "coldstart data_share=0.5: there is no data to count, give --coldstart-data",
        ),
        (["--coldstart-data", "SET", "--coldstart-data-share", "0"], "data_share=0.0: must be above 0 and at most 1"),
    ],
)
def test_mistakes_about_data_are_told_in_one_line(flags, message, folder, tmp_path, tiny, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = [str(folder) if flag == "SET" else flag for flag in flags]
    assert program.main(["--games", "2048", "--model", "tiny", *given]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--levels", "papper"], "did you mean paper"),
        (["--games", "2049"], "did you mean 2048"),
        (["--play", "own"], "--play own: must be some of random,teacher"),
        (["--boards", "0"], "must both be at least 1"),
        (["--picture", "100"], "--picture 100: must be a multiple of --block, 28"),
        (["--out", "."], "exists already: give another --out"),
    ],
)
def test_mistakes_of_export_are_told_in_one_line(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert export.main(["--out", "set", *flags]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1 and not list(tmp_path.iterdir())


class Stopped:
    """A picture that, saved for the third time, has the program asked to end."""

    def __init__(self, monkeypatch, number):
        self.saved, self.number = 0, number
        monkeypatch.setattr(export.Image, "fromarray", lambda _: self)

    def save(self, path):
        path.touch()
        self.saved += 1
        if self.saved == 3:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_export_that_is_stopped_leaves_nothing(tmp_path, monkeypatch, number):
    before = signal.signal(number, signal.default_int_handler)  # what a shell has in the background ignores Ctrl-C
    Stopped(monkeypatch, number)
    try:
        assert export.main(["--out", str(tmp_path / "set"), "--games", "2048", "--boards", "8"]) == 128 + number
        assert not list(tmp_path.iterdir()) and signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("error", [SystemExit(1), OSError("closed")])
def test_an_export_that_nobody_reads_of_is_written_all_the_same(tmp_path, monkeypatch, error):
    """As in `... | true`, where rich ends a program."""

    def fail(*_):
        raise error

    monkeypatch.setattr(export, "say", fail)
    assert export.main(["--out", str(tmp_path / "set"), "--games", "2048", "--boards", "2"]) == 0
    assert len(dataset.read(tmp_path / "set")) == 2


def test_boards_come_from_whose_play_is_asked_for():
    """The teacher leads to larger tiles than chance does."""
    game = jaxgym.make("2048", patch=8)
    largest = {}
    for play in (("random",), ("teacher",), ("random", "teacher")):
        texts = [text for _, text in export.boards(game, play, 256, jax.random.key(0))]
        words = [jaxgym.read_reply(game, text).perception.replace("\n", " | ").split(" | ") for text in texts]
        largest[play] = np.mean([max(int(word) for word in board if word != "empty") for board in words])
    assert largest[("random",)] < largest[("random", "teacher")] < largest[("teacher",)]


def test_pictures_of_a_game_of_ones_own_are_called_as_any_system_allows(tmp_path):
    name = "jaxgym.games.twenty_forty_eight:twenty_forty_eight"
    assert export.main(["--games", name, "--boards", "2", "--play", "random", "--out", str(tmp_path / "s")]) == 0
    Records(tmp_path).sample(f"{name}-grpo-0", np.zeros((8, 8, 3), np.uint8), {})
    files = [path.name for path in tmp_path.rglob("*.png")]
    assert len(files) == 3 and not any(sign in file for file in files for sign in ':*?"<>|\\')
