"""Position of the demonstrations with the query's own label (VICL, Zhou et al. 2024: head above tail above middle).

An oracle, because it needs the gold to find these demonstrations. They form one block. With n demonstrations and m of
that label, a middle block begins at floor((n - m) / 2). The others keep the usual order, the best-ranked last, as do
those within the block. The paper has one such demonstration and an odd number of shots; the generalization is ours.

No released code.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from icl.metrics.normalize import normalize_text
from icl.registry import component
from icl.types import Context, Demo
from prompts.example_changes import gold_of


@component("orderer", "label_position")
@dataclass(frozen=True)
class LabelPosition:
    """An oracle orderer that puts demonstrations of the query's label at the head, in the middle or at the tail."""

    needs: ClassVar[frozenset[str]] = frozenset({"gold", "labels"})

    position: Literal["head", "middle", "tail"] = "head"  # head: farthest from the query; tail: next to it

    def order(self, context: Context) -> Context:
        label = normalize_text(gold_of(context, "orderer 'label_position'").class_name)
        usual = sorted(context.demos, key=lambda demo: -demo.rank)
        block = [demo for demo in usual if normalize_text(demo.example.class_name) == label]
        others: list[Demo] = [demo for demo in usual if normalize_text(demo.example.class_name) != label]
        start = {"head": 0, "middle": len(others) // 2, "tail": len(others)}[self.position]
        demos = (*others[:start], *block, *others[start:])
        mark = f"label_position: {len(block)} at the {self.position}, saw the gold"
        return replace(context, demos=demos, provenance=(*context.provenance, mark))
