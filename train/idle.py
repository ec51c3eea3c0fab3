"""Settings that do nothing in a run, which a user should know before it begins."""

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace

from train.config import Config
from train.course import PHOTOS, Course
from train.parts import Base, Mix, Reward
from train.rounds import every_action

_OF_GROUPS = ("group", "keep", "refill", "kl")  # what compares replies
_OF_TOKENS = ("objective", "clip", "clip_high", "average", "correct")  # what weighs their tokens' advantages
_OF_RL = {  # what is asked of other parts in RL alone
    "reward": tuple(field.name for field in fields(Reward)),
    "mix": tuple(field.name for field in fields(Mix)),
    "states": ("play", "persist", "depth", "promote"),
    "episodes": ("turns", "discount", "same_board"),
}
_OF_TABLES = ("decision", "dense", "regret")  # what asks for a tokenizer with names for cells and actions


def idle_flags(config: Config, courses: Sequence[Course]) -> list[str]:
    """A line for each reason why settings that are not the usual ones do nothing."""
    lines = []
    for phase in ("sight", "base", "coldstart", "grpo"):
        if phase not in config.phases:
            part = getattr(config, phase)
            none = [name for name in ("steps", "updates") if getattr(part, name, None) == 0]  # that leaves it out
            names = [field.name for field in fields(part) if field.name not in none]
            idle = _changed(config, phase, names)
            if phase == "grpo":
                idle += [flag for other, some in _OF_RL.items() for flag in _changed(config, other, some)]
            lines += _told(f"this run has no phase {phase}", idle)
    if not config.lora.rank:
        lines += _told("there are no adapters", _changed(config, "lora", ("alpha", "modules")), "add --lora-rank")
    elif config.freeze != "nothing":
        lines += _told("adapters alone learn", ["--freeze"])
    if config.photos != Config().photos and PHOTOS not in config.names():
        lines += _told(f"no game is {PHOTOS}", ["--photos"])
    if "sight" in config.phases:
        lines += _in_sight(config, courses)
    if "coldstart" in config.phases:
        lines += _in_coldstart(config, courses)
    if "grpo" in config.phases:
        lines += _in_grpo(config, courses)
    return lines


def _in_sight(config: Config, courses: Iterable[Course]) -> list[str]:
    idle = _changed(config, "sight", ("practice",))
    if idle and all(course.language.game.practice is None for course in courses):
        return _told("no game deals boards to learn to see from", idle)
    return []


def _in_coldstart(config: Config, courses: Iterable[Course]) -> list[str]:
    part, idle = config.coldstart, _changed(config, "coldstart", _OF_TABLES)
    if part.data and part.data_share == 1:
        return _told("replies are all from disk", idle)
    if any(course.tables for course in courses):
        return []
    return _told("the tokenizer has no names for cells and actions", idle)


def _in_grpo(config: Config, courses: Sequence[Course]) -> list[str]:
    """Because every action is judged and replies are not compared, or because an update is one optimizer step, and the
    model in it the one that was sampled from.
    """
    part, lines = config.grpo, _in_play(config)
    judged = [every_action(config, course) for course in courses]
    weighed = not all(judged) or part.kl_estimate == "k1"  # by k1 tokens have an advantage all the same
    if all(judged):
        names = _OF_GROUPS + (() if weighed else _OF_TOKENS)
        idle = _changed(config, "grpo", names) + _changed(config, "reward", ("format", "exact"))
        lines += _told("replies are not compared", idle, "add --grpo-credit block")
    else:
        if not any(judged):
            lines += _told("actions are not judged one by one", _changed(config, "grpo", ("hold", "cover")))
        if part.keep >= part.group:
            lines += _told(f"a group has {part.group} replies", _changed(config, "grpo", ("keep",)))
        if not config.reward.perception:
            lines += _told("reading earns nothing", _changed(config, "reward", ("exact",)), "add --reward-perception")
    if not (part.hold and any(judged)) and not (part.kl and not all(judged)):
        lines += _told("no divergence counts", _changed(config, "grpo", ("kl_estimate",)), "add --grpo-kl")
    if weighed and part.objective == "gspo":
        lines += _told("all replies count alike for gspo", _changed(config, "grpo", ("average",)))
    if weighed and part.epochs * part.minibatches == 1:
        one = ("objective",) if part.objective == "cispo" else ()  # gspo weighs replies otherwise all the same
        idle = _changed(config, "grpo", (*one, "clip", "clip_high"))
        remedy = "add --grpo-minibatches 2, or --grpo-epochs 2"
        lines += _told("an update is one step, with ratios of 1", idle, remedy)
    return lines


def _in_play(config: Config) -> list[str]:
    """Because of how boards are played on."""
    lines = []
    if not config.states.persist:
        lines += _told("boards do not persist", _changed(config, "states", ("play",)))
    if len(config.states.levels) == 1:
        lines += _told("there is one level", _changed(config, "states", ("promote",)), "add --states-levels")
    if config.episodes.turns == 1:
        lines += _told("episodes have one turn", _changed(config, "episodes", ("discount",)), "add --episodes-turns")
    return lines


def _told(why: str, idle: Sequence[str], remedy: str = "") -> list[str]:
    line = f"{why}, so {', '.join(idle)} will do nothing" + (f": {remedy}" if remedy else "")
    return [line] if idle else []


def _changed(config: Config, part: str, names: Iterable[str]) -> list[str]:
    """The flags, among some fields of a part, that are not as usual."""
    given, usual = getattr(config.settled(), part), getattr(Config(), part)
    if isinstance(usual, Base):  # as many steps as are needed
        usual = replace(config, base=usual).settled().base
    return [f"--{part}-{n.replace('_', '-')}" for n in names if getattr(given, n) != getattr(usual, n)]
