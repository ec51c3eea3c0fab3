"""The parts of a run's configuration: one frozen record a concern. Every field is a flag of `train.main`."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args, get_origin

from policy.config import fits, plain
from policy.lora import MODULES

PLAYERS = ("own", "random", "teacher")
POOL = 256  # boards of each game that are in play at once


def flag(default: Any, help: str) -> Any:
    """A field with its line of help."""
    return field(default=default, metadata={"help": help})


_KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "a text",
    tuple[str, ...]: "a list of texts",
}


def check_fields(part: Any, **least: float) -> None:
    """Raise ValueError for a value that its field cannot have; `least` has the smallest of some numbers."""
    for each in fields(part):
        value = plain(getattr(part, each.name))
        object.__setattr__(part, each.name, value)
        if not fits(value, each.type):
            choices = f"one of {', '.join(get_args(each.type))}" if get_origin(each.type) is Literal else ""
            raise ValueError(f"{each.name}={value!r}: must be {choices or _KINDS[each.type]}")
        if each.name in least and value < least[each.name]:
            raise ValueError(f"{each.name}={value}: must be at least {least[each.name]:g}")
        if each.name == "lr" and value > 1:
            raise ValueError(f"lr={value}: must be at most 1")


def check_divides(name: str, value: int) -> None:
    """Raise ValueError for a number of boards that those in play cannot be shared out by."""
    if value < 1 or POOL % value:
        raise ValueError(f"{name}={value}: must divide {POOL}, the number of boards in play (1, 2, 4, ... {POOL})")


def _weight(weights: tuple[str, ...], game: str) -> float:
    """What some NAME=WEIGHT say of a game, 1 where they do not; raises ValueError for one that is none."""
    found = 1.0
    for given in weights:
        name, _, number = given.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not name or not 0 <= value < math.inf:
            raise ValueError(f"weights: {given!r} must be the name of a game, = and a number from 0 on")
        found = value if name == game else found
    return found


@dataclass(frozen=True, kw_only=True)
class Sight:
    """The tower alone: reading cells and judging actions straight off the image tokens, without a word."""

    steps: int = flag(0, "optimizer steps; 0 skips the phase")
    boards: int = flag(32, "boards of each game in a step")
    lr: float = flag(3e-3, "peak learning rate (AdamW; ten times that for Muon; warm-up and cosine)")
    practice: float = flag(
        0.6,
        "share of the steps, from the first, on boards that a game deals to learn to see from; up to whole lessons of "
        "256 boards",
    )

    def __post_init__(self) -> None:
        check_fields(self, steps=0, boards=1, lr=0.0, practice=0.0)
        check_divides("boards", self.boards)
        if self.practice > 1:
            raise ValueError(f"practice={self.practice}: must be at most 1")


@dataclass(frozen=True, kw_only=True)
class Supervised:
    """Learning from written replies: the base model's format, the cold start's teacher."""

    _fewest: ClassVar[int] = 0

    steps: int = flag(0, "optimizer steps; 0 skips the phase")
    boards: int = flag(16, "boards of each game in a step")
    lr: float = flag(2e-3, "peak learning rate (AdamW; ten times that for Muon; warm-up and cosine)")
    perception: float = flag(0.5, "share of the loss that reading the board has, against the rest of a reply; 0 to 1")
    decision: float = flag(
        1.0, "weight of the tokens that first name the action, against the teacher's whole distribution"
    )
    dense: float = flag(1.0, "weight of reading cells and legal actions straight off the image tokens")

    def __post_init__(self) -> None:
        check_fields(self, steps=self._fewest, boards=1, lr=0.0, perception=0.0, decision=0.0, dense=0.0)
        if self.perception > 1:
            raise ValueError(f"perception={self.perception}: must be at most 1")
        check_divides("boards", self.boards)


@dataclass(frozen=True, kw_only=True)
class Base(Supervised):
    """Learning to read and write from replies with moves at random."""

    _fewest: ClassVar[int] = -1

    steps: int = flag(
        -1,
        "optimizer steps; 0 skips the phase; -1: as many as are needed, 50 before a cold start, which teaches the same "
        "and more, else 600",
    )


@dataclass(frozen=True, kw_only=True)
class Coldstart(Supervised):
    """Learning from the teacher's replies, or from replies on disk."""

    lr: float = flag(
        0.0,
        "peak learning rate (AdamW; for a preset's hidden matrices Muon, at ten times that; warm-up and cosine); 0: as "
        "usual for the model, 2e-3 for a preset, 1e-5 for a Hugging Face folder, 1e-4 for adapters beside it",
    )
    regret: float = flag(
        3.0,
        "weight of what the action named is expected to give away by the teacher's values, beside imitation; a board "
        "counts by its share of legal actions (only for presets)",
    )
    data: str = flag("", "a .jsonl file of replies (see train.export), or a folder with such files")
    data_share: float = flag(1.0, "weight of these replies in a step, against as many boards of the teacher's; to 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, regret=0.0)
        if not 0 < self.data_share <= 1:
            raise ValueError(f"data_share={self.data_share}: must be above 0 and at most 1")
        if self.data_share < 1 and not self.data:
            raise ValueError(f"data_share={self.data_share}: there is no data to count, give --coldstart-data")


@dataclass(frozen=True, kw_only=True)
class States:
    """The boards that RL answers."""

    play: tuple[str, ...] = flag(
        ("own", "random"), "whose moves they come from, in equal parts: own, random, teacher; repeat one for more of it"
    )
    depth: int = flag(0, "most random moves that a board has behind it at first; 0: as many as the protocol has steps")
    persist: bool = flag(True, "boards stay in play from update to update; else each update has fresh ones")
    levels: tuple[str, ...] = flag(
        ("paper",), "how hard they are, by names of levels, easiest first; every game begins with the first"
    )
    promote: float = flag(
        0.7, "share of good moves at which a game goes on to its next level; below half of it, back; 0 to 1"
    )

    def __post_init__(self) -> None:
        check_fields(self, depth=0, promote=0.0)
        if self.promote > 1:
            raise ValueError(f"promote={self.promote}: must be at most 1")
        if not self.levels or len(set(self.levels)) < len(self.levels):
            raise ValueError(f"levels={','.join(self.levels)}: must be at least one, each once")
        if not self.play or not set(self.play) <= set(PLAYERS):
            raise ValueError(f"play={','.join(self.play)}: must be some of {','.join(PLAYERS)}")


@dataclass(frozen=True, kw_only=True)
class Reward:
    """What a reply earns. Every part is logged for every game."""

    game: Literal["outcome", "regret", "score"] = flag(
        "regret",
        "of the game: VLM-Gym's +1 or -1; or 1 minus what the action gives away by the teacher's values; "
        "or the game's own score of the move, -1 where it is not legal (what earns less counts as that by "
        "--grpo-scale cost)",
    )
    format: float = flag(1.0, "of a reply whose three blocks stand once each, in order")
    perception: float = flag(1.0, "of a board read without a mistake; a share of it for a share of cells")
    exact: bool = flag(False, "nothing for a board that is not read without a mistake")
    own: str = flag(
        "",
        "a function of yours, MODULE:FUNCTION, given (train.rollout.Replies, jaxgym.Game): one number a reply, "
        "added to the game's reward",
    )
    weights: tuple[str, ...] = flag((), "NAME=WEIGHT,...: how much a game counts against the others; 1 if not named")

    def __post_init__(self) -> None:
        check_fields(self, format=0.0, perception=0.0)
        self.weight("")

    def weight(self, game: str) -> float:
        """How much a game counts; raises ValueError for weights that are none."""
        return _weight(self.weights, game)


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Which games an update of RL takes."""

    games: int = flag(0, "how many of them, drawn without putting back; 0: all")
    weights: tuple[str, ...] = flag((), "NAME=WEIGHT,...: odds of a game to be drawn, against the others; 1 if unnamed")
    progress: bool = flag(
        False, "odds follow learning progress: how far a fast and a slow running mean of a game's reward lie apart"
    )

    def __post_init__(self) -> None:
        check_fields(self, games=0)
        self.weight("")

    def weight(self, game: str) -> float:
        """The fixed odds of a game; raises ValueError for weights that are none."""
        return _weight(self.weights, game)


@dataclass(frozen=True, kw_only=True)
class Grpo:
    """Group relative policy optimization (arXiv 2402.03300) and its kin."""

    updates: int = flag(80, "rollouts to learn from; 0 skips the phase")
    states: int = flag(32, "boards of each game in an update")
    group: int = flag(16, "replies tried from each board; one where every action is judged (see credit)")
    keep: int = flag(
        4,
        "replies of a group that are learned from, those whose rewards lie farthest apart; they share out what all of "
        "it would gain and lose; 0: all",
    )
    refill: int = flag(
        0,
        "rounds of further boards that are answered in place of those whose replies all earned alike "
        "(dynamic sampling); 0: these stay, and count",
    )
    mask_truncated: bool = flag(
        False,
        "nothing is learned from what replies say and do that were cut off for their length (where every action is "
        "judged, what is on their boards is learned from the truth)",
    )
    epochs: int = flag(1, "times that the replies of an update are gone through")
    minibatches: int = flag(1, "optimizer steps in an epoch, each on its part of the boards")
    lr: float = flag(
        0.0,
        "peak learning rate (AdamW; for hidden matrices of a preset that had no cold start Muon, at ten times that; a "
        "warm-up from 0 at the first update, and cosine); 0: as usual for the model, 3e-4 for a preset, 1e-6 for a "
        "Hugging Face folder, 1e-5 for adapters beside it",
    )
    objective: Literal["clip", "cispo", "gspo"] = flag(
        "clip", "PPO's, token by token; or the weight clipped, not the token; or one ratio for a whole reply"
    )
    clip: float = flag(0.2, "a ratio of probabilities counts down to 1 - clip ...")
    clip_high: float = flag(0.2, "... and up to 1 + clip_high (DAPO: 0.28)")
    average: Literal["token", "sequence", "constant"] = flag(
        "token", "all tokens count alike; or all replies do; or each token, as a share of the longest there could be"
    )
    scale: Literal["success", "cost", "none", "group", "game"] = flag(
        "cost",
        "what advantages are divided by. success: how far the mean of their group lies above failure (MaxRL: what is "
        "raised is the logarithm of success); cost: the same, but where every action is judged the replies that boards "
        "are expected to cost are lowered; or nothing, the deviation of their group, or that of all of the game's (of "
        "each part that --accumulate makes, where every action is judged)",
    )
    credit: Literal["action", "block", "reply"] = flag(
        "action",
        "every action judged at once where a reply names its own, and reading by its truth, from one reply to a board "
        "(only for presets, boards that are answered once, and rewards that are not your own; else by block); block: "
        "perception judged by what it read, think and answer by the game; reply: one advantage for a whole reply",
    )
    kl: float = flag(
        1e-2, "weight of the divergence from the model before RL, averaged as average says; 0: that model is not asked"
    )
    hold: float = flag(
        3.0,
        "the same where every action is judged, for what is said around it: nothing else holds that (tokens that name "
        "the action are not in it, nor in the metric kl)",
    )
    cover: float = flag(
        1.0,
        "the same where every action is judged, for all actions: KL(before, where it did well || now), so that good "
        "moves which the model knew are not forgotten for others that do as well",
    )
    entropy: float = flag(
        0.0, "weight of the entropy of what is said; where every action is judged, of which one a reply names"
    )
    kl_estimate: Literal["k3", "k1"] = flag("k3", "k3 is added to the loss, k1 taken off the advantages")
    correct: float = flag(
        0.0, "cap on the weight that corrects for the sampler's own probabilities (truncated importance); 0: none"
    )
    temperature: float = flag(0.8, "of sampling")

    def __post_init__(self) -> None:
        check_divides("states", self.states)
        check_fields(
            self,
            updates=0,
            states=1,
            group=2,
            keep=0,
            refill=0,
            epochs=1,
            minibatches=1,
            lr=0.0,
            clip=0.0,
            clip_high=0.0,
            kl=0.0,
            hold=0.0,
            cover=0.0,
            entropy=0.0,
            correct=0.0,
            temperature=1e-3,
        )
        if self.keep == 1:
            raise ValueError("keep=1: must be 0 (all), or at least 2: one reply has nothing to be compared with")
        if self.states % self.minibatches:
            raise ValueError(f"minibatches={self.minibatches}: must divide the {self.states} states")


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """Several answers in a row, in RL and in the evaluation."""

    turns: int = flag(1, "answers of an episode of RL, each a sample of its own; 1: every board is answered once")
    discount: float = flag(0.9, "of the game's rewards that an answer leads to, turn by turn")
    same_board: float = flag(
        0.0,
        "weight of comparing an answer with those to the very same board in its group (GiGPO: 1), beside whole "
        "episodes by their plain sums; 0: answers are compared turn by turn",
    )
    history: int = flag(0, "turns before that the prompt shows, as they were said")
    pictures: int = flag(1, "pictures in a prompt: of the present turn and the last ones before it")

    def __post_init__(self) -> None:
        check_fields(self, turns=1, discount=0.0, same_board=0.0, history=0, pictures=1)
        if self.discount > 1:
            raise ValueError(f"discount={self.discount}: must be at most 1")
        if self.pictures > 1 + self.history:
            raise ValueError(f"pictures={self.pictures}: must be at most 1 + history={self.history}")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """VLM-Gym's protocol."""

    boards: int = flag(256, "fresh boards of each game")
    temperature: float = flag(0.7, "of sampling, when the model plays; 0: its likeliest token")

    def __post_init__(self) -> None:
        check_fields(self, boards=2, temperature=0.0)


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Adapters that learn instead of the decoder of a saved model, and the rest of it (arXiv 2106.09685)."""

    rank: int = flag(0, "of the adapters; 0: none, all of the model learns")
    alpha: float = flag(32.0, "their weight is alpha / rank")
    modules: tuple[str, ...] = flag(MODULES, "the dense layers that have one, separated by commas")

    def __post_init__(self) -> None:
        check_fields(self, rank=0, alpha=1e-3)
        if not self.modules or not set(self.modules) <= set(MODULES):
            raise ValueError(f"modules={','.join(self.modules)}: must be some of {','.join(MODULES)}")


@dataclass(frozen=True, kw_only=True)
class Save:
    """Checkpoints, which are written while the run goes on."""

    every: float = flag(60.0, "seconds between them; 0: one after every step")
    keep: int = flag(2, "of the newest are kept; the older ones are what a damaged one falls back to")
    best: bool = flag(
        True,
        "keep the best of RL as well, by the mean reward over a pass of its boards; it becomes model-best at the end",
    )

    def __post_init__(self) -> None:
        check_fields(self, every=0.0, keep=1)


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """The devices that a run is spread over, of all processes: data x fsdp x tensor of them."""

    data: int = flag(1, "parts that a batch is cut into; -1: as many as there are devices for")
    fsdp: int = flag(1, "parts that the batch and the model, its optimizer too, are cut into")
    tensor: int = flag(1, "parts that layers are cut into, heads and hidden units apart")

    def __post_init__(self) -> None:
        check_fields(self, data=-1, fsdp=1, tensor=1)
        if not self.data:
            raise ValueError("data=0: must be at least 1, or -1 for what there is")
