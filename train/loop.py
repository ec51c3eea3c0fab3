"""A run: base, cold start, GRPO, evaluation. Yields what happens; `main` prints it.

Everything that is drawn is drawn from (seed, phase, step, game), so a resumed run goes on as if it had never stopped.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import policy
from policy import sharding
from policy.model import Params
from policy.weights import OWN
from train import (
    coldstart,
    cores,
    curriculum,
    dataset,
    dense,
    devices,
    learner,
    optimizer,
    reinforce,
    resuming,
    rounds,
    supervise,
)
from train.checkpoint import Checkpoints
from train.config import Config
from train.cores import side_by_side
from train.course import course_name, photos_fingerprint, prepare
from train.curriculum import Standing
from train.idle import idle_flags
from train.language import enlarged, strange
from train.learner import Frame
from train.metrics import Records
from train.optimizer import TrainState
from train.parts import Grpo, Sight, Supervised
from train.protocol import ModelWriter
from train.rollout import BATCH, Boards
from train.scoreboard import Scoreboard
from train.states import begin, every
from train.supervise import Pupil
from train.watch import Troubles

_ROW, _SHARE = 3, 0.1  # so many updates in a row, or such a share of a phase's, whose steps are not finite end a run
_PHASES = ("base", "coldstart", "grpo", "sight")  # numbered for their keys
_SHOWN = {"sight": ("dense_cells", "dense_legal"), "grpo": ("reward", "legal", "cells")}  # beside the bar


class Event(NamedTuple):
    """Something to show: `done` of `total` steps of a stage, and what was measured."""

    stage: str
    done: int
    total: int
    values: dict[str, float]


class Trainer:
    """The state of a run and its steps. Raises ValueError, in one line, for what cannot be."""

    def __init__(self, config: Config, run: Path) -> None:
        self.config, self.run = config, run
        self.began, self.tested = time.monotonic(), 0.0  # seconds of evaluation are no seconds of training
        self.records = Records(run)
        self.scores = Scoreboard(self.records)
        self.checkpoints = Checkpoints(run, config.save.keep, best=config.save.best)
        self._troubles = Troubles()
        self.notes: list[str] = []  # what a user should know before it goes on: rates, damage
        self.key = jax.random.key(config.seed)
        vlm, self.ladders, self.boards = prepare(config, self.key)
        learned, self.fixed = learner.divide(vlm.params, adapters=config.lora.rank > 0, tower=config.freeze != "vision")
        self._beside = resuming.Beside(learner.fingerprint(self.fixed), photos_fingerprint(config))
        self.vlm = replace(vlm, params=None)  # what becomes of them is in `params`: a large model is there once
        self.courses = {name: self.ladders[name] for name in config.names()}  # of the paper's level
        width = self.vlm.config.decoder.width
        heads: dict[str, dict[str, jax.Array]] = {
            name: dense.create_heads(c.language.game, c.tables, width, jax.random.fold_in(self.key, i))
            if c.tables
            else {}
            for i, (name, c) in enumerate(self.courses.items())
        }
        if self.vlm.origin.kind != OWN:
            self.notes += config.high_rates()
        self.notes += config.short_base()
        for name, course in self.ladders.items():
            self.notes += strange(self.vlm, name, course.language.game)
        for name, course in self.courses.items():
            self.notes += enlarged(self.vlm, name, course.language)
        self.notes += idle_flags(config, list(self.ladders.values()))
        self.frame = Frame(self.vlm.graphdef, jnp.dtype(config.dtype), self.vlm.mesh)
        self.phase, self.step = config.phases[0] if config.phases else "", 0
        self.state = TrainState(learned, sharding.spread(heads, self.vlm.mesh), {}, jnp.zeros(2, jnp.int32))
        self.reference: Params | None = None  # the model before RL, as it computes, where it is asked
        self.lessons: dict[str, coldstart.Lesson] = {}
        self.shelves: dict[str, list[dataset.Shelf]] = {}  # by game, what the cold start reads
        if config.coldstart.data:
            self.shelves = dataset.shelve(Path(config.coldstart.data), self.vlm, config.names(), config.reply)
        self.standings: dict[str, Standing] = {}  # of the games, in RL
        if self.phase:
            self._enter(self.phase)
        self.saved = time.monotonic()
        self.earned: list[float] = []  # mean rewards of the last updates of RL, of one pass of the boards
        devices.meet()  # from here on the first process changes what the others have read

    def _enter(self, phase: str) -> None:
        """Begin a phase: fresh optimizer, fresh boards; GRPO keeps what it began with as its reference."""
        part = getattr(self.config, phase)
        self.phase, self.step = phase, 0
        supervised = not isinstance(part, Grpo)
        self.rule = optimizer.make(muon=self._by_muon(phase))
        self.state = self.state._replace(optimizer={})  # that of the phase before makes room
        self.state = optimizer.start(
            self.rule, self.state.params, self.state.heads, with_heads=supervised, mesh=self.frame.mesh
        )
        if phase == "grpo":
            if rounds.asks_before(self.config, self.ladders.values()):
                self.reference = learner.copied(self.state.params, self.frame.dtype)
            self.standings = dict.fromkeys(self.courses, Standing())
            for i, (name, course) in enumerate(self.ladders.items()):
                key = self._key("grpo", -1, i)
                self.boards[name] = begin(self.config, course, self.boards[name], key)

    def _by_muon(self, phase: str) -> bool:
        """Whether a phase learns matrices by Muon: those of a model of ours, for what Adam has learned over months is
        best left to it. In RL where nothing has taught it a move yet; one that was taught would lose more of that.
        """
        if phase == "grpo":
            return self.config.model in policy.PRESETS and "coldstart" not in self.config.phases
        return self.vlm.origin.kind == OWN

    @property
    def params(self) -> Params:
        """All parameters, as the model computes with them."""
        return learner.whole(self.state.params, self.fixed, self.frame.dtype)

    def _rate(self) -> jax.Array:
        return jnp.float32(optimizer.rate(self._peak(), self.config.length(self.phase), self.step))

    def _peak(self) -> float:
        return self.config.rate(self.phase, ours=self.vlm.origin.kind == OWN)

    def _key(self, phase: str, step: int, game: int) -> jax.Array:
        numbers = (_PHASES.index(phase) + 1, step + 1, game)
        key = self.key
        for number in numbers:
            key = jax.random.fold_in(key, number)
        return key

    def events(self) -> Iterator[Event]:
        """Go through the phases, from wherever the run stands, and evaluate."""
        phases = self.config.phases
        before = ("base", *phases)[phases.index("grpo")] if "grpo" in phases else None  # what RL begins with
        for phase in phases[phases.index(self.phase) :] if phases else ():
            if phase != self.phase:
                self._enter(phase)
            if phase == "grpo" and before and self.step == 0:
                yield from self.evaluate(before)
            total = self.config.length(phase)
            while self.step < total:
                values = self._reinforce() if phase == "grpo" else self._supervise(phase)
                if phase == "grpo":
                    self._judge(values["reward"])
                yield Event(phase, self.step, total, values)
                late = time.monotonic() - self.saved >= self.config.save.every
                if devices.any_of(late) or self.step == total:
                    self.save()
        yield from self.anchors()
        yield from self.evaluate(phases[-1] if phases else "base")
        self._write("model")
        try:
            self.checkpoints.wait()
        except OSError as error:  # nothing is left to go on with: the model is there
            self.notes.append(f"{error}; the model is in {self.run / 'model'}")
        if self.config.save.best:
            known = len(self.checkpoints.damaged)
            best = self.checkpoints.sound_best()
            if len(self.checkpoints.damaged) > known:
                self.notes.append(f"{self.checkpoints.what_was_damaged()}: it may have been the best")
            if best is not None and best != self._number:
                self._restore(best)
                self._write("model-best")

    def _judge(self, reward: float) -> None:
        """Keep what the last updates earned, which says how good the model is; fewer than a pass would say how easy
        their boards are.
        """
        top, mixed = len(self.config.states.levels) - 1, self.config.mix.games > 0
        played = [self.standings[name] for name in curriculum.drawable(self.config.mix, self.standings)]
        worth = curriculum.worth(played, top, reward, mixed=mixed)
        self.earned = [] if worth is None else [*self.earned, worth][-self._pass :]

    @property
    def _pass(self) -> int:
        """In how many updates all boards of a game are answered; where games are drawn, of a usual one."""
        each, games = BATCH // self.config.grpo.states, len(curriculum.drawable(self.config.mix, self.courses))
        return -(-each * games // (self.config.mix.games or games))

    def final(self) -> policy.VLM:
        """The model as it is now; adapters are float32 whatever it computes in, as they have learned."""
        return replace(self.vlm, params=learner.kept(self.state.params, self.fixed, self.frame.dtype))

    def _write(self, name: str) -> None:
        """Write the model as it is now into the run's folder, and its adapters alone as well: merging rounds them."""
        final = self.final()
        policy.save(final, self.run / name)
        if final.adapted:
            policy.save_adapters(final, self.run / name.replace("model", "adapters"), self.config.model)

    def _supervise(self, phase: str) -> dict[str, float]:
        """One step of sight, base or cold start."""
        part: Sight | Supervised = getattr(self.config, phase)
        turns = BATCH // part.boards
        boards, lessons = self.boards, self.lessons
        read = self.config.coldstart.data_share if phase == "coldstart" and self.shelves else 0.0
        if read < 1 and (self.step % turns == 0 or not lessons):
            lessons = self._prepare(phase, self.step // turns)
        total: Any = None
        heads: dict[str, Any] = {}
        reports: dict[str, Any] = {}

        def study(name: str) -> supervise.Found:
            lesson = every(lessons[name], self.step % turns, turns) if read < 1 else None
            key = self._key(phase, self.step, len(self.courses) + [*self.courses].index(name))
            pupil = Pupil(self.frame, self.state.params, self.state.heads[name], self.fixed)
            given = self.config, phase, pupil, self.courses[name], lesson, self.shelves.get(name, []), key, read
            return supervise.study(*given)

        found = side_by_side(study, self.courses, together=cores.free(self.frame.mesh, self.config.accumulate))
        for name in self.courses:
            reports[name], (gradient, heads[name]) = next(found)
            total = optimizer.add(total, gradient)
            del gradient
        if read < 1 and (self.step + 1) % turns == 0:
            boards = boards | self._move_on(phase, self.step // turns, lessons)
        rate = self._rate()
        count = len(self.courses)
        state, norm = optimizer.apply(self.rule, self.state, (total, heads), count, rate, mesh=self.frame.mesh)
        self.state, self.boards, self.lessons, self.step = state, boards, lessons, self.step + 1
        if self.step % 10 and self.step != self.config.length(phase):
            return {}
        reports = jax.device_get(reports)
        loss = float(np.mean([report["loss"] for report in reports.values()]))
        return self._log(phase, reports, {"loss": loss, "grad_norm": float(norm), "lr": float(rate)})

    def _prepare(self, phase: str, turn: int) -> dict[str, coldstart.Lesson]:
        """A lesson on all boards, for as many steps as it has slices."""
        given = self.config, phase, turn
        return {
            name: supervise.prepared(
                *given, course, self.boards[name], *(self._key(phase, 2 * turn + k, i) for k in (0, 1))
            )
            for i, (name, course) in enumerate(self.courses.items())
        }

    def _move_on(self, phase: str, turn: int, lessons: dict[str, coldstart.Lesson]) -> dict[str, Boards]:
        """The boards that had a lesson, after it; later in the cold start most are the model's own."""
        own = supervise.owns(self.config, phase, turn)
        model = (self.frame.graphdef, self.params, self.config.evaluation.temperature) if own else None
        return {
            name: supervise.moved_on(
                course,
                self.boards[name],
                self._key(phase, 2 * turn + 1, i),
                None if phase == "base" else lessons[name],
                model,
            )
            for i, (name, course) in enumerate(self.courses.items())
            if not supervise.practises(self.config, phase, turn, course)
        }

    def _reinforce(self) -> dict[str, float]:
        """One update of GRPO."""
        began = time.monotonic()
        got: dict[str, reinforce.Collected] = {}
        boards, standings, levels = dict(self.boards), dict(self.standings), self.config.states.levels
        drawn, odds = curriculum.draw(self.config.mix, standings, self._key("grpo", self.step, len(standings) + 1))
        params = self.params
        for name in drawn:
            level = levels[standings[name].level]
            key, on = self._key("grpo", self.step, [*standings].index(name)), course_name(name, level)
            got[name] = reinforce.collect(
                self.config, self.frame, params, self.ladders[on], boards[on], standings[name], key
            )
            boards[on] = got[name].boards
        batches = {name: each.tried for name, each in got.items()}
        played = {name: self.ladders[course_name(name, levels[standings[name].level])] for name in drawn}
        names = {name: course.names for name, course in played.items()}
        key = self._key("grpo", self.step, len(standings))
        rate = self._rate()
        del params  # learning has need of the room
        state, learned, norm = reinforce.learn(
            self.config, self.frame, self.rule, self.state, self.fixed, self._before_rl, batches, rate, key, names
        )
        reports = {name: each.report | learned[name] for name, each in got.items()}
        for name, report in reports.items():
            self.notes += self._troubles.tell(name, reinforce.trouble(report, played[name].language.room))
            report |= {"level": standings[name].level} if len(levels) > 1 else {}
            report |= {"odds": odds[name]} if odds else {}
            told = (float(report.get(measure, 0.0)) for measure in ("success", "reward", "cost"))
            after = curriculum.record(standings[name], *told)
            standings[name] = curriculum.climb(after, len(levels), self.config.states.promote)
        count = sum(each.written for each in got.values())
        run = {"grad_norm": float(norm), "lr": float(rate), "replies_per_second": count / (time.monotonic() - began)}
        self.state, self.boards, self.standings, self.step = state, boards, standings, self.step + 1
        return self._log("grpo", jax.device_get(reports), run)

    def _before_rl(self) -> Params:
        """All parameters of the model that RL began with."""
        assert self.reference is not None
        return learner.whole(self.reference, self.fixed, self.frame.dtype)

    def _log(self, phase: str, reports: dict[str, Any], run: dict[str, float]) -> dict[str, float]:
        """Write the metrics of a step; returns what is worth a glance."""
        seconds = time.monotonic() - self.began
        for name, report in reports.items():
            self.records.log(phase, self.step, seconds, name, report)
        skipped, row = map(int, jax.device_get(self.state.skipped))
        self.records.log(phase, self.step, seconds, None, run | {"skipped": skipped})
        each = self.config.grpo.epochs * self.config.grpo.minibatches if phase == "grpo" else 1
        if row >= _ROW * each or skipped > _SHARE * self.config.length(phase) * each:
            self._give_up(skipped, row)
        run |= {"skipped": skipped} if skipped else {}
        shown = _SHOWN.get(phase, ("cells", "tokens"))
        shown = tuple(name for name in shown if all(name in report for report in reports.values()))
        return {k: float(np.mean([report[k] for report in reports.values()])) for k in shown} | run

    def _give_up(self, skipped: int, row: int) -> None:
        """End a run whose updates are not finite, and keep what it had learned before."""
        self.save()
        self._write("model")
        with contextlib.suppress(OSError):  # what is said below is worth more
            self.checkpoints.wait()
        mend = f"--{self.phase}-lr (it was {self._peak():g})" + (
            " or raise --grpo-temperature" if self.phase == "grpo" else ""
        )
        raise ValueError(
            f"{skipped} optimizer steps of {self.phase} were not finite and were left out, {row} of them in a row at "
            f"step {self.step}: in a new run lower {mend}; the last sound model is in {self.run / 'model'}"
        )

    def evaluate(self, column: str) -> Iterator[Event]:
        """Play every game by the protocol, on boards that are the same for every column."""
        boards, heat = self.config.evaluation.boards, self.config.evaluation.temperature
        history = self.config.episodes.history, self.config.episodes.pictures
        step = self.config.length(column) if column in self.config.phases else 0
        began, params = time.monotonic(), self.params
        for name, course in self.courses.items():
            writer = ModelWriter(self.frame.graphdef, params, course.language, heat, history)
            given = name, course.language.game, column, writer, self.key, boards, heat, step
            for done, total in self.scores.test(*given):
                began = self._leave_out(began)
                yield Event(f"evaluate {column} on {name}", done, total, {})
        self._leave_out(began)

    def anchors(self) -> Iterator[Event]:
        """Score players without a model."""
        began = time.monotonic()
        for name, course in self.courses.items():
            given = name, course.language.game, self.key, self.config.evaluation.boards
            for done, total in self.scores.test_anchors(*given):
                began = self._leave_out(began)
                yield Event(f"anchors of {name}", done, total, {})
        self._leave_out(began)

    def _leave_out(self, began: float) -> float:
        """What was done since then is no training; returns what time it is now."""
        now = time.monotonic()
        self.began, self.tested = self.began + now - began, self.tested + now - began
        return now

    @property
    def seconds(self) -> float:
        """How long it has taken, evaluations and all, those before a resume too."""
        return time.monotonic() - self.began + self.tested

    @property
    def _number(self) -> int:
        """Steps since the run began."""
        phases = self.config.phases
        return sum(self.config.length(p) for p in phases[: phases.index(self.phase)]) + self.step

    def _tree(self) -> dict[str, Any]:
        leaves = jax.tree.leaves((self.state, self.reference, jax.device_get(self.boards)))  # all have the same boards
        return {f"{i:05d}": leaf for i, leaf in enumerate(leaves)}

    def save(self) -> None:
        """Begin to write all that the run needs to go on; a save before that failed is told in `notes`."""
        if self.phase:
            progress = {
                "phase": self.phase,
                "step": self.step,
                "seconds": time.monotonic() - self.began,
                "tested": self.tested,
                "config": self.config.to_dict(),
                **self._beside._asdict(),
                "table": self.records.table,
                "standings": {name: list(standing) for name, standing in self.standings.items()},
                "earned": self.earned,
            }
            score = float(np.mean(self.earned)) if len(self.earned) == self._pass else None
            self.records.sync()
            if failed := self.checkpoints.save(self._number, progress, self._tree(), score):
                self.notes.append(f"{failed}; trying again")
        self.saved = time.monotonic()

    def resume(self) -> bool:
        """Go on from the newest checkpoint; False when there is none yet. `notes` then says what was damaged.

        Raises ValueError when no checkpoint is whole.
        """
        progress, notes = resuming.look_back(self.config, self._beside, self.checkpoints, self.records)
        self.notes += notes
        done: dict[str, int] = {}
        if progress:
            self._enter(progress["phase"])
            self._restore(self.checkpoints.latest())
            self.step = progress["step"]
            self.standings |= {name: Standing(*numbers) for name, numbers in progress.get("standings", {}).items()}
            self.earned = list(progress.get("earned", []))
            self.began, self.tested = time.monotonic() - progress["seconds"], progress.get("tested", 0.0)
            phases = self.config.phases
            done = {p: self.config.length(p) for p in phases[: phases.index(self.phase)]} | {self.phase: self.step}
        self.records.forget_after(done)
        self.records.forget_samples()
        return progress is not None

    def _restore(self, number: int | None) -> None:
        """Take what a checkpoint of this phase holds."""
        tree = self.checkpoints.restore(self._tree(), number)
        structure = jax.tree.structure((self.state, self.reference, self.boards))
        self.state, self.reference, self.boards = jax.tree.unflatten(structure, [tree[k] for k in sorted(tree)])
