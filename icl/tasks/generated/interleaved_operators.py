"""Interleaved operator induction, as in VL-ICL (Zong et al., ICLR 2025): one digit in each image, and a hidden
operator.

The episodes equal those of `operators` with the same seed, but each sum has two images. The difference in accuracy is
the cost of combining two images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from icl import Example, GeneratedCount, Pool, StreamKey, component, parameter
from icl.tasks.generated.drawing import DigitImage
from icl.tasks.generated.operators import OperatorsTask


@component("task", "interleaved_operators")
@dataclass(frozen=True)
class InterleavedOperatorsTask:
    """Sums of two digits in two images; only the demonstrations show the operator.

    Queries have the ids, digits, operators and options of the task `operators`. Some demonstrations fit several
    operators; `icl.tasks.generated.operators.identifiable` tells whether a set of them determines the answer.
    """

    support: GeneratedCount = 32  # pairs of images in a query's pool, with different pairs of digits; at most 54
    name_operator: bool = False  # whether the question names the operator: the control
    bank: GeneratedCount = 16  # images of each digit in the bank of all pools
    query_limit: GeneratedCount = parameter("queries", 200)  # number of queries
    seed: int = 0  # random seed of the task, independent of the seeds of a run

    def __post_init__(self) -> None:
        self.sums  # noqa: B018  refuses a support that is too large

    @property
    def title(self) -> str:
        return "interleaved operators · operator named" if self.name_operator else "interleaved operators"

    @cached_property
    def sums(self) -> OperatorsTask:
        """The same episodes with one image for each sum."""
        return OperatorsTask(self.support, self.name_operator, query_limit=self.query_limit, seed=self.seed)

    @cached_property
    def queries(self) -> tuple[Example, ...]:
        return tuple(self.example(query, None) for query in self.sums.queries)

    def pool(self, query_id: str) -> Pool:
        return _pool(self, query_id)

    @property
    def pool_size(self) -> int:
        return self.support

    def facts(self, demos: Sequence[Example]) -> Mapping[str, bool]:
        """Facts about the demonstrations for a sample's record."""
        return self.sums.facts(demos)

    def example(self, example: Example, bank: int | None) -> Example:
        """The sum as two images, either new ones or from the bank that all pools share."""
        images = []
        for side in ("left", "right"):
            value, name = int(example.secret[side]), f"query/{example.id}/{side}"
            if bank is not None:
                name = f"bank/{value}/{StreamKey(self.seed, example.id).number(f'interleaved/{side}') % bank}"
            images.append(DigitImage(self.seed, f"interleaved/{name}", value).image)
        return replace(example, images=tuple(images))


@lru_cache(maxsize=512)
def _pool(task: InterleavedOperatorsTask, query_id: str) -> Pool:
    return Pool(tuple(task.example(example, task.bank) for example in task.sums.pool(query_id).examples))
