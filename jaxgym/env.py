"""Env: one game as an environment of the gymnax-1.0 shape, `reset(key)` and `step(key, state, action)`.

Both are pure functions of one board: `vmap` them for a batch, `jit` and `scan` them for speed. The state holds no key
and no pixels, so it can be copied, stored and branched.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from jaxgym.carry import varied
from jaxgym.checks import check_key, whole, word
from jaxgym.contract import check, check_state
from jaxgym.engine import play, readable
from jaxgym.game import Game
from jaxgym.rare import rarely
from jaxgym.render import render, sprite_ids

AutoReset = Literal["same_step", "next_step"]
Observation = Literal["picture", "tiles"]
Info = dict[str, Any]


# What the keys of a deal and of a look are folded in with. The move has the key itself: to split it costs a third of a
# step of 2048, and no move draws so many numbers that it would meet these.
_DEAL, _LOOK = 0xDEA1, 0x100C
MOST_STEPS = 2**31 - 1  # what a limit may be: as good as none


class EnvState(NamedTuple):
    """One board under way."""

    board: Any  # the game's own state
    over: jax.Array  # bool []: the game has ended, won or stuck; never set by the time limit
    steps: jax.Array  # int32 []: answers given so far, lost ones included
    score: jax.Array  # float32 []: sum of the rewards so far
    mask: jax.Array  # bool [A]: the legal actions
    look: jax.Array  # int32 []: in which look of the game's sheet the board is seen, drawn anew with every deal


@dataclass(frozen=True, eq=False)  # hashable by identity: its methods may be jitted, it may be a static argument
class Env:
    """A game with a time limit, an observation and, if wanted, auto-reset.

    game: from `jaxgym.make`. max_steps: answers an episode may take. observe: "picture", uint8 [H, W, 3], or "tiles",
    the sprite ids, int32 [R, C]. autoreset says what becomes of an episode that has ended:

    - None: it is frozen. Every further step returns it unchanged with reward 0, still terminated or truncated.
    - "same_step": the ending step returns a fresh board; `info["final_state"]` keeps the one that ended.
    - "next_step": the ending step returns the board that ended; the step after it ignores its action and deals a
      fresh one, with reward 0.

    Raises ValueError for an argument that is none of these.
    """

    game: Game[Any]
    max_steps: int = 100
    autoreset: AutoReset | None = None
    observe: Observation = "picture"

    def __post_init__(self) -> None:
        if not isinstance(self.game, Game):
            raise ValueError(f"game={self.game!r}: give a Game, such as jaxgym.make(...) returns")
        check(self.game)
        object.__setattr__(self, "max_steps", whole("max_steps", self.max_steps, 1, MOST_STEPS))
        word("autoreset", self.autoreset, (None, *get_args(AutoReset)))
        word("observe", self.observe, get_args(Observation))

    def reset(self, key: jax.Array) -> tuple[jax.Array, EnvState]:
        """Deal a board: key [] -> observation and state."""
        check_key(key)
        state = self._deal(key)
        return self.observation(state), state

    def step(
        self, key: jax.Array, state: EnvState, action: jax.Array | int
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, jax.Array, Info]:
        """Give one answer: (observation, state, reward float32 [], terminated bool [], truncated bool [], info).

        An action, any integer [], that is illegal or unreadable (-1) changes nothing but costs a step. The time limit
        truncates and does not terminate: `truncated` says that the limit came while the game could have gone on, so
        its value may be bootstrapped; a game that ends on the very last step is terminated and not truncated.

        info has the same entries at every step: `legal` bool [], the action was a legal move of a board in play;
        `mask` bool [A], the legal actions of the returned state; `score` float32 [] and `steps` int32 [], those of
        the episode that this step belongs to, before any reset of the same step; with autoreset="same_step" also
        `final_state`, the EnvState before the reset (the returned one when nothing was reset).

        The luck of a move depends on the key alone: the same under every kind of auto-reset.
        """
        if not isinstance(state, EnvState):
            raise ValueError(
                "state: give the EnvState that reset or step returned; the order is step(key, state, action)"
            )
        check_key(key)
        if jnp.ndim(state.steps):
            raise ValueError(f"state: a batch of {len(state.steps)} takes a key and an action each: jax.vmap(env.step)")
        check_state(self.game, state.board)
        given = action if isinstance(action, jax.Array) else readable(action, self.game.actions.n)
        return self._program(key, state, given)

    @cached_property
    def _program(self) -> Callable[..., Any]:
        """A step as `jax.jit` makes it, so that one called by itself is compiled once."""
        return jax.jit(self._step, inline=True)

    def __getstate__(self) -> dict[str, Any]:
        """Without the program, which cannot be pickled."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _step(
        self, key: jax.Array, state: EnvState, action: jax.Array
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, jax.Array, Info]:
        deal_key, ended_before = jax.random.fold_in(key, _DEAL), self._ended(state)
        after, reward, legal = self._advance(key, state, ended_before, action)
        if self.autoreset == "next_step":
            after = self.deal_anew(ended_before, after, deal_key)
        returned = self.deal_anew(self._ended(after), after, deal_key) if self.autoreset == "same_step" else after
        info: Info = {
            "legal": legal,
            "mask": returned.mask,
            "score": after.score,
            "steps": after.steps,
        }
        if self.autoreset == "same_step":
            info["final_state"] = after
        truncated = self._ended(after) & ~after.over
        return self.observation(returned), returned, reward, after.over, truncated, info

    def observation(self, state: EnvState) -> jax.Array:
        """What the player sees of a state: uint8 [H, W, 3], or int32 [R, C] with observe="tiles"."""
        tiles = self.game.tiles(state.board)
        return (
            sprite_ids(self.game.sheet, tiles)
            if self.observe == "tiles"
            else render(self.game.sheet, tiles, state.look)
        )

    def bounds(self) -> tuple[jax.ShapeDtypeStruct, int]:
        """The shape and dtype of an observation, and the largest number there may be in it; the smallest is 0."""
        seen = jax.eval_shape(lambda key: self.reset(key)[0], jax.random.key(0))
        return seen, len(self.game.sheet.names) - 1 if self.observe == "tiles" else 255

    def _deal(self, key: jax.Array, before: Any = None) -> EnvState:
        renew, looks = self.game.renew, self.game.sheet.looks
        board = self.game.reset(key) if renew is None or before is None else renew(before, key)
        look = (
            jax.random.randint(jax.random.fold_in(key, _LOOK), (), 0, looks, jnp.int32) if looks > 1 else jnp.int32(0)
        )
        mask = self.game.legal(board)
        fresh = EnvState(board, ~mask.any(), jnp.int32(0), jnp.float32(0), mask, look)  # over where nothing can be done
        return varied(fresh, key)

    def deal_anew(self, condition: jax.Array, state: EnvState, key: jax.Array) -> EnvState:
        """A fresh board where the condition, bool [], holds, else the state. Deals only if it must, also in `vmap`."""
        before = () if self.game.renew is None else (state.board,)
        return rarely(condition, self._deal, state, key, *before)

    def _ended(self, state: EnvState) -> jax.Array:
        return state.over | (state.steps >= self.max_steps)

    def _advance(
        self, key: jax.Array, state: EnvState, ended: jax.Array, action: jax.Array | int
    ) -> tuple[EnvState, jax.Array, jax.Array]:
        """The state after one answer, its reward and whether it was legal; nothing moves once the episode has ended."""
        out = play(self.game, state.board, ended, action, key, state.mask)
        after = EnvState(
            board=out.state,
            over=jnp.where(ended, state.over, out.over),
            steps=state.steps + (~ended).astype(jnp.int32),
            score=state.score + out.reward,
            mask=out.mask,
            look=state.look,
        )
        return after, out.reward, out.legal
