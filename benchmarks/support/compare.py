"""Has anything become slower? The ratios of results in the work tree against those that are committed.

    python benchmarks/support/compare.py [--against HEAD]

Only ratios of two things measured in turns in one run are compared, and only on the same kind of machine. Exits with 1
when one has fallen by more than 15 %.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
MACHINE = ("device", "processor", "cores")
WORSE = 0.85


def fallen(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """A line for every ratio that has fallen too far."""
    pairs = {name: (old, after["ratios"][name]) for name, old in before["ratios"].items() if name in after["ratios"]}
    return [f"{name} {old:.2f} -> {new:.2f}" for name, (old, new) in pairs.items() if new < WORSE * old]


def committed(file: Path, revision: str) -> dict[str, Any] | None:
    """The same results as they are in a revision; None where they are not."""
    shown = subprocess.run(
        ["git", "show", f"{revision}:./{file.name}"], cwd=file.parent, capture_output=True, text=True, check=False
    )
    return json.loads(shown.stdout) if shown.returncode == 0 else None


def main() -> int:
    """Print what has fallen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", default="HEAD", help="the revision to compare with (default: HEAD)")
    revision = parser.parse_args().against
    worse = 0
    for file in sorted(RESULTS.glob("*.json")):
        after, before = json.loads(file.read_text()), committed(file, revision)
        if before is None or not {"ratios"} <= before.keys() & after.keys():
            print(f"{file.name}: nothing to compare with in {revision}")
        elif other := [name for name in MACHINE if before.get(name) != after.get(name)]:
            print(f"{file.name}: measured on another machine ({', '.join(other)} differ)")
        else:
            lines = fallen(before, after)
            worse += len(lines)
            print(f"{file.name}: {len(lines)} of {len(after['ratios'])} ratios have fallen by more than 15 %")
            print("".join(f"  {line}\n" for line in lines), end="")
    return min(worse, 1)


if __name__ == "__main__":
    sys.exit(main())
