"""A run as a user starts it: it learns, stops, goes on, and says what is wrong in one line."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import policy
from train import main as program
from train.config import Config, Evaluation, Grpo, Supervised
from train.loop import Trainer

TINY = [
    "--model", "tiny", "--base-steps", "6", "--base-boards", "8", "--coldstart-steps", "4", "--coldstart-boards", "8",
    "--grpo-updates", "4", "--grpo-states", "4", "--grpo-group", "4", "--evaluation-boards", "4",
]  # fmt: skip


def small(**changes) -> Config:
    parts = {
        "games": ("2048",),
        "model": "tiny",
        "base": Supervised(steps=6, boards=8),
        "coldstart": Supervised(steps=4, boards=8),
        "grpo": Grpo(updates=4, states=4, group=4),
        "evaluation": Evaluation(boards=4),
    }
    return Config(**(parts | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run on two games, from the command line."""
    run = tmp_path_factory.mktemp("runs") / "first"
    assert program.main(["--games", "2048,shisen_sho", "--run", str(run), *TINY]) == 0
    return run


def test_a_run_leaves_everything_behind(finished):
    assert {p.name for p in finished.iterdir()} >= {
        "config.json", "metrics.jsonl", "table.json", "report.html", "samples.jsonl", "checkpoints", "model",
    }  # fmt: skip
    table = json.loads((finished / "table.json").read_text())
    assert list(table["games"]) == ["2048", "shisen_sho"]
    for entry in table["games"].values():
        assert set(entry["columns"]) == {"random", "random_legal", "teacher", "coldstart", "grpo"}
        for score in entry["columns"].values():
            assert score["low"] <= score["mean"] <= score["high"] and score["n"] == 4
        assert entry["columns"]["teacher"]["mean"] > entry["columns"]["random"]["mean"]
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert {row["phase"] for row in rows} == {"base", "coldstart", "grpo"}
    assert {row["game"] for row in rows} == {"2048", "shisen_sho", None}
    measured = {name for row in rows if row["phase"] == "grpo" and row["game"] for name in row}
    assert measured >= {"reward", "format", "cells", "board", "legal", "reason", "entropy", "kl", "clipped", "length"}


