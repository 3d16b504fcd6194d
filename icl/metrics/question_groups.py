"""Scores of groups of questions: right only where every question of the group is answered rightly.

    group_accuracy   MMVP (Tong et al., CVPR 2024): 150 pairs of images that CLIP does not tell apart, a pair counts
                     where both answers are right; MME's accuracy+ (Fu et al., 2306.13394): both about an image
    mme              100 (accuracy + accuracy+) of each subtask, summed, as a share of what is possible (200 a subtask).
                     The published score is this times 200 times the number of subtasks (perception 2000, cognition 800)

An answer is right by the scores of its options where they were scored, else by the rules of `lenient`; the published
MMVP has a language model for a judge. A task says what belongs together by `group` and, for `mme`, carries the name of
the subtask in `meta`. A group with a failed sample has no part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from icl.metrics.base import Better, ScoredSample
from icl.metrics.option_parsing import is_correct
from icl.metrics.run_level import SampleValues, group_indices, mean_over_groups
from icl.registry import component
from icl.types import Example, Generation


@component("metric", "group_accuracy")
@dataclass(frozen=True)
class GroupAccuracy:
    """Share of groups (pairs about one image, say) in which every answer is right: accuracy+, pair accuracy."""

    better: ClassVar[Better] = "higher"

    def score(self, generation: Generation, example: Example) -> float | None:
        return float(is_correct(generation, example)) if example.group is not None else None

    def run_level(self, samples: Sequence[ScoredSample]) -> SampleValues:
        return mean_over_groups(samples, all_correct)


@component("metric", "mme")
@dataclass(frozen=True)
class MME:
    """MME's score, accuracy and accuracy+ of each subtask, as a share of the highest possible one."""

    better: ClassVar[Better] = "higher"

    subtask: str = "category"  # what the subtask is called among the `meta` of a sample

    def score(self, generation: Generation, example: Example) -> float | None:
        return float(is_correct(generation, example)) if self.subtask in example.meta else None

    def run_level(self, samples: Sequence[ScoredSample]) -> SampleValues:
        groups: dict[tuple[str, str], list[int]] = {}
        for name, places in group_indices(samples).items():
            for place in places:
                groups.setdefault((str(samples[place].meta.get(self.subtask)), name), []).append(place)
        whole = sorted(
            place for places in groups.values() if all(samples[i].score is not None for i in places) for place in places
        )
        parts: SampleValues = [None] * len(samples)
        for place, part in zip(whole, self._parts([samples[i] for i in whole]), strict=True):
            parts[place] = part
        return parts

    def _parts(self, samples: Sequence[ScoredSample]) -> SampleValues:
        """Each subtask's (accuracy + accuracy+) / 2, in numbers that average to the mean over subtasks."""
        places: dict[str, list[int]] = {}
        for place, sample in enumerate(samples):
            places.setdefault(str(sample.meta.get(self.subtask)), []).append(place)
        parts: SampleValues = [None] * len(samples)
        for members in places.values():
            mine = [samples[i] for i in members]
            groups = group_indices(mine)
            for group in groups.values():
                plus = all_correct([mine[k] for k in group]) / (len(groups) * len(group))
                for k in group:
                    both = float(mine[k].score or 0) / len(mine) + plus
                    parts[members[k]] = both / 2 * len(samples) / len(places)
        return parts


def all_correct(members: Sequence[ScoredSample]) -> float:
    """1 where every one of them is right."""
    return float(all(member.score == 1 for member in members))
