"""Wilson's interval of a proportion (Wilson, 1927)."""

import math

Z = 1.959964  # 97.5 % point of the normal distribution


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % interval of right / n. Raises ValueError where n is 0."""
    if n <= 0:
        raise ValueError("an interval needs at least one trial")
    p, z2 = right / n, Z * Z / n
    middle = (p + z2 / 2) / (1 + z2)
    half = Z / (1 + z2) * math.sqrt(p * (1 - p) / n + z2 / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def shown(counts: tuple[int, int]) -> str:
    """ ".975 (.955-.986)", or a dash where nothing was counted."""
    right, n = counts
    if n == 0:
        return "-"
    low, high = wilson(right, n)
    value, low_text, high_text = (f"{v:.3f}".removeprefix("0") for v in (right / n, low, high))
    return f"{value} ({low_text}-{high_text})"
