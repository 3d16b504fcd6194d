"""Do captions hallucinate less than the reference's captions, if these were cut? (CHAIR_I against recall and length)

Shorter captions name fewer objects, and so fewer that are not in the image. Each arm is compared with its reference
(the default decoding if decodings differ, else the run's `compare`) in two ways:

    at_length  CHAIR_I minus the reference's CHAIR_I, with both captions of a pair cut to the words of the shorter one
    frontier   the lowest CHAIR_I of two trivial baselines at the recall of the arm: the reference's captions cut after
               k words, for all k, and the reference's captions without a random part of their mentions
    beyond     CHAIR_I minus frontier: below 0, the arm is better than any cut of the reference

CHAIR_I is the corpus ratio (`chair_corpus`), recall is the number of objects that captions name over the number of
objects in the images, and length is in words. Between two cuts, a share of the captions has the longer one. There is no
frontier beyond the recall of the reference. Intervals are t intervals over clusters of the pseudo-values
(`icl.metrics.run_level`), without correction for the number of arms. n counts the pairs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments import RunView, answered_samples, make_table, run_tasks
from experiments.stats import UNIT, estimate_mean, iter_arms, label_axes, reference_decoding, tidy_frame, varying_axes
from experiments.stats.pairs import KEYS
from icl import ConfigError, DataFrame, Example, mentions_and_objects
from icl.metrics.run_level import Floats, pseudo_values

CUTS = 24
"""The number of lengths at which the reference's captions are cut. The frontier interpolates between them."""

TOLERANCE = 1e-4  # by which the recall may exceed the whole captions' recall, for derivatives there
LEVEL = 0.95
COMPARISONS = ("at_length", "low", "high", "frontier", "beyond", "beyond_low", "beyond_high")


@dataclass(frozen=True)
class CaptionCounts:
    """The counts of CHAIR of one caption.

    Attributes:
        wrong: Mentions of objects that are not in the image.
        mentions: All mentions.
        hits: Objects in the image that the caption names.
        objects: Objects in the image.
    """

    wrong: int
    mentions: int
    hits: int
    objects: int


def caption_counts(caption: str, example: Example, words: int | None = None) -> CaptionCounts:
    """The counts of the first words of a caption; None: of the whole caption."""
    read = mentions_and_objects(" ".join(caption.split()[:words]), example)
    assert read is not None
    mentions, objects = read
    return CaptionCounts(
        sum(thing not in objects for thing in mentions), len(mentions), len(objects & set(mentions)), len(objects)
    )


def frontier(recall: float, cuts: NDArray[np.float64], objects: float) -> float:
    """The lowest CHAIR_I of trivial baselines at a recall.

    Args:
        recall: The recall, in [0, 1].
        cuts: [k, 3], wrong mentions, mentions and hits of the reference's captions, cut at k lengths in ascending
            order; the last are whole.
        objects: The number of objects in the images.

    Returns:
        NaN if the recall is 0 or exceeds the recall of the whole captions.
    """
    recalls = cuts[:, 2] / objects
    if not 0 < recall <= recalls[-1] * (1 + TOLERANCE):
        return np.nan
    recall = min(recall, recalls[-1])
    upper = int(np.argmax(recalls >= recall))
    lower = max(0, upper - 1)
    step = recalls[upper] - recalls[lower]
    share = (recall - recalls[lower]) / step if step > 0 else 1.0
    wrong, mentions, _ = cuts[lower] + share * (cuts[upper] - cuts[lower])
    return float(min(wrong / mentions, cuts[-1, 0] / cuts[-1, 1]))


@dataclass(frozen=True, eq=False)
class CaptionGroup:
    """The captions of arms that differ in the axes of the reference alone.

    Attributes:
        rows: One row of the table per arm.
        reference: The samples of the reference; None if it was not run.
        examples: The queries of the task.
        to: The setting of the reference.
    """

    rows: "list[dict[str, Any]]"
    reference: DataFrame | None
    examples: dict[str, Example]
    to: "dict[str, Any]"

    def curve(self) -> list[tuple[float, float]]:
        """(recall, lowest CHAIR_I of a trivial baseline at that recall), by ascending recall; empty if undefined."""
        if self.reference is None:
            return []
        captions = [str(text or "") for text in self.reference["output"]]
        cases = [self.examples[str(query)] for query in self.reference["query"]]
        total = _against_cuts(list(zip(captions, captions, strict=True)), cases).sum(axis=0)
        objects, cuts = total[3], total[4:].reshape(-1, 3)
        recalls = dict.fromkeys(float(hits / objects) for hits in cuts[:, 2]) if objects else {}
        return [(recall, frontier(recall, cuts, objects)) for recall in sorted(recalls) if recall > 0 and cuts[-1, 1]]


def analyze(view: RunView) -> DataFrame:
    """One row per arm with its reference. Raises ConfigError if no task has objects for CHAIR."""
    groups = caption_groups(view)
    lines = [row for group in groups for row in group.rows]
    reference = ", ".join(f"{axis} {value}" for axis, value in groups[0].to.items()) or "none"
    return make_table(
        lines,
        "Hallucination at equal length and at equal recall",
        note=f"reference: {reference}; chair: lower is better",
        signed=("at_length", "low", "high", "beyond", "beyond_low", "beyond_high"),
    )


