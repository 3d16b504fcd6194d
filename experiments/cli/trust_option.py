"""The flag `--trust` of every command that reads a run directory."""

from typing import Annotated

import typer

Trust = Annotated[
    bool, typer.Option("--trust", help="run code and contact addresses that the run names; check them first")
]
