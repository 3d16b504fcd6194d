"""Write the results card of a run: what was run, on what, scores with intervals, and digests of all samples."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.trust_option import Trust


def command(
    run: Annotated[Path, typer.Argument(help="a run directory", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="the folder of the two files; by default the run directory", show_default=False)
    ] = None,
    trust: Trust = False,
) -> None:
    """Writes card.json, and card.md with the same content to read.

    `icl verify` checks a run directory against its card.
    """
    from experiments.results.loaded_run import load_run
    from experiments.sharing.card import make_card
    from experiments.sharing.card_text import card_text
    from experiments.stats.formatting import format_count
    from experiments.store.store import refuse_links, report_write_errors, write_json, write_text
    from experiments.terminal.spinner import spinner

    with spinner() as report_progress:
        report_progress("reading", 0, 0)
        loaded = load_run(run, trust)
        card = make_card(loaded)
    folder = out or loaded.path
    refuse_links(folder)
    with report_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "card.json", card)
    write_text(folder / "card.md", card_text(card))
    print(f"card    {folder / 'card.json'}, {folder / 'card.md'}")
    size = f"{format_count(card['samples'], 'sample')} in {format_count(len(card['cells']), 'cell')}"
    print(f"digest  {card['digest']} ({size})")
