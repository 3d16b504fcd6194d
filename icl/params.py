"""Bounds as types: a component's fields say what a parameter may be, and the loader enforces it."""

from typing import Annotated

from annotated_types import Ge, Gt, Le

NonNegative = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Share = Annotated[float, Ge(0), Le(1)]
Count = Annotated[int, Ge(0)]
PositiveInt = Annotated[int, Ge(1)]
