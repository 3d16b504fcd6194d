"""Reading an answer with certainty: an output is right, wrong, or unread.

The phrase rules of `lenient` read every output, and their errors differ from one wording to another. This reader
abstains instead. A misreading can cause a false claim, but an unread output costs only a label, so a rule stands here
only if it leaves no choice:

1. Reasoning, end tokens and a next question do not count. An output without words is wrong. An output that takes
   something back ("wait", "actually") is unread.
2. One marked answer counts: a tag, a box, a JSON key, "Answer: x", "the answer is x", the only bold text. Two different
   marked answers are unread.
3. An accepted answer is right. Another option is wrong, and so is the answer to another query of the task; with options
   only if it is one word that is no part of an accepted answer. A bare number is compared as a number.
4. A letter of an option, alone or with its text. If letter and text disagree, the output is unread. A letter or number
   beyond the last option is wrong.
5. Yes or no: the first word, if it stands by itself and no other of yes, no, true, false, not or but follows.
6. A text that names exactly one option, or has exactly one number, and no word of `_GUARD`.
7. A text that names options but no accepted one in any spelling is wrong, and so is a text without a number where a
   number is the answer.
8. Without options a text of at most `OPEN_WORDS` words that resembles no accepted answer is wrong.

A score of a metric with `reads_answers` counts as read if this reader agrees with it (`unread_metrics`). Other metrics
are their own rule and have no unread outputs. No released code.
"""

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from string import ascii_lowercase

from icl.metrics.base import Metric
from icl.metrics.normalize import ONES
from icl.option_listing import in_texts
from icl.text.folding import fold
from icl.text.reasoning_blocks import split_reasoning
from icl.types import Example, Generation

READER_REVISION = 1
"""Raise it when an output may be read differently: `icl run` then reads stored answers again."""

CACHE_ENTRIES = 4096
"""Size of the cache: a run compares the same few hundred answers again and again."""

OPEN_WORDS = 3
"""The longest open answer that is called wrong because it resembles no accepted answer."""

RESEMBLANCE = 0.5
"""The ratio of `difflib` from which a text may be another spelling of an answer."""

NEAR = 30
"""The number of characters after an option's text in which a denial makes a letter uncertain."""

_NEXT = re.compile(r"\n\s*(?:(?:question|q|user|human|image|input|example)\s*\d*\s*[:.]|#{2,}|<)", re.IGNORECASE)
_MARKS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL if "answer>" in pattern else re.IGNORECASE)
    for pattern in (
        r"<answer>(.*?)(?:</answer>|$)",
        r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}",
        r'"(?:answer|final_answer|label|choice|prediction|output|response)"\s*:\s*("[^"]*"|-?[\d.]+|true|false)',
        r"(?:^|\n)\W*(?:the\s+)?(?:final\s+|correct\s+)?answer\W*:\W*?(.+?)\s*(?=\n|$)",
        r"\b(?:the|my) (?:final |correct |best )?(?:answer|label|choice|option(?: letter)?)(?: to choose)? is:?\s+"
        r"(.+?)(?=[.!]?\s*(?:\n|$)|[.!]\s)",
        r"\*\*(?![^*]*:\*\*)([^*\n]+)\*\*(?!\s*:)",
    )
)
_TAKES_BACK = re.compile(
    r"\b(?:wait|actually|correction|scratch that|second thought|hmm|closer (?:look|inspection)|double-check|check again"
    r"|oops|i mean)\b|~~",
    re.IGNORECASE,
)
_GUARD = re.compile(
    r"\b(?:not|no|none|never|neither|nor|or|either|both|and|but|unlike|instead|rather|than|except|without|maybe|perhaps"
    r"|possibly|might|may|could|would|if|first|second|third|last|wait|actually|however|although|though|while|looks?"
    r"|like|similar|kind|type|least|most|about|around|over|under|image|picture|figure|example|between|to|hard|difficult"
    r"|unsure|cannot|sorry|unable|only|minus|negative|half|halves|quarters?|thirds?|fourths?|dozen|hundred|thousand"
    r"|million|billion|percent|\w+teen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|kein\w*|pas|nicht|niet)\b"
    r"|n't\b|[?~{}<>=\\/+€£¥]|\d\s*[-–]\s*\d",
    re.IGNORECASE,
)
"""Words and signs that may change what a text says. The list is frozen: it may grow, but no word may leave it."""

_DENIES = re.compile(
    r"\b(?:not|no|none|never|neither|nor|other|all|both|former|latter|first|second|third|fourth|last|rule|eliminat\w*"
    r"|exclud\w*)\b|n't\b",
    re.IGNORECASE,
)
_NUMERIC = re.compile(
    r"\d|\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|\w+ty|no|none|nothing|any"
    r"|hundred|thousand|single|pair|both|couple|dozen|half|once|twice|[vx]|[ivx]{2,})\b",
    re.IGNORECASE,
)
"""What may state a number in some way."""

