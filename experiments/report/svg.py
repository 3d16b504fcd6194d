"""SVG elements as escaped text, and a linear scale with round ticks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from experiments.stats.formatting import format_interval, format_signed

FOREST_WIDTH = 170
"""The width of a drawn interval."""


def element(name: str, *inside: str, **attributes: object) -> str:
    """`element("text", text("a"), x=3, class_="tick")`. `inside` is markup; attributes are escaped."""
    pairs = "".join(f" {key.rstrip('_').replace('_', '-')}={quoteattr(_plain(v))}" for key, v in attributes.items())
    return f"<{name}{pairs}>{''.join(inside)}</{name}>" if inside else f"<{name}{pairs}/>"


def escape_text(content: object) -> str:
    """Escaped text for the inside of an element."""
    return escape(_printable(str(content)))


@dataclass(frozen=True)
class LinearScale:
    """A linear function from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        width = self.high - self.low
        return self.start + (value - self.low) / width * (self.end - self.start) if width else self.start


def forest(scale: LinearScale, low: float, mid: float, high: float) -> str:
    """An interval around a point on a scale with a line at 0."""
    zero = element("path", d=f"M{scale(0):.1f} 1V17", class_="zero")
    span = element("path", d=f"M{scale(low):.1f} 9H{scale(high):.1f}", class_="span")
    dot = element("circle", cx=scale(mid), cy=9, r=3.5)
    words = f"{format_signed(mid)} {format_interval(low, high)}"
    return element(
        "svg", zero, span, dot, viewBox=f"0 0 {FOREST_WIDTH} 18", class_="forest", role="img", aria_label=words
    )


def padded_range(values: Sequence[float], least: float) -> tuple[float, float]:
    """A range with padding around the values, at least `least` wide, with round ends, within 0..1 if the values are."""
    bottom, top = min(values), max(values)
    lowest, highest = 0.0 if bottom >= 0 else -math.inf, 1.0 if top <= 1 else math.inf
    air = max((least - (top - bottom)) / 2, 0.04 * (top - bottom))
    bottom, top = bottom - air, top + air
    bottom, top = max(lowest, min(bottom, highest - least)), min(highest, max(top, lowest + least))
    step = tick_step(top - bottom)
    return max(lowest, math.floor(bottom / step + 1e-9) * step), min(highest, math.ceil(top / step - 1e-9) * step)


def ticks(low: float, high: float) -> list[float]:
    """About five round values within low..high."""
    step = tick_step(high - low)
    return [round(i * step, 10) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def tick_step(width: float) -> float:
    """1, 2 or 5 times a power of ten, of which the width has four to eight."""
    power = 10.0 ** math.floor(math.log10(width)) if width > 0 else 0.1
    return next(step * power for step in (0.2, 0.5, 1.0, 2.0) if width / (step * power) <= 6)


def _plain(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else _printable(str(value))


def _printable(text: str) -> str:
    """The text without control characters, which XML forbids."""
    return "".join(c for c in text if c in "\t\n" or (c >= " " and not 0xD800 <= ord(c) <= 0xDFFF and c not in "￾￿"))
