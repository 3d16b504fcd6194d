"""Try architectures of vision-language models on tiny random checkpoints: the table in the documentation."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    names: Annotated[list[str] | None, typer.Argument(help="of architectures; none: all", show_default=False)] = None,
    work: Annotated[Path, typer.Option(help="folder for checkpoints and for what was found")] = Path("architectures"),
    table: Annotated[Path | None, typer.Option(help="file to write the page to, as Markdown")] = None,
) -> None:
    """Downloads nothing. In an environment with vLLM, and with the same --work, it fills the columns of vLLM."""
    from experiments.architectures.run import asked
    from experiments.architectures.table import COLUMNS, exceptions, page
    from experiments.architectures.verdicts import Entry

    def told(entry: Entry) -> None:
        words = [f"{column} {entry.verdicts[column].word}" for column in COLUMNS if column in entry.verdicts]
        print(f"{entry.name:<16}  {', '.join(words) or '; '.join(entry.notes)}", flush=True)

    found = asked(names or [], work, told)
    if table is not None:
        table.write_text(page(found.entries, found.versions, found.peculiar), encoding="utf-8")
        print(f"written to {table}")
    for name, column, why in exceptions(found.entries):
        print(f"{name}, {column}: {why}")
