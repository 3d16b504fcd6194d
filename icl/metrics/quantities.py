"""Quantities, dates and clock times in one spelling: "50 meters" and "50 m", "July 4, 2021" and "2021-07-04".

The words of a text that write a quantity are replaced; all others stay. Units are not converted: 1 km is not 1000 m.
Numeric dates such as 7/4/2021 stay, because their order is ambiguous; 12/25/2021 has one reading. "10 to 12"
stays too: it is a range or a score.
"""

import re
from functools import lru_cache

from icl.metrics.normalize import CACHE_ENTRIES, DIGITS, ONES, TEENS, TENS, parse_numbers
from icl.metrics.number_answers import multiples_in_digits

_UNITS = {
    "m": "m meters? metres?", "km": "km kms kilomet(?:er|re)s?", "cm": "cm cms centimet(?:er|re)s?",
    "mm": "mm millimet(?:er|re)s?", "inch": 'in(?!\\s+[a-z]) inch(?:es)? "', "ft": "ft foot feet",
    "yd": "yds? yards?", "mi": "mi miles?",
    "kg": "kgs? kilos? kilogram(?:me)?s?", "g": "g grams?", "mg": "mg milligrams?", "oz": "oz ounces?",
    "pound": "lbs? pounds?(?:\\s+sterling)? gbp £", "l": "l lit(?:er|re)s?", "ml": "ml millilit(?:er|re)s?",
    "h": "h hrs? hours?", "min": "mins? minutes?", "s": "s secs? seconds?", "year": "yrs? years?",
    "mph": "mph mi/h miles?\\s+(?:per|an)\\s+hour",
    "km/h": "kph kmh km/h (?:kilomet(?:er|re)s?|km)\\s+(?:per|an)\\s+hour",
    "m/s": "m/s (?:meters?|metres?)\\s+per\\s+second", "%": "% percent per\\s+cent pct",
    "°C": "°c (?:degrees?\\s+|°\\s*)?celsius degrees?\\s+c", "°F": "°f (?:degrees?\\s+|°\\s*)?fahrenheit degrees?\\s+f",
    "°": "° deg degrees?", "sqm": "m² m2 m\\^2 sq\\.?\\s*m square\\s+met(?:er|re)s?",
    "kb": "kb kilobytes?", "mb": "mb megabytes?", "gb": "gb gigabytes?", "w": "w watts?", "v": "v volts?",
    "dollar": "\\$ usd dollars?", "euro": "€ eur euros?",
    "yen": "¥ jpy yen", "rupee": "₹ rs inr rupees?", "cent": "¢ cents?",
}  # fmt: skip
"""Unit -> its spellings, patterns in lower case."""