_DIGITS = re.compile(r"(?<![\w.])[-−]?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)%?(?![\w])")
_BARE_NUMBER = re.compile(r"[-−$]?\$?(?:\.\d+|\d[\d,.]*)%?")
_NUMBER_ANSWER = re.compile(r"[-−]?\$?[\d,.]+%?|[a-z]+")
_INTEGER = re.compile(r"[1-9]\d{0,8}")
_WORD = re.compile(r"[^\W\d_]{3,}")
_LETTER = re.compile(r"(?:option\s+)?[(\[]?([a-z])[)\].:]*(?:\s+(.+))?")
_MARKED_LETTER = re.compile(r"(?:option\s+)?[(\[]?\w[)\].:]")
_LONE_LETTER = re.compile(r"(?<![\w'])[B-HJ-Z](?![\w'])|[(\[]\w[)\]]|^\W*A\W*[.):]")
_BINARY = frozenset({"yes", "no", "true", "false"})
_TURNS = _BINARY | {"not", "but", "wait", "actually", "however", "and", "or", "idea"}
_NUMBERS = (*ONES, "eleven", "twelve")


@lru_cache(CACHE_ENTRIES)
@lru_cache(CACHE_ENTRIES)
def read_output(
    output: str, answers: tuple[str, ...], options: tuple[str, ...] = (), other_answers: frozenset[str] = frozenset()
) -> bool | None:
    """Whether an output gives an accepted answer; None if the reader is not certain.

    Args:
        output: What the model wrote.
        answers: The accepted answers.
        options: The texts of the options, in the order of their letters.
        other_answers: The folded answers to all queries of the task, and their options (`folded_answers`).
    """
    raw = _answer_text(output)
    if not raw:
        return None if raw is None else False
    text, accepted = fold(raw), frozenset(map(fold, answers))
    offered = tuple(dict.fromkeys(map(fold, options))) or (("yes", "no") if accepted <= {"yes", "no"} else ())
    if text in accepted or text in (offered or other_answers):
        return text in accepted
    is_other = text in other_answers and _WORD.fullmatch(text) is not None
    if offered and (
        _is_beyond(text, offered) or (is_other and not any(text in one or one in text for one in accepted))
    ):
        return False
    is_bare = _BARE_NUMBER.fullmatch(text) is not None
    if is_bare and (value := _number(text)) is not None and all(map(_BARE_NUMBER.fullmatch, accepted)):
        return value in map(_number, accepted)
    if offered:
        return _read_option(text, raw, accepted, offered)
    golds = [value for value in map(_number, accepted) if value is not None]
    is_number = golds and all(map(_NUMBER_ANSWER.fullmatch, accepted))
    return _read_number(text, golds) if is_number else False if _is_unlike(text, accepted) else None


def folded_answers(examples: Iterable[Example]) -> frozenset[str]:
    """The folded answers and options of examples: what answers another query of the task does not answer this one."""
    return frozenset(fold(text) for example in examples for text in (*example.answers, *example.options))


def unread_metrics(
    metrics: Mapping[str, Metric],
    scores: Mapping[str, float],
    generation: Generation,
    example: Example,
    other_answers: frozenset[str],
) -> tuple[str, ...]:
    """The names of the metrics whose score of this output is not certain.

    That is a metric with `reads_answers` where the reader abstains, or an accuracy that the reader contradicts. An
    answer by option scores is the option itself, so it is read.
    """
    names = [name for name in scores if getattr(metrics[name], "reads_answers", False)]
    if not names:
        return ()
    plain = in_texts(example)
    reading = read_output(generation.text, plain.answers, plain.options, other_answers)
    return tuple(
        name
        for name in names
        if reading is None or (getattr(metrics[name], "accuracy", False) and scores[name] != reading)
    )


def _answer_text(output: str) -> str | None:
    """The part of an output that holds the answer: '' if there is none, None if it is not certain (rules 1 and 2)."""
    text = split_reasoning(output).answer.strip()
    text = _NEXT.split(text)[0].strip() or text
    if not re.search(r"\w", unicodedata.normalize("NFKC", text)):
        return ""
    if _TAKES_BACK.search(text):
        return None
    for mark in _MARKS:
        values = {fold(value): value for value in mark.findall(text)}
        values.pop("", None)
        if values:
            return next(iter(values.values())) if len(values) == 1 else None
    return text


def _number(text: str) -> float | None:
    """The only number of a text; None without one or with several."""
    matches = _DIGITS.findall(text)
    words = [_NUMBERS.index(word) for word in re.findall(r"[a-z]+", text.lower()) if word in _NUMBERS]
    if len(matches) == 1:
        return float(re.sub(r"[$,%]", "", matches[0]).replace("−", "-"))
    return float(words[0]) if not matches and len(words) == 1 else None


def _read_number(text: str, golds: Collection[float]) -> bool | None:
    """By the rules 6 and 7."""
    if text.isascii() and not _NUMERIC.search(text):
        return False
    value = _number(text)
    is_plain = _BARE_NUMBER.fullmatch(text) is not None or not _GUARD.search(text)
    return value in golds if value is not None and is_plain else None


