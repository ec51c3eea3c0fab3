"""A run as a user starts it: it learns, stops, goes on, and says what is wrong in one line."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgym
import policy
from jaxgym import engine
from jaxgym.engine import random_legal, teacher
from policy.sample import generate
from tests.train.guises import problems
from train import coldstart, folder, learner, optimizer, protocol, rollout, rounds, states, supervise
from train import main as program
from train.config import Config
from train.course import prepare
from train.loop import Trainer
from train.metrics import Records
from train.parts import Base, Coldstart, Evaluation, Grpo, Reward, Sight, States
from train.report.record import PHASES
from train.rewards import Reading
from train.rollout import BATCH, act, judge, play_groups, show
from train.scoreboard import Scoreboard


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
    assert {row["phase"] for row in rows} == {"sight", "base", "coldstart", "grpo"}
    assert {row["game"] for row in rows} == {"2048", "shisen_sho", None}
    measured = {name for row in rows if row["phase"] == "grpo" and row["game"] for name in row}
    samples = [json.loads(line) for line in (finished / "samples.jsonl").read_text().splitlines()]
    assert {(row["phase"], row["step"]) for row in samples} == {("coldstart", 4), ("grpo", 4)}
    assert measured >= {"reward", "format", "cells", "board", "legal", "reason", "entropy", "kl", "clipped", "length"}


def test_every_metric_is_told_in_the_readme(finished):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    _, _, told = readme.partition("**What is measured.**")
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    names = {name for row in rows for name in row} - {"phase", "step", "game"}
    names |= {"own_reward", "tokens", "turns", "return", "rounds", "level", "odds"}  # of other settings
    assert not {name for name in names if f"`{name}`" not in told.partition("\n\n`--track")[0]}


def test_whatever_phase_is_a_models_last_it_has_its_column(tmp_path):
    records = Records(tmp_path)
    for phase in reversed(PHASES):
        Scoreboard(records).enter(jaxgym.make("2048"), phase, protocol.interval(np.ones(4)))
    assert records.table["order"] == [*PHASES]


def test_evaluations_are_no_training(tmp_path, small, monkeypatch):
    """Of the seconds of a run, not of those that its measurements tell."""
    trainer = Trainer(small(), tmp_path)

    def slow(game, key, n):
        time.sleep(0.5)
        yield "teacher", protocol.interval(np.ones(4))

    monkeypatch.setattr("train.scoreboard.anchors", slow)
    began, whole = time.monotonic() - trainer.began, trainer.seconds
    assert len([*trainer.anchors()]) == len(trainer.courses)
    assert time.monotonic() - trainer.began - began < 0.25 and trainer.seconds - whole > 0.5


def test_muon_learns_what_has_not_learned_to_play(finished, tmp_path, small):
    """Before RL all of a preset; in RL a preset that had no cold start, and no saved model, whose past nobody knows."""
    for changes, wanted in (
        ({"recipe": "g0"}, {"sight": True, "base": True, "grpo": True}),
        ({"recipe": "g1"}, {"sight": True, "base": True, "coldstart": True, "grpo": False}),
        ({"recipe": "g1", "model": str(finished / "model")}, {"coldstart": True, "grpo": False}),
        ({"recipe": "g0", "model": str(finished / "model")}, {"grpo": False}),
    ):
        trainer, found = Trainer(small(**changes), tmp_path / "run"), {}
        for phase in trainer.config.phases:
            trainer._enter(phase)
            found[phase] = trainer.rule is optimizer.make(muon=True)
            assert found[phase] or trainer.rule is optimizer.make(muon=False)
        assert found == wanted, changes


def test_the_model_of_a_run_can_be_loaded_and_trained_on(finished, tmp_path, small):
    vlm = policy.load(finished / "model")
    assert vlm.tokenizer.encode("<perception>", add_special_tokens=False).__len__() == 1
    trainer = Trainer(small(model=str(finished / "model"), recipe="g0"), tmp_path / "on")
    assert trainer.config.phases == ("grpo",)
    for mine, theirs in zip(jax.tree.leaves(trainer.state.params), jax.tree.leaves(vlm.params), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_finished_run_can_be_asked_again(finished, capsys):
    assert program.main(["--resume", str(finished)]) == 0
    assert "after RL" in capsys.readouterr().out


def test_g0_skips_the_cold_start(small):
    """The base model then learns to read and write for as long as that takes, unless one says how long."""
    assert small(recipe="g0").phases == ("sight", "base", "grpo")
    assert small(recipe="g1").phases == ("sight", "base", "coldstart", "grpo")
    assert [Config(recipe=recipe).length("base") for recipe in ("g0", "g1")] == [600, 50]
    assert Config(coldstart=Coldstart()).length("base") == Config(recipe="g0").settled().base.steps == 600
    (told,) = small(recipe="g0").short_base()
    assert told == "--base-steps 6 hardly teach it to read and write before RL begins: 600 do"
    assert not Config(recipe="g0").short_base() and not small().short_base()
    assert [small(recipe=recipe).length("base") for recipe in ("g0", "g1")] == [6, 6]


def train_only(config: Config, folder) -> Trainer:
    """A trainer that goes through the phases and evaluates nothing."""
    trainer = Trainer(config, folder)
    trainer.evaluate, trainer.anchors = lambda column: iter(()), lambda: iter(())  # type: ignore[method-assign]
    return trainer


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, small):
    trainer = train_only(small(), tmp_path_factory.mktemp("whole") / "run")
    for _ in trainer.events():
        pass
    return trainer


def measured(folder):
    """What a run's metrics say, but for how long it took."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "replies_per_second")} for row in rows]


