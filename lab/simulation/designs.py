"""Designs of simulated comparisons: two arms on the same samples, with a known difference.

Of the pairs a share `discordance` differs, for the arm or against it; the difference of the means is `effect` exactly.
With effect 0 the names of the arms can be exchanged. In clusters of several samples, half of the samples are as the
first one of their cluster.

    single   one query is one cluster, right/wrong                  seeds    three seeds of each query
    groups   questions in groups of five                            graded   scores in [0, 1]
    f1       yes/no answers to balanced questions, by the F1 of the whole run. With accuracy a it is a in expectation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from experiments.stats.arms import UNIT
from experiments.stats.run_level_frames import SAMPLE, RunLevelScores, add_run_level
from icl.metrics.base import ScoredSample
from icl.metrics.binary import F1

if TYPE_CHECKING:
    from pandas import DataFrame

Floats = NDArray[np.float64]

ACCURACY = 0.6
"""Of the reference."""
DISCORDANCE = 0.2
SAME_AS_CLUSTER = 0.5
"""The share of a cluster's samples that are as its first one."""
SCORE = "score"


@dataclass(frozen=True)
class Design:
    """A kind of run. seeds: of each query. group: queries of each group; 1 for none."""

    kind: Literal["binary", "graded", "f1"] = "binary"
    seeds: int = 1
    group: int = 1

    @property
    def pairs(self) -> int:
        """The number of pairs of a cluster."""
        return self.seeds * self.group

    @property
    def mean(self) -> float:
        """The true score of the reference."""
        return 0.5 if self.kind == "graded" else ACCURACY


DESIGNS: Mapping[str, Design] = {
    "single": Design(),
    "seeds": Design(seeds=3),
    "groups": Design(group=5),
    "graded": Design("graded"),
    "f1": Design("f1"),
}


@dataclass(frozen=True)
class PageDesign:
    """The grid of a report of equal arms, with a strategy and its control in each setting.

    Attributes:
        seeds: Of each query.
        group: Queries of each group; 1 for none.
        shots: The numbers of shots, besides 0.
        retrievers: The retrievers of the arms with shots.
        tasks: The number of tasks.
    """

    seeds: int = 1
    group: int = 1
    shots: tuple[int, ...] = (4,)
    retrievers: tuple[str, ...] = ("random", "knn")
    tasks: int = 1

    @property
    def stream(self) -> tuple[int, ...]:
        """Seeds the draws."""
        size = len(self.shots) * len(self.retrievers) * self.tasks
        return (self.seeds, self.group, *((size,) if size > 2 else ()))


PAGE_DESIGNS: Mapping[str, PageDesign] = {
    "single": PageDesign(),
    "seeds": PageDesign(seeds=3),
    "groups": PageDesign(group=5),
    "wide grid": PageDesign(shots=(2, 4, 8), retrievers=("random", "knn", "bm25")),
    "three tasks": PageDesign(tasks=3),
}


def draw_scores(
    draw: np.random.Generator, design: Design, clusters: int, effect: float, discordance: float = DISCORDANCE
) -> tuple[Floats, Floats]:
    """([C, pairs] scores of the reference, [C, pairs] scores of the arm). For f1: whether the answers are right."""
    shape = clusters, design.pairs
    if design.kind == "graded":
        reference, arm = draw.beta(2, 2, shape), draw.beta(2, 2, shape)
        gain = 2 * effect / discordance
        arm = np.where(draw.random(shape) < discordance, arm + gain * (1 - arm), reference)
    else:
        place = draw.random(shape)
        loses, gains = (discordance - effect) / 2, (discordance + effect) / 2
        reference = (place < ACCURACY).astype(np.float64)
        arm = np.where(place < loses, 0.0, np.where(place > 1 - gains, 1.0, reference))
    same = draw.random(shape) < SAME_AS_CLUSTER
    return np.where(same, reference[:, :1], reference), np.where(same, arm[:, :1], arm)


def draw_frames(
    draw: np.random.Generator, design: Design, clusters: int, effect: float, discordance: float = DISCORDANCE
) -> "tuple[DataFrame, DataFrame]":
    """The samples of the reference and of the arm as statistics read them, with the scores in the column SCORE."""
    import pandas as pd

    places = np.arange(clusters * design.pairs)
    columns = {
        "query": places // design.seeds,
        "seed": places % design.seeds,
        UNIT: places // design.pairs,
    }
    scores = draw_scores(draw, design, clusters, effect, discordance)
    golds = np.where(draw.random(len(places)) < 0.5, "yes", "no")
    frames = []
    for own in scores:
        frame = pd.DataFrame({**columns, SCORE: own.ravel()})
        if design.kind == "f1":
            says_yes = (golds == "yes") == (own.ravel() == 1)
            samples = tuple(
                ScoredSample(str(i), float(yes), gold=(str(gold),))
                for i, (yes, gold) in enumerate(zip(says_yes, golds, strict=True))
            )
            answers = RunLevelScores(F1(), samples, np.zeros(len(samples), dtype=np.intp))
            frame = add_run_level(frame.assign(**{SAMPLE: places}), {SCORE: answers})
        frames.append(frame)
    return frames[0], frames[1]
