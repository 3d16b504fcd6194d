"""Reading one row of a run's samples: its demonstrations, and which known answer its output gives."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.stats.arms import UNIT
from icl import OPTION_TEXTS, DataFrame, Demo, Example, Query, normalize_text, pd
from icl.metrics import named_option, vote

EMPTY_QUERY = Query("", (), "")
Demonstration = tuple[str, float, str]
"""id, score and answer."""


class SampleRow(Mapping[str, Any]):
    """One row of a frame as a mapping. A column of the frame is converted when one of its values is first read."""

    __slots__ = ("columns", "place")

    def __init__(self, columns: "_Columns", place: int) -> None:
        self.columns, self.place = columns, place

    def __getitem__(self, name: str) -> Any:
        return self.columns[name][self.place]

    def __iter__(self) -> Iterator[str]:
        return map(str, self.columns.frame)

    def __len__(self) -> int:
        return self.columns.frame.shape[1]


class _Columns(dict[str, list[Any]]):
    """The columns of a frame that were read, as lists."""

    def __init__(self, frame: DataFrame) -> None:
        super().__init__()
        self.frame, self.names = frame, frozenset(map(str, frame))

    def __missing__(self, name: str) -> list[Any]:
        if name not in self.names:  # pandas takes long to say so, and every row may ask
            raise KeyError(name)
        self[name] = self.frame[name].tolist()
        return self[name]


def to_records(rows: DataFrame) -> list[SampleRow]:
    """The rows as mappings."""
    columns = _Columns(rows)
    return [SampleRow(columns, place) for place in range(len(rows))]


def flags_by_value(
    frame: DataFrame, names: Sequence[str], is_flagged: Callable[[SampleRow], bool]
) -> NDArray[np.bool_]:
    """[n]: whether each row is flagged, asked once for each combination of values.

    Args:
        frame: The samples.
        names: The columns that `is_flagged` reads. Missing ones are left out.
        is_flagged: The question.
    """
    codes = np.zeros(len(frame), dtype=np.int64)
    for name in (name for name in names if name in frame):
        column: Any = frame[name].array
        if frame[name].dtype == object:  # lists cannot be hashed: equal ones may be asked several times
            column = np.array([value if isinstance(value, str) else id(value) for value in column], dtype=object)
        codes = pd.factorize(codes * len(frame) + pd.factorize(column, use_na_sentinel=False)[0])[0]
    first = frame.iloc[np.unique(codes, return_index=True)[1]]
    return np.array(list(map(is_flagged, to_records(first))), dtype=bool)[codes]


def demos_of(row: Mapping[str, Any]) -> list[Demonstration]:
    """The demonstrations in prompt order."""
    return [(str(name), float(score), str(answer)) for name, score, answer in as_sequence(row.get("demos"))]


def ranks_of(row: Mapping[str, Any]) -> list[int]:
    """The rank of each demonstration in prompt order; 0 is the retriever's best."""
    ranks = as_sequence(row.get("ranks"))
    count = len(as_sequence(row.get("demos")))
    return [int(rank) for rank in ranks] if len(ranks) == count else list(range(count))[::-1]


def text_value(row: Mapping[Any, Any], column: str) -> str:
    """The text in a column, or '': empty fields are not stored, and the frame has NaN for them."""
    value = row.get(column)
    return value if isinstance(value, str) else ""


def text_items(row: Mapping[str, Any], column: str) -> tuple[str, ...]:
    """The texts in a column, or an empty tuple."""
    return tuple(map(str, as_sequence(row.get(column))))


def read_answer(row: Mapping[str, Any]) -> str:
    """The normalized answer of a row's output: a known answer if the output names exactly one, else the output.

    Known answers are the options, the answers of the demonstrations, the gold answer, and the gold answer before and
    after a label transform.
    """
    candidates = (
        *text_items(row, "options"),
        *(answer for *_, answer in demos_of(row)),
        *text_items(row, "gold"),
        *text_items(row, "gold_before_after"),
    )
    return match_known_answer(
        text_value(row, "output"),
        tuple(dict.fromkeys(filter(normalize_text, candidates))),
    )


@lru_cache(maxsize=65_536)
def match_known_answer(output: str, candidates: tuple[str, ...]) -> str:
    """The one candidate that the output names, else the output itself; normalized."""
    named = named_option(output, candidates)
    return normalize_text(output) if named is None else named


def vote_answer(row: Mapping[str, Any]) -> str:
    """The normalized answer of the majority vote of a sample's demonstrations."""
    ranked_demos = zip(demos_of(row), ranks_of(row), strict=True)
    demos = [Demo(Example(name, (), "", (answer,)), score, rank) for (name, score, answer), rank in ranked_demos]
    return normalize_text(vote(demos, EMPTY_QUERY) or "")


def scores_by_names_used(rows: DataFrame) -> DataFrame:
    """Scores of the model and of the vote for samples in which the demonstrations rename the right answer.

    Under `flip_labels` the gold answer keeps its name, so a vote of flipped labels, and a model that follows it, would
    count as wrong. Here an answer is right if it is the name that the demonstrations use.

    Args:
        rows: Samples with `gold`, `gold_before_after`, `demos` and `output`.

    Returns:
        The columns `model` and `vote` for the samples whose gold answer was not renamed; none for the others.
    """
    scores: dict[Any, tuple[float, float]] = {}
    for place, row in zip(rows.index, to_records(rows), strict=True):
        names = [normalize_text(name) for name in text_items(row, "gold_before_after")]
        if len(names) == 2 and names[0] in map(normalize_text, text_items(row, "gold")):
            scores[place] = float(read_answer(row) == names[1]), float(vote_answer(row) == names[1])
    return pd.DataFrame(list(scores.values()), index=list(scores), columns=["model", "vote"], dtype=float)


def predicted_option(row: Mapping[str, Any]) -> str | None:
    """The option with the highest score, or without option scores the one that the output names; None for a tie."""
    options, scores = text_items(row, "options"), row.get("option_scores")
    if isinstance(scores, Mapping) and scores:
        best = [normalize_text(name) for name, score in scores.items() if score == max(scores.values())]
        return best[0] if len(best) == 1 and best[0] in map(normalize_text, options) else None
    texts = as_mapping(row.get("meta")).get(OPTION_TEXTS, ())
    letters = dict(zip(map(normalize_text, texts), map(normalize_text, options), strict=False))
    named = named_option(text_value(row, "output"), tuple(texts) or options)
    return letters.get(named, named) if named else None


def unit_labels(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The independent unit of each row."""
    return [row[UNIT] for row in rows]


def as_sequence(value: Any) -> Sequence[Any]:
    """The value if it is a list, else an empty tuple: empty fields are not stored, and the frame has NaN for them."""
    return value if isinstance(value, list | tuple) else ()


def as_mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one, as `as_sequence`."""
    return value if isinstance(value, Mapping) else {}
