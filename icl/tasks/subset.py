"""Fixed nested subsets of records: the first 100 of a subset of 500 are the subset of 100.

Each record has a random number from (seed, id, factor), and the records with the smallest numbers are chosen. So the
choice is independent of other records, of the reading order and of global state. Every arm of a grid has the same
subset.
"""

from collections.abc import Sequence

from icl.streams import StreamKey


def nested_choice(ids: Sequence[str], limit: int | None, seed: int, factor: str) -> list[int]:
    """Positions of the `limit` chosen ids in the order of choice. Without a limit, all positions in their original
    order.
    """
    if limit is None:
        return list(range(len(ids)))
    return sorted(range(len(ids)), key=lambda i: StreamKey(seed, ids[i]).number(factor))[:limit]


def divide_by_group(groups: Sequence[str], fraction: float, seed: int, factor: str) -> tuple[list[int], list[int]]:
    """Rows of the queries and rows of the pool, so that the two share no group.

    Args:
        groups: The group of each row.
        fraction: The share of the groups that becomes the pool.
        seed: Seed of the draw.
        factor: Name of the draw.
    """
    names = sorted(set(groups), key=lambda name: StreamKey(seed, name).number(factor))
    pool = set(names[: round(fraction * len(names))])
    return (
        [row for row, name in enumerate(groups) if name not in pool],
        [row for row, name in enumerate(groups) if name in pool],
    )
