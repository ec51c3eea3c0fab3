"""What a user can cause, signals and damage among it: one clear line, no new folder, nothing lost."""

import ast
import gc
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import jaxgym
import policy
import train.loop
from tests.games.test_shisen_sho_photo import cifar_files, write_archive, write_folder
from train import advantages, command, course, folder, learner, optimizer, report, rewards, terminal
from train import main as program
from train.checkpoint import Checkpoints
from train.config import Config
from train.loop import Trainer
from train.metrics import Records
from train.parts import Coldstart, Evaluation, Grpo, Reward

# Stopping


@pytest.fixture(autouse=True)
def no_nohup():
    """Hang-ups count, also where the tests themselves were started to outlive one."""
    hup = getattr(signal, "SIGHUP", None)
    before = signal.signal(hup, signal.SIG_DFL) if hup else None
    yield
    if hup:
        signal.signal(hup, before)


@pytest.fixture
def stop_at(monkeypatch):
    """Let something happen when a run has shown the third step of its base phase."""

    def arrange(happen):
        shown = program.Display.show

        def show(self, stage, done, total, values):
            shown(self, stage, done, total, values)
            if stage == "base" and done == 3:
                happen()

        monkeypatch.setattr(program.Display, "show", show)

    return arrange


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("how", "status", "name"),
    [
        (interrupt, 130, "stopped"),
        (lambda: [os.kill(os.getpid(), signal.SIGTERM) for _ in range(2)], 143, "my run [lr=1]"),  # so does `timeout`
        (lambda: os.kill(os.getpid(), signal.SIGINT), 130, "a[b][/b]"),
        (lambda: os.kill(os.getpid(), signal.SIGHUP), 129, "it's $HOME"),
    ],
)
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, tiny, stop_at, monkeypatch, capsys, how, status, name):
    stop_at(how)
    run = tmp_path / name
    before = signal.getsignal(signal.SIGTERM)
    rest = ["--coldstart-steps", "0", "--grpo-updates", "0"]  # of the run that goes on
    assert program.main(["--games", "2048", "--run", str(run), *tiny, *rest]) == status
    assert signal.getsignal(signal.SIGTERM) is before
    out = capsys.readouterr().out
    assert f"run {shlex.quote(str(run))}: 2048 on" in out
    (hint,) = re.findall(r"To go on: python -m train.main (.*)", out)
    assert shlex.split(hint) == ["--resume", str(run)]
    monkeypatch.undo()
    if how is interrupt:
        monkeypatch.setattr(Trainer, "evaluate", lambda self, column: iter(()))  # it has been tried elsewhere
        monkeypatch.setattr(Trainer, "anchors", lambda self: iter(()))
        assert program.main(shlex.split(hint)) == 0
        assert "going on from base step 3" in capsys.readouterr().out
    else:
        trainer = Trainer(Config.from_dict(json.loads((run / "config.json").read_text())), run)
        assert trainer.resume() and (trainer.phase, trainer.step) == ("base", 3)


@pytest.mark.parametrize("written", [False, True])
def test_a_run_that_could_not_write_its_model_leaves_no_folder(tmp_path, written):
    run = tmp_path / "runs" / "run"
    with pytest.raises(OSError, match="full"), folder.new(Config(run=str(run))):
        (run / "model").mkdir()
        if written:
            (run / "model" / "config.json").touch()
        raise OSError("the disk is full")
    assert run.exists() == written == run.parent.exists()


