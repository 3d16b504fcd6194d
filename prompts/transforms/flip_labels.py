"""Flipped labels: does the model follow its demonstrations against what it knows? (Wei et al. 2023; Xu et al. 2025)

One bijection a context: each answer becomes the next of its rivals, cyclically: of its options, or of the answers that
the demonstrations show. With two labels that is the flip; among questions of several kinds each kind has its own cycle.
Only the demonstrations change. The gold stays, so accuracy falls where they are followed; the sample keeps both
answers, and `icl analyze RUN label_following` tells follow, prior and other apart. (The papers differ: accuracy against
the flipped label, or far below one half.)
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from icl.registry import component
from icl.types import Context
from prompts.example_changes import ranked, with_demos
from prompts.label_renaming import called, check_scored_as_it_is, composed, rivals_of, shown_as


@component("transform", "flip_labels")
@dataclass(frozen=True)
class FlipLabels:
    """Every demonstration answers with the next label; the gold stays."""

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    analysis: ClassVar[str] = "label_following"

    def transform(self, context: Context) -> Context:
        check_scored_as_it_is(context, "flip_labels")
        groups = [group for group in rivals_of(context) if len(group) > 1]
        if not groups:
            mark = "flip_labels: fewer than two labels, nothing is flipped, saw labels"
            return replace(context, provenance=(*context.provenance, mark)) if context.demos else context
        names = {old: new for group in groups for old, new in zip(group, group[1:] + group[:1], strict=True)}
        new = [shown_as(demo, called(demo.example.answer, names)) for demo in ranked(context)]
        flipped = with_demos(context, new, f"flip_labels: {len(names)} labels, saw labels")
        return replace(flipped, label_map=composed(context.label_map, names)) if context.demos else context
