"""The leak policy: whether a query may get itself, or a demonstration that has one of its images.

Every `retrieve` takes the policy as an argument, and `LeakPolicy.allowed_for` is the only filter. Two images are equal
if the digests of their unedited pixels are equal, so neither another file name nor an edit hides a leak. Images are
compared only for candidates that would otherwise be retrieved.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from icl.errors import PlanError
from icl.tasks.base import Pool
from icl.types import Example, Query


@dataclass(frozen=True)
class LeakPolicy:
    """The rule for demonstrations that leak: the query itself, and examples that have one of its images."""

    exclude: bool

    def allowed_for(self, query: Query) -> Callable[[Example], bool]:
        """A filter: whether an example may be a demonstration of the query."""
        if not self.exclude:
            return lambda example: True
        query_images = frozenset(image.source_digest for image in query.images)

        def is_allowed(example: Example) -> bool:
            return example.id != query.id and not any(image.source_digest in query_images for image in example.images)

        return is_allowed

    def too_few(self, pool: Pool, query: Query, k: int) -> PlanError:
        """The error for a pool with fewer than k allowed examples, with the counts."""
        is_allowed = self.allowed_for(query)
        itself = query.id in pool.by_id and not is_allowed(pool.by_id[query.id])
        shared = sum(not is_allowed(example) for example in pool.examples) - itself
        left = len(pool) - itself - shared
        return PlanError(
            f"{k} demonstrations for query '{query.id}' from a pool of {len(pool)}: {left} are left after taking out "
            f"{'the query itself and ' if itself else ''}{shared} with one of its images. Ask for at most {left} "
            f"shots, or give the task a larger pool."
        )


EXCLUDE_LEAKS = LeakPolicy(exclude=True)
"""The default of every `retrieve`."""

ALLOW_LEAKS = LeakPolicy(exclude=False)
"""Only the retriever `with_leaks` uses it, to measure what a leak is worth."""


def check_takes_policy(fitted: Any) -> None:
    """Raises PlanError if `retrieve` of a fitted retriever has no parameter for the leak policy."""
    retrieve = getattr(fitted, "retrieve", None)
    if retrieve is None:
        return  # the call of `retrieve` raises an error that names the component
    try:
        inspect.signature(retrieve).bind((), 1, EXCLUDE_LEAKS)
    except TypeError:
        raise PlanError(
            f"{type(fitted).__name__}.retrieve does not take the leak policy. Define retrieve(queries, k, policy), or "
            f"derive from retrievers.FittedRanking, which applies the policy."
        ) from None
