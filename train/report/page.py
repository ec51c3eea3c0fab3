"""A run folder as one page: `write` makes `report.html`, readable offline in any browser, with nothing to fetch or run.

Files that are missing, half written or broken leave a sentence that says so. Replies are a model's words and may hold
anything: they are cut to length, made visible and escaped, and the page forbids itself scripts and addresses.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from train import files
from train.report.charts import COLOURS, Dot, Line, Phase, brief, curves, dots, number
from train.report.record import COLUMNS, PHASES, Run, Series, as_dict, finite, read
from train.report.replies import card, chosen, show
from train.report.style import STYLE

OWN = ("player", "model", *PHASES)  # the columns that are this run's model
_P, _R = "P<sub>acc</sub>", "R<sub>acc</sub>"


class Chart(NamedTuple):
    """Metrics that share a chart, in the phases named (all when empty); each is (metric, label, colour)."""

    title: str
    unit: str
    metrics: tuple[tuple[str, str, int], ...]
    percent: bool = False
    full: bool = True
    log: bool = False
    phases: tuple[str, ...] = ()


MEASURED = {  # by the evaluation: title, and whether it is a share
    "cells": ("cells read right", True),
    "board": (f"{_P} of boards", True),
    "reason": (f"{_R} of moves", True),
    "legal": ("legal replies", True),
    "formatted": ("in the format", True),
    "sight": ("good moves at first sight", True),
    "cleared": ("steps to clear", False),
}
_PERCEPTION = (("cells", "cells", 0), ("board", "boards", 1), ("tokens", "tokens", 2))
_ACCURACY = (("board", "boards", 1), ("reason", "good moves", 2))
OF_A_GAME = (
    Chart("Perception", "share of cells, and of whole boards, read right", _PERCEPTION, True),
    Chart(f"{_P} and {_R} during RL", "boards read exactly; good moves given that", _ACCURACY, True, phases=("grpo",)),
    Chart("Rules and format", "share of replies", (("legal", "legal", 3), ("format", "format", 4)), True),
    Chart("Reward", "of a reply, mean of a batch", (("reward", "reward", 5), ("game_reward", "of the game", 7))),
    Chart("Expected reward", "of the game, over all that could be answered", (("expected", "expected", 5),)),
    Chart(
        "Replies that a board costs", "expected, of those that the protocol has", (("cost", "replies", 4),), log=True
    ),
    Chart("Success", "share of replies that are good moves", (("success", "success", 2),), True),
    Chart("Loss", "nats", (("loss", "loss", 6),), log=True, phases=("sight", "base", "coldstart")),
    Chart("Loss in RL", "objective and divergence", (("loss", "loss", 6),), phases=("grpo",)),
    Chart("Entropy", "nats a token", (("entropy", "entropy", 0),)),
    Chart("Entropy of the action", "nats, of which one a reply names", (("action_entropy", "entropy", 0),)),
    Chart("KL divergence from the reference", "nats a token", (("kl", "kl", 1),)),
    Chart("Divergence of actions", "nats, from the good ones before RL", (("action_kl", "divergence", 1),)),
    Chart("Clipped ratios", "share of tokens", (("clipped", "clipped", 3),), True, False),
    Chart("Groups that differ", "share of groups with something to learn from", (("differ", "groups", 6),), True),
    Chart("Length of a reply", "tokens", (("length", "length", 2),)),
    Chart("Cut off for their length", "share of replies", (("truncated", "replies", 4),), True, False),
    Chart("Gap to the sampler", "nats a token", (("sampler_gap", "gap", 4),)),
    Chart("Turns of an episode", "answers", (("turns", "turns", 2),)),
    Chart("Return of an episode", "of the game, discounted", (("return", "return", 7),)),
)
OF_THE_RUN = (
    Chart("Loss, tower alone", "sum of what is taught at it", (("loss", "loss", 6),), log=True, phases=("sight",)),
    Chart("Loss, supervised", "nats", (("loss", "loss", 6),), log=True, phases=("base", "coldstart")),
    Chart("Norm of the gradient", "before clipping", (("grad_norm", "norm", 3),), log=True),
    Chart("Learning rate", "of the optimizer", (("lr", "rate", 5),)),
    Chart("Updates left out", "not finite, so far in the phase", (("skipped", "updates", 4),)),
    Chart("Speed", "replies a second", (("replies_per_second", "replies/s", 2),)),
)


def write(run: Path) -> Path:
    """Write `run/report.html` from what stands in the folder now, and return its path. The same files, the same bytes.

    Raises OSError when the page cannot be written; what cannot be read is named in the page.
    """
    return put(run / "report.html", _page(read(run)))


def put(file: Path, page: str) -> Path:
    """Write a page all at once: whoever reloads meanwhile sees a whole one."""
    files.write(file, page.encode("utf-8", errors="replace"))
    return file


def _page(run: Run) -> str:
    """The whole page."""
    parts = [_head(run), _notes(run.notes), _results(run)]
    if not run.tested:
        parts += [*(_game(run, i, game) for i, game in enumerate(run.games)), _whole(run)]
    parts += [_replies(run), _configuration(run)]
    return document(run.folder.name, "".join(parts))


def document(title: str, body: str) -> str:
    """A whole page, which may fetch and run nothing: the title is text, the body HTML."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{show(title)}</title>'
        f"<style>{STYLE}</style></head><body>\n<main>{body}</main></body></html>\n"
    )