@pytest.mark.parametrize("stop", [pytest.param(3, marks=pytest.mark.slow), 8, pytest.param(12, marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_as_if_it_had_not(unbroken, tmp_path, small, stop):
    """Stopped in base, in the cold start, in RL: the same parameters and the same metrics, bit for bit."""
    trainer = train_only(small(), tmp_path)
    for _ in zip(range(stop), trainer.events(), strict=False):
        pass
    trainer.save()
    trainer.checkpoints.close()
    again = train_only(small(), tmp_path)
    assert again.resume()
    for _ in again.events():
        pass
    for a, b in zip(jax.tree.leaves(unbroken.state.params), jax.tree.leaves(again.state.params), strict=True):
        np.testing.assert_array_equal(a, b)

    assert measured(unbroken.run) == measured(tmp_path)


def test_the_configuration_of_a_run_gives_the_same_run(unbroken, tmp_path, monkeypatch):
    folder.write_config(tmp_path, replace(unbroken.config, run="runs/old"))
    monkeypatch.setattr(Trainer, "evaluate", lambda self, column: iter(()))
    monkeypatch.setattr(Trainer, "anchors", lambda self: iter(()))
    assert program.main(["--config", str(tmp_path / "config.json"), "--run", str(tmp_path / "run")]) == 0
    assert measured(tmp_path / "run") == measured(unbroken.run)


@pytest.mark.parametrize("legal", [True, False])
def test_own_boards_stay_the_same_problem_after_a_reply_that_is_no_legal_move(tmp_path, small, legal):
    config = small(states=States(play=("own",)))
    _, courses, pools = prepare(config, jax.random.key(0))
    course, old, key = courses["2048"], pools["2048"], jax.random.key(0)
    turns = BATCH // config.grpo.states
    moves = np.asarray(act(course.language.game, random_legal, old.state, key))[1::turns]
    said = moves if legal else np.full_like(moves, -1)
    new = states.planned(config, states.begin(config, course, old, key), said, 1)
    new = states.ready(config, course, new, 1, key)
    asked = np.arange(BATCH) % turns == 1
    ended = np.asarray(new.steps) == 0
    other = np.asarray(new.state.board != old.state.board).any(axis=(1, 2))
    changed = (problems(new.state.board) != problems(old.state.board)).any(axis=(1, 2))
    assert not other[~asked].any() and other[asked & ~ended].any()
    assert (changed == asked)[~ended].all() if legal else not changed[~ended].any()
    np.testing.assert_array_equal(np.asarray(new.steps - old.steps)[~ended], asked[~ended].astype(int))


def test_sight_begins_on_boards_to_learn_to_see_from(tmp_path, small, monkeypatch):
    """Those of its first steps, of a game that deals such; the boards in play wait meanwhile."""
    trainer = Trainer(small(sight=Sight(steps=5, boards=256, practice=0.4)), tmp_path / "run")
    course, pool = trainer.courses["2048"], trainer.boards["2048"]

    def drawn(key):
        return pool.state._replace(board=jax.random.randint(key, pool.state.board.shape[1:], 1, 4))

    game = replace(course.language.game, practice=drawn)
    trainer.courses["2048"] = course._replace(language=replace(course.language, game=game))
    monkeypatch.setattr(learner, "sight_gradients", _no_gradients)
    told = []
    for _ in range(4):
        before = np.asarray(trainer.boards["2048"].state.board)
        trainer._supervise("sight")
        taught, after = (np.asarray(x["2048"].state.board) for x in (trainer.lessons, trainer.boards))
        own = taught.min() == 1 and taught.max() == 3 and len({board.tobytes() for board in taught}) > 200
        told.append((own, (taught == before).all(), (after == before).all()))
    assert told == [(True, False, True)] * 2 + [(False, True, False)] * 2


def _no_gradients(frame, learned, heads, fixed, tables, lesson):
    report = {name: jnp.float32(0) for name in ("loss", "dense_cells", "dense_legal")}
    return (jnp.float32(0), report), jax.tree.map(jnp.zeros_like, (learned, heads))


def test_what_is_given_away_counts_in_the_cold_start_alone(tmp_path, small, monkeypatch):
    """A guess may give away what it likes."""
    trainer = Trainer(small(coldstart=Coldstart(steps=2, boards=256, regret=5.0)), tmp_path / "run")
    counted = []

    def counting(frame, learned, heads, fixed, tables, weights, *_):
        counted.append(float(weights.regret))
        return (jnp.float32(0), {"loss": jnp.float32(0)}), jax.tree.map(jnp.zeros_like, (learned, heads))

    monkeypatch.setattr(learner, "supervised_gradients", counting)
    for phase in ("base", "coldstart"):
        trainer._enter(phase)
        trainer._supervise(phase)
    assert counted == [0, 5]


def seen_from_elsewhere(before, after):
    """Which boards are what they were, perhaps turned or mirrored: bool [n]."""
    sides = np.stack([np.rot90(b, k, (1, 2)) for b in (before, before.swapaxes(1, 2)) for k in range(4)])
    return (sides == after).all(axis=(2, 3)).any(axis=0)


def test_later_in_the_cold_start_boards_are_moved_by_the_models_own_replies(tmp_path, small, monkeypatch):
    """And stay after a wrong one; what is taught meanwhile is not the board itself but its like."""
    trainer = Trainer(small(coldstart=Coldstart(steps=6, boards=256)), tmp_path / "run")
    trainer._enter("coldstart")
    asked = []

    def stuck(*args):
        asked.append(trainer.step)
        return SimpleNamespace(reading=SimpleNamespace(actions=np.full(BATCH, -1)))

    monkeypatch.setattr(supervise, "try_replies", stuck)
    before, own = [], np.arange(BATCH) % 4 > 0
    for _ in range(4):
        before.append(np.asarray(trainer.boards["2048"].state.board))
        trainer._supervise("coldstart")
        taught = np.asarray(trainer.lessons["2048"].state.board)
        other = (taught != before[-1]).any(axis=(1, 2))
        assert seen_from_elsewhere(before[-1], taught).all() and not other[~own].any()
        assert other[own].mean() > 0.5 if len(before) > 2 else not other.any()
    assert asked == [2, 3]
    still = (before[3] == np.asarray(trainer.boards["2048"].state.board)).reshape(BATCH, -1).all(axis=1)
    steps = np.asarray(trainer.boards["2048"].steps)
    assert still[own & (steps > 0)].all() and not still[~own].any()


@pytest.mark.parametrize("plays", [False, True], ids=["random play", "the model's own"])
def test_boards_that_move_on_come_back_turned_but_for_the_models_own(tmp_path, small, monkeypatch, plays):
    trainer = Trainer(small(), tmp_path / "run")
    course, old = trainer.courses["2048"], trainer.boards["2048"]
    tried = SimpleNamespace(reading=SimpleNamespace(actions=np.zeros(BATCH, np.int32)))
    monkeypatch.setattr(supervise, "try_replies", lambda *_: tried)
    monkeypatch.setattr(supervise, "advance", lambda game, boards, *_: (boards, None))  # as if no move did anything
    new = supervise.moved_on(course, old, jax.random.key(0), None, (None, None, 1.0) if plays else None)
    before, after = np.asarray(old.state.board), np.asarray(new.state.board)
    other, own = (after != before).any(axis=(1, 2)), plays & (np.arange(BATCH) % 4 > 0)
    assert seen_from_elsewhere(before, after).all()
    assert not other[own].any() and other[~own].mean() > 0.5  # 2048 has eight sides


def test_a_good_move_at_first_sight_is_one_on_a_board_not_answered_before(finished, monkeypatch):
    """Every second reply is a good move: the first of all boards is met for the first time, later ones never are."""
    trainer = Trainer(Config(games=("2048",), model=str(finished / "model"), recipe="g0"), finished.parent / "none")
    language, step = trainer.courses["2048"].language, iter(range(1000))

    def scripted(graphdef, params, language, state, key, group, temperature, memory, luck):
        right = np.full(2, next(step) % 2 == 0)
        ones = np.ones(2, np.float32)
        reading = Reading(np.full(2, -1, np.int32), ones, ones, ones)
        said = {"pictures": None, "texts": ["", ""], "truths": ["", ""]}
        return SimpleNamespace(reading=reading, legal=right, score=right.astype(np.float32), **said)

    monkeypatch.setattr(protocol, "try_replies", scripted)
    writer = protocol.ModelWriter(None, None, language, 0.5)
    *_, result = protocol.evaluate(language.game, writer, jax.random.key(0), 2, 0.5)
    assert result.legal == 0.5 and result.temperature == 0.5
    moves = protocol.protocol(language.game).steps // 2
    np.testing.assert_allclose(result.sight, 1 / (1 + moves))  # the first step, and those after a move


class LegalWriter:
    """Plays at random among the legal moves, and judges them with the luck that it is given."""

    def __init__(self, game):
        self.game, self.earned = game, 0

    def begin(self):
        pass

    def answer(self, state, playing, key, luck):
        actions = rollout.act(self.game, engine.random_legal, state, key)
        played = rollout.play_groups(self.game, state, actions, luck)
        self.earned += np.where(playing, played.reward, 0)
        ones, legal = np.ones(len(playing), np.float32), np.asarray(played.legal)
        return protocol.Answers(None, [], [], Reading(actions, ones, ones, ones), legal, np.asarray(played.reward))

    def remember(self, said, dealt):
        pass


def played_by(writer, monkeypatch, boards, **rules):
    name = writer.game.name
    monkeypatch.setitem(protocol.PROTOCOLS, name, replace(protocol.PROTOCOLS[name], **rules))
    *_, result = protocol.evaluate(writer.game, writer, jax.random.key(0), boards)
    return result


def test_a_reply_earns_what_is_told_of_it(monkeypatch):
    """Tiles that fall into swap are drawn: what they earn hangs on luck, which a judge of replies has to share."""
    writer = LegalWriter(jaxgym.make("swap"))
    result = played_by(writer, monkeypatch, 64, steps=4, score="reward")
    np.testing.assert_allclose(result.score.mean, writer.earned.mean(), rtol=1e-6)


def test_only_boards_that_are_cleared_count_as_cleared(monkeypatch):
    """A clear of 18 pairs takes 18 legal moves; boards on which no pair can go any more end sooner."""
    writer = LegalWriter(jaxgym.make("shisen_sho"))
    result = played_by(writer, monkeypatch, 128, steps=18)
    assert (writer.earned < 18).any() and result.cleared == 18
    assert played_by(LegalWriter(writer.game), monkeypatch, 128, steps=9).cleared is None


def test_help_lists_every_flag():
    out = subprocess.run([sys.executable, "-m", "train.main", "--help"], capture_output=True, text=True, check=True)
    for flag in (
        "--games",
        "--recipe",
        "--states-play",
        "--sight-steps",
        "--base-steps",
        "--coldstart-lr",
        "--grpo-group",
        "--grpo-clip-high",
        "--evaluation-boards",
    ):
        assert flag in out.stdout


def test_the_configuration_survives_its_file(small):
    config = small(seed=7, reward=Reward(exact=True, weights=("2048=2",)))
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="has no colour"):
        Config.from_dict({"colour": 1})


def test_pictures_never_leave_the_device(tmp_path, monkeypatch, small):
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
        base=Base(steps=150, boards=32),
        coldstart=Coldstart(steps=150, boards=32),
        grpo=Grpo(updates=10),
        evaluation=Evaluation(boards=128),
    )
    trainer = Trainer(config, tmp_path / "run")
    for _ in trainer.events():
        pass
    entry = trainer.records.table["games"]["2048"]
    assert entry["extra"]["grpo"]["cells"] > 0.95
    assert entry["columns"]["grpo"]["low"] > entry["columns"]["random"]["high"]


def test_nothing_is_compiled_between_updates(finished, tmp_path, small, monkeypatch):
    """Three updates, on other boards and at other rates: what they run is traced once."""
    chex.clear_trace_counter()
    once = chex.assert_max_traces(n=1)
    monkeypatch.setattr(learner, "grpo_loss", once(learner.grpo_loss))
    learner.grpo_gradients.clear_cache()
    trainer = Trainer(
        small(model=str(finished / "model"), recipe="g0", grpo=Grpo(updates=3, states=4, group=4)), tmp_path
    )
    written = generate._cache_size()
    for update in range(3):
        trainer._reinforce()
        assert trainer.step == update + 1 and generate._cache_size() - written <= 1


LIT = """
from typing import NamedTuple
import jax
import jax.numpy as jnp
from jaxgym import Game, Look, Outcome, actions, sprites

class State(NamedTuple):
    lit: jax.Array

def put_out(*, look: Look = Look()) -> Game[State]:
    cells = actions.cells(2, 3)
    lamp = lambda pen, side, look: pen.ellipse((side // 4, side // 4, side // 2, side // 2), fill=(250, 220, 0))

    def step(state, action, key):
        lit = state.lit.at[action].set(False)
        return Outcome(State(lit), jnp.float32(1), ~lit.any())

    return Game(
        name="lamps", rules="Put out what is lit.", actions=cells,
        sheet=sprites.draw(("dark", "lit"), (None, lamp), (2, 3), look),
        reset=lambda key: State(jax.random.bernoulli(key, 0.5, (6,)).at[0].set(True)),
        step=step, legal=lambda state: state.lit, tiles=lambda state: state.lit.astype(jnp.int32).reshape(2, 3),
        values=lambda state, key: jnp.where(state.lit, jnp.float32(1), -jnp.inf),
        explain=lambda state, action: f"{cells.format(action)}: it is lit.",
    )
"""


@pytest.mark.parametrize(
    ("sound", "slip", "told"),
    [
        ("jnp.where(state.lit, jnp.float32(1), -jnp.inf)", "jnp.full(6, jnp.nan, jnp.float32)", "values"),
        ("jnp.where(state.lit, jnp.float32(1), -jnp.inf)", "jnp.ones(6, jnp.float32)", "values"),
        ("jnp.where(state.lit, jnp.float32(1), -jnp.inf)", "jnp.full(6, -jnp.inf, jnp.float32)", "values"),
        ('f"{cells.format(action)}: it is lit."', "1 / 0", "explain fails: ZeroDivisionError: division by zero"),
        ("state.lit.astype(jnp.int32)", "(state.lit.astype(jnp.int32) + 1)", "tiles(state) has numbers that no sprite"),
        ("state.lit.astype(jnp.int32)", "(state.lit.astype(jnp.int32) - 1)", "tiles(state) has numbers that no sprite"),
    ],
)
def test_a_teacher_of_ones_own_that_cannot_teach_is_told_before_a_run_begins(
    tmp_path, tiny, monkeypatch, capsys, sound, slip, told
):
    name = f"lamps{abs(hash(slip))}"
    assert sound in LIT
    (tmp_path / f"{name}.py").write_text(LIT.replace(sound, slip))
    monkeypatch.syspath_prepend(tmp_path)
    assert program.main(["--games", f"{name}:put_out", "--run", str(tmp_path / "run"), *tiny]) == 2
    said = capsys.readouterr().err
    reason = told if told != "values" else "values(state, key) must be a finite number for every legal action, and"
    assert said.startswith(f"error: {name}:put_out: {reason}") and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_boards_that_are_over_as_they_are_dealt_are_no_lesson(tmp_path, small, monkeypatch):
    """One in nine: another is taught in its place, and who is tested is not asked about it."""
    text = LIT.replace("0.5, (6,)).at[0].set(True)", "0.3, (6,))").replace("it is lit", "{1 // int(state.lit[action])}")
    (tmp_path / "dusk.py").write_text(
        text.replace("where(state.lit, jnp.float32(1)", "where(state.lit, 1.0 * jnp.arange(6)")
    )
    monkeypatch.syspath_prepend(tmp_path)
    name, key = "dusk:put_out", jax.random.key(0)
    _, courses, pools = prepare(small(games=(name,)), key)
    course, lit = courses[name], np.asarray(pools[name].state.lit)
    ranges = [np.ptp(np.flatnonzero(row)) for row in lit if row.any()]
    assert len(ranges) < BATCH and course.scale == pytest.approx(np.mean(ranges), rel=1e-5)
    lesson = coldstart.teach(course.language.game, pools[name].state, course.scale, key, guess=False)
    taught, alive = np.asarray(lesson.state.lit), lit.any(axis=1)
    assert taught[np.arange(BATCH), lesson.action].all() and (taught[alive] == lit[alive]).all()
    assert (np.asarray(coldstart.write(course.language, lesson, guess=False).decision) >= 0).all()
    now = protocol.begin(course.language.game, key, BATCH)
    assert 0 < now.over.sum() < BATCH
    np.testing.assert_array_equal(now.over, ~np.asarray(now.boards.state.lit).any(axis=1))


def test_a_cell_that_is_called_as_a_move_is_names_none(tmp_path, small, monkeypatch):
    moves = 'cells = actions.moves(("dark", "lit", "up", "down", "left", "right"))'
    (tmp_path / "homonyms.py").write_text(LIT.replace("cells = actions.cells(2, 3)", moves))
    monkeypatch.syspath_prepend(tmp_path)
    name, key = "homonyms:put_out", jax.random.key(0)
    _, courses, pools = prepare(small(games=(name,)), key)
    course = courses[name]
    lesson = coldstart.teach(course.language.game, pools[name].state, course.scale, key, guess=False)
    written = coldstart.write(course.language, lesson, guess=False)
    assert {0, 1} <= {*np.asarray(lesson.action).tolist()}
    assert (np.take_along_axis(np.asarray(written.blocks), np.asarray(written.decision)[:, None], axis=1) == 1).all()
    begins = np.asarray(written.ids)[:, : len(course.language.named.opening)]
    assert (begins == course.language.named.opening).all(axis=1).any()  # one of them is the board that it is of


def test_a_state_may_have_parts_of_no_size(tmp_path, monkeypatch):
    text = LIT.replace("    lit: jax.Array", "    lit: jax.Array\n    walls: jax.Array = jnp.zeros((0, 2), jnp.int32)")
    (tmp_path / "bare.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    game = jaxgym.make("bare:put_out")
    boards = jax.vmap(game.reset)(jax.random.split(jax.random.key(0), 8))
    assert states.every(boards, 1, 4).walls.shape == (2, 0, 2)
    assert play_groups(game, boards, jnp.zeros(16, jnp.int32), jax.random.key(0)).state.walls.shape == (16, 0, 2)
    env = jaxgym.Env(game, autoreset="same_step")
    keys = jax.random.split(jax.random.key(0), (2, 3))
    assert jax.vmap(jax.vmap(env.reset))(keys)[1].board.walls.shape == (2, 3, 0, 2)


def test_rewards_that_are_no_numbers_are_told(tmp_path, small, monkeypatch):
    """As they are earned by a player, by every action and by a reply."""
    sound = "Outcome(State(lit), jnp.float32(1), ~lit.any())"
    assert sound in LIT
    slip = "Outcome(State(lit), jnp.where(lit.any(), jnp.float32(1), jnp.inf), ~lit.any())"
    (tmp_path / "dim.py").write_text(LIT.replace(sound, slip))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"^dim:put_out: step gives rewards that are no finite numbers \(inf\): "):
        protocol.play_out(jaxgym.make("dim:put_out"), teacher, jax.random.key(0), 4)
    config = small(games=("dim:put_out",), reward=Reward(game="score"))
    _, courses, pools = prepare(config, jax.random.key(0))
    course, state = courses["dim:put_out"], pools["dim:put_out"].state
    with pytest.raises(ValueError, match=r"^dim:put_out: step gives rewards that are no finite numbers \(inf\): "):
        rounds.worth(config, course, state, jax.random.key(0))
    last = SimpleNamespace(ids=jnp.zeros((BATCH, 1), jnp.int32), lengths=jnp.ones(BATCH, jnp.int32))
    answers = [course.language.game.actions.format(int(a)) for a in np.asarray(state.lit).argmax(axis=1)]
    said = [jaxgym.write_reply("", "", answer) for answer in answers]
    language = SimpleNamespace(game=course.language.game, decode_replies=lambda *_: said)
    with pytest.raises(ValueError, match=r"^dim:put_out: step gives rewards that are no finite numbers \(inf\): "):
        judge(language, state, None, show(course.language.game, state)[1], None, last, jax.random.key(0))


@pytest.mark.slow
def test_a_game_of_single_cells_is_learned(tmp_path, small, monkeypatch):
    """What may be done is taught cell by cell, as it is pair by pair: the tower soon names a lit lamp."""
    (tmp_path / "lamps.py").write_text(LIT)
    monkeypatch.syspath_prepend(tmp_path)
    trainer = Trainer(small(games=("lamps:put_out",), sight=Sight(steps=60, boards=16)), tmp_path / "run")
    assert trainer.courses["lamps:put_out"].tables.pairs.tolist() == [[i, i] for i in range(6)]
    trainer._enter("sight")
    values = [told["dense_legal"] for told in (trainer._supervise("sight") for _ in range(60)) if told]
    assert values[-1] > 0.95  # of lamps half are lit
    trainer._enter("coldstart")
    told = [trainer._supervise("coldstart") for _ in range(4)][-1]
    assert np.isfinite(told["loss"])
    trainer._enter("grpo")
    assert np.isfinite(trainer._reinforce()["reward"])
