"""A share of wrong demonstrations: how much label noise does in-context learning tolerate? (Min et al. 2022)

Exactly round(share x n) demonstrations (halves up) get a wrong answer. It is drawn uniformly from the other competing
answers: the example's options, or the answers of the demonstrations. The choice depends on the query, so a larger share
contains the errors of a smaller one.

No released code was compared.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from icl.metrics.normalize import normalize_text
from icl.registry import Fraction, component
from icl.types import Context, Demo
from prompts.example_changes import random_answer, random_places, replace_demos, sort_by_rank
from prompts.label_renaming import rivals, rivals_of, with_answer


@component("transform", "noisy_labels")
@dataclass(frozen=True)
class NoisyLabels:
    """A transform that gives a fixed share of the demonstrations a wrong answer. Shares are nested."""

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    analysis: ClassVar[str] = "noisy_labels"

    share: Fraction = 0.5  # share of demonstrations with a wrong answer

    def transform(self, context: Context) -> Context:
        demos = sort_by_rank(context)
        target = int(self.share * len(demos) + 0.5)
        chosen = set(random_places(context, "transform/noisy_labels")[:target])
        new = [_with_wrong_answer(context, demo) if i in chosen else demo for i, demo in enumerate(demos)]
        wrong = sum(a is not b for a, b in zip(new, demos, strict=True))
        done = replace_demos(context, new, f"noisy_labels: {wrong} of {len(demos)} wrong, saw labels")
        if wrong < target:
            mark = f"noisy_labels: {target - wrong} of {target} have no other answer to give, saw labels"
            done = replace(done, provenance=(*done.provenance, mark))
        return done


def _with_wrong_answer(context: Context, demo: Demo) -> Demo:
    among = rivals(demo.example.answer, rivals_of(context))
    others = [answer for answer in among if normalize_text(answer) != normalize_text(demo.example.answer)]
    if not others:
        return demo
    return with_answer(demo, random_answer(context, f"transform/noisy_labels/{demo.example.id}", others))
