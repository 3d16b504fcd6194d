"""Questions removed or permuted: does the text of a demonstration matter? (Baldassini et al. 2024; Xu et al. 2025)

Images and answers stay. A permutation is drawn from those that move the most questions to a place with another
question. If all questions are equal, nothing changes. The mark records the share that moved.

No released code was compared.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from icl import ConfigError, Context, component
from icl.types import Where
from prompts import change_examples, derange, random_places, replace_demos, sort_by_rank


@component("transform", "questions")
@dataclass(frozen=True)
class Questions:
    """A transform that removes the demonstrations' questions, or permutes them."""

    needs: ClassVar[frozenset[str]] = frozenset()

    how: Literal["removed", "permuted"] = "removed"  # kind of change
    where: Where = "demos"  # owners of the questions; permuted: demonstrations only

    def __post_init__(self) -> None:
        if self.how == "permuted" and self.where != "demos":
            raise ConfigError(f"questions are permuted among demonstrations; where is '{self.where}'. Remove 'where'.")

    def transform(self, context: Context) -> Context:
        if self.how == "removed":
            return change_examples(context, self.where, lambda item: replace(item, question=""), "questions: removed")
        demos = sort_by_rank(context)
        questions = [demo.example.question for demo in demos]
        moved, share = derange(questions, random_places(context, "transform/questions"), str)
        new = [replace(d, example=replace(d.example, question=q)) for d, q in zip(demos, moved, strict=True)]
        return replace_demos(context, new, f"questions: permuted, {share:.0%} moved")
