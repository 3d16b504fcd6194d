"""The outputs of a run that are to be labeled, and the labels in the frame of its samples.

Queries are labeled in an order that depends on their ids alone, and all unread outputs of a query belong together,
whichever arms gave them. So the first queries are a random sample for every comparison, also of a merged run. The first
`AUDITED_QUERIES` of all queries of a task audit the reader: their read outputs are labeled too, also for queries
without an unread output. Otherwise outputs would never be audited on queries where the reader reads every arm. A task
without unread outputs has no audit.

If the reader fails the audit of a task, the labels correct it in this task. Until enough queries are labeled for that,
its read outputs count as unread.

A run-level metric, such as F1, has no queue: it is not a mean of scores that labels could replace.
"""

import csv
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.stats import (
    as_sequence,
    format_count,
    is_run_level,
    join_words,
    measure_agreement,
    text_items,
    text_value,
    to_records,
    unread_column,
)
from experiments.stats.arms import UNIT, axes_of
from experiments.stats.bounds import unread_text
from experiments.stats.settled import MIN_LABELS, LabelColumn, ReaderAudit, audit, unread_flags
from experiments.store import Label, append_labels, write_csv
from experiments.store.labels import Labels, label_key
from icl import DataError, DataFrame, StoreError, canonical_digest, did_you_mean, pd

AUDITED_QUERIES = 20


@dataclass(frozen=True)
class Output:
    """An output to label. Its arm is left out, so that whoever labels it cannot know it.

    Attributes:
        key: Its digest (`experiments.store.labels.label_key`).
        query: The id of the query.
        images: The digests of the query's images.
        score: What the metric says: 1 right, 0 wrong.
        is_unread: Whether the reader could not read it.
    """

    key: str
    query: str
    question: str
    images: tuple[str, ...]
    gold: tuple[str, ...]
    options: tuple[str, ...]
    text: str
    score: float
    is_unread: bool


@dataclass(frozen=True)
class TaskAudit:
    """The audit of the reader in a task. queries: in their order. arms: for each arm, its read outputs."""

    queries: Sequence[str]
    arms: Sequence[frozenset[Output]]


@dataclass(frozen=True, eq=False)
class Queue:
    """The outputs of a run by query, in the order in which queries are labeled.

    Attributes:
        metric: The metric whose outputs are labeled.
        outputs: Query -> its distinct outputs that are unread or, for the audit, read.
        audits: Task -> its audit.
    """

    metric: str
    outputs: Mapping[str, Sequence[Output]]
    audits: Mapping[str, TaskAudit] = field(default_factory=dict)

    @cached_property
    def unread(self) -> list[str]:
        """The queries with an unread output. Only these are counted where queries are to be labeled."""
        return [query for query, own in self.outputs.items() if any(one.is_unread for one in own)]

    def first(self, queries: int | None) -> list[Output]:
        """The outputs to label up to so many unread queries; None: the unread outputs of all queries, and the audit."""
        names = [*self.outputs]
        if queries is not None and queries < len(self.unread):
            names = names[: names.index(self.unread[queries])]
        return [one for name in names for one in self.outputs[name]]

    def missing(self, labels: Labels, queries: int | None, by: str = "") -> list[Output]:
        """Those without a label, or without one of the person `by`."""
        return [
            one for one in self.first(queries)
            if (by not in labels.people.get(one.key, {}) if by else one.key not in labels.people)
        ]  # fmt: skip

    def finished_look(self, labels: Labels) -> int:
        """The largest number of queries whose unread outputs were to be labeled and are; all count. 0 without one.

        The audit may lack labels: a run that was merged has read outputs that nobody was asked about.
        """
        looks = [*(look for look in labels.looks if look < len(self.unread)), len(self.unread)]
        left = {look: [one for one in self.missing(labels, look) if one.is_unread] for look in looks}
        return max((look for look in looks if not left[look]), default=0)

    def audited(self, task: str, labels: Labels) -> list[str]:
        """The first queries, of those of a task's audit, whose outputs all have labels."""

        def is_labeled(query: str) -> bool:
            return all(one.key in labels.people for one in self.outputs.get(query, ()))

        return [*takewhile(is_labeled, self.audits[task].queries)]


def query_order(query: str) -> str:
    """What queries are sorted by: a digest of the id, which no output and no arm decides."""
    return canonical_digest(["label", query])


