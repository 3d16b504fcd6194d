"""Finds the answer in an output as current instruct and reasoning models write it.

Base models answer with the bare word. Instruct models wrap it: "The answer is **red**.", `\\boxed{red}`, `{"answer":
"red"}`, "(B) red", or a paragraph that ends with "Answer: red". Reasoning models write `<think>…</think>` first. A
scorer that reads the first line alone gives such outputs zero, and a gain of demonstrations that only teach the short
form then looks like a gain of knowledge.

The rule `auto` tries, in this order:

1. Reasoning blocks are removed. A block that never closes leaves no answer.
2. The text is cut where the model goes on with a next question of its own.
3. `<answer>` and box tags, `\\boxed{}`, a JSON object, a line "Answer: …", a sentence "the answer is …".
4. A short first line or sentence; else the conclusion ("Therefore, …", a short last line); else the only bold text.
5. Otherwise the first line.

Quotes, Markdown, LaTeX and the full stop around the result are removed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from icl.errors import ConfigError, did_you_mean
from icl.metrics.machinery.marked_answers import (
    LABEL_LINE,
    LIST_MARK,
    MARK,
    bold_texts,
    boxed_text,
    clean_output,
    first_line,
    first_sentence,
    json_answer,
    labeled_answer,
    last_line,
    strip_markup,
    tagged_answer,
)
from icl.metrics.machinery.quantities import stated_number
from icl.metrics.normalize import parse_numbers
from icl.text.reasoning_blocks import split_reasoning

AnswerForm = Literal["bare", "emphasized", "boxed", "tagged", "json", "labeled", "concluded", "sentence", "none"]
"""How an output writes its answer. `none`: it has no answer, such as a reasoning block that never closes."""

_Answer = tuple[str, AnswerForm]

CACHE_ENTRIES = 8192
SHORT_LINE, SHORT_SENTENCE, RESTATEMENT = 6, 4, 10
"""A line, the first sentence of a line, or a last line "The … of … is …", of at most so many words can be an answer by
itself."""


@dataclass(frozen=True)
class ExtractedAnswer:
    """The answer in an output.

    Attributes:
        text: The answer without quotes, Markdown and LaTeX. Empty if there is none.
        form: How the output writes it.
        reasoned: The output has a reasoning block.
    """

    text: str
    form: AnswerForm
    reasoned: bool = False


_NEXT_QUESTION = re.compile(
    r"\n\s*(?:(?:question|q|user|human|instruction|problem|image|input|context|example)\s*\d*\s*[:.]"
    r"|###(?!\W*(?:final\s+|correct\s+)?(?:answer|conclusion|result|solution)\b)|<image>|<\|im_start\|>|<\|user\|>|<\|start_header_id\|>|<start_of_turn>)",
    re.IGNORECASE,
)

_CORRECTIONS = (
    r"wait(?=\s*[,.…!—–-]|\s+(?:no|actually)\b)[,.…!—–\s-]*(?:actually\b,?\s*)?",
    r"scratch\s+that\b[,.:;]?\s*",
    r"on\s+second\s+thoughts?\b,?\s*",
    r"correction\s*[:,]\s*",
    r"(?<=[,.—–-]\s)sorry\s*[,:]\s*",
    r"i\s+mean(?:t)?\b,?\s+",
    r"hm+\b[,.…\s]*(?:looking\s+(?:again|closer|more\s+closely),?\s*)?",
    r"(?:but\s+)?look(?:ing)?\s+(?:again|closer|more\s+closely),?\s*",
    r"(?:but\s+)?on\s+closer\s+(?:look|inspection),?\s*",
    r"actually,?\s+(?=no\b|yes\b)|(?<=[.!?…—–-]\s)actually\s*,\s*",
    r"(?<=\?\s)(?=no\b)|(?<=\.\.\.\s)(?=no\b)",
    r"let\s+me\s+correct\s+(?:that|myself)\s*[.:,]\s*",
)
_CORRECTION = re.compile(
    rf"(?<=[.!?…,;:—–\n\s-])(?:(?<![\w']\s)(?:no|oh|oops|hold\s+on|hang\s+on)\b[,.!…\s—–-]*)?(?:{'|'.join(_CORRECTIONS)})",
    re.IGNORECASE,
)
"""What takes back the text before it."""

_CONCLUSION = re.compile(
    r"(?:^|(?<=[.!?\n])|,(?=\s*(?:so|therefore|thus|hence)\b))\s*(?:therefore|thus|hence|so|consequently|(?:most\s+)?(?:probably|likely)|in\s+conclusion|to\s+conclude|in\s+summary|in\s+short|"
    r"overall|finally|conclusion|this\s+means(?:\s+that)?)\b\s*[,:]?\s*(?P<value>[^\n]+)",
    re.IGNORECASE,
)
_OWN_QUESTION = re.compile(r"(?<=\S)[ \t]*\n\s*\w[^\n?]*\?[ \t]*\n")
"""A line that is a question, which follows an answer and has one."""

_TOTAL = re.compile(
    rf"(?:^{MARK}(?:total|sum|count|result|overall)(?:\s+\w+){{0,3}}{MARK}[:=]{MARK}|^=\s*|^.*\s(?:→|⇒|=>)\s+)(?P<value>.+)$",
    re.IGNORECASE,
)
_DENIAL = re.compile(r"\b(?:not|never|neither|wrong|incorrect)\b|n't\b", re.IGNORECASE)
_PLEASANTRY = re.compile(
    r"^(?:of course|certainly|absolutely|definitely|sure|sure thing|great|good question|great question|thanks|thank you"
    r"|you(?:'re| are) (?:right|welcome|correct)|no problem|happy to help|hello|hi)\b",
    re.IGNORECASE,
)
_OPTION_LINE = re.compile(r"^[(\[]?[A-Z](?:[.):\]]|$)")
_STATEMENT = re.compile(r"^(?:there|it|this|that|these|they|the \w+)(?:'s| (?:is|are|was|were)\b)", re.IGNORECASE)
_REPEATED = re.compile(
    r"^(?P<first>(?P<frame>(?:this|it|that) is (?:an? |the )?)[^.\n]+\.)(?:\s+(?P=frame)[^.\n]+\.){2,}", re.IGNORECASE
)
"""Sentences that differ in their names alone: a base model goes on with demonstrations of its own."""

_YES_OR_NO = re.compile(r"\W*(?:yes|no)\b", re.IGNORECASE)
_RESTATEMENT = re.compile(r"^the \w+ of (?:\w+ ){1,4}(?:is|are|was|were) ", re.IGNORECASE)
_CHECK = re.compile(r"\s*:?\s*[✓✔✅☑]\ufe0f?\s*")
_VERDICT = re.compile(r"\b(?:is|are) (?:the )?correct(?: (?:one|answer|option|choice))?\W*$", re.IGNORECASE)
_STEP = re.compile(r"^\W*step\s+\d+\W+", re.IGNORECASE)
_INTRODUCTION = re.compile(
    r"^(?:let|step|first|to\s+(?:answer|determine|find)|looking|okay|ok|sure|alright|here)\b", re.IGNORECASE
)


@lru_cache(CACHE_ENTRIES)
def extract_answer(output: str, rule: str = "auto") -> ExtractedAnswer:
    """The answer in an output.

    Args:
        output: The generated text.
        rule: `auto`, `first_line`, `last_line`, `boxed`, `none` (the whole output), `after:TEXT` (what follows the last
            TEXT on its line) or `regex:PATTERN` (the first group of its last match, or the whole match).

    Raises:
        ConfigError: There is no such rule, or the pattern is not a regular expression.
    """
    check_rule(rule)
    if rule == "none":
        return ExtractedAnswer(output.strip(), "bare")
    text, reasoned = _without_reasoning(clean_output(output))
    name, _, argument = rule.partition(":")
    text, form = _RULES[name](text) if name in _RULES else _custom(name, argument, text)
    return ExtractedAnswer(text, form if text else "none", reasoned)


def check_rule(rule: str) -> None:
    """Raises ConfigError for an unknown rule, or a pattern that is not a regular expression."""
    name, _, argument = rule.partition(":")
    if name == "regex" and argument:
        try:
            re.compile(argument)
        except re.error as error:
            raise ConfigError(f"answer: '{argument}' is not a regular expression ({error}).") from error
    elif not (name == "after" and argument) and rule not in ("none", *_RULES):
        rules = ("auto", "first_line", "last_line", "boxed", "none", "after:TEXT", "regex:PATTERN")
        raise ConfigError(f"answer: no rule '{rule}'.{did_you_mean(rule, rules)} Rules: {', '.join(rules)}.")


def _without_reasoning(text: str) -> tuple[str, bool]:
    """(the text after all reasoning blocks, whether there was one).

    A block that never closes leaves the answer that it marks as such on a line of its own, or in a box.
    """
    parts = split_reasoning(text)
    marked = list(LABEL_LINE.finditer(parts.unclosed))
    explicit = boxed_text(parts.unclosed) or (marked[-1]["value"] if marked else None)
    return f"\\boxed{{{explicit}}}" if explicit else parts.answer, parts.has_reasoning


def _auto(text: str) -> _Answer:
    text = _after_correction(_until_next_question(text))
    if repeated := _REPEATED.match(text):
        text = repeated["first"]
    for find, form in _EXPLICIT:
        value = find(text)
        if value is not None:
            return strip_markup(value), form
    return _implicit(text)


def _after_correction(text: str) -> str:
    """What follows the last "wait, actually" and the like, if anything does."""
    ends = [match.end() for match in _CORRECTION.finditer(text) if match.start() and text[: match.start()].strip()]
    rest = text[ends[-1] :] if ends else ""
    return rest if re.search(r"\w", rest) else text


def _until_next_question(text: str) -> str:
    match = _NEXT_QUESTION.search(text)
    question = _OWN_QUESTION.search(text)
    if question and _is_short(text[: question.start() + 1]) and "\n" not in text[: question.start()].strip():
        return text[: question.start()].strip()
    if not match or not text[: match.start()].strip() or text.startswith("#"):  # an answer with headings
        return text
    return text[: match.start()].strip()


def _implicit(text: str) -> _Answer:
    """The answer where nothing marks it: a short line, a conclusion, the only bold text, or the first line."""
    lines = [line.strip() for line in text.splitlines() if strip_markup(line) and not line.startswith("```")]
    lines = [line for line in lines if not line.startswith("|")] or lines  # rows of a table
    lines[:1] = [
        re.sub(r"^answer\s+(?!is\b|was\b|would\b|to\b|the\b)", "", one, flags=re.IGNORECASE) for one in lines[:1]
    ]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines = lines[1:]
    checked = [_CHECK.sub("", line) for line in lines if _CHECK.search(line)]
    options = [line for line in lines if _OPTION_LINE.match(line)]
    checked = checked or [line.split(":")[0] for line in options if len(options) > 1 and _VERDICT.search(line)]
    if len(checked) == 1 and len(lines) > 1:
        return strip_markup(checked[0]), "labeled"
    if not lines or (len(lines) > 1 and all(map(_OPTION_LINE.match, lines))):
        return "", "none"
    if len(lines) > 1 and all("=" in line for line in lines):  # a solved equation
        return strip_markup(lines[-1]), "concluded"
    answers = (
        find(text, lines) for find in (_total, _leading_line, _conclusion, _closing_line, _leading_sentence, _bold_text)
    )
    first = _short(lines[0]) if _is_short(lines[0]) else (strip_markup(lines[0]), "sentence")
    return next((answer for answer in answers if answer is not None), first)


def _leading_line(text: str, lines: list[str]) -> _Answer | None:
    listed = re.match(r"(?:1[.)]|[-*•])\s", lines[0])
    return _short(lines[0]) if len(lines) > 1 and _is_short(lines[0]) and not listed else None


def _conclusion(text: str, lines: list[str]) -> _Answer | None:
    matches = list(_CONCLUSION.finditer(text))
    if not matches or (len(lines) == 1 and matches[-1].start() == 0):
        return None
    is_aside = matches[-1]["value"].strip() not in lines[-1] or _YES_OR_NO.match(text)
    if matches[-1][0].startswith(",") and is_aside:
        return None  # ", so ..." within an earlier paragraph or behind a yes or no
    return _emphasized(matches[-1]["value"], "concluded")


def _total(text: str, lines: list[str]) -> _Answer | None:
    total = _TOTAL.match(lines[-1])
    return (strip_markup(total["value"]), "labeled") if total and len(lines) > 1 else None


def _closing_line(text: str, lines: list[str]) -> _Answer | None:
    last = _STEP.sub("", lines[-1])
    is_short = _is_short(last, RESTATEMENT if _RESTATEMENT.match(last) else SHORT_LINE)
    return _short(last, "concluded") if len(lines) > 1 and is_short and not LIST_MARK.match(last) else None


def _leading_sentence(text: str, lines: list[str]) -> _Answer | None:
    sentence = first_sentence(lines[0])
    alone = (
        sentence == lines[0]
        or _PLEASANTRY.match(sentence)
        or _DENIAL.search(sentence)
        or _STATEMENT.match(sentence)
        or lines[0][len(sentence) :].startswith("?")
    )
    return None if alone or not _is_short(sentence, SHORT_SENTENCE) else _short(sentence)


def _bold_text(text: str, lines: list[str]) -> _Answer | None:
    heading = re.match(r"\*\*[^*]+:\*\*\s*(\S.*)", lines[0])
    if heading:
        return strip_markup(heading[1]), "labeled"
    bold = bold_texts(text)
    return (bold.pop(), "emphasized") if len(bold) == 1 else None


def _emphasized(text: str, form: AnswerForm) -> _Answer:
    bold = bold_texts(text)
    return (bold.pop() if len(bold) == 1 else strip_markup(first_sentence(text))), form


def _is_short(line: str, words: int = SHORT_LINE) -> bool:
    return (
        len(line.split()) <= words
        and not line.rstrip("*_ ").endswith(":")
        and not line.startswith("#")
        and not _INTRODUCTION.match(line)
    )


def _short(line: str, form: AnswerForm = "bare") -> _Answer:
    text = strip_markup(line)
    plain = line.strip().rstrip(".").strip()
    return text, form if form != "bare" or text == plain else "emphasized"


def _custom(name: str, argument: str, text: str) -> _Answer:
    if name == "after":
        _, mark, rest = text.rpartition(argument)
        return (strip_markup(first_line(rest)) if mark else ""), "labeled"
    matches = list(re.finditer(argument, text))
    value = (matches[-1][1] if matches[-1].re.groups else matches[-1][0]) if matches else ""
    return strip_markup(value or ""), "labeled"


_EXPLICIT: tuple[tuple[Callable[[str], "str | None"], AnswerForm], ...] = (
    (tagged_answer, "tagged"),
    (boxed_text, "boxed"),
    (json_answer, "json"),
    (labeled_answer, "labeled"),
)
_RULES: Mapping[str, Callable[[str], _Answer]] = {
    "auto": _auto,
    "first_line": lambda text: _short(re.sub(r"^answer\s*:\s*", "", first_line(text), flags=re.IGNORECASE)),
    "last_line": lambda text: _short(last_line(text)),
    "boxed": lambda text: (strip_markup(boxed_text(text) or ""), "boxed"),
}


def read_number(output: str) -> float | None:
    """The number that an output states as its answer; None without one. "None" is no number here, and "zero" is."""
    text = extract_answer(output).text
    number = stated_number(text)
    return number if number or parse_numbers(text) else None


def gold_number(answers: Sequence[str]) -> float | None:
    """The number that a gold answer is, or None. The first of several counts."""
    try:
        return float(answers[0])
    except (ValueError, IndexError):
        return None
