"""Access to the gold, for orderers and transforms that declare this need."""

from typing import Any

from icl.errors import PlanError
from icl.types import Context, Example


def gold_of(context: Context, who: str) -> Example:
    """The query with its gold. Raises PlanError if the context has none."""
    query: Any = context.query
    if not isinstance(query, Example):
        raise PlanError(
            f"{who} is an oracle: it needs the gold of query '{query.id}'. In Python, give the context the Example in "
            "the place of its query; a run does so for components that declare the need."
        )
    return query
