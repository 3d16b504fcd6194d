"""Show one sample of a run: prompt, demonstrations, answer, scores, steps, and the answers of other arms."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.trust_option import Trust


def command(
    run: Annotated[Path, typer.Argument(help="a run directory, or a file with --prompt", show_default=False)],
    sample: Annotated[
        str, typer.Argument(help="a query id, or a prefix of it or of its image's digest", show_default=False)
    ] = "",
    arm: Annotated[
        list[str] | None, typer.Option(help="the arm, such as decoding=vcd or shots=8,retriever=knn")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="the seed; by default the first", show_default=False)] = None,
    *,
    steps: Annotated[bool, typer.Option("--steps", help="the numbers of each step: tokens, entropy, …")] = False,
    prompt: Annotated[
        bool, typer.Option("--prompt", help="the prompt as the model's processor renders it, and its branches")
    ] = False,
    failed: Annotated[bool, typer.Option("--failed", help="list the failed samples with their reasons")] = False,
    trust: Trust = False,
) -> None:
    """If --arm matches several arms: the most shots, the reference, the first seed.

    By default the query is the first that this arm answers wrongly. If the run stored them (`top_logprobs: 5`), the
    branches of each step are printed side by side. With --prompt, an experiment file can replace the run: the prompt is
    rendered without running anything.
    """
    from rich.console import Console

    if prompt:
        from experiments.report.rendered_prompt import print_prompt
        from experiments.report.sample_detail import parse_settings

        print_prompt(run, sample, parse_settings(arm or [], "--arm"), seed, Console(), trust=trust)
        return

    from experiments.report.sample_detail import (
        MAX_EXAMPLE_IDS,
        parse_settings,
        print_failures,
        print_sample,
    )
    from experiments.results.loaded_run import load_run
    from experiments.results.view_run import view_run

    view = view_run(load_run(run, trust))
    console = Console()
    if failed:
        print_failures(view, console)
        return
    setting = parse_settings(arm or [], "--arm")
    print_sample(view, sample, setting, seed, console, steps=steps)
    if not sample:
        ids = list(dict.fromkeys(map(str, view.frame["query"])))
        such = f", such as {', '.join(ids[:MAX_EXAMPLE_IDS])}" if len(ids) > 1 else ""
        line = f"\n{len(ids):,} queries{such}: icl show {run} QUERY"
        console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)
