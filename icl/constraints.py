"""Annotated types that bound component parameters. The registry enforces the bounds."""

from typing import Annotated

from annotated_types import Ge, Gt, Le

NonNegative = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
Temperature = Annotated[float, Ge(0), Le(1000)]
"""Divisor of scores. 0 means the best token, and so does any value too small for a float32 division."""
LengthPenalty = Annotated[float, Ge(-10), Le(10)]
"""Exponent of the answer length, small enough that the power stays finite."""
BeamCount = Annotated[int, Ge(1), Le(1024)]

FLOAT32_MAX = 3.4028234e38
"""The largest float32. Scores use float32, so larger parameters and NaN are refused."""


class AllowInfinite:
    """Metadata of a field whose number may be infinite: `limit: Annotated[float, AllowInfinite()]`."""


MAX_ITEMS = 10_000_000
"""Upper bound of every count. A larger one is a mistake that would fill the memory."""
Count = Annotated[int, Ge(0), Le(MAX_ITEMS)]
PositiveInt = Annotated[int, Ge(1), Le(MAX_ITEMS)]
PatchesPerSide = Annotated[int, Ge(2), Le(256)]
"""Patches along one side of an image. Time and memory grow with the square."""
GeneratedCount = Annotated[int, Ge(1), Le(100_000)]
"""Number of examples that a generated task makes before the first sample."""
