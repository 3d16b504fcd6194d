"""One self-contained HTML file of a run: findings, figures, tables, paired differences, samples, costs.

Nothing is loaded from anywhere, and the page says so itself (its content policy allows data images and the one
script and style it was written with). All text goes through autoescape, or is set as text by the script.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.report import contrast_costs, controls, figures, sample_browser, tables
from experiments.report import statistical_tests as tests_told
from experiments.report.costs import summarize_costs
from experiments.report.quantization_section import quantization_section
from experiments.report.svg import LinearScale, element
from experiments.results.run_view import RunView, view_run
from experiments.stats import formatting
from experiments.stats.arms import describe_arm
from experiments.stats.compare import verdicts
from experiments.stats.pairs import UnpairedError
from experiments.store.store import report_write_errors, write_text

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.loaded_run import Run

TEMPLATES = Path(__file__).parent / "templates"
VERDICT_SIGNS = {"better": "▲", "worse": "▼", "differs": "≠", "open": "○", "unpaired": "!"}
VERDICT_LABELS = {
    "better": "better",
    "worse": "worse",
    "differs": "different",
    "open": "not distinguishable",
    "unpaired": "not compared",
}
CHANGED = "Lost / won: samples that went from right to wrong / from wrong to right."
MOVED = "Down / up: samples whose score fell / rose."
BEST = {"higher": " Bold: the highest of a column.", "lower": " Bold: the lowest of a column.", "neither": ""}
FOREST_WIDTH = 170
MAX_PLOTTED_CONTROLS = 6
"""More are not drawn: they would hide the strategies, and the key with them."""


@dataclass(frozen=True)
class ReportFiles:
    """What `write` left in the run directory."""

    report: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]


def write_report(run: "Run | RunView", per_cell: int = sample_browser.QUERIES_PER_TASK) -> ReportFiles:
    """report.html, tables/*.csv and figures/*.svg in the run directory. Raises StoreError, ConfigError."""
    seen = run if isinstance(run, RunView) else view_run(run)
    found = tables.task_tables(seen)
    differences, refused = _differences(seen)
    report = seen.path / "report.html"
    write_text(report, render_page(seen, found, differences, refused, per_cell))
    frames = {
        "scores": tables.score_frame(seen),
        "curves": tables.curve_frame(found),
        "differences": differences,
        "controls": controls.controls_frame(seen) if seen.effects else None,
    }
    csv = tuple(
        _csv(seen.path / "tables" / f"{name}.csv", frame) for name, frame in frames.items() if frame is not None
    )
    drawn = figures.drop_decodings(found, _undrawn(seen))
    looks = _looks(seen, drawn)
    folder = _folder(seen.path / "figures")
    svg = []
    for i, table in enumerate(drawn):
        path = folder / f"{_slug(table.task) or i}.svg"
        write_text(path, figures.draw_figure(table, looks, seen.measure))
        svg.append(path)
    return ReportFiles(report, csv, tuple(svg))


def render_page(
    seen: RunView, found: Sequence[tables.TaskTable], differences: "DataFrame | None", refused: str, per_cell: int
) -> str:
    """The whole page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    world = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    undrawn = _undrawn(seen)
    drawn = figures.drop_decodings(found, undrawn)
    looks = _looks(seen, drawn)
    script, style = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.js", "report.css"))
    shelf = sample_browser.collect_samples(seen, per_cell)
    return world.get_template("report.html.j2").render(
        **vars(formatting),
        name=seen.name,
        subtitle=_subtitle(seen),
        samples=f"{len(seen.frame):,}",
        failed=f"{seen.failed:,}" if seen.failed else "",
        unfinished=seen.unfinished,
        measure=seen.measure,
        heading="Accuracy" if seen.metric in seen.accuracies else seen.metric,
        best=BEST[seen.better],
        changed=MOVED if seen.better == "neither" else CHANGED,
        changes="down / up" if seen.better == "neither" else "lost / won",
        of_samples=seen.of_samples,
        few=formatting.few_units_note(cell.clusters for t in found for row in t.rows for cell in row.cells.values()),
        topics=[(topic, list(own)) for topic, own in groupby(seen.findings, key=lambda f: f.topic)],
        signs=VERDICT_SIGNS,
        verdicts=VERDICT_LABELS,
        key=[(Markup(svg), words) for svg, words in _key(drawn, looks)],
        panels=[(t, Markup(figures.draw_panel(t, looks, seen.measure))) for t in drawn],
        tables=found,
        others=[(other.measure, tables.task_tables(other)) for other in _others(seen)],
        controls=bool(seen.controls),
        undrawn=len(undrawn),
        effects=controls.page_sections(seen),
        effects_notes=controls.column_notes(seen, whole=True),
        effects_family=controls.family_note(seen),
        fewer_bits=quantization_section(seen),
        votes=any(row.baseline for t in found for row in t.rows),
        refused=refused,
        **_difference_rows(seen, differences),
        shelf_note=_shelf_note(seen, shelf),
        data=Markup(_json(shelf.json(seen))),
        costs=summarize_costs(seen.info),
        contrasts=contrast_costs.contrast_costs(seen.info),
        contrast_heads=contrast_costs.HEADINGS,
        record=json.dumps(seen.info, indent=1, ensure_ascii=False, default=repr),
        script=Markup(script),
        style=Markup(style),
        script_hash=_hash(script),
        style_hash=_hash(style),
    )


def _others(seen: RunView) -> list[RunView]:
    """The same run by each other score that has values."""
    return [replace(seen, metric=m) for m in seen.metrics if m != seen.metric and seen.scores[m].notna().any()]


def _undrawn(seen: RunView) -> set[str]:
    """The controls, where they are too many for a figure; none that is also a strategy of the run or the reference."""
    named = {name for names in seen.controls.values() for name in names}
    named -= {*seen.controls, str(seen.to.get("decoding"))}
    return named if len(named) > MAX_PLOTTED_CONTROLS else set()


def _looks(seen: RunView, found: Sequence[tables.TaskTable]) -> figures.LineStyles:
    return figures.assign_line_styles(found, {name for names in seen.controls.values() for name in names})


def _differences(seen: RunView) -> "tuple[DataFrame | None, str]":
    try:
        return tables.difference_frame(seen), ""
    except UnpairedError as error:
        return None, str(error)


def _family(frame: "DataFrame") -> str:
    """Which comparisons they are."""
    if len(frame) == int(frame["family"].max()):
        return "the rows of this table"
    return "those of this table that can differ, each once (an arm that is its reference by construction is not tested)"


def _difference_rows(seen: RunView, frame: "DataFrame | None") -> dict[str, Any]:
    from markupsafe import Markup

    told_to = describe_arm(seen.to) or "the reference"
    base: dict[str, Any] = {"reference": told_to, "differences": [], "difference_axes": (), "corrected": False}
    base |= {"scale_low": "", "scale_high": "", "test_note": "", "hidden_note": ""}
    if frame is None:
        return base
    shown = [axis for axis in seen.axes if frame[axis].nunique() > 1 or axis in seen.to]
    reach = max(0.02, float(frame[["low", "high"]].abs().max().max()))
    scale = LinearScale(-reach, reach, 6, FOREST_WIDTH - 6)
    rows = []
    for row, verdict in zip(frame.to_dict("records"), verdicts(frame), strict=True):
        svg = Markup(_forest(scale, row["low"], row["difference"], row["high"]))
        rows.append({**row, "verdict": verdict, "svg": svg, "labels": [str(row[axis]) for axis in shown]})
    test = tests_told.describe_tests(frame["test"], tests_told.LONG)
    holm = (
        f" p Holm: over {formatting.format_count(int(frame['family'].max()), 'comparison')}, {_family(frame)}."
        if seen.correct != "none"
        else ""
    )
    return base | {
        "differences": rows,
        "difference_axes": shown,
        "corrected": seen.correct != "none",
        "scale_low": formatting.format_signed(-reach, 2),
        "scale_high": formatting.format_signed(reach, 2),
        "test_note": test + holm,
        "hidden_note": f" Left out: {formatting.format_count(dropped, 'pair')} without both scores."
        if (dropped := int(frame["dropped_pairs"].sum()))
        else "",
    }


def _forest(scale: LinearScale, low: float, mid: float, high: float) -> str:
    zero = element("path", d=f"M{scale(0):.1f} 1V17", class_="zero")
    span = element("path", d=f"M{scale(low):.1f} 9H{scale(high):.1f}", class_="span")
    dot = element("circle", cx=scale(mid), cy=9, r=3.5)
    words = f"{formatting.format_signed(mid)} {formatting.format_interval(low, high)}"
    return element(
        "svg", zero, span, dot, viewBox=f"0 0 {FOREST_WIDTH} 18", class_="forest", role="img", aria_label=words
    )


def _key(found: Sequence[tables.TaskTable], looks: figures.LineStyles) -> list[tuple[str, str]]:
    rows = {(row.labels, row.baseline): row for table in found for row in table.rows if row.cells}
    return [(figures.draw_key_sample(looks[place], row.baseline), row.name) for place, row in rows.items()]


def _subtitle(seen: RunView) -> str:
    fixed = [f"{axis} {value}" for axis, value in seen.fixed.items() if value != "none"]
    sizes = [(len(seen.frame), "sample"), (len(seen.tasks), "task"), (seen.seeds, "seed")]
    return " · ".join([*(formatting.format_count(number, word) for number, word in sizes), *fixed])


def _shelf_note(seen: RunView, shelf: sample_browser.BrowserData) -> str:
    some = [f"{kept} of {all_:,} queries of {task}" for task, (kept, all_) in shelf.shown.items() if kept < all_]
    lost = sum(1 for uri in shelf.images.values() if uri is None)
    missing = f" {formatting.format_count(lost, 'image')} missing or too many for the file." if lost else ""
    if not some:
        return f"Every query of the run, under every arm and seed.{missing}"
    return (
        f"This file carries {formatting.join_words(some)}, each under every arm and seed: half are those on "
        "which the arms "
        f"disagree most, half are drawn at random. Shares of this selection mean nothing; the tables are over all."
        f"{missing}"
    )


def _json(tree: Any) -> str:
    """JSON that may stand inside a script element: no '<', '>' or '&', whatever the text says."""
    text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _csv(path: Path, frame: "DataFrame") -> Path:
    _folder(path.parent)
    write_text(path, frame.to_csv(index=False))
    return path


def _folder(path: Path) -> Path:
    with report_write_errors(path):
        path.mkdir(exist_ok=True)
    return path


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() and c.isascii() else " " for c in name.lower()).split())
