"""Runs of a few steps of a tiny model: as flags, as a configuration, and one that has been done."""

import os
from dataclasses import replace

import pytest
from filelock import FileLock

from train import main as program
from train import protocol
from train.config import Config
from train.parts import Base, Coldstart, Evaluation, Grpo, Save, Sight

_FLAGS = [
    "--model", "tiny", "--sight-steps", "4", "--sight-boards", "8",
    "--base-steps", "6", "--base-boards", "8", "--coldstart-steps", "4", "--coldstart-boards", "8",
    "--grpo-updates", "4", "--grpo-states", "4", "--evaluation-boards", "4",
    "--save-every", "1000",  # only at the end of a phase, however slow the machine
]  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def short_protocols():
    """Games are over after a few steps: with a tiny model to play takes longer than to learn."""
    for name, rules in protocol.PROTOCOLS.items():
        protocol.PROTOCOLS[name] = replace(rules, steps=12)


@pytest.fixture(scope="session")
def tiny():
    """Flags of a short run."""
    return _FLAGS


def _small(**changes) -> Config:
    parts = {
        "games": ("2048",),
        "model": "tiny",
        "sight": Sight(steps=4, boards=8),
        "base": Base(steps=6, boards=8),
        "coldstart": Coldstart(steps=4, boards=8),
        "grpo": Grpo(updates=4, states=4),
        "evaluation": Evaluation(boards=4),
        "save": Save(every=1000),
    }
    return Config(**(parts | changes))


@pytest.fixture(scope="session")
def small():
    """The same as a configuration, for one game; arguments change it."""
    return _small


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A whole run on two games, from the command line; one for all processes of a session, which wait for it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    run = shared / "finished"
    with FileLock(shared / "finished.lock"):
        if not run.exists():
            assert program.main(["--games", "2048,shisen_sho", "--run", str(run), *_FLAGS]) == 0
    return run
