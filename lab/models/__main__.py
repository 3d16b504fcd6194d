"""Checks twins of published models and writes `docs/models.md`.

python -m lab.models --vllm .venv-vllm/bin/python --page docs/models.md
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from icl.errors import ICLError


def main(
    names: Annotated[list[str] | None, typer.Argument(help="twins; all if none is named", show_default=False)] = None,
    *,
    work: Annotated[Path, typer.Option(help="folder for twins and results")] = Path("models"),
    page: Annotated[Path | None, typer.Option(help="file to write the page to, as Markdown")] = None,
    vllm: Annotated[
        Path | None, typer.Option(help="Python of an environment with vLLM; fills the columns of vLLM")
    ] = None,
    half: Annotated[
        Literal["hf", "vllm"] | None, typer.Option(help="only the columns of this engine", show_default=False)
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="repeat checks that these releases have results for")] = False,
) -> None:
    """Downloads nothing. Results are stored in --work, so that running the command again continues."""
    from lab.architectures.run import check_subjects
    from lab.architectures.verdicts import Entry
    from lab.models.page import COLUMNS, write_page
    from lab.models.subjects import MODELS

    def print_entry(entry: Entry) -> None:
        words = [f"{column} {entry.verdicts[column].word}" for column in COLUMNS if column in entry.verdicts]
        print(f"{entry.name:<20}  {', '.join(words) or '; '.join(entry.notes)}", flush=True)

    entries = check_subjects(MODELS, names or [], work, print_entry, half=half, again=again, vllm=vllm)
    if page is not None:
        page.write_text(write_page(entries), encoding="utf-8")
        print(f"written to {page}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except ICLError as error:
        sys.exit(str(error))
