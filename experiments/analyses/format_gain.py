"""Which part of a difference between two arms is format? (VL-ICL, Zong et al. 2025)

    format gain = (strict - strict of the reference) - (lenient - lenient of the reference)

With unread outputs (`experiments.stats.bounds`) the lenient gain is a range, and so is the format gain, without p. A
model that knows the answers and learns only their form from demonstrations gains under strict scoring alone. The
references are 0 shots, and where the run has them, random demonstrations and the reference decoding. Pairs have the
same query and seed; Holm corrects over the arms of a reference.
"""

from collections.abc import Mapping
from math import nan
from typing import Any

from experiments import RunView, make_table
from experiments.config.keys import DEFAULT_REFERENCES
from experiments.stats import describe_arm, label_axes, varying_axes
from experiments.stats.compare import compare
from icl import ConfigError, DataFrame


def analyze(view: RunView) -> DataFrame:
    """One row per arm and reference. Raises ConfigError without both scores, or without a reference."""
    if lacking := [metric for metric in ("strict", "lenient") if metric not in view.scores]:
        raise ConfigError(f"{view.path}: format gain needs the scores strict and lenient; it has no {lacking[0]}.")
    references = _references(view)
    if not references:
        raise ConfigError(f"{view.path}: format gain compares arms, and the run has one. Add `shots: [0, 4]`.")
    rows = [row for reference in references for row in _rows(view, reference)]
    if len(references) == 1:
        for row in rows:
            del row["against"]
    note = "p after Holm"
    if any("unread" in row for row in rows):
        note += "; with unread outputs low and high are the range over all readings, without sampling error"
    return make_table(
        rows,
        "How much of the gain is format",
        note=note,
        signed=("gain_strict", "gain_lenient", "format_gain", "low", "high"),
    )


def _references(view: RunView) -> list[dict[str, Any]]:
    references = {"shots": 0, "retriever": DEFAULT_REFERENCES["retriever"], "decoding": view.reference}
    varying = varying_axes(view.scores, [axis for axis in references if axis in view.axes])
    return [{axis: references[axis]} for axis in varying if references[axis] in set(view.scores[axis])]


def _rows(view: RunView, reference: Mapping[str, Any]) -> list[dict[str, Any]]:
    scores = view.scores.assign(form=view.scores["strict"] - view.scores["lenient"])
    form, strict, lenient = (
        compare(scores, reference, metric, axes=view.axes) for metric in ("form", "strict", "lenient")
    )
    named = label_axes(scores, view.axes)
    return [
        {
            **{axis: row[axis] for axis in named},
            "against": describe_arm(reference),
            "gain_strict": float(by_strict),
            "gain_lenient": float(by_lenient["difference"]),
            "format_gain": float(row["difference"]),
            "low": float(row["low"]),
            "high": float(row["high"]),
            "p": float(row["p_corrected"]),
            "n": int(row["pairs"]),
            **_ranges(float(by_strict), by_lenient),
        }
        for row, by_strict, by_lenient in zip(
            form.to_dict("records"), strict["difference"], lenient.to_dict("records"), strict=True
        )
    ]


def _ranges(by_strict: float, by_lenient: Mapping[Any, Any]) -> dict[str, Any]:
    """The format gain over all readings of unread outputs; empty if every output of both arms is read."""
    if not by_lenient.get("unread", 0):
        return {}
    ends = by_strict - by_lenient["difference_high"], by_strict - by_lenient["difference_low"]
    unknown = dict.fromkeys(("gain_lenient", "format_gain", "p"), nan)
    return unknown | {"low": ends[0], "high": ends[1], "unread": by_lenient["unread"]}
