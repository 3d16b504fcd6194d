"""Fit what a decoding strategy learns on a dev split (weights, biases, priors), and write it into a file."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from icl.errors import ConfigError


def command(
    config: Annotated[Path, typer.Argument(help="an experiment file whose decoding can be fitted", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="keys to put over it, such as task.split=dev shots=8")
    ] = None,
    *,
    out: Annotated[Path | None, typer.Option(help="the file to write; default: STRATEGY.json here")] = None,
) -> None:
    """The task's queries are the dev split; all seeds are fitted together, in one setting of every other key.
    A file with several settings is answered with the command that chooses one.

    `icl fit x.yaml decoding=moicl shots=8 task.split=validation --out weights.json`, where these are axes of the file
    `icl fit x.yaml 'grid.decoding=[moicl]' 'grid.shots=[8]' …`, and then in the run's file
    `decoding: {name: moicl, fitted: weights.json}`. constant_bias fits a bias for each option, batch_calibration their
    prior (it reads no labels).
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
        raise ConfigError(f"{error.reason} This chooses one of each:\n    {shlex.join(words)}") from error
    name = str(type(fitted.strategy).component[1])  # type: ignore[attr-defined]
    path = out or Path(f"{name}.json")
    with report_write_errors(path):
        write_parameter_file(fitted.strategy, path, fitted.how)
    for reason, count in fitted.left_out.items():
        print(f"left out     {count:,} samples: {reason}")
    print(f"fitted       {Arm(fitted.strategy).label} on {fitted.samples:,} samples")
    print(f"wrote        {path}   (decoding: {{name: {name}, fitted: {path}}})")
