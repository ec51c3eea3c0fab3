"""Runs side by side: every score beside the others', only the settings that differ, and curves of all in one chart."""

import io
import json

import pytest
from rich.console import Console

from tests.train.test_report import GAMES, Page, write_run
from train import compare
from train.report import charts, overlay, record


def change(file, edit):
    value = json.loads(file.read_text())
    edit(value)
    file.write_text(json.dumps(value))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs: the second had another rate, no cold start, and scored twice as much at the end."""
    base = tmp_path_factory.mktemp("compared")
    one, two = (write_run(base / name) for name in ("first", "second"))

    def better(table):
        for entry in table["games"].values():
            del entry["columns"]["coldstart"]
            entry["columns"]["grpo"] = {k: 2 * v for k, v in entry["columns"]["grpo"].items()}
            entry["extra"]["grpo"]["sight"] = 0.123

    change(two / "table.json", better)
    change(two / "config.json", lambda config: (config["base"].update(lr=1e-4), config.update(recipe="g0", run="x")))
    return one, two


def test_scores_stand_under_each_other_and_only_differing_settings_are_told(runs, capsys):
    assert compare.main([str(run) for run in runs]) == 0
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("\u2502")[1:-1]] for line in out.splitlines() if "\u2502" in line]
    start = next(i for i, row in enumerate(rows) if row[0].startswith("2048, score"))
    assert [row[:5] for row in rows[start + 1 : start + 6]] == [
        ["base model", "first", "655", "622 .. 688", "97.0 %"],
        ["", "second", "655", "622 .. 688", "97.0 %"],
        ["after cold start", "first", "861", "818 .. 904", "97.0 %"],
        ["after RL", "first", "978", "929 .. 1027", "97.0 %"],
        ["", "second", "\u2605 1956", "1858 .. 2054", "97.0 %"],
    ]
    assert rows[start + 5][5:] == ["90.0 %", "12.3 %", "100.0 %"]
    assert all(f"{game}, score over 100 steps" in out for game in GAMES)
    assert [row for row in rows if row[0].startswith("--")] == [
        ["--recipe", "g1", "g0"],
        ["--base-lr", "0.002", "0.0001"],
    ]


def test_every_stage_has_its_rows(tmp_path, capsys):
    """That of `sight` too, by which RL begins where nothing else comes before it."""
    run = write_run(tmp_path / "run")

    def all_stages(table):
        for entry in table["games"].values():
            entry["columns"].update(dict.fromkeys(record.PHASES, entry["columns"]["base"]))

    change(run / "table.json", all_stages)
    assert compare.main([str(run), "--html", str(tmp_path / "page.html")]) == 0
    out, page = capsys.readouterr().out, (tmp_path / "page.html").read_text()
    for stage in ("after sight", "base model", "after cold start", "after RL"):
        assert stage in out and stage in page


def test_an_output_that_knows_no_stars_has_the_table_all_the_same(runs, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr("sys.stdout", out)
    assert compare.main([str(run) for run in runs]) == 0
    out.flush()
    assert rb"\u2605 1956" in out.buffer.getvalue()


@pytest.mark.parametrize(("column", "told"), [("player", []), ("model", ["--evaluation-temperature"])])
def test_an_evaluation_differs_in_settings_of_an_evaluation_alone(runs, tmp_path, capsys, column, told):
    """It has learned nothing, so what a run learned by is none of its own."""
    tested = write_run(tmp_path / "tested")
    (tested / "metrics.jsonl").unlink()

    def test(config):
        config.update(model="mine:answer", recipe="g0", grpo={"updates": 0}, evaluation={"temperature": 0.1})

    change(tested / "config.json", test)

    def rename(table):
        for entry in table["games"].values():
            entry["columns"] = {column: entry["columns"]["base"]}
            entry["extra"] = {}
        table["order"] = [column]

    change(tested / "table.json", rename)
    assert compare.main([str(run) for run in (*runs, tested)]) == 0
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("\u2502")[1:-1]] for line in out.splitlines() if "\u2502" in line]
    found = {row[0]: row[1:] for row in rows if row[0].startswith("--")}
    assert found.keys() == {"--model", *told, "--recipe", "--base-lr"} and found["--model"][2] == "mine:answer"
    assert (found["--recipe"], found["--base-lr"]) == (["g1", "g0", "\u2013"], ["0.002", "0.0001", "\u2013"])


def test_runs_that_differ_in_their_seed_alone_are_pooled(runs, tmp_path, capsys):
    """Their mean, and the interval of twice as many boards; a run with another rate stays by itself."""
    other = write_run(tmp_path / "other")
    change(other / "config.json", lambda config: config.update(seed=config["seed"] + 1))
    change(other / "table.json", lambda t: t["games"]["2048"]["columns"]["grpo"].update(mean=1078, low=1009, high=1147))
    assert compare.main([str(each) for each in (*runs, other)]) == 0
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("\u2502")[1:-1]] for line in out.splitlines() if "\u2502" in line]
    start = next(i for i, row in enumerate(rows) if row[0] == "after RL")
    half = (49**2 + 69**2) ** 0.5 / 2
    assert [row[:4] for row in rows[start : start + 4]] == [
        ["after RL", "first", "978", "929 .. 1027"],
        ["", "second", "\u2605 1956", "1858 .. 2054"],
        ["", "other", "1078", "1009 .. 1147"],
        ["", "all 2 seeds", "1028", f"{1028 - half:.0f} .. {1028 + half:.0f}"],
    ]
    assert rows[start + 3][4] == "97.0 %"


def test_runs_alike_are_said_to_be(runs, tmp_path, capsys):
    again = write_run(tmp_path / "first")
    assert compare.main([str(runs[0]), str(again)]) == 0
    out = capsys.readouterr().out
    assert "the same settings" in out and "--" not in out
    assert overlay.names([record.read(runs[0]), record.read(again)]) == [str(runs[0]), str(again)]


def test_the_page_has_the_curves_of_all_runs_in_one_chart(runs, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert compare.main([*map(str, runs), "--html", str(page)]) == 0
    assert f"Page: {page}" in capsys.readouterr().out
    found = Page(page.read_text(encoding="utf-8"))
    assert found.open == [] and not {"script", "link", "img"} & {tag for tag, _ in found.tags}
    labels = [attrs["aria-label"] for tag, attrs in found.tags if tag == "svg"]
    drawn = [label for label in labels if label.startswith("Curves")]
    assert len(drawn) > 10 * len(GAMES) and set(drawn) == {"Curves: A first, B second"}
    for text in (
        "Entropy",
        "KL divergence",
        "Length of a reply",
        "Perception accuracy Pacc during RL",
        "1,956",
        "base-lr",
        "g0",
    ):
        assert text in found.text, text


def test_a_phase_is_as_long_as_its_longest(runs, tmp_path):
    short = tmp_path / "short"
    short.mkdir()
    line = {"phase": "grpo", "step": 100, "seconds": 9, "game": "2048", "kl": 0.5}
    (short / "metrics.jsonl").write_text(json.dumps(line))
    merged = overlay._phases([record.read(runs[0]), record.read(short)])
    assert [(phase.name, phase.first, phase.last) for phase in merged] == [
        ("base", 1, 120), ("coldstart", 1, 400), ("grpo", 1, 100),
    ]  # fmt: skip


def test_a_run_under_way_has_no_scores_yet(runs, tmp_path, capsys):
    young = write_run(tmp_path / "young")
    (young / "table.json").unlink()
    assert compare.main([str(young), "--html", str(tmp_path / "page.html")]) == 0
    out = capsys.readouterr().out
    assert "no scores yet" in out and "table.json is not there yet" in out


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        (lambda run: (run / "config.json").unlink(), "is not the folder of a run: it has no config.json"),
        (lambda run: (run / "config.json").write_text("{"), "config.json is damaged"),
        (lambda run: (run / "config.json").write_text("[]"), "config.json is damaged"),
        (lambda run: (run / "config.json").write_text('{"model_type": "qwen3_vl"}'), "is the folder of a model"),
        (lambda run: (run / "table.json").write_text('{"games": '), "table.json is damaged"),
        (lambda run: (run / "table.json").write_text('{"games": {"2048": 7}, "order": []}'), "table.json is damaged"),
    ],
)
def test_a_folder_that_is_damaged_or_none_is_told_in_one_line(runs, tmp_path, capsys, break_it, why):
    broken = write_run(tmp_path / "broken")
    break_it(broken)
    assert compare.main([str(runs[0]), str(broken), "--html", str(tmp_path / "page.html")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert why in line and str(broken) in line and not (tmp_path / "page.html").exists()


def test_a_page_that_cannot_be_written_and_no_run_at_all_are_told_in_one_line(runs, tmp_path, capsys):
    for page in (tmp_path / "nowhere" / "page.html", tmp_path):
        assert compare.main([str(runs[0]), "--html", str(page)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"--html {page}: give a file" in line
    with pytest.raises(SystemExit):
        compare.main([])


def test_nothing_is_cut_off_where_the_terminal_is_narrow(runs):
    console = Console(width=40, record=True)
    compare.compare(list(runs), None, console)
    assert "1858 .. 2054" in console.export_text()


def test_a_dot_has_its_own_colour_where_one_is_given() -> None:
    plain, own = (
        charts.dots([charts.Dot(label="a", kind="own", mean=1, low=0, high=2, colour=colour)], "pairs", "swap")
        for colour in (None, 3)
    )
    assert "var(--s3)" in own and "style" not in plain
