"""The configuration of a whole run: its parts, and what holds between them."""

import difflib
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jaxgym import registry
from policy.config import PRESETS
from train.parts import (
    Base,
    Coldstart,
    Episodes,
    Evaluation,
    Grpo,
    Lora,
    Mesh,
    Mix,
    Reward,
    Save,
    Sight,
    States,
    check_fields,
    flag,
)

_RATES = {"coldstart": 2e-3, "grpo": 3e-4}  # peak learning rates where none is given, of a preset's model
_BASE = 50, 600  # steps before a cold start, and without: after 59 a model read 28 % of cells, after 361 all (seed 0)
_ELSEWHERE = {"run", "track", "model", "photos", "coldstart-data"}  # may change, as may all of mesh and save
_TUNING = {"coldstart": 1e-5, "grpo": 1e-6}  # and of one that was trained before


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run."""

    games: tuple[str, ...] = flag(("all",), "names separated by commas, or all; MODULE:FUNCTION is a game of yours")
    model: str = flag("small", "a preset (tiny, small, medium) trained from scratch, or the folder of a saved model")
    recipe: Literal["g0", "g1"] = flag("g1", "g0: RL from the base model; g1: a cold start from the teacher in between")
    seed: int = flag(0, "of everything that is drawn")
    photos: str = flag("digits", "pictures of shisen_sho_photo: digits, or the path of a CIFAR-10 archive or folder")
    picture: int = flag(0, "side of the pictures in pixels; 0: one block of patches a cell")
    reply: int = flag(0, "tokens that a reply may have; 0: what a written one needs, and some more")
    dtype: Literal["float32", "bfloat16"] = flag("float32", "of the computation; what learns is kept in float32")
    accumulate: int = flag(
        1, "parts that a batch is gone through in: less memory, the same update (of a preset's lessons nearly)"
    )
    remat: bool = flag(False, "compute activations again in the backward pass: a third more work, far less memory")
    freeze: Literal["nothing", "vision"] = flag("nothing", "what does not learn of a saved model")
    run: str = flag("", "folder of the run, made anew (default: runs/ and the date)")
    track: tuple[str, ...] = flag((), "where else measurements go: tensorboard, wandb, or both, separated by commas")
    mesh: Mesh = Mesh()
    lora: Lora = Lora()
    sight: Sight = Sight(steps=800)
    base: Base = Base()
    coldstart: Coldstart = Coldstart(steps=1200)
    states: States = States()
    reward: Reward = Reward()
    mix: Mix = Mix()
    grpo: Grpo = Grpo()
    episodes: Episodes = Episodes()
    evaluation: Evaluation = Evaluation()
    save: Save = Save()

    def __post_init__(self) -> None:
        check_fields(self, seed=0, picture=0, reply=0, accumulate=1)
        of_one = self.grpo.states // self.grpo.minibatches
        if "grpo" in self.phases and of_one % self.accumulate:
            raise ValueError(f"accumulate={self.accumulate}: must divide the {of_one} boards of a minibatch of GRPO")
        several, given = self.episodes.turns > 1, self.episodes
        if not several and (given.same_board or (given.history and self.grpo.updates)):
            name = f"same_board={given.same_board:g}" if given.same_board else f"history={given.history}"
            raise ValueError(f"episodes {name}: RL has no turns before, give --episodes-turns (now 1) as well")
        for phase in (phase for phase in self.phases if phase != "grpo"):
            if (boards := getattr(self, phase).boards) % self.accumulate:
                raise ValueError(f"accumulate={self.accumulate}: must divide the {boards} boards of {phase}")
        if self.seed >= 1 << 32:
            raise ValueError(f"seed={self.seed}: must be below 2**32")

    @property
    def phases(self) -> tuple[str, ...]:
        """What is trained, in order."""
        scratch = self.model in PRESETS  # a saved model sees, and has its format, already
        wanted = {
            "sight": self.sight.steps * scratch,
            "base": self.length("base") * scratch,
            "coldstart": self._coldstart,
            "grpo": self.grpo.updates,
        }
        return tuple(phase for phase, steps in wanted.items() if steps)

    def names(self) -> tuple[str, ...]:
        """The games of the run, each once; raises ValueError, with near misses, for one that does not exist."""
        wanted = [name for given in self.games for name in (registry.names() if given == "all" else (given,))]
        if not wanted:
            raise ValueError("games: name one at least, or all")
        for name in wanted:
            registry.find(name)
        return tuple(dict.fromkeys(wanted))

    def check(self) -> None:
        """Raise ValueError for what can be known to be wrong before anything is made."""
        names = self.names()
        for part, weights in (("reward", self.reward.weights), ("mix", self.mix.weights)):
            for given in weights:
                if (name := given.partition("=")[0]) not in names:
                    raise ValueError(f"{part} weights: {name!r} is none of this run's games ({', '.join(names)})")
        self._check_mix(names)
        for name in names:
            for level in self.states.levels:
                registry.find_level(name, level)
        if self.model not in PRESETS and not (self.model and Path(self.model).is_dir()):
            raise ValueError(
                f"model {self.model!r} is neither a preset ({', '.join(PRESETS)}) nor a folder; nothing is fetched: "
                "download it first"
            )
        if self.model in PRESETS and (self.lora.rank or self.freeze != "nothing"):
            given = f"lora rank={self.lora.rank}" if self.lora.rank else f"freeze={self.freeze}"
            raise ValueError(f"{given} needs a saved model: {self.model!r} is a preset, which has learned nothing yet")
        if self.coldstart.data and "coldstart" not in self.phases:
            raise ValueError(f"coldstart data={self.coldstart.data!r}: this run has no cold start to learn from it in")
        if self.photos != "digits" and not Path(self.photos).exists():
            raise ValueError(f"photos {self.photos!r} is neither 'digits' nor a path that exists")

    def _check_mix(self, names: tuple[str, ...]) -> None:
        drawn, likely = self.mix.games, sum(self.mix.weight(name) > 0 for name in names)
        if drawn > likely:
            odds = " whose weight is not 0" if likely < len(names) else ""
            raise ValueError(f"mix games={drawn}: must be at most {likely}, the games of this run{odds}; 0: all")
        if (self.mix.weights or self.mix.progress) and not 0 < drawn < len(names):
            given = "weights" if self.mix.weights else "progress"
            raise ValueError(f"mix {given} says which games an update takes: give --mix-games fewer than {len(names)}")

    def rate(self, phase: str, *, ours: bool) -> float:
        """The peak learning rate of a phase; where none is given, the usual one for a model of ours or of others."""
        lr: float = getattr(self, phase).lr
        if lr or phase not in _RATES:
            return lr
        return _RATES[phase] if ours else self._usual(phase)

    def _usual(self, phase: str) -> float:
        """The peak learning rate of fine-tuning; adapters bear ten times as much."""
        return _TUNING[phase] * (10 if self.lora.rank else 1)

    def high_rates(self) -> list[str]:
        """A line for every learning rate that would undo what a model of Hugging Face's has learned."""
        lines = []
        for phase in (phase for phase in self.phases if phase in _TUNING):
            lr, usual = self.rate(phase, ours=False), self._usual(phase)
            if lr > 30 * usual:
                lines.append(f"--{phase}-lr {lr:g} is high for a model that was trained before: {usual:g} is usual")
        return lines

    def short_base(self) -> list[str]:
        """A line where RL would begin with a model that hardly reads and writes yet."""
        steps, enough = self.length("base"), _BASE[True]
        if self.phases[-2:] != ("base", "grpo") or steps >= enough // 2:
            return []
        return [f"--base-steps {steps} hardly teach it to read and write before RL begins: {enough} do"]

    def settled(self) -> "Config":
        """The same, as it is kept: with the number of steps where it says that they are as many as are needed."""
        return replace(self, base=replace(self.base, steps=self.length("base")))

    def less_memory(self, phase: str) -> str:
        """What to do where the memory does not suffice for a phase, "" for the evaluation alone."""
        knobs = {"grpo": "--grpo-states, --grpo-group or --grpo-keep", "": "--evaluation-boards"}
        least = "lower " + knobs.get(phase, f"--{phase}-boards")
        if phase:
            least += ", or raise --accumulate" + ("" if self.remat else ", or give --remat")
        return least + (", or --dtype bfloat16" if self.dtype == "float32" else "")

    def length(self, phase: str) -> int:
        """Optimizer steps of a phase."""
        part = getattr(self, phase)
        steps: int = part.updates if isinstance(part, Grpo) else part.steps
        return steps if steps >= 0 else _BASE[not self._coldstart]

    @property
    def _coldstart(self) -> int:
        return self.coldstart.steps * (self.recipe == "g1")

    def differing(self, other: "Config") -> list[str]:
        """The flags by which another run would not be the same, wherever its files and devices are."""
        mine, theirs = _flat(self.to_dict()), _flat(other.to_dict())
        changed = [flag for flag, value in mine.items() if value != theirs[flag]]
        return [flag for flag in changed if flag not in _ELSEWHERE and not flag.startswith(("mesh-", "save-"))]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(record: dict[str, Any]) -> "Config":
        """Inverse of `to_dict`, also after JSON; what is left out is as by default.

        Raises ValueError, with near misses, for what no field is called, and for what a field cannot hold.
        """
        config: Config = _changed(Config(), record, "the configuration")
        return config


def _flat(record: dict[str, Any], before: str = "") -> dict[str, Any]:
    """The values of a configuration by their flags."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flag = before + key.replace("_", "-")
        flat |= _flat(value, f"{flag}-") if isinstance(value, dict) else {flag: value}
    return flat


def _changed(part: Any, record: Any, name: str) -> Any:
    """A part of a configuration (its name is for what is wrong with it) with other values."""
    if not isinstance(record, dict):
        raise ValueError(f"{name} is {record!r}: give an object of settings")
    known = {each.name for each in fields(part)}
    for wrong in sorted(set(record) - known):
        near = difflib.get_close_matches(wrong, known, n=2)
        raise ValueError(f"{name} has no {wrong}" + (f" (did you mean {' or '.join(near)}?)" if near else ""))
    values = {}
    for key, value in record.items():
        old = getattr(part, key)
        if is_dataclass(old):
            values[key] = _changed(old, value, key)
        else:
            values[key] = tuple(value) if isinstance(value, list) else value
    return replace(part, **values) if isinstance(part, Config) else changed(part, name, values)


def changed(part: Any, name: str, values: dict[str, Any]) -> Any:
    """A part of a configuration with other values; raises ValueError, which names it, for what cannot be."""
    try:
        return replace(part, **values)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None
