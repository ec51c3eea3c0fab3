"""Checkpoints: written while the run goes on, the newest and the best kept, nothing lost to a kill or a full disk."""

import contextlib
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

import policy
from policy import tensors
from train import checkpoint, files, loop
from train import main as program
from train.checkpoint import Checkpoints
from train.loop import Trainer
from train.parts import Base, Coldstart, Grpo, Save, Sight
from train.rollout import BATCH


def tree(value):
    return {"a": jnp.full((3, 4), value, jnp.float32), "b": jnp.int32(value)}


def numbers(run):
    return sorted(int(place.name) for place in (run / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("keep", "best", "left"), [(1, False, [5]), (2, False, [4, 5]), (1, True, [2, 5]), (3, True, [2, 3, 4, 5])]
)
def test_the_newest_are_kept_and_the_best(tmp_path, keep, best, left):
    kept = Checkpoints(tmp_path, keep, best=best)
    for number, score in enumerate([None, 1.5, 0.5, 1.0, -1.0], 1):
        assert kept.save(number, {"step": number}, tree(number), score) == ""
    kept.close()
    assert numbers(tmp_path) == left
    again = Checkpoints(tmp_path, keep, best=best)
    assert again.latest() == 5 and again.progress()["step"] == 5 and not again.damaged
    assert again.best() == (2 if best else {1: 5, 2: 4}[keep])
    for number in left:
        np.testing.assert_array_equal(again.restore(tree(0), number)["a"], tree(number)["a"])
    again.save(6, {"step": 6}, tree(6), 2.0)
    again.close()
    assert again.best() == 6 and 2 not in numbers(tmp_path)


def test_a_run_goes_on_while_it_is_saved_and_a_checkpoint_counts_once_it_is_whole(tmp_path, monkeypatch):
    kept = Checkpoints(tmp_path / "run", 1)
    kept.save(1, {"step": 1}, tree(1))
    kept.wait()
    go_on, sums = threading.Event(), checkpoint._sums
    monkeypatch.setattr(checkpoint, "_sums", lambda *given, **how: (go_on.wait(10), sums(*given, **how))[1])
    record = {"step": 2}
    kept.save(2, record, tree(2))
    record["step"] = 3  # what happens later is not in it
    assert kept.latest() == 1
    while not (tmp_path / "run" / "checkpoints" / "2.part").exists():
        time.sleep(0.01)
    shutil.copytree(tmp_path / "run", tmp_path / "killed")
    go_on.set()
    kept.close()
    assert kept.latest() == 2 and kept.progress()["step"] == 2 and numbers(tmp_path / "run") == [2]
    killed = Checkpoints(tmp_path / "killed")
    assert killed.latest() == 1 and not killed.damaged and numbers(tmp_path / "killed") == [1]
    np.testing.assert_array_equal(killed.restore(tree(0))["a"], tree(1)["a"])


def full(*_, **__):
    raise OSError(28, "No space left on device")


_wait = checkpoint.ocp.AsyncCheckpointer.wait_until_finished


def full_for_orbax(self):
    """As Orbax 0.12 says it, to whoever waits for the write."""
    _wait(self)
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("RESOURCE_EXHAUSTED: Error writing local file: Failed to write: No space left on device")


@pytest.mark.parametrize(
    ("where", "what", "how"),
    [
        (files, "write", full),
        (checkpoint.ocp.AsyncCheckpointer, "wait_until_finished", full_for_orbax),
        (checkpoint.ocp.AsyncCheckpointer, "save", full),
    ],
)
def test_a_full_disk_costs_one_checkpoint(tmp_path, monkeypatch, where, what, how):
    kept = Checkpoints(tmp_path, 1)
    kept.save(1, {}, tree(1))
    kept.wait()
    with monkeypatch.context() as broken:
        broken.setattr(where, what, how)
        told = (kept.save(2, {}, tree(2)), kept._settle())[1]
    assert told == "checkpoint 2 could not be written: no space left on the device"
    assert kept.latest() == 1 and Checkpoints(tmp_path).latest() == 1 and numbers(tmp_path) == [1]
    assert kept.save(3, {}, tree(3)) == ""
    kept.wait()
    assert kept.latest() == 3
    monkeypatch.setattr(files, "write", full)
    kept.save(4, {}, tree(4))
    with pytest.raises(OSError, match="checkpoint 4 could not be written: no space left"):
        kept.close()
    assert numbers(tmp_path) == [3]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory", "RESOURCE_EXHAUSTED: Out of memory"),
        ("DEADLINE_EXCEEDED", checkpoint._ANOTHER),
    ],
)
def test_what_jax_finds_wrong_is_told_as_it_is(tmp_path, monkeypatch, error, told):
    """In another process only where this one has waited for it."""
    kept = Checkpoints(tmp_path, 1)

    def fail(self):
        _wait(self)
        if threading.current_thread() is not threading.main_thread():
            raise jax.errors.JaxRuntimeError(error)

    with monkeypatch.context() as broken:
        broken.setattr(checkpoint.ocp.AsyncCheckpointer, "wait_until_finished", fail)
        kept.save(1, {}, tree(1))
        assert kept._settle() == f"checkpoint 1 could not be written: {told}"
    assert kept.save(2, {}, tree(2)) == "" and kept._settle() == "" and kept.latest() == 2
    kept.close()


