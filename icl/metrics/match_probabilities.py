"""Accuracy of P(yes) over the questions of an item: Winoground, and puzzles with candidates."""

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

    Winoground (Thrush et al., CVPR 2022): which of two captions with the same words belongs to
    which of two images?

    With the model's confidence s(c, i) in "yes" to "does the caption match the image", for captions 0, 1 and images
    0, 1:

        text   s(c0, i0) > s(c1, i0)  and  s(c1, i1) > s(c0, i1)        chance 1/4
        image  s(c0, i0) > s(c0, i1)  and  s(c1, i1) > s(c1, i0)        chance 1/4
        group  both                                                     chance 1/6

    A tie is wrong. Generated answers are 0 or 1 and often tie, so score options. The four questions of an item
    share a group and have `meta["caption"]` and `meta["image"]`, 0 or 1. These are numbered independently, so only
    the gold tells which belong together. Items with a missing question are left out. For SugarCrepe (Hsieh et al.,
    NeurIPS 2023), with one image and two captions, use the metric `option` with the captions as options.

    No released code was compared.
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


@component("metric", "raven")
@dataclass(frozen=True)
class RavenMetric:
    """Share of puzzles where the right candidate has the highest P(yes) minus its P(yes) without the matrix.

    Accuracy on puzzles, asking about one candidate at a time, as in Kosmos-1's Raven test (Huang et al., 2302.14045).

        choice = argmax over candidates c of P(yes | matrix with c) - P(yes | c alone)

    P(yes) is the probability among the options, or whether the answer is yes. The second term is 0 for puzzles without
    questions about candidates alone. A tie is wrong, and the order of the candidates does not matter. A question has
    `meta["candidate"]` and `meta["form"]`, "completed" or "alone", and the questions of a puzzle share a group. Puzzles
    with a missing question are left out.

    Differs from the released test in the second term. No released code.
    """

    better: ClassVar[Better] = "higher"

    def score(self, generation: Generation, example: Example) -> float | None:
        return yes_probability(generation) if {"candidate", "form"} <= set(example.meta) else None

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        return mean_over_groups(samples, chooses_right)


def chooses_right(members: Sequence[ScoredSample]) -> float | None:
    """1 if the right candidate of a puzzle is chosen, otherwise 0. None if the puzzle is not complete."""
    scored = [m for m in members if m.score is not None and {"candidate", "form"} <= set(m.meta)]
    by_form: dict[str, dict[str, float]] = {"completed": {}, "alone": {}}
    for member in scored:
        by_form.setdefault(str(member.meta["form"]), {})[str(member.meta["candidate"])] = float(member.score or 0)
    completed, alone = by_form["completed"], by_form["alone"]
    right = [
        str(m.meta["candidate"])
        for m in scored
        if m.meta["form"] == "completed" and "yes" in map(normalize_text, m.gold)
    ]
    if len(right) != 1 or (alone and alone.keys() != completed.keys()):
        return None
    gains = {name: value - alone.get(name, 0) for name, value in completed.items()}
    own = gains.pop(right[0])
    return float(all(own > other for other in gains.values()))
