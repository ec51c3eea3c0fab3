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


def steps(record: dict[str, Any]) -> list[str]:
    """The table of `env_step.py`."""
    lines = [
        f"Steps/s of all boards together, random legal play, pictures of {record['picture']} px: {machine(record)}.",
        "",
        "| | boards | steps | with auto-reset | and pictures | Python gym, pictures |",
        "|---|---|---|---|---|---|",
    ]
    for name, batches in record["games"].items():
        for boards, found in batches.items():
            plain = record["python_gym"].get(name)
            beside = f"{plain:,.0f} ({found['and pictures'] / plain:.0f} x)" if plain else ""
            cells = [f"`{name}`", f"{int(boards):,}", *(f"{rate:,.0f}" for rate in found.values()), beside]
            lines.append(f"| {' | '.join(cells)} |")
    for boards, kinds in record["rivals"].items():
        plain, reset = kinds.values()
        for library in plain:
            if library == "jaxgym":
                continue
            beside = [f"{rates[library]:,.0f} ({rates['jaxgym'] / rates[library]:.1f} x)" for rates in (plain, reset)]
            lines.append(f"| {library}'s 2048 | {int(boards):,} | {beside[0]} | {beside[1]} | | |")
    return lines


def pictures(record: dict[str, Any]) -> list[str]:
    """The table of `render.py`."""
    lines = [
        f"Pictures/s, and the share of what a copy moves: {machine(record)}.",
        "",
        "| | pixels | boards | pictures/s | GB/s | of a copy |",
        "|---|---|---|---|---|---|",
    ]
    for side, batches in record["pictures"].items():
        for boards, found in batches.items():
            for name, each in found.items():
                cells = [
                    f"`{name}`" if name != "copy" else name,
                    side,
                    f"{int(boards):,}",
                    f"{each['per_second']:,.0f}",
                ]
                cells += [f"{each['bytes_per_second'] / 1e9:.1f}", f"{each['of_copy']:.0%}"]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def filled(text: str) -> str:
    """A text with the tables between its marks `<!-- env_step -->` and `<!-- end -->` made anew."""
    for question, table in (("env_step", steps), ("render", pictures)):
        files = sorted(RESULTS.glob(f"{question}-*.json"))
        tables = ["\n".join(table(json.loads(file.read_text()))) for file in files]
        between = f"<!-- {question} -->\n" + "\n\n".join(tables) + "\n<!-- end -->"
        text = re.sub(rf"<!-- {question} -->.*?<!-- end -->", lambda _, new=between: new, text, flags=re.DOTALL)
    return text


def main() -> None:
    """Write the tables into README.md."""
    file = ROOT / "README.md"
    file.write_text(filled(file.read_text()))


if __name__ == "__main__":
    main()
