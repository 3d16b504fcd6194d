"""HallusionBench's scores of groups (Guan et al., CVPR 2024): all answers of a question, or of a figure, are right.

    question_accuracy   qAcc: the same question about all its figures           (category, subcategory, set, question)
    figure_accuracy     fAcc: all questions about the same figure               (category, subcategory, set, figure)

aAcc is `lenient`. An answer is right by its option scores if there are any, otherwise by the rules of `lenient`. The
keys stand in `meta`; samples without them have no score. Groups with a failed sample are left out.

Differs from the released code in the judge, which is a language model there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from icl import Better, Example, Generation, RunStatistic, ScoredSample, component, mean_over_groups
from icl.metrics import all_correct, is_correct

SET = ("category", "subcategory", "set_id")


@dataclass(frozen=True)
class HallusionGroups:
    """Base class of the two. `member` is the key in `meta` that makes a group within a set."""

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
