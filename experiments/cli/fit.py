"""Fit the parameters of a decoding strategy, or the vectors of an intervention, on a dev split, and write them."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icl.errors import ConfigError

if TYPE_CHECKING:
    from experiments.config.config import Config


def command(
    config: Annotated[
        Path,
        typer.Argument(help="experiment file with a decoding or intervention to fit", show_default=False),
    ],
    overrides: Annotated[list[str] | None, typer.Argument(help="overrides, such as task.split=dev shots=8")] = None,
    *,
    out: Annotated[Path | None, typer.Option(help="file to write; by default NAME.json or NAME.safetensors")] = None,
    sources: Annotated[
        int | None, typer.Option(help="of an intervention: queries that vectors are made of; by default half", min=1)
    ] = None,
) -> None:
    """The queries of the task are the dev split. All seeds are fitted together, in one setting of every other key.
    For a file with several settings, the error prints the command that chooses one.

    `icl fit x.yaml decoding=moicl shots=8 task.split=validation --out weights.json`; if these are axes of the file:
    `icl fit x.yaml 'grid.decoding=[moicl]' 'grid.shots=[8]' …`. Then write `decoding: {name: moicl, fitted:
    weights.json}` in the file of the run. constant_bias fits a bias for each option, batch_calibration their prior
    (without labels).

    A file with `intervene: task_vector` fits its vectors: the first half of the queries are sources, the others choose
    layers and heads. `icl fit x.yaml intervene=task_vector shots=8 --out v.safetensors`, then
    `intervene: {name: task_vector, fitted: v.safetensors}` with shots: 0.
    """
    from decoding.arms.arm import Arm
    from decoding.arms.fitting import write_parameter_file
    from experiments.config.config import load_config
    from experiments.grid.single_setting import SeveralSettingsError
    from experiments.running.fit import fit, names_intervention
    from experiments.store.store import report_write_errors

    parsed = load_config(config, overrides or [])
    try:
        if names_intervention(parsed):
            return _fit_vectors(parsed, out, sources)
        fitted = fit(parsed)
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
    return None


def _fit_vectors(config: "Config", out: Path | None, sources: int | None) -> None:
    """Fits and writes the vectors of an intervention."""
    from decoding.interventions.vector_file import SUFFIX, write_vector_file
    from experiments.running.fit import fit_vectors
    from experiments.store.store import report_write_errors
    from experiments.terminal.spinner import spinner

    if out is not None and out.suffix != SUFFIX:
        raise ConfigError(f"--out: {out} must end in {SUFFIX}. A JSON file of the same name is written beside it.")
    with spinner() as report_progress:
        result = fit_vectors(config, sources, report_progress)
    name = str(type(result.method).component[1])  # type: ignore[attr-defined]
    path, fitted = out or Path(f"{name}{SUFFIX}"), result.fitted
    with report_write_errors(path):
        write_vector_file(
            path,
            name,
            tensors=fitted.tensors,
            parameters=fitted.parameters,
            record=result.record,
            report=fitted.report,
        )
    for warning in result.warnings:
        print(f"warning      {warning}")
    if result.left_out:
        print(f"left out     {result.left_out:,} samples without a prompt")
    for key, value in fitted.report.items():
        if isinstance(value, float):
            print(f"{key.replace('_', ' '):<12} {value:.2f}")
        elif isinstance(value, dict):
            print(f"{key.replace('_', ' '):<12} {', '.join(f'{one}: {number:.2f}' for one, number in value.items())}")
    chosen = ", ".join(f"{key} {value}" for key, value in fitted.parameters.items())
    print(f"fitted       {name} ({chosen}) on {len(result.record['sources']):,} prompts")
    print(f"wrote        {path}   (intervene: {{name: {name}, fitted: {path}}})")