def _head(run: Run) -> str:
    facts = [("games", ", ".join(run.games))]
    known = ("model", "seed") if run.tested else ("recipe", "model", "seed")
    facts += [(key, str(run.config[key])) for key in known if key in run.config]
    facts += [("training", duration(run.seconds))] if run.seconds else []
    summary = "".join(f"<li><span>{key}</span> <b>{show(value, 200)}</b></li>" for key, value in facts if value)
    story = " \u2192 ".join(f"<b>{show(p.title, 40)}</b> to step {p.last:,}, {duration(p.seconds)}" for p in run.phases)
    links = [("results", "Results")]
    if not run.tested:
        links += [*((f"game-{i}", game) for i, game in enumerate(run.games)), ("run", "Whole run")]
    links += [("samples", "Replies"), ("configuration", "Configuration")]
    nav = "".join(f'<a href="#{anchor}">{show(title, 40)}</a>' for anchor, title in links)
    return (
        f'<header><p class="kicker">{"evaluation" if run.tested else "training run"}</p>'
        f"<h1>{show(run.folder.name, 120)}</h1>"
        f'<ul class="facts">{summary}</ul><p class="story">{story}</p><nav>{nav}</nav></header>\n'
    )


def _notes(notes: Sequence[str]) -> str:
    return "".join(f'<p class="missing">{show(note, 400)}</p>' for note in notes)


def section(anchor: str, title: str, lead: str, body: str) -> str:
    """A part of the page with its heading; all of it is HTML."""
    return f'<section id="{anchor}"><h2>{title}</h2><p class="lead">{lead}</p>{body}</section>\n'


def _results(run: Run) -> str:
    """The final table, and a dot chart a game."""
    rows, charts = [], []
    published = list(dict.fromkeys(name for game in run.table.values() for name in as_dict(game.get("published"))))
    for game, entry in run.table.items():
        means = {name: c for name in run.order if (c := find_mark(entry, name))}
        best = max((c for c in OWN if c in means), key=lambda c: means[c].mean, default=None)
        unit = str(entry.get("unit", "score"))
        cells = [_score(name, means.get(name), name == best) for name in run.order]
        outside = as_dict(entry.get("published"))
        cells += [_foreign(name, outside.get(name)) for name in published]
        heading = f'<th scope="row">{show(game, 60)}<small>{show(unit, 80)}</small></th>'
        rows.append(f"<tr>{heading}{''.join(cells)}</tr>")
        marks = [c._replace(kind="best" if n == best else "own" if n in OWN else "other") for n, c in means.items()]
        marks += [Mark(n, "published", v, v, v, 0) for n, v in outside.items() if finite(v)]
        if marks:
            drawn = [Dot(label=m.label, kind=m.kind, mean=m.mean, low=m.low, high=m.high) for m in marks]
            more = _extra(as_dict(entry.get("extra")))
            title = f"<figcaption><b>{show(game, 60)}</b></figcaption>"
            charts.append(f"<figure>{title}{dots(drawn, unit, game)}{more}</figure>")
    if not rows:
        return section("results", "Results", "No scores yet.", "")
    heads = "".join(f'<th scope="col">{show(COLUMNS.get(c, c), 40)}</th>' for c in run.order)
    heads += "".join(f'<th scope="col" class="published">{show(c, 40)}<small>published</small></th>' for c in published)
    body = f'<thead><tr><th scope="col">game</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody>'
    table = f'<table class="scores">{body}</table>'
    lead = (
        "Mean score of a board and its 95\u202f% interval, one protocol for all; \u2605 this model's best. "
        'In the charts: <b class="own">\u25cf</b> this model, <b>\u25cf</b> other players, '
        '<b class="published">\u25c7</b> as published.'
    )
    return section("results", "Results", lead, f'{table}<div class="grid four">{"".join(charts)}</div>')


