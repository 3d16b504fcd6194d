"""Try architectures of vision-language models on tiny random checkpoints: the table in the documentation."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    names: Annotated[list[str] | None, typer.Argument(help="of architectures; none: all", show_default=False)] = None,
    *,
    work: Annotated[Path, typer.Option(help="folder for checkpoints and for what was found")] = Path("architectures"),
    table: Annotated[Path | None, typer.Option(help="file to write the page to, as Markdown")] = None,
    vllm: Annotated[
        Path | None, typer.Option(help="Python of an environment with vLLM, which then fills the columns of vLLM")
    ] = None,
    half: Annotated[
        Literal["hf", "vllm"] | None, typer.Option(help="only the columns of this engine", show_default=False)
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="ask what was answered by the same releases too")] = False,
) -> None:
    """Downloads nothing. What is answered is kept in --work: the same command goes on where another stopped.

    vLLM needs an environment of its own (the README says how): name its Python, or run this there with the same
    --work.
    """
    from experiments.architectures.run import asked
    from experiments.architectures.table import COLUMNS, exceptions, page
    from experiments.architectures.verdicts import Entry

    def told(entry: Entry) -> None:
        words = [f"{column} {entry.verdicts[column].word}" for column in COLUMNS if column in entry.verdicts]
        print(f"{entry.name:<16}  {', '.join(words) or '; '.join(entry.notes)}", flush=True)

    found = asked(names or [], work, told, half=half, again=again, vllm=vllm)
    if table is not None:
        table.write_text(page(found.entries, found.peculiar), encoding="utf-8")
        print(f"written to {table}")
    for name, column, why in exceptions(found.entries) if half is None else ():
        print(f"{name}, {column}: {why}")
