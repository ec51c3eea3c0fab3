"""How hard RL's boards are, by how well it goes, and which games an update takes."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train import curriculum, reinforce
from train.curriculum import WINDOW, Standing
from train.loop import Trainer
from train.parts import Base, Coldstart, Grpo, Mix, Sight, States
from train.rollout import BATCH


def after(successes, levels=3, promote=0.7, standing=None):
    """Where a game stands after some updates."""
    standing = standing or Standing()
    for success in successes:
        standing = curriculum.climb(curriculum.record(standing, success, 0.0), levels, promote)
    return standing


def test_a_game_climbs_once_it_does_well_for_a_window():
    assert after([0.7] * (WINDOW - 1)).level == 0
    assert after([0.7] * WINDOW) == Standing(updates=WINDOW, level=1)
    assert after([0.69] * 5 * WINDOW).level == 0
    assert after([0.9] * 9 * WINDOW).level == 2  # there is no further one


@pytest.mark.parametrize(("success", "level"), [(0.34, 0), (0.36, 1), (0.69, 1), (0.7, 2)])
def test_a_game_falls_back_below_half_of_what_promotes(success, level):
    assert after([success] * WINDOW, standing=Standing(level=1)).level == level
    assert after([0.0] * 5 * WINDOW).level == 0  # there is none below


def test_a_level_is_judged_by_what_happened_there():
    climbed = after([1.0] * WINDOW)
    assert (climbed.here, climbed.success) == (0, 0.0)
    assert after([0.5], standing=climbed).success == 0.5


def test_what_a_board_costs_is_remembered_from_where_it_was_measured():
    standing = curriculum.record(Standing(), 0.5, 0.0)
    assert standing.cost == 0  # nobody knows
    for cost, mean in ((8.0, 8.0), (0.0, 8.0), (float("nan"), 8.0), (4.0, 8.0 - 4.0 / 5)):  # its fifth update
        standing = curriculum.record(standing, 0.5, 0.0, cost)
        assert standing.cost == pytest.approx(mean)
    assert curriculum.begin(standing, 1).cost == 0  # of other boards


def test_a_running_mean_begins_as_the_plain_one_and_forgets():
    mean, values = 0.0, [3.0, 1.0, 5.0, 7.0]
    for count, value in enumerate(values, 1):
        mean = curriculum.running(mean, value, count, window=4)
        assert mean == pytest.approx(np.mean(values[:count]))
    assert curriculum.running(mean, 8.0, 5, window=4) == 0.75 * mean + 2.0


def only_rl(folder, small, **changes):
    """A trainer of two updates of a model that knows nothing."""
    few = {
        "sight": Sight(),
        "base": Base(steps=0),
        "coldstart": Coldstart(),
        "grpo": Grpo(updates=2, states=4, group=4),
    }
    trainer = Trainer(small(**(few | changes)), folder)
    trainer.evaluate, trainer.anchors = lambda column: iter(()), lambda: iter(())
    return trainer


def rows(folder):
    """What was measured of games, but for how long it took."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found if row["game"]]


def test_levels_that_a_saved_model_has_no_words_for_are_told(tmp_path, small, finished):
    """One of ours knows those of the games and levels that it was made for."""
    for levels, told in ((("easy", "paper"), ["2048/easy: this model has not met 1 of its words "]), (("paper",), [])):
        given = {"model": str(finished / "model"), "recipe": "g0", "games": ("2048",)}
        trainer = Trainer(small(**given, states=States(levels=levels)), tmp_path / levels[0])
        assert [note.partition("and")[0] for note in trainer.notes if "words" in note] == told


