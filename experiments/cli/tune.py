"""Train an adapter or vectors on episodes with demonstrations, and compare the model before and after."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.cli.main import INTERRUPTED
from experiments.config.keys import TuningControl

if TYPE_CHECKING:
    from experiments.tuning.train import TrainingOutcome


def command(
    file: Annotated[
        Path, typer.Argument(help="a YAML file with the key tune, or a name of `icl ls configs`", show_default=False)
    ],
    overrides: Annotated[list[str] | None, typer.Argument(help="dotted keys, such as tune.steps=500")] = None,
    *,
    out: Annotated[Path | None, typer.Option(help="folder of the adapters; by default adapters/NAME")] = None,
    control: Annotated[
        list[TuningControl] | None,
        typer.Option(help="also train a control: without demonstrations, or shuffled answers"),
    ] = None,
    runs: Annotated[Path, typer.Option(help="the folder of run directories")] = Path("runs"),
    figure: Annotated[
        Path | None, typer.Option(help="draw the losses of all adapters as PDF, PNG or SVG", show_default=False)
    ] = None,
    evaluate: Annotated[bool, typer.Option(help="run the study before and after")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress, no table")] = False,
) -> None:
    """The study of the file is the test. Its retriever, order, transforms and composer make the training prompts of
    `tune.task`, so that a tuned and an untuned arm differ by the adapter alone. Test images among the training images
    are refused.

    `icl tune tune_binding --control zero_shot --control shuffled` trains three adapters in adapters/tune_binding, and
    runs the study with the base model and each adapter. The same command again continues what was interrupted.
    `model: {name: hf, adapter: adapters/tune_binding/tuned}` loads the adapter. With `tune.parameters: vectors`, the
    tensors of an intervention train, as in `icl tune tune_m2iv`.
    """
    from experiments.cli.run import run_config
    from experiments.config.config import load_config
    from experiments.report.figure import check_figure_file
    from experiments.report.loss_curves import draw_losses
    from experiments.terminal.spinner import spinner
    from experiments.tuning.checkpoint import CURVE
    from experiments.tuning.tune import TUNED, evaluation_config, tune

    config = load_config(file, overrides or [])
    folder = out or Path("adapters") / config.name
    if figure is not None:
        check_figure_file(figure)
    controls = control or []
    try:
        with spinner() as report_progress:
            outcomes = tune(config, folder, controls, report_progress)
        for outcome in outcomes:
            print(_line(outcome))
        if figure is not None:
            draw_losses({outcome.folder.name: outcome.folder / CURVE for outcome in outcomes}, figure)
            print(f"wrote        {figure}")
        if evaluate:
            run_config(evaluation_config(config, outcomes), runs, quiet)
    except KeyboardInterrupt:
        print(f"stopped. {_checkpoints(folder, (TUNED, *controls))} Run the same command to continue.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def _checkpoints(folder: Path, names: Sequence[str]) -> str:
    """The step of the last checkpoint of each adapter."""
    from experiments.tuning.checkpoint import saved_step

    steps = {name: step for name in names if (step := saved_step(folder / name)) is not None}
    if not steps:
        return "No checkpoint was written."
    return f"Last checkpoints in {folder}: {', '.join(f'{name} at step {step:,}' for name, step in steps.items())}."


def _line(outcome: "TrainingOutcome") -> str:
    losses = f"loss {outcome.first_loss:.3f} → {outcome.last_loss:.3f}" if outcome.computed else "nothing to do"
    speed = f", {outcome.tokens / outcome.seconds:,.0f} tokens/s" if outcome.tokens else ""
    return f"tuned        {outcome.folder}   {outcome.steps:,} steps, {losses}{speed}"
