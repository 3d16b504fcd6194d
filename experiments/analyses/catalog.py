"""The catalog of analyses: every module of this folder with a function `analyze`, under its own name."""

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from icl.errors import ConfigError
from icl.renamed_names import suggest

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.run_view import RunView

Analysis = Callable[["RunView"], "DataFrame"]


def list_analyses() -> dict[str, str]:
    """The name and the summary of every analysis, read without importing it."""
    summaries = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "\ndef analyze(" in text:
            summaries[path.stem] = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    return summaries


def find_analysis(name: str) -> Analysis:
    """The function of an analysis. Raises ConfigError with the nearest name."""
    summaries = list_analyses()
    plain = name.replace("-", "_")
    if plain not in summaries:
        raise ConfigError(
            f"no analysis named '{name}'{suggest('analysis', plain, summaries)} There are {', '.join(summaries)}."
        )
    analysis: Analysis = importlib.import_module(f"experiments.analyses.{plain}").analyze
    return analysis
