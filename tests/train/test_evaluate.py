"""The command that tests a model, or whatever writes replies."""

import json
import re
import shutil
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgym
import policy
from train import evaluate, main, rollout
from train.report.record import read

README = (Path(__file__).parents[2] / "README.md").read_text()


def reply(board: str, answer: str) -> str:
    return jaxgym.write_reply(board, "so", answer)


@pytest.fixture
def player(monkeypatch):
    """A module `mine` with a player that reads every board off its picture, and counts what it is asked."""
    game = jaxgym.make("2048", picture=448, patch=28)
    atlas = np.asarray(jaxgym.render(game.sheet, jnp.arange(16, dtype=jnp.int32).reshape(4, 4)))
    side = atlas.shape[0] // 4
    tiles = {tile.tobytes(): name for tile, name in zip(cells(atlas, side), game.sheet.names, strict=False)}
    asked: list[int] = []

    def answer(pictures, prompts):
        asked.append(len(pictures))
        assert all(prompt.startswith(jaxgym.prompt(game)) and "2048" in prompt for prompt in prompts)
        words = [[tiles[tile.tobytes()] for tile in cells(picture, side)] for picture in pictures]
        rows = ["\n".join(" | ".join(board[i : i + 4]) for i in range(0, 16, 4)) for board in words]
        return [reply(text, ("up", "left", "down", "right")[hash(text) % 4]) for text in rows]

    module = type(json)("mine")
    module.answer, module.asked = answer, asked
    monkeypatch.setitem(__import__("sys").modules, "mine", module)
    return module


def cells(picture: np.ndarray, side: int) -> list[np.ndarray]:
    return [picture[r : r + side, c : c + side] for r in range(0, 4 * side, side) for c in range(0, 4 * side, side)]


def run(out: Path, *flags: str) -> int:
    return evaluate.main(["--out", str(out), "--games", "2048", "--boards", "3", *flags])


def results(out: Path) -> dict:
    return json.loads((out / "table.json").read_text())["games"]["2048"]