def test_a_signal_before_the_first_step_leaves_no_folder(tmp_path, tiny, monkeypatch, capsys):
    monkeypatch.setattr("train.loop.prepare", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert program.main(["--games", "2048", "--run", str(tmp_path / "a" / "b"), *tiny]) == 143
    assert "stopped before there was anything new to save" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def in_a_collection(number):
    """Ask to stop while garbage is collected."""

    def call(phase, info):
        if phase == "start":
            os.kill(os.getpid(), number)

    gc.callbacks.append(call)
    gc.collect()
    gc.callbacks.remove(call)


def in_a_destructor(number):
    class Gone:
        def __del__(self):
            os.kill(os.getpid(), number)

    Gone()


@pytest.mark.filterwarnings("error")  # such as for an exception that nobody can catch
def test_a_signal_in_a_collection_of_garbage_is_heard_after_it(tmp_path, tiny, monkeypatch, capsys):
    def late(*_):
        in_a_collection(signal.SIGTERM)
        time.sleep(20)  # is broken off
        pytest.fail("the signal did not stop it")

    monkeypatch.setattr("train.loop.prepare", late)
    began = time.monotonic()
    assert program.main(["--games", "2048", "--run", str(tmp_path / "a" / "b"), *tiny]) == 143
    assert time.monotonic() - began < 15
    assert "stopped before there was anything new to save" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_was_lost_before_the_first_step_stops_there(tmp_path, tiny, monkeypatch, capsys):
    prepare = train.loop.prepare
    monkeypatch.setattr("train.loop.prepare", lambda *given: [in_a_destructor(signal.SIGTERM), prepare(*given)][1])
    monkeypatch.setattr(Trainer, "events", lambda self: pytest.fail("the signal did not stop it"))
    assert program.main(["--games", "2048", "--run", str(tmp_path / "a" / "b"), *tiny]) == 143
    assert "stopped before there was anything new to save" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_between_two_steps_all_is_saved_however_often_it_was_asked(tmp_path, tiny, stop_at, monkeypatch, capsys):
    monkeypatch.setattr(program, "_TWICE", 0.0)
    stop_at(lambda: [in_a_destructor(signal.SIGTERM) for _ in range(2)])
    run = tmp_path / "run"
    assert program.main(["--games", "2048", "--run", str(run), *tiny]) == 143
    assert "stopped at base step 3: saving\nsaved. To go on:" in capsys.readouterr().out
    assert "7" in {p.name for p in (run / "checkpoints").iterdir()}


def test_a_second_signal_stops_at_once_and_keeps_the_last_checkpoint(tmp_path, tiny, monkeypatch, capsys):
    def impatient(self, phase):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(program._TWICE)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second signal did not stop it")

    monkeypatch.setattr(Trainer, "_supervise", impatient)
    run = tmp_path / "run"
    assert program.main(["--games", "2048", "--run", str(run), *tiny]) == 130
    assert "nothing is saved yet. To go on: python -m train.main --resume" in capsys.readouterr().out and run.is_dir()


def test_a_signal_after_a_stop_was_told_says_nothing_else(tmp_path, tiny, stop_at, monkeypatch, capsys):
    """While trackers close, say: what was saved is saved. The report is there by then."""
    stop_at(lambda: os.kill(os.getpid(), signal.SIGTERM))
    write = report.write
    monkeypatch.setattr(report, "write", lambda run: [os.kill(os.getpid(), signal.SIGTERM), write(run)])
    monkeypatch.setattr("train.trackers.Trackers.close", lambda self: os.kill(os.getpid(), signal.SIGTERM))
    run = tmp_path / "run"
    assert program.main(["--games", "2048", "--run", str(run), *tiny]) == 143
    said = capsys.readouterr().out
    assert "saved. To go on:" in said and "nothing new" not in said and (run / "report.html").exists()


def test_signals_while_a_stop_is_being_saved_cost_nothing(tmp_path, tiny, stop_at, monkeypatch, capsys):
    stop_at(lambda: os.kill(os.getpid(), signal.SIGINT))
    save = Trainer.save

    def interrupted(self):
        save(self)
        if self.phase == "base":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "save", interrupted)
    run = tmp_path / "run"
    assert program.main(["--games", "2048", "--run", str(run), *tiny]) == 130
    said = capsys.readouterr().out
    assert "stopped at base step 3: saving\nsaved. To go on:" in said
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"4", "7"}  # after sight, and three steps of base


def test_all_games_and_one_more():
    names, more = jaxgym.names(), "jaxgym.games.swap:swap"  # by its path, as one of a user's own
    assert Config(games=("all",)).names() == Config(games=("all", "swap")).names() == names
    assert Config(games=("all", more)).names() == (*names, more)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_what_nohup_has_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with program.Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.signal and signal.getsignal(signal.SIGTERM) == stop._ask
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_folder_is_of_one_process_at_a_time(tmp_path, copy, capsys):
    with folder.held(copy):
        assert program.main(["--resume", str(copy)]) == 2
        assert capsys.readouterr().err == f"error: {copy} is in use by another process: wait for it, or stop it\n"
    other = f"from pathlib import Path; from train import folder\nwith folder.held(Path({str(copy)!r})): pass"
    with folder.held(copy):
        failed = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=False)
    assert f"ValueError: {copy} is in use by another process" in failed.stderr
    subprocess.run([sys.executable, "-c", other], check=True)
    with folder.held(tmp_path):
        assert not (tmp_path / ".lock").exists()  # the folder of no run


def test_a_model_outlives_a_disk_with_no_room_for_checkpoints(tmp_path, tiny, monkeypatch, capsys):
    """It is what the run was for; whatever fails after it was saved, its folder stays."""
    monkeypatch.setattr(Trainer, "evaluate", lambda self, column: iter(()))
    monkeypatch.setattr(Trainer, "anchors", lambda self: iter(()))

    def wait(self):
        raise OSError("checkpoint 18 could not be written: no space left on the device")

    monkeypatch.setattr(Checkpoints, "wait", wait)
    none = [f"--{phase}" for phase in ("sight-steps", "base-steps", "coldstart-steps", "grpo-updates")]
    flags = ["--games", "2048", *tiny, *(part for flag in none for part in (flag, "0"))]
    run = tmp_path / "run"
    assert program.main([*flags, "--run", str(run)]) == 0
    told = f"checkpoint 18 could not be written: no space left on the device; the model is in {run / 'model'}"
    assert told in capsys.readouterr().out.replace("\n", " ") and (run / "model" / "config.json").exists()
    monkeypatch.setattr(Checkpoints, "best", wait)
    assert program.main([*flags, "--run", str(tmp_path / "other")]) == 2
    assert (tmp_path / "other" / "model" / "config.json").exists()


