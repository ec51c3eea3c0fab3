"""The page of a run: complete, self-contained, and not to be fooled by what a model said or a crash left behind."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train import report
from train.report import charts, record, replies

GAMES = ("2048", "shisen_sho", "shisen_sho_photo", "swap")
COLUMNS = ("random", "random_legal", "teacher", "base", "coldstart", "grpo")
TITLES = ("uniform random", "random legal", "teacher", "base model", "after cold start", "after RL")
PUBLISHED = {"2048": (1070, 759, 892, 701), "shisen_sho": (17.5, 12.8, 15.3, 0.4)}
PUBLISHED |= {"shisen_sho_photo": (14.1, 8.0, 8.7, 0.4), "swap": (78, 5, 43, 1)}
SCORES = {"2048": (702, 812, 1083, 655, 861, 978), "shisen_sho": (0.4, 17.6, 17.9, 0.9, 9.4, 13.8)}
SCORES |= {"shisen_sho_photo": (0.4, 17.6, 17.9, 0.7, 5.1, 5.9), "swap": (0.2, 100, 100, 0.6, 31, 47)}
HOSTILE = (
    "<perception>red <script>alert(1)</script> | <img src=http://evil.example/x onerror=alert(2)>\n\u202eempty\x00"
    "</perception><think></pre></details><style>*{display:none}</style>\ud800 \U0001f469\u200d\U0001f469</think>"
    "<answer>" + "9" * 100_000 + "</answer>" + "<answer>" * 50_000
)
VOID = {"meta", "img", "br", "path", "rect", "circle"}


class Page(HTMLParser):
    """Every tag with its attributes, all text, and whether the tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def board(game: str, rng: np.random.Generator) -> list[list[str]]:
    """Words of a board: sizes and names as the games have them."""
    if game == "2048":
        return rng.choice(["empty", "2", "4", "8", "16", "512"], (4, 4)).tolist()
    if game == "shisen_sho_photo":
        return rng.choice(["empty", "three", "seven", "eight"], (6, 6)).tolist()
    names = [f"{c} {s}" for c in ("red", "blue", "yellow") for s in ("circle", "triangle", "square")]
    return rng.choice(
        ["empty", *names] if game == "shisen_sho" else names, (6, 6) if game != "swap" else (8, 8)
    ).tolist()


