"""Several runs on one page: their scores and measures side by side, and the curves of all in the same charts."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.report.charts import COLOURS, Dot, Line, Phase, curves, dots, number
from train.report.page import (
    MEASURED,
    OF_A_GAME,
    OF_THE_RUN,
    OWN,
    TILES,
    Chart,
    Mark,
    document,
    duration,
    find_mark,
    put,
    section,
)
from train.report.record import COLUMNS, PHASES, Run, as_dict, finite
from train.report.replies import show

SHOWN = ("cells", "board", "reason", "legal", "sight", "formatted")  # beside the score
_SHORT = 9  # letters of a run's name beside its curve
_NONE = "\u2013"  # what a run has of a setting that it does not have
_OF_PLAYERS = {"games", "model", "picture", "photos", "seed", "evaluation-boards"}  # settings of an evaluation
_OF_MODELS = _OF_PLAYERS | {"evaluation-temperature", "reply", "dtype", "episodes-history", "episodes-pictures"}
# What a metric is called, and what it counts, that shares its chart with others on the page of one run.
_ALONE = {metric: (title[0].upper() + title[1:], meaning) for metric, title, meaning in TILES}
_ALONE |= {"tokens": ("Perception, by token", "of what is written, those it would have written too")}
_ALONE |= {"format": ("In the format", "of all replies")}
_ALONE |= {"reward": ("Reward", "of a reply"), "game_reward": ("Reward of the game", "of a reply")}


def write(runs: Sequence[Run], file: Path) -> Path:
    """Write one page about several runs. Raises OSError when that cannot be done."""
    games = games_of(runs)
    parts = [_head(runs, games), _settings(runs), _results(runs, games)]
    parts += [_curves(runs, game, OF_A_GAME, f"game-{i}") for i, game in enumerate(games)]
    parts.append(_curves(runs, None, OF_THE_RUN, "run"))
    return put(file, document(" and ".join(names(runs)), "".join(parts)))


def names(runs: Sequence[Run]) -> list[str]:
    """What to call each run: its folder's name, or its path where another's is called the same."""
    short = [run.folder.resolve().name for run in runs]
    return [name if short.count(name) == 1 else str(run.folder) for name, run in zip(short, runs, strict=True)]


def games_of(runs: Sequence[Run]) -> list[str]:
    """The games of all runs, each once."""
    return list(dict.fromkeys(game for run in runs for game in run.games))


def results(runs: Sequence[Run], game: str) -> list[tuple[str, int, Mark, dict[str, Any]]]:
    """Scores on a game with what else was measured: (column, run, score, measures), column by column."""
    found = []
    for column in OWN:
        for i, run in enumerate(runs):
            entry = run.table.get(game, {})
            if mark := find_mark(entry, column):
                found.append((column, i, mark, as_dict(as_dict(entry.get("extra")).get(column))))
    return found


def seeds(runs: Sequence[Run]) -> list[list[int]]:
    """The runs that differ in nothing but their seed: the indices of each such set of two runs or more."""
    found: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for i, run in enumerate(runs):
        settings = _flatten(run.config)
        found.setdefault(tuple(sorted((k, v) for k, v in settings.items() if k not in ("run", "seed"))), []).append(i)
    return [each for each in found.values() if len({str(runs[i].config.get("seed")) for i in each}) == len(each) > 1]


def pooled(marks: Sequence[Mark]) -> Mark:
    """The mean of several runs' scores, each on boards of its own: its interval is that of all these boards.

    It says how well these models play. How far apart models of other seeds would lie is to be seen in their own rows.
    """
    count = len(marks)
    mean = sum(mark.mean for mark in marks) / count
    half = math.sqrt(sum(((mark.high - mark.low) / 2) ** 2 for mark in marks)) / count
    return marks[0]._replace(mean=mean, low=mean - half, high=mean + half, n=sum(mark.n for mark in marks))


def unit(runs: Sequence[Run], game: str) -> str:
    """What a game's score counts."""
    return next((str(run.table[game]["unit"]) for run in runs if "unit" in run.table.get(game, {})), "score")


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings in which runs differ, and what each has; the name of its folder is none. An evaluation has but few,
    and differs in no other.
    """
    flat = [_flatten(run.config) for run in runs]
    found = {}
    for key in dict.fromkeys(key for settings in flat for key in settings if key != "run"):
        has = [not run.tested or key in (_OF_PLAYERS if "player" in run.order else _OF_MODELS) for run in runs]
        values = [settings.get(key, _NONE) if its else _NONE for settings, its in zip(flat, has, strict=True)]
        if len({value for value, its in zip(values, has, strict=True) if its}) > 1:
            found[key] = values
    return found


def _flatten(config: dict[str, Any], before: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{before}{key}-")
        else:
            flat[before + key.replace("_", "-")] = (
                ",".join(map(_plain, value)) if isinstance(value, list) else _plain(value)
            )
    return flat


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _letter(i: int) -> str:
    return f"{chr(ord('A') + i % 26)}{i // 26 or ''}"


def _head(runs: Sequence[Run], games: Sequence[str]) -> str:
    legend = ""
    for i, (run, name) in enumerate(zip(runs, names(runs), strict=True)):
        spent = f" <span>{duration(run.seconds)}</span>" if run.seconds else ""
        legend += f'<li style="color:var(--s{i % COLOURS})"><b>{_letter(i)}</b> {show(name, 120)}{spent}</li>'
    links = [("settings", "Settings"), ("results", "Results")]
    links += [*((f"game-{i}", game) for i, game in enumerate(games)), ("run", "Whole run")]
    nav = "".join(f'<a href="#{anchor}">{show(title, 40)}</a>' for anchor, title in links)
    return (
        f'<header><p class="kicker">training runs compared</p><h1>{len(runs)} runs</h1>'
        f'<ul class="facts">{legend}</ul><nav>{nav}</nav></header>\n'
    )


def _settings(runs: Sequence[Run]) -> str:
    found = differences(runs)
    if not found:
        return section("settings", "Settings", "All runs have the same settings.", "")
    head = "".join(f'<th scope="col">{_name(i)}</th>' for i in range(len(runs)))
    body = ""
    for key, values in found.items():
        cells = "".join(f"<td>{show(value, 200)}</td>" for value in values)
        body += f'<tr><th scope="row">{show(key, 60)}</th>{cells}</tr>'
    table = f'<table class="compared"><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>'
    return section("settings", "Settings", "In which the runs differ; all others are the same.", table)


def _name(i: int) -> str:
    return f'<b style="color:var(--s{i % COLOURS})">{_letter(i)}</b>'


def _results(runs: Sequence[Run], games: Sequence[str]) -> str:
    """A game's scores of all runs as dots with intervals, and a row of measures under each other."""
    figures = ""
    for game in games:
        rows = results(runs, game)
        if not rows:
            continue
        marks = [
            Dot(
                label=f"{_letter(i)} {mark.label}",
                kind="own",
                mean=mark.mean,
                low=mark.low,
                high=mark.high,
                colour=i % COLOURS,
            )
            for _, i, mark, _ in rows
        ]
        chart = dots(marks, unit(runs, game), game)
        title = f"<figcaption><b>{show(game, 60)}</b></figcaption>"
        figures += f"<figure>{title}{chart}</figure><figure>{_measures(rows)}</figure>"
    lead = "Mean score of a board and its 95\u202f% interval; shares of all replies of the evaluation."
    return section("results", "Results", lead if figures else "No scores yet.", f'<div class="pairs">{figures}</div>')