# Numbers that are not finite


def strictly(text):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_run_that_is_not_finite_ends_with_one_line_and_a_sound_model(tmp_path, tiny, monkeypatch, capsys):
    def broken(frame, learned, *_):
        return {"kl": jnp.float32(jnp.inf)}, jax.tree.map(lambda leaf: leaf * jnp.nan, learned)

    monkeypatch.setattr(learner, "grpo_gradients", broken)
    some = jnp.arange(16, dtype=jnp.float32).reshape(4, 4)  # something to learn, whatever the model said
    monkeypatch.setattr(rewards, "parts", lambda *_, **__: advantages.Rewards(some, some, some))
    run = tmp_path / "run"
    at_once = ["--sight-steps", "0", "--base-steps", "0", "--coldstart-steps", "0"]
    assert program.main(["--games", "2048", "--run", str(run), *tiny, *at_once]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "not finite" in told and "lower --grpo-lr (it was 0.0003)" in told and str(run / "model") in told
    rows = [strictly(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["kl"] for row in rows if "kl" in row] == [None]
    assert rows[-1]["grad_norm"] is None and rows[-1]["skipped"] == 1
    for leaf in jax.tree.leaves(policy.load(run / "model").params):
        assert jnp.isfinite(leaf).all()
    assert (run / "report.html").exists()


def test_one_bad_rollout_does_not_end_a_run_however_many_steps_it_is_learned_in(tmp_path, small, monkeypatch):
    part = Grpo(updates=40, states=4, group=4, credit="block", epochs=2, minibatches=2)
    trainer = Trainer(small(grpo=part), tmp_path / "run")
    trainer._enter("grpo")

    def judged(squares, skipped):
        bad = trainer.step  # every update but the first
        return jnp.float32(jnp.nan if bad else 1.0), skipped + 1 if bad else skipped * jnp.asarray([1, 0])

    monkeypatch.setattr(optimizer, "_judge", judged)
    some = jnp.arange(16, dtype=jnp.float32).reshape(4, 4)
    monkeypatch.setattr(rewards, "parts", lambda *_, **__: advantages.Rewards(some, some, some))
    for _ in range(3):
        trainer._reinforce()
    with pytest.raises(
        ValueError, match=r"^12 optimizer steps of grpo were not finite .*, 12 of them in a row at step 4: "
    ):
        trainer._reinforce()


def test_an_update_in_which_no_group_differs_changes_nothing(tmp_path, small, monkeypatch):
    trainer = Trainer(small(grpo=Grpo(updates=4, states=4, group=4, credit="block")), tmp_path / "run")
    trainer._enter("grpo")
    same = advantages.Rewards(*(jnp.full((4, 4), value, jnp.float32) for value in (1, 1, 31 / 36)))
    monkeypatch.setattr(rewards, "parts", lambda *_, **__: same)
    before = trainer.state
    assert trainer._reinforce()["grad_norm"] == 0
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(trainer.state), strict=True):
        np.testing.assert_array_equal(a, b)


# Flags, files, back ends


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--games", "2049"], "did you mean 2048"),
        (["--games", "swap,shisen-sho"], "did you mean shisen_sho"),
        (["--game", "swap"], "did you mean --games"),
        (["-g", "swap"], "no flag -g"),
        (["--games", "2048", "swap"], "belongs to no flag: swap; names of a list are joined by commas"),
        (["--seed", "x"], "invalid int value"),
        (["--states-play", "mine"], "must be some of own,random,teacher"),
        (["--episodes-same-board", "1"], "give --episodes-turns"),
        (["--episodes-history", "2"], "episodes history=2: RL has no turns before"),
        (
            ["--states-levels", "easy,papper"],
            "2048 has no level 'papper' (did you mean paper?); it has easy, paper, hard",
        ),
        (["--states-levels", "easy,easy"], "states levels=easy,easy: must be at least one, each once"),
        (["--mix-games", "5"], "mix games=5: must be at most 4, the games of this run; 0: all"),
        (
            ["--mix-games", "4", "--mix-weights", "swap=0"],
            "must be at most 3, the games of this run whose weight is not 0",
        ),
        (["--mix-weights", "swap=2"], "mix weights says which games an update takes: give --mix-games fewer than 4"),
        (["--mix-games", "4", "--mix-progress"], "mix progress says which games an update takes: give --mix-games"),
        (["--mix-games", "1", "--mix-weights", "swap"], "mix weights: 'swap' must be the name of a game, = and"),
        (["--mix-games", "1", "--mix-weights", "swop=1"], "mix weights: 'swop' is none of this run's games"),
        (["--games", ""], "no game is called ''"),
        (["--states-promote", "1.5"], "states promote=1.5: must be at most 1"),
        (["--base-boards", "7"], "boards=7: must divide 256"),
        (["--grpo-keep", "1"], "grpo keep=1: must be 0 (all), or at least 2"),
        (["--evaluation-temperature", "-1"], "evaluation temperature=-1.0: must be at least 0"),
        (["--grpo-lr", "-1"], "grpo lr=-1.0: must be at least 0"),
        (["--grpo-lr", "inf"], "grpo lr=inf: must be a finite number"),
        (["--grpo-lr", "1e3"], "grpo lr=1000.0: must be at most 1"),
        (["--grpo-temperature", "nan"], "grpo temperature=nan: must be a finite number"),
        (["--base-decision", "Infinity"], "base decision=inf: must be a finite number"),
        (["--grpo-clip", "1e400"], "grpo clip=inf: must be a finite number"),
        (["--evaluation-boards", "1"], "evaluation boards=1: must be at least 2"),
        (["--coldstart-boards", "3"], "coldstart boards=3: must divide 256"),
        (["--sight-boards", "3"], "sight boards=3: must divide 256"),
        (["--grpo-states", "3"], "grpo states=3: must divide 256"),
        (["--base-perception", "2"], "base perception=2.0: must be at most 1"),
        (["--mix-weights", "swap"], "mix weights: 'swap' must be the name of a game"),
        (["--reward-own", "os"], "='os': give MODULE:NAME"),
        (["--run", __file__ + "/x"], "/x: no folder can be made there: Not a directory"),
        (["--seed", "-1"], "seed=-1: must be at least 0"),
        (["--seed", "4294967297"], "seed=4294967297: must be below 2**32"),
        (["--games", "swap", "--picture", "30"], "picture=30: give a multiple of 4"),
        (["--games", "2048", "--model", "tiny", "--picture", "448"], "28x28 patches"),
        (["--games", "2048", "--model", "."], "it is not a model"),
        (["--model", "gigantic"], "neither a preset (tiny, small, medium) nor a folder"),
        (["--games", "shisen_sho_photo", "--photos", "no/such/file"], "neither 'digits' nor a path that exists"),
        (["--config", "no/such.json"], "--config no/such.json: No such file or directory"),
        (["--config", "."], "--config .: Is a directory"),
        (["--resume", "no/such/run"], "not the folder of a run"),
        (["--resume", __file__], "not the folder of a run"),
        (["--resume", ""], "--resume: give the folder of a run"),
        (["--games", "all,sawp"], "no game is called 'sawp' (did you mean swap?)"),
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
    assert not list(tmp_path.iterdir())  # nor the folder `runs` around the run


@pytest.mark.parametrize(
    ("flag", "part"), [("model", {}), ("photos", {}), ("coldstart-data", {"coldstart": Coldstart(data="gone")})]
)
def test_what_a_run_needs_may_have_moved(tmp_path, monkeypatch, capsys, flag, part):
    """A folder that is not where it was is told with the flag that says where it is; no other may take its place."""
    run, there = tmp_path / "run", tmp_path / "there"
    run.mkdir()
    there.mkdir()
    config = Config(run=str(run), **(part or {flag: "gone"}))
    folder.write_config(run, config)
    went_on = []
    monkeypatch.setattr(program, "_train", lambda config, *_, **__: went_on.append(config) or 0)
    monkeypatch.setattr(Config, "check", lambda self: None)
    assert program.main(["--resume", str(run)]) == 2
    assert f"error: {flag} 'gone' is not there: if it has moved, add --{flag} PATH" in capsys.readouterr().err
    assert program.main(["--resume", str(run), f"--{flag}", str(there)]) == 0
    assert str(there) in (went_on[0].model, went_on[0].photos, went_on[0].coldstart.data)
    assert not went_on[0].differing(config)
    for other in {"model": ["tiny"], "photos": ["digits"]}.get(flag, [""]):
        assert program.main(["--resume", str(run), f"--{flag}", other]) == 2
        assert "and only files can have moved" in capsys.readouterr().err


def test_a_run_does_not_go_on_with_other_photos(tmp_path):
    """They are in no checkpoint; where they lie, and in what, is all the same."""
    files, _ = cifar_files()
    album = write_folder(tmp_path / "album", files)
    config = Config(games=(course.PHOTOS,), model="tiny", photos=str(album))
    trainer = Trainer(config, tmp_path / "run")
    trainer.save()
    trainer.checkpoints.close()
    moved = replace(config, photos=str(write_archive(tmp_path / "moved.tar.gz", files)))
    assert Trainer(moved, tmp_path / "run").resume()
    (album / "data_batch_5").write_bytes(files["data_batch_4"])
    with pytest.raises(ValueError, match=r"the photos in .*album are not those that .*run began with: put them back"):
        Trainer(config, tmp_path / "run").resume()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"sed": 1}', "the configuration has no sed (did you mean seed?)"),
        ('{"grpo": {"grup": 4}}', "grpo has no grup (did you mean group?)"),
        ('{"zzz": 1}', "the configuration has no zzz\n"),
        ('{"seed": "1"}', "seed='1': must be a whole number"),
        ('{"recipe": "g2"}', "recipe='g2': must be one of g0, g1"),
        ('{"games": "swap"}', "games='swap': must be a list of texts"),
        ('{"games": ["shisen-sho"]}', "did you mean shisen_sho"),
        ('{"games": []}', "games: name one at least, or all"),
        ('{"grpo": {"lr": 1e999}}', "grpo lr=inf: must be a finite number"),
        ('{"save": {"every": 1' + "0" * 400 + "}}", ": must be a finite number"),
        ('{"games": ["2048"], "model": ""}', "model '' is neither a preset"),
        ('{"grpo": 3}', "grpo is 3: give an object of settings"),
        ('["seed"]', "the configuration is ['seed']: give an object of settings"),
        ('{"seed": 1', "is damaged"),
        ("\xff", "is damaged"),
        ("", "is damaged"),
    ],
)
def test_mistakes_of_a_configuration_file_are_told_in_one_line(content, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_bytes(content.encode("latin1"))
    assert program.main(["--config", "mine.json"]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1 and told.count("mine.json") == ('"games": [' not in content)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.json"]


def test_flags_change_what_a_configuration_file_changes(tmp_path):
    (tmp_path / "mine.json").write_text('{"seed": 3, "run": "runs/old", "grpo": {"group": 4, "lr": 1}, "sight": {}}')
    base = folder.read_base(tmp_path / "mine.json")
    assert base == Config(seed=3, grpo=Grpo(group=4, lr=1))  # parts that are not named keep the default run's values
    flags = vars(program.parser().parse_args(["--grpo-group", "8", "--games", "swap"]))
    flags.pop("resume")
    assert program.read_config(flags, base) == Config(games=("swap",), seed=3, grpo=Grpo(group=8, lr=1))
    weighed = Config(reward=Reward(weights=("swap=2",)))
    assert program.read_config(vars(program.parser().parse_args(["--reward-weights="])), weighed) == Config()


def test_only_phases_of_the_run_are_cut_into_parts(finished):
    saved, parts = {"model": str(finished / "model"), "recipe": "g0"}, {"accumulate": 32, "grpo": Grpo(states=32)}
    assert Config(games=("2048",), **saved, **parts).phases == ("grpo",)
    with pytest.raises(ValueError, match="accumulate=32: must divide the 16 boards of base"):
        Config(games=("2048",), **parts)
    with pytest.raises(ValueError, match="accumulate=32: must divide the 16 boards of a minibatch of GRPO"):
        Config(games=("2048",), **saved, accumulate=32, grpo=Grpo(states=16))


def of_the_device(*_):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes")


def of_the_host(*_):
    raise MemoryError


@pytest.mark.parametrize(
    ("phase", "step", "fail", "more", "told"),
    [
        ("sight", "_supervise", of_the_device, [], "lower --sight-boards, or raise --accumulate, or give --remat, or"),
        (
            "base",
            "_supervise",
            of_the_host,
            ["--remat"],
            "lower --base-boards, or raise --accumulate, or --dtype bfloat16",
        ),
        (
            "coldstart",
            "_supervise",
            of_the_device,
            ["--dtype", "bfloat16"],
            "--coldstart-boards, or raise --accumulate, or give --remat\n",
        ),
        (
            "grpo",
            "_reinforce",
            of_the_host,
            [],
            "in a new run lower --grpo-states, --grpo-group or --grpo-keep, or",
        ),
    ],
)
def test_out_of_memory_names_the_knobs_of_its_phase(phase, step, fail, more, told, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Trainer, "evaluate", lambda self, column: iter(()))
    monkeypatch.setattr(Trainer, step, fail)
    others = {"sight-steps", "base-steps", "coldstart-steps", "grpo-updates"} - {f"{phase}-steps", f"{phase}-updates"}
    off = [word for other in sorted(others) for word in (f"--{other}", "0")]
    run = tmp_path / "run"
    assert program.main(["--games", "2048", "--model", "tiny", "--run", str(run), *off, *more]) == 2
    said = capsys.readouterr().err
    assert f"error: out of memory in {phase}" in said and told in said and said.count("\n") == 1
    assert not run.exists()


def test_what_ends_a_run_is_told_though_its_page_cannot_be_written(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError("no page")

    monkeypatch.setattr(report, "write", fail)
    monkeypatch.setattr(Trainer, "_supervise", of_the_device)
    assert program.main(["--games", "2048", "--model", "tiny", "--run", str(tmp_path / "run")]) == 2
    assert "error: out of memory in sight" in capsys.readouterr().err
    monkeypatch.setattr(Trainer, "events", lambda self: iter(()))
    assert program.main(["--games", "2048", "--model", "tiny", "--run", str(tmp_path / "run")]) == 2
    assert "no page" in capsys.readouterr().err  # where nothing else was wrong


def test_out_of_memory_before_the_first_step_names_the_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("train.loop.prepare", of_the_device)
    assert program.main(["--games", "2048", "--run", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.startswith("error: out of memory before the first step: take a smaller --model")


def test_compiled_programs_are_kept_unless_jax_is_told_otherwise(tmp_path, monkeypatch):
    set_to = {}
    monkeypatch.setattr(jax.config, "update", set_to.__setitem__)
    command._keep_programs()
    assert not set_to  # the tests have a place of their own
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command._keep_programs()
    assert set_to["jax_compilation_cache_dir"] == str(tmp_path / "jaxgym")
    monkeypatch.delenv("XDG_CACHE_HOME")
    set_to.clear()

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    command._keep_programs()
    assert not set_to


class Reads(ast.NodeVisitor):
    """The names that source text reads as attributes, but for what a record checks of itself."""

    def __init__(self):
        self.names = set()

    def visit_FunctionDef(self, node):
        if node.name != "__post_init__":
            self.generic_visit(node)

    def visit_Attribute(self, node):
        self.names |= {node.attr} if isinstance(node.ctx, ast.Load) else set()
        self.generic_visit(node)


def test_every_field_of_a_configuration_is_read():
    """Some line of the trainer asks for each: what none does would be a flag without effect."""
    reads = Reads()
    for file in Path(program.__file__).parent.rglob("*.py"):
        reads.visit(ast.parse(file.read_text()))
    parts = [part.default for part in fields(Config) if is_dataclass(part.default)]
    for part in (Config(), *parts):
        unread = {field.name for field in fields(part)} - reads.names
        assert not unread, f"nothing reads {type(part).__name__} {unread}"


def test_a_folder_that_exists_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    assert program.main(["--run", str(tmp_path / "mine")]) == 2
    assert "exists already" in capsys.readouterr().err
    (tmp_path / "file").write_text("x")
    assert program.main(["--run", str(tmp_path / "file" / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert program.main(["--run", str(tmp_path / "o\udcff")]) == 2
    assert "give a name in UTF-8" in capsys.readouterr().err and not list(tmp_path.glob("o*"))


def test_a_broken_photo_archive_is_told_and_leaves_no_run(tmp_path, capsys):
    (tmp_path / "cifar.tar.gz").write_bytes(b"not an archive")
    flags = ["--games", "shisen_sho_photo", "--photos", str(tmp_path / "cifar.tar.gz"), "--run", str(tmp_path / "run")]
    assert program.main(flags) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("platform", ["cuda", pytest.param("nonsense", marks=pytest.mark.slow)])
def test_a_back_end_that_does_not_start_is_told_in_one_line(tmp_path, platform):
    flags = ["--games", "swap", "--model", "tiny", "--run", str(tmp_path / "a" / "b")]
    out = subprocess.run(
        [sys.executable, "-m", "train.main", *flags],
        capture_output=True,
        check=False,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": platform},
    )
    assert out.returncode == 2 and out.stderr.count("\n") == 1
    assert "no device to run on" in out.stderr and f"unset JAX_PLATFORMS (now '{platform}')" in out.stderr
    assert not list(tmp_path.iterdir())


def test_what_json_cannot_say_is_no_configuration():
    for record, message in (
        ({"grpo": {"lr": float("inf")}}, "lr=inf: must be a finite number"),
        ({"grpo": {"lr": "fast"}}, "lr='fast': must be a finite number"),
        ({"seed": 1.5}, r"seed=1\.5: must be a whole number"),
        ({"seed": True}, "seed=True: must be a whole number"),
        ({"recipe": "g7"}, "recipe='g7'"),
        ({"games": "swap"}, "games='swap'"),
        ({"games": ["swap", 3]}, "games"),
        ({"grpo": 3}, "grpo is 3: give an object of settings"),
        ([], "the configuration is .*: give an object of settings"),
    ):
        with pytest.raises(ValueError, match=message):
            Config.from_dict(record)


def test_numpy_numbers_are_numbers():
    config = Config(seed=np.int64(3), grpo=Grpo(group=np.uint8(4), lr=np.float32(0.5), mask_truncated=np.bool_(True)))
    assert config == Config(seed=3, grpo=Grpo(group=4, lr=0.5, mask_truncated=True))
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="must be a finite number"):
        Grpo(lr=np.float32(np.nan))


def test_the_fewest_boards_can_be_evaluated(tmp_path, small):
    trainer = Trainer(small(evaluation=Evaluation(boards=2)), tmp_path / "run")
    for _ in trainer.evaluate("base"):
        pass
    assert trainer.records.table["games"]["2048"]["columns"]["base"]["n"] == 2


# Damage


@pytest.fixture
def copy(finished, tmp_path):
    """A run that is done, to be damaged."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def cut(file, size):
    file.write_bytes(file.read_bytes()[:size])


@pytest.mark.parametrize("lost", [False, True])
def test_a_table_cut_short_or_lost_is_taken_from_the_checkpoint(copy, capsys, lost):
    """What RL began with cannot be measured any more: the model is another one."""
    whole = json.loads((copy / "table.json").read_text())
    cut(copy / "table.json", 700)
    if lost:
        (copy / "table.json").unlink()
    assert program.main(["--resume", str(copy)]) == 0
    out = capsys.readouterr().out
    assert f"{copy / 'table.json'} is {'missing' if lost else 'damaged'}" in out and "evaluate coldstart" not in out
    if not lost:
        assert "table-damaged.json" in out and (copy / "table-damaged.json").stat().st_size == 700
    again = json.loads((copy / "table.json").read_text())
    assert again == whole  # the cold start's column from the checkpoint, the others measured again


NO_TABLES = ["", "[]", "{}", '{"games": 3, "order": []}', '{"games": {"2048": {}}}', "\xff\xfe"]


@pytest.mark.parametrize("content", NO_TABLES)
def test_a_table_of_something_else_is_damaged(tmp_path, content):
    (tmp_path / "table.json").write_bytes(content.encode("latin1"))
    records = Records(tmp_path)
    assert f"{tmp_path / 'table.json'} is damaged" in records.damaged and records.table == {"games": {}, "order": []}
    records.keep_table()
    assert (tmp_path / "table-damaged.json").read_bytes() == content.encode("latin1")
    assert not Records(tmp_path).damaged


def test_a_checkpoint_cut_in_half_falls_back_to_the_one_before(copy, capsys):
    folders = sorted((p for p in (copy / "checkpoints").iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))
    assert [p.name for p in folders] == ["14", "18"]
    largest = max((p for p in folders[1].rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    cut(largest, largest.stat().st_size // 2)
    assert program.main(["--resume", str(copy)]) == 0
    out = capsys.readouterr().out
    assert "checkpoint 18 is damaged" in out and "going on from coldstart step 4" in out
    assert (copy / "checkpoints-damaged" / "18").is_dir() and (copy / "checkpoints" / "18").is_dir()
    rows = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["phase"] == "grpo" and row["game"] is None] == [1, 2, 3, 4]


def test_no_checkpoint_that_is_whole_is_told_in_one_line(copy, capsys):
    for file in (copy / "checkpoints").rglob("sums.json"):
        file.write_bytes(b"")
    before = {p.name for p in copy.iterdir()}
    assert program.main(["--resume", str(copy)]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert f"no checkpoint that is whole (checkpoint 18, 14 is damaged and was moved to {copy}/checkpoints" in told
    assert {p.name for p in copy.iterdir()} == before | {"checkpoints-damaged"}


@pytest.mark.parametrize("content", ["", '{"games": ["2048"', '{"seed": "x"}', '{"colour": 1}', "[" * 100_000])
def test_a_damaged_configuration_is_taken_from_the_checkpoint(copy, content, capsys):
    whole = (copy / "config.json").read_text()
    (copy / "config.json").write_text(content)
    config, (note,) = folder.old(copy)
    assert config == Config.from_dict(json.loads(whole)) and f"{copy / 'config.json'} is damaged" in note
    assert (copy / "config.json").read_text() == whole and (copy / "config-damaged.json").read_text() == content
    assert folder.old(copy) == (config, [])
    (copy / "config.json").unlink()
    assert folder.old(copy) == (
        config,
        [f"{copy / 'config.json'} is missing; the last checkpoint's own configuration stands"],
    )
    (copy / "config.json").write_text(content)
    (copy / "checkpoints" / "18" / "sums.json").unlink()
    (copy / "config-damaged.json").unlink()
    assert "checkpoint 18 is damaged" in folder.old(copy)[1][1]
    (copy / "config.json").write_text(content)
    shutil.rmtree(copy / "checkpoints")
    assert program.main(["--resume", str(copy)]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert f"{copy / 'config.json'} is damaged" in told


def test_a_run_goes_on_as_it_began(copy, capsys):
    """Other values would stand beside scores of those before; where its files are may change."""
    file = copy / "config.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"grpo": record["grpo"] | {"updates": 8}, "seed": 3}))
    assert program.main(["--resume", str(copy)]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert f"{file} has other values of --seed, --grpo-updates than the run began with: put them back" in told
    file.write_text(json.dumps(record | {"run": "elsewhere", "save": record["save"] | {"every": 7.0}}))
    assert program.main(["--resume", str(copy)]) == 0


def test_a_models_folder_is_no_runs(copy, capsys):
    before = {p.name for p in (copy / "model").iterdir()}
    assert program.main(["--resume", str(copy / "model")]) == 2
    assert "is the folder of a model, not of a run: give its run, or --model" in capsys.readouterr().err
    assert {p.name for p in (copy / "model").iterdir()} == before


def test_a_name_that_looks_like_a_flag_can_be_pasted():
    assert folder.quoted(Path("-x y")) == "'./-x y'" and folder.quoted(Path("runs/a")) == "runs/a"


def test_lines_that_a_crash_left_are_passed_over(copy):
    with (copy / "metrics.jsonl").open("ab") as out:
        out.write(b'[]\n3\nnull\n\xff\n{"step": "x"}\n{"phase": "grpo", "step": 99, "game": null}\n{"phase": "gr')
    with (copy / "samples.jsonl").open("a") as out:
        out.write('{"game": [], "phase": {}}\n{"picture": "sam')
    trainer = Trainer(Config.from_dict(json.loads((copy / "config.json").read_text())), copy)
    assert trainer.resume() and not trainer.notes
    trainer.records.log("grpo", 5, 1.0, None, {"x": float("nan")})
    trainer.records.sample("x", np.zeros((8, 8, 3), np.uint8), {"game": "2048"})
    rows = [strictly(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1] == {"phase": "grpo", "step": 5, "seconds": 1.0, "game": None, "x": None}
    assert all(row["step"] <= 16 for row in rows)
    assert strictly((copy / "samples.jsonl").read_text().splitlines()[-1])["picture"] == "samples/x.png"


def test_measurements_that_are_lost_are_told(copy):
    (copy / "metrics.jsonl").unlink()
    trainer = Trainer(Config.from_dict(json.loads((copy / "config.json").read_text())), copy)
    assert trainer.resume()
    assert trainer.notes == [f"{copy / 'metrics.jsonl'} is missing: what was measured before is lost"]


def test_a_folder_is_only_removed_while_nothing_came_of_it(tmp_path, tiny, monkeypatch, capsys):
    def fail(self):
        raise OSError(28, "No space left on device")

    run = tmp_path / "runs" / "mine"
    monkeypatch.setattr(Trainer, "_reinforce", fail)
    assert program.main(["--games", "2048", "--run", str(run), *tiny]) == 2
    hint = f"mend that, and go on: python -m train.main --resume {run}"
    assert capsys.readouterr().err == f"error: [Errno 28] No space left on device: {hint}\n"
    assert (run / "checkpoints" / "14").is_dir()  # after the cold start
    monkeypatch.setattr(Trainer, "_supervise", lambda self, phase: fail(self))
    assert program.main(["--games", "2048", "--run", str(tmp_path / "a" / "b" / "c"), *tiny]) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]


# The terminal


def full_table():
    columns = ("random", "random_legal", "teacher", "base", "coldstart", "grpo")
    score = {"mean": 1070.4, "low": -1057.25, "high": 123456.75, "n": 256}
    share = {"cells": 1.0, "board": 0.999, "legal": 0.5, "reason": 0.0, "formatted": 1.0}
    entry = {
        "columns": dict.fromkeys(columns, score),
        "extra": dict.fromkeys(columns[3:], share),
        "unit": "pairs of 18 in 36 steps [b]",
        "published": {"G1": 1070, "Claude-3.7-Thinking": 15.3},
    }
    return {"games": dict.fromkeys(("2048", "shisen_sho", "shisen_sho_photo", "[red]swap"), entry), "order": columns}


@pytest.mark.parametrize("width", [200, 120, 80, 60, 40, 20, 5])
def test_no_number_is_ever_cut(width):
    out = io.StringIO()
    terminal.show_results(Console(width=width, file=out), full_table())
    text = out.getvalue()
    assert "\u2026" not in text
    for word, count in (("1070", 4 * 6 + 4), ("-1057 .. 123457", 4 * 6), ("100.0 %", 4 * 3 * 2), ("15.3", 4)):
        assert len(re.findall(rf"(?<![\d.]){re.escape(word)}(?![\d.])", text)) == count
    assert "shisen_sho_photo" in text and "[red]swap" in text and "[b]" in text
    if width >= 60:  # the narrowest of these columns take 43
        assert max(map(len, text.splitlines())) <= width
    if width >= 120:
        assert text.count("2048") == 2  # all games side by side


def test_missing_and_unknown_numbers_leave_a_dash():
    table = full_table()
    table["games"]["2048"] = {"columns": {"grpo": {"mean": None, "low": None, "high": None}}, "extra": {"grpo": {}}}
    table["order"] = ("grpo", "another")
    out = io.StringIO()
    terminal.show_results(Console(width=100, file=out), table)
    assert "another" in out.getvalue() and "- .. -" in out.getvalue()


def test_progress_is_never_cut(monkeypatch):
    out = io.StringIO()
    console = Console(width=60, file=out, force_terminal=True, color_system=None)
    display = terminal.Display(console)
    values = dict.fromkeys(("reward", "legal", "cells", "grad_norm", "replies_per_second"), 0.123)
    with display.progress:
        display.show("evaluate coldstart on shisen_sho_photo", 12345, 25600, values)
    assert "\u2026" not in out.getvalue() and "12345/25600" in out.getvalue()
    assert "replies_per_second 0.123" in out.getvalue()