def write_metrics(run: Path, rng: np.random.Generator) -> None:
    clock, rows = 0.0, []
    for phase, steps, pace in (("base", 120, 0.4), ("coldstart", 400, 0.8), ("grpo", 60, 5.0)):
        for step in range(1, steps + 1):
            clock += pace
            t = step / steps
            skill = {"base": 0.1 * t, "coldstart": 0.1 + 0.8 * t, "grpo": 0.9 + 0.05 * t}[phase]
            loss = 0.05 + 3 * np.exp(-5 * t) if phase != "grpo" else 0.01
            row = {"phase": phase, "step": step, "seconds": round(clock, 2), "game": None}
            whole = {"loss": loss * rng.uniform(0.8, 1.2), "grad_norm": rng.lognormal(0, 0.5), "lr": 2e-3 * (1 - t)}
            rows.append(row | whole | ({"replies_per_second": rng.normal(90, 5)} if phase == "grpo" else {}))
            for i, game in enumerate(GAMES):
                cells = float(np.clip(skill * (1 - 0.08 * i) + rng.normal(0, 0.03), 0, 1))
                own = {"cells": cells, "board": cells**6, "legal": cells * rng.uniform(0.6, 0.9)}
                if phase == "grpo":
                    own |= {"reward": 1 + cells + t + rng.normal(0, 0.2), "game_reward": t - 0.4 + rng.normal(0, 0.2)}
                    own |= {"format": min(1.0, 0.98 + t), "reason": 0.4 + 0.3 * t + rng.normal(0, 0.08)}
                    own |= {"entropy": 1.2 - 0.7 * t, "kl": 0.02 * t * rng.uniform(0.5, 1.5), "clipped": 0.02 * t}
                    own |= {"length": 38 + 4 * t + rng.normal(), "truncated": 0.02 * (1 - t)}
                else:
                    own |= {"loss": loss * rng.uniform(0.7, 1.3), "dense_legal": 0.75 * t}
                rows.append(row | {"game": game} | own)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_samples(run: Path, rng: np.random.Generator) -> None:
    (run / "samples").mkdir()
    rows = []
    for game in GAMES:
        for i, phase in enumerate(("base", "base", "base", "coldstart", "grpo")):
            truth = board(game, rng)
            said = [[w if rng.random() < (0.3, 0.3, 0.3, 0.8, 0.97)[i] else "red square" for w in row] for row in truth]
            size = 224 // len(truth)
            pixels = rng.integers(60, 255, (len(truth), len(truth), 3), dtype=np.uint8).repeat(size, 0).repeat(size, 1)
            name = f"samples/{game}-{i}.png"
            Image.fromarray(pixels).save(run / name)
            read, exact = ("\n".join(" | ".join(row) for row in rows) for rows in (said, truth))
            why = "left: merges the two 4s by the wall and keeps the largest tile in its corner."
            reply = f"<perception>{read}</perception><think>{why}</think><answer>left</answer>"
            row = {"game": game, "phase": phase, "step": 60, "picture": name, "reply": reply, "truth": exact}
            rows.append(row | {"action": "left" if i else None, "legal": i > 2, "reward": 2.9, "cells": 0.97})
    last = {
        "phase": "grpo",
        "step": 60,
        "picture": "../secret.png",
        "truth": "red | empty\nempty | red",
        "game": "swap",
    }
    rows.append(last | {"reply": HOSTILE, "action": None, "legal": False, "reward": -1.0, "cells": 0.0})
    (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_run(run: Path) -> Path:
    """A run folder with everything in it."""
    rng = np.random.default_rng(0)
    run.mkdir()
    sections = {"base": {"steps": 120, "lr": 2e-3}, "grpo": {"updates": 60, "group": 8, "exact": False}}
    plain = {"games": list(GAMES), "model": "small", "recipe": "g1", "seed": 0}
    (run / "config.json").write_text(json.dumps(plain | sections))
    games = {}
    for game in GAMES:
        columns = {
            name: {"mean": mean, "low": mean * 0.95, "high": mean * 1.05, "n": 256}
            for name, mean in zip(COLUMNS, SCORES[game], strict=True)
        }
        published = dict(zip(("G1", "G0", "Claude-3.7-Thinking", "Random"), PUBLISHED[game], strict=True))
        own = {"cells": 0.97, "board": 0.63, "legal": 0.9, "reason": 0.814, "formatted": 1.0}
        extra = {"base": own, "coldstart": own, "grpo": own | ({"cleared": 29.5} if game == "shisen_sho" else {})}
        unit = "score over 100 steps"
        games[game] = {"columns": columns, "published": published, "unit": unit, "extra": extra}
    (run / "table.json").write_text(json.dumps({"games": games, "order": COLUMNS}))
    write_metrics(run, rng)
    write_samples(run, rng)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "four-games")


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page(report.write(run).read_text(encoding="utf-8"))


def test_the_page_is_where_it_was_asked_for_and_nothing_else_is_left(run: Path) -> None:
    assert report.write(run) == run / "report.html"
    assert {path.name for path in run.iterdir()} == {
        "report.html", "config.json", "metrics.jsonl", "table.json", "samples.jsonl", "samples",
    }  # fmt: skip


def test_every_tag_is_closed_in_order(page: Page) -> None:
    assert page.open == []


def test_the_table_has_every_game_and_column(page: Page) -> None:
    labels = [attrs["data-label"] for tag, attrs in page.tags if tag == "td" and "data-label" in attrs]
    for title in (*TITLES, *(f"{name}, published" for name in ("G1", "G0", "Claude-3.7-Thinking", "Random"))):
        assert labels.count(title) == len(GAMES), title
    headings = {attrs.get("aria-label", "").partition(":")[0] for tag, attrs in page.tags if tag == "svg"}
    assert headings >= set(GAMES)
    for text in (
        "1,070",
        "978",
        "929 \u2013 1,027",
        "13.8",
        "Racc of moves81.4\u202f%",
        "steps to clear\u2013\u201329.5",
    ):
        assert text in page.text, text


