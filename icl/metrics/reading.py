"""Reading an answer with certainty: an output is right, wrong, or unread.

The phrase rules of `lenient` read every output, and their errors differ from one wording to another. This reader
abstains instead. A misreading can cause a false claim, but an unread output costs only a label, so a rule stands here
only if it leaves no choice:

1. Reasoning, end tokens and a next question do not count. An output without words is wrong. An output that takes
   something back ("wait", "actually") is unread.
2. One marked answer counts: a tag, a box, a JSON key, "Answer: x", "the answer is x", or the only bold text if it ends
   a bare clause (rule 6). Two different marked answers are unread.
3. An accepted answer is right. Another option is wrong, and so is the answer to another query of the task; with options
   only if it is one word that is no part of an accepted answer. A bare number is compared as a number.
4. A letter of an option, alone or with its text. If letter and text disagree, the output is unread. A letter or number
   beyond the last option is wrong.
5. Yes or no: the first word, if it stands by itself and no other of yes, no, true, false, not or but follows.
6. One bare clause around exactly one option, or one number: all its other words are of the closed class `_PLAIN`, or
   of the question ("There are 7 dogs"), and before it stands an article, or a copula ("photo 7" is no answer).
7. A bare clause around several options, none of them accepted, is wrong, and so is one word that resembles none.
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
from icl.text.json_text import fold
from icl.text.reasoning_blocks import split_reasoning
from icl.types import Example, Generation

READER_REVISION = 3
"""Raise it when an output may be read differently: `icl run` then reads stored answers again."""

CACHE_ENTRIES = 4096
"""Size of the cache: a run compares the same few hundred answers again and again."""

OPEN_WORDS = 3
"""The longest open answer that is called wrong because it resembles no accepted answer."""

RESEMBLANCE = 0.5
"""The ratio of `difflib` from which a text may be another spelling of an answer."""

_NEXT = re.compile(r"\n\s*(?:(?:question|q|user|human|image|input|example)\s*\d*\s*[:.]|#{2,}|<)", re.IGNORECASE)
_MARKS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL if "answer>" in pattern else re.IGNORECASE)
    for pattern in (
        r"<answer>(.*?)(?:</answer>|$)",
        r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}",
        r'"(?:answer|final_answer|label|choice|prediction|output|response)"\s*:\s*("[^"]*"|-?[\d.]+|true|false)',
        r"(?:^|\n)\W*(?:the\s+)?(?:final\s+|correct\s+)?answer\W*:\W*?(.+?)\s*(?=\n|$)",
        r"(?:^|[.,!:\n]\s*)(?:(?:so|thus|therefore|hence),? )?(?:the|my) (?:final |correct |best )?"
        r"(?:answer|label|choice|option(?: letter)?)(?: to choose)? is:?\s+(.+?)(?=[.!]?\s*(?:\n|$)|[.!]\s)",
        r"\*\*(?![^*]*:\*\*)([^*\n]+)\*\*(?!\s*:)",
    )
)
_TAKES_BACK = re.compile(
    r"\b(?:wait|actually|correction|scratch that|second thought|hmm|closer (?:look|inspection)|double-check|check again"
    r"|oops|i mean)\b|~~",
    re.IGNORECASE,
)
_SUBJECT_AND_COPULA = re.compile(
    r"(?:.+ (?:is|are)|(?:.+ )?(?:it's|that's|there's|there're|they're|(?:i|we) (?:see|count)))"
)
"""What may stand before an answer, perhaps with an article between them: a subject and a copula."""
_LABELS = frozenset(("answer", "count", "label", "number", "output", "prediction", "result", "total", "value"))
"""What may stand before an answer with a colon."""
_PLAIN = frozenset(
    [
        "i",
        "we",
        "my",
        "it",
        "it's",
        "this",
        "that",
        "that's",
        "these",
        "those",
        "there",
        "there's",
        "there're",
        "they",
        "they're",
        "here",
        "is",
        "are",
        "see",
        "count",
        "in",
        "of",
        "on",
        "option",
        "a",
        "an",
        "the",
    ]
).union(_LABELS)
"""The only words besides those of the question that may stand around an answer. Any other word may deny it."""
_ASKS = frozenset({"what", "which", "how", "who", "whose", "where"})

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
_PHRASE = re.compile(r"[a-z0-9 .,'-]+")
_LETTER = re.compile(r"(?:option\s+)?[(\[]?([a-z])[)\].:]*(?:\s+(.+))?")
_MARKED_LETTER = re.compile(r"(?:option\s+)?[(\[]?\w[)\].:]")
_LONE_LETTER = re.compile(r"(?<![\w'])[B-HJ-Z](?![\w'])|[(\[]\w[)\]]|^\W*A\W*[.):]")
_BINARY = frozenset({"yes", "no", "true", "false"})
_TURNS = _BINARY | {"not", "but", "wait", "actually", "however", "and", "or", "idea"}
_NUMBERS = (*ONES, "eleven", "twelve")
_NUMBER_WORD = re.compile(rf"\b(?:{'|'.join(_NUMBERS)})\b")
_LIST = re.compile(r"\0(?:(?:\s*,)?\s*(?:(?:and|or)\s+)?(?:an?\s+|the\s+)?\0)+")


@lru_cache(CACHE_ENTRIES)
def read_output(
    output: str,
    answers: tuple[str, ...],
    options: tuple[str, ...] = (),
    other_answers: frozenset[str] = frozenset(),
    question: str = "",
) -> bool | None:
    """Whether an output gives an accepted answer; None if the reader is not certain.

    Args:
        output: What the model wrote.
        answers: The accepted answers.
        options: The texts of the options, in the order of their letters.
        other_answers: The folded answers to all queries of the task, and their options (`folded_answers`).
        question: The question of the query, whose words an answer may repeat.
    """
    accepted = frozenset(map(fold, answers))
    offered = tuple(dict.fromkeys(map(fold, options))) or (("yes", "no") if accepted <= {"yes", "no"} else ())
    raw = _answer_text(output, _question_words(question, offered))
    if not raw:
        return None if raw is None else False
    text = fold(raw)
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
        return _read_option(text, raw, accepted, offered, question)
    golds = [value for value in map(_number, accepted) if value is not None]
    is_number = golds and all(map(_NUMBER_ANSWER.fullmatch, accepted))
    return _read_number(text, golds, question) if is_number else False if _is_unlike(text, accepted) else None


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
    reading = read_output(generation.text, plain.answers, plain.options, other_answers, plain.question)
    return tuple(
        name
        for name in names
        if reading is None or (getattr(metrics[name], "accuracy", False) and scores[name] != reading)
    )


def _answer_text(output: str, question_words: Collection[str]) -> str | None:
    """The part of an output that holds the answer: '' if there is none, None if it is not certain (rules 1 and 2)."""
    text = split_reasoning(output).answer.strip()
    text = _NEXT.split(text)[0].strip() or text
    if not re.search(r"\w", unicodedata.normalize("NFKC", text)):
        return ""
    if _TAKES_BACK.search(text):
        return None
    for mark in _MARKS:
        matches = [*mark.finditer(text)]
        values = {fold(match[1]): match[1] for match in matches}
        values.pop("", None)
        if values:
            is_answer = mark is not _MARKS[-1] or _is_stressed(text, matches[0], question_words)
            return None if len(values) > 1 else next(iter(values.values())) if is_answer else text
    return text


def _is_stressed(text: str, bold: re.Match[str], question_words: Collection[str]) -> bool:
    """Whether bold text ends a bare clause: neither "The wrong one is **dog**" nor "**dog** is ruled out"."""
    clause = re.sub(r"^\W+", "", re.split(r"[.!]\s|\n", text[: bold.start()])[-1])
    ends = re.match(r"[.,!]|\s*(?:\n|$)", text[bold.end() :]) is not None
    return ends and (not clause or _is_bare(f"{fold(clause)} \0", question_words))


def _number(text: str) -> float | None:
    """The only number of a text; None without one or with several."""
    matches = _DIGITS.findall(text)
    words = [_NUMBERS.index(word) for word in re.findall(r"[a-z]+", text.lower()) if word in _NUMBERS]
    if len(matches) == 1:
        return float(re.sub(r"[$,%]", "", matches[0]).replace("−", "-"))
    return float(words[0]) if not matches and len(words) == 1 else None


def _question_words(question: str, answers: Iterable[str]) -> frozenset[str]:
    """The words of the sentence that asks, which an answer may repeat; none if it has a denial or one of the answers.

    "Which animal is next to the dog?" makes "the dog is next to the animal" no plain answer.
    """
    for sentence in re.split(r"[.!?\n]", fold(question)):
        words = re.findall(r"[^\W\d_]+", sentence)
        if _ASKS.intersection(words):
            is_usable = not _DENIES.search(sentence) and not _names(sentence, answers)[0]
            return frozenset(words) if is_usable else frozenset()
    return frozenset()


def _is_bare(rest: str, question_words: Collection[str]) -> bool:
    """Whether a text is a bare clause around its only answer, which stands as \\0 in it (rule 6)."""
    text, _, after = rest.strip("()[]«» ").partition("\0")
    before = re.sub(r"(?:^| )(?:an?|the)$", "", " ".join(re.findall(r"[^\s,:]+|:", text)))
    words = [*before.split(), *after.split()]
    if before.endswith(":") and words.count(":") == 1 and not _LABELS.isdisjoint(words):
        return _PLAIN.union(question_words, ":").issuperset(words)
    is_led = not before or _SUBJECT_AND_COPULA.fullmatch(before) is not None
    return is_led and _PLAIN.union(question_words).issuperset(words)


def _read_number(text: str, golds: Collection[float], question: str) -> bool | None:
    """By the rule 6."""
    value = _number(text)
    if value is None or _BARE_NUMBER.fullmatch(text):
        return None if value is None else value in golds
    number = _DIGITS if _DIGITS.search(text) else _NUMBER_WORD
    return value in golds if _is_bare(number.sub("\0", text), _question_words(question, ())) else None


def _names(text: str, options: Iterable[str]) -> tuple[set[str], str]:
    """The options that a text names, as whole words, and the text with \\0 for each.

    Of two options that overlap, the longer one counts.
    """
    named, rest = set(), text
    for option in sorted(filter(None, options), key=len, reverse=True):
        words = re.escape(option)
        rest, count = re.subn(rf"(?<![\w'-]){words}(?![\w'-])" if option.isascii() else words, " \0 ", rest)
        if count:
            named.add(option)
    return named, rest


def _resembles(text: str, answer: str) -> bool:
    """Whether a text may be an answer in another spelling, or with more or fewer words."""
    near = difflib.SequenceMatcher(None, text, answer).ratio() >= RESEMBLANCE
    both_numeric = re.search(r"\d", text) is not None and re.search(r"\d", answer) is not None
    return near or answer in text or text in answer or not answer.isascii() or both_numeric


def _is_unlike(text: str, accepted: Collection[str]) -> bool:
    """Whether a short text is certainly none of the accepted answers (rule 8)."""
    is_plain = len(text.split()) <= OPEN_WORDS and _PHRASE.fullmatch(text) and not _DENIES.search(text)
    return (
        bool(is_plain)
        and not any(map(_NUMERIC.search, accepted))
        and not any(_resembles(text, answer) for answer in accepted)
    )


def _read_option(text: str, raw: str, accepted: frozenset[str], offered: tuple[str, ...], question: str) -> bool | None:
    """By the rules 4 to 7. text: the folded answer. raw: the answer as the model wrote it."""
    lettered = all(len(option) == 1 for option in offered)
    if not lettered and len(set(re.findall(r"\(([A-Z])\)", raw))) == 1:
        before, letter, after = re.split(r"\(([A-Z])\)", raw)[:3]
        place = ascii_lowercase.index(letter.lower())
        if place < len(offered) and fold(after).startswith(offered[place]) and _is_bare(f"{fold(before)} \0", ()):
            return _read_named_letter(fold(after), place, accepted, offered)
    if (chosen := _lettered_option(text, offered, lettered=lettered)) is not None:
        is_article = raw.strip() == "a" and not lettered
        return None if is_article and chosen in accepted else chosen in accepted
    if set(offered) <= _BINARY:
        return _read_binary(text, accepted, offered)
    if lettered or not text.isascii() or _LONE_LETTER.search(raw):
        return None
    return _read_names(text, accepted, offered, question)


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


def _read_names(text: str, accepted: frozenset[str], offered: tuple[str, ...], question: str) -> bool | None:
    """By the rules 6 and 7, from the options that a text names."""
    named, rest = _names(text, offered)
    if not named:
        return False if text.isalpha() and _is_unlike(text, accepted) else None
    if len(named) > 1:
        rest = _LIST.sub("\0", rest)
    is_clear = len(named) == 1 or (named and not named & accepted)
    return bool(named & accepted) if is_clear and _is_bare(rest, _question_words(question, offered)) else None


def _read_named_letter(name: str, place: int, accepted: frozenset[str], offered: tuple[str, ...]) -> bool | None:
    """A letter in parentheses with the text of its option, and perhaps a reason: "It is (B) 45 degrees because ..."."""
    rest = name.removeprefix(offered[place])
    return offered[place] in accepted if re.fullmatch(r"(?:,? (?:because|since) .+)?", rest) else None


def _read_binary(text: str, accepted: frozenset[str], offered: tuple[str, ...]) -> bool | None:
    """By the rule 5."""
    first, *others = re.findall(r"\w+", text) or [""]
    is_alone = re.match(r"\w+(?!\s*\w)", text) is not None  # "no image was attached" is no answer
    is_clear = first in offered and is_alone and not _TURNS & set(others) and "n't" not in text and "?" not in text
    return first in accepted if is_clear else None
