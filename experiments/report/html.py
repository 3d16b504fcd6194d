"""The report of a run as one self-contained HTML file: findings, figures, tables, differences, samples, costs.

The page loads nothing. Its content policy allows only data images and its own script and style. All text is escaped, or
is set as text by the script.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.report import contrast_costs, controls, figures, sample_browser, statistical_tests, tables
from experiments.report.analyses_section import analyses_section
from experiments.report.answer_section import answer_section
from experiments.report.by_section import by_sections
from experiments.report.claims_section import claims_section
from experiments.report.costs import summarize_costs
from experiments.report.published_section import published_section
from experiments.report.quantization_section import quantization_section
from experiments.report.rendering import load_template, policy_digest, read_asset
from experiments.report.svg import FOREST_WIDTH, LinearScale, forest
from experiments.results.column_effects import interactions_frame
from experiments.results.run_view import RunView
from experiments.results.view_run import view_run
from experiments.stats import formatting
from experiments.stats.arms import describe_arm
from experiments.stats.compare import verdicts
from experiments.stopping.findings import looks_frame
from experiments.store.store import refuse_links, report_write_errors, write_csv, write_text

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.loaded_run import Run

VERDICT_SIGNS = {"better": "▲", "worse": "▼", "differs": "≠", "equal": "=", "open": "○", "unpaired": "!"}
VERDICT_LABELS = {
    "better": "better",
    "worse": "worse",
    "differs": "different",
    "equal": "equal within the margin",
    "open": "not distinguishable",
    "unpaired": "not compared",
}
CHANGED = "R→W / W→R: samples that changed from right to wrong / from wrong to right."
MOVED = "Down / up: samples whose score fell / rose."
BEST = {"higher": " Bold: the highest of a column.", "lower": " Bold: the lowest of a column.", "neither": ""}
MAX_PLOTTED_CONTROLS = 6
"""If there are more controls, none is plotted: they would hide the strategies."""


@dataclass(frozen=True)
class ReportFiles:
    """The files that `write_report` wrote into the run directory. frames: name -> the content of each table."""

    report: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    frames: "Mapping[str, DataFrame]"


def write_report(run: "Run | RunView", per_cell: int = sample_browser.QUERIES_PER_TASK) -> ReportFiles:
    """Writes report.html, tables/*.csv and figures/*.svg into the run directory.

    Args:
        run: The run, or a view of it.
        per_cell: The number of queries per task in the sample browser.

    Raises:
        StoreError: The run has no samples, or a file cannot be written or is a link.
        ConfigError: The run's config does not fit its samples.
    """
    view = run if isinstance(run, RunView) else view_run(run)
    refuse_links(view.path)
    task_tables = tables.task_tables(view)
    differences, refused = tables.differences_or_reason(view)
    report = view.path / "report.html"
    write_text(report, render_page(view, task_tables, differences, refused, per_cell))
    optional_frames = {
        "scores": tables.score_frame(view),
        "curves": tables.curve_frame(task_tables),
        "differences": differences,
        "controls": controls.controls_frame(view) if view.effects else None,
        **{
            f"by_{name}": interactions_frame(one) if one.interactions else None
            for name, one in zip(file_names([one.name for one in view.by_column]), view.by_column, strict=True)
        },
        "looks": looks_frame(view.families, {view.metric: view.better}) if view.families else None,
    }
    frames = {name: frame for name, frame in optional_frames.items() if frame is not None}
    csv = tuple(_csv(view.path / "tables" / f"{name}.csv", frame) for name, frame in frames.items())
    plotted = figures.drop_decodings(task_tables, _undrawn(view))
    looks = _looks(view, plotted)
    folder = _folder(view.path / "figures")
    svg = []
    for name, table in zip(file_names([table.task for table in plotted]), plotted, strict=True):
        path = folder / f"{name}.svg"
        write_text(path, figures.draw_figure(table, looks, view.measure))
        svg.append(path)
    return ReportFiles(report, csv, tuple(svg), frames)


def render_page(
    view: RunView, task_tables: Sequence[tables.TaskTable], differences: "DataFrame | None", refused: str, per_cell: int
) -> str:
    """The page as text."""
    from markupsafe import Markup

    undrawn = _undrawn(view)
    plotted = figures.drop_decodings(task_tables, undrawn)
    looks = _looks(view, plotted)
    script, style = read_asset("report.js"), read_asset("report.css")
    shelf = sample_browser.collect_samples(view, per_cell)
    return load_template("report.html.j2").render(
        **vars(formatting),
        name=view.name,
        subtitle=_subtitle(view),
        samples=f"{len(view.frame):,}",
        failed=f"{view.failed:,}" if view.failed else "",
        unfinished=view.unfinished,
        sequential=view.is_sequential,
        scores_note=view.scores_note,
        mixed_versions=view.mixed_versions,
        measure=view.measure,
        heading="Accuracy" if view.metric in view.accuracies else view.metric,
        best=BEST[view.better],
        changed=MOVED if view.better == "neither" else CHANGED,
        changes="down / up" if view.better == "neither" else "R→W / W→R",
        of_samples=view.of_samples,
        few=formatting.few_units_note(
            cell.clusters for t in task_tables for row in t.rows for cell in row.cells.values()
        ),
        topics=[(topic, list(own)) for topic, own in itertools.groupby(view.findings, key=lambda f: f.topic)],
        signs=VERDICT_SIGNS,
        verdicts=VERDICT_LABELS,
        key=[(number, Markup(svg), words) for number, svg, words in _key(plotted, looks)],
        panels=[(name, Markup(svg)) for t in plotted for name, svg in figures.draw_panels(t, looks, view.measure)],
        tables=task_tables,
        answers=answer_section(view),
        answer_notes=view.answer_notes,
        others=[(other.measure, tables.task_tables(other)) for other in _others(view)],
        controls=bool(view.controls),
        undrawn=len(undrawn),
        claims=claims_section(view),
        published=published_section(view),
        by_column=by_sections(view),
        effects=controls.page_sections(view),
        effects_notes=controls.column_notes(view, whole=True),
        effects_family=controls.family_note(view),
        fewer_bits=quantization_section(view),
        analyses=analyses_section(view.path),
        votes=any(row.baseline for t in task_tables for row in t.rows),
        refused=refused,
        **_difference_rows(view, differences),
        shelf_note=_shelf_note(view, shelf),
        data=Markup(_json(shelf.json(view))),
        costs=summarize_costs(view.info),
        contrasts=contrast_costs.contrast_costs(view.info),
        contrast_heads=contrast_costs.HEADINGS,
        record=json.dumps(view.info, indent=1, ensure_ascii=False, default=repr),
        script=Markup(script),
        style=Markup(style),
        script_hash=policy_digest(script),
        style_hash=policy_digest(style),
    )


def _others(view: RunView) -> list[RunView]:
    """The same run by each other metric that has values."""
    return [replace(view, metric=m) for m in view.metrics if m != view.metric and view.scores[m].notna().any()]


def _undrawn(view: RunView) -> set[str]:
    """The controls, if they are too many for a figure."""
    named = tables.control_labels(view)
    return named if len(named) > MAX_PLOTTED_CONTROLS else set()


def _looks(view: RunView, task_tables: Sequence[tables.TaskTable]) -> figures.LineStyles:
    return figures.assign_line_styles(task_tables, view.control_names)


def _family(frame: "DataFrame") -> str:
    """The comparisons that p is corrected for, in words."""
    if len(frame) == int(frame["family"].max()):
        return "the rows of this table"
    return "the distinct ones of this table (an arm that equals its reference by construction is not tested)"


def _difference_rows(view: RunView, frame: "DataFrame | None") -> dict[str, Any]:
    from markupsafe import Markup

    reference = describe_arm(view.to) or "the reference"
    base: dict[str, Any] = {
        "reference": reference,
        "differences": [],
        "same": [],
        "difference_axes": (),
        "corrected": False,
    }
    base |= {"scale_low": "", "scale_high": "", "test_note": "", "hidden_note": ""}
    if frame is None:
        return base
    label_axes = [axis for axis in view.axes if frame[axis].nunique() > 1 or axis in view.to]
    reach = max(0.02, float(frame[["low", "high"]].abs().max().max()))
    scale = LinearScale(-reach, reach, 6, FOREST_WIDTH - 6)
    rows = []
    for row, verdict in zip(frame.to_dict("records"), verdicts(frame), strict=True):
        svg = Markup(forest(scale, row["low"], row["difference"], row["high"]))
        rows.append({**row, "verdict": verdict, "svg": svg, "labels": [str(row[axis]) for axis in label_axes]})
    test = statistical_tests.describe_tests(frame["test"], statistical_tests.LONG)
    holm = (
        f" p Holm: over {formatting.format_count(int(frame['family'].max()), 'comparison')}, {_family(frame)}."
        if view.correct != "none"
        else ""
    )
    return base | {
        "differences": rows,
        "same": [row for row in rows if row["by_construction"]],
        "difference_axes": label_axes,
        "corrected": view.correct != "none",
        "scale_low": formatting.format_signed(-reach, 2),
        "scale_high": formatting.format_signed(reach, 2),
        "test_note": test + holm,
        "hidden_note": f" Excluded: {formatting.format_count(dropped, 'pair')} without both scores."
        if (dropped := int(frame["dropped_pairs"].sum()))
        else "",
    }


def _key(task_tables: Sequence[tables.TaskTable], looks: figures.LineStyles) -> list[tuple[int, str, str]]:
    """(number of the series, sample of the line, name) of each row."""
    rows = {(row.labels, row.baseline): row for table in task_tables for row in table.rows if row.cells}
    return [
        (looks[place].series, figures.draw_key_sample(looks[place], row.baseline), row.name)
        for place, row in rows.items()
    ]


def _subtitle(view: RunView) -> str:
    fixed = [f"{axis} {value}" for axis, value in view.fixed.items() if value != "none"]
    sizes = [(len(view.frame), "sample"), (len(view.tasks), "task"), (view.seeds, "seed")]
    return " · ".join([*(formatting.format_count(number, word) for number, word in sizes), *fixed])


def _shelf_note(view: RunView, shelf: sample_browser.BrowserData) -> str:
    some = [
        f"{carried} of {all_:,} queries of {task}"
        for task, (carried, all_) in shelf.query_counts.items()
        if carried < all_
    ]
    lost = sum(1 for uri in shelf.images.values() if uri is None)
    missing = f" {formatting.format_count(lost, 'image')} missing or too many for the file." if lost else ""
    if not some:
        return f"Every query of the run, under every arm and seed.{missing}"
    return (
        f"This file contains {formatting.join_words(some)}, each under every arm and seed. Half of them are the "
        "queries on which the arms disagree most; the other half is random. Shares in this selection mean nothing; "
        f"the tables use all samples.{missing}"
    )


def _json(tree: Any) -> str:
    """JSON that is safe in a script element: it has no '<', '>' or '&'. NaN, which facts may be, is null."""
    try:
        text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)
    except ValueError:
        tree = _with_nulls(tree)
        text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _with_nulls(tree: Any) -> Any:
    """The tree with None for numbers that JSON does not have."""
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else None
    if isinstance(tree, Mapping):
        return {key: _with_nulls(value) for key, value in tree.items()}
    return [_with_nulls(value) for value in tree] if isinstance(tree, list | tuple) else tree


def _csv(path: Path, frame: "DataFrame") -> Path:
    _folder(path.parent)
    write_csv(path, frame)
    return path


def _folder(path: Path) -> Path:
    with report_write_errors(path):
        path.mkdir(exist_ok=True)
    return path


def file_names(titles: Sequence[str]) -> list[str]:
    """A file name without ending for each title: its letters and digits in ASCII. Equal names get a number."""
    names: dict[str, None] = {}
    for place, title in enumerate(titles):
        name = _slug(title) or str(place)
        number = next(n for n in itertools.count(1) if (name if n == 1 else f"{name}-{n}") not in names)
        names[name if number == 1 else f"{name}-{number}"] = None
    return list(names)


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() and c.isascii() else " " for c in name.lower()).split())
