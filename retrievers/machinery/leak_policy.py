"""No leak: a query is never shown itself, nor a demonstration that has one of its images.

What counts as the same image is the digest of the unedited pixels, so another file name or another edit does not
hide it. Images are compared only for candidates that would be given. The retriever `leaking` alone switches this off.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from icl.errors import PlanError
from icl.tasks.base import Pool
from icl.types import Example, Query

_EXCLUDES: ContextVar[bool] = ContextVar("_EXCLUDES", default=True)


def fair(query: Query) -> Callable[[Example], bool]:
    """Whether an example may be shown to this query."""
    if not _EXCLUDES.get():
        return lambda example: True
    return strictly_fair(query)


def strictly_fair(query: Query) -> Callable[[Example], bool]:
    """The same, whatever is switched off."""
    own = frozenset(image.source_digest for image in query.images)

    def allowed(example: Example) -> bool:
        return example.id != query.id and not any(image.source_digest in own for image in example.images)

    return allowed


@contextmanager
def leaks_allowed() -> Iterator[None]:
    """Within it, everything may be shown."""
    token = _EXCLUDES.set(False)
    try:
        yield
    finally:
        _EXCLUDES.reset(token)


def too_few(pool: Pool, query: Query, k: int) -> PlanError:
    """The error of a pool that has fewer than k members left for a query, with the counts."""
    allowed = fair(query)
    itself = query.id in pool.by_id and not allowed(pool.by_id[query.id])
    shared = sum(not allowed(example) for example in pool.examples) - itself
    left = len(pool) - itself - shared
    return PlanError(
        f"{k} demonstrations for query '{query.id}' from a pool of {len(pool)}: {left} are left after taking out "
        f"{'the query itself and ' if itself else ''}{shared} with one of its images. Ask for at most {left} shots, "
        f"or give the task a larger pool."
    )