def meet(parties, *, key, timeout_ms):
    """A barrier between threads, as Orbax has it between processes, that waits for a tenth of a second at most."""
    try:
        parties.setdefault(key, threading.Barrier(2)).wait(0.1 if timeout_ms < 60_000 else 5)
    except threading.BrokenBarrierError:
        raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED") from None


@pytest.mark.parametrize(
    ("fails", "told"),
    [
        ((None, None), ("", "")),
        ((None, 0), (checkpoint._ANOTHER, "0")),
        ((0, 0), ("0", "0")),
        ((None, 1), ("", "1")),
        ((None, 2), ("", "2")),
    ],
)
def test_processes_of_which_one_fails_do_not_wait_for_it(fails, told):
    """Before it has written its part, before the parts are put together, and after; the next checkpoint is sound."""
    parties, found = {}, ([], [])

    def write(number):
        stages = checkpoint._Stages()
        stages._meet, stages._run = (lambda **where: meet(parties, **where)), 1
        for last in (fails[number], None):
            stages.begin()
            try:
                for stage in range(3):
                    if stage == last:
                        raise OSError(str(stage))
                    if stage < 2:
                        stages(key="any", timeout_ms=60_000)
                found[number].append("")
            except OSError as error:
                found[number].append(str(error))
                stages.leave()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(20)
    assert found == ([told[0], ""], [told[1], ""])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's disk that is always full")
def test_an_error_of_a_file_names_it(tmp_path):
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        files.append(Path("/dev/full"), {})
    (tmp_path / "a.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/a'"):
        files.write(tmp_path / "a", "some")
    assert not [*tmp_path.iterdir()]


def test_a_disk_that_is_full_ends_a_run_in_one_line_and_it_goes_on(tmp_path, tiny, monkeypatch, capsys):
    run = tmp_path / "run"

    def ends_at(stage, where, what, name, arguments):
        """From a stage on one file of a run cannot be written; of it, what is told."""
        with monkeypatch.context() as broken:
            works = getattr(where, what)

            def fail(*given, **options):
                if where is tensors:
                    raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")
                if given[0].name == name:
                    raise OSError(28, "No space left on device", str(given[0]))
                return works(*given, **options)

            def show(self, now, done, total, values):
                if now == stage:
                    broken.setattr(where, what, fail)

            broken.setattr(program.Display, "show", show)
            assert program.main(arguments) == 2
        hint = f"mend that, and go on: python -m train.main --resume {run}"
        assert capsys.readouterr().err == f"error: [Errno 28] No space left on device: '{run / name}': {hint}\n"

    evaluation, on = "evaluate coldstart on 2048", ["--resume", str(run)]
    ends_at(evaluation, files, "append", "samples.jsonl", ["--games", "2048", "--run", str(run), *tiny])
    ends_at(evaluation, files, "write", "table.json", on)  # replies stand beside it that it has no score of
    ends_at("grpo", files, "append", "metrics.jsonl", on)
    ends_at("evaluate grpo on 2048", tensors, "save_file", "model", on)
    assert program.main(on) == 0
    shown = [json.loads(line)["picture"] for line in (run / "samples.jsonl").read_text().splitlines()]
    assert sorted(shown) == sorted(f"samples/{path.name}" for path in (run / "samples").iterdir()) and len(shown) == 6
    steps = [(row["phase"], row["step"], row["game"]) for row in measured(run)]
    assert len(set(steps)) == len(steps) and {("grpo", i, "2048") for i in range(1, 5)} < set(steps)
    assert [*json.loads((run / "table.json").read_text())["games"]["2048"]["columns"]][-2:] == ["teacher", "grpo"]