def _names(text: str, options: Iterable[str]) -> set[str]:
    """The options that a text names, as whole words; of two that overlap the longer one."""
    named, rest = set(), text
    for option in sorted(filter(None, options), key=len, reverse=True):
        words = re.escape(option)
        rest, count = re.subn(rf"(?<![\w'-]){words}(?![\w'-])" if option.isascii() else words, " \0 ", rest)
        if count:
            named.add(option)
    return named


def _resembles(text: str, answer: str) -> bool:
    """Whether a text may be an answer in another spelling, or with more or fewer words."""
    near = difflib.SequenceMatcher(None, text, answer).ratio() >= RESEMBLANCE
    both_numeric = re.search(r"\d", text) is not None and re.search(r"\d", answer) is not None
    return near or answer in text or text in answer or not answer.isascii() or both_numeric


def _is_unlike(text: str, accepted: Collection[str]) -> bool:
    """Whether a short text is certainly none of the accepted answers (rule 8)."""
    is_plain = len(text.split()) <= OPEN_WORDS and text.isascii() and not _GUARD.search(text)
    return is_plain and not any(_resembles(text, answer) for answer in accepted)


def _read_option(text: str, raw: str, accepted: frozenset[str], offered: tuple[str, ...]) -> bool | None:
    """By the rules 4 to 7. text: the folded answer. raw: the answer as the model wrote it."""
    lettered = all(len(option) == 1 for option in offered)
    if not lettered and len(set(re.findall(r"\(([A-Z])\)", raw))) == 1:
        before, letter, after = re.split(r"\(([A-Z])\)", raw)[:3]
        place = ascii_lowercase.index(letter.lower())
        if place < len(offered) and fold(after).startswith(offered[place]) and not _denied(before):
            return _read_named_letter(fold(after), after, place, accepted, offered)
    if (chosen := _lettered_option(text, offered, lettered=lettered)) is not None:
        is_article = raw.strip() == "a" and not lettered
        return None if is_article and chosen in accepted else chosen in accepted
    if set(offered) <= _BINARY:
        return _read_binary(text, accepted, offered)
    if lettered or not text.isascii() or _LONE_LETTER.search(raw):
        return None
    return _read_names(text, accepted, offered)


def _is_beyond(text: str, offered: tuple[str, ...]) -> bool:
    """Whether a text is a letter, or a number, beyond the last option, and no option is a letter or has a number."""
    if any(len(option) == 1 or _NUMERIC.search(option) for option in offered):
        return False
    place = ascii_lowercase.find(text) if len(text) == 1 else int(text) - 1 if _INTEGER.fullmatch(text) else -1
    return place >= len(offered)


def _lettered_option(text: str, offered: tuple[str, ...], *, lettered: bool) -> str | None:
    """The option that a text chooses by its letter, alone or with its text. None without one, or if they disagree."""
    match = _LETTER.fullmatch(text)
    is_letter = match is not None and (lettered or _MARKED_LETTER.match(text) or " " not in text)
    if match is None or not is_letter:
        return None
    place = ascii_lowercase.index(match[1])
    chosen = match[1] if lettered else offered[place] if place < len(offered) else None
    agrees = not match[2] or (not lettered and fold(match[2]) == chosen)
    return chosen if chosen in offered and agrees else None


def _read_names(text: str, accepted: frozenset[str], offered: tuple[str, ...]) -> bool | None:
    """By the rules 6 and 7, from the options that a text names."""
    named = _names(text, offered)
    if not named:
        has_other = re.search(r"\d|\b[a-z]\b", text) is not None  # a letter or the number of an option
        return False if not has_other and _is_unlike(text, accepted) else None
    if not named & accepted and not _DENIES.search(text):
        is_absent = not any(_resembles(word, answer) for word in text.split() for answer in accepted)
        if is_absent:  # whatever it says of these options: the accepted one is not there
            return False
    return named <= accepted if len(named) == 1 and not _GUARD.search(text) else None


def _denied(before: str) -> bool:
    return _DENIES.search(before.rpartition(".")[2]) is not None


def _read_named_letter(
    name: str, after: str, place: int, accepted: frozenset[str], offered: tuple[str, ...]
) -> bool | None:
    """A letter in parentheses with the text of its option: "... is (B) 45 degrees"."""
    option = offered[place]
    is_longer = any(other != option and other.startswith(option) and name.startswith(other) for other in offered)
    if is_longer or (option != "no" and _DENIES.search(after[: len(option) + NEAR])):
        return None
    return option in accepted


def _read_binary(text: str, accepted: frozenset[str], offered: tuple[str, ...]) -> bool | None:
    """By the rule 5."""
    first, *others = re.findall(r"\w+", text) or [""]
    is_alone = re.match(r"\w+(?!\s*\w)", text) is not None  # "no image was attached" is no answer
    is_clear = first in offered and is_alone and not _TURNS & set(others) and "n't" not in text and "?" not in text
    return first in accepted if is_clear else None