@pytest.mark.slow
def test_boards_become_harder_and_a_run_goes_on_where_it_stood(tmp_path, small, monkeypatch):
    """With nothing to reach, every update leads to the next level; stopped after the first of two."""
    monkeypatch.setattr(curriculum, "WINDOW", 1)
    changes = {"states": States(levels=("easy", "paper"), promote=0.0)}
    whole = only_rl(tmp_path / "whole", small, **changes)
    assert [whole.boards[name].state.board.shape[1] for name in ("2048/easy", "2048")] == [5, 4]
    for name in whole.ladders["2048/easy"].language.game.sheet.names:  # larger ones than the paper's
        assert len(whole.vlm.tokenizer.encode(f"{name}\n", add_special_tokens=False)) == 1
    first = {name: boards.plan for name, boards in whole.boards.items()}
    for done, _ in enumerate(whole.events()):
        answered = {name for name, plan in first.items() if (whole.boards[name].plan != plan).any()}
        assert answered == {"2048/easy"} if done == 0 else {"2048/easy", "2048"}
    assert [row["level"] for row in rows(whole.run)] == [0, 1]
    assert all(0 <= row["success"] <= 1 for row in rows(whole.run))
    (standing,) = whole.standings.values()
    assert standing[:4] == (2, 1, 1, rows(whole.run)[1]["success"])

    part = only_rl(tmp_path / "part", small, **changes)
    for _ in zip(range(1), part.events(), strict=False):
        pass
    part.save()
    part.checkpoints.close()
    again = only_rl(tmp_path / "part", small, **changes)
    assert again.resume() and again.standings == part.standings != whole.standings
    for _ in again.events():
        pass
    assert rows(again.run) == rows(whole.run) and again.standings == whole.standings
    for a, b in zip(*(jax.tree.leaves((t.state, t.boards)) for t in (whole, again)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_actions_are_named_as_on_the_level_that_was_played(tmp_path, small, monkeypatch):
    """Boards of another size have other actions."""
    trainer = only_rl(tmp_path, small, games=("shisen_sho",), states=States(levels=("easy", "paper")))
    told = {}

    def learn(*given):
        told["tried"], told["names"] = given[6]["shisen_sho"][0], given[9]["shisen_sho"]
        return trainer.state, {"shisen_sho": {}}, jnp.float32(0)

    monkeypatch.setattr(reinforce, "learn", learn)
    trainer._reinforce()
    easy, paper = (trainer.ladders[name].language.game.actions.n for name in ("shisen_sho/easy", "shisen_sho"))
    assert told["tried"].choice.worth.shape[1] == len(told["names"].answers) == easy != paper


def earned(*rewards):
    """Where a game stands that earned these rewards."""
    standing = Standing()
    for reward in rewards:
        standing = curriculum.record(standing, 0.0, reward)
    return standing


def test_the_odds_follow_progress_and_forget_no_game():
    better, worse, stuck = earned(*range(20)), earned(*range(20, 0, -1)), earned(*[5.0] * 20)
    odds = curriculum.odds([1, 1, 1], [better, worse, stuck], progress=True)
    assert odds.sum() == pytest.approx(1) and odds[0] == pytest.approx(odds[1]) and odds[2] == pytest.approx(0.2 / 3)
    weighed = curriculum.odds([1, 3, 0], [better, worse, stuck], progress=True)
    assert weighed == pytest.approx([0.25, 0.75, 0.0])
    assert curriculum.odds([1, 3, 0], [better, worse, stuck], progress=False) == pytest.approx([0.25, 0.75, 0.0])


def test_a_game_that_is_hardly_known_may_progress_as_much_as_any():
    better, stuck = earned(*range(20)), earned(*[5.0] * 20)
    odds = curriculum.odds([1, 1, 1], [better, stuck, earned(3.0)], progress=True)
    assert odds[0] == pytest.approx(odds[2]) and odds[0] > 5 * odds[1]
    assert curriculum.odds([1, 1], [stuck, earned()], progress=True) == pytest.approx([0.5, 0.5])
    climbed = curriculum.begin(better, 1)
    assert (climbed.here, climbed.reward, climbed.recent) == (0, 0.0, 0.0)  # another level earns otherwise


def drawn(mix, standings):
    """Of two games, which one each of 64 updates would take."""
    found = []
    for i in range(64):
        (name,), odds = curriculum.draw(mix, standings, jax.random.fold_in(jax.random.key(0), i))
        assert sum(odds.values()) == pytest.approx(1)
        found.append(name)
    return found


def test_an_update_takes_the_games_that_were_drawn(tmp_path, small):
    trainer = only_rl(tmp_path, small, games=("2048", "shisen_sho"), mix=Mix(games=1))
    before = dict(trainer.boards)
    trainer._reinforce()
    (row,) = rows(trainer.run)
    taken, odds = row["game"], row["odds"]
    other = "shisen_sho" if taken == "2048" else "2048"
    assert odds == 0.5
    assert trainer.boards[other] is before[other] and trainer.boards[taken] is not before[taken]
    assert [trainer.standings[name].updates for name in (taken, other)] == [1, 0]
    trainer._judge(row["reward"])
    assert not trainer.earned and trainer._pass == 2 * BATCH // trainer.config.grpo.states
    trainer.config = replace(trainer.config, mix=Mix(games=1, weights=(f"{other}=0",)))
    trainer._judge(row["reward"])  # a game that is never drawn is not waited for
    assert len(trainer.earned) == 1 and trainer._pass == BATCH // trainer.config.grpo.states


def test_what_a_model_is_worth_is_known_once_all_games_are():
    known, unknown, easier = earned(2.0), Standing(), earned(9.0)._replace(level=0)
    assert curriculum.worth([known, unknown], 0, 1.0, mixed=True) is None
    assert curriculum.worth([known, earned(4.0)], 0, 7.0, mixed=True) == 3.0
    assert curriculum.worth([known, earned(4.0)], 0, 7.0, mixed=False) == 7.0
    assert curriculum.worth([known._replace(level=1), easier], 1, 7.0, mixed=False) is None


def test_the_draw_follows_weights_and_progress():
    level = {"2048": Standing(), "shisen_sho": Standing()}
    assert 20 < drawn(Mix(games=1), level).count("shisen_sho") < 44
    assert set(drawn(Mix(games=1, weights=("shisen_sho=0",)), level)) == {"2048"}
    three = level | {"swap": Standing()}
    pair = Mix(games=2, weights=("2048=0", "swap=1e-50"))  # which float32 does not tell from 0
    assert curriculum.draw(pair, three, jax.random.key(0))[0] == ["shisen_sho", "swap"]
    heavy = drawn(Mix(games=1, weights=("shisen_sho=1e308", "swap=1e308")), three)
    assert 20 < heavy.count("swap") < 44 and "2048" not in heavy
    standings = {"2048": earned(*[1.0] * 20), "shisen_sho": earned(*range(20))}
    assert drawn(Mix(games=1, progress=True), standings).count("shisen_sho") > 48
    assert curriculum.draw(Mix(), standings, jax.random.key(0)) == ([*standings], {})
