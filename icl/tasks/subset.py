"""A fixed, nested choice among records: the first 100 of a choice of 500 are the choice of 100.

Each record has a number of its own, drawn from (seed, id, factor); the smallest numbers are chosen. So a choice depends
on no other record, on no order of reading and on no global state, and every arm of a grid sees the same one.
"""

from collections.abc import Sequence

from icl.streams import StreamKey


def nested_choice(ids: Sequence[str], limit: int | None, seed: int, factor: str) -> list[int]:
    """Positions of the `limit` chosen ids in the order of the choice; without a limit all, in their own order."""
    if limit is None:
        return list(range(len(ids)))
    return sorted(range(len(ids)), key=lambda i: StreamKey(seed, ids[i]).number(factor))[:limit]
