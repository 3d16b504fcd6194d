"""GlobalE and LocalE (Lu et al., ACL 2022): the order under which the model's answers to other questions are most even.

    global    entropy of how often each option is the likeliest, over the probes
    local     mean over the probes of the entropy of p(option | demonstrations, probe)

The two choose differently. Probes are other members of the pool, without their answers: never the query, one of its
images or a demonstration; those with the query's options where there are such. (The paper lets the model write them;
released code adds one to each count.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from icl.constraints import PositiveInt
from icl.errors import PlanError
from icl.models.answer_likelihood import entropy
from icl.registry import component
from icl.types import Query
from prompts.orderers.model_orderer import Asking, Trial, largest


@component("orderer", "entropy")
@dataclass(frozen=True)
class Entropy(Asking):
    """The order under which the model's answers to other members of the pool are most even (GlobalE, LocalE)."""

    name: ClassVar[str] = "entropy"

    by: Literal["global", "local"] = "global"  # evenness of the answers together, or of each
    probes: PositiveInt = 8  # members of the pool that are asked

    def best(self, trial: Trial) -> int:
        told = trial.told(self._probes(trial))
        if self.by == "local":
            return largest(np.array([entropy(rows).mean() for rows in told]))
        size = told.shape[2]
        counts = np.array([np.bincount(rows.argmax(axis=1), minlength=size) for rows in told], dtype=np.float64)
        return largest(entropy(counts / counts.sum(axis=1, keepdims=True)))

    def _probes(self, trial: Trial) -> Sequence[Query]:
        query = trial.context.query
        own = {image.source_digest for image in query.images}
        taken = {query.id, *(demo.example.id for demo in trial.context.demos)}
        others = [example for example in trial.fitted.pool.examples if example.id not in taken]
        alike = [example for example in others if example.options == query.options]
        for some in (alike, others):
            places = trial.context.key.numpy("order/probes").permutation(len(some))
            fair = (some[i] for i in places if not own & {image.source_digest for image in some[i].images})
            chosen = [example.query for example, _ in zip(fair, range(self.probes), strict=False)]
            if chosen:
                return chosen
        raise PlanError(self._nobody(trial, len(others)))

    @staticmethod
    def _nobody(trial: Trial, others: int) -> str:
        """Why there is nobody to ask, and what helps against that."""
        query, shown, size = trial.context.query, len(trial.context.demos), len(trial.fitted.pool)
        begin = f"orderer 'entropy' asks the model about members of the pool that are not shown; for query '{query.id}'"
        if not others:
            return f"{begin} the pool of {size} has none beside its {shown} demonstrations. Use fewer, or order: demo."
        return (
            f"{begin} all {others} that are none of its {shown} demonstrations have its image, so they would give it "
            "away. Use a pool with other images, or order: demo."
        )
