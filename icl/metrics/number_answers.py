"""The number that an answer states: its result or total, else its first number.

A range, an alternative and "more than" state none. The number of an image, an example or an option ("image 5") and an
ordinal are names and no counts. (VL-ICL cuts at the first full stop and drops the sign; this does
neither.)
"""

import re

from icl.metrics.normalize import DIGITS, ONES, TEENS, TENS, parse_numbers

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