def test_exactly_the_best_own_column_of_a_game_is_marked(page: Page) -> None:
    best = [attrs["data-label"] for tag, attrs in page.tags if tag == "td" and attrs.get("class") == "best"]
    assert best == ["after RL"] * len(GAMES)  # never the teacher, though it scores more


def test_every_metric_is_charted_also_an_unknown_one(page: Page) -> None:
    for title in ("Reward", "Entropy", "KL divergence", "Clipped", "Length", "Cut off", "Loss, supervised", "Speed"):
        assert title in page.text, title
    assert page.text.count("dense legal") >= len(GAMES)
    assert page.text.count("perception accuracy Pacc") == len(GAMES)
    assert page.text.count("reasoning accuracy Racc") == len(GAMES)


def test_nothing_is_fetched_and_nothing_runs(page: Page) -> None:
    for tag, attrs in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        assert not any(name.startswith("on") for name in attrs)
        assert (attrs.get("src") or "data:").startswith("data:")
        assert (attrs.get("href") or "#").startswith("#")
        assert "url(" not in (attrs.get("style") or "")
    style = page.words[[w.startswith(":root") for w in page.words].index(True)]
    assert "url(" not in style
    assert "@import" not in style


def test_a_hostile_reply_is_shown_as_text(run: Path, page: Page) -> None:
    assert "<script>alert(1)</script>" in page.text  # as words to read
    raw = (run / "report.html").read_text(encoding="utf-8")
    assert "<script" not in raw
    assert "<img src=http" not in raw
    assert "\u202e" not in raw
    assert "\x00" not in raw
    assert "\u27e8U+202E\u27e9" in raw
    assert "\u27e8U+D800\u27e9" in raw
    assert f"{len(HOSTILE):,} characters" in page.text
    assert "9" * 5000 not in raw


def test_pictures_are_in_the_page_and_only_those_of_the_run(run: Path, page: Page) -> None:
    Image.new("RGB", (8, 8)).save(run.parent / "secret.png")
    again = Page(report.write(run).read_text(encoding="utf-8"))
    pictures = [attrs for tag, attrs in again.tags if tag == "img"]
    assert len(pictures) == 4 * 4  # two of three from base, one cold, one RL; the hostile one has none
    assert "The picture is not there." in again.text


@pytest.mark.parametrize("name", [None, 3, "", "/etc/passwd", "a\0b", "x" * 5000, "samples", "cut.png", "text.png"])
def test_a_picture_that_is_none_leaves_a_note(tmp_path: Path, name: object) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "samples.jsonl").write_text(json.dumps({"game": "swap", "phase": "base", "picture": name}))
    page = Page(report.write(tmp_path).read_text())
    assert "The picture is not there." in page.text
    assert not [tag for tag, _ in page.tags if tag == "img"]


