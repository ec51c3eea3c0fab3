"""A picture of what was measured, beside its record; with matplotlib, where that is installed."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Panel(NamedTuple):
    """Curves over one axis; both axes are logarithmic, that of names is in order."""

    title: str
    x: str
    y: str
    curves: dict[str, dict[str, float]]  # name of a curve -> value on the axis, a number or a name -> height


def save(file: Path, panels: Sequence[Panel]) -> str:
    """Draw panels side by side into an SVG beside the record of that name; returns what to tell."""
    if not importlib.util.find_spec("matplotlib"):
        return "no plot: pip install -e '.[bench]'"
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        places = list(dict.fromkeys(place for curve in panel.curves.values() for place in curve))
        numbers = all(place.isdigit() for place in places)
        for name, curve in panel.curves.items():
            at = [float(place) if numbers else places.index(place) for place in curve]
            axes.plot(at, list(curve.values()), marker="o", label=name)
        axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y, yscale="log")
        if numbers:
            axes.set_xscale("log", base=2)
        axes.set_xticks([float(place) if numbers else i for i, place in enumerate(places)], places, rotation=30)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    target = file.with_suffix(".svg")
    figure.savefig(target)
    return f"drawn in {target}"
