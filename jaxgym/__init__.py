"""jaxgym: visual puzzle games that live on the accelerator, rules and pictures as pure JAX functions."""

from jaxgym.actions import INVALID, Actions
from jaxgym.dialogue import Reply, prompt, read_reply, read_words, write_reply
from jaxgym.engine import Played, branch, play, rollout
from jaxgym.env import Env
from jaxgym.game import Game, Outcome
from jaxgym.looks import Look, random_looks
from jaxgym.mixture import Mixed, Mixture, mix
from jaxgym.registry import levels, make, names
from jaxgym.render import describe, render
from jaxgym.show import film, image
from jaxgym.sprites import Sheet

__all__ = [
    "INVALID",
    "Actions",
    "Env",
    "Game",
    "Look",
    "Mixed",
    "Mixture",
    "Outcome",
    "Played",
    "Reply",
    "Sheet",
    "branch",
    "describe",
    "film",
    "image",
    "levels",
    "make",
    "mix",
    "names",
    "play",
    "prompt",
    "random_looks",
    "read_reply",
    "read_words",
    "render",
    "rollout",
    "write_reply",
]
