"""Common code of orderers that try several orders of the same demonstrations on the model.

The first order is the usual one, best last. The others are distinct random orders from the query's stream, or all
orders if there are few. Such an orderer is fitted on a pool and a model before use. Its prompts do not depend on the
composer: a user turn and an assistant turn for each demonstration, then a user turn.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from icl.errors import PlanError
from icl.models.answer_likelihood import demo_prompt, options_of, probabilities, scorer
from icl.models.base import LogitModel, Model
from icl.registry import PositiveInt
from icl.tasks.base import Pool
from icl.types import Context, Demo, Query

INSTEAD = "the orderer 'reversed'"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ModelOrderer:
    """Base class of `entropy` and `demo`, which choose an order in `best`."""

    needs: ClassVar[frozenset[str]] = frozenset({"model", "labels"})
    model_ability: ClassVar[str] = "logits"
    name: ClassVar[str] = ""

    orders: PositiveInt = 24  # orders to try for each query

    def fitted(self, pool: Pool, model: Model | None) -> "FittedOrderer":
        """The orderer with pool and model. Raises PlanError if the model gives no logits."""
        return FittedOrderer(self, pool, scorer(model, self.who, INSTEAD))

    def order(self, context: Context) -> Context:
        raise PlanError(
            f"{self.who} needs a model. In Python, call fitted(pool, model). A run does this automatically."
        )

    @property
    def who(self) -> str:
        return f"orderer '{self.name}'"

    def best(self, trial: "Trial") -> int:
        """Index of the chosen order among those of the trial."""
        raise NotImplementedError


@dataclass(frozen=True)
class FittedOrderer:
    """An orderer with its pool and its model."""

    orderer: ModelOrderer
    pool: Pool
    model: LogitModel

    @property
    def needs(self) -> frozenset[str]:
        return self.orderer.needs

    def order(self, context: Context) -> Context:
        """The context in the chosen order. Raises ModelError, ImageError, and PlanError without a choice of answers."""
        usual = sorted(context.demos, key=lambda demo: -demo.rank)
        if len(usual) < 2:
            return replace(context, demos=tuple(usual))
        options = options_of(context.query, self.pool, self.orderer.who, INSTEAD)
        trial = Trial(self, context, options, _orders(context, usual, self.orderer.orders))
        number = self.orderer.best(trial)
        mark = f"{self.orderer.name}: order {number} of {len(trial.orders)}"
        return replace(context, demos=trial.orders[number], provenance=(*context.provenance, mark))


@dataclass(frozen=True)
class Trial:
    """The orders to try for one query."""

    fitted: FittedOrderer
    context: Context
    options: tuple[str, ...]
    orders: Sequence[tuple[Demo, ...]]

    def probabilities(self, queries: Sequence[Query], numbers: Sequence[int] | None = None) -> Floats:
        """Option probabilities [orders, queries, options], under all orders or those with the given indices."""
        orders = [self.orders[i] for i in (range(len(self.orders)) if numbers is None else numbers)]
        prompts = [
            demo_prompt(query, [demo.example for demo in demos], self.context.key)
            for demos in orders
            for query in queries
        ]
        rows = probabilities(self.fitted.model, prompts, self.options)
        return rows.reshape(len(orders), len(queries), len(self.options))


def largest(values: Floats) -> int:
    """Index of the first of the largest values, compared up to rounding."""
    return int(np.argmax(np.round(values, 9)))


def _orders(context: Context, usual: Sequence[Demo], limit: int) -> list[tuple[Demo, ...]]:
    if math.factorial(len(usual)) <= limit:
        return list(itertools.permutations(usual))
    rng = context.key.numpy("order/asking")
    permutations = dict.fromkeys([tuple(range(len(usual)))])
    while len(permutations) < limit:
        permutations.setdefault(tuple(int(i) for i in rng.permutation(len(usual))))
    return [tuple(usual[i] for i in places) for places in permutations]