def make_queue(frame: DataFrame, metric: str) -> Queue:
    """The outputs of samples (`Run.lazy_samples`) that a metric leaves unread, and those of the audit."""
    return _queue(frame, metric, _outputs(frame, metric))


def require_queue(frame: DataFrame, metric: str, run: Path) -> Queue:
    """As `make_queue`. run: The run directory, for messages.

    Raises:
        StoreError: There are none, or the metric is a run-level metric.
    """
    if is_run_level(frame, metric):
        others = [name for name in frame.attrs.get("metrics", ()) if make_queue(frame, name).outputs]
        instead = f"Choose {join_words(others)} (--metric)." if others else "No other score of the run has unread ones."
        raise StoreError(
            f"{run}: '{metric}' is computed from whole arms, so labels of outputs cannot settle it. {instead}"
        )
    queue = make_queue(frame, metric)
    if not queue.outputs:
        raise StoreError(f"{run} has no output that '{metric}' cannot read: nothing to label, and nothing to judge.")
    return queue


def is_unread(frame: DataFrame, metric: str) -> NDArray[np.bool_]:
    """For each sample, whether the metric's score of it is not certain."""
    if metric not in frame:
        return np.zeros(len(frame), dtype=bool)
    return np.asarray(unread_flags(frame, metric) & frame[metric].notna().to_numpy())


def audit_reader(queue: Queue, labels: Labels) -> dict[str, ReaderAudit]:
    """Task -> how many labels of read outputs agree with the reader, over all arms and in each."""
    audits = {}
    for task, own in queue.audits.items():
        whole, *arms = (_audit(read, labels) for read in (frozenset[Output]().union(*own.arms), *own.arms))
        audits[task] = replace(whole, arms=tuple(arms))
    return audits


def describe_labels(queue: Queue, labels: Labels) -> Iterator[str]:
    """Sentences on the labels of a run: how many there are, whether the reader agrees, and on what people disagree."""
    outputs = queue.first(None)
    if look := queue.finished_look(labels):
        by = format_count(len(labels.persons), "person", "people")
        of = f"{look:,} of {len(queue.unread):,} queries"
        yield f"Unread outputs are settled by labels of {of} that have some, by {by}."
    elif labels.judged:
        yield "The verdicts of a judge count only after queries are labeled: icl label"
    elif labels.people:
        yield "Labels settle nothing before those of all planned queries are there: icl label"
    if labels.judged:
        yield f"{join_words([*labels.judges])} judged unread outputs. {judge_error(labels, outputs)}"
    for task, checked in audit_reader(queue, labels).items():
        if checked.labels:
            yield f"{f'{task}: t' if len(queue.audits) > 1 else 'T'}he reader {checked.describe()}."
    in_dispute = set(labels.disputed)
    if disputed := [one for one in outputs if one.key in in_dispute]:
        examples = ", ".join(f"{one.text[:40]!r} ({one.query})" for one in disputed[:3])
        number = format_count(len(disputed), "output")
        yield f"{join_words(labels.persons)} disagree on {number}, left unread: {examples}."
    if labels.damaged:
        yield (
            f"{format_count(len(labels.damaged), 'damaged line')} of labels.jsonl: labels that they may take back do "
            "not count."
        )
    if others := len(labels.people.keys() - _keys(outputs)):
        number = format_count(others, "label")
        yield f"Not used: {number} of outputs that the run does not have any more, or that the reader can read now."


def judge_error(labels: Labels, outputs: Sequence[Output]) -> str:
    """How often the verdicts of judge models agree with people, on right and on wrong outputs."""
    pairs = [
        (right, judged)
        for one in outputs
        if one.is_unread
        and (right := labels.verdict(one.key)) is not None
        and (judged := labels.judged.get(one.key)) is not None
    ]
    if not pairs:
        return "No person has labeled any of these outputs, so the judge's error is unknown."
    refused = sum(right and not verdict for right, verdict in pairs)
    accepted = sum(verdict and not right for right, verdict in pairs)
    num_right = sum(right for right, _ in pairs)
    return (
        f"On {format_count(len(pairs), 'labeled output')} it refuses {refused} of {num_right} right ones and accepts "
        f"{accepted} of {len(pairs) - num_right} wrong ones: {measure_agreement(pairs).describe()}."
    )


