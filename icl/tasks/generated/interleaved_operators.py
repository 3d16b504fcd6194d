"""Interleaved operator induction, as in VL-ICL (Zong et al., ICLR 2025): a digit an image, and a hidden operator.

The episodes of `operators` with the same seed, number for number, each sum shown as two images: what a model loses
here against there is what it loses by having to join two images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from icl.constraints import GeneratedCount
from icl.registry import component, parameter
from icl.streams import StreamKey
from icl.tasks.base import Pool
from icl.tasks.generated.digit import DigitImage
from icl.tasks.generated.operators import OperatorsTask
from icl.types import Example


@component("task", "interleaved_operators")
@dataclass(frozen=True)
class InterleavedOperatorsTask:
    """The result of two digits in two images; only the demonstrations tell whether they are added or what.

    Queries have the ids, digits, operators and options of the task `operators`. Some demonstrations fit several
    operators; `icl.tasks.generated.operators.identifiable` says whether a set of them settles the question.
    """

    support: GeneratedCount = 32  # pairs of images in a query's pool, each another pair of digits; at most 54
    name_operator: bool = False  # the question names the operator: the control
    bank: GeneratedCount = 16  # images of each digit that the pools are drawn from
    query_limit: GeneratedCount = parameter("queries", 200)  # how many are asked
    seed: int = 0  # of the task; the seeds of a run do not change it

    def __post_init__(self) -> None:
        self.sums  # noqa: B018  refuses a support that is too large

    @property
    def title(self) -> str:
        return "interleaved operators · operator named" if self.name_operator else "interleaved operators"

    @cached_property
    def sums(self) -> OperatorsTask:
        """The same episodes with one image a sum."""
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
        """What a sample's record says of its demonstrations."""
        return self.sums.facts(demos)

    def example(self, example: Example, bank: int | None) -> Example:
        """The sum as two images: of its own, or of the bank that all pools share."""
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
