"""The same run on one device, on eight and on two processes: the same losses."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import policy
from policy.weights import named
from train import devices, folder
from train import main as program
from train.config import Config
from train.loop import Trainer
from train.parts import Mesh
from train.states import every
from train.supervise import Pupil, taught

FLAGS = [
    "--games", "2048", "--model", "tiny", "--sight-steps", "2", "--sight-boards", "8", "--base-steps", "2",
    "--base-boards", "8", "--coldstart-steps", "2", "--coldstart-boards", "8", "--grpo-updates", "2",
    "--grpo-states", "8", "--grpo-group", "4", "--grpo-lr", "1e-3", "--grpo-epochs", "2", "--evaluation-boards", "4",
    "--reward-own", "tests.train.test_scale:own", "--no-save-best",
    "--seed", "1",  # of those few in which some draw lies so near a border that rounding decides, 0 is one
]  # fmt: skip


def late(replies, game):
    """The same, in a step that takes long; leaves a mark when it begins."""
    Path(os.environ["MARK"]).touch()
    time.sleep(8)
    return own(replies, game)


SEED = ["--seed", "2"]  # of two processes: with 1 a token of the last update is such a draw


def own(replies, game):
    """A reward that a model which has learned nothing yet earns now and then; another in each process."""
    other = 3 * int(os.environ.get("JAX_PROCESS_ID", "0"))
    return np.asarray([(len(text) + other) % 7 for text in replies.texts], np.float32)


def config(**changes) -> Config:
    flags = vars(program.parser().parse_args(FLAGS))
    return replace(program.read_config({k: v for k, v in flags.items() if v is not None}, Config()), **changes)


def learn(config: Config, run: Path) -> Trainer:
    """A whole run, without evaluation."""
    trainer = Trainer(config, run)
    trainer.evaluate, trainer.anchors = lambda column: iter(()), lambda: iter(())  # type: ignore[method-assign]
    for _ in trainer.events():
        pass
    return trainer


def measured(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "replies_per_second")} for row in rows]


def assert_alike(run: Path, other: Path) -> None:
    """The same rows of metrics, losses to 1e-5."""
    mine, theirs = measured(run), measured(other)
    assert [(r["phase"], r["step"], r["game"], *r) for r in mine] == [
        (r["phase"], r["step"], r["game"], *r) for r in theirs
    ]
    assert {row["phase"] for row in mine} == {"sight", "base", "coldstart", "grpo"}
    for row, same in zip(mine, theirs, strict=True):
        for name, value in row.items():
            if isinstance(value, float):
                assert value == pytest.approx(same[name], rel=1e-5, abs=3e-6), (row["phase"], row["step"], name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run on one device."""
    return learn(config(), tmp_path_factory.mktemp("alone") / "run")


@pytest.mark.slow  # of the daily suite, `test_a_run_goes_on_on_other_devices` compares losses
@pytest.mark.parametrize("sizes", [(2, 2, 2), (-1, 1, 1), (1, 8, 1)])
def test_eight_devices_learn_as_one(alone, tmp_path, sizes):
    trainer = learn(config(mesh=Mesh(data=sizes[0], fsdp=sizes[1], tensor=sizes[2])), tmp_path / "run")
    assert trainer.frame.mesh.size == 8
    assert_alike(trainer.run, alone.run)
    saved, other = (named(policy.load(t.run / "model").params) for t in (trainer, alone))
    for path, leaf in saved.items():
        np.testing.assert_allclose(leaf, other[path], atol=2e-4, err_msg=path)


