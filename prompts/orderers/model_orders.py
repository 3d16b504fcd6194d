"""Orders that the model's own probabilities decide."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from icl import Context, Demo, LogitModel, Model, PlanError, Pool, PositiveInt, Query, component
from icl.edits import Blank
from icl.models.answer_likelihood import demo_prompt, entropy, options_of, probabilities, scorer
from icl.tasks import image_digests

INSTEAD = "the orderer 'reversed'"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ModelOrderer:
    """Base class of `entropy` and `demo`, which choose an order in `best`.

    Common code of orderers that try several orders of the same demonstrations on the model.

    The first order is the usual one, best last. The others are distinct random orders from the query's stream, or all
    orders if there are few. Such an orderer is fitted on a pool and a model before use. Its prompts do not depend on
    the composer: a user turn and an assistant turn for each demonstration, then a user turn.
    """

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


@component("orderer", "entropy")
@dataclass(frozen=True)
class Entropy(ModelOrderer):
    """An orderer that makes the model's answers to other pool members most even (GlobalE, LocalE).

    GlobalE and LocalE (Lu et al., ACL 2022): the order under which the model's answers to other questions are most
    even.

        global    entropy of how often each option is the most likely one, over the probes
        local     mean over the probes of the entropy of p(option | demonstrations, probe)

    The two choose different orders. Probes are other members of the pool without their answers: never the query, one of
    its images or a demonstration, and with the query's options if possible. (In the paper the model writes the probes.
    The released code adds one to each count.)

    Differs from the released code in the probes, which are members of the pool (there texts that the model writes), and
    in the entropy of `global`, which is not smoothed (see above).
    """

    name: ClassVar[str] = "entropy"

    by: Literal["global", "local"] = "global"  # evenness of all answers together, or of each one
    probes: PositiveInt = 8  # number of pool members used as probes

    def best(self, trial: Trial) -> int:
        probabilities = trial.probabilities(self._probes(trial))
        if self.by == "local":
            return largest(np.array([entropy(rows).mean() for rows in probabilities]))
        size = probabilities.shape[2]
        counts = np.array(
            [np.bincount(rows.argmax(axis=1), minlength=size) for rows in probabilities], dtype=np.float64
        )
        return largest(entropy(counts / counts.sum(axis=1, keepdims=True)))

    def _probes(self, trial: Trial) -> Sequence[Query]:
        query = trial.context.query
        own = image_digests(query)
        taken = {query.id, *(demo.example.id for demo in trial.context.demos)}
        pool = trial.fitted.pool.in_random_order(trial.context.key, "order/probes")
        others = [example for example in pool if example.id not in taken]
        same_options = [example for example in others if example.options == query.options]
        for candidates in (same_options, others):
            allowed = (example for example in candidates if not own & image_digests(example))
            chosen = [example.query for example, _ in zip(allowed, range(self.probes), strict=False)]
            if chosen:
                return chosen
        raise PlanError(self._no_probes_message(trial, len(others)))

    @staticmethod
    def _no_probes_message(trial: Trial, others: int) -> str:
        """Why there are no probes, and what to do."""
        query, count, size = trial.context.query, len(trial.context.demos), len(trial.fitted.pool)
        start = f"orderer 'entropy' asks the model about members of the pool that are not shown; for query '{query.id}'"
        if not others:
            return f"{start} the pool of {size} contains only its {count} demonstrations. Use fewer, or order: demo."
        return (
            f"{start} all {others} that are none of its {count} demonstrations have its image, so they would give it "
            "away. Use a pool with other images, or order: demo."
        )


NOTHING = "N/A"
KEEP_ONE_OF = 4
"""Divisor of the number of orders: the share that is kept."""


@component("orderer", "demo")
@dataclass(frozen=True)
class DEmO(ModelOrderer):
    """An orderer that, of the orders without a bias, takes the one that the query changes most (DEmO).

    DEmO (Guo et al. 2024): of the orders that favor no answer by themselves, the one that the query changes most.

        bias     H(p(option | demonstrations, nothing)): the quarter of the orders with the largest entropy is kept
        shift    1/2 sum over options of | p(option | demonstrations, query) - p(option | demonstrations, nothing) |

    "Nothing" is the query with blank images and the question "N/A". This is a reconstruction without published code.
    The number of orders to keep, the substitute for an image and the measure of the shift are assumptions. Another
    divergence chooses differently.

    No released code.
    """

    name: ClassVar[str] = "demo"

    def best(self, trial: Trial) -> int:
        query = trial.context.query
        empty = replace(query, images=tuple(p.edit(Blank()) for p in query.images), question=NOTHING)
        free = trial.probabilities([empty])[:, 0]
        candidates = np.argsort(-np.round(entropy(free), 9), kind="stable")[: max(len(free) // KEEP_ONE_OF, 1)]
        shift = np.abs(trial.probabilities([query], candidates.tolist())[:, 0] - free[candidates]).sum(axis=1) / 2
        return int(candidates[largest(shift)])
