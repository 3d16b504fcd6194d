"""TopKNearestPR (Zhou et al. 2024): nearest images among the labeled members of the *source* domains.

    score(q, x) = cos(image_q, image_x),    x of a source domain

Under a distribution shift, the query comes from a domain without labels. The source domains are listed in `sources`; by
default all domains of the pool except the query's. A pool without domains is a single source.

No released code.
"""

from dataclasses import dataclass

from icl.errors import PlanError
from icl.registry import component
from icl.tasks.base import Pool
from icl.types import Example, Query
from retrievers.base import LeakPolicy
from retrievers.machinery.similarity import ModalityRetriever


@component("retriever", "topk_nearest")
@dataclass(frozen=True)
class TopKNearest(ModalityRetriever):
    """The nearest images from the source domains (TopKNearestPR)."""

    sources: tuple[str, ...] = ()  # domains that demonstrations come from; empty: all but the query's

    def is_eligible(self, example: Example, query: Query) -> bool:
        """Whether a member is of a source domain of the query."""
        if self.sources:
            return example.domain in self.sources and example.domain != query.domain
        return example.domain is None or example.domain != query.domain

    def too_few(self, pool: Pool, query: Query, k: int, policy: LeakPolicy) -> PlanError:
        outside = sum(not self.is_eligible(example, query) for example in pool.examples)
        if not outside:
            return policy.too_few(pool, query, k)
        part = Pool(tuple(example for example in pool.examples if self.is_eligible(example, query)))
        message = policy.too_few(part, query, k)
        return PlanError(f"{message} ({outside} of the pool's {len(pool)} are of no source domain.)")
