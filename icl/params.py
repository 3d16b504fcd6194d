"""Bounds as types: a component's fields say what a parameter may be, and the loader enforces it."""

from typing import Annotated

from annotated_types import Ge, Gt, Le

NonNegative = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Share = Annotated[float, Ge(0), Le(1)]

MOST = 10_000_000
"""Of anything that is counted: more is a mistake, and would fill memory before it is noticed."""
Count = Annotated[int, Ge(0), Le(MOST)]
PositiveInt = Annotated[int, Ge(1), Le(MOST)]
Made = Annotated[int, Ge(1), Le(100_000)]
"""Of what a generated task draws, before the first sample."""
