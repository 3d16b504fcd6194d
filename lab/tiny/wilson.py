"""The format of a proportion with its interval (Wilson, 1927) in the card and its goals."""

from experiments.stats.intervals import wilson


def format_proportion(counts: tuple[int, int]) -> str:
    """ ".975 (.955-.986)", or a dash if n is 0."""
    right, n = counts
    if n == 0:
        return "-"
    low, high = wilson(right, n)
    value, low_text, high_text = (f"{v:.3f}".removeprefix("0") for v in (right / n, low, high))
    return f"{value} ({low_text}-{high_text})"
