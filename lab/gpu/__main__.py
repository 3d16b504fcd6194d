"""`make gpu`, or `python -m lab.gpu [--quick] [--json] [--out DIR]`: measures what the toolkit promises on this GPU."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from icl.errors import ICLError, strip_control_characters
from lab.gpu.bench import run_bench
from lab.gpu.page import PAGE_FILE, text_lines
from lab.gpu.run import BenchRow


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes doctor.html and doctor.json, for at most 32 minutes. Returns 1 if a row is red, 2 if it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m lab.gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="measure less, for at most 5 minutes")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON at the end")
    parser.add_argument("--out", type=Path, default=Path("doctor"), help="folder for the page")
    options = parser.parse_args(arguments)

    def show(row: BenchRow) -> None:
        if not options.json:
            for line in text_lines(row):
                print(strip_control_characters(line), flush=True)

    try:
        page = run_bench(options.out, options.quick, show)
    except ICLError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(page.to_dict(), indent=2) if options.json else f"page      {options.out / PAGE_FILE}")
    return 0 if page.is_ok else 1


if __name__ == "__main__":
    sys.exit(main())
