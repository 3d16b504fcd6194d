"""Completion of the command line in a shell: commands, options, and the experiments that come with the package."""

import glob
import importlib
import os
from collections.abc import Callable, Mapping, Sequence

import typer

from experiments.config.shipped import SUFFIXES, shipped_configs

TYPED = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")
"""Variables in which shells pass the words so far."""


def complete(words: Sequence[str], summaries: Mapping[str, str]) -> int:
    """Installs or prints the completion, or answers a shell that asks for completions. Returns the exit status.

    Args:
        words: The words after `icl`.
        summaries: The line of each command.
    """
    typed = {word for name in TYPED for word in os.environ.get(name, "").split()}
    app = typer.Typer(rich_markup_mode=None)
    for name, summary in summaries.items():
        app.command(name, help=summary)(_command(name) if name in typed else _nothing)
    try:
        app(args=list(words), prog_name="icl")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def complete_config(incomplete: str) -> list[str]:
    """Names of shipped experiments, experiment files and folders that begin with a text."""
    paths = [
        f"{path}/" if os.path.isdir(path) else path
        for path in sorted(glob.glob(f"{glob.escape(incomplete)}*"))
        if os.path.isdir(path) or path.endswith(SUFFIXES)
    ]
    return [*(name for name in shipped_configs() if name.startswith(incomplete)), *paths]


def _command(name: str) -> Callable[..., None]:
    command: Callable[..., None] = importlib.import_module(f"experiments.cli.{name.replace('-', '_')}").command
    return command


def _nothing() -> None:
    """Stands for a command that is not being completed, so that its module is not imported."""
