"""The catalog of analyses: every module of this folder with a function `analyze`, under its own name.

Installed packages add names through entry points `analysis.NAME` in the group `icl.components`. An analysis of your own
needs no name: `studies/mine.py` stands for `studies/mine.py:analyze`.
"""

import ast
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from icl import (
    ENTRY_POINT_GROUP,
    ConfigError,
    DataFrame,
    convert_user_errors,
    did_you_mean,
    import_path,
    load_function,
    pd,
    pydantic,
    suggest,
)
from icl.untrusted import untrusted

if TYPE_CHECKING:
    from experiments.results.run_view import RunView

Analysis = Callable[..., "DataFrame"]
"""A function of a `RunView`, and of parameters with types and defaults. One that reads the model takes `queries`, the
number of queries of each cell."""


def list_analyses() -> dict[str, str]:
    """The name and the summary of every analysis that has a name, read without importing it."""
    summaries = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "\ndef analyze(" in text:
            summaries[path.stem] = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    return summaries | {name: f"from {target}" for name, target in _entry_points().items() if name not in summaries}


def find_analysis(name: str) -> Analysis:
    """The function of an analysis. It builds no component that needs trust, unless the run of its view is trusted.

    Args:
        name: A name, or the path of a function: `studies/mine.py:analyze`, or `studies/mine.py` for short.

    Raises:
        ConfigError: There is no such analysis. The message has the nearest name.
    """
    function = _function(name)

    @functools.wraps(function)
    def analyze(view: "RunView", **options: Any) -> DataFrame:
        with untrusted(None if view.trust else view.path):
            return _with_unread_note(function(view, **options), view)

    return analyze


def _with_unread_note(table: DataFrame, view: "RunView") -> DataFrame:
    """The table with a note if outputs are unread: an analysis takes the metric's own scores for the truth."""
    from experiments.stats.bounds import unread_texts

    number = int((unread_texts(view.scores, view.metric) != "").sum())
    if number and "unread" not in table:
        words = f"{number:,} of {len(view.scores):,} outputs unread, which count as {view.metric} scores them"
        table.attrs["note"] = "; ".join(filter(None, [table.attrs.get("note", ""), words]))
    return table


def _function(name: str) -> Analysis:
    if ":" in name or name.endswith(".py"):
        return _users_own(name if ":" in name else f"{name}:analyze")
    summaries = list_analyses()
    plain = name.replace("-", "_")
    if plain not in summaries:
        raise ConfigError(
            f"no analysis named '{name}'{suggest('analysis', plain, summaries)} There are {', '.join(summaries)}, and "
            "the path of your own, such as studies/mine.py."
        )
    if (Path(__file__).parent / f"{plain}.py").is_file():
        analysis: Analysis = importlib.import_module(f"experiments.analyses.{plain}").analyze
        return analysis
    return _users_own(_entry_points()[plain])


def _entry_points() -> dict[str, str]:
    """The path of each analysis that an installed package adds, by its name."""
    points = ((point.name.partition("."), point.value) for point in entry_points(group=ENTRY_POINT_GROUP))
    return {name: value for (kind, _, name), value in points if kind == "analysis"}


def _users_own(target: str) -> Analysis:
    """The function at a path.

    It raises ConfigError if it has other parameters or returns no table, and ComponentError if it fails.
    """
    function = load_function(target)

    @functools.wraps(function)
    def analyze(view: "RunView", **options: Any) -> DataFrame:
        try:
            inspect.signature(function).bind(view, **options)
        except TypeError as error:
            raise ConfigError(
                f"{import_path(function)} cannot be called: {error}. Its parameters are `view`, and others with "
                "defaults, such as `queries` if it reads the model."
            ) from error
        with convert_user_errors():
            table = function(view, **options)
        if not isinstance(table, pd.DataFrame):
            raise ConfigError(f"{import_path(function)} returned {type(table).__name__}. Return a pandas DataFrame.")
        return table

    return analyze


def with_queries(analysis: Analysis, name: str, queries: int) -> Analysis:
    """The analysis of so many queries of each cell. Raises ConfigError if it counts stored samples, which is all."""
    if "queries" not in inspect.signature(analysis).parameters:
        raise ConfigError(f"--queries: '{name}' reads the stored samples of all queries. Remove --queries.")
    return functools.partial(analysis, queries=queries)


def with_parameters(analysis: Analysis, name: str, values: Mapping[str, Any]) -> Analysis:
    """The analysis with these values of its parameters. Raises ConfigError for an unknown name or a wrong type."""
    _, *own = (key for key in inspect.signature(analysis).parameters if key != "queries")
    hints = get_type_hints(inspect.unwrap(analysis), include_extras=True)
    checked = {}
    for key, value in values.items():
        if key not in own:
            others = f"It has {', '.join(own)}." if own else "It has none."
            raise ConfigError(f"analysis '{name}' has no parameter '{key}'.{did_you_mean(key, own)} {others}")
        where = f"analysis '{name}', {key}"
        if value is None:
            raise ConfigError(f"{where}: no value. Write one after the sign =, or leave {key} out.")
        try:
            checked[key] = pydantic.TypeAdapter(hints.get(key, Any)).validate_python(value)
        except pydantic.ValidationError as error:
            raise ConfigError(f"{where}: {error.errors()[0]['msg'].lower()}, not {value!r}.") from error
        if isinstance(value, bool) and not isinstance(checked[key], bool):  # pydantic reads true as the number 1
            raise ConfigError(
                f"{where}: {str(value).lower()} is neither a number nor a text. Quote the word twice: "
                f"\"{key}='{str(value).lower()}'\"."
            )
    return functools.partial(analysis, **checked)


def analyze_by(analysis: Analysis, view: "RunView", columns: Sequence[str]) -> DataFrame:
    """The analysis of the samples with each value of columns of the data, one below the other.

    Args:
        analysis: The analysis.
        view: The view of a run.
        columns: The columns, which become the first columns of the table.

    Raises:
        ConfigError: The run has no such column, or the analysis has no table for any value.
    """
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
    note = "; ".join(note.rstrip(".") for note in notes if note)
    joined.attrs = {**tables[0].attrs, "note": note, "by": list(columns)}
    return joined