def without_evaluation(monkeypatch):
    monkeypatch.setattr(Trainer, "evaluate", lambda self, column: iter(()))
    monkeypatch.setattr(Trainer, "anchors", lambda self: iter(()))


def measured(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "replies_per_second")} for row in rows]


def test_a_run_cut_off_anywhere_goes_on_bit_for_bit(tmp_path, small, monkeypatch):
    """What a kill would leave after some steps, the write of their checkpoint under way: copies of the folder."""
    without_evaluation(monkeypatch)
    few = {"sight": Sight(steps=2, boards=8), "coldstart": Coldstart(steps=2, boards=8)}
    config = small(**few, base=Base(steps=3, boards=8), grpo=Grpo(updates=3, states=4), save=Save(every=0))
    trainer = Trainer(config, tmp_path / "whole")
    for done, event in enumerate(trainer.events()):
        if done in (3, 8):  # in the midst of base, and of grpo
            with contextlib.suppress(shutil.Error):  # files come and go
                shutil.copytree(tmp_path / "whole", tmp_path / event.stage)
    trainer.checkpoints.close()
    for stage in ("base", "grpo"):
        again = Trainer(trainer.config, tmp_path / stage)
        assert again.resume()
        for _ in again.events():
            pass
        again.checkpoints.close()
        assert measured(tmp_path / stage) == measured(tmp_path / "whole")
        assert again.earned == trainer.earned != []
        for a, b in zip(jax.tree.leaves(trainer.state), jax.tree.leaves(again.state), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_run_cut_off_before_its_first_checkpoint_begins_anew(tmp_path, small):
    (tmp_path / "metrics.jsonl").write_text('{"phase": "sight", "step": 1, "game": null}\n{"phase": "si')
    assert not Trainer(small(), tmp_path).resume() and measured(tmp_path) == []


def test_a_run_that_was_saved_before_anything_was_measured_misses_nothing(tmp_path, small):
    trainer = Trainer(small(sight=Sight(steps=20, boards=8)), tmp_path)
    trainer._supervise("sight")
    trainer.save()
    trainer.checkpoints.close()
    again = Trainer(trainer.config, tmp_path)
    assert again.resume() and again.step == 1 and not again.notes


def test_the_best_of_rl_becomes_a_model_of_its_own(tmp_path, small, monkeypatch):
    without_evaluation(monkeypatch)
    earned, reinforce = iter([3.0, 0.0, 2.0, 2.0, 1.0]), Trainer._reinforce  # the first alone: of half the boards
    monkeypatch.setattr(Trainer, "_reinforce", lambda self: reinforce(self) | {"reward": next(earned)})
    monkeypatch.setattr(loop, "BATCH", 8)  # a pass of the boards is two updates
    few = {"sight": Sight(), "base": Base(steps=0), "coldstart": Coldstart(), "save": Save(every=0, keep=1)}
    trainer = Trainer(small(grpo=Grpo(updates=5, states=4), **few), tmp_path)
    models = [jax.tree.leaves(jax.device_get(trainer.params)) for _ in trainer.events()]
    trainer.checkpoints.close()
    assert numbers(tmp_path) == [4, 5]
    for name, step in (("model-best", 4), ("model", 5)):
        for a, b in zip(jax.tree.leaves(policy.load(tmp_path / name).params), models[step - 1], strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_best_is_checked_before_it_is_used(tmp_path, capsys):
    kept = Checkpoints(tmp_path, 1, best=True)
    for number, score in enumerate([2.0, None, 3.0, None, None], 1):
        kept.save(number, {"step": number}, tree(number), score)
    kept.close()
    assert numbers(tmp_path) == [3, 5]
    (file, *_) = (f for f in (tmp_path / "checkpoints" / "3").rglob("*") if f.is_file() and f.stat().st_size > 20)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    again = Checkpoints(tmp_path, 1, best=True)
    assert again.best() == 3 and again.sound_best() is None and again.damaged == [3] and numbers(tmp_path) == [5]
    again.close()


def test_the_best_is_kept_where_the_last_could_not_be_written(tmp_path, small, monkeypatch):
    without_evaluation(monkeypatch)
    earned, write = iter([3.0, 1.0]), files.write

    def reinforce(self):
        self.step += 1
        self.state = self.state._replace(params=jax.tree.map(lambda leaf: leaf + 1, self.state.params))
        return {"reward": next(earned)}

    monkeypatch.setattr(Trainer, "_reinforce", reinforce)
    monkeypatch.setattr(Trainer, "_judge", lambda self, reward: setattr(self, "earned", [reward]))

    def full(file, content):
        if "2.part" in str(file):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, content)

    monkeypatch.setattr(files, "write", full)
    few = {"sight": Sight(), "base": Base(steps=0), "coldstart": Coldstart(), "save": Save(every=0)}
    trainer = Trainer(small(grpo=Grpo(updates=2, states=BATCH, group=4), **few), tmp_path)
    models = [jax.tree.leaves(jax.device_get(trainer.params)) for _ in trainer.events()]
    trainer.checkpoints.close()
    assert numbers(tmp_path) == [1]
    for name, step in (("model-best", 1), ("model", 2)):
        for a, b in zip(jax.tree.leaves(policy.load(tmp_path / name).params), models[step - 1], strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_disk_that_was_full_for_a_while_is_told_and_the_run_goes_on(tmp_path, tiny, monkeypatch, capsys):
    without_evaluation(monkeypatch)
    finish, tried = Checkpoints._finish, []

    def sometimes(self, number, score):
        tried.append(number)
        if len(tried) == 1:
            monkeypatch.setattr(files, "write", full)
        try:
            return finish(self, number, score)
        finally:
            monkeypatch.setattr(files, "write", write)

    write = files.write
    monkeypatch.setattr(Checkpoints, "_finish", sometimes)
    rest = ["--base-steps", "0", "--coldstart-steps", "0", "--sight-steps", "3", "--grpo-updates", "0"]
    assert program.main(["--games", "2048", "--run", str(tmp_path / "run"), *tiny, *rest, "--save-every", "0"]) == 0
    out = capsys.readouterr().out
    assert out.count("checkpoint 1 could not be written: no space left on the device; trying again") == 1
    assert numbers(tmp_path / "run") == [2, 3]


def newest(run):
    named = {place.parent.name for place in run.glob("checkpoints/*/sums.json")}
    return max((int(name) for name in named if name.isdecimal()), default=0)  # others are not there yet


_CHILD = """
import sys
from train import main
from train.loop import Trainer
Trainer.evaluate, Trainer.anchors = lambda self, column: iter(()), lambda self: iter(())
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_measures_the_same(tmp_path, tiny):
    """SIGKILL at random moments, most of them while a checkpoint is being written."""
    env = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05"}

    def start(*flags):
        return subprocess.Popen([sys.executable, "-c", _CHILD, *flags], env=env, stdout=subprocess.DEVNULL)

    flags = ["--games", "2048", *tiny, "--sight-boards", "64", "--base-boards", "64", "--coldstart-boards", "64"]
    assert start(*flags, "--run", str(tmp_path / "whole")).wait() == 0
    run, chance, kills = tmp_path / "run", random.Random(0), 0
    while True:
        child = start("--resume", str(run)) if kills else start(*flags, "--run", str(run), "--save-every", "0")
        before = newest(run)
        while child.poll() is None and newest(run) <= before:
            time.sleep(0.01)
        try:
            status = child.wait(chance.uniform(0.0, 1.0))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            kills += 1
        else:
            assert status == 0
            break
    assert kills >= 3 and measured(run) == measured(tmp_path / "whole")


def test_threads_that_come_too_late_are_not_heard_of_and_all_else_is(tmp_path, monkeypatch):
    """What tensorstore raises of a disk that is full, once for each array."""
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    for _ in range(2):
        Checkpoints(tmp_path).close()
    for error in (RuntimeError("Event loop is closed"), RuntimeError("another"), ValueError("else")):
        sys.unraisablehook(SimpleNamespace(exc_value=error))
    assert [str(each.exc_value) for each in shown] == ["another", "else"]


def test_a_checkpoint_of_another_version_is_told_in_one_line(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2, best=False)
    checkpoints.save(1, {"step": 1}, {f"{i:05d}": jnp.ones(3) for i in range(3)})
    checkpoints.wait()
    for like in ({"00000": jnp.ones(3), "00001": np.ones(3)}, {f"{i:05d}": np.ones(3) for i in range(4)}):
        with pytest.raises(
            ValueError, match=r"1 does not fit this version, which keeps other arrays: go on with .* --run$"
        ):
            checkpoints.restore(like)
    checkpoints.close()
