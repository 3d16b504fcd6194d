"""Bounds as types: a component's fields say what a parameter may be, and the loader enforces it."""

from typing import Annotated

from annotated_types import Ge, Gt, Le

NonNegative = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
Temperature = Annotated[float, Ge(0), Le(1000)]
"""What divides scores; 0 is the best token, and so is what float32 cannot divide by."""
LengthPenalty = Annotated[float, Ge(-10), Le(10)]
"""A power of the length, which stays finite for every length."""
BeamCount = Annotated[int, Ge(1), Le(1024)]

FLOAT32_MAX = 3.4028234e38
"""Of the numbers that scores are computed in. Beyond it, and for what is no number, a parameter is refused."""


class AllowInfinite:
    """Metadata of a field whose number may be infinite: `most: Annotated[float, Infinite()]`."""


MAX_ITEMS = 10_000_000
"""Of anything that is counted: more is a mistake, and would fill memory before it is noticed."""
Count = Annotated[int, Ge(0), Le(MAX_ITEMS)]
PositiveInt = Annotated[int, Ge(1), Le(MAX_ITEMS)]
PatchesPerSide = Annotated[int, Ge(2), Le(256)]
"""Of patches of an image: their number grows with its square, and so do time and memory."""
GeneratedCount = Annotated[int, Ge(1), Le(100_000)]
"""Of what a generated task draws, before the first sample."""
