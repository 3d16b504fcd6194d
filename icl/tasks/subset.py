"""Fixed nested subsets of records: the first 100 of a subset of 500 are the subset of 100.

Each record has a random number from (seed, id, factor), and the records with the smallest numbers are chosen. So the
choice is independent of other records, of the reading order and of global state. Every arm of a grid has the same
subset.
"""

from collections.abc import Sequence
from heapq import nsmallest

from icl.errors import DataError
from icl.streams import StreamKey, query_numbers


def nested_choice(ids: Sequence[str], limit: int | None, seed: int, factor: str) -> list[int]:
    """Positions of the `limit` chosen ids in the order of choice. Without a limit, all positions in their original
    order.
    """
    if limit is None:
        return list(range(len(ids)))
    numbers = query_numbers(seed, ids, factor)
    return nsmallest(limit, range(len(ids)), key=numbers.__getitem__)


def limited_choice(ids: Sequence[str], limit: int | None, seed: int, factor: str, *, key: str, whole: str) -> list[int]:
    """The positions of `nested_choice`, with an error if there are fewer ids than `limit`.

    Args:
        ids: The ids of all records.
        limit: The number of records to choose; None: all.
        seed: Seed of the choice.
        factor: Name of the choice.
        key: The key of the limit in the experiment file.
        whole: What is chosen from, such as "rows of pope[test]".

    Raises:
        DataError: The limit is larger than the number of ids.
    """
    if limit is not None and limit > len(ids):
        raise DataError(
            f"{key}: {limit} is more than the {len(ids):,} {whole}. Use a smaller number, or remove {key} to use all."
        )
    return nested_choice(ids, limit, seed, factor)


def divide_by_group(
    groups: Sequence[str], fraction: float, seed: int, factor: str, name: str
) -> tuple[list[int], list[int]]:
    """Rows of the queries and rows of the pool, so that the two share no group.

    Args:
        groups: The group of each row.
        fraction: The share of the groups that becomes the pool.
        seed: Seed of the draw.
        factor: Name of the draw.
        name: Name of the data in the error.

    Raises:
        DataError: A side has no group, although the fraction gives it some.
    """
    names = sorted(set(groups), key=lambda name: StreamKey(seed, name).number(factor))
    pool = set(names[: round(fraction * len(names))])
    if len(pool) == len(names) or (not pool and fraction > 0):
        raise DataError(
            f"{name} has too few groups of rows ({len(names)}) for both queries and a pool with pool_fraction "
            f"{fraction}. Add rows, set pool_split, or change pool_fraction."
        )
    return (
        [row for row, group in enumerate(groups) if group not in pool],
        [row for row, group in enumerate(groups) if group in pool],
    )


def connected_components(keys: Sequence[Sequence[str]]) -> list[int]:
    """For each row, the first row that it shares a key with, directly or through others, or itself."""
    parent = list(range(len(keys)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[str, int] = {}
    for row, some in enumerate(keys):
        for key in some:
            a, b = root(first.setdefault(key, row)), root(row)
            parent[max(a, b)] = min(a, b)
    return [root(row) for row in range(len(keys))]
