"""Say what will work on this machine: versions, driver, memory, kernels, folders."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from icl.errors import strip_control_characters


def command(
    as_json: Annotated[bool, typer.Option("--json", help="print the findings as JSON")] = False,
) -> None:
    """Prints one row for each finding, in seconds and without a download.

    ok: works. note: an optional part is missing. not here: needs a GPU, and this machine has none. red: something that
    you would try fails; the row says what to do. Exit status: 1 if a row is red.
    """
    from experiments.doctor import findings, inspect_machine

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
