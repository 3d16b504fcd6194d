"""Arms of known truth whose answers are worded differently: what a rule that misreads prose claims, and what bounds do.

Some answers are prose. The metric's own rule refuses 60 % of the right ones and accepts 3 % of the wrong ones; the
reader leaves nine of ten prose answers unread (`icl.metrics.reading`).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.config.keys import StopSpec
from experiments.stats.arms import UNIT, unread_column
from experiments.stats.bounds import bounded_test, pair_ends, unread_texts
from experiments.stats.pairs import PairedTestResult, align_pairs
from experiments.stats.significance import SIGNIFICANCE_LEVEL
from lab.simulation.designs import DESIGNS, SCORE, Floats, draw_scores
from lab.simulation.measures import one_walk

if TYPE_CHECKING:
    from pandas import DataFrame

REFUSED, ACCEPTED, UNREAD = 0.6, 0.03, 0.9
"""Of prose: right answers that the rule refuses, wrong ones that it accepts, and answers that the reader leaves."""

PROSE = ((0.0, 0.0), (0.1, 0.1), (0.4, 0.4), (0.1, 0.0), (0.4, 0.0), (0.4, 0.1))
"""The shares of prose in the two arms."""

STEPS = 4
"""The looks while outputs are labeled."""


def wording_rows(
    clusters: Sequence[int], effect: float, discordance: float, runs: int, seed: int
) -> Iterator[dict[str, Any]]:
    """How often equal arms are called different, and how often a true gain is seen, by the share of prose.

    *rule alone* tests the scores of the rule, *bounds* all readings of the unread outputs, *labeled* after each quarter
    of the unread outputs that speak for a difference has its label, the outputs that speak most for it first. *stop*
    looks at the bounds while the samples come in, and ends with the first verdict.
    """
    for count in clusters:
        for prose in PROSE:
            draw = np.random.default_rng([seed, count, *(round(100 * share) for share in prose)])
            null = [_one(draw, count, 0.0, discordance, prose) for _ in range(runs)]
            real = [_one(draw, count, effect, discordance, prose) for _ in range(runs)]
            shares = np.array([null, real], dtype=np.float64).mean(axis=1)
            yield {
                "prose": f"{prose[0]:g} / {prose[1]:g}",
                "clusters": count,
                "false: rule alone": float(shares[0, 0]),
                "false: bounds": float(shares[0, 1]),
                "false: labeled": float(shares[0, 2]),
                "false: stop": float(shares[0, 5]),
                "undecided": float(shares[0, 3]),
                f"power at {100 * effect:g} points: bounds": float(shares[1, 1]),
                "power: stop": float(shares[1, 5]),
                "power: all labels": float(shares[1, 4]),
            }


def _one(
    draw: np.random.Generator, clusters: int, effect: float, discordance: float, prose: tuple[float, float]
) -> tuple[bool, bool, bool, bool, bool, bool]:
    """Whether a difference is claimed by the rule, by the bounds, at any look at labels, undecided, claimed with all
    labels, and by `stop`.
    """
    truth = [own.ravel() for own in draw_scores(draw, DESIGNS["single"], clusters, effect, discordance)]
    are_prose = [draw.random(clusters) < share for share in prose]
    unread = [flags & (draw.random(clusters) < UNREAD) for flags in are_prose]
    rule = [
        np.where(flags, np.where(own == 1, draw.random(clusters) > REFUSED, draw.random(clusters) < ACCEPTED), own)
        for flags, own in zip(are_prose, truth, strict=True)
    ]
    read = [
        np.where(flags & ~hidden, own, scores)
        for flags, hidden, own, scores in zip(are_prose, unread, truth, rule, strict=True)
    ]
    bounds, favorable_p = _test(read, unread)
    looks = [bounds]
    for sign in (1, -1):  # a person who wants this difference labels the outputs that speak for it first
        hidden = [flags.copy() for flags in unread]
        places = [
            (arm, i)
            for arm in (0, 1)
            for i in np.flatnonzero(unread[arm] & (truth[arm] == (arm if sign > 0 else 1 - arm)))
        ]
        for part in np.array_split(np.array(places, dtype=np.intp).reshape(-1, 2), STEPS):
            for arm, i in part:
                hidden[arm][i] = False
            labeled = [np.where(flags, own, true) for flags, own, true in zip(hidden, read, truth, strict=True)]
            looks.append(_test(labeled, hidden)[0])
    whole, _ = _test(truth, [np.zeros(clusters, dtype=bool)] * 2)
    alone, _ = _test(rule, [np.zeros(clusters, dtype=bool)] * 2)
    by_rule, by_bounds, by_labels = (one.p <= SIGNIFICANCE_LEVEL for one in (alone, bounds, whole))
    is_undecided = not by_bounds and favorable_p <= SIGNIFICANCE_LEVEL
    low, high = _ends(read, unread)
    stopped, _ = one_walk((low, high), StopSpec(), 1)
    claims = any(one.p <= SIGNIFICANCE_LEVEL for one in looks), is_undecided, by_labels, stopped.end == "decided"
    return by_rule, by_bounds, *claims


def _test(scores: Sequence[Floats], unread: Sequence[Any]) -> tuple[PairedTestResult, float]:
    """The test of the arms, and the smallest p that their unread outputs allow."""
    frames = _frames(scores, unread)
    result, bounds, _ = bounded_test(frames, align_pairs(*frames, SCORE), SCORE)
    return result, bounds.favorable_p if bounds else 1.0


def _ends(scores: Sequence[Floats], unread: Sequence[Any]) -> Floats:
    """[2, n]: the differences with every unread output against the second arm, and for it."""
    texts = (unread_texts(frame, SCORE) for frame in _frames(scores, unread))
    return pair_ends(scores[0], scores[1], *texts)


def _frames(scores: Sequence[Floats], unread: Sequence[Any]) -> tuple["DataFrame", "DataFrame"]:
    return _frame(scores[0], unread[0], "first"), _frame(scores[1], unread[1], "second")


def _frame(scores: Floats, unread: Any, name: str) -> "DataFrame":
    import pandas as pd

    places = np.arange(len(scores))
    texts = np.where(unread, np.char.add(f"{name} ", places.astype(str)), "")
    columns = {"query": places, "seed": 0, UNIT: places, SCORE: scores.astype(np.float64)}
    return pd.DataFrame(columns | {unread_column(SCORE): texts.astype(object)})
