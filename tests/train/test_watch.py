"""A run that stands still, or whose replies are of no use, says so."""

import threading
import time

import pytest

from train import reinforce
from train.watch import Troubles, Watch


def stand_still(seconds: float) -> None:
    time.sleep(seconds)


def test_a_run_that_stands_still_says_where():
    told = []
    with Watch(told.append, least=0.2) as watch:
        watch.beat()
        stand_still(0.7)
    assert "in stand_still (test_watch.py, line" in told[0]
    assert len(told) <= 2  # each further one waits twice as long


def test_a_run_that_goes_on_says_nothing():
    told = []
    with Watch(told.append, least=0.3) as watch:
        for _ in range(8):
            stand_still(0.05)
            watch.beat()
    assert not told and threading.active_count() < 50


def test_a_long_step_makes_the_watch_patient():
    told = []
    with Watch(told.append, least=0.05) as watch:
        stand_still(0.04)
        watch.beat()
        stand_still(0.4)  # ten times as long, not twenty
    assert not told


@pytest.mark.parametrize(
    ("report", "told"),
    [
        ({"length": 1.0, "truncated": 0.0, "differ": 1.0}, "empty"),
        ({"length": 30.0, "truncated": 1.0, "differ": 1.0}, "after 40 tokens: raise --reply"),
        ({"length": 30.0, "truncated": 0.9, "differ": 0.0}, "earn alike"),
    ],
)
def test_replies_of_no_use_are_told_once(report, told):
    assert told in reinforce.trouble(report, 40)
    assert reinforce.trouble({"length": 30.0, "truncated": 0.9, "differ": 0.1}, 40) == ""
    troubles = Troubles()
    assert not any(troubles.tell("swap", found) for found in ("bad", "bad", "", "bad", "other", "bad", "bad"))
    found = ("bad",) * 5 + ("",) + ("bad",) * 5  # nor again after one good update
    assert [line for each in found for line in troubles.tell("swap", each)] == ["swap: bad"]
    assert [line for _ in range(4) for line in troubles.tell("2048", "bad")] == ["2048: bad"]
