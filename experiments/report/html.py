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

from experiments.report import browser, contrasts, controls, figures, tables
from experiments.report import test_descriptions as tests_told
from experiments.report.costs import costs
from experiments.report.quantized import quantized
from experiments.report.svg import Scale, element
from experiments.results.run_view import Run, RunView, view_run
from experiments.stats import wording
from experiments.stats.arms import told
from experiments.stats.compare import verdicts
from experiments.stats.pairs import UnpairedError
from experiments.store.store import report_write_errors, write_text

if TYPE_CHECKING:
    from pandas import DataFrame

TEMPLATES = Path(__file__).parent / "templates"
SIGNS = {"better": "▲", "worse": "▼", "differs": "≠", "open": "○", "unpaired": "!"}
VERDICTS = {
    "better": "better",
    "worse": "worse",
    "differs": "different",
    "open": "not distinguishable",
    "unpaired": "not compared",
}
CHANGED = "Lost / won: samples that went from right to wrong / from wrong to right."
MOVED = "Down / up: samples whose score fell / rose."
BEST = {"higher": " Bold: the highest of a column.", "lower": " Bold: the lowest of a column.", "neither": ""}
FOREST = 170
MOST_CONTROLS = 6
"""More are not drawn: they would hide the strategies, and the key with them."""


@dataclass(frozen=True)
class Written:
    """What `write` left in the run directory."""

    report: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]


def write(run: Run | RunView, per_cell: int = browser.PER_CELL) -> Written:
    """report.html, tables/*.csv and figures/*.svg in the run directory. Raises StoreError, ConfigError."""
    seen = run if isinstance(run, RunView) else view_run(run)
    found = tables.task_tables(seen)
    differences, refused = _differences(seen)
    report = seen.path / "report.html"
    write_text(report, page(seen, found, differences, refused, per_cell))
    frames = {
        "scores": tables.score_frame(seen),
        "curves": tables.curve_frame(found),
        "differences": differences,
        "controls": controls.controls_frame(seen) if seen.effects else None,
    }
    csv = tuple(
        _csv(seen.path / "tables" / f"{name}.csv", frame) for name, frame in frames.items() if frame is not None
    )
    drawn = figures.without(found, _undrawn(seen))
    looks = _looks(seen, drawn)
    folder = _folder(seen.path / "figures")
    svg = []
    for i, table in enumerate(drawn):
        path = folder / f"{_slug(table.task) or i}.svg"
        write_text(path, figures.figure(table, looks, seen.measure))
        svg.append(path)
    return Written(report, csv, tuple(svg))


def page(
    seen: RunView, found: Sequence[tables.TaskTable], differences: "DataFrame | None", refused: str, per_cell: int
) -> str:
    """The whole page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    world = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    undrawn = _undrawn(seen)
    drawn = figures.without(found, undrawn)
    looks = _looks(seen, drawn)
    script, style = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.js", "report.css"))
    shelf = browser.shelve(seen, per_cell)
    return world.get_template("report.html.j2").render(
        **vars(wording),
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
        few=wording.few_units(cell.clusters for t in found for row in t.rows for cell in row.cells.values()),
        topics=[(topic, list(own)) for topic, own in groupby(seen.findings, key=lambda f: f.topic)],
        signs=SIGNS,
        verdicts=VERDICTS,
        key=[(Markup(svg), words) for svg, words in _key(drawn, looks)],
        panels=[(t, Markup(figures.panel(t, looks, seen.measure))) for t in drawn],
        tables=found,
        others=[(other.measure, tables.task_tables(other)) for other in _others(seen)],
        controls=bool(seen.controls),
        undrawn=len(undrawn),
        effects=controls.sections(seen),
        effects_notes=controls.notes(seen, whole=True),
        effects_family=controls.family(seen),
        fewer_bits=quantized(seen),
        votes=any(row.baseline for t in found for row in t.rows),
        refused=refused,
        **_difference_rows(seen, differences),
        shelf_note=_shelf_note(seen, shelf),
        data=Markup(_json(shelf.json(seen))),
        costs=costs(seen.info),
        contrasts=contrasts.contrast_costs(seen.info),
        contrast_heads=contrasts.HEADS,
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
    return named if len(named) > MOST_CONTROLS else set()


def _looks(seen: RunView, found: Sequence[tables.TaskTable]) -> figures.Looks:
    return figures.looks_of(found, {name for names in seen.controls.values() for name in names})


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

    told_to = told(seen.to) or "the reference"
    base: dict[str, Any] = {"reference": told_to, "differences": [], "difference_axes": (), "corrected": False}
    base |= {"scale_low": "", "scale_high": "", "test_note": "", "hidden_note": ""}
    if frame is None:
        return base
    shown = [axis for axis in seen.axes if frame[axis].nunique() > 1 or axis in seen.to]
    reach = max(0.02, float(frame[["low", "high"]].abs().max().max()))
    scale = Scale(-reach, reach, 6, FOREST - 6)
    rows = []
    for row, verdict in zip(frame.to_dict("records"), verdicts(frame), strict=True):
        svg = Markup(_forest(scale, row["low"], row["difference"], row["high"]))
        rows.append({**row, "verdict": verdict, "svg": svg, "labels": [str(row[axis]) for axis in shown]})
    test = tests_told.told(frame["test"], tests_told.LONG)
    holm = (
        f" p Holm: over {wording.counted(int(frame['family'].max()), 'comparison')}, {_family(frame)}."
        if seen.correct != "none"
        else ""
    )
    return base | {
        "differences": rows,
        "difference_axes": shown,
        "corrected": seen.correct != "none",
        "scale_low": wording.signed(-reach, 2),
        "scale_high": wording.signed(reach, 2),
        "test_note": test + holm,
        "hidden_note": f" Left out: {wording.counted(dropped, 'pair')} without both scores."
        if (dropped := int(frame["dropped"].sum()))
        else "",
    }


def _forest(scale: Scale, low: float, mid: float, high: float) -> str:
    zero = element("path", d=f"M{scale(0):.1f} 1V17", class_="zero")
    span = element("path", d=f"M{scale(low):.1f} 9H{scale(high):.1f}", class_="span")
    dot = element("circle", cx=scale(mid), cy=9, r=3.5)
    words = f"{wording.signed(mid)} {wording.interval(low, high)}"
    return element("svg", zero, span, dot, viewBox=f"0 0 {FOREST} 18", class_="forest", role="img", aria_label=words)


def _key(found: Sequence[tables.TaskTable], looks: figures.Looks) -> list[tuple[str, str]]:
    rows = {(row.labels, row.baseline): row for table in found for row in table.rows if row.cells}
    return [(figures.sample(looks[place], row.baseline), row.name) for place, row in rows.items()]


def _subtitle(seen: RunView) -> str:
    fixed = [f"{axis} {value}" for axis, value in seen.fixed.items() if value != "none"]
    sizes = [(len(seen.frame), "sample"), (len(seen.tasks), "task"), (seen.seeds, "seed")]
    return " · ".join([*(wording.counted(number, word) for number, word in sizes), *fixed])


def _shelf_note(seen: RunView, shelf: browser.Shelf) -> str:
    some = [f"{kept} of {all_:,} queries of {task}" for task, (kept, all_) in shelf.shown.items() if kept < all_]
    lost = sum(1 for uri in shelf.images.values() if uri is None)
    missing = f" {wording.counted(lost, 'image')} missing or too many for the file." if lost else ""
    if not some:
        return f"Every query of the run, under every arm and seed.{missing}"
    return (
        f"This file carries {wording.listed(some)}, each under every arm and seed: half are those on which the arms "
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
