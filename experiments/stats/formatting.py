"""The format of numbers in tables, report and findings: .871, +.036, p < .001."""

import math
from collections.abc import Iterable, Sequence

FEW_UNITS = 30
"""With fewer independent units an interval is rough."""


def format_share(value: float, digits: int = 3) -> str:
    """A number such as '.871' or '1.000'; '–' for NaN."""
    if math.isnan(value):
        return "–"
    return _bare(f"{value:.{digits}f}")


def format_range(ends: tuple[float, float], digits: int = 3) -> str:
    """A range such as '.285–.855'; a single number if both ends are equal."""
    return "–".join(dict.fromkeys(format_share(end, digits) for end in ends))


def format_estimate(mean: float, low: float, high: float, digits: int = 3) -> str:
    """'.500 ±.041' with half the width, or '.208 [.091, .408]' if the mean is not the center to the digits shown."""
    half = (high - low) / 2
    if abs((low + high) / 2 - mean) > 0.5 * 10**-digits:
        return f"{format_share(mean, digits)} [{format_share(low, digits)}, {format_share(high, digits)}]"
    return f"{format_share(mean, digits)} ±{format_share(half, digits)}"


def format_signed(value: float, digits: int = 3) -> str:
    """A number with its sign, such as '+.036' or '−.120'; '±.000' for 0."""
    if math.isnan(value):
        return "–"
    size = _bare(f"{abs(value):.{digits}f}")
    if float(f"{abs(value):.{digits}f}") == 0:
        return f"±{size}" if value == 0 else f"{'+' if value > 0 else '−'}{size}"
    return f"{'+' if value > 0 else '−'}{size}"


def format_p(p: float) -> str:
    """A p-value such as 'p < .001', 'p = .032' or 'p = .61'."""
    return f"p {format_p_number(p, '= ')}"


def format_p_number(p: float, equals: str = "") -> str:
    """A p-value such as '< .001', '.032' or '.61'."""
    if math.isnan(p):
        return f"{equals}–"
    if p < 0.001:
        return "< .001"
    if p < 0.0995:
        return f"{equals}{_bare(f'{p:.3f}')}"
    if p >= 0.995:
        return f"{equals}1"
    return f"{equals}{_bare(f'{p:.2f}')}"


def format_interval(low: float, high: float) -> str:
    """An interval such as '[−.010, +.018]'."""
    return f"[{', '.join(format_signed(v).replace('±', '') for v in (low, high))}]"


def few_units_note(clusters: Iterable[int]) -> str:
    """A note if an interval has fewer than FEW_UNITS independent units (queries or groups of them), else ''."""
    fewest = min((count for count in clusters if count > 0), default=FEW_UNITS)
    if fewest >= FEW_UNITS:
        return ""
    units = format_count(fewest, "independent unit (a query or a group", "independent units (queries or groups")
    return f"some intervals are based on only {units} of them); with fewer than {FEW_UNITS} they are approximate"


def format_count(number: int, one: str, several: str = "") -> str:
    """A count such as '1 shot' or '1,200 samples'. `several` is the plural if it is not `one` with an s."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def join_words(words: list[str]) -> str:
    """A list such as 'a, b and c'."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _bare(text: str) -> str:
    return text[1:] if text.startswith("0.") else text


MARKDOWN = str.maketrans({char: f"\\{char}" for char in "\\`*_|"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": " "})


def markdown_text(text: str) -> str:
    """The text with what Markdown and HTML would read as markup escaped."""
    return text.translate(MARKDOWN)


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[bool] = ()) -> str:
    """A table in Markdown. rows: escaped cells (`markdown_text`). numbers: which columns are aligned to the right."""
    rule = ["--:" if number else "---" for number in numbers or [False] * len(heads)]
    lines = [[markdown_text(head) for head in heads], rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
