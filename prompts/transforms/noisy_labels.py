"""A share of the demonstrations answers wrongly: how much label noise does in-context learning bear? (Min et al. 2022)

Exactly round(share x n) demonstrations (halves up) are wrong, and really wrong: theirs is another answer among its
rivals (its options, or the answers shown), each as likely. Which ones, and what they say, belongs to the query, so a
larger share keeps the errors of a smaller one.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from icl.constraints import Fraction
from icl.metrics.normalize import normalize_text
from icl.registry import component
from icl.types import Context, Demo
from prompts.example_changes import ranked, with_demos
from prompts.label_renaming import rivals, rivals_of, shown_as


@component("transform", "noisy_labels")
@dataclass(frozen=True)
class NoisyLabels:
    """A fixed share of the demonstrations gets a wrong answer, nested in the share."""

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    analysis: ClassVar[str] = "noisy_labels"

    share: Fraction = 0.5  # of the demonstrations that answer wrongly

    def transform(self, context: Context) -> Context:
        demos = ranked(context)
        wanted = int(self.share * len(demos) + 0.5)
        chosen = {int(i) for i in context.key.numpy("transform/noisy_labels").permutation(len(demos))[:wanted]}
        new = [_wrong(context, demo) if i in chosen else demo for i, demo in enumerate(demos)]
        wrong = sum(a is not b for a, b in zip(new, demos, strict=True))
        done = with_demos(context, new, f"noisy_labels: {wrong} of {len(demos)} wrong, saw labels")
        if wrong < wanted:
            mark = f"noisy_labels: {wanted - wrong} of {wanted} have no other answer to give, saw labels"
            done = replace(done, provenance=(*done.provenance, mark))
        return done


def _wrong(context: Context, demo: Demo) -> Demo:
    among = rivals(demo.example.answer, rivals_of(context))
    others = [answer for answer in among if normalize_text(answer) != normalize_text(demo.example.answer)]
    if not others:
        return demo
    drawn = context.key.numpy(f"transform/noisy_labels/{demo.example.id}").integers(len(others))
    return shown_as(demo, others[int(drawn)])