def cut(tree) -> list[int]:
    """In how many parts the matrices of blocks lie on the devices."""
    leaves = [leaf for path, leaf in named(tree).items() if leaf.ndim == 2 and "blocks" in path]
    return [leaf.size // leaf.addressable_shards[0].data.size for leaf in leaves]


@pytest.mark.slow  # of the daily suite, the next test looks at what is cut after a step
def test_what_learns_and_its_moments_are_cut(tmp_path):
    """Every device has an eighth of matrices, gradients, moments and reference, also after an update."""
    trainer = Trainer(config(mesh=Mesh(fsdp=8)), tmp_path / "run")
    for _ in range(2):
        for tree in (trainer.state.params, trainer.state.optimizer):
            assert set(cut(tree)) == {8} and len(cut(tree)) >= len(cut(trainer.state.params)) > 20
        lesson = every(trainer._prepare("sight", 0)["2048"], 0, 32)
        pupil = Pupil(trainer.frame, trainer.state.params, trainer.state.heads["2048"], trainer.fixed)
        _, (gradient, _) = taught(trainer.config, "sight", pupil, trainer.courses["2048"], lesson)
        assert set(cut(gradient)) == {8}
        trainer._supervise("sight")
    trainer._enter("grpo")
    assert set(cut(trainer.reference)) == {8}


@pytest.mark.parametrize(
    ("before", "after"), [pytest.param(Mesh(fsdp=8), Mesh(), marks=pytest.mark.slow), (Mesh(), Mesh(fsdp=8))]
)
def test_a_run_goes_on_on_other_devices(tmp_path, before, after):
    """What was saved comes back to the bit, to where it lives now, and is learned on from."""
    trainer = Trainer(config(mesh=before), tmp_path / "run")
    trainer._supervise("sight")
    trainer.save()
    trainer.checkpoints.close()
    again = Trainer(config(mesh=after), tmp_path / "run")
    assert again.resume() and (again.phase, again.step) == ("sight", 1)
    for mine, kept in zip(jax.tree.leaves(again.state), jax.tree.leaves(trainer.state), strict=True):
        np.testing.assert_array_equal(mine, kept)
    assert set(cut(again.state)) == {after.fsdp} and set(cut(trainer.state)) == {before.fsdp}
    losses = [t._supervise("sight")["loss"] for t in (trainer, again)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert set(cut(again.state)) == {after.fsdp}


def test_resuming_may_name_other_devices(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(program, "_train", lambda config, *_, resume: asked.append((config.mesh, resume)) or 0)
    assert program.main([*FLAGS, "--run", str(tmp_path / "run"), "--mesh-data", "4"]) == 0
    assert program.main(["--resume", str(tmp_path / "run")]) == 0
    assert program.main(["--resume", str(tmp_path / "run"), "--mesh-data", "-1", "--mesh-fsdp", "2"]) == 0
    assert asked == [(Mesh(data=4), False), (Mesh(data=4), True), (Mesh(data=-1, fsdp=2), True)]


@pytest.mark.parametrize(
    ("part", "size"), [(Mesh(), 1), (Mesh(data=-1), 8), (Mesh(fsdp=4), 4), (Mesh(data=-1, fsdp=2, tensor=2), 8)]
)
def test_one_process_may_leave_devices_alone(part, size):
    mesh = devices.make_mesh(Config(mesh=part))
    assert (mesh.size if mesh else 1) == size


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mesh-data", "0"], "mesh data=0: must be at least 1, or -1 for what there is"),
        (["--mesh-data", "-2"], "mesh data=-2: must be at least -1"),
        (["--mesh-fsdp", "0"], "mesh fsdp=0: must be at least 1"),
        (["--mesh-data", "16"], "mesh data=16 x fsdp=1 x tensor=1 do not make up 8 devices; --mesh-data -1 takes"),
        (["--mesh-data", "-1", "--mesh-tensor", "3"], "mesh data=-1 x fsdp=1 x tensor=3 do not make up 8 devices"),
        (
            ["--mesh-fsdp", "8", "--grpo-states", "4"],
            "mesh data x fsdp = 8: must divide the 4 boards that grpo works on",
        ),
        (
            ["--mesh-data", "8", "--accumulate", "4"],
            "mesh data x fsdp = 8: must divide the 4 boards that base works on",
        ),
        (["--distributed", "0"], "distributed=0: must be more than 0 seconds"),
    ],
)
def test_devices_that_do_not_fit_are_told_in_one_line(flags, message, tmp_path, capsys):
    assert program.main(["--run", str(tmp_path / "run"), "--model", "tiny", *flags]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1 and not (tmp_path / "run").exists()


def start(
    number: int, count: int, port: int, *flags: str, program: tuple[str, ...] = ("-m", "train.main"), **environment: str
) -> subprocess.Popen[str]:
    """One of several processes, each with a device of its own."""
    where = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(count)}
    where |= {"JAX_PROCESS_ID": str(number), "JAX_NUM_CPU_DEVICES": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    words = [sys.executable, *program, *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, env=os.environ | where | environment, **pipes)


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def pair(run: Path, *flags: str, **environment: str) -> list[subprocess.Popen[str]]:
    """Two processes of a run."""
    port, flags = free_port(), ("--distributed", "--run", str(run), *flags)
    return [start(i, 2, port, *FLAGS, *flags, **environment) for i in range(2)]


def wait_for(processes: list[subprocess.Popen[str]], there: Callable[[], bool]) -> None:
    """Until something is there, or one of the processes has ended."""
    while not there() and all(each.poll() is None for each in processes):
        time.sleep(0.05)


def measures(run: Path) -> bool:
    """Whether something has been measured in it."""
    log = run / "metrics.jsonl"
    return log.exists() and "sight" in log.read_text()


def finish(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    said = [process.communicate(timeout=500) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


@pytest.mark.slow
def test_two_processes_learn_as_one_and_stop_together(tmp_path):
    """Stopped by a signal to the second, and gone on with by both: nothing stands twice, and nothing is different."""
    alone = tmp_path / "alone"  # by the program as well: games are shorter in this process
    ((status, *said),) = finish([start(0, 1, free_port(), *FLAGS, *SEED, "--run", str(alone))])
    assert status == 0, said
    run = tmp_path / "run"
    both = pair(run, *SEED, "--mesh-fsdp", "2")
    wait_for(both, lambda: measures(run))
    both[1].send_signal(signal.SIGTERM)
    first, second = finish(both)
    assert (first[0], second[0]) == (130, 143), (first, second)
    assert "saved. To go on" in first[1] and "saved" not in second[1]
    port = free_port()
    again = [start(i, 2, port, "--resume", str(run), "--distributed") for i in range(2)]
    first, second = finish(again)
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert "going on from" in first[1] and "Report" in first[1] and "Report" not in second[1]
    assert_alike(run, alone)
    saved = named(policy.load(run / "model").params)
    for path, leaf in named(policy.load(alone / "model").params).items():
        np.testing.assert_allclose(leaf, saved[path], atol=2e-4, err_msg=path)


@pytest.mark.slow
def test_a_mistake_that_all_processes_find_is_told_by_each(tmp_path):
    """Also by those that find it after the first one has."""
    both = finish(pair(tmp_path / "run", *SEED, "--mesh-data", "2", "--coldstart-data", str(tmp_path / "nowhere")))
    for status, _, said in both:
        assert status == 2 and said.startswith("error: coldstart data") and said.count("\n") == 1, both
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("number", "status", "waits"), [("0", 2, True), ("1", 2, False), ("0", 130, False), ("0", 0, False)]
)
def test_the_first_process_stays_until_others_have_said_what_is_wrong(number, status, waits, monkeypatch):
    done = []
    monkeypatch.setenv("JAX_PROCESS_ID", number)
    monkeypatch.setattr(devices.jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(devices.time, "sleep", lambda seconds: done.append("waits"))
    monkeypatch.setattr(devices.os, "_exit", done.append)
    devices.leave(status)
    assert done == ["waits"] * waits + [status]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--grpo-clip", "-5"], ["another process of this run was given what cannot be", "grpo clip=-5"]),
        (["--seed", "2"], ["another process of this run has failed", "has another --seed: give the same flags to all"]),
    ],
)
def test_a_process_that_was_given_other_flags_ends_all_in_one_line_each(more, told, tmp_path):
    run, port = tmp_path / "run", free_port()
    flags = [*FLAGS, "--mesh-data", "2", "--distributed", "--run", str(run)]
    began = time.monotonic()
    both = finish([start(0, 2, port, *flags), start(1, 2, port, *flags, *more)])
    for (status, _, said), reason in zip(both, told, strict=True):
        assert status == 2 and said.startswith("error: ") and reason in said and said.count("\n") == 1, said
    assert time.monotonic() - began < 90 and not run.exists()


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_gone_ends_the_others_in_one_line(killed, tmp_path):
    run = tmp_path / "run"
    both = pair(run, "--sight-steps", "500", "--mesh-data", "2")
    wait_for(both, lambda: measures(run))
    both[killed].kill()
    status, _, told = finish(both)[1 - killed]
    assert status == 2 and "error: " in told, told
    assert told.endswith("another process of this run has failed or is gone: go on with --resume\n")


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_one_process_before_the_first_step_stops_all(asked, tmp_path):
    run = tmp_path / "run"
    both = pair(run, "--mesh-data", "2")
    wait_for(both, run.exists)
    both[asked].send_signal(signal.SIGTERM)
    for number, (status, said, failed) in enumerate(finish(both)):
        assert (status, failed) == (143 if number == asked else 130, ""), (said, failed)
        assert ("stopped before there was anything new to save" in said) == (number == 0)
    assert not run.exists()


@pytest.mark.slow
def test_a_process_that_is_asked_twice_within_a_step_waits_for_nobody(tmp_path):
    """No word can be had with the other, who is in the midst of a step as well."""
    run, mark = tmp_path / "run", tmp_path / "mark"
    short = ["--recipe", "g0", "--sight-steps", "0", "--base-steps", "0", "--reward-own", "tests.train.test_scale:late"]
    both = pair(run, "--mesh-data", "2", *short, MARK=str(mark))
    wait_for(both, mark.exists)
    for _ in range(2):
        both[1].send_signal(signal.SIGTERM)
        time.sleep(0.7)
    try:
        assert both[1].wait(30) == 143
    finally:
        for each in both:
            each.kill()


def test_a_folder_that_not_all_processes_see_is_told(tmp_path, monkeypatch):
    """A disk over a network may need a while."""
    waited = []
    monkeypatch.setattr(folder.time, "sleep", waited.append)
    with pytest.raises(ValueError, match="process 0 does not see it: give a folder that all share"):
        folder.shared(tmp_path)
    monkeypatch.setattr(folder.time, "sleep", lambda _: folder.write_config(tmp_path, Config()))
    folder.shared(tmp_path)
    assert 5 <= sum(waited) <= 30


WRITE = """
import os, resource, sys
from pathlib import Path
import jax, numpy as np
from train import devices
from train.checkpoint import Checkpoints

devices.connect(60)
kept, mesh = Checkpoints(Path(sys.argv[1])), jax.make_mesh((2,), ("fsdp",))
over = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
value = np.random.default_rng(0).normal(size=(2, 50_000)).astype(np.float32)
tree = {"a": jax.make_array_from_callback(value.shape, over, lambda where: value[where])}
before = Checkpoints(Path(sys.argv[1]) / "before")  # another run of the same processes
before.save(1, {}, tree)
before.close()
unable, what = jax.process_index() == int(sys.argv[2]), sys.argv[3]
real = os.mkdir

def mkdir(place, *given, **named):
    if ".part" in str(place):
        raise OSError(28, "No space left on device", str(place))
    real(place, *given, **named)

for number in range(1, 5):
    fails = unable and number < 3
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_960, -1) if fails and what == "file" else (-1, -1))
    os.mkdir = mkdir if fails and what == "folder" else real
    kept.save(number, {}, tree)
    print(number, kept._settle() or "written", kept.latest())
again = kept.restore(tree)["a"]
assert (again.addressable_data(0) == tree["a"].addressable_data(0)).all()
kept.close()
devices.leave(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("unable", "what", "why"),
    [(0, "file", "file too large"), (1, "file", "file too large"), (0, "folder", "no space left on the device")],
)
def test_a_part_of_a_checkpoint_that_one_process_cannot_write_holds_up_no_other(unable, what, why, tmp_path):
    """All know why, and the next one is whole."""
    port, began = free_port(), time.monotonic()
    both = finish([start(i, 2, port, program=("-c", WRITE, str(tmp_path), str(unable), what)) for i in range(2)])
    failed = [f"{n} checkpoint {n} could not be written: {why} None" for n in (1, 2)]
    for status, said, wrong in both:
        lines = [line for line in said.splitlines() if "Gloo" not in line]
        assert status == 0 and lines == [*failed, "3 written 3", "4 written 4"], (said, wrong)
        assert "Task was destroyed" not in wrong
    assert time.monotonic() - began < 240  # 30 s for each that fails


@pytest.mark.slow
def test_a_process_that_waits_for_others_can_be_stopped(tmp_path):
    alone = start(1, 2, free_port(), *FLAGS, "--run", str(tmp_path / "run"), "--distributed", "100")
    time.sleep(15)
    assert alone.poll() is None
    alone.send_signal(signal.SIGTERM)
    assert alone.wait(5) in (-signal.SIGTERM, 128 + signal.SIGTERM)  # the latter where it has not come so far yet


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_processes_that_do_not_come_are_told_in_one_line(number, tmp_path):
    """The second process waits in vain for the first, or the first for the second."""
    flags = [*FLAGS, "--run", str(tmp_path / "run"), "--distributed", "1"]
    ((status, _, told),) = finish([start(number, 2, free_port(), *flags)])
    assert status == 2 and told.count("\n") == 1 and not (tmp_path / "run").exists()
    assert "error: the processes of this run did not come together at JAX_COORDINATOR_ADDRESS=127.0.0.1:" in told


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("JAX_COORDINATOR_ADDRESS", "host", "JAX_COORDINATOR_ADDRESS='host': must be HOST:PORT"),
        ("JAX_NUM_PROCESSES", "two", "JAX_NUM_PROCESSES and JAX_PROCESS_ID must be whole numbers"),
    ],
)
def test_an_environment_that_cannot_be_is_told(name, value, message, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        devices.connect(1)