def test_what_a_player_is_shown_is_enough_to_read_every_board(player, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(out, "--player", "mine:answer") == 0
    found = results(out)
    assert set(found["columns"]) == {"random", "random_legal", "teacher", "player"}
    assert found["extra"]["player"]["cells"] == found["extra"]["player"]["board"] == 1.0
    assert found["columns"]["player"]["mean"] > 0 and found["columns"]["player"]["n"] == 3
    rows = [json.loads(line) for line in (out / evaluate.REPLIES).read_text().splitlines()]
    assert [(row["board"], row["step"]) for row in rows] == [(b, s) for s in range(12) for b in range(3)]
    scores = [sum(row["score"] for row in rows if row["board"] == board) for board in range(3)]
    np.testing.assert_allclose(np.mean(scores), found["columns"]["player"]["mean"], rtol=1e-6)
    assert "player" in capsys.readouterr().out and read(out).order[-1] == "player" and not read(out).notes
    page = (out / "report.html").read_text()
    assert ">evaluation<" in page and ">player<" in page and "yet" not in page


def test_an_evaluation_that_broke_off_goes_on_and_asks_nothing_twice(player, tmp_path, monkeypatch, capsys):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(whole, "--player", "mine:answer") == 0
    sound, calls = player.answer, iter(range(100))
    player.answer = lambda *given: sound(*given) if next(calls) < 5 else 1 / 0
    assert run(broken, "--player", "mine:answer") == 2
    assert "--player mine:answer failed: ZeroDivisionError: division by zero" in capsys.readouterr().err
    with (broken / evaluate.REPLIES).open("a") as out:
        out.write('{"game": "2048", "board": [1], "step": 0, "reply": "up"}\n')  # of no board
        out.write('{"game": "2048", "boa')  # a line that a crash cut short
    player.answer = sound
    player.asked.clear()
    assert run(broken, "--player", "mine:answer") == 0
    assert player.asked == [3] * 7 and "going on" in capsys.readouterr().out
    assert results(broken) == results(whole)
    player.asked.clear()
    assert run(broken, "--player", "mine:answer") == 0 and player.asked == []
    assert run(broken, "--player", "mine:answer", "--seed", "1") == 2
    assert "of something else" in capsys.readouterr().err


def test_what_was_said_is_kept_whatever_happens_then(player, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(evaluate.rewards, "read", interrupted)
        run(tmp_path / "out", "--player", "mine:answer")
        raise KeyboardInterrupt  # `run` has told of it
    player.asked.clear()
    assert run(tmp_path / "out", "--player", "mine:answer") == 0
    assert player.asked == [3] * 11
    rows = [json.loads(line) for line in (tmp_path / "out" / evaluate.REPLIES).read_text().splitlines()]
    assert ["legal" in row for row in rows] == [False] * 3 + [True] * 36  # told again, with its outcome


def test_a_players_reply_earns_what_its_board_earns(tmp_path):
    """In swap that hangs on the tiles which fall in."""
    game = jaxgym.make("swap", kinds=5, patch=28)
    boards = rollout.fresh(game, jax.random.key(0), 64)
    actions = np.asarray(rollout.permitted(game, boards.state)).argmax(1)
    said = [jaxgym.write_reply("", "", game.actions.format(action)) for action in actions.tolist()]
    writer = evaluate.PlayerWriter(game, lambda *_: said, "", tmp_path / "replies.jsonl")
    writer.begin()
    told = writer.answer(boards.state, np.ones(64, bool), jax.random.key(1), rollout.luck_of(jax.random.key(2)))
    played, otherwise = (
        rollout.advance(game, boards, told.reading.actions, jax.random.key(each), None)[1] for each in (2, 3)
    )
    np.testing.assert_array_equal(told.score, played.reward)
    assert (told.score != otherwise.reward).any() and told.legal.all()


def test_an_empty_folder_may_be_the_one_of_the_results(player, tmp_path):
    (tmp_path / "out").mkdir()
    assert run(tmp_path / "out", "--player", "mine:answer") == 0 and results(tmp_path / "out")


def test_a_model_that_was_replaced_does_not_go_on_with_the_evaluation_before(finished, tmp_path, capsys):
    """Its path is the same; the table would be of two models."""
    place, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(finished / "model", place)
    flags = "--model", str(place), "--reply", "4", "--boards", "2"
    assert run(out, *flags) == 0 and run(out, *flags) == 0
    vlm, before = policy.load(place), results(out)
    policy.save(replace(vlm, params=jax.tree.map(lambda leaf: leaf * 1.01, vlm.params)), place)
    capsys.readouterr()
    assert run(out, *flags) == 2
    assert f"{out} is of the model that {place} was before" in capsys.readouterr().err
    assert results(out) == before


def test_a_player_may_empty_the_lists_that_it_is_given(player, tmp_path):
    def one_by_one(pictures, prompts):
        said = []
        while pictures:
            said += player.answer([pictures.pop(0)], [prompts.pop(0)])
        return said

    player.one_by_one = one_by_one
    assert run(tmp_path / "out", "--player", "mine:one_by_one") == 0


def test_boards_that_are_over_are_not_asked_about(player, tmp_path):
    game = jaxgym.make("2048", picture=448, patch=28)
    writer = evaluate.PlayerWriter(game, player.answer, "mine:answer", tmp_path / "replies.jsonl")
    writer.begin()
    state = rollout.deal(game, jax.random.split(jax.random.key(0), 4))
    said = writer.answer(state, np.asarray([True, False, True, False]), jax.random.key(1), jax.random.key(2))
    assert player.asked == [2] and [text != "" for text in said.texts] == [True, False, True, False]
    assert said.reading.actions.tolist()[1::2] == [-1, -1] and not said.legal[1::2].any()


def test_a_model_scores_what_its_run_said(finished, tmp_path, capsys):
    """The same boards, the same replies, whatever games are tested before. It cannot be gone on with as a run."""
    table = json.loads((finished / "table.json").read_text())["games"]
    flags = ["--games", "shisen_sho,2048", "--boards", "4", "--out", str(tmp_path / "out")]
    assert evaluate.main(["--model", str(finished / "model"), *flags]) == 0
    for game, found in json.loads((tmp_path / "out" / "table.json").read_text())["games"].items():
        for column, wanted in (("model", "grpo"), ("teacher", "teacher")):
            assert found["columns"][column] == table[game]["columns"][wanted]
    before = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert main.main(["--resume", str(tmp_path / "out")]) == 2
    assert "is the folder of an evaluation" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--player", "mine:missing"], "--player='mine:missing' cannot be imported: AttributeError"),
        (["--player", "mine:asked"], "--player='mine:asked' is no function"),
        (["--player", "mine:few"], "--player mine:few gave 1 replies to 3 pictures"),
        (["--player", "mine:silent"], "--player mine:silent gave a NoneType as reply 1: give a str"),
        (["--player", "mine:text"], "--player mine:text gave a str: a list of str, one for each picture"),
        (["--player", "mine:leaves"], "--player mine:leaves failed: SystemExit: no key"),
        (["--player", "mine:answer", "--dtype", "bfloat16"], "--dtype is of a --model"),
        (["--player", "mine:answer", "--picture", "445"], "445"),
        (["--player", "mine:answer", "--boards", "1"], "boards=1"),
        (["--player", "mine:answer", "--games", "204"], "did you mean"),
        (["--model", "tiny"], "tiny is a preset"),
        (["--model", "nowhere"], "'nowhere' is neither a preset"),
    ],
)
def test_what_cannot_be_is_told_in_one_line_and_leaves_nothing(player, flags, message, tmp_path, capsys):
    player.few, player.text = (lambda pictures, prompts: ["x"]), (lambda pictures, prompts: "xyz")
    player.silent = lambda pictures, prompts: ["x", None, "x"]
    player.leaves = lambda pictures, prompts: sys.exit("no key")
    assert run(tmp_path / "out", *flags) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_the_readmes_player_asks_a_server(tmp_path):
    """As servers of models have it: a message of a picture and a text, one choice back."""
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            said = json.dumps({"choices": [{"message": {"content": f"reply {len(asked)}"}}]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_):
            pass

    (code,) = re.findall(r"```python\n(# mine.py.*?)```", README, re.DOTALL)
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        names: dict = {}
        exec(code.replace("localhost:8000", f"127.0.0.1:{server.server_port}"), names)
        said = names["answer"]([np.zeros((28, 28, 3), np.uint8)] * 2, ["what?", "what?"])
        server.shutdown()
    assert sorted(said) == ["reply 1", "reply 2"]
    picture, text = asked[0]["messages"][0]["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,") and text["text"] == "what?"
