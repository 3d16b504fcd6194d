"""Checks twins of published models and writes `docs/models.md`.

python -m lab.models --vllm .venv-vllm/bin/python --page docs/models.md
"""

from pathlib import Path
from typing import Annotated

import typer

from lab.architectures.__main__ import VLLM, Again, Half, Names, Work, printer, run_command


def main(
    names: Names = None,
    *,
    work: Work = Path("models"),
    page: Annotated[Path | None, typer.Option(help="file to write the page to, as Markdown")] = None,
    vllm: VLLM = None,
    half: Half = None,
    again: Again = False,
) -> None:
    """Downloads nothing. Results are stored in --work, so that running the command again continues."""
    from lab.architectures.run import check_subjects
    from lab.models.page import COLUMNS, write_page
    from lab.models.subjects import MODELS

    entries = check_subjects(MODELS, names or [], work, printer(COLUMNS), half=half, again=again, vllm=vllm)
    if page is not None:
        page.write_text(write_page(entries), encoding="utf-8")
        print(f"written to {page}")


if __name__ == "__main__":
    run_command(main)
