"""A run: base, cold start, GRPO, evaluation. Yields what happens; `main` prints it.

Everything that is drawn is drawn from (seed, phase, step, game), so a resumed run goes on as if it had never stopped.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxgym
import policy
from policy.vlm import Params
from train import coldstart, learner, rewards
from train.checkpoint import Checkpoints
from train.config import Config, Supervised
from train.evaluate import Result, anchors, evaluate, protocol
from train.language import Language, build_tokenizer, speak
from train.learner import Hyper, TrainState, Tried
from train.metrics import Records
from train.rollout import Boards, deal_played, move_on, try_replies

_SHIFTS = 8  # sets of boards that supervised steps take in turn: neighbours in time are not alike
_WARMTH = 0.5  # the teacher's distribution, in units of the usual spread of its values
_SAVE_EVERY = 60.0  # seconds between checkpoints
_PLAYERS = {"base": "base", "coldstart": "coldstart", "grpo": "grpo"}


class Event(NamedTuple):
    """Something to show: `done` of `total` steps of a stage, and what was measured."""

    stage: str
    done: int
    total: int
    values: dict[str, float] = {}


class Course(NamedTuple):
    """One game of a run, with all that its steps need."""

    language: Language
    tables: coldstart.Tables
    limit: int  # steps after which a board is dealt anew
    warmth: jax.Array  # float32 []: scale of the teacher's values


class Trainer:
    """The state of a run and its steps. Raises ValueError, in one line, for what cannot be."""

    def __init__(self, config: Config, run: Path) -> None:
        self.config, self.run = config, run
        self.began = time.monotonic()
        self.records = Records(run)
        self.checkpoints = Checkpoints(run)
        self.key = jax.random.key(config.seed)
        self.vlm, games = _model_and_games(config, self.key)
        self.courses = {game.name: self._course(game) for game in games}
        heads = {
            name: coldstart.create_heads(c.language.game, self.vlm.config.decoder.width, jax.random.fold_in(self.key, i))
            for i, (name, c) in enumerate(self.courses.items())
        }
        self.phase, self.step = config.phases[0] if config.phases else "", 0
        self.state = TrainState(self.vlm.params, heads, ())
        self.reference: Params = self.vlm.params
        self.boards: dict[str, list[Boards]] = {}
        if self.phase:
            self._enter(self.phase)
        self.saved = time.monotonic()

    def _course(self, game: jaxgym.Game[Any]) -> Course:
        limit = protocol(game).steps
        boards = deal_played(game, self.key, 64, limit)
        warmth = coldstart.measure_warmth(game, boards, self.key) * _WARMTH
        language = speak(self.vlm, game)
        return Course(language, coldstart.tables(language), limit, warmth)

    def _enter(self, phase: str) -> None:
        """Begin a phase: fresh optimizer, fresh boards; GRPO keeps what it began with as its reference."""
        part = getattr(self.config, phase)
        self.phase, self.step = phase, 0
        self.rule = learner.optimizer(part.lr, self.config.length(phase))
        supervised = isinstance(part, Supervised)
        self.state = learner.start(self.rule, self.state.params, self.state.heads, with_heads=supervised)
        self.reference = self.state.params
        count, sets = (part.boards, _SHIFTS) if supervised else (part.states, 1)
        for i, (name, course) in enumerate(self.courses.items()):
            pool = deal_played(course.language.game, self._key(phase, -1, i), count * sets, course.limit)
            # Set k takes every sets-th board, so that each set holds all stages of play.
            self.boards[name] = [jax.tree.map(lambda leaf, k=k: leaf[k::sets], pool) for k in range(sets)]

    def _key(self, phase: str, step: int, game: int) -> jax.Array:
        numbers = (list(_PLAYERS).index(phase) + 1, step + 1, game)
        key = self.key
        for number in numbers:
            key = jax.random.fold_in(key, number)
        return key

    def events(self) -> Iterator[Event]:
        """Go through the phases, from wherever the run stands, and evaluate."""
        phases = self.config.phases
        first_column = phases[phases.index("grpo") - 1] if phases.index("grpo") else "base" if "grpo" in phases else None
        for phase in phases[phases.index(self.phase) :] if phases else ():
            if phase != self.phase:
                self._enter(phase)
            if phase == "grpo" and self.step == 0 and first_column:
                yield from self.evaluate(first_column)
            total = self.config.length(phase)
            while self.step < total:
                values = self._reinforce() if phase == "grpo" else self._supervise(phase)
                yield Event(phase, self.step, total, values)
                if time.monotonic() - self.saved > _SAVE_EVERY or self.step == total:
                    self.save()
        yield from self.anchors()
        yield from self.evaluate(phases[-1] if phases else "base")
        policy.save(self.final(), self.run / "model")

    def final(self) -> policy.VLM:
        """The model as it is now."""
        return policy.VLM(self.vlm.config, self.vlm.graphdef, self.state.params, self.vlm.tokenizer)

    def _supervise(self, phase: str) -> dict[str, float]:
        """One step of base or cold start."""
        part: Supervised = getattr(self.config, phase)
        weights = coldstart.Weights(jnp.float32(part.decision), jnp.float32(part.dense))
        shift, boards = self.step % _SHIFTS, {name: list(sets) for name, sets in self.boards.items()}
        gradients, reports = [], {}
        for i, (name, course) in enumerate(self.courses.items()):
            guess = phase == "base"
            key = self._key(phase, self.step, i)
            warmth = jnp.float32(math.inf) if guess else course.warmth
            game = course.language.game
            boards[name][shift], lesson = coldstart.teach(game, boards[name][shift], warmth, key, course.limit)
            written = coldstart.write(course.language, lesson, guess=guess)
            lesson = lesson._replace(state=())
            (_, reports[name]), (params, head) = learner.supervised_gradients(
                self.vlm.graphdef, self.state.params, self.state.heads[name], course.tables, lesson, written, weights
            )
            gradients.append((params, {name: head}))
        state, norm = learner.apply(self.rule, self.state, tuple(gradients))
        self.state, self.boards, self.step = state, boards, self.step + 1
        if self.step % 10 and self.step != self.config.length(phase):
            return {}
        return self._log(phase, jax.device_get(reports), {"grad_norm": float(norm)})

    def _reinforce(self) -> dict[str, float]:
        """One update of GRPO."""
        part = self.config.grpo
        hyper = Hyper(jnp.float32(part.temperature), jnp.float32(part.kl), jnp.float32(part.clip))
        gradients, reports, boards, began, count = [], {}, {}, time.monotonic(), 0
        for i, (name, course) in enumerate(self.courses.items()):
            reply_key, move_key = jax.random.split(self._key("grpo", self.step, i))
            language, old = course.language, self.boards[name][0]
            tried = try_replies(
                self.vlm.graphdef, self.state.params, language, old, reply_key, part.group, part.temperature
            )
            r, outcome = tried.reading, rewards.game_reward(tried.legal, tried.score)
            total = rewards.total(outcome, r, format=part.format, perception=part.perception, exact=part.exact)
            batch = Tried(
                course.tables.prompt, tried.pictures, *tried.sampled, jnp.asarray(total.reshape(part.states, part.group))
            )
            (_, report), gradient = learner.grpo_gradients(
                self.vlm.graphdef, self.state.params, self.reference, batch, hyper
            )
            gradients.append((gradient, {}))
            good = outcome > 0
            reports[name] = report | {
                "reward": total.mean(),
                "game_reward": outcome.mean(),
                "format": r.formatted.mean(),
                "cells": r.cells.mean(),
                "board": r.board.mean(),
                "legal": tried.legal.mean(),
                "reason": good[r.board > 0].mean() if r.board.any() else 0.0,
                "length": np.asarray(tried.sampled.lengths).mean(),
            }
            count += len(outcome)
            chosen = r.actions.reshape(part.states, part.group)[:, 0]
            own = {"own": True, "random": False, "mix": np.arange(part.states) % 2 == 0}[self.config.states]
            boards[name] = [move_on(language.game, old, jnp.asarray(np.where(own, chosen, -1)), move_key, course.limit)]
        state, norm = learner.apply(self.rule, self.state, tuple(gradients))
        run = {"grad_norm": float(norm), "replies_per_second": count / (time.monotonic() - began)}
        self.state, self.boards, self.step = state, boards, self.step + 1
        return self._log("grpo", jax.device_get(reports), run)

    def _log(self, phase: str, reports: dict[str, Any], run: dict[str, float]) -> dict[str, float]:
        """Write the metrics of a step; returns what is worth a glance."""
        seconds = time.monotonic() - self.began
        for name, report in reports.items():
            self.records.log(phase, self.step, seconds, name, report)
        self.records.log(phase, self.step, seconds, None, run)
        shown = ("reward", "legal") if phase == "grpo" else ("loss", "cells")
        return {k: float(np.mean([report[k] for report in reports.values()])) for k in shown} | run

    def evaluate(self, column: str) -> Iterator[Event]:
        """Play every game by the protocol, on boards that are the same for every column."""
        table = self.records.table()
        for i, (name, course) in enumerate(self.courses.items()):
            entry = _entry(table, name, course)
            if column in entry["columns"]:
                continue
            key, temperature = jax.random.fold_in(self.key, 1000 + i), self.config.grpo.temperature
            for event in evaluate(
                self.vlm.graphdef, self.state.params, course.language, key, self.config.evaluation.boards, temperature
            ):
                if isinstance(event, int):
                    yield Event(f"evaluate {column} on {name}", event, protocol(course.language.game).steps)
                else:
                    entry["columns"][column] = event.score._asdict()
                    entry["extra"][column] = _extra(event)
                    self._keep_samples(name, column, event)
            _order(table, column)
            self.records.write_table(table)

    def anchors(self) -> Iterator[Event]:
        """Score players without a model."""
        table = self.records.table()
        for i, (name, course) in enumerate(self.courses.items()):
            entry = _entry(table, name, course)
            if "teacher" in entry["columns"]:
                continue
            for done, (player, score) in enumerate(
                anchors(course.language.game, jax.random.fold_in(self.key, 2000 + i), self.config.evaluation.boards)
            ):
                entry["columns"][player] = score._asdict()
                _order(table, player)
                yield Event(f"anchors of {name}", done + 1, 3)
            self.records.write_table(table)

    def _keep_samples(self, name: str, column: str, result: Result, count: int = 3) -> None:
        game, tried = self.courses[name].language.game, result.first
        pictures = np.asarray(tried.pictures[:count])
        for i in range(count):
            action = int(tried.reading.actions[i])
            row = {
                "game": name,
                "phase": column,
                "step": self.step,
                "reply": tried.texts[i],
                "truth": tried.truths[i],
                "action": game.actions.format(action) if action >= 0 else None,
                "legal": bool(tried.legal[i]),
                "reward": float(tried.score[i]),
                "cells": float(tried.reading.cells[i]),
            }
            self.records.sample(f"{name}-{column}-{i}", pictures[i], row)

    def _tree(self) -> dict[str, jax.Array]:
        leaves = jax.tree.leaves((self.state, self.reference, self.boards))
        return {f"{i:05d}": leaf for i, leaf in enumerate(leaves)}

    def save(self) -> None:
        """Keep all that the run needs to go on."""
        if self.phase:
            phases = self.config.phases
            number = sum(self.config.length(p) for p in phases[: phases.index(self.phase)]) + self.step
            seconds = time.monotonic() - self.began
            self.checkpoints.save(number, {"phase": self.phase, "step": self.step, "seconds": seconds}, self._tree())
        self.saved = time.monotonic()

    def resume(self) -> bool:
        """Go on from the newest checkpoint; False when there is none yet."""
        if self.checkpoints.latest() is None:
            return False
        progress = self.checkpoints.progress()
        self._enter(progress["phase"])
        tree = self.checkpoints.restore(self._tree())
        structure = jax.tree.structure((self.state, self.reference, self.boards))
        self.state, self.reference, self.boards = jax.tree.unflatten(structure, [tree[k] for k in sorted(tree)])
        self.step = progress["step"]
        self.began = time.monotonic() - progress["seconds"]
        phases = self.config.phases
        done = {p: self.config.length(p) for p in phases[: phases.index(self.phase)]}
        self.records.forget_after(done | {self.phase: self.step})
        return True


def _model_and_games(config: Config, key: jax.Array) -> tuple[policy.VLM, list[jaxgym.Game[Any]]]:
    loaded = None if config.model in policy.PRESETS else policy.load(config.model)
    vision = loaded.config.vision if loaded else policy.PRESETS[config.model].vision
    names = jaxgym.names() if "all" in config.games else config.games
    games = []
    for name in dict.fromkeys(names):
        options = {"photos": config.photos} if name == "shisen_sho_photo" else {}
        games.append(jaxgym.make(name, picture=config.picture, patch=vision.patch * vision.merge, **options))
    vlm = loaded or policy.load(config.model, tokenizer=build_tokenizer(games, key), key=key)
    return vlm, games


def _entry(table: dict[str, Any], name: str, course: Course) -> dict[str, Any]:
    rules = protocol(course.language.game)
    empty = {"columns": {}, "extra": {}, "unit": rules.unit, "published": dict(rules.published)}
    entry: dict[str, Any] = table["games"].setdefault(name, empty)
    return entry


def _order(table: dict[str, Any], column: str) -> None:
    every = ("random", "random_legal", "teacher", "base", "coldstart", "grpo")
    table["order"] = [c for c in every if c in {*table["order"], column}]


def _extra(result: Result) -> dict[str, float]:
    names = ("cells", "board", "legal", "reason", "formatted", "cleared")
    return {name: getattr(result, name) for name in names if getattr(result, name) is not None}
