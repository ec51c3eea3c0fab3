"""Sample replies beside their pictures. What a model said may be anything: it is cut, made visible and escaped."""

import base64
import html
import io
import itertools
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from jaxgym import read_words
from train.report.charts import number
from train.report.record import COLUMNS, PHASES, Run, finite

_CLIP = 4000  # characters of a reply that are shown
_WORD = 40  # characters of a cell that are shown
_SAMPLES = 2  # of a game in a phase: the last ones
_PIXELS = 1 << 22  # of the largest picture that is opened


def chosen(run: Run) -> list[list[dict[str, Any]]]:
    """The last replies of every game and phase, those to the same board together: what was said before and after."""
    found: list[list[dict[str, Any]]] = []
    phases = dict.fromkeys([*PHASES, *(str(s.get("phase")) for s in run.samples)])
    for game in run.games:
        boards: dict[str, dict[str, dict[str, Any]]] = {}
        for phase in phases:
            own = [s for s in run.samples if s.get("game") == game and str(s.get("phase")) == phase]
            for sample in own[-_SAMPLES:]:
                boards.setdefault(str(sample.get("truth")), {})[phase] = sample  # said again after a resume: the last
        found += [list(said.values()) for said in boards.values()]
    return found


def card(folder: Path, samples: Sequence[dict[str, Any]]) -> str:
    """Replies to one board, side by side next to its picture, as HTML."""
    picture = _picture(folder, samples[-1].get("picture"))
    said = "".join(map(_said, samples))
    return f'<article><div class="picture">{picture}</div><div class="replies">{said}</div></article>\n'


def _said(sample: dict[str, Any]) -> str:
    reply, truth = str(sample.get("reply") or ""), str(sample.get("truth") or "")
    action, phase, step = sample.get("action"), str(sample.get("phase")), sample.get("step")
    reward, cells = sample.get("reward"), sample.get("cells")
    facts = [f"answer <b>{show(str(action), 60)}</b>" if action is not None else "<b>no readable answer</b>"]
    facts += ["\u2713 legal" if sample.get("legal") else "\u2717 not legal"]
    facts += [f"reward <b>{number(float(reward))}</b>"] if finite(reward) else []
    facts += [f"cells <b>{number(float(cells), True)}</b>"] if finite(cells) else []
    where = f"{show(COLUMNS.get(phase, phase), 40)}" + (f", step {int(step):,}" if finite(step) else "")
    said = _block(reply, "perception")
    think = _block(reply, "think")
    return (
        f'<div class="said"><h3>{show(str(sample.get("game")), 60)} <span>{where}</span></h3><ul class="facts">'
        f'{"".join(f"<li>{fact}</li>" for fact in facts)}</ul><div class="reading">{_comparison(said, truth)}'
        f'<p class="think" dir="auto">{show(think, 1200) if think else "<i>no reason given</i>"}</p></div>'
        f"<details><summary>the whole reply, {len(reply):,} characters</summary>"
        f'<pre dir="auto">{show(reply, _CLIP)}</pre></details></div>'
    )


def _picture(folder: Path, name: Any) -> str:
    """A picture of the folder, packed into the page."""
    try:
        path = (folder / str(name)).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError("outside the run folder")
        with Image.open(path, formats=("PNG",)) as picture:
            if picture.width * picture.height > _PIXELS:
                raise ValueError("too large")
            packed = io.BytesIO()
            picture.convert("RGB").save(packed, "PNG", optimize=True)
            size = f'width="{picture.width}" height="{picture.height}"'
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # SyntaxError: a broken PNG chunk
        return '<p class="missing">The picture is not there.</p>'
    data = base64.b64encode(packed.getvalue()).decode()
    return f'<img alt="what the model saw" {size} src="data:image/png;base64,{data}">'


def _block(reply: str, name: str) -> str | None:
    """What follows the first `<name>`, as far as it goes: a reply that was cut off is shown as well."""
    _, opened, rest = reply[: 1 << 16].partition(f"<{name}>")
    return rest.partition(f"</{name}>")[0] if opened else None


def _comparison(said: str | None, truth: str) -> str:
    """The board as read, cell by cell; what is wrong is struck through over what is there."""
    if said is None:
        return '<p class="missing">No perception block.</p>'
    rows = read_words(said)
    body = ""
    for i, row in enumerate(read_words(truth)):
        cells = itertools.zip_longest(rows[i][: len(row)] if i < len(rows) else [], row)
        body += f"<tr>{''.join(_cell(word, cell) for word, cell in cells)}</tr>"
    return f'<div class="scroll"><table class="board">{body}</table></div>'


def _cell(said: str | None, truth: str) -> str:
    if said == truth:
        return f"<td>{show(truth, _WORD)}</td>" if truth != "empty" else '<td class="empty">empty</td>'
    read_as = f'<s dir="auto">{show(said, _WORD)}</s>' if said else "<s>nothing</s>"
    return f'<td class="wrong"><i>\u2717</i> {read_as} <b>{show(truth, _WORD)}</b></td>'


def show(text: str, most: int = _CLIP) -> str:
    """Any text as HTML: cut to `most` characters with a note, control and direction characters written out, escaped."""
    cut = text[:most]
    visible = "".join(
        f"\u27e8U+{ord(c):04X}\u27e9" if unicodedata.category(c)[0] == "C" and c not in "\n\t" else c for c in cut
    )
    more = f" <em>\u2026 {len(text) - most:,} more characters</em>" if len(text) > most else ""
    return html.escape(visible) + more
