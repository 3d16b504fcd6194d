"""The precision of stored traces, so that they do not depend on the batch in which a sample was computed.

In float32, a value that is computed in another batch differs by less than BATCH_ERROR. Stored values are therefore
equal, unless the two values lie on both sides of a rounding boundary. In half precision the logits of a model depend on
the batch by up to about 0.05, and so do all values of a trace.
"""

from collections.abc import Sequence

TRACE_DECIMALS = 4
"""Decimals of stored values in nats and of stored weights."""

PROBABILITY_DIGITS = 4
"""Significant digits of stored probabilities. Their relative error is the error of their logarithm."""

BATCH_ERROR = 1e-5
"""Difference between the values of two batches in float32, in nats."""


def round_nats(values: Sequence[float]) -> list[float]:
    """The values with TRACE_DECIMALS decimals and without a negative zero."""
    return [round(value, TRACE_DECIMALS) + 0.0 for value in values]


def round_probabilities(values: Sequence[float]) -> list[float]:
    """The values with PROBABILITY_DIGITS significant digits."""
    return [float(f"{value:.{PROBABILITY_DIGITS}g}") for value in values]