_SPELLINGS = sorted(
    ((spelling, unit) for unit, spellings in _UNITS.items() for spelling in spellings.split()),
    key=lambda pair: -len(pair[0]),
)
_CURRENCIES = {
    "$": "dollar",
    "us$": "dollar",
    "usd": "dollar",
    "€": "euro",
    "eur": "euro",
    "£": "pound",
    "gbp": "pound",
}
_CURRENCIES |= {"¥": "yen", "₹": "rupee", "rs": "rupee", "rs.": "rupee"}
_DIGITS = r"\d+(?:,\d{3})*(?:\.\d+)?"
_WORDS = rf"(?:{'|'.join(TENS)})(?:[\s-](?:{'|'.join(ONES[1:10])}))?|{'|'.join(TEENS + ONES)}"
_NUMBER = rf"(?:{_DIGITS}|\b(?:{_WORDS})\b)"
_PREFIXED = re.compile(
    rf"(?<!\w)({'|'.join(map(re.escape, sorted(_CURRENCIES, key=len, reverse=True)))})\s?({_DIGITS})"
)
_MEASURED = re.compile(
    rf"(?<![\w.])(-?{_NUMBER})(?:\s|-(?=[a-z]))?(?:{'|'.join(f'({spelling})' for spelling, _ in _SPELLINGS)})(?![\w²^])"
)
_MONTHS = "january february march april may june july august september october november december".split()  # noqa: SIM905
_MONTH_NAMES = "|".join(f"{name[:3]}(?:{name[3:]})?" for name in _MONTHS)
_MONTH = rf"(?P<month>{_MONTH_NAMES}|sept)\b\.?"
_DAY = r"(?P<day>[0-3]?\d)(?:st|nd|rd|th)?\b"
_YEAR = r"(?P<year>[12]\d{3})\b"
_DATES = (
    re.compile(rf"\b{_MONTH}\s+(?:the\s+)?{_DAY}(?:,?\s+{_YEAR})?"),
    re.compile(rf"\b(?:the\s+)?{_DAY}\s+(?:of\s+)?{_MONTH}(?:,?\s+{_YEAR})?"),
    re.compile(rf"\b{_YEAR}[-/.](?P<month>[01]?\d)[-/.](?P<day>[0-3]?\d)\b"),
)
_NUMERIC_DATE = re.compile(rf"\b(\d\d?)([/.])(\d\d?)\2{_YEAR}")
_HOURS = rf"(?P<hour>[01]?\d|2[0-3]|\b(?:{'|'.join(DIGITS)}|eleven|twelve))"
_TIMES = (
    re.compile(rf"{_HOURS}(?:[:.](?P<minute>[0-5]\d))?(?::00)?\s?(?P<half>[ap])\.?m\b\.?"),
    re.compile(rf"{_HOURS}:(?P<minute>[0-5]\d)(?::00)?\b"),
    re.compile(rf"{_HOURS}\s+o'?\s?clock\b"),
    re.compile(
        rf"\b(?!\d+\s+(?:to|before)\s+\d)(?P<part>half|(?:a\s+)?quarter|\d+|{_WORDS})(?:\s+minutes?)?"
        rf"\s+(?P<side>past|after|to|before)\s+{_HOURS}\b"
    ),
)
_FRACTION = re.compile(r"(?<![\w/.])(\d+)\s?/\s?(\d+)(?![\w/]|\.\d)")
_PARTS = {"half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4, "fourths": 4}
_PARTS |= {"fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6, "eighth": 8, "eighths": 8, "tenth": 10, "tenths": 10}
_SPOKEN_FRACTION = re.compile(rf"\b(a|{'|'.join(DIGITS)})[\s-]({'|'.join(_PARTS)})\b(?!\s+(?:past|to|dozen))")


@lru_cache(CACHE_ENTRIES)
def canonical_quantities(text: str) -> str:
    """The text in lower case, with its quantities, dates and clock times in one spelling."""
    text = multiples_in_digits(text.lower().replace("⁄", "/"))
    for pattern in _DATES:
        text = pattern.sub(_date, text)
    text = _NUMERIC_DATE.sub(_numeric_date, text)
    for pattern in _TIMES:
        text = pattern.sub(_time, text)
    text = _PREFIXED.sub(lambda match: _quantity(match[2], _CURRENCIES[match[1]]), text)
    text = _MEASURED.sub(_measured, text)
    text = _SPOKEN_FRACTION.sub(lambda match: _ratio(_plain(match[1]), _PARTS[match[2]]), text)
    return _FRACTION.sub(lambda match: _ratio(match[1], int(match[2])), text)


def _plain(number: str) -> str:
    """A number without separators and needless zeros."""
    return f"{parse_numbers(number)[0]:.10g}" if number != "a" else "1"


def _quantity(number: str, unit: str) -> str:
    return f"{_plain(number)} {unit}".replace("-", "minus ")


def _measured(match: re.Match[str]) -> str:
    place = next(i for i, spelling in enumerate(match.groups()[1:]) if spelling)
    return _quantity(match[1], _SPELLINGS[place][1])


def _ratio(above: str, below: int) -> str:
    return f"{int(above) / below:.6g}" if below else f"{above}/{below}"


def _date(match: re.Match[str]) -> str:
    month = match["month"]
    number = int(month) if month.isdigit() else 1 + next(i for i, name in enumerate(_MONTHS) if name[:3] == month[:3])
    return f"date{match['year'] or ''}{number:02d}{int(match['day']):02d}"


def _numeric_date(match: re.Match[str]) -> str:
    numbers = sorted((int(match[1]), int(match[3])))
    is_clear = numbers[0] <= 12 < numbers[1] or numbers[0] == numbers[1]
    return f"date{match['year']}{numbers[0]:02d}{numbers[1]:02d}" if is_clear else match[0]


def _time(match: re.Match[str]) -> str:
    parts = match.groupdict()
    hour, minute = int(_plain(parts["hour"])), int(parts.get("minute") or 0)
    if part := parts.get("part"):
        minute = 30 if part == "half" else 15 if part.endswith("quarter") else int(_plain(part))
        if parts["side"] in ("to", "before"):
            hour, minute = hour - 1 or 12, 60 - minute
    if half := parts.get("half"):
        hour = hour % 12 + (12 if half == "p" else 0)
    return f"time{hour:02d}{minute:02d}"