def apply_labels(frame: DataFrame, metric: str, labels: Labels) -> DataFrame:
    """The frame in which a labeled output has its label as score, with the columns `LabelColumn`.

    Without labels or unread outputs it is the frame itself, and so it is with a run-level metric, which reads the
    samples from the frame's `attrs`: it stays undecided.
    """
    outputs = _outputs(frame, metric) if labels.people or labels.judged else {}
    if not outputs:
        return frame
    queue = _queue(frame, metric, outputs)
    names, look = queue.unread, queue.finished_look(labels)
    query = frame["query"].astype(str)
    order, (audited, distrusted) = query.map(query_order), _refuted(frame, queue, labels)
    ends = [query_order(names[number - 1]) for number in sorted({*labels.looks, look}) if 0 < number <= look]
    score = frame[metric].to_numpy(dtype=np.float64, na_value=np.nan)
    unread = is_unread(frame, metric) | (distrusted & np.isfinite(score))
    label, judged = np.full(len(frame), np.nan), np.full(len(frame), np.nan)
    for place, output in outputs.items():
        label[place], judged[place] = _number(labels.verdict(output.key)), _number(labels.judged.get(output.key))
    is_labeled = unread & np.isfinite(label)
    columns: dict[LabelColumn, Any] = {
        LabelColumn.UNREAD: unread,
        LabelColumn.LABEL: label,
        LabelColumn.PROXY: np.where(unread & np.isfinite(judged), judged, score),
        LabelColumn.SAMPLED: ~distrusted & ((order <= max(ends, default="")) | (look == len(names))),
        LabelColumn.AUDITED: audited & np.isin(np.arange(len(frame)), [*outputs]),
        LabelColumn.LOOK: np.clip(
            np.searchsorted(np.array(ends, dtype=str), order.to_numpy(dtype=str)) + 1, 1, max(1, len(ends))
        ),
    }
    texts = frame[unread_column(metric)].fillna("")
    if distrusted.any():
        texts = texts.where(~unread | (texts != ""), [_text(row) for row in to_records(frame)])
    scores: dict[str, Any] = {
        metric: np.where(is_labeled, label, score),
        unread_column(metric): texts.where(~is_labeled, ""),
    }
    return frame.assign(**{name.of(metric): values for name, values in columns.items()}, **scores)


def _refuted(frame: DataFrame, queue: Queue, labels: Labels) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """For each sample: whether its query is audited and corrects the reader, and whether too few queries do."""
    audited, distrusted = (np.zeros(len(frame), dtype=bool) for _ in range(2))
    tasks, queries = _tasks(frame), frame["query"].astype(str)
    for task in (task for task, checked in audit_reader(queue, labels).items() if checked.is_refuted):
        own = (tasks == task).to_numpy()
        chosen = own & queries.isin(queue.audited(task, labels)).to_numpy()
        units = frame.get(UNIT, queries)
        is_enough = units[chosen].nunique() >= MIN_LABELS or set(queries[chosen]) == set(queries[own])
        audited |= chosen & is_enough
        distrusted |= own & (not is_enough)
    return audited, distrusted


def _tasks(frame: DataFrame) -> Any:
    """The task of each sample."""
    return frame["task"].astype(str) if "task" in frame else frame["query"].map(lambda _: "")


def _text(row: Mapping[str, Any]) -> str:
    return unread_text(text_value(row, "output"), *(text_items(row, name) for name in ("gold", "options")))


def _audited_queries(frame: DataFrame, metric: str) -> dict[str, list[str]]:
    """Task with unread outputs -> the queries of its audit, in their order."""
    tasks, queries, scored = _tasks(frame), frame["query"].astype(str), frame[metric].notna()
    return {
        task: sorted(set(queries[scored & (tasks == task)]), key=query_order)[:AUDITED_QUERIES]
        for task in dict.fromkeys(tasks[is_unread(frame, metric)])
    }


def _outputs(frame: DataFrame, metric: str) -> dict[int, Output]:
    """Row -> its output, for unread outputs and those of the audit."""
    unread = is_unread(frame, metric)
    if not unread.any() or is_run_level(frame, metric):
        return {}
    read = frame[metric].notna() & frame["output"].map(lambda text: isinstance(text, str))
    tasks, queries, audited = _tasks(frame), frame["query"].astype(str), np.zeros(len(frame), dtype=bool)
    for task, names in _audited_queries(frame, metric).items():
        audited |= ((tasks == task) & queries.isin(names)).to_numpy()
    places = np.flatnonzero(unread | (read & audited).to_numpy())
    rows = to_records(frame.iloc[places])
    return {int(place): _output(row, metric, bool(unread[place])) for place, row in zip(places, rows, strict=True)}


