"""Say what will work on this machine: versions, driver, memory, kernels, folders. --bench measures it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from icl.errors import ConfigError, strip_control_characters

OUT = Path("doctor")


def command(
    as_json: Annotated[bool, typer.Option("--json", help="print the findings as JSON")] = False,
    bench: Annotated[bool, typer.Option("--bench", help="measure, for at most 30 minutes")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="with --bench: measure less, for at most 5 minutes")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="with --bench: folder for the page; default: doctor")
    ] = None,
) -> None:
    """Prints one row for each finding, in seconds and without a download.

    ok: works. note: an optional part is missing. not here: needs a GPU, and this machine has none. red: something that
    you would try fails; the row says what to do. Exit status: 1 if a row is red.

    --bench measures equality, memory and speed with random weights of 8B shapes, and writes a page (doctor.html) and
    its figures (doctor.json). Nothing is downloaded.
    """
    if bench:
        _bench(out or OUT, quick, as_json)
        return
    if quick or out is not None:
        raise ConfigError(f"{'--quick' if quick else '--out'} needs --bench: icl doctor --bench --quick --out DIR.")
    from experiments.doctor.checks import findings
    from experiments.doctor.machine import inspect_machine

    rows = findings(inspect_machine())
    is_healthy = all(row.status != "red" for row in rows)
    if as_json:
        print(json.dumps({"ok": is_healthy, "findings": [asdict(row) for row in rows]}, indent=2))
    else:
        width = max(len(row.name) for row in rows)
        for row in rows:
            print(strip_control_characters(f"{row.status:<8}  {row.name:<{width}}  {row.text}"))
    if not is_healthy:
        raise typer.Exit(1)


def _bench(out: Path, quick: bool, as_json: bool) -> None:
    from experiments.doctor.bench.bench import run_bench
    from experiments.doctor.bench.page import PAGE_FILE, text_lines
    from experiments.doctor.bench.run import BenchRow

    def show(row: BenchRow) -> None:
        for line in text_lines(row):
            print(strip_control_characters(line), flush=True)

    page = run_bench(out, quick, (lambda row: None) if as_json else show)
    print(json.dumps(page.to_dict(), indent=2) if as_json else f"page      {out / PAGE_FILE}")
    if not page.is_ok:
        raise typer.Exit(1)
