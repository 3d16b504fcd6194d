"""How numbers are written: .871, +.036, p < .001. One place, so that table, report and sentences agree."""

import math
from collections.abc import Iterable

FEW = 30
"""Fewer independent units than these make a rough interval."""


def share(value: float, digits: int = 3) -> str:
    """.871, 1.000, – where there is none."""
    if math.isnan(value):
        return "–"
    return _bare(f"{value:.{digits}f}")


def plus_minus(mean: float, low: float, high: float, digits: int = 3) -> str:
    """'.640 ±.041': half the width. Where that would reach beyond 0 or 1 both ends are told: '1.000 [.963, 1.000]'."""
    half = (high - low) / 2
    if 0 <= mean <= 1 and (mean - half < 0 or mean + half > 1):
        return f"{share(mean, digits)} [{share(low, digits)}, {share(high, digits)}]"
    return f"{share(mean, digits)} ±{share(half, digits)}"


def signed(value: float, digits: int = 3) -> str:
    """+.036, −.120, ±.000 where it rounds to nothing."""
    if math.isnan(value):
        return "–"
    size = _bare(f"{abs(value):.{digits}f}")
    if float(f"{abs(value):.{digits}f}") == 0:
        return f"±{size}" if value == 0 else f"{'+' if value > 0 else '−'}{size}"
    return f"{'+' if value > 0 else '−'}{size}"


def p_value(p: float) -> str:
    """'p < .001', 'p = .032', 'p = .61'."""
    return f"p {p_number(p, '= ')}"


def p_number(p: float, equals: str = "") -> str:
    """'< .001', '.004', '.032', '.61'."""
    if math.isnan(p):
        return f"{equals}–"
    if p < 0.001:
        return "< .001"
    if p < 0.0995:
        return f"{equals}{_bare(f'{p:.3f}')}"
    if p >= 0.995:
        return f"{equals}1"
    return f"{equals}{_bare(f'{p:.2f}')}"


def interval(low: float, high: float, digits: int = 3) -> str:
    """'[−.010, +.018]'."""
    return f"[{', '.join(signed(v, digits).replace('±', '') for v in (low, high))}]"


def few_units(clusters: Iterable[int]) -> str:
    """A line where an interval rests on fewer than FEW independent units (queries, or groups of them), else ''."""
    fewest = min((count for count in clusters if count > 0), default=FEW)
    if fewest >= FEW:
        return ""
    units = counted(fewest, "independent unit (a query or a group", "independent units (queries or groups")
    return f"some intervals rest on {units} of them) only: with fewer than {FEW} they are rough"


def counted(number: int, one: str, several: str = "") -> str:
    """'1 shot', '1,200 samples', '2 queries'. several: where it is not `one` with an s."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def listed(words: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _bare(text: str) -> str:
    return text[1:] if text.startswith("0.") else text
