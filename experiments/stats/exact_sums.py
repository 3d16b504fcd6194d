"""Sums that do not depend on the order of their terms, so that results are equal on every CPU.

Matrix products add in an order that depends on the BLAS library, the CPU and the shape of the operands. Multiples of
one power of two are added without rounding as long as the sum has at most 53 bits; the order then does not matter.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MANTISSA_BITS = 53


def exactly_summable(values: Floats, terms: int) -> Floats:
    """The values, rounded so that float64 adds up to `terms` of them (with repetition) exactly.

    The rounding is at most 2^-53 of the largest possible sum of the column. Whole numbers, such as sums of right and
    wrong answers, stay as they are.

    Args:
        values: [n] or [n, k]. Each column has its own grid.
        terms: The largest number of values in a sum.
    """
    largest = np.abs(values).max(axis=0, initial=0.0) * terms
    _, exponent = np.frexp(largest)
    grid = np.ldexp(1.0, exponent - MANTISSA_BITS)
    rounded: Floats = np.round(values / grid) * grid
    return rounded
