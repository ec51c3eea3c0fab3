"""Settings that do nothing are told before a run begins."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

import jaxgym
from train.config import Config
from train.course import Course
from train.idle import idle_flags
from train.parts import Base, Coldstart, Episodes, Grpo, Lora, Reward, Sight, States


def course(*, named):
    """Of a game whose cells and actions have tokens of their own, or not."""
    return Course(None, "tables" if named else None, "names" if named else None, 10, 1.0)


def told(named=True, **parts):
    return idle_flags(replace(Config(), **parts), [course(named=named)])


def grpo(**changes):
    return {"grpo": Grpo(updates=2, **changes)}


def block(**changes):
    return grpo(credit="block", **changes)


@pytest.mark.parametrize("named", [True, False])
def test_what_is_as_usual_is_not_told(named):
    for part in ({}, {"recipe": "g0"}, {"model": "some/folder"}, {"model": "some/folder", "recipe": "g0"}):
        config = replace(Config(), **part)
        for each in (config, config.settled()):
            assert not idle_flags(each, [course(named=named)])


def test_steps_of_a_phase_that_there_is_not_are_told():
    lines = idle_flags(Config(model="some/folder", base=Base(steps=7)).settled(), [course(named=False)])
    assert lines == ["this run has no phase base, so --base-steps will do nothing"]


def test_boards_to_learn_to_see_from_are_told_where_no_game_deals_them():
    part, games = Sight(steps=8, practice=0.3), [jaxgym.make(name) for name in ("2048", "swap")]
    played = [course(named=True)._replace(language=SimpleNamespace(game=game)) for game in games]
    line = "no game deals boards to learn to see from, so --sight-practice will do nothing"
    assert idle_flags(replace(Config(), sight=part), played[:1]) == [line]
    assert not idle_flags(replace(Config(), sight=part), played)


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ({"lora": Lora(rank=2), "freeze": "vision"}, "adapters alone learn, so --freeze will do nothing"),
        ({"freeze": "vision"}, ""),
        ({"photos": "cifar", "games": ("2048",)}, "no game is shisen_sho_photo, so --photos will do nothing"),
        ({"photos": "cifar"}, ""),
        (grpo(group=4, keep=2), "not compared, so --grpo-group, --grpo-keep will do nothing: add --grpo-credit block"),
        (block(group=4, keep=2), ""),
        ({"reward": Reward(format=2.0)}, "not compared, so --reward-format will do nothing"),
        (grpo(kl_estimate="k1", clip_high=0.3, epochs=2), ""),  # then tokens have an advantage that is clipped
        (grpo(clip_high=0.3, epochs=2), "not compared, so --grpo-clip-high will do nothing"),
        (block(clip_high=0.28), "ratios of 1, so --grpo-clip-high will do nothing: add --grpo-minibatches 2"),
        (block(objective="cispo", clip=0.1), "so --grpo-objective, --grpo-clip will do nothing"),
        (block(objective="gspo"), ""),
        (block(objective="gspo", average="constant"), "count alike for gspo, so --grpo-average will do nothing"),
        (block(objective="cispo", minibatches=2), ""),
        (block(clip_high=0.28, epochs=2), ""),
        (block(hold=1.0, cover=0.3), "not judged one by one, so --grpo-hold, --grpo-cover will do nothing"),
        (block(group=4, keep=8), "a group has 4 replies, so --grpo-keep will do nothing"),
        (block(kl=0.0, kl_estimate="k1"), "no divergence counts, so --grpo-kl-estimate will do nothing: add --grpo-kl"),
        (block(kl=0.1, kl_estimate="k1"), ""),
        (grpo(hold=0.0, kl_estimate="k1"), "no divergence counts, so --grpo-kl-estimate will do nothing"),
        (block() | {"reward": Reward(perception=0.0, exact=True)}, "reading earns nothing, so --reward-exact will do"),
        ({"states": States(persist=False, play=("teacher",))}, "boards do not persist, so --states-play will do"),
        ({"states": States(promote=0.3)}, "there is one level, so --states-promote will do nothing: add --states-le"),
        ({"states": States(promote=0.3, levels=("easy", "paper"))}, ""),
        ({"episodes": Episodes(discount=0.5)}, "episodes have one turn, so --episodes-discount will do nothing"),
        ({"lora": Lora(alpha=3.0, modules=("q",))}, "no adapters, so --lora-alpha, --lora-modules will do nothing"),
    ],
)
def test_of_rl(parts, line):
    assert_is(told(**parts), line)


@pytest.mark.parametrize(
    ("named", "part", "line"),
    [
        (True, Coldstart(steps=2, regret=1.0), ""),
        (False, Coldstart(steps=2, regret=1.0), "the tokenizer has no names for cells and actions, so"),
        (True, Coldstart(steps=2, regret=1.0, data="x"), "replies are all from disk, so --coldstart-regret will do"),
        (True, Coldstart(steps=2, regret=1.0, data="x", data_share=0.5), ""),
    ],
)
def test_of_the_cold_start(named, part, line):
    assert_is(told(named, coldstart=part), line)


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ({"recipe": "g0", "coldstart": Coldstart(steps=2, lr=1e-3)}, "so --coldstart-steps, --coldstart-lr will do"),
        (
            {"model": "folder", "sight": Sight(steps=9, boards=8)},
            "no phase sight, so --sight-steps, --sight-boards will do nothing",
        ),
        ({"grpo": Grpo(updates=0, states=8)}, "no phase grpo, so --grpo-states will do nothing"),
        (
            {"grpo": Grpo(updates=0), "reward": Reward(game="outcome"), "episodes": Episodes(turns=3)},
            "no phase grpo, so --reward-game, --episodes-turns will do nothing",
        ),
    ],
)
def test_of_phases_that_are_left_out(parts, line):
    assert_is(told(**parts), line)


def assert_is(lines, line):
    """There is that line alone, or none."""
    assert len(lines) == bool(line) and line in "".join(lines)
