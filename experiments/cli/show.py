"""Show a result: the answer, a section, a sample, a prompt or the progress; --as latex, csv or pdf."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from experiments.cli.main import INTERRUPTED
from experiments.cli.options import As, By, Metric, Out, To, Trust, check_format, print_section, view_of
from experiments.launch.watch import RunWatcher
from experiments.report import Section, print_prompt, read_width
from experiments.report.page import find_section, sections, view_by_section
from experiments.report.sample_detail import MAX_EXAMPLE_IDS, parse_settings, print_failures, print_sample
from experiments.results.run_view import RunView
from experiments.terminal.progress import make_progress
from icl import ConfigError


def command(
    run: Annotated[
        Path, typer.Argument(help="a run directory; for `prompt` also an experiment file", show_default=False)
    ],
    section: Annotated[
        str,
        typer.Argument(
            help="scores, differences, … (`icl show RUN` lists them), or sample, prompt, failed, progress",
            show_default=False,
        ),
    ] = "",
    query: Annotated[
        str,
        typer.Argument(
            help="of sample and prompt: a query id, or a prefix of it or of its image's digest", show_default=False
        ),
    ] = "",
    *,
    kind: As = "",
    out: Out = None,
    metric: Metric = "",
    to: To = None,
    by: By = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(help="only these arms, such as decoding=vcd or shots=8,retriever=knn; of sample and prompt: one"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="of sample and prompt: the seed; by default the first", show_default=False)
    ] = None,
    controls: Annotated[
        bool, typer.Option("--controls", help="also the controls, which tables and figures leave out")
    ] = False,
    rows: Annotated[list[str] | None, typer.Option(help="an axis of the rows, such as decoding; repeatable")] = None,
    columns: Annotated[str, typer.Option(help="the axis of the columns; by default the shots")] = "",
    width: Annotated[str, typer.Option(help="of a figure: its width, such as 3.3in for a column of a paper")] = "",
    steps: Annotated[
        bool, typer.Option("--steps", help="of sample: the numbers of each step: tokens, entropy, …")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", help="follow the progress until the run ends")] = False,
    trust: Trust = False,
) -> None:
    """`icl show runs/x` prints the answer and the names of all sections, `icl show runs/x scores` one of them.

    sample: prompt, demonstrations, answer, scores and the answers of other arms. By default the query is the first that
    the arm answers wrongly; the arm is the one with the most shots, the reference, the first seed. If the run stored
    them (`top_logprobs: 5`), the branches of each step are printed side by side. prompt: the prompt as the model's
    processor writes it, and its branches, without running anything. failed: the failed samples with their reasons.

    progress: finished cells and samples, failed samples, samples per second, the remaining time and running workers,
    and what the run shows so far: verdicts with `stop`, else differences with intervals. They hold at any time.
    Ordinary p-values of a growing run do not, and are not printed. --follow reads only the run directory, from any
    machine that has it, and ends with the run. Its exit status: 0 if all samples are present, 1 if some failed or no
    worker is left, 130 after Ctrl-C (which does not stop the run).
    """

    if follow and section not in ("", "progress"):
        raise ConfigError(f"--follow shows the progress of a run. Leave out '{section}'.")
    check_format(kind, out)
    inches, arms, console = read_width(width) if width else 0, parse_settings(arm or [], "--arm"), Console()
    if follow or section == "progress":
        _show_progress(run, follow)
        return
    if section == "prompt":
        print_prompt(run, query, arms, seed, console, trust=trust)
        return
    view = view_of(run, metric, to, by or None, trust=trust)
    view = view if by else view_by_section(view, section)
    if section == "failed":
        print_failures(view, console)
    elif section == "sample":
        print_sample(view, query, arms, seed, console, steps=steps)
        if not query:
            ids = list(dict.fromkeys(map(str, view.frame["query"])))
            such = f", such as {', '.join(ids[:MAX_EXAMPLE_IDS])}" if len(ids) > 1 else ""
            _print(console, f"\n{len(ids):,} queries{such}: icl show {view.path} sample QUERY")
    else:
        for warning in filter(None, (view.unfinished, view.mixed_versions)):
            print(warning, file=sys.stderr)
        for name in [f"by-{one}" for one in by] if by and section == "scores" else [section]:
            print_section(_section(view, name).select(arms, controls).turned(rows or (), columns), kind, out, inches)
        if not section and not kind:
            _print(console, f"\nicl show {view.path} SECTION")
            for one in sections(view):
                _print(console, f"  {one.name:<12} {one.folded or one.title}")


def _print(console: Console, line: str) -> None:
    console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)


def _section(view: RunView, section: str) -> Section:
    try:
        return find_section(view, section or "answer")
    except ConfigError as error:
        if section in set(map(str, view.frame["query"])):
            raise ConfigError(f"A query is shown by: icl show {view.path} sample {section}") from error
        raise ConfigError(f"{error} Also: sample, prompt, failed, progress.") from error


def _show_progress(run: Path, follow: bool) -> None:
    watch = RunWatcher(run)
    if not follow:
        print(f"{watch.poll().describe()}   {watch.folder}")
        print(*(f"  {sentence}\n" for sentence in watch.comparisons()), sep="", end="")
        return
    try:
        status = watch.follow(make_progress())
    except KeyboardInterrupt:
        print("stopped following. The run continues.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    if status.complete:
        print(f"complete     {status.finished:,} samples, {status.failed:,} failed   {watch.folder}")
        print(f"Run its `icl run` command to print the table, or `icl report {watch.folder}` to write the report.")
    else:
        ended = f"{watch.folder}: no worker is running. {status.describe()}. Run its `icl run` command to continue."
        print(ended, file=sys.stderr)
        print(*(f"  {sentence}\n" for sentence in watch.comparisons()), sep="", end="")
    if status.failed or not status.complete:
        raise typer.Exit(1)