def test_the_model_of_a_run_can_be_loaded_and_trained_on(finished, tmp_path):
    vlm = policy.load(finished / "model")
    assert vlm.tokenizer.encode("<perception>", add_special_tokens=False).__len__() == 1
    trainer = Trainer(small(model=str(finished / "model"), recipe="g0"), tmp_path / "on")
    assert trainer.config.phases == ("grpo",)
    for mine, theirs in zip(jax.tree.leaves(trainer.state.params), jax.tree.leaves(vlm.params), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_finished_run_can_be_asked_again(finished, capsys):
    assert program.main(["--resume", str(finished)]) == 0
    assert "after RL" in capsys.readouterr().out


def test_g0_skips_the_cold_start():
    assert small(recipe="g0").phases == ("base", "grpo")
    assert small(recipe="g1").phases == ("base", "coldstart", "grpo")


def train_only(folder) -> Trainer:
    """A trainer that goes through the phases and evaluates nothing."""
    trainer = Trainer(small(), folder)
    trainer.evaluate, trainer.anchors = lambda column: iter(()), lambda: iter(())  # type: ignore[method-assign]
    return trainer


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    trainer = train_only(tmp_path_factory.mktemp("whole") / "run")
    for _ in trainer.events():
        pass
    return trainer


@pytest.mark.parametrize("stop", [3, 8, 12])
def test_a_stopped_run_goes_on_as_if_it_had_not(unbroken, tmp_path, stop):
    """Stopped in base, in the cold start, in RL: the same parameters and the same metrics, bit for bit."""
    trainer = train_only(tmp_path)
    for _ in zip(range(stop), trainer.events(), strict=False):
        pass
    trainer.save()
    trainer.checkpoints.close()
    again = train_only(tmp_path)
    assert again.resume()
    for _ in again.events():
        pass
    for a, b in zip(jax.tree.leaves(unbroken.state.params), jax.tree.leaves(again.state.params), strict=True):
        np.testing.assert_array_equal(a, b)

    def measured(folder):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in row.items() if k not in ("seconds", "replies_per_second")} for row in rows]

    assert measured(unbroken.run) == measured(tmp_path)


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    shown = program.Display.show

    def interrupt(self, stage, done, total, values):
        shown(self, stage, done, total, values)
        if stage == "base" and done == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(program.Display, "show", interrupt)
    run = tmp_path / "stopped"
    assert program.main(["--games", "2048", "--run", str(run), *TINY]) == 130
    out = capsys.readouterr().out
    assert f"python -m train.main --resume {run}" in out.replace("\n", "")
    monkeypatch.undo()
    assert program.main(["--resume", str(run)]) == 0
    assert "going on from base step 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--games", "2049"], "did you mean 2048"),
        (["--games", "swap,shisen-sho"], "did you mean shisen_sho"),
        (["--game", "swap"], "did you mean --games"),
        (["--seed", "x"], "invalid int value"),
        (["--states", "mine"], "invalid choice"),
        (["--base-boards", "7"], "boards=7: must divide 128"),
        (["--grpo-lr", "-1"], "grpo lr=-1.0: must be at least 0"),
        (["--model", "gigantic"], "neither a preset (tiny, small, medium) nor a folder"),
        (["--games", "shisen_sho_photo", "--photos", "no/such/file"], "neither 'digits' nor a path that exists"),
        (["--resume", "no/such/run"], "not the folder of a run"),
        (["--resume", "x", "--seed", "1"], "--resume takes no other flag"),
    ],
)
def test_mistakes_are_told_in_one_line(flags, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        status = program.main(flags)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    assert program.main(["--run", str(tmp_path / "mine")]) == 2
    assert "exists already" in capsys.readouterr().err
    (tmp_path / "file").write_text("x")
    assert program.main(["--run", str(tmp_path / "file" / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_broken_photo_archive_is_told_and_leaves_no_run(tmp_path, capsys):
    (tmp_path / "cifar.tar.gz").write_bytes(b"not an archive")
    flags = ["--games", "shisen_sho_photo", "--photos", str(tmp_path / "cifar.tar.gz"), "--run", str(tmp_path / "run")]
    assert program.main(flags) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_help_lists_every_flag():
    out = subprocess.run([sys.executable, "-m", "train.main", "--help"], capture_output=True, text=True, check=True)
    for flag in (
        "--games",
        "--recipe",
        "--states",
        "--base-steps",
        "--coldstart-lr",
        "--grpo-group",
        "--evaluation-boards",
    ):
        assert flag in out.stdout


def test_the_configuration_survives_its_file():
    config = small(seed=7, grpo=Grpo(exact=True))
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="has no colour"):
        Config.from_dict({"colour": 1})


def test_pictures_never_leave_the_device(tmp_path, monkeypatch):
    """Boards are drawn, cut into patches and read on the device: only small integers and scalars come to the host."""
    trainer = Trainer(small(), tmp_path / "run")
    fetched = []
    get = jax.device_get

    def watched(tree):
        fetched.extend((leaf.dtype, leaf.size) for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))
        return get(tree)

    monkeypatch.setattr(jax, "device_get", watched)
    with jax.transfer_guard_device_to_host("disallow"):
        trainer._supervise("base")
    trainer._enter("grpo")
    trainer._reinforce()
    assert fetched and all(dtype != np.uint8 for dtype, _ in fetched)


@pytest.mark.slow
def test_a_small_model_learns_to_read_and_play(tmp_path):
    """2048 alone: the board is read, the teacher is followed, and the score beats uniform random play."""
    config = Config(
        games=("2048",),
        base=Supervised(steps=150, boards=32),
        coldstart=Supervised(steps=150, boards=32),
        grpo=Grpo(updates=10),
        evaluation=Evaluation(boards=128),
    )
    trainer = Trainer(config, tmp_path / "run")
    for _ in trainer.events():
        pass
    entry = trainer.records.table["games"]["2048"]
    assert entry["extra"]["grpo"]["cells"] > 0.95
    assert entry["columns"]["grpo"]["low"] > entry["columns"]["random"]["high"]
