"""Checks architectures of vision-language models on tiny random checkpoints and writes `docs/architectures.md`.

python -m lab.architectures --vllm .venv-vllm/bin/python --table docs/architectures.md
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from icl.errors import ICLError


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help="architectures; all if none is named", show_default=False)
    ] = None,
    *,
    work: Annotated[Path, typer.Option(help="folder for checkpoints and results")] = Path("architectures"),
    table: Annotated[Path | None, typer.Option(help="file to write the page to, as Markdown")] = None,
    vllm: Annotated[
        Path | None, typer.Option(help="Python of an environment with vLLM; fills the columns of vLLM")
    ] = None,
    half: Annotated[
        Literal["hf", "vllm"] | None, typer.Option(help="only the columns of this engine", show_default=False)
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="repeat checks that these releases have results for")] = False,
) -> None:
    """Downloads nothing. Results are stored in --work, so that running the command again continues.

    vLLM needs its own environment: name its Python, or run this command there with the same --work.
    """
    from lab.architectures.run import check_architectures
    from lab.architectures.table import COLUMNS, exceptions, page
    from lab.architectures.uncovered import uncovered_types
    from lab.architectures.verdicts import Entry

    def print_entry(entry: Entry) -> None:
        words = [f"{column} {entry.verdicts[column].word}" for column in COLUMNS if column in entry.verdicts]
        print(f"{entry.name:<16}  {', '.join(words) or '; '.join(entry.notes)}", flush=True)

    results = check_architectures(names or [], work, print_entry, half=half, again=again, vllm=vllm)
    if table is not None:
        table.write_text(page(results.entries, results.peculiar, uncovered_types()), encoding="utf-8")
        print(f"written to {table}")
    for name, column, why in exceptions(results.entries) if half is None else ():
        print(f"{name}, {column}: {why}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except ICLError as error:
        sys.exit(str(error))
