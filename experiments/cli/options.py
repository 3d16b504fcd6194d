"""Arguments and options that several commands take, each written once."""

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.config.shipped import SUFFIXES, shipped_configs
from icl import ConfigError, did_you_mean, entries, rich

if TYPE_CHECKING:
    from experiments.report.section import Section
    from experiments.results.run_view import RunView

FORMATS = {
    "latex": ".tex",
    "markdown": ".md",
    "csv": ".csv",
    "jsonl": ".jsonl",
    "pdf": ".pdf",
    "png": ".png",
    "svg": ".svg",
}
"""Formats of `--as` and the endings of their files. The last three are of figures."""


def complete_config(incomplete: str) -> list[str]:
    """Names of shipped experiments, experiment files and folders that begin with a text."""
    paths = [
        f"{path}/" if os.path.isdir(path) else path
        for path in sorted(glob.glob(f"{glob.escape(incomplete)}*"))
        if os.path.isdir(path) or path.endswith(SUFFIXES)
    ]
    return [*(name for name in shipped_configs() if name.startswith(incomplete)), *paths]


Run = Annotated[Path, typer.Argument(help="a run directory", show_default=False)]
ConfigFile = Annotated[
    Path,
    typer.Argument(
        help="a YAML file, or a name of `icl ls configs`", show_default=False, autocompletion=complete_config
    ),
]
Overrides = Annotated[list[str] | None, typer.Argument(help="dotted keys, such as grid.shots=[0,4]")]
RunsFolder = Annotated[Path, typer.Option("--runs", help="the folder of run directories")]
Limit = Annotated[
    int | None, typer.Option(min=1, help="the first N queries of each task, in this process", show_default=False)
]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress, no table")]
Metric = Annotated[str, typer.Option(help="the metric; by default that of the config", show_default=False)]
To = Annotated[
    list[str] | None,
    typer.Option(help="the reference arm, such as decoding=greedy or shots=0; by default that of the config"),
]
By = Annotated[
    list[str] | None, typer.Option(help="a column of the data, such as category; repeatable", show_default=False)
]
As = Annotated[
    str, typer.Option("--as", help="latex, markdown, csv or jsonl; pdf, png or svg for the figure", show_default=False)
]
Out = Annotated[
    Path | None, typer.Option(help="with --as: the file; a table is printed by default", show_default=False)
]
Trust = Annotated[
    bool, typer.Option("--trust", help="run code and contact addresses that the run names; check them first")
]


def view_of(
    run: Path, metric: str = "", to: list[str] | None = None, by: list[str] | None = None, *, trust: bool = False
) -> "RunView":
    """A run as `--metric`, `--to`, `--by` and `--trust` ask for it. Raises ICLError, also for a wrong column."""
    from experiments.report.sample_detail import parse_settings
    from experiments.results import column_values, load_run
    from experiments.results.view_run import view_run

    view = view_run(load_run(run, trust), metric or None, parse_settings(to or [], "--to"), by)
    for name in by or ():
        column_values(view.frame, name, view.axes)
    return view


def model_node(text: str) -> Any:
    """The config node of `--model`: a name, a YAML mapping, or the path of a checkpoint. Raises ConfigError."""
    from experiments.config.yaml_document import parse_yaml

    node, _ = parse_yaml(text, "--model")
    if isinstance(node, str) and node not in entries("model") and ".py:" not in node:
        return {"name": "hf", "path": node}
    return node


def check_format(kind: str, out: Path | None) -> None:
    """Raises ConfigError for an unknown `--as`, or `--out` without it: before a computation that may take hours."""
    if kind and kind not in FORMATS:
        raise ConfigError(f"--as is one of {', '.join(FORMATS)}, not '{kind}'.{did_you_mean(kind, FORMATS)}")
    if out is not None and not kind:
        near = next((name for name, suffix in FORMATS.items() if suffix == out.suffix), "markdown")
        raise ConfigError(f"--out needs a format, such as --as {near} --out {out}.")


def print_section(section: "Section", kind: str, out: Path | None, width: float = 0) -> None:
    """Prints a section, or writes it in a format of `--as`. width: of a figure, in inches."""
    from experiments.report import figure
    from experiments.store.store import csv_text, write_text

    if not kind:
        section.print(rich.console.Console())
        return
    if kind in figure.FORMATS:
        path = out or Path(section.name)
        if section.figure is None:
            raise ConfigError(f"'{section.name}' has no figure. --as latex, markdown, csv or jsonl writes its table.")
        (written,) = section.figure.write(path.with_suffix(""), [kind], width)
        print(f"wrote {written}")
        return
    if kind in ("csv", "jsonl"):
        if section.frame is None:
            raise ConfigError(f"'{section.name}' has no table, only text: --as markdown.")
        text = csv_text(section.frame) if kind == "csv" else section.frame.to_json(orient="records", lines=True)
    else:
        text = section.to_latex() if kind == "latex" else section.to_markdown()
    text = f"{text.rstrip()}\n"
    if out is None:
        print(text, end="")
        return
    write_text(out, text)
    print(f"wrote {out}")
