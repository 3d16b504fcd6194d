"""Answers removed, permuted or drawn at random: does the mapping of inputs to labels matter? (Min et al. 2022)

    removed     the answer is empty
    permuted    demonstrations exchange their answers: the label distribution stays, the mapping is lost
    random      each is drawn uniformly from its options, or from the answers in the prompt: may be right by chance

A permutation is drawn from those that change the most answers. With few labels that is not all of them, and with one
label none. The mark records the share that changed.

No released code was compared.
"""

from dataclasses import dataclass
from typing import Literal

from icl import Context, Demo, component, normalize_text
from prompts import derange, random_answer, random_places, replace_demos, rivals, rivals_of, sort_by_rank, with_answer


@component("transform", "answers")
@dataclass(frozen=True)
class AnswerPerturbation:
    """A transform that removes the demonstrations' answers, permutes them, or draws them at random."""

    how: Literal["removed", "permuted", "random"] = "permuted"  # kind of change

    @property
    def needs(self) -> frozenset[str]:
        """Removing reads no label."""
        return frozenset() if self.how == "removed" else frozenset({"labels"})

    def transform(self, context: Context) -> Context:
        demos = sort_by_rank(context)
        answers = [demo.example.answer for demo in demos]
        if self.how == "removed":
            return replace_demos(context, [with_answer(demo, "") for demo in demos], "answers: removed")
        if self.how == "permuted":
            changed, _ = derange(answers, random_places(context, "transform/answers"), normalize_text)
        else:
            changed = [_random_answer(context, demo) for demo in demos]
        share = sum(normalize_text(a) != normalize_text(b) for a, b in zip(changed, answers, strict=True)) / max(
            len(answers), 1
        )
        new = [with_answer(demo, answer) for demo, answer in zip(demos, changed, strict=True)]
        return replace_demos(context, new, f"answers: {self.how}, {share:.0%} changed, saw labels")


def _random_answer(context: Context, demo: Demo) -> str:
    among = rivals(demo.example.answer, rivals_of(context))
    return random_answer(context, f"transform/answers/{demo.example.id}", among)
