"""Fit a strategy, an intervention or a retriever, or train an adapter, as a file says."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from decoding import Arm, FittedTensors, write_parameter_file
from decoding.interventions.vector_file import SUFFIX, write_vector_file
from experiments.cli.main import INTERRUPTED
from experiments.cli.options import ConfigFile, Overrides, Quiet, RunsFolder
from experiments.config import Config, TuningControl, load_config
from experiments.report.figure import Figure, Line, check_figure_file, dashed_lines, encode_lines
from experiments.store.store import report_write_errors
from experiments.terminal.progress import spinner
from icl import ConfigError, StoreError, alt, filelock, pd

if TYPE_CHECKING:
    from experiments.tuning.train import TrainingOutcome


def command(
    config: ConfigFile,
    overrides: Overrides = None,
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="file to write; by default NAME.json or NAME.safetensors; of training: adapters/NAME"),
    ] = None,
    sources: Annotated[
        int | None, typer.Option(help="of an intervention: queries that vectors are made of; by default half", min=1)
    ] = None,
    control: Annotated[
        list[TuningControl] | None,
        typer.Option(help="of training: also train a control: without demonstrations, or shuffled answers"),
    ] = None,
    runs: RunsFolder = Path("runs"),
    figure: Annotated[
        Path | None, typer.Option(help="of training: draw the losses as PDF, PNG or SVG", show_default=False)
    ] = None,
    evaluate: Annotated[bool, typer.Option(help="of training: run the study before and after")] = True,
    quiet: Quiet = False,
) -> None:
    """A file with the key `tune` trains an adapter or vectors on episodes with demonstrations, and compares the model
    before and after. Otherwise the parameters of a strategy, the vectors of an intervention, or the head of a retriever
    are fitted on a dev split.

    Fitting: the queries of the task are the dev split. All seeds are fitted together, in one setting of every other
    key. For a file with several settings, the error prints the command that chooses one.

    `icl fit x.yaml decoding=moicl shots=8 task.split=validation --out weights.json`; if these are axes of the file:
    `icl fit x.yaml 'grid.decoding=[moicl]' 'grid.shots=[8]' …`. Then write `decoding: {name: moicl, fitted:
    weights.json}` in the file of the run. constant_bias fits a bias for each option, batch_calibration their prior
    (without labels), and moicl_hypernetwork a network in a .safetensors file.

    A file with `intervene: task_vector` fits its vectors: the first half of the queries are sources, the others choose
    layers and heads. `icl fit x.yaml intervene=task_vector shots=8 --out v.safetensors`, then
    `intervene: {name: task_vector, fitted: v.safetensors}` with shots: 0.

    A file with `retriever: learned` fits its head on the model's feedback: how probable the gold of each query is with
    one demonstration. `icl fit x.yaml 'retriever={name: learned}' task.split=train --out h.safetensors`, then
    `retriever: {name: learned, fitted: h.safetensors}`. The numbers are in h.feedback.jsonl, so a fit that was
    stopped continues, and other settings of the head cost no call of the model. `controls: default` adds heads of
    permuted feedback and of equal answers.

    Training: the study of the file is the test. Its retriever, order, transforms and composer make the training prompts
    of `tune.task`, so that a tuned and an untuned arm differ by the adapter alone. Test images among the training
    images are refused. `icl fit tune_binding --control zero_shot --control shuffled` trains three adapters in
    adapters/tune_binding, and runs the study with the base model and each adapter. The same command again continues
    what was interrupted. `model: {name: hf, adapter: adapters/tune_binding/tuned}` loads the adapter. With
    `tune.parameters: vectors`, the tensors of an intervention train, as in `icl fit tune_m2iv`.
    """
    from experiments.running.feedback import names_learning_retriever
    from experiments.running.fit import SeveralSettingsError, names_intervention

    parsed = load_config(config, overrides or [])
    if parsed.tune is not None:
        _train(parsed, out, control or [], runs, figure, evaluate=evaluate, quiet=quiet)
        return
    if control or figure is not None:
        raise ConfigError(
            f"{'--control' if control else '--figure'} needs a file with the key `tune`. {config} has none."
        )
    try:
        if names_learning_retriever(parsed):
            _fit_retriever(parsed, out)
        else:
            (_fit_vectors if names_intervention(parsed) else _fit_strategy)(parsed, out, sources)
    except SeveralSettingsError as error:
        words = ["icl", "fit", str(config), *(overrides or []), *error.overrides, *(["--out", str(out)] if out else [])]
        raise ConfigError(f"{error.reason} This command chooses one of each:\n    {shlex.join(words)}") from error


def _fit_strategy(config: Config, out: Path | None, _: int | None) -> None:
    from experiments.running.fit import fit

    fitted = fit(config, out)
    name, strategy = fitted.name, fitted.strategy
    path = out or Path(f"{name}{SUFFIX if isinstance(strategy, FittedTensors) else '.json'}")
    with report_write_errors(path):
        if isinstance(strategy, FittedTensors):
            tensors, parameters, report = strategy.tensors, strategy.parameters, strategy.report
            write_vector_file(path, name, tensors=tensors, parameters=parameters, record=fitted.how, report=report)
            label = f"{name}, loss {report['loss']:.3f}"
        else:
            write_parameter_file(strategy, path, fitted.how)
            label = Arm(strategy).label
    for reason, count in fitted.left_out.items():
        print(f"left out     {count:,} samples: {reason}")
    print(f"fitted       {label} on {fitted.samples:,} samples")
    print(f"wrote        {path}   (decoding: {{name: {name}, fitted: {path}}})")


def _fit_retriever(config: Config, out: Path | None) -> None:
    """Fits and writes the head of a retriever, with the feedback beside it."""

    from experiments.running.feedback import fit_retriever

    path = out or Path("learned.safetensors")
    if path.suffix != ".safetensors":
        raise ConfigError(f"--out: {path} must end in .safetensors.")
    with report_write_errors(path):  # before any call of the model
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(path.with_name(f".{path.stem}.lock"), timeout=0), spinner() as report_progress:
                result = fit_retriever(config, path, report_progress)
                result.heads.save(path)
        except filelock.Timeout as error:
            raise ConfigError(f"--out: another process fits {path}. Wait for it, or write to another file.") from error
    for reason, count in result.left_out.items():
        print(f"left out     {count:,} prompts: {reason}")
    for warning in result.warnings:
        print(f"warning      {warning}")
    record, probe = result.heads.record, result.heads.report
    calls, tokens = record["calls"], record["tokens"]
    own, without = (sum(probe[key]) / len(probe[key]) for key in ("probe", "probe_without_match"))
    print(f"feedback     {calls:,} calls of the model ({tokens:,} tokens), {result.calls:,} of them now")
    print(f"probe        {own:.2f} of pairs of demonstrations in the model's order, for queries new to the head")
    print(f"             (chance 0.50, a head with the feedback of other queries {without:.2f})")
    print(f"wrote        {path}   (retriever: {{name: learned, fitted: {path}}})")


def _fit_vectors(config: Config, out: Path | None, sources: int | None) -> None:
    """Fits and writes the vectors of an intervention."""
    from experiments.running.fit import fit_vectors

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


def _train(
    config: Config, out: Path | None, controls: Sequence[TuningControl], runs: Path, figure: Path | None,
    *, evaluate: bool, quiet: bool,
) -> None:  # fmt: skip
    """Trains the adapters of a file with `tune`, and runs its study with each of them."""
    from experiments.cli.run import run_config
    from experiments.tuning.checkpoint import CURVE
    from experiments.tuning.tune import TUNED, evaluation_config, tune

    folder = out or Path("adapters") / config.name
    if figure is not None:
        check_figure_file(figure)
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


PANELS = {"loss": "loss of the step", "dev_loss": "loss on dev episodes"}
"""Key of a line -> title of its panel."""


def read_curve(path: Path, key: str) -> list[tuple[int, float]]:
    """(step, loss) of each line with this key. Raises StoreError if the file is not one of losses."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [(int(line["step"]), float(line[key])) for line in lines if key in line]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is no file of losses ({type(error).__name__}: {error}).") from error


def draw_losses(curves: Mapping[str, Path], path: Path) -> None:
    """Draws the losses of several adapters: name -> its file. Raises StoreError."""
    panels, looks = {}, {name: Line(number, number) for number, name in enumerate(curves)}
    for key, title in PANELS.items():
        rows = [(name, *point) for name, file in curves.items() for point in read_curve(file, key)]
        data = pd.DataFrame(rows, columns=["line", "step", "loss"])
        x = alt.X("step:Q", title="finished steps")
        y = alt.Y("loss:Q", title="loss, in nats", scale=alt.Scale(zero=False))
        marks = alt.Chart(data).mark_point(filled=True, size=30, opacity=float(key != "loss"))
        if rows or key == "loss":
            panels[title] = alt.layer(
                *dashed_lines(data, looks, 1, x=x, y=y), marks.encode(x=x, y=y, **encode_lines(looks))
            )
    Figure(panels, looks).write(path.with_suffix(""), [path.suffix[1:]])
