"""Trackers: what the run's folder holds arrives there once, whatever happens to them or to the run."""

import importlib.util
import io
import json
import shutil
import struct
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from train import folder, trackers
from train import main as program
from train.loop import Event as Shown
from train.loop import Trainer
from train.metrics import Records
from train.parts import Base
from train.trackers import Trackers


def read_events(run):
    """All values in the event files of a run: (tag, step, value), each record of a file as TFRecord frames it."""
    found = []
    for file in sorted((run / "tensorboard").iterdir()):
        stream = io.BytesIO(file.read_bytes())
        while head := stream.read(12):
            event = Event.FromString(stream.read(struct.unpack("<Q", head[:8])[0]))
            stream.read(4)
            found += [(value.tag, event.step, value) for value in event.summary.value]
    return found


def scalars(run):
    return [
        (tag, step, value.simple_value)
        for tag, step, value in read_events(run)
        if value.WhichOneof("value") == "simple_value"
    ]


class Fake:
    """The few words of wandb that are used; its server keeps the last step and what was sent."""

    def __init__(self, behaves=True):
        self.rows, self.summary, self.began, self.axes, self.behaves = {}, {}, [], {}, behaves
        self.finished, self.resumed, self.step = 0, False, 0
        self.Settings, self.Image = SimpleNamespace, lambda picture, caption: ("picture", picture.shape, caption)

    def init(self, **given):
        self.resumed, self.step = bool(self.began), max(self.rows, default=-1) + 1
        self.began.append(given)
        return self

    def define_metric(self, name, step_metric=None):
        self.axes[name] = step_metric

    def log(self, values, step):
        if not self.behaves:
            raise ConnectionError("the network is gone\nand more")
        assert step >= max(self.rows, default=0), "wandb drops steps that go back"
        row = self.rows.setdefault(step, {})
        assert not {name for name in set(row) & set(values) if not name.endswith("/step")}, "told twice"
        row.update(values)

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    fake = Fake()
    fake.__spec__ = importlib.util.spec_from_loader("wandb", None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.fixture
def copy(finished, tmp_path):
    """A finished run of one's own."""
    return shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "model"))


def config_of(run, *track):
    return replace(folder.read_config(run / "config.json"), track=track)


