"""Check a run directory against its results card, and compute 50 random samples again."""

import secrets
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.cli.trust_option import Trust
from icl.errors import StoreError, strip_control_characters

if TYPE_CHECKING:
    from experiments.results.loaded_run import Run

MAX_LINES = 10


def command(
    card: Annotated[Path, typer.Argument(help="card.json, or a run directory with one", show_default=False)],
    *,
    run: Annotated[
        Path | None, typer.Option(help="the run directory; by default that with the card", show_default=False)
    ] = None,
    samples: Annotated[int, typer.Option(help="samples to compute again; 0 needs no model", min=0)] = 50,
    seed: Annotated[
        int | None, typer.Option(help="seed of the choice of samples; by default a new one each time", min=0)
    ] = None,
    allow: Annotated[int, typer.Option(help="answers that may differ", min=0)] = 0,
    trust: Trust = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Checks the digest of the card, the digest of every sample, and that the samples give the card's scores.

    Then it scores all stored answers again, computes random samples again with the same cells, and says how many agree.
    Expected: every prompt agrees. In float32 with the versions and kind of device of the card, every answer agrees.
    Elsewhere a few may differ, because sums are rounded in another order.

    Exit status: 0 if everything agrees, 1 if something was edited, a prompt differs, or more answers differ than
    --allow.
    """
    from experiments.results.loaded_run import load_run
    from experiments.sharing.card import read_card
    from experiments.sharing.verify import problems_of_card
    from experiments.stats.formatting import format_count
    from experiments.store.imported import IMPORTED, MERGED

    content = read_card(card)
    folder = run or (card if card.is_dir() else card.parent)
    if run is None and not (folder / "run.json").is_file():
        raise StoreError(f"{folder} has no run.json beside the card. Name the run directory with --run.")
    loaded = replace(load_run(folder, trust), from_lines=True)  # a cache may have other scores than the lines
    problems = list(problems_of_card(content, loaded))
    for problem in problems[:MAX_LINES]:
        _print(f"wrong       {problem}.")
    if len(problems) > MAX_LINES:
        print(f"wrong       {len(problems) - MAX_LINES:,} more of these.")
    if not problems:
        total = format_count(content["samples"], "sample")
        print(f"digests     the card and its {total} are unchanged, and the samples give its scores")
    if unfinished := content.get("unfinished"):
        _print(f"unfinished  {unfinished}")
    origin = next((key for key in (IMPORTED, MERGED) if key in loaded.info), "")
    if origin and samples:
        print(f"no samples  were computed again: the run was {origin}, so no config computes them")
    elif not samples:
        print("no samples  were computed again, and no stored answer was scored again (--samples 0)")
    if origin or not samples:
        _print_unchecked(content.get("failed", 0))
    agree = origin or not samples or _compute_again(content, loaded, samples, seed, allow=allow, quiet=quiet)
    if problems or not agree:
        raise typer.Exit(1)


def _compute_again(
    card: dict[str, Any], run: "Run", samples: int, seed: int | None, *, allow: int, quiet: bool
) -> bool:
    """Prints how many samples agree. Returns whether enough do."""
    from experiments.sharing.verify import (
        AGREEMENT,
        draw_samples,
        environment_differences,
        grid_of,
        recompute,
        scored_by_other_rules,
        wrong_descriptions,
        wrong_queries,
        wrong_scores,
    )
    from experiments.stats.formatting import format_count
    from experiments.terminal.progress import make_progress

    grid = grid_of(run, card["cells"])
    queries = [
        *wrong_descriptions(run, grid),
        *wrong_queries(run, grid, unfinished=bool(card.get("unfinished"))),
    ]
    scores = list(wrong_scores(run, grid))
    for sentence in queries[:MAX_LINES] + scores[:MAX_LINES]:
        _print(f"wrong       {sentence}.")
    if scores and (others := scored_by_other_rules(run, grid)):
        _print(
            f"scores      of {', '.join(others)} come from a version with other rules, by run.json, which may be why "
            "they differ. The `icl run` command of the run scores its answers again"
        )
    if not scores:
        print("scores      every stored answer has the scores that the metrics give it")
    seed = secrets.randbits(32) if seed is None else seed
    chosen = draw_samples(run, list(card["cells"]), samples, seed)
    results = recompute(grid, chosen, make_progress(quiet))
    prompts, answers = sum(one.same_prompt for one in results), sum(one.same_answer for one in results)
    for one in [one for one in results if not one.same_prompt or not one.same_answer][:MAX_LINES]:
        _print(f"differs     {one.describe()}")
    print(f"computed    {format_count(len(results), 'random sample')} again (--seed {seed})")
    print(f"agree       {prompts:,} of {len(results):,} prompts, {answers:,} of {len(results):,} answers")
    _print_unchecked(card.get("failed", 0) - sum(bool(one.stored.get("failed")) for one in results))
    if differences := environment_differences(card):
        _print(f"here        {differences}")
    print(AGREEMENT, file=sys.stderr)
    return not queries and not scores and prompts == len(results) and len(results) - answers <= allow


def _print_unchecked(failed: int) -> None:
    """Says that failed samples were not computed again: any of them may be an answer that somebody marked as failed."""
    from experiments.stats.formatting import format_count

    if failed > 0:
        verb = "was" if failed == 1 else "were"
        print(f"failed      {format_count(failed, 'failed sample')} {verb} not checked")


def _print(text: str) -> None:
    print(strip_control_characters(text))
