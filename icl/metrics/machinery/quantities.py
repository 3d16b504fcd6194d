"""Quantities, dates and clock times in one spelling: "50 meters" and "50 m", "July 4, 2021" and "2021-07-04".

The words of a text that write a quantity are replaced; all others stay. Units are not converted: 1 km is not 1000 m.
Numeric dates such as 7/4/2021 stay, because their order is ambiguous; 12/25/2021 has one reading. "10 to 12"
stays too: it is a range or a score.
"""

import re
from functools import lru_cache

from icl.metrics.normalize import CACHE_ENTRIES, DIGITS, ONES, TEENS, TENS, parse_numbers

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


# The number that an answer states: its result or total, else its first number.
#
# A range, an alternative and "more than" state none. The number of an image, an example or an option ("image 5") and
# an ordinal are names and no counts. (VL-ICL cuts at the first full stop and drops the sign; this does neither.)

_RANGE = re.compile(
    r"\d\s*(?:-|–|—|\bto\b|\bor\b)\s*\d|\bbetween\b[^.;]*\band\b|\beither\b"
    rf"|\b(?:or|to)\b\s+(?:\w+\s+)?(?:\d|(?:{'|'.join(ONES[2:] + TEENS + TENS)})\b)"
)
_NOTHING = re.compile(
    r"^(?:in (?:the|this) (?:image|picture|photo|scene),? )?(?:there (?:is|are) )?(?:no|none|zero|nothing)\b"
    r"|^there (?:are|is)n't any\b"
    r"|^\w+(?: \w+)? (?:has|have|shows?|contains?) no\b",
    re.IGNORECASE,
)
_CONDITIONS = re.compile(r"\bif\b[^;.]{0,200}[;.][^;.]{0,40}\bif\b", re.IGNORECASE)
_INEXACT = re.compile(
    r"\b(?:(?:more|less|fewer|greater|other) than|at least|at most|over|under|up to) "
    r"(?:\d|one|two|three|four|five|ten|a )"
    r"|\b(?:\d+|one|two|three|four) (?:quarters?|thirds?|fifths?|halves)\b"
    r"|(?<![|\w/])[<>≤≥]\s*\d|^(?:it's |it is )?not \w+$|\d\s*/\s*\d|,\s*(?:maybe|perhaps|possibly)\s+(?:even\s+)?\w+$",
    re.IGNORECASE,
)
_RESULT = re.compile(
    r"=|≈|\bi\.e\.|\b(?:equals?(?:\s+to)?|makes?|namely|totals?|totaling|adds?\s+up\s+to|comes?\s+to|results?\s+in)\b"
    r"|\b(?:increased|decreased|grew|fell|dropped|rose|differ|differs)\s+by\b|\b(?:together|combined|altogether)\b(?!\s+with)|\btotal\s+(?:(?:number|count|amount)\s+)?(?:of\s+(?:\w+\s+){0,2}is|of|is)\b",
    re.IGNORECASE,
)
_ARITHMETIC = re.compile(
    r"\d\s*(?:[+*/×÷x−-]|divided\s+by|and)\s*\d|\b(?:plus|minus|times|sum|product|difference|gap|quotient|average|result|add\w*|subtract\w*"
    r"|multipl\w+|divid\w+|each|(?:rows|groups|sets|columns)\s+of)\b",
    re.IGNORECASE,
)
_GIVES = re.compile(r"\b(?:is|are|gives|yields|becomes|get|gets|have|leaves|giving|leaving|making)\b", re.IGNORECASE)
_SUM = re.compile(
    r"(?<![\w,.-])[\w,.-]+(?=\s+(?:\w+\s+){0,2}?(?:in\s+total|altogether|in\s+all|(?:is|are)\s+left|remain(?:s|ing)?)\b)",
    re.IGNORECASE,
)
_GROUPED = re.compile(r"(?<![\d.,])(\d{1,3})((?:[ \u00a0\u202f]\d{3})+)(?![\d.,]\d|\d)")
_DOZEN = (
    (re.compile(r"\bhalf (?:a )?dozen\b", re.IGNORECASE), "6"),
    (re.compile(r"\b(?:a|one) dozen\b", re.IGNORECASE), "12"),
)
_CHINESE = re.compile(r"[一二两三四五六七八九十]+(?=[个只名位条张本件头匹辆艘架棵朵枚块つ人台個隻]|[。.!]?$)")
_CHINESE_DIGITS = {digit: value for value, digit in enumerate("一二三四五六七八九", 1)} | {"两": 2}

