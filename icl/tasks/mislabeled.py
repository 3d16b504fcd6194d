"""A task whose pool has wrong labels, the same ones for every query.

    task: {name: mislabeled, of: {name: gated}, share: 0.5}

A member of the pool has a wrong answer with probability `share`, drawn uniformly from its other options. Queries keep
their gold. Whether a member is wrong depends on its id and the seed only, and a larger share contains the errors of a
smaller one. So a retriever can learn which members to avoid. The transform `noisy_labels` instead draws wrong answers
anew for each query.
"""

from dataclasses import dataclass, replace
from typing import Annotated

from icl import DataError, Example, Fraction, NestedComponent, StreamKey, Task, component
from icl.tasks.base import AlteredTask
from icl.text.folding import fold


@component("task", "mislabeled")
@dataclass(frozen=True, kw_only=True)
class MislabeledTask(AlteredTask):
    """A task with wrong answers for a share of its pool, the same for all queries. Its examples need options."""

    of: Annotated[Task, NestedComponent("task")]  # task whose pool is mislabeled
    share: Fraction = 0.5  # probability that a member of the pool has a wrong answer
    seed: int = 0  # random seed of the errors, independent of the seeds of a run

    @property
    def title(self) -> str:
        return f"{self.of.title} · {self.share:.0%} wrong labels" if self.share else self.of.title

    def altered(self, example: Example, in_pool: bool) -> Example:
        """Raises DataError for a member without another option."""
        rng = StreamKey(self.seed, example.id).numpy("mislabeled")
        if not in_pool or rng.random() >= self.share:
            return example
        right = {fold(answer) for answer in example.answers}
        others = [option for option in example.options if fold(option) not in right]
        if not others:
            raise DataError(
                f"mislabeled: '{example.id}' of the pool of {self.of.title} has no other option to answer with. Use a "
                "task with options, or the transform noisy_labels."
            )
        wrong = others[int(rng.integers(len(others)))]
        return replace(example, answers=(wrong,), label=None if example.label is None else wrong)