def logged(run):
    """What the run's own log says: (tag, step, value)."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    place = ("phase", "step", "seconds", "game")
    return [
        (f"{row['phase']}/{row['game'] or 'run'}/{name}", row["step"], value)
        for row in rows
        for name, value in row.items()
        if name not in place and value is not None
    ]


def test_tensorboard_has_every_scalar_score_and_sample_of_the_run(copy):
    Trackers(config_of(copy, "tensorboard"), Records(copy), pytest.fail).close()
    found = {(tag, step): value for tag, step, value in scalars(copy)}
    assert len(found) == len(scalars(copy))
    for tag, step, value in logged(copy):
        assert found[tag, step] == pytest.approx(value, rel=1e-6), tag
    table = json.loads((copy / "table.json").read_text())["games"]["2048"]
    assert found["grpo/2048/evaluation/score", 4] == pytest.approx(table["columns"]["grpo"]["mean"])
    assert found["coldstart/2048/evaluation/cells", 4] == pytest.approx(table["extra"]["coldstart"]["cells"])
    pictures = {tag: value.image for tag, _, value in read_events(copy) if value.HasField("image")}
    assert len(pictures) == 2 * 2 * 3  # two games, two columns, three samples
    shown = Image.open(io.BytesIO(pictures["grpo/2048/2048-grpo-0"].encoded_image_string))
    np.testing.assert_array_equal(shown, Image.open(copy / "samples" / "2048-grpo-0.png"))
    sample = json.loads((copy / "samples.jsonl").read_text().splitlines()[-1])
    texts = [value.tensor.string_val[0].decode() for _, _, value in read_events(copy) if value.HasField("tensor")]
    assert texts[-1].replace("\n    ", "\n").strip() == sample["reply"].strip()


def test_what_is_measured_while_a_run_goes_on_is_told_at_once_and_not_doubled_by_resuming(tmp_path, small, wandb):
    """Killed after step 2, resumed after step 1: steps 2 and 3 stand there once."""
    config, told, run = small(track=("tensorboard", "wandb")), [], tmp_path / "run"
    first = Records(run)
    following = Trackers(config, first, told.append)
    for step in (1, 2):
        first.log("sight", step, step, "2048", {"loss": step / 10, "odd": float("nan")})
        first.log("sight", step, step, None, {"lr": 0.5})
    following.close()
    again = Records(run)
    again.forget_after({"sight": 1})
    following = Trackers(config, again, told.append)
    for step in (2, 3):
        again.log("sight", step, step, "2048", {"loss": step / 10})
    again.log("base", 1, 9, "2048", {"loss": 1.0})
    following.close()
    again.log("base", 2, 9, "2048", {"loss": 2.0})  # nobody follows any more
    expected = [("sight/2048/loss", 1, 0.1), ("sight/run/lr", 1, 0.5), ("sight/2048/loss", 2, 0.2)]
    expected += [("sight/2048/loss", 3, 0.3), ("base/2048/loss", 1, 1.0)]
    assert [(tag, step, pytest.approx(value)) for tag, step, value in scalars(run)] == expected
    assert wandb.rows[1] == {"sight/2048/loss": 0.1, "sight/run/lr": 0.5, "sight/step": 1}
    assert wandb.rows[3] == {"sight/2048/loss": 0.3, "sight/step": 3}
    assert wandb.rows[6] == {"base/2048/loss": 1.0, "base/step": 1}  # four steps of sight and their evaluation before
    assert wandb.axes["sight/*"] == "sight/step" and wandb.finished == 2 and not told
    (one, two) = wandb.began
    assert one["id"] == two["id"] and two["resume"] == "allow" and one["config"]["model"] == "tiny"


def test_wandb_has_scores_in_its_summary_and_samples_beside_their_phase(copy, wandb):
    Trackers(config_of(copy, "wandb"), Records(copy), pytest.fail).close()
    table = json.loads((copy / "table.json").read_text())["games"]["shisen_sho"]
    assert wandb.summary["grpo/shisen_sho/evaluation/score"] == table["columns"]["grpo"]["mean"]
    kind, shape, caption = wandb.rows[max(wandb.rows)]["grpo/shisen_sho/shisen_sho-grpo-2"]
    assert kind == "picture" and shape[2] == 3
    assert caption == json.loads((copy / "samples.jsonl").read_text().splitlines()[-1])["reply"]
    sent = json.dumps(sorted(wandb.rows))
    Trackers(config_of(copy, "wandb"), Records(copy), pytest.fail).close()  # Fake.log fails on what comes twice
    assert json.dumps(sorted(wandb.rows)) == sent


def test_scores_and_samples_are_told_as_they_come(tmp_path, small, wandb):
    records = Records(tmp_path / "run")
    Trackers(small(track=("wandb",)), records, pytest.fail)
    score = {"mean": 5.0, "low": 4.0, "high": 6.0, "n": 4}
    records.table["games"]["2048"] = {"columns": {"grpo": score, "random": score}, "extra": {"grpo": {"cells": 0.5}}}
    for _ in range(2):
        records.keep_table()
    records.sample("2048-grpo-0", np.zeros((56, 56, 3), np.uint8), {"game": "2048", "phase": "grpo", "reply": "up"})
    values = {"score": 5.0, "score_low": 4.0, "score_high": 6.0, "cells": 0.5}
    assert wandb.summary == {f"grpo/2048/evaluation/{name}": value for name, value in values.items()}
    assert wandb.rows == {22: {"grpo/2048/2048-grpo-0": ("picture", (224, 224, 3), "up"), "grpo/step": 4}}


@pytest.mark.parametrize("phase", ["base", "coldstart"])
def test_an_evaluation_that_was_stopped_between_two_games_is_told_whole(tmp_path, small, wandb, phase):
    """The number of the last step sent is all that W&B says of what it has."""
    more = {"recipe": "g0", "base": Base(steps=0)} if phase == "base" else {}
    config, run, picture = (
        small(games=("2048", "swap"), track=("wandb",), **more),
        tmp_path / "run",
        np.zeros((8, 8, 3), np.uint8),
    )
    for game in config.names():
        records = Records(run)
        following = Trackers(config, records, pytest.fail)
        records.sample(f"{game}-{phase}-0", picture, {"game": game, "phase": phase, "reply": "up"})
        following.close()
    records = Records(run)
    following = Trackers(config, records, pytest.fail)
    records.log("grpo", 1, 9, None, {"lr": 0.5})
    following.close()
    told = [name for number in sorted(wandb.rows) for name in wandb.rows[number] if not name.endswith("/step")]
    assert told == [f"{phase}/2048/2048-{phase}-0", f"{phase}/swap/swap-{phase}-0", "grpo/run/lr"]


def test_a_tracker_that_fails_is_switched_off_and_the_others_go_on(tmp_path, small, wandb):
    wandb.behaves, told = False, []
    records = Records(tmp_path / "run")
    following = Trackers(small(track=("wandb", "tensorboard")), records, told.append)
    for step in (1, 2):
        records.log("sight", step, step, None, {"lr": 0.5})
    following.close()
    assert told == ["wandb is switched off, the run goes on without it: the network is gone"]
    assert len(scalars(tmp_path / "run")) == 2 == len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())


@pytest.mark.parametrize("moment", ["init", "finish"])
def test_a_tracker_that_does_not_begin_or_end_does_not_stop_a_run(tmp_path, small, wandb, monkeypatch, moment):
    def fail(**_):
        raise OSError("no key")

    told = []
    monkeypatch.setattr(wandb, moment, fail)
    Trackers(small(track=("wandb",)), Records(tmp_path / "run"), told.append).close()
    assert told == ["wandb is switched off, the run goes on without it: no key"]


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ("tensorbord", "did you mean tensorboard?"),
        ("mlflow", "must be tensorboard or wandb"),
        ("tensorboard,wandb", "--track wandb needs the package wandb, which is not installed: pip install wandb"),
    ],
)
def test_a_tracker_that_cannot_be_is_told_before_anything_is_made(tmp_path, names, why, monkeypatch, capsys):
    known = importlib.util.find_spec
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None if name == "wandb" else known(name))
    assert program.main(["--games", "2048", "--track", names, "--run", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert why in line and not (tmp_path / "run").exists()


def test_the_flag_reaches_the_run(tmp_path, tiny, monkeypatch):
    def events(self):
        self.records.log("sight", 1, 1.0, "2048", {"loss": 0.25})
        yield Shown("sight", 1, 1, {})

    monkeypatch.setattr(Trainer, "events", events)
    run = tmp_path / "run"
    assert program.main(["--games", "2048", "--run", str(run), "--track", "tensorboard", *tiny]) == 0
    assert scalars(run) == [("sight/2048/loss", 1, 0.25)]


def test_the_true_wandb_writes_what_can_be_sent_later(copy, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for _ in range(2):
        Trackers(config_of(copy, "wandb"), Records(copy), pytest.fail).close()
    kept = (copy / "wandb" / "id").read_text()
    assert list((copy / "wandb").glob(f"offline-run-*/run-{kept}.wandb"))
