"""Checks architectures of vision-language models on tiny random checkpoints and writes `docs/architectures.md`.

python -m lab.architectures --vllm .venv-vllm/bin/python --table docs/architectures.md
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from icl.errors import ICLError

if TYPE_CHECKING:
    from lab.architectures.verdicts import Entry

Names = Annotated[list[str] | None, typer.Argument(help="rows of the page; all if none is named", show_default=False)]
Work = Annotated[Path, typer.Option(help="folder for checkpoints and results")]
VLLM = Annotated[Path | None, typer.Option(help="Python of an environment with vLLM; fills the columns of vLLM")]
Half = Annotated[Literal["hf", "vllm"] | None, typer.Option(help="only the columns of this engine", show_default=False)]
Again = Annotated[bool, typer.Option("--again", help="repeat checks that these releases have results for")]


def main(
    names: Names = None,
    *,
    work: Work = Path("architectures"),
    table: Annotated[Path | None, typer.Option(help="file to write the page to, as Markdown")] = None,
    vllm: VLLM = None,
    half: Half = None,
    again: Again = False,
) -> None:
    """Downloads nothing. Results are stored in --work, so that running the command again continues.

    vLLM needs its own environment: name its Python, or run this command there with the same --work.
    """
    from lab.architectures.run import check_architectures
    from lab.architectures.table import COLUMNS, exceptions, page
    from lab.architectures.uncovered import uncovered_types

    results = check_architectures(names or [], work, printer(COLUMNS), half=half, again=again, vllm=vllm)
    if table is not None:
        table.write_text(page(results.entries, results.peculiar, uncovered_types()), encoding="utf-8")
        print(f"written to {table}")
    for name, column, why in exceptions(results.entries) if half is None else ():
        print(f"{name}, {column}: {why}")


def printer(columns: Iterable[str]) -> "Callable[[Entry], None]":
    """A function that prints the verdicts of a row in these columns, or its notes."""

    def print_entry(entry: "Entry") -> None:
        words = [f"{column} {entry.verdicts[column].word}" for column in columns if column in entry.verdicts]
        print(f"{entry.name:<20}  {', '.join(words) or '; '.join(entry.notes)}", flush=True)

    return print_entry


def run_command(command: Callable[..., None]) -> None:
    """Runs a command of typer. A user's mistake is one sentence on stderr."""
    try:
        typer.run(command)
    except ICLError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    run_command(main)