_MULTIPLE = re.compile(r"\b(\d+(?:\.\d+)?)\s+(hundred|thousand|million|billion)\b", re.IGNORECASE)
_COUNTED = re.compile(rf"\b(a|{'|'.join(ONES[1:])})(?=\s+(?:hundred|thousand|million|billion)\b)", re.IGNORECASE)
_SIZES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_COUNTING = re.compile(r"(?<!\d)1,\s*2(?:,\s*\d+)+(?!,?\d)")
_LATER = re.compile(
    r",\s+(?:after|following|up\s+from|down\s+from|compared|while|whereas|unlike|before)\b", re.IGNORECASE
)
_POINT = re.compile(r"(?<![\w.])\.(?=\d)")
_NUMERAL = rf"(?:\d+|{'|'.join(ONES + TEENS + TENS)})\b(?![.,]\d)"
_NAMED = (
    r"(?<!\bthis )(?<!\bthese )\b(?:images?|imgs?\.?|pictures?|photos?|photographs?|figures?|fig\.?|frames?|panels?"
    r"|screenshots?|slides?|examples?|demonstrations?|options?|choices?|quer(?:y|ies)|questions?)"
    rf"[\s_-]*(?:no\.?|number)?\s*[(#]*\s*{_NUMERAL}\)?"
    rf"(?:(?:\s*(?:,|&|-|–|\bto\b|\band\b|\bor\b)+\s*){_NUMERAL}(?!\s+[a-z]))*"
)
_SEVERAL_NAMED = (
    r"\b(?:images|pictures|photos|figures|frames|panels|examples|demonstrations|options|questions)"
    rf"\s*{_NUMERAL}(?:\s*(?:&|-|–|\bto\b|\band\b|\bor\b)\s*{_NUMERAL})+"
)
_LABEL = r"^\W*[a-z]+[\s_-]*\d+\s*:(?=[^:]*\d)"
_NAME = re.compile(
    rf"{_LABEL}|(?:{_SEVERAL_NAMED}|{_NAMED})(?=\W*\w)|(?:(?<=\bin )|(?<=\bof )|(?<=\bfor ))(?:the )?{_NAMED}",
    re.IGNORECASE,
)
"""A number that names something, except at the end of a sentence that says which one it is ("it is image 5").

A word and a number before a colon are the label of what follows ("Step 5: 7").
"""

_ORDINAL = re.compile(r"\b\d+(?:st|nd|rd|th)\b")

MAX_SIGNS = 50
"""So many signs of a result are read, from the end: a loop of a base model has thousands."""


def stated_number(text: str) -> float | None:
    """The number that a text states; None without one, for a range, for alternatives, and for "more than"."""
    text = _in_digits(text)
    text = _NAME.sub("it", text)
    text = plain if parse_numbers(plain := _ORDINAL.sub("", text)) else text
    if _CONDITIONS.search(text):
        return None
    signs = [*_RESULT.finditer(text), *(_GIVES.finditer(text) if _ARITHMETIC.search(text) else ())]
    ends = sorted((match.end() for match in signs), reverse=True)[:MAX_SIGNS]
    result = next((end for end in ends if parse_numbers(text[end:])), None)
    sums = [match[0] for match in _SUM.finditer(text) if parse_numbers(match[0])]
    text = re.split(r"[,;]\s", text[result:].lstrip(" ,:"))[0] if result is not None else sums[-1] if sums else text
    values = parse_numbers(text)
    if not values:
        return 0.0 if _NOTHING.match(text) else None
    before = _LATER.split(text)[0]
    if before != text and len(set(parse_numbers(before))) == 1:
        text, values = before, parse_numbers(before)
    inexact = _INEXACT.search(text) is not None or (len(set(values)) > 1 and _RANGE.search(text) is not None)
    return None if inexact else values[0]


def multiples_in_digits(text: str) -> str:
    """The text with "3.5 million" and "a hundred" as plain digits."""
    text = _COUNTED.sub(lambda match: DIGITS.get(match[1].lower(), "1"), text)
    return _MULTIPLE.sub(lambda match: f"{float(match[1]) * _SIZES[match[2].lower()]:.0f}", text)


def _in_digits(text: str) -> str:
    """The text with dozens, millions, Chinese numbers, groups of digits, "1, 2, 3" and '.5' as one number each."""
    text = _GROUPED.sub(lambda match: match[0].replace(" ", "").replace("\u00a0", "").replace("\u202f", ""), text)
    text = _COUNTING.sub(lambda match: match[0].rpartition(",")[2], _POINT.sub("0.", text))
    text = multiples_in_digits(text)
    for pattern, digits in _DOZEN:
        text = pattern.sub(digits, text)
    return text if re.search(r"\d", text) else _CHINESE.sub(lambda match: str(_chinese(match[0])), text)


def _chinese(text: str) -> int:
    tens, ten, ones = text.rpartition("十")
    return (_CHINESE_DIGITS.get(tens, 1) * 10 if ten else 0) + _CHINESE_DIGITS.get(ones, 0)
