"""Compare settings in pairs: those of one run with their reference, or those of a second run with the first."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.trust_option import Trust
from icl.errors import ConfigError


def command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN [RUN]", help="a run directory, or two", show_default=False)
    ],
    *,
    to: Annotated[
        list[str] | None, typer.Option(help="the reference: decoding=greedy, shots=0, or baseline=vote")
    ] = None,
    metric: Annotated[str, typer.Option(help="the metric; by default that of the config")] = "",
    by: Annotated[list[str] | None, typer.Option(help="an axis, within whose values p is corrected")] = None,
    correct: Annotated[str, typer.Option(help="holm or none; by default that of the config")] = "",
    trust: Trust = False,
) -> None:
    """Arms are paired by query and seed. Arms with other queries or seeds than their reference are refused."""
    from rich.console import Console

    from experiments.report.sample_detail import parse_settings
    from experiments.report.sections.differences import differences_section
    from experiments.results.loaded_run import load_run
    from experiments.results.paired_runs import pair_runs
    from experiments.results.view_run import NO_REFERENCE, view_run
    from experiments.stats.compare import BASELINE, compare

    if len(runs) > 2:
        raise ConfigError(f"icl compare takes one run or two, not {len(runs)}.")
    setting = parse_settings(to or [], "--to")
    reference = NO_REFERENCE if len(runs) == 2 else None if BASELINE in setting else setting
    view = view_run(load_run(runs[0], trust), metric or None, reference)
    if len(runs) == 2:
        paired = pair_runs(view, view_run(load_run(runs[1], trust), view.metric, NO_REFERENCE))
        view = paired.view
        print(*paired.notes, sep="\n")
    print(*filter(None, (view.unfinished, view.mixed_versions)), sep="\n", end="", file=sys.stderr)
    if view.is_sequential:
        raise ConfigError(f"{view.sequential_note} (icl report {view.path})")
    if not (chosen := setting or dict(view.to)):
        raise ConfigError("the run has a single arm: there is nothing to compare.")
    table = compare(view.scores, chosen, view.metric, correct=correct or view.correct, by=by or (), axes=view.axes)
    section = differences_section(view, table)
    assert section is not None
    section.print(Console())
