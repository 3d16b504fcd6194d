"""Scores of groups of questions: a group is right only if every question of it is.

    group_accuracy   MMVP (Tong et al., CVPR 2024): 150 pairs of images that are similar for CLIP; a pair counts if both
                     answers are right. MME's accuracy+ (Fu et al., 2306.13394): both questions about an image
    mme              100 (accuracy + accuracy+) of each subtask, summed, as a share of the maximum (200 for each
                     subtask). The published score is this times 200 times the number of subtasks (perception 2000,
                     cognition 800)
    naturalbench     NaturalBench (Li et al., NeurIPS 2024): two questions about two images, four rows that follow one
                     another. A group (G-Acc), a question with both images (Q-Acc), or an image with both questions
                     (I-Acc) is right if all its answers are

An answer is right by its option scores if there are any, otherwise by the rules of `lenient`. The published MMVP uses a
language model as judge. A task marks groups by `group` and, for `mme`, stores the name of the subtask in `meta`. Groups
with a failed sample are left out.

Differs from the released code in the judge of MMVP, which is a language model there, and in how NaturalBench's outputs
are read: there the first of "yes" and "no", or of the words "A" and "B" ("a dog" is A).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from icl import Better, Example, Generation, RunStatistic, ScoredSample, component, later_parameter, mean_over_groups
from icl.metrics import group_indices, is_correct
from icl.metrics.run_level import mean


@component("metric", "group_accuracy")
@dataclass(frozen=True)
class GroupAccuracy:
    """Share of groups, such as pairs about one image, in which every answer is right: accuracy+, pair accuracy."""

    better: ClassVar[Better] = "higher"
    reads_answers: ClassVar[bool] = True

    by: str | None = later_parameter(None)  # key of a sample's `meta` that makes the groups; None: the task's groups

    def score(self, generation: Generation, example: Example) -> float | None:
        has_group = example.group is not None if self.by is None else self.by in example.stored_meta
        return float(is_correct(generation, example)) if has_group else None

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        if self.by is not None:
            samples = [replace(s, group=str(s.meta[self.by])) if self.by in s.meta else s for s in samples]
        return mean_over_groups(samples, all_correct)


@component("metric", "mme")
@dataclass(frozen=True)
class MME:
    """MME's score: accuracy and accuracy+ of each subtask, as a share of the maximum."""

    better: ClassVar[Better] = "higher"
    reads_answers: ClassVar[bool] = True

    subtask: str = "category"  # key of the subtask in a sample's `meta`

    def score(self, generation: Generation, example: Example) -> float | None:
        return float(is_correct(generation, example)) if self.subtask in example.stored_meta else None

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        groups: dict[tuple[str, str], list[int]] = {}
        for name, places in group_indices(samples).items():
            for place in places:
                groups.setdefault((str(samples[place].meta.get(self.subtask)), name), []).append(place)
        whole = sorted(
            place for places in groups.values() if all(samples[i].score is not None for i in places) for place in places
        )
        parts: list[float | None] = [None] * len(samples)
        for place, part in zip(whole, self._parts([samples[i] for i in whole]), strict=True):
            parts[place] = part
        return mean(parts)

    def _parts(self, samples: Sequence[ScoredSample]) -> list[float]:
        """(accuracy + accuracy+) / 2 of each subtask, in numbers that average to the mean over subtasks."""
        places: dict[str, list[int]] = {}
        for place, sample in enumerate(samples):
            places.setdefault(str(sample.meta.get(self.subtask)), []).append(place)
        parts = [0.0] * len(samples)
        for members in places.values():
            mine = [samples[i] for i in members]
            groups = group_indices(mine)
            for group in groups.values():
                plus = all_correct([mine[k] for k in group]) / (len(groups) * len(group))
                for k in group:
                    both = float(mine[k].score or 0) / len(mine) + plus
                    parts[members[k]] = both / 2 * len(samples) / len(places)
        return parts


@component("metric", "naturalbench")
@dataclass(frozen=True)
class NaturalBench:
    """Share of groups, questions or images of NaturalBench whose answers are all right: G-Acc, Q-Acc, I-Acc."""

    better: ClassVar[Better] = "higher"
    reads_answers: ClassVar[bool] = True

    of: Literal["group", "question", "image"] = "group"  # what has to be right
    index: str = "Index"  # key of a row's number in a sample's `meta`: question 0 with both images, then question 1

    def score(self, generation: Generation, example: Example) -> float | None:
        number = str(example.stored_meta.get(self.index))
        return float(is_correct(generation, example)) if number.isdigit() else None

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        return mean_over_groups(
            [replace(s, group=self._part(str(s.meta.get(self.index)))) for s in samples], all_correct
        )

    def _part(self, number: str) -> str | None:
        if not number.isdigit():
            return None
        place = int(number)
        parts = {"group": "", "question": f" question {place % 4 // 2}", "image": f" image {place % 2}"}
        return f"{place // 4}{parts[self.of]}"


def all_correct(members: Sequence[ScoredSample]) -> float:
    """1 if all of them are right, otherwise 0."""
    return float(all(member.score == 1 for member in members))


SET = ("category", "subcategory", "set_id")


@dataclass(frozen=True)
class HallusionGroups:
    """Base class of the two. `member` is the key in `meta` that makes a group within a set.

    HallusionBench's scores of groups (Guan et al., CVPR 2024): all answers of a question, or of a figure, are right.

        question_accuracy   qAcc: the same question about all its figures   (category, subcategory, set, question)
        figure_accuracy     fAcc: all questions about the same figure       (category, subcategory, set, figure)

    aAcc is `lenient`. An answer is right by its option scores if there are any, otherwise by the rules of
    `lenient`. The keys stand in `meta`; samples without them have no score. Groups with a failed sample are left
    out.

    Differs from the released code in the judge, which is a language model there.
    """

    better: ClassVar[Better] = "higher"
    reads_answers: ClassVar[bool] = True
    member: ClassVar[str]

    def score(self, generation: Generation, example: Example) -> float | None:
        return float(is_correct(generation, example)) if {*SET, self.member} <= set(example.meta) else None

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        keys = (*SET, self.member)
        return mean_over_groups(
            [replace(s, group=" / ".join(str(s.meta.get(key)) for key in keys)) for s in samples], all_correct
        )


@component("metric", "question_accuracy")
@dataclass(frozen=True)
class QuestionAccuracy(HallusionGroups):
    """Share of questions that are right for every figure: HallusionBench's qAcc."""

    member: ClassVar[str] = "question_id"


@component("metric", "figure_accuracy")
@dataclass(frozen=True)
class FigureAccuracy(HallusionGroups):
    """Share of figures with every question right: HallusionBench's fAcc."""

    member: ClassVar[str] = "figure_id"
