"""Compare settings of one run, or the settings of a second run with the first, in pairs."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.options import As, By, Metric, Out, To, Trust, check_format, print_section, view_of
from experiments.config.keys import CORRECTIONS
from experiments.report.sample_detail import parse_settings
from experiments.report.sections.differences import by_sections, differences_section
from experiments.results import RunView, loaded_run, pair_runs, split_view
from experiments.results.view_run import NO_REFERENCE, view_run
from experiments.stats import BASELINE
from experiments.stats.compare import compare
from icl import ConfigError


def command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN [RUN]", help="a run directory, or two", show_default=False)
    ],
    *,
    to: To = None,
    metric: Metric = "",
    by: By = None,
    correct: Annotated[str, typer.Option(help="holm or none; by default that of the config")] = "",
    kind: As = "",
    out: Out = None,
    trust: Trust = False,
) -> None:
    """Arms are paired by query and seed. Arms with other queries or seeds than their reference are refused.

    --to baseline=vote compares with the vote of the demonstrations, without the model. --by takes an axis too: p is
    then corrected within its values. With a column of the data there is a row for each of its values.

    Two runs: the arms of the second against those of the first, and which settings and versions differ.

    `icl compare runs/x --to decoding=greedy --by task`; `icl compare runs/x --by category`; `icl compare runs/x runs/y`
    """

    check_format(kind, out)
    if correct and correct not in CORRECTIONS:
        raise ConfigError(f"--correct is {' or '.join(CORRECTIONS)}, not '{correct}'.")
    setting = parse_settings(to or [], "--to")
    view = _read(runs, metric, [] if BASELINE in setting else to or [], trust=trust, quiet=bool(kind))
    for warning in filter(None, (view.unfinished, view.mixed_versions)):
        print(warning, file=sys.stderr)
    if view.is_sequential:
        raise ConfigError(f"{view.sequential_note} (icl report {view.path})")
    if not (reference := setting or dict(view.to)):
        raise ConfigError("the run has a single arm: there is nothing to compare.")
    axes = [name for name in by or () if name in view.axes]
    columns = [name for name in by or () if name not in view.axes]
    parts = split_view(view, columns) if columns else view
    table = compare(parts.scores, reference, view.metric, correct=correct or view.correct, by=axes, axes=parts.axes)
    section = differences_section(parts, table)
    assert section is not None
    print_section(section, kind, out)
    if columns and not kind and BASELINE not in setting:
        for effects in by_sections(replace(view, by=tuple(columns))):
            if effects.name.startswith("effects-"):
                print_section(effects, kind, out)


def _read(runs: list[Path], metric: str, to: list[str], *, trust: bool, quiet: bool) -> "RunView":
    """The view of one run, or of two paired ones, after sentences on what differs between the two."""

    if len(runs) == 1:
        return view_of(runs[0], metric, to, trust=trust)
    if len(runs) > 2:
        raise ConfigError(f"icl compare takes one run or two, not {len(runs)}. `icl import ALL RUN ...` joins several.")
    if to:
        raise ConfigError("--to: the first of two runs is the reference. Leave it out.")
    first = view_run(loaded_run.load_run(runs[0], trust), metric or None, NO_REFERENCE)
    paired = pair_runs(first, view_run(loaded_run.load_run(runs[1], trust), first.metric, NO_REFERENCE))
    print(*paired.notes, sep="\n", file=sys.stderr if quiet else sys.stdout)
    return paired.view