def caption_groups(view: RunView) -> list[CaptionGroup]:
    """The arms of each task and setting. Raises ConfigError if no task has objects for CHAIR."""
    rows = tidy_frame(answered_samples(view, with_demos=False), view.axes)
    tasks = run_tasks(view, rows)
    varies = "decoding" in varying_axes(rows, view.axes)
    to = {"decoding": reference_decoding(rows)} if varies else dict(view.to)
    if missing := sorted(set(to) - set(view.axes)):
        raise ConfigError(f"{view.path}: captions are compared with those of an arm, not of '{missing[0]}'. Use --to.")
    groups = []
    for task, own in rows.groupby("task", sort=False):
        examples = {example.id: example for example in tasks[str(task)].queries}
        if all(mentions_and_objects("", example) is not None for example in examples.values()):
            groups += list(_groups(view, own, examples, to))
    if not groups:
        raise ConfigError(
            f"{view.path}: no task has the objects of its images, which CHAIR needs. Use the task captions, or name "
            "the column of objects of a hub data set (columns: {objects: ...})."
        )
    return groups


def _groups(
    view: RunView, rows: DataFrame, examples: dict[str, Example], to: dict[str, Any]
) -> "Iterator[CaptionGroup]":
    shared = [axis for axis in view.axes if axis not in to]
    named = label_axes(view.frame, view.axes)
    for _, group in iter_arms(rows, shared):
        arms = list(iter_arms(group, list(to)))
        reference = next((own for arm, own in arms if arm == to), None)
        lines = [{axis: own[axis].iloc[0] for axis in named} | _line(own, reference, examples) for _, own in arms]
        yield CaptionGroup(lines, reference, examples, to)


def _line(arm: DataFrame, reference: DataFrame | None, examples: dict[str, Example]) -> dict[str, Any]:
    line = _means(arm, examples) | dict.fromkeys(COMPARISONS, np.nan) | {"n": len(arm)}
    if reference is None or reference is arm:
        return line
    theirs = reference.set_index(list(KEYS))["output"].to_dict()
    arm = arm[[key in theirs for key in _keys(arm)]]
    if not len(arm):
        return line
    pairs = [(str(theirs[key] or ""), str(text or "")) for key, text in zip(_keys(arm), arm["output"], strict=True)]
    cases, units = [examples[str(query)] for query in arm["query"]], arm[UNIT].to_numpy()
    at_length = _estimate(_at_length(pairs, cases), _chair_difference, units)
    beyond = _estimate(_against_cuts(pairs, cases), _beyond, units)
    compared = (*at_length, _means(arm, examples)["chair"] - beyond[0], *beyond)
    return line | dict(zip(COMPARISONS, compared, strict=True)) | {"n": len(arm)}


def _means(arm: DataFrame, examples: dict[str, Example]) -> dict[str, float]:
    captions = [str(text or "") for text in arm["output"]]
    counts = [caption_counts(text, examples[str(query)]) for text, query in zip(captions, arm["query"], strict=True)]
    mentions, objects = sum(count.mentions for count in counts), sum(count.objects for count in counts)
    return {
        "length": float(np.mean([len(text.split()) for text in captions])),
        "recall": sum(count.hits for count in counts) / objects if objects else np.nan,
        "chair": sum(count.wrong for count in counts) / mentions if mentions else np.nan,
    }


def _keys(rows: DataFrame) -> "list[tuple[Any, ...]]":
    return list(rows[list(KEYS)].itertuples(index=False, name=None))


def _at_length(pairs: Sequence[tuple[str, str]], cases: Sequence[Example]) -> Floats:
    """[n, 4]: wrong mentions and mentions of the arm and of the reference, both cut to the shorter one's length."""
    counted = []
    for (reference, arm), example in zip(pairs, cases, strict=True):
        words = min(len(reference.split()), len(arm.split()))
        mine, theirs = caption_counts(arm, example, words), caption_counts(reference, example, words)
        counted.append((mine.wrong, mine.mentions, theirs.wrong, theirs.mentions))
    return np.array(counted, dtype=np.float64)


def _against_cuts(pairs: Sequence[tuple[str, str]], cases: Sequence[Example]) -> Floats:
    """[n, 4 + 3 k]: the counts of the arm, then the reference's counts at k lengths."""
    longest = max(len(reference.split()) for reference, _ in pairs)
    cuts = np.unique(np.round(np.linspace(0, longest, CUTS)).astype(int))
    counted = []
    for (reference, arm), example in zip(pairs, cases, strict=True):
        own = caption_counts(arm, example)
        counts = [own.wrong, own.mentions, own.hits, own.objects]
        for words in cuts:
            cut = caption_counts(reference, example, int(words))
            counts += [cut.wrong, cut.mentions, cut.hits]
        counted.append(counts)
    return np.array(counted, dtype=np.float64)


def _chair_difference(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1] - sums[..., 2] / sums[..., 3], dtype=np.float64)


def _beyond(sums: Floats) -> Floats:
    return np.apply_along_axis(_beyond_of, -1, sums)


def _beyond_of(row: Floats) -> float:
    wrong, mentions, hits, objects = row[:4]
    if not mentions or not objects:
        return np.nan
    return float(wrong / mentions - frontier(hits / objects, row[4:].reshape(-1, 3), objects))


def _estimate(rows: Floats, value: "Callable[[Floats], Floats]", units: NDArray[np.int_]) -> tuple[float, float, float]:
    """A statistic of summed rows with a t interval over clusters; NaN where it is undefined."""
    if np.isnan(value(rows.sum(axis=0))):
        return np.nan, np.nan, np.nan
    one = estimate_mean(pseudo_values(rows, value), units, LEVEL, bounded=False)
    return one.mean, one.low, one.high
