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