def test_wrong_cells_are_marked_by_a_sign_and_only_those(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text(
        json.dumps(
            {"game": "swap", "phase": "base", "truth": "a | b\nc | d", "reply": "<perception>a | x\nc</perception>"}
        )
    )
    page = Page(report.write(tmp_path).read_text())
    cells = [attrs for tag, attrs in page.tags if tag == "td"]
    assert [attrs.get("class") for attrs in cells] == [None, "wrong", None, "wrong"]
    assert page.text.count("\u2717") == 3 + 1  # two cells, not legal; and the legend


def test_replies_to_one_board_stand_side_by_side_beside_one_picture(tmp_path: Path) -> None:
    """Before and after RL, in this order whatever the order in the file; what was said again counts as said last."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    said = [
        ("grpo", "a", "after"),
        ("coldstart", "a", "old"),
        ("coldstart", "a", "before"),
        ("coldstart", "b", "alone"),
    ]
    rows = [
        {"game": "swap", "phase": phase, "truth": truth, "reply": f"<think>{reply}</think>", "picture": "a.png"}
        for phase, truth, reply in said
    ]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (one, two) = replies.chosen(record.read(tmp_path))
    assert [row["reply"][7:-8] for row in one] == ["before", "after"] and two[0]["reply"][7:-8] == "alone"
    page = Page(report.write(tmp_path).read_text())
    assert [tag for tag, _ in page.tags if tag in ("article", "img")] == ["article", "img"] * 2
    assert [attrs["class"] for tag, attrs in page.tags if attrs.get("class") in ("replies", "said")] == [
        "replies", "said", "said", "replies", "said",
    ]  # fmt: skip
    assert "after cold start" in page.text and "1 more in samples.jsonl" in page.text


def test_what_the_paper_plots_has_a_chart_of_its_own(page: Page) -> None:
    """Exact perception and reasoning over the updates of RL, and nothing of the phases before."""
    svg = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    assert svg.count("Curves: boards, good moves") == len(GAMES) == page.text.count("Pacc and Racc during RL")


def test_a_single_measurement_is_a_dot_and_a_title_stays_above_its_phase() -> None:
    phases = [charts.Phase(name=n, title="a long title", first=1, last=2, seconds=s) for n, s in (("a", 1), ("b", 99))]
    for count in (1, 2):
        points = (np.arange(1.0, count + 1), np.ones(count))
        drawn = charts.curves([charts.Line(label="x", colour=0, points={"a": points, "b": points})], phases)
        assert drawn.count("<circle") == (2 if count == 1 else 0)
        assert drawn.count(">a long title<") == 1 and drawn.count(">a long \u2026<") == 1


def test_the_same_folder_gives_the_same_bytes(run: Path) -> None:
    first = report.write(run).read_bytes()
    assert report.write(run).read_bytes() == first


@pytest.mark.parametrize("missing", ["config.json", "metrics.jsonl", "table.json", "samples.jsonl", "samples"])
def test_what_is_missing_is_said(tmp_path: Path, missing: str) -> None:
    run = write_run(tmp_path / "run")
    (run / missing).rename(tmp_path / "elsewhere")
    page = Page(report.write(run).read_text())
    assert page.open == []
    said = "The picture is not there." if missing == "samples" else f"{missing} is not there yet"
    assert said in page.text
    assert all(game in page.text for game in GAMES)


def test_an_empty_folder_has_a_page(tmp_path: Path) -> None:
    page = Page(report.write(tmp_path).read_text())
    assert page.open == []
    assert page.text.count("is not there yet") == 4


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "table.json", "samples.jsonl"])
@pytest.mark.parametrize("share", [0.3, 0.999])
def test_a_half_written_file_is_read_as_far_as_it_goes(tmp_path: Path, name: str, share: float) -> None:
    run = write_run(tmp_path / "run")
    whole = (run / name).read_bytes()
    (run / name).write_bytes(whole[: int(len(whole) * share)])
    page = Page(report.write(run).read_text())
    assert page.open == []
    assert (f"{name}: 1 broken or half-written line" if name.endswith("l") else f"{name} cannot be read") in page.text
    assert ("Entropy" in page.text) == (name != "metrics.jsonl" or share > 0.9)


@pytest.mark.parametrize(
    "line",
    ["null", "[1]", "{}", '{"phase": 3, "step": 1}', '{"phase": "grpo", "step": null, "kl": 1}', "[" * 100_000,
     '{"phase": "grpo", "step": 1e999, "kl": 1}', '{"phase": "grpo", "step": 1, "seconds": "x", "game": [], "kl": 1}',
     '{"phase": "grpo", "step": 1, "game": "2048", "kl": NaN}', '{"phase": "grpo", "step": ' + "9" * 5000 + "}",
     '{"phase": "<b>", "step": 1, "game": "<script>", "<i>": 1.0}', '{"phase": "grpo", "step": 2, "kl": -1e308}',
     '{"phase": "grpo", "step": 4, "game": "2048", "entropy": 1e-320, "length": -1e29}'],
)  # fmt: skip
def test_lines_that_make_no_sense_do_no_harm(tmp_path: Path, line: str) -> None:
    for name in ("metrics.jsonl", "samples.jsonl"):
        (tmp_path / name).write_text(line + '\n{"phase": "grpo", "step": 3, "seconds": 1, "game": "2048", "kl": 0.5}\n')
    for name in ("config.json", "table.json"):
        (tmp_path / name).write_text(line)
    raw = report.write(tmp_path).read_text()
    assert Page(raw).open == []
    assert "KL divergence" in raw
    assert not {"<script", "<i>=", "nan"} & set(raw.split())


def test_a_step_measured_again_counts_as_it_was_measured_last(tmp_path: Path) -> None:
    rows = [(1, 10.0, 5.0), (2, 20.0, 5.0), (2, 1.0, 7.0), (3, 2.0, 7.0)]  # resumed after step 1, its clock anew
    text = "".join(
        json.dumps({"phase": "grpo", "step": s, "seconds": t, "game": "swap", "kl": v}) + "\n" for s, t, v in rows
    )
    (tmp_path / "metrics.jsonl").write_text(text)
    found = record.read(tmp_path)
    steps, values = found.series["swap"]["kl"]["grpo"]
    assert steps.tolist() == [1, 2, 3]
    assert values.tolist() == [5, 7, 7]
    assert found.seconds == 21.0


@pytest.mark.parametrize(
    ("games", "found"),
    [
        (["all"], ["2048", "swap", "mine:walk"]),
        (["all", "mine:walk"], ["2048", "swap", "mine:walk"]),
        (["mine:walk", "swap"], ["mine:walk", "swap", "2048"]),
    ],
)
def test_games_are_in_the_order_they_were_asked_for(tmp_path: Path, games: list[str], found: list[str]) -> None:
    """What `all` stands for is known by what was measured."""
    (tmp_path / "config.json").write_text(json.dumps({"games": games}))
    rows = [{"phase": "grpo", "step": 1, "seconds": 1.0, "game": g, "kl": 0.0} for g in ("2048", "swap", "mine:walk")]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert record.read(tmp_path).games == found


@pytest.mark.parametrize(
    ("value", "percent", "text"),
    [(0.973, True, "97.3\u202f%"), (1.0, True, "100\u202f%"), (1070, False, "1,070"), (0.4, False, "0.400"),
     (0.65, True, "65.0\u202f%"), (0.00312, True, "0.31\u202f%"), (99.99, False, "100"), (100, False, "100"),
     (15, False, "15.0"), (0, False, "0"), (0, True, "0\u202f%"), (3e-9, True, "\u22480\u202f%"),
     (1e-6, False, "1e\u22126"), (-0.25, False, "\u22120.250"), (17.6, False, "17.6"), (2.5e7, False, "2.5e7")],
)  # fmt: skip
def test_numbers_have_three_digits(value: float, percent: bool, text: str) -> None:
    assert charts.number(value, percent) == text


@pytest.mark.parametrize(
    ("value", "percent", "text"),
    [(0.65, True, "65\u202f%"), (0.4, False, "0.4"), (43, False, "43"), (17.5, False, "17.5"), (100, False, "100"),
     (1070, False, "1,070"), (0, False, "0"), (1e-6, False, "1e\u22126"), (2e10, False, "2e10")],
)  # fmt: skip
def test_ticks_and_published_numbers_end_in_no_zeros(value: float, percent: bool, text: str) -> None:
    assert charts.brief(value, percent) == text


def test_ticks_are_round_and_inside() -> None:
    rng = np.random.default_rng(1)
    for low, span in zip(rng.normal(0, 100, 500), rng.lognormal(0, 4, 500), strict=True):
        found = charts.ticks(low, low + span, 4)
        assert 1 <= len(found) <= 5
        assert all(low - 1e-6 * span <= t <= low + span * (1 + 1e-6) for t in found)
        steps = np.diff(found)
        assert np.allclose(steps, steps[:1], rtol=1e-3)


def test_the_smoothed_line_keeps_a_constant_and_calms_noise() -> None:
    assert np.allclose(charts.smooth(np.full(100, 3.0)), 3.0)
    noise = np.random.default_rng(2).normal(size=1000)
    assert charts.smooth(noise).std() < 0.3 * noise.std()
    assert charts.smooth(np.ones(1)).tolist() == [1.0]