def _extra(values: dict[str, Any]) -> str:
    """What else the evaluation measured, {column: {metric: value}}, as a small table: a row a metric."""
    columns = [name for name in dict.fromkeys([*OWN, *values]) if as_dict(values.get(name))]
    metrics = dict.fromkeys(metric for name in columns for metric in values[name])
    if not metrics:
        return ""
    head = "".join(f'<th scope="col">{show(PHASES.get(name, name), 30)}</th>' for name in columns)
    body = ""
    for metric in metrics:
        title, percent = MEASURED.get(metric, (show(metric.replace("_", " "), 40), False))
        cells = (values[name].get(metric) for name in columns)
        told = brief if metric == "temperature" else number  # it was given, not measured
        texts = (told(float(value), percent) if finite(value) else "\u2013" for value in cells)
        body += f'<tr><th scope="row">{title}</th>{"".join(f"<td>{text}</td>" for text in texts)}</tr>'
    head = f'<thead><tr><th scope="col">evaluation</th>{head}</tr></thead>'
    return f'<table class="extra">{head}<tbody>{body}</tbody></table>'


class Mark(NamedTuple):
    """A mean with its interval, as the table and the dot chart show it; n boards."""

    label: str
    kind: str
    mean: float
    low: float
    high: float
    n: int


def find_mark(entry: dict[str, Any], name: str) -> Mark | None:
    """The score of a column in a game's entry of the table, where there is one."""
    column = as_dict(as_dict(entry.get("columns")).get(name))
    mean, n = column.get("mean"), column.get("n")
    if not finite(mean):
        return None
    low, high = (float(end) if finite(end := column.get(k)) else float(mean) for k in ("low", "high"))
    return Mark(COLUMNS.get(name, name), "other", float(mean), low, high, int(n) if finite(n) else 0)


def _score(name: str, mark: Mark | None, best: bool) -> str:
    title = show(COLUMNS.get(name, name), 40)
    if mark is None:
        return f'<td data-label="{title}" class="none">\u2013</td>'
    n = f' title="{mark.n:,} boards"' if mark.n else ""
    star = "<i>\u2605 </i>" if best else ""
    return (
        f'<td data-label="{title}"{n}{" class=best" if best else ""}><span>{star}{number(mark.mean)}'
        f"<small>{number(mark.low)} \u2013 {number(mark.high)}</small></span></td>"
    )


def _foreign(name: str, value: Any) -> str:
    text = brief(float(value)) if finite(value) else "\u2013"
    return f'<td data-label="{show(name, 40)}, published" class="published"><span>{text}</span></td>'


def _game(run: Run, i: int, game: str) -> str:
    series = run.series.get(game, {})
    charts = _charts(series, OF_A_GAME, run.phases)
    tiles = "".join(filter(None, (_tile(run.phases, series, *tile) for tile in TILES)))
    lead = (
        f"{_P}, perception accuracy: the share of boards, and of cells, read right. {_R}, reasoning accuracy: the "
        "share of good moves among the boards read exactly. Points are single measurements, lines their moving average."
    )
    body = f'<div class="tiles">{tiles}</div><div class="grid">{charts}</div>'
    lead = (lead if i == 0 else "") if charts else "No measurements yet."
    return section(f"game-{i}", show(game, 60), lead, body)


