"""Two normalizations of answers: `normalize_text`, which ignores case and a final full stop, and the official VQA rule.

`normalize_vqa` follows the evaluation script of VQA (Antol et al., ICCV 2015; also in OpenFlamingo), including its
known quirks. It is always applied, while the script skips it if all annotators agree:

- A punctuation mark is deleted if it touches a blank anywhere in the answer, or if the answer contains digit,digit.
  Otherwise it becomes a blank. Full stops are deleted unless a digit follows, and only the first 32 of them (the script
  passes a flag as the count).
- Number words from none and zero to ten become digits.
- The articles a, an, the are removed. Contractions get their apostrophe.

It loses the sign of "-3", so numbers are compared by `parse_numbers` instead.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

CACHE_ENTRIES = 4096
"""Size of the cache: a run compares the same few hundred answers and options again and again."""

PUNCTUATION = (";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!")
FULL_STOPS = 32
ARTICLES = ("a", "an", "the")
ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
TEENS = ("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
DIGITS = {word: str(i) for i, word in enumerate(ONES)} | {"none": "0"}

_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
there'd've there're there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll
what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's
won't would've wouldn't wouldn't've 'ow's'at 'twas y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


CONTRACTIONS = {
    word[:i] + word[i + 1 :]: word for word in _CONTRACTED.split() for i, letter in enumerate(word) if letter == "'"
}
CONTRACTIONS["somebody'd"] = "somebodyd"  # reversed in the script's table
"""dont -> don't, couldnt've -> couldn't've. The script's keys with a capital never match and are left out."""

_VALUES = {word: i for i, word in enumerate(ONES + TEENS)} | {word: 10 * i for i, word in enumerate(TENS, 2)}
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w.])[-−](?=\d)|\b(?:minus|negative)\s+)?"
    r"(?:(?P<digits>\d+(?:,\d{3})*(?:\.\d+)?)"
    rf"|\b(?P<tens>{'|'.join(TENS)})(?:[-\s](?P<one>{'|'.join(ONES[1:10])}))?\b"
    rf"|\b(?P<word>{'|'.join(TEENS + ONES)})\b)"
)


@lru_cache(CACHE_ENTRIES)
def normalize_text(text: str) -> str:
    """The text in Unicode NFKC and lower case, with single blanks and without a final full stop."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.removesuffix(".").rstrip()


def is_accepted(text: str, answers: Iterable[str]) -> bool:
    """Whether the text equals one of the accepted answers, both normalized."""
    return normalize_text(text) in map(normalize_text, answers)


@lru_cache(CACHE_ENTRIES)
def normalize_vqa(text: str) -> str:
    """The official VQA normalization of one answer."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    crowded = re.search(r"\d,\d", text) is not None
    result = text
    for mark in PUNCTUATION:
        touches = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if touches or crowded else " ")
    result = re.sub(r"\.(?!\d)", "", result, count=FULL_STOPS)
    words = [DIGITS.get(word, word) for word in result.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


@lru_cache(CACHE_ENTRIES)
def parse_numbers(text: str) -> tuple[float, ...]:
    """All numbers of a text with their signs, in digits or in words up to ninety-nine."""
    return tuple(map(_value, _NUMBER.finditer(unicodedata.normalize("NFKC", text).casefold())))


def _value(match: re.Match[str]) -> float:
    if match["digits"]:
        size = float(match["digits"].replace(",", ""))
    else:
        size = float(sum(_VALUES[match[part]] for part in ("tens", "one", "word") if match[part]))
    return -size if match["sign"] else size


def is_number(text: str) -> bool:
    """Whether the whole text is one number."""
    return _NUMBER.fullmatch(normalize_text(text)) is not None
