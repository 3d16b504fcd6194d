"""Whether training, dev and test images are disjoint, by the digest of their pixels."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from icl.errors import DataError

if TYPE_CHECKING:
    from icl.tasks.base import Task
    from icl.types import Example


def check_disjoint(train: "Task", tests: "Iterable[tuple[str, Task]]", name: str = "tune.task") -> int:
    """Checks that no image of a test or dev query is a training image.

    Training images are those of the training queries and of their pools, which appear as demonstrations.

    Args:
        train: The training task.
        tests: Place in the file and task, for each test task and the dev task.
        name: Place of the training task in the file.

    Returns:
        The number of distinct training images.

    Raises:
        DataError: An image is on both sides.
    """
    digests: dict[str, str] = {}
    for example in _examples(train):
        for image in example.images:
            digests.setdefault(image.digest, example.id)
    for where, task in tests:
        both = [
            (query.id, digests[one.digest]) for query in task.queries for one in query.images if one.digest in digests
        ]
        if both:
            query_id, example_id = both[0]
            raise DataError(
                f"{where}: {len(both)} images of its {len(task.queries)} queries are among the images of {name}; the "
                f"image of query '{query_id}' is that of '{example_id}'. Take another split, or another seed of a "
                "generated task."
            )
    return len(digests)


def _examples(task: "Task") -> "Iterator[Example]":
    """Queries and members of their pools, each pool once."""
    pools: set[int] = set()
    read_pools = []
    for query in task.queries:
        yield query
        pool = task.pool(query.id)
        if id(pool) not in pools:
            pools.add(id(pool))
            read_pools.append(pool)  # an id is that of one pool only as long as the pool exists
            yield from pool.examples