TILES = (
    ("board", f"perception accuracy {_P}", "boards read exactly"),
    ("cells", "perception, by cell", "cells read right"),
    ("reason", f"reasoning accuracy {_R}", "good moves on boards read exactly"),
    ("legal", "legal moves", "of all replies"),
)


def _tile(phases: Sequence[Phase], series: Series, metric: str, title: str, meaning: str) -> str:
    """Where a share stands at the end of the run (mean of the last tenth of its last phase), and where it began."""
    known = [series[metric][p.name][1] for p in phases if p.name in series.get(metric, {})]
    if not known:
        return ""
    first, last = known[0][: max(1, len(known[0]) // 10)], known[-1][-max(1, len(known[-1]) // 10) :]
    now, then = number(float(last.mean()), True), number(float(first.mean()), True)
    return f"<div><h3>{title}</h3><p><b>{now}</b> <span>from {then}</span></p><small>{meaning}</small></div>"


def _whole(run: Run) -> str:
    charts = _charts(run.series.get(None, {}), OF_THE_RUN, run.phases)
    lead = "What all games share: one model, mixed batches." if charts else "No measurements yet."
    return section("run", "Whole run", lead, f'<div class="grid">{charts}</div>')


def _charts(series: Series, known: Sequence[Chart], phases: Sequence[Phase]) -> str:
    """The known charts that have data, then one for every other metric."""
    named = {metric for chart in known for metric, _, _ in chart.metrics}
    rest = [m for m in sorted(series) if m not in named]
    others = [
        Chart(show(m.replace("_", " "), 40), "", ((m, m.replace("_", " "), sum(m.encode()) % COLOURS),)) for m in rest
    ]
    return "".join(_chart(series, chart, phases) for chart in (*known, *others))


def _chart(series: Series, chart: Chart, phases: Sequence[Phase]) -> str:
    lines = []
    for metric, label, colour in chart.metrics:
        points = {p: v for p, v in series.get(metric, {}).items() if not chart.phases or p in chart.phases}
        if points:
            lines.append(Line(label=label, colour=colour, points=points))
    if not lines:
        return ""
    drawn = curves(lines, phases, percent=chart.percent, log=chart.log, full=chart.full)
    return f"<figure><figcaption><b>{chart.title}</b> <span>{chart.unit}</span></figcaption>{drawn}</figure>"


def _replies(run: Run) -> str:
    found = chosen(run)
    lead = (
        "As they were sampled; replies to the same board, from before and after RL, stand side by side. Each board is "
        "shown as the model read it; \u2717 marks a wrong cell, what was read is struck out above what stands there."
    )
    left = len(run.samples) - sum(map(len, found))
    lead += f" The last of each game and phase; {left:,} more in samples.jsonl." if left > 0 else ""
    body = "".join(card(run.folder, samples) for samples in found)
    return section("samples", "Replies", lead if found else "No replies yet.", body)


def _configuration(run: Run) -> str:
    plain = {key: value for key, value in run.config.items() if not isinstance(value, dict)}
    parts = [_settings("run", plain)] if plain else []
    parts += [_settings(key, value) for key, value in run.config.items() if isinstance(value, dict)]
    if not parts:
        return section("configuration", "Configuration", "No configuration.", "")
    body = f'<details><summary>all settings</summary><div class="settings">{"".join(parts)}</div></details>'
    return section("configuration", "Configuration", "As in config.json.", body)


def _settings(title: str, values: dict[str, Any]) -> str:
    rows = (f"<tr><th>{show(key, 60)}</th><td>{show(_plain(value), 300)}</td></tr>" for key, value in values.items())
    return f"<table><caption>{show(title, 60)}</caption>{''.join(rows)}</table>"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def duration(seconds: float) -> str:
    """Time in words: `48 s`, `14 min 32 s`, `2 h 5 min`."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    parts = (hours, "h"), (minutes, "min"), (0 if hours else whole % 60, "s")
    return " ".join(f"{n} {unit}" for n, unit in parts if n) or "0 s"
