"""The catalog of analyses: every module of this folder with a function `analyze`, under its own name."""

import ast
import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icl.errors import ConfigError
from icl.renamed_names import suggest

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.run_view import RunView

Analysis = Callable[..., "DataFrame"]
"""A function of a `RunView`. One that reads the model also takes `queries`, the number of queries of each cell."""


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


def with_queries(analysis: Analysis, name: str, queries: int) -> Analysis:
    """The analysis of so many queries of each cell. Raises ConfigError if it counts stored samples, which is all."""
    if "queries" not in inspect.signature(analysis).parameters:
        raise ConfigError(f"--queries: '{name}' reads the stored samples of all queries. Remove --queries.")
    return functools.partial(analysis, queries=queries)


def analyze_by(analysis: Analysis, view: "RunView", columns: Sequence[str]) -> "DataFrame":
    """The analysis of the samples with each value of columns of the data, one below the other.

    Args:
        analysis: The analysis.
        view: The view of a run.
        columns: The columns, which become the first columns of the table.

    Raises:
        ConfigError: The run has no such column, or the analysis has no table for any value.
    """
    import pandas as pd

    from experiments.results.data_columns import parts_of

    tables, refusals = [], {}
    for values, part in parts_of(view, columns):
        try:
            table = analysis(part)
        except ConfigError as error:
            refusals[", ".join(map(str, values.values()))] = error
        else:
            for place, (column, value) in enumerate(values.items()):
                table.insert(place, column, str(value), allow_duplicates=True)
            tables.append(table)
    if not tables:
        raise next(iter(refusals.values()))
    joined = pd.concat(tables, ignore_index=True)
    notes = [
        str(tables[0].attrs.get("note", "")),
        f"within each value of {' and '.join(columns)}, with p corrected there",
    ]
    notes += [f"no table for {name}: {str(error).partition(': ')[2] or error}" for name, error in refusals.items()]
    joined.attrs = {**tables[0].attrs, "note": "; ".join(note.rstrip(".") for note in notes if note)}
    return joined
