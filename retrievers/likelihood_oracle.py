"""The demonstrations that make the gold most probable for the model: an upper bound for retrievers that learn.

    single    x_1, x_2, ... by p(gold | x, q), each alone
    greedy    x_n = argmax over x of p(gold | x, x_{n-1}, ..., x_1, q): each with those before it

If `greedy` does not beat `single`, nothing is left for methods that learn sets. p is the share of the gold among the
options of the query, or among the answers of the pool. Prompts are plain chat prompts with the best demonstration last,
as the order `reversed` writes them. A query costs a call for each member of the pool; `greedy` as many for each shot.

No released code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from icl import Example, LogitModel, PlanError, Pool, Query, RetrievedExample, StreamKey, component
from icl.metrics import is_accepted
from icl.models import demo_prompt
from icl.models.answer_likelihood import options_of, probabilities, scorer
from retrievers import EXCLUDE_LEAKS, LeakPolicy, Resources, RetrievedDemos

WHO = "retriever 'likelihood_oracle'"


@component("retriever", "likelihood_oracle")
@dataclass(frozen=True)
class LikelihoodOracle:
    """The demonstrations that make the gold most probable: it sees the gold and is an upper bound."""

    needs: ClassVar[frozenset[str]] = frozenset({"model", "gold", "labels"})
    nested: ClassVar[bool] = True
    ranked: ClassVar[bool] = False

    sets: Literal["single", "greedy"] = "single"  # whether a demonstration is scored alone, or with those before it

    def fit(self, pool: Pool, resources: Resources) -> "FittedLikelihoodOracle":
        """Raises PlanError without a model that has logits."""
        return FittedLikelihoodOracle(self, pool, scorer(resources.model, WHO, "use the retriever 'oracle'"))


@dataclass(frozen=True)
class FittedLikelihoodOracle:
    """One pool, and the model that scores its members."""

    retriever: LikelihoodOracle
    pool: Pool
    model: LogitModel

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        return [self._best(query, k, policy) if k else () for query in queries]

    def _best(self, query: Query, k: int, policy: LeakPolicy) -> tuple[RetrievedExample, ...]:
        if not isinstance(query, Example):
            raise PlanError(f"{WHO} needs the gold answers, but the queries have none. Pass examples.")
        is_allowed = policy.allowed_for(query.query)
        left = [member for member in self.pool.examples if is_allowed(member)]
        if len(left) < k:
            raise policy.too_few(self.pool, query.query, k)
        if self.retriever.sets == "single":
            scores = self._probabilities(query, left, [])
            order = np.argsort(-np.round(scores, 6), kind="stable")[:k]
            return tuple(RetrievedExample(left[i].id, round(float(scores[i]), 6)) for i in order)
        chosen: list[Example] = []
        demos: list[RetrievedExample] = []
        for _ in range(k):
            scores = self._probabilities(query, left, chosen)
            best = int(np.argmax(np.round(scores, 6)))
            demos.append(RetrievedExample(left[best].id, round(float(scores[best]), 6)))
            chosen = [left.pop(best), *chosen]
        return tuple(demos)

    def _probabilities(self, query: Example, members: Sequence[Example], chosen: Sequence[Example]) -> "np.ndarray":
        """p(gold) with each member in front of the chosen demonstrations, [M] float64."""
        options = options_of(query.query, self.pool, WHO, "the retriever 'oracle'")
        right = [i for i, option in enumerate(options) if is_accepted(option, query.answers)]
        if not right:
            raise PlanError(f"{WHO}: the gold of query '{query.id}' is not among its options. Use 'oracle'.")
        prompts = [demo_prompt(query.query, [member, *chosen], StreamKey(0, query.id)) for member in members]
        rows = probabilities(self.model, prompts, options)
        return np.asarray(rows[:, right].sum(axis=1))
