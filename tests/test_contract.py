"""What a game of one's own must be: each slip is told in one line, before anything is compiled."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgym
from jaxgym import Env, mix
from jaxgym.contract import check


def outcome(**parts):
    return lambda game: {"step": lambda s, a, k: game.step(s, a, k)._replace(**parts)}


SLIPS = {
    "actions is a list: give such as jaxgym.actions.moves(...)": lambda game: {"actions": ["left", "right"]},
    "sheet is a NoneType: give that of jaxgym.sprites.draw(...)": lambda game: {"sheet": None},
    "rules is a NoneType: give a text": lambda game: {"rules": None},
    "legal(state) is bool [1]: give bool [2]": lambda game: {"legal": lambda s: jnp.ones(1, bool)},
    "legal(state) is bool [3]: give bool [2]": lambda game: {"legal": lambda s: jnp.ones(3, bool)},
    "legal(state) is int32 [2]: give bool [2]": lambda game: {"legal": lambda s: jnp.ones(2, jnp.int32)},
    "values(state, key) is float32 [3]: give float32 [2]": lambda game: {"values": lambda s, k: jnp.ones(3)},
    "tiles(state) is int32 [5]: give int32 [R, C]": lambda game: {"tiles": lambda s: game.tiles(s)[0]},
    "the reward of step is float32 [1]: give float32 []": outcome(reward=jnp.ones(1)),
    "over, of step, is int32 []: give bool []": outcome(over=jnp.int32(0)),
    "the reward of step is complex64 []: give float32 []": outcome(reward=jnp.complex64(1)),
    "tiles(state) is int32 [0, 3]: give int32 [R, C]": lambda game: {"tiles": lambda s: jnp.zeros((0, 3), jnp.int32)},
    "tiles(state) is int32 [30, 9]: 30x9 cells of 28 pixels do not fit into a picture of 224": lambda game: {
        "tiles": lambda s: jnp.zeros((30, 9), jnp.int32)
    },
    "it has no action: give it one at least": lambda game: {"actions": jaxgym.actions.swaps(1, 1)},
    "step gives a tuple: give a jaxgym.Outcome": lambda game: {"step": lambda s, a, k: tuple(game.step(s, a, k))},
    "step gives a state of other parts than reset: one array, not .cell, .coin": outcome(state=jnp.int32(0)),
    "state.cell is int32 [] after reset and float32 [] after renew": lambda game: {
        "renew": lambda s, k: s._replace(cell=jnp.float32(0))
    },
    "state.cell is int32 [] after reset and int32 [1] after augment": lambda game: {
        "augment": lambda s, k: s._replace(cell=jnp.zeros(1, jnp.int32))
    },
    "state.coin is int32 [] after reset and bool [] after practice": lambda game: {
        "practice": lambda k: game.reset(k)._replace(coin=jnp.bool_(0))
    },
}


@pytest.mark.parametrize("told", SLIPS)
def test_a_slip_is_told_in_one_line(corridor, told):
    game = replace(corridor, **SLIPS[told](corridor))
    for use in (check, Env, lambda game: mix([game, game])):
        with pytest.raises(ValueError, match=r"^corridor: ") as caught:
            use(game)
        assert told in str(caught.value) and "\n" not in str(caught.value)


def test_games_that_are_right_pass(corridor, game):
    check(corridor)
    check(game)
    check(replace(corridor, **outcome(reward=jnp.bool_(1))(corridor)))  # any number counts, a bool too


def test_a_name_is_a_text(corridor):
    with pytest.raises(ValueError, match=r"^None: name is a NoneType: give a text$"):
        check(replace(corridor, name=None))


def test_lists_and_tuples_are_told_apart(corridor):
    wrong = replace(corridor, reset=lambda k: [jnp.int32(0)], **outcome(state=(jnp.int32(0),))(corridor))
    wrong = replace(wrong, step=lambda s, a, k: jaxgym.Outcome((s[0],), jnp.float32(0), jnp.bool_(0)),
                    legal=lambda s: jnp.ones(2, bool), values=lambda s, k: jnp.ones(2),
                    tiles=lambda s: jnp.zeros((1, 5), jnp.int32))  # fmt: skip
    with pytest.raises(ValueError, match=r"other parts than reset: PyTreeDef\(\(\*,\)\), not PyTreeDef\(\[\*\]\)"):
        check(wrong)


@pytest.mark.parametrize("kind", [jnp.uint8, pytest.param(jnp.int8, marks=pytest.mark.slow)])
def test_numbers_of_any_kind_are_those_that_are_promised(corridor, kind):
    """Alone and in a mixture, under auto-reset: rewards float32, sprites int32, whatever a game gives."""
    other = replace(
        corridor,
        step=lambda s, a, k: corridor.step(s, a, k)._replace(reward=jnp.bfloat16(2)),
        values=lambda s, k: corridor.values(s, k).astype(jnp.bfloat16),
        tiles=lambda s: corridor.tiles(s).astype(kind),
    )
    many = jaxgym.make("shisen_sho_photo", size=4, kinds=4, tile=corridor.sheet.tile)
    mixture = mix([many, other])
    board = mixture.deal(jax.random.key(0), 1)
    shown = jaxgym.describe(mixture.sheet, mixture.tiles(board)).split("\n")
    assert shown == ["walker | floor | floor | floor | floor"] and len(many.sheet.names) > 255
    np.testing.assert_array_equal(mixture.values(board, jax.random.key(0))[-1:], np.float32([1]))
    for game in (other, mixture):
        env = Env(game, autoreset="same_step", observe="tiles", max_steps=2)
        state = jax.jit(env.reset)(jax.random.key(0))[1]
        right = int(np.flatnonzero(state.mask)[-1])
        seen, state, reward, *_ = jax.jit(env.step)(jax.random.key(1), state, right)
        assert seen.dtype == jnp.int32 and reward.dtype == state.score.dtype == jnp.float32
    assert jaxgym.play(mixture, board, jnp.bool_(False), len(mixture.actions.names) - 1, jax.random.key(0)).reward == 2


def test_nothing_in_a_batch_or_in_a_state_is_no_error(corridor):
    empty = replace(
        corridor,
        reset=lambda k: (corridor.reset(k), jnp.zeros((0, 3))),
        step=lambda s, a, k: (lambda out: out._replace(state=(out.state, s[1])))(corridor.step(s[0], a, k)),
        **{name: lambda s, *k, name=name: getattr(corridor, name)(s[0], *k) for name in ("legal", "tiles", "values")},
    )
    for game in (empty, jaxgym.make("swap", size=4, kinds=4)):  # of which the second goes on by rows
        env = Env(game, autoreset="same_step", observe="tiles")
        keys = jax.random.split(jax.random.key(0), 2)
        _, states = jax.jit(jax.vmap(env.reset))(keys)
        for n in (2, 0):
            few = jax.tree.map(lambda leaf, n=n: leaf[:n], states)
            seen, *_ = jax.jit(jax.vmap(env.step))(keys[:n], few, jnp.ones(n, jnp.int32))
            assert len(seen) == n


def test_a_function_that_fails_is_named(corridor):
    def none(state, key):
        raise NotImplementedError

    for name, wrong in (("legal", lambda s: bool(s.cell > 0)), ("reset", lambda: None), ("values", none)):
        with pytest.raises(ValueError, match=f"^corridor: {name} fails: ") as caught:
            check(replace(corridor, **{name: wrong}))
        assert "\n" not in str(caught.value)


def test_what_is_made_by_its_path_is_checked(monkeypatch, tmp_path):
    (tmp_path / "slipped.py").write_text(
        "from dataclasses import replace\nimport jaxgym\n"
        "def make(*, look):\n"
        "    game = jaxgym.make('2048')\n"
        "    return replace(game, legal=lambda s: game.legal(s)[:3])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"slipped:make: legal\(state\) is bool \[3\]: give bool \[4\]"):
        jaxgym.make("slipped:make")


def test_a_board_on_which_nothing_is_legal_is_over_before_it_begins(corridor):
    """It ends at once instead of taking wrong answers until the limit, and auto-reset deals another."""
    stuck = replace(corridor, legal=lambda s: jnp.zeros(2, bool) & (s.cell > 0))
    env = Env(stuck)
    _, state = env.reset(jax.random.key(0))
    _, _, reward, terminated, truncated, _ = env.step(jax.random.key(1), state, 0)
    _, steps = jaxgym.rollout(stuck, lambda s, k: jnp.int32(0), state.board, jax.random.key(0), 3)
    assert steps.over.all() and not steps.legal.any()
    assert bool(state.over) and bool(terminated) and not bool(truncated) and reward == 0
    assert not bool(Env(corridor).reset(jax.random.key(0))[1].over)


def test_arguments_in_the_wrong_place_are_told(corridor):
    env, key = Env(corridor), jax.random.key(0)
    _, state = env.reset(key)
    for given in ((state, key, 1), (key, state.board, 1)):
        with pytest.raises(ValueError, match=r"give the EnvState .* step\(key, state, action\)"):
            env.step(*given)
    for wrong, named in ((0, "not int"), (jnp.int32(0), "not int32"), (state, "not EnvState")):
        for use in (env.reset, lambda given: env.step(given, state, 1)):
            with pytest.raises(ValueError, match=f"key: give a PRNG key, such as .*, {named}$"):
                use(wrong)
    for right in (jax.random.PRNGKey(0), np.asarray(jax.random.PRNGKey(0))):
        assert int(env.step(right, env.reset(right)[1], 1)[1].steps) == 1
    with pytest.raises(ValueError, match="steps=-1"):
        jaxgym.rollout(corridor, lambda s, k: jnp.int32(0), state.board, key, -1)
    with pytest.raises(ValueError, match=r"look=0\.5: give an integer"):
        jaxgym.render(corridor.sheet, corridor.tiles(state.board), 0.5)
