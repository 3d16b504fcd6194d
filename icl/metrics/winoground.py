"""Winoground (Thrush et al., CVPR 2022): two captions with the same words and two images; which belong together?

With the model's confidence s(c, i) in "yes" to "does the caption match the image", for captions 0, 1 and images 0, 1:

    text   s(c0, i0) > s(c1, i0)  and  s(c1, i1) > s(c0, i1)        chance 1/4
    image  s(c0, i0) > s(c0, i1)  and  s(c1, i1) > s(c1, i0)        chance 1/4
    group  both                                                     chance 1/6

A tie is wrong. Generated answers are 0 or 1 and often tie, so score options. The four questions of an item share a
group and have `meta["caption"]` and `meta["image"]`, 0 or 1. These are numbered independently, so only the gold tells
which belong together. Items with a missing question are left out. For SugarCrepe (Hsieh et al., NeurIPS 2023), with one
image and two captions, use the metric `option` with the captions as options.

No released code was compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl import Better, Example, Generation, RunStatistic, ScoredSample, component, mean_over_groups, normalize_text
from icl.metrics.machinery.option_parsing import yes_probability

MatchProbabilities = dict[tuple[int, int], float]
PLACES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""(caption, image)."""


@dataclass(frozen=True)
class WinogroundMetric:
    """Base class of the three. A sample's score is the probability of yes among the options, or whether the answer is
    yes.
    """

    better: ClassVar[Better] = "higher"

    def score(self, generation: Generation, example: Example) -> float | None:
        return yes_probability(generation) if {"caption", "image"} <= set(example.meta) else None

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        return mean_over_groups(samples, self._item)

    def holds(self, probabilities: MatchProbabilities) -> bool:
        """Whether the item counts. probabilities: (caption, image) -> confidence that they match."""
        raise NotImplementedError

    def _item(self, members: Sequence[ScoredSample]) -> float | None:
        scored = [m for m in members if m.score is not None and {"caption", "image"} <= set(m.meta)]
        own = {int(m.meta["image"]): int(m.meta["caption"]) for m in scored if "yes" in map(normalize_text, m.gold)}
        if set(own) != {0, 1} or set(own.values()) != {0, 1}:
            return None
        probabilities = {(int(m.meta["caption"]), own[int(m.meta["image"])]): float(m.score or 0) for m in scored}
        return float(self.holds(probabilities)) if set(probabilities) == set(PLACES) else None


@component("metric", "winoground_text")
@dataclass(frozen=True)
class WinogroundText(WinogroundMetric):
    """1 if for both images the right caption has more confidence than the other. A tie is wrong."""

    def holds(self, probabilities: MatchProbabilities) -> bool:
        return probabilities[0, 0] > probabilities[1, 0] and probabilities[1, 1] > probabilities[0, 1]


@component("metric", "winoground_image")
@dataclass(frozen=True)
class WinogroundImage(WinogroundMetric):
    """1 if for both captions the right image has more confidence than the other. A tie is wrong."""

    def holds(self, probabilities: MatchProbabilities) -> bool:
        return probabilities[0, 0] > probabilities[0, 1] and probabilities[1, 1] > probabilities[1, 0]


@component("metric", "winoground_group")
@dataclass(frozen=True)
class WinogroundGroup(WinogroundMetric):
    """1 if the text score and the image score are both 1 for an item."""

    def holds(self, probabilities: MatchProbabilities) -> bool:
        return WinogroundText().holds(probabilities) and WinogroundImage().holds(probabilities)
