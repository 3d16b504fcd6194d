"""The section on quantization: each precision compared with full precision, and what remains of each gain.

A report has this section if the run's models differ in their quantization. Divergence, memory and speed need the
models; they are included if `icl analyze RUN quantization` has measured them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any

from experiments.results.run_view import RunView
from experiments.stats.formatting import format_interval, format_p_number, format_share, format_signed
from experiments.stats.pairs import UnpairedError
from icl.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from pandas import DataFrame

Line = tuple[str, list[str]]


@dataclass(frozen=True)
class QuantizationSection:
    """The content of the section.

    Attributes:
        whole: The label of full precision.
        heads: The headings after the name.
        rows: (name, cells) of each precision.
        gain_heads: The headings of the table of gains.
        gains: (name, cells) of each gain; rows of one gain have its name once.
        note: What is missing, and how to get it.
        refused: Why there is no table.
    """

    whole: str = ""
    heads: tuple[str, ...] = ()
    rows: tuple[Line, ...] = ()
    gain_heads: tuple[str, ...] = ()
    gains: tuple[Line, ...] = ()
    note: str = ""
    refused: str = ""


def quantization_section(view: RunView) -> QuantizationSection | None:
    """The section, or None if the run has no axis of precision."""
    from experiments.analyses.quantization import compare_precisions, full_precision, precisions
    from experiments.analyses.quantization_measurements import read_measurements

    if "model" not in view.scores or view.scores["model"].nunique() < 2 or len(set(precisions(view).values())) < 2:
        return None
    try:
        whole = full_precision(view)
        costs = read_measurements(view, whole)
        frame = compare_precisions(view, whole, costs)
    except (ConfigError, ModelError, UnpairedError) as problem:
        return QuantizationSection(refused=str(problem))
    heads, rows = _table(frame, view.measure)
    gain_heads, gains = _gains(view)
    lacking = [label for label in frame["model"] if label not in costs]
    note = (
        f"Divergence, memory and speed were not measured for {', '.join(lacking)}: icl analyze RUN quantization "
        "measures them, and icl report RUN writes this page again."
        if lacking
        else ""
    )
    return QuantizationSection(whole, heads, rows, gain_heads, gains, note)


def _table(frame: "DataFrame", measure: str) -> tuple[tuple[str, ...], tuple[Line, ...]]:
    measured = "kl" in frame
    heads = [measure, "difference", "95 % interval", "p Holm", "same answers"]
    heads += ["KL mean", "KL largest", "weights, MiB", "peak, MiB", "tokens/s"] if measured else []
    rows = []
    for row in frame.to_dict("records"):
        tested = _difference(row, ("difference", "low", "high", "p"))
        cells = [format_share(row["accuracy"]), *tested, _number(row, "agreement")]
        if measured:
            cells += [_number(row, "kl"), _number(row, "kl_max")]
            cells += [_large(row, key) for key in ("weights_mib", "peak_mib", "tokens_s")]
        rows.append((str(row["model"]), cells))
    return tuple(heads), tuple(rows)


def _gains(view: RunView) -> tuple[tuple[str, ...], tuple[Line, ...]]:
    """The table of gains; empty if the run has nothing that could give a gain."""
    from experiments.analyses.quantization_gains import analyze

    try:
        frame = analyze(view)
    except (ConfigError, UnpairedError):
        return (), ()
    rows: list[Line] = []
    before = ""
    for row in frame.to_dict("records"):
        name = f"{row['task']}: {row['of']}"
        change = _difference(row, ("change", "change_low", "change_high", "p"))
        gain = [format_signed(row["gain"]), format_interval(row["low"], row["high"])]
        rows.append((name if name != before else "", [str(row["model"]), *gain, *change]))
        before = name
    return ("precision", "gain", "95 % interval", "change", "95 % interval", "p Holm"), tuple(rows)


def _difference(row: Mapping[Any, Any], keys: tuple[str, str, str, str]) -> list[str]:
    middle, low, high, p = (float(row[key]) for key in keys)
    return ["–"] * 3 if isnan(middle) else [format_signed(middle), format_interval(low, high), format_p_number(p)]


def _number(row: Mapping[Any, Any], key: str) -> str:
    return format_share(float(row[key]))


def _large(row: Mapping[Any, Any], key: str) -> str:
    value = float(row[key])
    return "–" if isnan(value) else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
