"""The benchmark table: `python -m experiments.bench [--quick] [PART ...]`, or `make bench`.

A part is a module of this package with a function `rows()`. Figures are ratios within one run wherever they can be,
because machines are noisy. A figure that misses its goal is shown as measured; nothing here passes or fails. --quick
times one round of what is usually repeated: rough figures, to see that all parts run.
"""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import experiments.bench
from experiments.bench import quick


def parts() -> list[str]:
    """Modules of this package that define `rows`, in alphabetical order."""
    folder = Path(experiments.bench.__path__[0])
    return sorted(file.stem for file in folder.glob("*.py") if "\ndef rows(" in file.read_text(encoding="utf-8"))


def measured(names: list[str]) -> Iterator[tuple[str, tuple[str, str, str]]]:
    """(part, row) as they come in: each part takes some seconds to a few minutes."""
    for name in names:
        module = importlib.import_module(f"experiments.bench.{name}")
        for row in module.rows():
            yield name, row


def main() -> None:
    """Prints each row as soon as it is measured."""
    given = sys.argv[1:]
    if "--quick" in given:
        quick()
    wanted = [name for name in given if name != "--quick"] or parts()
    unknown = sorted(set(wanted) - set(parts()))
    if unknown:
        sys.exit(f"no part named {', '.join(unknown)}. Parts: {', '.join(parts())}.")
    last = ""
    for name, (what, figure, goal) in measured(wanted):
        if name != last:
            print(f"\n{name}")
            last = name
        print(f"  {what:<86} {figure:>24}   {goal}", flush=True)


if __name__ == "__main__":
    main()
