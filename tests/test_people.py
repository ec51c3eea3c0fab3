"""What people use: images, films, a board in a terminal, a game by hand, the gallery, the command line."""

import os
import re
import shutil
import subprocess
import threading
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

import jaxgym
from jaxgym import __main__, actions, engine, gallery, show, terminal


@pytest.fixture(scope="module")
def small():
    return jaxgym.make("shisen_sho", size=4, kinds=2)


def test_an_image_is_the_picture(game):
    state = jax.jit(game.reset)(jax.random.key(0))
    shown = jaxgym.image(game, state)
    np.testing.assert_array_equal(np.asarray(shown), jaxgym.render(game.sheet, game.tiles(state)))
    with pytest.raises(ValueError, match="look=1: give a whole number from 0 to 0"):
        jaxgym.image(game, state, look=1)


@pytest.mark.parametrize("ending", [".gif", ".webp", ".png"])
def test_a_film_shows_the_episode(small, tmp_path, ending):
    """A frame for every board, the first and the last among them, and no longer than the game."""
    file = jaxgym.film(small, tmp_path / f"film{ending}", player=engine.teacher, seed=3, steps=50, seconds=0.1)
    boards = list(show.episode(small, engine.teacher, 3, 50))
    with Image.open(file) as film:
        assert film.n_frames == len(boards) <= 9
        film.seek(len(boards) - 1)
        last = np.asarray(film.convert("RGB"), np.int32)
    assert np.abs(last - np.asarray(jaxgym.image(small, boards[-1]), np.int32)).mean() < 4  # a GIF has 256 colours
    np.testing.assert_array_equal(np.asarray(boards[-1].board), np.zeros((4, 4)))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"file": "film.avi"}, "a film is a .gif"),
        ({"file": "none/film.gif"}, "there is no folder"),
        ({"file": "film.gif", "steps": -1}, "steps=-1"),
        ({"file": "film.gif", "seconds": 0}, "seconds=0"),
        ({"file": "film.gif", "seed": 1.5}, "seed=1.5"),
    ],
)
def test_what_cannot_be_filmed(small, given, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(told)):
        jaxgym.film(small, **given)
    assert not list(tmp_path.iterdir())


