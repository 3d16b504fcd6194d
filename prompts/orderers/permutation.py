"""Numbered orders: sensitivity to order as an axis, `order.index: [0, 1, 2]` (Lu et al., ACL 2022).

Number 0 is the retriever's order, best first. The others are distinct random orders. All queries of a seed with the
same number of demonstrations share the permutation of ranks, because the paper gives all queries one sequence. With
`own`, each query draws its own. The mean is then free of the effect of positions, which remains in the disagreement
between numbers.

No released code was compared.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

from icl.errors import PlanError
from icl.registry import Count, component
from icl.streams import StreamKey
from icl.types import Context


@component("orderer", "permutation")
@dataclass(frozen=True)
class Permutation:
    """The order with this number among distinct random ones. Number 0 is the retriever's order."""

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
