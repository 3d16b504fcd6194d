"""Where the demonstrations of the query's own label stand (VICL, Zhou et al. 2024: head above tail above middle).

An oracle: which demonstrations these are needs the gold. They stand as one block; with n demonstrations and m of that
label a middle block begins at floor((n - m) / 2). The others, and those within the block, keep the usual order, the
best ranked last. The paper has one such demonstration and an odd count; the rest is this reading.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from icl.metrics.normalize import normalize_text
from icl.registry import component
from icl.types import Context, Demo
from prompts.gold import gold_of


@component("orderer", "label_position")
@dataclass(frozen=True)
class LabelPosition:
    """Oracle: demonstrations of the query's label at the head, in the middle or at the tail."""

    needs: ClassVar[frozenset[str]] = frozenset({"gold", "labels"})

    position: Literal["head", "middle", "tail"] = "head"  # head: farthest from the query; tail: next to it

    def order(self, context: Context) -> Context:
        wanted = normalize_text(gold_of(context, "orderer 'label_position'").class_name)
        usual = sorted(context.demos, key=lambda demo: -demo.rank)
        block = [demo for demo in usual if normalize_text(demo.example.class_name) == wanted]
        others: list[Demo] = [demo for demo in usual if normalize_text(demo.example.class_name) != wanted]
        start = {"head": 0, "middle": len(others) // 2, "tail": len(others)}[self.position]
        demos = (*others[:start], *block, *others[start:])
        mark = f"label_position: {len(block)} at the {self.position}, saw the gold"
        return replace(context, demos=demos, provenance=(*context.provenance, mark))