def test_films_need_ffmpeg_for_mp4(small, tmp_path, monkeypatch):
    monkeypatch.setattr(show.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"ffmpeg, which writes \.mp4, is not installed"):
        jaxgym.film(small, tmp_path / "film.mp4")


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")
@pytest.mark.parametrize(("seconds", "rate"), [(0.4, 25), (0.02, 50)])
def test_a_film_of_frames(small, tmp_path, monkeypatch, seconds, rate):
    """Every board is there, in its colours, for as long as it is to be; the last one three times as long."""
    monkeypatch.chdir(tmp_path)
    file = jaxgym.film(small, "-a:b.mp4", player=engine.teacher, seed=3, seconds=seconds)  # no option, no protocol
    read = ["ffmpeg", "-loglevel", "error", "-i", f"file:{file}", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    frames = np.frombuffer(subprocess.run(read, capture_output=True, check=True).stdout, np.uint8)
    boards = [jaxgym.image(small, state) for state in show.episode(small, engine.teacher, 3, 50)]
    each = round(seconds * rate)
    shown = frames.reshape(-1, each, 224, 224, 3)[:, each // 2].astype(np.int32)
    apart = np.abs(shown[:, None] - np.stack(boards).astype(np.int32)[None]).mean((2, 3, 4))  # colours are compressed
    assert apart.argmin(1).tolist() == [*range(len(boards)), len(boards) - 1, len(boards) - 1]
    assert apart.min(1).max() < 6
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(ValueError, match="ffmpeg says") as caught:
        jaxgym.film(small, tmp_path / "folder.mp4", steps=0)
    assert "\n" not in str(caught.value)


def test_a_terminal_shows_the_sprites(game):
    """Every pair of colours, read back, is two pixels of the shrunk sprites."""
    state = jax.jit(game.reset)(jax.random.key(0))
    tiles = np.asarray(game.tiles(state))
    lines = show.blocks(game, state, width=80).splitlines()[1:]
    pairs = [re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m", line) for line in lines]
    colours = np.asarray(pairs, np.int32).reshape(len(lines), -1, 2, 3).transpose(0, 2, 1, 3)
    board = colours.reshape(2 * len(lines), -1, 3)
    side = board.shape[0] // tiles.shape[0]
    assert board.shape[1] == side * tiles.shape[1] <= 76
    sprites = np.asarray(game.sheet.pixels)
    for r, c in np.ndindex(*tiles.shape):
        shrunk = np.asarray(Image.fromarray(sprites[tiles[r, c]]).resize((side, side), Image.Resampling.BOX))
        np.testing.assert_array_equal(board[r * side : (r + 1) * side, c * side : (c + 1) * side], shrunk)


def by_hand(game, *typed):
    said, lines = [], iter(typed)

    def ask(prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    return terminal.play(game, 0, ask, said.append), said


def test_a_game_by_hand(small):
    """Legal answers count, in either way of writing; others are told; undo takes back; a hint is legal."""
    state = small.reset(jax.random.fold_in(jax.random.key(0), 0))
    legal = np.flatnonzero(small.legal(state))
    answer = small.actions.format(int(legal[0]))
    numbers = " ".join(re.findall(r"\d", answer))
    score, said = by_hand(small, "nonsense", "(0, 0) (0, 0)", "h", "w", answer, "u", numbers)
    assert score == 1
    text = "\n".join(said)
    assert "'nonsense' is no answer" in text and "(0, 0) (0, 0) is not legal here" in text
    assert jaxgym.describe(small.sheet, small.tiles(state)) in said
    assert text.count("score 1, 1 moves") == 2 and text.count("score 0, 0 moves") == 2
    hints = [line for line in said if "joined with" in line]
    assert len(hints) == 1 and small.actions.parse(hints[0].split(":")[0]) in legal


def test_a_game_by_hand_to_its_end():
    game = jaxgym.make("shisen_sho", size=4, kinds=1)
    state = game.reset(jax.random.fold_in(jax.random.key(0), 0))
    step, teacher, answers = jax.jit(game.step), jax.jit(engine.teacher(game)), []
    while game.legal(state).any():
        action = teacher(state, jax.random.key(0))
        answers.append(game.actions.format(int(action)))
        state = step(state, action, jax.random.key(0)).state
    score, said = by_hand(game, *answers, "h", "n", "q")
    assert "The game is over" in "\n".join(said) and score == 0  # that of the new board
    assert len(answers) == 8


def test_a_game_by_hand_that_ends_while_moves_are_left(corridor):
    """Nothing counts after the end but to take it back."""
    score, said = by_hand(corridor, *["right"] * 4, "left", "h", "u", "left")
    text = "\n".join(said)
    assert text.count("The game is over") == 3 and "is not legal" not in text and "is no answer" not in text
    assert score == 3 and "score 4, 4 moves" in text


def test_a_games_own_moves_come_before_commands(corridor):
    """Where a move is called like a command, the move is made, and the command has a colon."""
    compass = replace(corridor, actions=actions.moves(("n", "u")))  # left and right
    score, said = by_hand(compass, "u", "u", "n", ":u", ":w", "w", ":n", ":q", "u")
    text = "\n".join(said)
    assert score == 0 and "score 2, 2 moves" in text and "score 2, 3 moves" in text
    assert ":u undo" in said[0] and ":n a new board" in said[0] and ", w the board" in said[0]
    assert text.count("floor | floor | walker") == 2


def test_a_cell_by_hand_may_be_two_numbers(corridor):
    cells = replace(corridor, actions=actions.cells(1, 2))  # (0, 0) to the left, (0, 1) to the right
    assert by_hand(cells, "0 1", "0, 1", "(0,1)", "1")[0] == 3


def test_keys_are_read_one_by_one(monkeypatch):
    """Also an escape alone, after which the next key counts, and arrows as either kind of terminal sends them."""
    pty = pytest.importorskip("pty")
    ours, its = pty.openpty()
    with open(its) as typed:  # noqa: PTH123  # it has a number, no path
        monkeypatch.setattr("sys.stdin", typed)
        ask = terminal.keyboard(jaxgym.make("2048"))
        for keys, read in (
            (b"\x1b", ["\x1b"]),
            (b"q", ["q"]),
            (b"\x1b[A\x1bOBx", ["up", "down", "x"]),
            (b"\xff", ["\ufffd"]),
        ):
            os.write(ours, keys)
            assert [ask("> ") for _ in read] == read
        threading.Timer(0.3, os.write, (ours, b"\x04")).start()  # else the terminal takes it for the end of a line
        with pytest.raises(EOFError):
            ask("> ")
    os.close(ours)


@pytest.mark.parametrize("closed", ["sys.stdin", "sys.stdout"])
def test_who_cannot_play_ends_the_game(monkeypatch, closed):
    monkeypatch.setattr(closed, None)
    assert __main__.main(["play", "swap"]) == 0


@pytest.mark.parametrize(("width", "side"), [(200, 16), (40, 8), (12, 2)])
def test_a_board_is_as_wide_as_its_terminal_allows(small, monkeypatch, width, side):
    monkeypatch.setenv("COLUMNS", str(width))
    said = []
    terminal.play(small, 0, lambda _: "q", said.append)
    lines = re.sub(r"\x1b\[[\d;]*m", "", said[1]).splitlines()[2:-1]
    assert {len(line) for line in lines} == {4 + 4 * side} and len(lines) == 4 * side // 2
    monkeypatch.setenv("COLUMNS", "11")  # too narrow to draw it
    terminal.play(small, 0, lambda _: "q", said.append)
    assert " | " in said[-1] and "\x1b" not in said[-1]


def test_a_board_of_unknown_sprites_is_drawn_as_pictures_are(small):
    """By the nearest there are, and said so."""
    odd = replace(small, tiles=lambda state: small.tiles(state).at[0].set(-3).at[1].set(99))
    state = small.reset(jax.random.key(0))
    near = replace(small, tiles=lambda state: small.tiles(state).at[0].set(0).at[1].set(len(small.sheet.names) - 1))
    assert show.blocks(odd, state) == show.blocks(near, state)
    seen = jaxgym.Env(odd, max_steps=3, observe="tiles").reset(jax.random.key(0))[0]
    assert seen.dtype == np.int32 and seen[0, 0] == 0 and seen[1, 0] == len(small.sheet.names) - 1


@pytest.mark.parametrize(
    ("explain", "told"),
    [(lambda state, action: 1 / 0, "explain fails: ZeroDivisionError"), (lambda state, action: 3, "give a text")],
)
def test_a_hint_that_fails_is_told_and_the_game_goes_on(corridor, explain, told):
    score, said = by_hand(replace(corridor, explain=explain), "h", "right")
    assert score == 1 and any(told in line for line in said)


def test_the_gallery_has_every_level_theme_and_look():
    page = gallery.page(["2048"])
    pictures = page.count("<img ")
    assert pictures == len(jaxgym.levels("2048")) + len(jaxgym.looks.THEMES) + 8
    for word in ("easy: size=5", "paper: as in the paper", "<figcaption>safe<", "Looks drawn at random"):
        assert word in page
    assert "<script" not in page and "http" not in page


def test_the_command_line(tmp_path, capsys, monkeypatch):
    assert __main__.main(["film", "2048", str(tmp_path / "a.gif"), "--steps", "2", "--level", "hard"]) == 0
    assert (tmp_path / "a.gif").exists() and "written to" in capsys.readouterr().out
    monkeypatch.setattr("builtins.input", lambda prompt: "q")
    assert __main__.main(["play", "2048"]) == 0
    said = capsys.readouterr().out
    assert said.endswith("score 0\n") and " | " in said and "\x1b" not in said  # no terminal: the board in words


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["play", "chess"], "no game is called 'chess'"),
        (["play", "swap", "--seed", "-1"], "seed=-1"),
        (["play", "swap", "--seed", "99999999999999999999"], "seed=99999999999999999999"),
        (["play", "swap", "--level", "mad"], "swap has no level 'mad'"),
        (["film", "swap", "a.gif", "--theme", "neon"], "theme 'neon' is not one of"),
        (["gallery", "--out", "no/such/folder.html"], "--out no/such/folder.html: give a file, in a folder that there"),
        (["gallery", "--out", "."], "--out .: give a file"),
        (["film", "swap", "a.txt"], "a film is a .gif"),
        (["gallery", "--games", "swap", "--out", "none/gallery.html"], "none/gallery.html"),
        (["gallery", "--games", "chess"], "no game is called 'chess'"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(arguments, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gallery, "_section", lambda name, seed: jaxgym.registry.find(name).make and "")
    assert __main__.main(arguments) == 2
    errors = capsys.readouterr().err
    assert told in errors and errors.count("\n") == 1
    assert not list(tmp_path.iterdir())
