"""Analyses: stored results of `icl analyze`, and analyses that need no model, each a section with its figure.

The table of an analysis names what its figure draws in `attrs["figure"]`:

    x        the column of the rows
    y        the columns of the measures. Their intervals are NAME_low and NAME_high, or low and high for the first
    measure  the quantity and its unit, in words
    by       optional: a column that has the measures as values. The only column of `y` has their numbers
    n        optional: what the column `n` counts, in words

`attrs["images"]` names images that stand above it: a list of {panel, row, label, png}, the last a data URI of a PNG.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from itertools import groupby
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from experiments.analyses import claims, published, quantization, quantization_gains
from experiments.analyses.quantization_measurements import read_measurements
from experiments.analyses.stored_results import AnalysisOptions, StoredResult, read_results
from experiments.config.keys import AXES
from experiments.report.figure import Figure, Line, dot_chart
from experiments.report.section import Column, Kind, Section, Sentence
from experiments.results import JudgedClaim, RunView, judge_claims
from experiments.stats import format_count
from icl import ConfigError, DataFrame, Series, alt, did_you_mean, pd

FOLDED_ROWS = 24
"""A longer table is folded on a page."""
ROWS_OF_A_PART = 4
"""With fewer rows in each setting, settings are columns of one table."""


LARGE = 5
"""Columns with larger numbers are no shares: '673', '9.40'."""


class FigureSpec(BaseModel):
    """What the figure of an analysis draws: `attrs["figure"]` of its table."""

    model_config = ConfigDict(extra="forbid")

    x: str
    y: tuple[str, ...]
    measure: str
    by: str = ""
    n: str = ""


def analysis_sections(view: RunView, own: Collection[str] = ()) -> Iterator[Section]:
    """A section per stored result. Nothing is computed: one that no longer fits the run is named with its command.

    own: names of `own_sections`. They are computed for each page, so the same result is not shown a second time.
    """
    stored, left_out = read_results(view.path)
    for one in stored:
        if one.options in map(AnalysisOptions, own):
            continue
        if one.outdated:
            compute = f"Compute it again: {one.options.command}"
            left_out.append(f"{one.options.name} is not shown: since it was computed, {one.outdated}. {compute}")
            continue
        try:
            yield analysis_section(one.table, one.options.name, one)
        except ConfigError as error:
            left_out.append(f"{one.options.name} is not shown: {error}")
    if left_out:
        yield Section("outdated", "Analyses that are not shown", notes=left_out)


def own_sections(view: RunView) -> Iterator[Section]:
    """Claims, published numbers and precisions, if the run has them."""
    if not view.is_sequential and (view.info.get("config") or {}).get("claims"):
        section = analysis_section(claims.analyze(view), "claims")
        yield replace(section, sentences=[Sentence(summarize_claims(judge_claims(view)))])
    if (view.info.get("config") or {}).get("published"):
        yield analysis_section(published.analyze(view), "published")
    if "model" in view.scores and len(set(quantization.precisions(view).values())) > 1:
        try:
            yield from _precisions(view)
        except ConfigError as error:
            yield Section("quantization", "Fewer bits", notes=[str(error)])


KINDS = (
    "Survive wherever they were tested",
    "Survive in a part of the tasks",
    "Contradicted or ruled out somewhere, and survive nowhere",
    "Undecided",
    "Not run",
)
"""What becomes of a claim."""


def summarize_claims(judged: Sequence[JudgedClaim]) -> str:
    """'20 claims. Survive wherever they were tested: 3. Undecided: 17.'"""
    groups = [{one.verdict for one in own} - {"not run"} for _, own in groupby(judged, key=lambda one: one.claim)]
    kinds = Counter(map(_kind, groups))
    words = [f"{name}: {kinds[name]}" for name in KINDS if kinds[name]]
    return f"{format_count(len(groups), 'claim')}. {'. '.join(words)}."


def _kind(verdicts: Set[str]) -> str:
    if not verdicts:
        return KINDS[4]
    if "survives" in verdicts:
        return KINDS[0] if verdicts == {"survives"} else KINDS[1]
    return KINDS[2] if verdicts & {"contradicted", "ruled out"} else KINDS[3]


def _precisions(view: RunView) -> Iterator[Section]:
    """Each precision against full precision, with what is already measured: a page loads no model."""
    whole = quantization.full_precision(view)
    measured = read_measurements(view, whole)
    section = analysis_section(quantization.compare_precisions(view, whole, measured), "quantization")
    missing = [str(name) for name in quantization.precisions(view) if name not in measured]
    note = f"Divergence, memory and speed were not measured for {', '.join(missing)}: icl analyze RUN quantization"
    yield replace(section, notes=[*section.notes, note if missing else ""])
    try:
        yield analysis_section(quantization_gains.analyze(view), "quantization_gains")
    except ConfigError:  # no gain of two arms exists at two precisions
        return


def analysis_section(table: DataFrame, name: str, stored: StoredResult | None = None) -> Section:
    """The table of an analysis. Every table that `analyze()` of a user's module returns is a section, too.

    Raises:
        ConfigError: Its figure cannot be drawn.
    """
    spec = figure_spec(table, name)
    axes = [axis for axis in map(str, table) if axis in {*AXES, *table.attrs.get("by", ())}]
    axes = [axis for axis in axes if spec is None or axis not in (spec.x, spec.by, *spec.y)]
    settings = [axis for axis in axes if table[axis].nunique() > 1]
    constant = [axis for axis in axes if axis not in settings and axis in AXES and len(table)]
    frame = table.copy()
    frame["setting"] = [", ".join(_word(axis, row[axis]) for axis in settings) for row in table.to_dict("records")]
    if spec is None and len(frame) < ROWS_OF_A_PART * frame["setting"].nunique():
        settings = []
    where = ", ".join(_word(axis, table[axis].iloc[0]) for axis in constant if table[axis].iloc[0] != "none")
    notes = [
        figure_caption(table, spec) if spec else "",
        str(table.attrs.get("note", "")),
        f"All rows: {where}." if where else "",
    ]
    notes += [stored.options.command, stored.doc] if stored else []
    return Section(
        name, str(table.attrs.get("title") or name), frame=frame, columns=list(_columns(table, {*settings, *constant})),
        parts="setting" if settings else "", notes=notes,
        draw=(lambda rows: dot_figure(rows, spec, table.attrs.get("images", ()))) if spec else None,
        folded=f"The table, {format_count(len(table), 'row')}" if len(table) > FOLDED_ROWS else "",
    )  # fmt: skip


def figure_spec(frame: DataFrame, name: str) -> FigureSpec | None:
    """What the table of an analysis draws; None if it has no figure.

    Raises:
        ConfigError: A key is missing or unknown, or names a column that the table does not have.
    """
    if frame.attrs.get("figure") is None:
        return None
    where = f"analysis '{name}': attrs['figure'] of its table"
    try:
        spec = FigureSpec.model_validate(frame.attrs["figure"])
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "it"
        problem = first["msg"].lower().replace("tuple", "list")
        raise ConfigError(f"{where}: {key}: {problem}. Keys: {', '.join(FigureSpec.model_fields)}.") from error
    columns = list(map(str, frame))
    for column in (spec.x, *spec.y, *([spec.by] if spec.by else [])):
        if column not in columns:
            near = did_you_mean(column, columns)
            raise ConfigError(f"{where} names the column '{column}', which the table does not have.{near}")
    if not spec.y or (spec.by and len(spec.y) > 1):
        raise ConfigError(f"{where}: y must name {'one column, since `by` is set' if spec.by else 'a column'}.")
    return spec


def figure_caption(frame: DataFrame, spec: FigureSpec) -> str:
    """A sentence: what is plotted, the interval and n."""
    by = " and ".join(name.replace("_", " ") for name in (spec.x, spec.by) if name)
    caption = f"{spec.measure[:1].upper()}{spec.measure[1:]} by {by}: mean with its 95 % interval"
    numbers = pd.to_numeric(frame["n"], errors="coerce") if "n" in frame else pd.Series(dtype=float)
    counts = [int(value) for value in numbers if math.isfinite(value)]
    if not counts:
        return f"{caption}."
    few, many = min(counts), max(counts)
    size = f"{few:,}" if few == many else f"{few:,} to {many:,}"
    return f"{caption}, n = {size}{f' {spec.n}' if spec.n else ''}{'' if few == many else ' per point'}."


def dot_figure(frame: DataFrame, spec: FigureSpec, images: Sequence[Mapping[str, str]] = ()) -> Figure:
    """A panel per setting: a row per value of `x`, a dot with its interval per measure. Panels of images come first."""
    data = measured_points(frame, spec)
    lines = {name: Line(number, number) for number, name in enumerate(dict.fromkeys(data["line"]))}
    x = spec.x.replace("_", " ")
    parts = data.groupby("part", sort=False)
    of_images: dict[str, Any] = {
        panel: image_chart(list(own)) for panel, own in groupby(images, key=lambda one: one["panel"])
    }
    dots = {str(part): dot_chart(own.drop(columns="part"), lines, spec.measure, x) for part, own in parts}
    return Figure(of_images | dots, lines, columns=1 if images else 3, images=len(of_images))


def image_chart(cells: Sequence[Mapping[str, str]]) -> Any:
    """Rows of images, each with its label below: a row above the other, with its own name."""
    rows = list(dict.fromkeys(one["row"] for one in cells))
    number = Counter[str]()
    data = []
    for one in cells:
        data.append({**one, "x": number[one["row"]], "y": rows.index(one["row"])})
        number[one["row"]] += 1
    columns, names = max(number.values()), [{"row": row, "x": -0.5, "y": place} for place, row in enumerate(rows)]
    across = alt.Scale(domain=[-0.5, columns - 0.5], nice=False)
    down = alt.Scale(domain=[len(rows) - 0.5, -0.5], nice=False)
    base = alt.Chart(pd.DataFrame(data)).encode(
        x=alt.X("x:Q", scale=across, axis=None), y=alt.Y("y:Q", scale=down, axis=None)
    )
    titles = alt.Chart(pd.DataFrame(names)).encode(x="x:Q", y="y:Q", text="row:N")
    return alt.layer(
        base.mark_image(width=72, height=72).encode(url="png:N", description="label:N"),
        base.mark_text(dy=44, fontSize=10).encode(text="label:N"),
        titles.mark_text(dy=-46, align="left", fontSize=11),
    ).properties(width=80 * columns, height=116 * len(rows))


def measured_points(frame: DataFrame, spec: FigureSpec) -> DataFrame:
    """The points of the figure. Returns: part (the setting), row, line (the measure), mean, low, high and says."""
    rows = []
    for record in frame.to_dict("records"):
        for place, name in enumerate(spec.y):
            ends = [(f"{name}_low", f"{name}_high"), *([("low", "high")] if not place else []), (name, name)]
            low, high = next(pair for pair in ends if pair[0] in record and pair[1] in record)
            line = str(record[spec.by] if spec.by else name).replace("_", " ")
            rows.append((record["setting"], str(record[spec.x]), line, record[name], record[low], record[high]))
    data = pd.DataFrame(rows, columns=["part", "row", "line", "mean", "low", "high"])
    for name in ("mean", "low", "high"):
        data[name] = pd.to_numeric(data[name], errors="coerce")
    data = data.dropna(subset=["mean"])
    data["says"] = [f"{r.line}, {spec.x} {r.row}: {r.mean:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in data.itertuples()]
    return data


def _columns(table: DataFrame, settings: set[str]) -> Iterator[Column]:
    """The columns by their values: an interval is NAME_low and NAME_high, a p is `p` or NAME_p."""
    signed, heads = table.attrs.get("signed", ()), table.attrs.get("heads", {})
    for name in (str(column) for column in table if column not in settings):
        head = str(heads.get(name, name.replace("_", " ")))
        start = name.removesuffix("low")
        if (name == "low" or name.endswith("_low")) and f"{start}high" in table:
            title = str(heads.get(name, f"{head.removesuffix('low')}interval"))
            is_signed = name in signed or start.rstrip("_") in signed
            yield Column(name, title, "interval" if is_signed else "between", (name, f"{start}high"))
        elif not ((name == "high" or name.endswith("_high")) and f"{name.removesuffix('high')}low" in table):
            yield Column(name, head, _kind_of(table[name], name in signed))


def _kind_of(values: "Series[Any]", signed: bool) -> Kind:
    if values.dtype.kind != "f":
        return "count" if values.dtype.kind in "iu" else "text"
    if str(values.name) == "p" or str(values.name).endswith("_p"):
        return "p"
    return "count" if values.abs().max() >= LARGE else "signed" if signed else "share"


def _word(axis: str, value: Any) -> str:
    return format_count(int(value), "shot") if axis == "shots" else str(value)