def _measures(rows: Sequence[tuple[str, int, Mark, dict[str, Any]]]) -> str:
    head = "".join(f'<th scope="col">{MEASURED[metric][0]}</th>' for metric in SHOWN)
    body, before = "", ""
    for column, i, mark, extra in rows:
        values = (extra.get(metric) for metric in SHOWN)
        texts = (number(float(value), True) if finite(value) else "\u2013" for value in values)
        title = f'<tr class="stage"><th colspan="{len(SHOWN) + 2}">{show(COLUMNS.get(column, column))}</th></tr>'
        body += title if column != before else ""
        score = f"<b>{number(mark.mean)}</b> <small>{number(mark.low)} \u2013 {number(mark.high)}</small>"
        cells = "".join(f"<td>{text}</td>" for text in texts)
        body += f'<tr><th scope="row">{_name(i)}</th><td class="score">{score}</td>{cells}</tr>'
        before = column
    head = f'<thead><tr><th></th><th scope="col">score</th>{head}</tr></thead>'
    return f'<div class="scroll"><table class="compared">{head}<tbody>{body}</tbody></table></div>'


def _curves(runs: Sequence[Run], game: str | None, known: Sequence[Chart], anchor: str) -> str:
    """The charts of one game, or of the whole run: a chart a metric, a line a run."""
    charts = {(metric, chart.phases): _alone(chart, metric) for chart in known for metric, _, _ in chart.metrics}
    named = {metric for metric, _ in charts}
    others = sorted({metric for run in runs for metric in run.series.get(game, {})} - named)
    charts |= {(m, ()): Chart(show(m.replace("_", " "), 40), "", ((m, "", 0),)) for m in others}
    phases = _phases(runs)
    drawn = "".join(_chart(runs, game, chart, phases) for chart in charts.values())
    title = "Whole run" if game is None else show(game, 60)
    return section(anchor, title, "" if drawn else "No measurements yet.", f'<div class="grid">{drawn}</div>')


def _alone(chart: Chart, metric: str) -> Chart:
    """The chart of one metric, also where it shares one with others on the page of one run."""
    title, counted = (chart.title, chart.unit) if len(chart.metrics) == 1 else _ALONE[metric]
    title += " during RL" if len(chart.metrics) > 1 and chart.phases else ""
    return chart._replace(title=title, unit=counted, metrics=((metric, "", 0),))


def _chart(runs: Sequence[Run], game: str | None, chart: Chart, phases: Sequence[Phase]) -> str:
    (metric, _, _), lines = chart.metrics[0], []
    for i, (run, name) in enumerate(zip(runs, names(runs), strict=True)):
        series = run.series.get(game, {}).get(metric, {})
        points = {phase: v for phase, v in series.items() if not chart.phases or phase in chart.phases}
        if points:
            short = name if len(name) <= _SHORT else name[: _SHORT - 1] + "\u2026"
            lines.append(Line(label=f"{_letter(i)} {short}", colour=i % COLOURS, points=points))
    if not lines:
        return ""
    drawn = curves(lines, phases, percent=chart.percent, log=chart.log, full=chart.full)
    return f"<figure><figcaption><b>{chart.title}</b> <span>{chart.unit}</span></figcaption>{drawn}</figure>"


def _phases(runs: Sequence[Run]) -> list[Phase]:
    """The phases of all runs: each from its first step to its last in any of them, as wide as the longest took."""
    known = dict.fromkeys([*PHASES, *(phase.name for run in runs for phase in run.phases)])
    merged = []
    for name in known:
        if own := [phase for run in runs for phase in run.phases if phase.name == name]:
            first, last = min(p.first for p in own), max(p.last for p in own)
            spent = max(p.seconds for p in own)
            merged.append(Phase(name=name, title=own[0].title, first=first, last=last, seconds=spent))
    return merged
