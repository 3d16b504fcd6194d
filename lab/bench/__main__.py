"""The benchmark table: `python -m lab.bench [--help] [--quick] [PART ...] [NAME=VALUE ...]`, or `make bench`.

A part is a module of this package with a function `rows()`. Times are CPU times (`timing`): the median over rounds,
with minimum and maximum. Most figures are ratios within one run, because machines differ. A figure that misses its goal
is printed as measured. `--quick` measures one round, which shows that all parts run. NAME is a parameter of `rows`.
"""

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import lab.bench
from icl import ICLError
from lab.bench import quick


def parts() -> list[str]:
    """Modules of this package that define `rows`, in alphabetical order."""
    folder = Path(lab.bench.__path__[0])
    return sorted(file.stem for file in folder.glob("*.py") if "\ndef rows(" in file.read_text(encoding="utf-8"))


def measured(names: list[str], values: dict[str, str]) -> Iterator[tuple[str, tuple[str, str, str]]]:
    """(part, row) of each measurement, as it finishes. A part takes seconds to minutes."""
    for name in names:
        rows = importlib.import_module(f"lab.bench.{name}").rows
        own = inspect.signature(rows).parameters
        if unknown := sorted(values.keys() - own.keys()):
            sys.exit(f"{name} has no parameter {', '.join(unknown)}. Parameters: {', '.join(own) or 'none'}.")
        for row in rows(**{key: type(own[key].default)(value) for key, value in values.items()}):
            yield name, row


def main() -> None:
    """Prints each row as soon as it is measured."""
    arguments = sys.argv[1:]
    if "--help" in arguments:
        print(f"{__doc__}\nParts: {', '.join(parts())}.")
        return
    if "--quick" in arguments:
        quick()
    values = dict(one.split("=", 1) for one in arguments if "=" in one)
    names = [name for name in arguments if name != "--quick" and "=" not in name] or parts()
    unknown = sorted(set(names) - set(parts()))
    if unknown:
        sys.exit(f"no part named {', '.join(unknown)}. Parts: {', '.join(parts())}.")
    last = ""
    try:
        for name, (what, figure, goal) in measured(names, values):
            if name != last:
                print(f"\n{name}")
                last = name
            print(f"  {what:<86} {figure:>44}   {goal}", flush=True)
    except ICLError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
