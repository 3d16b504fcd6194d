"""What orderers share that try several orders of the same demonstrations on the model.

The first order is the usual one, best last; the others are drawn from the query's own stream, no two alike, or are all
that there are. An orderer is fitted on a pool and a model before it is asked. It asks with a plain prompt, whatever the
composer: a user turn and an assistant turn for each demonstration, then a user turn.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from icl.constraints import PositiveInt
from icl.errors import PlanError
from icl.models.answer_likelihood import demo_prompt, options_of, probabilities, scorer
from icl.models.base import LogitModel, Model
from icl.tasks.base import Pool
from icl.types import Context, Demo, Query

INSTEAD = "the orderer 'reversed'"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Asking:
    """Base of `entropy` and `demo`, which say in `best` which order it is."""

    needs: ClassVar[frozenset[str]] = frozenset({"model", "labels"})
    model_ability: ClassVar[str] = "logits"
    name: ClassVar[str] = ""

    orders: PositiveInt = 24  # tried for each query

    def fitted(self, pool: Pool, model: Model | None) -> "Fitted":
        """Raises PlanError without a model that gives logits."""
        return Fitted(self, pool, scorer(model, self.who, INSTEAD))

    def order(self, context: Context) -> Context:
        raise PlanError(f"{self.who} asks a model. In Python, use fitted(pool, model); a run does so by itself.")

    @property
    def who(self) -> str:
        return f"orderer '{self.name}'"

    def best(self, trial: "Trial") -> int:
        """The number of the order, among those of the trial."""
        raise NotImplementedError


@dataclass(frozen=True)
class Fitted:
    """An orderer with what it asks."""

    orderer: Asking
    pool: Pool
    model: LogitModel

    @property
    def needs(self) -> frozenset[str]:
        return self.orderer.needs

    def order(self, context: Context) -> Context:
        """Raises ModelError, ImageError, and PlanError where there is no choice of answers."""
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
    """The orders that are tried for one query."""

    fitted: Fitted
    context: Context
    options: tuple[str, ...]
    orders: Sequence[tuple[Demo, ...]]

    def told(self, queries: Sequence[Query], numbers: Sequence[int] | None = None) -> Floats:
        """[orders, queries, options]: probabilities of the options, under all orders or those numbered."""
        tried = [self.orders[i] for i in (range(len(self.orders)) if numbers is None else numbers)]
        prompts = [
            demo_prompt(query, [demo.example for demo in demos], self.context.key)
            for demos in tried
            for query in queries
        ]
        rows = probabilities(self.fitted.model, prompts, self.options)
        return rows.reshape(len(tried), len(queries), len(self.options))


def largest(values: Floats) -> int:
    """The first place of the largest, up to the last digits of a sum."""
    return int(np.argmax(np.round(values, 9)))


def _orders(context: Context, usual: Sequence[Demo], limit: int) -> list[tuple[Demo, ...]]:
    if math.factorial(len(usual)) <= limit:
        return list(itertools.permutations(usual))
    rng = context.key.numpy("order/asking")
    found = dict.fromkeys([tuple(range(len(usual)))])
    while len(found) < limit:
        found.setdefault(tuple(int(i) for i in rng.permutation(len(usual))))
    return [tuple(usual[i] for i in places) for places in found]
