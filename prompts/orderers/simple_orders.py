"""Orders that follow from ranks, from labels or from random numbers alone."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Literal

from icl import Context, Count, Demo, PlanError, StreamKey, component, normalize_text
from prompts import gold_of


@component("orderer", "as_retrieved")
@dataclass(frozen=True)
class AsRetrieved:
    """The retriever's order: best first, the least similar next to the query.

    With a retriever whose sets are nested, the prompt of 8 shots begins with that of 4, and a run reads what they have
    in common once.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    nested: ClassVar[bool] = True

    def order(self, context: Context) -> Context:
        return replace(context, demos=tuple(sorted(context.demos, key=lambda demo: demo.rank)))


@component("orderer", "reversed")
@dataclass(frozen=True)
class Reversed:
    """The retriever's order reversed: best last, next to the query. The usual order of retrieved demonstrations.

    The retriever's order reversed, as published for RICES: the best demonstration is next to the query.

    It is the exact reverse of the ranking, ties included, and the default of an experiment.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def order(self, context: Context) -> Context:
        return replace(context, demos=tuple(sorted(context.demos, key=lambda demo: -demo.rank)))


@component("orderer", "auto")
@dataclass(frozen=True)
class Auto:
    """Best last, or the retriever's own order if it has no similarity: then more shots continue fewer.

    `reversed` for demonstrations with a similarity. Where all scores are 0, as with the retrievers `random` and
    `balanced`, `as_retrieved`: no demonstration is the best one, so a nested order costs nothing.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    nested: ClassVar[bool] = True

    def order(self, context: Context) -> Context:
        orderer = Reversed() if any(demo.score for demo in context.demos) else AsRetrieved()
        return orderer.order(context)


@component("orderer", "random")
@dataclass(frozen=True)
class RandomOrderer:
    """An orderer with a random order. A query has the same one in every arm with the same demonstrations.

    A random order for each query: the effect of order by chance.

    Each demonstration draws a number from (seed, query id, "order", its id), and the numbers are sorted. So two
    demonstrations keep their relative order in other sets of the same query.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def order(self, context: Context) -> Context:
        ranked = sorted(context.demos, key=lambda demo: demo.rank)
        places = context.key.order("order", [demo.example.id for demo in ranked])
        return replace(context, demos=tuple(ranked[i] for i in places))


@component("orderer", "alternating")
@dataclass(frozen=True)
class Alternating:
    """An orderer in which labels take turns, each with its best-ranked demonstrations first.

    Alternating labels: the demonstrations' labels take turns while several are left (VL-ICL, Zong et al. 2025).

    In each round, each label gives its best remaining demonstration. Labels take turns in the order of their first
    appearance in the ranking, and a label without demonstrations left is skipped. VL-ICL draws the order of labels for
    each query (`start: random`). With the paper's ranking retriever, the best-ranked label begins. The last
    demonstration is next to the query.

    Differs from the released code in the default order of labels (`start: random` is as released).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    start: Literal["first", "random"] = "first"  # first label: the best-ranked one, or a random one for each query

    def order(self, context: Context) -> Context:
        piles: dict[str, list[Demo]] = {}
        for demo in sorted(context.demos, key=lambda demo: demo.rank):
            piles.setdefault(demo.example.class_name, []).append(demo)
        turns = list(piles.values())
        if self.start == "random":
            turns = [turns[i] for i in context.key.order("order/labels", list(piles))]
        rounds = range(max(map(len, turns), default=0))
        return replace(context, demos=tuple(pile[i] for i in rounds for pile in turns if i < len(pile)))


@component("orderer", "label_position")
@dataclass(frozen=True)
class LabelPosition:
    """An oracle orderer that puts demonstrations of the query's label at the head, in the middle or at the tail.

    Position of the demonstrations with the query's own label (VICL, Zhou et al. 2024: head above tail above middle).

    An oracle, because it needs the gold to find these demonstrations. They form one block. With n demonstrations and m
    of that label, a middle block begins at floor((n - m) / 2). The others keep the usual order, the best-ranked last,
    as do those within the block. The paper has one such demonstration and an odd number of shots; the generalization is
    ours.

    No released code.
    """

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


@component("orderer", "permutation")
@dataclass(frozen=True)
class Permutation:
    """The order with this number among distinct random ones. Number 0 is the retriever's order.

    Numbered orders: sensitivity to order as an axis, `order.index: [0, 1, 2]` (Lu et al., ACL 2022).

    Number 0 is the retriever's order, best first. The others are distinct random orders. All queries of a seed with the
    same number of demonstrations share the permutation of ranks, because the paper gives all queries one sequence. With
    `own`, each query draws its own. The mean is then free of the effect of positions, which remains in the disagreement
    between numbers.

    No released code was compared.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    index: Count = 0  # number of the order; n demonstrations have n! orders
    own: bool = False  # whether each query has its own orders

    def order(self, context: Context) -> Context:
        ranked = sorted(context.demos, key=lambda demo: demo.rank)
        if self.index >= math.factorial(len(ranked)) and len(ranked) > 1:
            orders = math.factorial(len(ranked))
            raise PlanError(
                f"orderer 'permutation': {len(ranked)} demonstrations have {orders} orders, and none is number "
                f"{self.index}. Use index 0 to {orders - 1}, or more shots."
            )
        places = _orders(context.key.seed, context.key.query if self.own else "", len(ranked), self.index)
        return replace(context, demos=tuple(ranked[i] for i in places))


@lru_cache(maxsize=4096)
def _orders(seed: int, query: str, count: int, index: int) -> tuple[int, ...]:
    """Permutation number `index`. Repetitions of earlier ones are drawn again."""
    rng = StreamKey(seed, query).numpy("order/permutation")
    permutations = dict.fromkeys([tuple(range(count))])
    while len(permutations) <= index and count > 1:
        permutations.setdefault(tuple(int(i) for i in rng.permutation(count)))
    return list(permutations)[min(index, len(permutations) - 1)]