def _queue(frame: DataFrame, metric: str, outputs: Mapping[int, Output]) -> Queue:
    """The queue of these outputs of a frame, by row."""
    places = [place for place, one in outputs.items() if not one.is_unread]
    tasks, audits = _tasks(frame).iloc[places], {}
    for task, queries in _audited_queries(frame, metric).items():
        own = [place for place, name in zip(places, tasks, strict=True) if name == task]
        arms = frame.iloc[own].groupby([*axes_of(frame)], sort=False, dropna=False).indices.values()
        audits[task] = TaskAudit(queries, [frozenset(outputs[own[i]] for i in arm) for arm in arms])
    return Queue(metric, _outputs_by_query(outputs), audits)


def _keys(outputs: Iterable[Output]) -> set[str]:
    return {one.key for one in outputs}


def _audit(outputs: Collection[Output], labels: Labels) -> ReaderAudit:
    read = [*outputs]
    return audit(np.array([one.score for one in read]), np.array([_number(labels.verdict(one.key)) for one in read]))


def _outputs_by_query(outputs: Mapping[int, Output]) -> dict[str, list[Output]]:
    """The distinct outputs of each query to label. Their order, by digest, says nothing of their arms."""
    by_query: dict[str, dict[str, Output]] = {}
    for output in outputs.values():
        own = by_query.setdefault(output.query, {})
        if output.is_unread or output.key not in own:  # equal texts may be read in one task only: then label them
            own[output.key] = output
    return {
        query: sorted(by_query[query].values(), key=lambda one: one.key) for query in sorted(by_query, key=query_order)
    }


def _output(row: Mapping[str, Any], metric: str, unread: bool) -> Output:
    question, text = text_value(row, "question"), text_value(row, "output")
    gold, options = (text_items(row, name) for name in ("gold", "options"))
    owners = as_sequence(row.get("image_of"))
    images = (str(name) for name, owner in zip(as_sequence(row.get("images")), owners, strict=False) if owner == -1)
    key = label_key(question, gold, options, text)
    return Output(key, str(row["query"]), question, tuple(images), gold, options, text, float(row[metric]), unread)


def _number(right: bool | None) -> float:
    return np.nan if right is None else float(right)


# Outputs to label as a CSV file, for spreadsheets and for crowd workers, and the labels that come back in it.


KEY, VERDICT = "key", "right"
VERDICTS = {"right": True, "yes": True, "1": True, "wrong": False, "no": False, "0": False, "?": None}
"""What the column VERDICT may have. An empty cell is no label, and '?' is one of somebody who cannot tell."""


def export_outputs(path: Path, outputs: Sequence[Output]) -> int:
    """Writes a row per output, with an empty column VERDICT. Returns the number of rows."""
    rows = [
        {
            KEY: one.key,
            VERDICT: "",
            "question": one.question,
            "options": " / ".join(one.options),
            "accepted": " / ".join(one.gold),
            "output": one.text,
            "images": " ".join(f"images/{name}.png" for name in one.images),
        }
        for one in outputs
    ]
    write_csv(path, pd.DataFrame(rows, columns=[KEY, VERDICT, "question", "options", "accepted", "output", "images"]))
    return len(rows)


def import_labels(path: Path, run: Path, queue: Queue, by: str, look: int) -> int:
    """Adds the labels of a file to a run. Either all are added or none. Returns their number.

    Raises:
        DataError: The file cannot be read, lacks a column, or has an output of another run or another verdict.
    """
    keys, labels = {one.key for one in queue.first(None)}, []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}.") from error
    for number, row in enumerate(rows, 2):
        if missing := [name for name in (KEY, VERDICT) if row.get(name) is None]:
            raise DataError(
                f"{path}, row {number}: it has no column '{missing[0]}', which `icl label --export` writes."
            )
        key, word = row[KEY].strip(), row[VERDICT].strip().lower()
        if not word:
            continue
        if word not in VERDICTS:
            near = did_you_mean(word, VERDICTS)
            raise DataError(f"{path}, row {number}: '{word}' is no verdict.{near} Write right, wrong or ?.")
        if key not in keys:
            raise DataError(f"{path}, row {number}: the run has no such output to label. Export the file again.")
        labels.append(Label(key, VERDICTS[word], by, look=look))
    if labels:
        append_labels(run, labels)
    return len(labels)
