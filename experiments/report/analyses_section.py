"""The section on analyses: the stored results of `icl analyze`, each with its figure, table and command.

Nothing is computed here. A result that no longer fits the run is left out, with a sentence.
"""

from dataclasses import dataclass
from pathlib import Path

import icl
from experiments.analyses.stored_results import StoredResult, read_results
from experiments.analyses.terminal_table import constant_settings, table_columns
from experiments.report.analysis_panels import analysis_panels, figure_caption, figure_spec
from experiments.report.analysis_svg import analysis_key, draw_analysis_panels
from icl.errors import ConfigError

FOLDED_ROWS = 24
"""A longer table is folded if the analysis has a figure."""


@dataclass(frozen=True)
class AnalysisResult:
    """One result on the page.

    Attributes:
        title: What the table shows.
        setting: The settings that are the same in all rows.
        command: The command that computed it, with RUN for the run directory.
        version: The version that computed it, if it is another one than this; else ''.
        key: (SVG, name) of each measure of the figure.
        panels: (title, SVG) of each panel; empty without a figure.
        caption: What the figure shows, with n and the interval.
        heads: (heading, whether it is one of labels) of each column.
        rows: The cells of the table.
        is_folded: Whether the table is folded.
        note: The note below the table.
        doc: The definitions of the columns.
    """

    title: str
    setting: str
    command: str
    version: str
    key: tuple[tuple[str, str], ...]
    panels: tuple[tuple[str, str], ...]
    caption: str
    heads: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[str, ...], ...]
    is_folded: bool
    note: str
    doc: str


@dataclass(frozen=True)
class AnalysesSection:
    """The content of the section. left_out: sentences on results that are not shown."""

    results: tuple[AnalysisResult, ...]
    left_out: tuple[str, ...]


def analyses_section(run: Path) -> AnalysesSection | None:
    """The section, or None if no result is stored in the run directory."""
    stored, left_out = read_results(run)
    results = []
    for one in stored:
        if one.outdated:
            left_out.append(
                f"{one.options.name} is not shown: since it was computed, {one.outdated}. Compute it again: "
                f"{one.options.command}"
            )
            continue
        try:
            results.append(_result(one))
        except ConfigError as error:
            left_out.append(f"{one.options.name} is not shown: {error}")
    return AnalysesSection(tuple(results), tuple(left_out)) if results or left_out else None


def _result(stored: StoredResult) -> AnalysisResult:
    """What the page has of a result. Raises ConfigError if it names no figure that could be drawn."""
    table = stored.table
    spec = figure_spec(table, stored.options.name)
    panels = [] if spec is None else analysis_panels(table, spec)
    columns = list(table_columns(table).values())
    return AnalysisResult(
        title=str(table.attrs.get("title") or stored.options.name),
        setting=constant_settings(table),
        command=stored.options.command,
        version=stored.version if stored.version != icl.__version__ else "",
        key=tuple(analysis_key(panels)),
        panels=() if spec is None else tuple(draw_analysis_panels(panels, spec.measure)),
        caption="" if spec is None else figure_caption(table, spec),
        heads=tuple((column.name, column.label) for column in columns),
        rows=tuple(zip(*(column.cells for column in columns), strict=True)),
        is_folded=bool(panels) and len(table) > FOLDED_ROWS,
        note=str(table.attrs.get("note", "")),
        doc=stored.doc,
    )
