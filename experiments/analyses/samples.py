"""What analyses read of a run's samples: settings, demonstrations, and which of the known answers an output gives."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.stats.arms import UNIT, arms, varying
from experiments.stats.intervals import estimate
from icl.errors import ConfigError
from icl.metrics.base import Better
from icl.metrics.lenient import lenient
from icl.metrics.normalise import plain

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.report.view import View

BEST = {"higher": 1, "lower": 0}
"""The best that a score of a sample can be, by which way is good."""

Demonstration = tuple[str, float, str]
"""id, score and answer."""


def answered(view: "View", shown: bool = True) -> "DataFrame":
    """The samples that did not fail; with at least one demonstration where `shown`. Raises ConfigError for none."""
    rows = view.frame[view.frame["failed"].isna()]
    if shown:
        rows = rows[rows["demos"].map(lambda demos: bool(_list(demos)))] if "demos" in rows else rows[:0]
    if not len(rows):
        raise ConfigError(
            f"{view.path}: no sample has {'demonstrations and ' if shown else ''}an answer. "
            "Run the experiment with shots above 0."
        )
    return rows


def judges_samples(view: "View") -> None:
    """Raises ConfigError where the score looked at is one of the whole run: it says nothing of a single sample."""
    if view.of_samples:
        return
    own = ", ".join(view.sample_metrics)
    raise ConfigError(
        f"{view.path}: '{view.metric}' is a score of the whole run, and this analysis reads those of single samples. "
        f"Name one with --metric{f': {own}' if own else '; the run has none'}."
    )


def settings(
    view: "View", rows: "DataFrame", without: Sequence[str] = ()
) -> Iterator[tuple[dict[str, Any], "DataFrame"]]:
    """The rows of each combination of the axes that vary among them; task and shots are always told."""
    among = [axis for axis in view.axes if axis not in without]
    told = [axis for axis in among if axis in ("task", "shots") or axis in varying(rows, among)]
    yield from arms(rows, told)


def demos_of(row: Mapping[str, Any]) -> list[Demonstration]:
    """In prompt order."""
    return [(str(name), float(score), str(answer)) for name, score, answer in _list(row["demos"])]


def ranks_of(row: Mapping[str, Any]) -> list[int]:
    """Of the demonstrations, in prompt order; 0 is the retriever's best."""
    ranks = _list(row.get("ranks"))
    count = len(_list(row["demos"]))
    return [int(rank) for rank in ranks] if len(ranks) == count else list(range(count))[::-1]


def texts(row: Mapping[str, Any], column: str) -> tuple[str, ...]:
    """A list of texts, empty where the sample has none."""
    return tuple(map(str, _list(row.get(column))))


def said(row: Mapping[str, Any]) -> str:
    """The answer that the output gives, in its plain form: one of the known ones where it names exactly one of them.

    Known are the options, the answers of the demonstrations, the gold, and what the gold was renamed from or to.
    """
    known = (
        *texts(row, "options"),
        *(answer for *_, answer in demos_of(row)),
        *texts(row, "gold"),
        *texts(row, "renamed"),
    )
    return reading(
        str(row["output"]) if isinstance(row["output"], str) else "", tuple(dict.fromkeys(filter(plain, known)))
    )


@lru_cache(maxsize=65_536)
def reading(output: str, known: tuple[str, ...]) -> str:
    """The one known answer that the output names, else the output itself; in plain form."""
    whole = plain(output)
    if whole in map(plain, known):
        return whole
    named = {plain(answer) for answer in known if lenient(output, (answer,), known)}
    return named.pop() if len(named) == 1 else whole


def turned(better: Better, low: float, middle: float, high: float) -> tuple[float, float, float]:
    """A difference and its ends as a change for the worse: as it is where lower is better, else with the other sign."""
    return (low, middle, high) if better == "lower" else (-high, -middle, -low)


def interval(values: Sequence[float] | Any, units: Any, name: str) -> dict[str, float]:
    """name, low and high of a mean over clusters; NaN where there is nothing to average."""
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        return {name: np.nan, "low": np.nan, "high": np.nan}
    found = estimate(x, np.asarray(units))
    return {name: found.mean, "low": found.low, "high": found.high}


def records(rows: "DataFrame") -> list[dict[str, Any]]:
    """The rows as mappings."""
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]


def units(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What belongs together: a label a row."""
    return [row[UNIT] for row in rows]


def table(rows: Sequence[Mapping[str, Any]], title: str, *, note: str = "", signed: Sequence[str] = ()) -> "DataFrame":
    """A frame with what a reader of it needs to know in `attrs`: title, note, and the columns that are differences."""
    import pandas as pd

    frame = pd.DataFrame(list(rows))
    frame.attrs |= {"title": title, "note": note, "signed": tuple(signed)}
    return frame


def _list(value: Any) -> Sequence[Any]:
    """Empty fields are left out of a line, and the frame has NaN for them."""
    return value if isinstance(value, list | tuple) else ()
