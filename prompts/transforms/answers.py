"""Answers removed, permuted or drawn at random: does the mapping of inputs to labels matter? (Min et al. 2022)

    removed     nothing stands where the answer stood
    permuted    demonstrations exchange their answers: the label distribution stays, the mapping goes
    random      each is drawn anew, uniformly among its options, or the answers shown: may be right by chance

A permutation is drawn among those that give the most demonstrations another answer. With few labels that is not all of
them, and with demonstrations of one label none: the mark says what share changed, for every number made from it.
"""

from dataclasses import dataclass
from typing import Literal

from icl.metrics.normalize import normalize_text
from icl.registry import component
from icl.types import Context, Demo
from prompts.example_changes import deranged, ranked, with_demos
from prompts.label_renaming import rivals, rivals_of, shown_as


@component("transform", "answers")
@dataclass(frozen=True)
class Answers:
    """Answers of demonstrations removed, permuted among them, or drawn at random."""

    how: Literal["removed", "permuted", "random"] = "permuted"  # what becomes of them

    @property
    def needs(self) -> frozenset[str]:
        """Removing reads no label."""
        return frozenset() if self.how == "removed" else frozenset({"labels"})

    def transform(self, context: Context) -> Context:
        demos = ranked(context)
        answers = [demo.example.answer for demo in demos]
        if self.how == "removed":
            return with_demos(context, [shown_as(demo, "") for demo in demos], "answers: removed")
        if self.how == "permuted":
            told, _ = deranged(answers, context.key.numpy("transform/answers"), normalize_text)
        else:
            told = [_drawn(context, demo) for demo in demos]
        share = sum(normalize_text(a) != normalize_text(b) for a, b in zip(told, answers, strict=True)) / max(
            len(answers), 1
        )
        new = [shown_as(demo, answer) for demo, answer in zip(demos, told, strict=True)]
        return with_demos(context, new, f"answers: {self.how}, {share:.0%} changed, saw labels")


def _drawn(context: Context, demo: Demo) -> str:
    among = rivals(demo.example.answer, rivals_of(context))
    return among[int(context.key.numpy(f"transform/answers/{demo.example.id}").integers(len(among)))]
