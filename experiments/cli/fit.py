"""Fit the weights, biases or priors of a decoding strategy on a dev split, and write them to a file."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from icl.errors import ConfigError


def command(
    config: Annotated[
        Path, typer.Argument(help="an experiment file with a decoding that can be fitted", show_default=False)
    ],
    overrides: Annotated[list[str] | None, typer.Argument(help="overrides, such as task.split=dev shots=8")] = None,
    *,
    out: Annotated[Path | None, typer.Option(help="the file to write; by default STRATEGY.json in this folder")] = None,
) -> None:
    """The queries of the task are the dev split. All seeds are fitted together, in one setting of every other key.
    For a file with several settings, the error prints the command that chooses one.

    `icl fit x.yaml decoding=moicl shots=8 task.split=validation --out weights.json`; if these are axes of the file:
    `icl fit x.yaml 'grid.decoding=[moicl]' 'grid.shots=[8]' …`. Then write `decoding: {name: moicl, fitted:
    weights.json}` in the file of the run. constant_bias fits a bias for each option, batch_calibration their prior
    (without labels).
    """
    from decoding.arms.arm import Arm
    from decoding.arms.fitting import write_parameter_file
    from experiments.config.config import load_config
    from experiments.grid.single_setting import SeveralSettingsError
    from experiments.running.fit import fit
    from experiments.store.store import report_write_errors

    try:
        fitted = fit(load_config(config, overrides or []))
    except SeveralSettingsError as error:
        words = ["icl", "fit", str(config), *(overrides or []), *error.overrides, *(["--out", str(out)] if out else [])]
        raise ConfigError(f"{error.reason} This command chooses one of each:\n    {shlex.join(words)}") from error
    name = str(type(fitted.strategy).component[1])  # type: ignore[attr-defined]
    path = out or Path(f"{name}.json")
    with report_write_errors(path):
        write_parameter_file(fitted.strategy, path, fitted.how)
    for reason, count in fitted.left_out.items():
        print(f"left out     {count:,} samples: {reason}")
    print(f"fitted       {Arm(fitted.strategy).label} on {fitted.samples:,} samples")
    print(f"wrote        {path}   (decoding: {{name: {name}, fitted: {path}}})")
