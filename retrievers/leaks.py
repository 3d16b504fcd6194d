"""No leak: a query is never shown itself, nor a demonstration that has one of its pictures.

What counts as the same picture is the digest of the unedited pixels, so another file name or another edit does not
hide it. Pictures are compared only for candidates that would be given.
"""

from collections.abc import Callable

from icl.errors import PlanError
from icl.tasks.base import Pool
from icl.types import Example, Query


def fair(query: Query) -> Callable[[Example], bool]:
    """Whether an example may be shown to this query."""
    own = frozenset(picture.source_digest for picture in query.pictures)

    def allowed(example: Example) -> bool:
        return example.id != query.id and not any(picture.source_digest in own for picture in example.pictures)

    return allowed


def too_few(pool: Pool, query: Query, k: int) -> PlanError:
    """The error of a pool that has fewer than k members left for a query, with the counts."""
    allowed = fair(query)
    itself = query.id in pool.by_id
    shared = sum(not allowed(example) for example in pool.examples) - itself
    left = len(pool) - itself - shared
    return PlanError(
        f"{k} demonstrations for query '{query.id}' from a pool of {len(pool)}: {left} are left after taking out "
        f"{'the query itself and ' if itself else ''}{shared} with one of its pictures. Ask for at most {left} shots, "
        f"or give the task a larger pool."
    )
