"""In-context unlearning: the demonstrations of the query's own class say another class (VICL, Zhou et al. 2024).

Oracle: which class that is needs the gold. All of its demonstrations in the context are relabeled to the next label,
cyclically; the others stay true. The paper shows one such demonstration and unlearns 5 random classes; `classes` names
them here. The gold stays, and the sample keeps the new label beside it: `icl analyze RUN label_following` counts
agreement with the new one. Where no demonstration has the query's class nothing is unlearned, and the sample is not
counted.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from icl.metrics.normalize import normalize_text
from icl.registry import component
from icl.types import Context
from prompts.example_changes import ranked, with_demos
from prompts.gold import gold_of
from prompts.label_renaming import called, check_scored_as_it_is, rivals_of, shown_as


@component("transform", "unlearn")
@dataclass(frozen=True)
class Unlearn:
    """Oracle: demonstrations of the query's class answer with the next class."""

    needs: ClassVar[frozenset[str]] = frozenset({"gold", "labels"})
    analysis: ClassVar[str] = "label_following"

    classes: tuple[str, ...] = ()  # answers to unlearn; none: each query's

    def transform(self, context: Context) -> Context:
        check_scored_as_it_is(context, "unlearn")
        gold = gold_of(context, "transform 'unlearn'").answer
        labels = next((g for g in rivals_of(context) if normalize_text(gold) in map(normalize_text, g)), ())
        told = [normalize_text(label) for label in labels]
        if (
            (self.classes and normalize_text(gold) not in map(normalize_text, self.classes))
            or normalize_text(gold) not in told
            or len(told) < 2
        ):
            return context
        names = {gold: labels[(told.index(normalize_text(gold)) + 1) % len(labels)]}
        demos = [shown_as(d, called(d.example.answer, names)) for d in ranked(context)]
        count = sum(normalize_text(demo.example.answer) == normalize_text(gold) for demo in context.demos)
        if count == 0:
            return context
        done = with_demos(context, demos, f"unlearn: {count} relabeled, saw labels, saw the gold")
        return replace(done, label_map={**context.label_map, **names})
