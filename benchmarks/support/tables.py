"""Write the README's tables of speed from the results that were measured last.

python benchmarks/support/tables.py
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def machine(record: dict[str, Any]) -> str:
    """What a record was measured on, in a line."""
    return f"{record['device']} ({record['cores']} CPU cores), jax {record['jax']}, {record['date']}"


def table(says: str, record: dict[str, Any], heads: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown under a line that says what it is, and of which machine."""
    lines = [f"{says}: {machine(record)}.", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def steps(record: dict[str, Any]) -> str:
    """The table of `env_step.py`."""
    kinds = ["steps", "with auto-reset", "and pictures"]  # pictures of many boards may not fit into memory
    heads, rows = ["", "boards", *kinds, "Python gym, pictures"], []
    for name, batches in record["games"].items():
        for boards, found in batches.items():
            plain = record["python_gym"].get(name)
            beside = f"{plain:,.0f} ({found[kinds[2]] / plain:.0f} x)" if plain and kinds[2] in found else ""
            rates = [f"{found[kind]:,.0f}" if kind in found else "" for kind in kinds]
            rows.append([f"`{name}`", f"{int(boards):,}", *rates, beside])
    for boards, by in record["rivals"].items():
        for library in next(iter(by.values())):
            if library == "jaxgym":
                continue
            beside = [f"{r[library]:,.0f} ({r['jaxgym'] / r[library]:.1f} x)" for r in by.values()]
            rows.append([f"{library}'s 2048", f"{int(boards):,}", *beside, "", ""])
    says = f"Steps/s of all boards together, random legal play, pictures of {record['picture']} px"
    return table(says, record, heads, rows)


def pictures(record: dict[str, Any]) -> str:
    """The table of `render.py`."""
    rows = []
    for side, batches in record["pictures"].items():
        for boards, found in batches.items():
            for name, each in found.items():
                called = name if name == "copy" else f"`{name}`"
                rates = [
                    f"{each['per_second']:,.0f}",
                    f"{each['bytes_per_second'] / 1e9:.1f}",
                    f"{each['of_copy']:.0%}",
                ]
                rows.append([called, side, f"{int(boards):,}", *rates])
    heads = ["", "pixels", "boards", "pictures/s", "GB/s", "of a copy"]
    return table("Pictures/s, and the share of what a copy moves", record, heads, rows)


def replies(record: dict[str, Any]) -> str:
    """The table of `rollout.py`."""
    rows = [
        [
            f"`{name}`",
            f"{each['replies_per_second']:,.0f}",
            f"{each['replies_per_second'] * each['tokens']:,.0f}",
            f"{each['outside_the_model']:.1%}",
        ]
        for name, each in record["games"].items()
    ]
    says = f"Rollouts of {record['states']} x {record['group']} replies, model `{record['model']}`"
    return table(says, record, ["", "replies/s", "tokens/s", "time outside the model"], rows)


def reading_and_writing(record: dict[str, Any]) -> str:
    """The table of `decode.py`."""
    return of_a_model(record, record["measured"])


def learning(record: dict[str, Any]) -> str:
    """The table of `train_step.py`."""
    return of_a_model(record, {"update": record["measured"]})


def of_a_model(record: dict[str, Any], found: dict[str, Any]) -> str:
    """A line for everything that was measured of a model."""
    rows = [
        [
            what,
            rows,
            f"{each['tokens_per_second']:,.0f}",
            f"{each['of_products']:.0%}",
            f"{each['of_copies']:.0%}" if each["of_copies"] else "",
        ]
        for what, by_rows in found.items()
        for rows, each in by_rows.items()
    ]
    lengths = f"prompts of {record['context']} tokens, replies of {record['new']}"
    says = f"Model `{record['shape']}` in {record['dtype']}, {lengths}"
    return table(says, record, ["", "rows", "tokens/s", "of the matrix rate", "of the bandwidth"], rows)


def updating(record: dict[str, Any]) -> str:
    """The table of `update.py`."""
    whole = sum(record["parts"].values())
    found = record["parts"] | {"an update": whole, "**of it the environment**": record["environment"] * whole}
    rows = [[part, f"{1e3 * seconds:,.1f}", f"{seconds / whole:.2%}"] for part, seconds in found.items()]
    says = f"An update of RL of model `{record['shape']}` in {record['dtype']}, {record['states']} boards of each game"
    says += f" ({', '.join(record['games'])}), {record['replies']}"
    return table(says, record, ["", "ms", "of an update"], rows)


def growth(record: dict[str, Any]) -> str:
    """The tables of `scaling.py`."""
    parts = [
        ("Seconds to begin", record["begin"], "{:.2f}"),
        ("Steps/s with auto-reset, by boards", record["steps"], "{:,.0f}"),
        ("Bytes a board of a step with a picture, by boards", record["bytes"], "{:,.0f}"),
        ("Steps/s of 1,024 boards, by their size", record["sizes"], "{:,.0f}"),
        ("Answers/s to 64 boards, by answers a board", record.get("groups", {}), "{:,.0f}"),  # not in older records
        ("Steps/s of 1,024 boards, by devices", record["devices"], "{:,.0f}"),
    ]
    made = []
    for says, found, form in parts:
        if not found:
            continue
        heads = list(dict.fromkeys(head for row in found.values() for head in row))
        rows = [[f"`{name}`", *(form.format(row[h]) if h in row else "" for h in heads)] for name, row in found.items()]
        made.append(table(says, record, ["", *heads], rows))
    return "\n\n".join(made)


def strengths(record: dict[str, Any]) -> str:
    """The table of `teachers.py`."""
    rows = [
        [
            what,
            player,
            f"{each['games']:,}",
            f"{each['share']:.1%} ({each['low']:.1%} to {each['high']:.1%})",
            f"{each['moves']:,.1f}",
            f"{each['score']:,.1f}",
        ]
        for what, players in record["teachers"].items()
        for player, each in players.items()
    ]
    return table("Whole games", record, ["", "player", "games", "share", "moves", "score"], rows)


SHOWN = {
    "teachers": strengths,
    "env_step": steps,
    "render": pictures,
    "scaling": growth,
    "rollout": replies,
    "update": updating,
    "decode": reading_and_writing,
    "train_step": learning,
}


def filled(text: str) -> str:
    """A text with the tables between its marks `<!-- env_step -->` and `<!-- end -->` made anew."""
    for question, show in SHOWN.items():
        tables = [show(json.loads(file.read_text())) for file in sorted(RESULTS.glob(f"{question}-*.json"))]
        between = f"<!-- {question} -->\n" + "\n\n".join(tables) + "\n<!-- end -->"
        text = re.sub(rf"<!-- {question} -->.*?<!-- end -->", lambda _, new=between: new, text, flags=re.DOTALL)
    return text


def main() -> None:
    """Write the tables into README.md."""
    file = ROOT / "README.md"
    file.write_text(filled(file.read_text()))


if __name__ == "__main__":
    main()
