"""Flipped labels: does the model follow its demonstrations against its knowledge? (Wei et al. 2023; Xu et al. 2025)

Each context has one bijection: each answer becomes the next of its competing answers, cyclically. These are its
options, or the answers of the demonstrations. With two labels this is the flip. Questions of several kinds have a cycle
each. Only the demonstrations change. The gold stays, so accuracy falls if the model follows them. The sample stores
both answers, and `icl analyze RUN label_following` counts following, prior and other answers. (The papers use different
criteria: accuracy on the flipped label, or accuracy far below one half.)

Differs from the released code in the criterion: the gold stays, and following is counted by itself (there accuracy on
the flipped label, and an output without the word yes counts as no).
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from icl.registry import component
from icl.types import Context
from prompts.example_changes import replace_demos, sort_by_rank
from prompts.label_renaming import check_gold_unchanged, compose_names, new_name, rivals_of, with_answer


@component("transform", "flip_labels")
@dataclass(frozen=True)
class FlipLabels:
    """A transform after which every demonstration answers with the next label. The gold stays."""

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    analysis: ClassVar[str] = "label_following"

    def transform(self, context: Context) -> Context:
        check_gold_unchanged(context, "flip_labels")
        groups = [group for group in rivals_of(context) if len(group) > 1]
        if not groups:
            mark = "flip_labels: fewer than two labels, nothing is flipped, saw labels"
            return replace(context, provenance=(*context.provenance, mark)) if context.demos else context
        names = {old: new for group in groups for old, new in zip(group, group[1:] + group[:1], strict=True)}
        new = [with_answer(demo, new_name(demo.example.answer, names)) for demo in sort_by_rank(context)]
        flipped = replace_demos(context, new, f"flip_labels: {len(names)} labels, saw labels")
        return replace(flipped, label_map=compose_names(context.label_map, names)) if context.demos else context
