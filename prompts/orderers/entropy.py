"""GlobalE and LocalE (Lu et al., ACL 2022): the order under which the model's answers to other questions are most even.

    global    entropy of how often each option is the most likely one, over the probes
    local     mean over the probes of the entropy of p(option | demonstrations, probe)

The two choose different orders. Probes are other members of the pool without their answers: never the query, one of its
images or a demonstration, and with the query's options if possible. (In the paper the model writes the probes. The
released code adds one to each count.)

Differs from the released code in the probes, which are members of the pool (there texts that the model writes), and in
the entropy of `global`, which is not smoothed (see above).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from icl.errors import PlanError
from icl.models.answer_likelihood import entropy
from icl.registry import PositiveInt, component
from icl.types import Query
from prompts.orderers.model_orderer import ModelOrderer, Trial, largest


@component("orderer", "entropy")
@dataclass(frozen=True)
class Entropy(ModelOrderer):
    """An orderer that makes the model's answers to other pool members most even (GlobalE, LocalE)."""

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
        own = {image.source_digest for image in query.images}
        taken = {query.id, *(demo.example.id for demo in trial.context.demos)}
        pool = trial.fitted.pool.in_random_order(trial.context.key, "order/probes")
        others = [example for example in pool if example.id not in taken]
        same_options = [example for example in others if example.options == query.options]
        for candidates in (same_options, others):
            allowed = (example for example in candidates if not own & {image.source_digest for image in example.images})
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
