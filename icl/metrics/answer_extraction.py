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

import ast
import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from icl.errors import ConfigError, did_you_mean
from icl.reasoning_blocks import split_reasoning

AnswerForm = Literal["bare", "emphasized", "boxed", "tagged", "json", "labeled", "concluded", "sentence", "none"]
"""How an output writes its answer. `none`: it has no answer, such as a reasoning block that never closes."""

_Answer = tuple[str, AnswerForm]

CACHE_ENTRIES = 8192
SHORT_LINE, SHORT_SENTENCE = 6, 4
"""A line, or the first sentence of a line, of at most so many words can be an answer by itself."""


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


_ROLE = re.compile(
    r"^\s*(?:<s>|\[/INST\]|<\|(?:im_start|start|start_header_id)\|>\s*\w+\s*(?:<\|end_header_id\|>|\n)?|<start_of_turn>\s*\w+\n"
    r"|(?:assistant|model|ai|bot)\s*:)\s*",
    re.IGNORECASE,
)
_STRUCK = re.compile(r"~~.+?~~")
_MARKUP_TAG = re.compile(
    r"</?(?!(?:answer|final_answer|final|solution|response|result|image)\b)[a-z][\w-]*(?:\s[^<>]*)?/?>", re.IGNORECASE
)
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad]")
_QUOTES = str.maketrans({"“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "「": '"', "」": '"', "‘": "'", "’": "'"})

_NEXT_QUESTION = re.compile(
    r"\n\s*(?:(?:question|q|user|human|instruction|problem|image|input|context|example)\s*\d*\s*[:.]"
    r"|###|<image>|<\|im_start\|>|<\|user\|>|<\|start_header_id\|>|<start_of_turn>)",
    re.IGNORECASE,
)
_TAGS = re.compile(
    r"<(answer|final_answer|final|solution|response|result)>(.*?)(?:</\1>|\Z)"
    r"|<\|begin_of_(?:box|solution)\|>(.*?)(?:<\|end_of_(?:box|solution)\|>|\Z)",
    re.IGNORECASE | re.DOTALL,
)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_FENCE = re.compile(r"```(?:\w+\n)?(.*?)(?:```|\Z)", re.DOTALL)
_JSON_KEYS = ("final_answer", "finalanswer", "answer", "prediction", "label", "choice", "option", "result", "response")
_CUT_JSON = re.compile(r'"(?:final[_ ]?)?answer"\s*:\s*"?([^",}\n]+)', re.IGNORECASE)

_ADJECTIVES = r"(?:final|correct|right|best|short|direct|most\s+likely|most\s+appropriate|predicted|my|overall)"
_NOUNS = (
    r"(?:answer|choice|prediction|conclusion|verdict|antwort|r[ée]ponse|respuesta|risposta|resposta|ответ|答案|回答|正解|정답|답변|답|उत्तर)"
    r"(?:\s+(?:choice|option|letter))?"
)
_MARK = r"[*_#>`\s]*"
_LABEL_LINE = re.compile(
    rf"^{_MARK}(?:(?:the|so|thus|therefore|hence)[,\s]+)*(?:{_ADJECTIVES}\s+)*(?:{_NOUNS}|a|ans|答){_MARK}"
    rf"(?:[:=]|-+>|→){_MARK}(?P<value>.*)$",
    re.IGNORECASE | re.MULTILINE,
)
_LABEL_PHRASE = re.compile(
    rf"(?:{_ADJECTIVES}\s+)*{_NOUNS}(?:\s+(?:to|for|of)\s+(?:the|this|your|that)\s+\w+)?(?:\s+here)?{_MARK}"
    r"(?:是|为|は|(?:would\s+be|should\s+be|must\s+be|has\s+to\s+be|will\s+be|(?<=\W)is|is|are|was|ist|est|es|[eè]|é|:|=|-+>|→)"
    r"(?=[\s:*_\"'`(\\$]|[^\x00-\x7f]))"
    rf"\s*(?:clearly|likely|probably|most\s+likely|therefore|thus|indeed|simply)?\s*:?{_MARK}(?P<value>.+)",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(
    r"(?:^|(?<=[.!?\n])|,(?=\s*(?:so|therefore|thus|hence)\b))\s*(?:therefore|thus|hence|so|consequently|in\s+conclusion|to\s+conclude|in\s+summary|in\s+short|"
    r"overall|finally|conclusion|this\s+means(?:\s+that)?)\b\s*[,:]?\s*(?P<value>[^\n]+)",
    re.IGNORECASE,
)
_REASON = re.compile(r"\s*[,;—–]?\s*\b(?:because|since|due\s+to|given\s+that)\b.*$", re.IGNORECASE | re.DOTALL)
_BOLD = re.compile(r"\*\*(?!\s)(.+?)(?<!\s)\*\*|(?<!\w)__(?!\s)(.+?)(?<!\s)__(?!\w)")
_SENTENCE_END = re.compile(
    r"(?<!\b[A-Z])(?<!\bvs)(?<!\bSt)(?<!\bMr)(?<!\bDr)(?<!\d)[.!?](?=\s+[\"'A-Z*(])|[。！？]|\.\s*(?=\n|$)"
)
_LIST_MARK = re.compile(r"^\s*(?:[-*•+]|#+|>)\s+")
_TOTAL = re.compile(
    rf"^{_MARK}(?:total|sum|count|result|overall)(?:\s+\w+){{0,3}}{_MARK}[:=]{_MARK}(?P<value>.+)$", re.IGNORECASE
)
_STATEMENT = re.compile(r"^(?:there|it|this|that|these|they|the \w+)(?:'s| (?:is|are|was|were)\b)", re.IGNORECASE)
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
    text, reasoned = _without_reasoning(_cleaned(output))
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


def strip_markup(text: str) -> str:
    """A short text without Markdown, LaTeX, quotes, list marks and the punctuation around it."""
    text = _LIST_MARK.sub("", _plain_latex(_MARKUP_TAG.sub("", text)))
    text = re.sub(r"\*\*|__|`", "", text).replace("⁄", "/")
    previous = None
    while previous != text:
        previous = text
        text = text.strip().strip("*\"'$ \t\n").rstrip(".,;:!。，；：！、").strip()
        if text[:1] == "(" and text[-1:] == ")" and "(" not in text[1:] and len(text) > len("(A)"):
            text = text[1:-1]
        if text[:1] + text[-1:] in ("[]", "【】", "{}"):
            text = text[1:-1]
    return text


def _cleaned(output: str) -> str:
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", output)).translate(_QUOTES).replace("\r\n", "\n")
    return _STRUCK.sub("", _ROLE.sub("", text))


def _without_reasoning(text: str) -> tuple[str, bool]:
    """(the text after all reasoning blocks, whether there was one).

    A block that never closes leaves the answer that it marks as such on a line of its own, or in a box.
    """
    parts = split_reasoning(text)
    marked = list(_LABEL_LINE.finditer(parts.unclosed))
    explicit = _boxed(parts.unclosed) or (marked[-1]["value"] if marked else None)
    return f"\\boxed{{{explicit}}}" if explicit else parts.answer, parts.has_reasoning


def _auto(text: str) -> _Answer:
    text = _until_next_question(text)
    for find, form in _EXPLICIT:
        value = find(text)
        if value is not None:
            return strip_markup(value), form
    return _implicit(text)


def _until_next_question(text: str) -> str:
    match = _NEXT_QUESTION.search(text)
    return text[: match.start()].strip() if match and text[: match.start()].strip() else text


def _tagged(text: str) -> str | None:
    matches = list(_TAGS.finditer(text))
    return _inner((matches[-1][2] or matches[-1][3] or "").strip()) if matches else None


def _boxed(text: str) -> str | None:
    matches = list(_BOXED.finditer(text))
    if not matches:
        return None
    start, depth = matches[-1].end(), 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place]
    return text[start:]


def _json(text: str) -> str | None:
    candidates = [match[1].strip() for match in _FENCE.finditer(text)] + [text.strip()]
    start, end = text.find("{"), text.rfind("}")
    if 0 <= start < end:
        candidates.append(text[start : end + 1])
    for candidate in candidates:
        if candidate[:1] in ("{", "["):
            value = _json_answer(_parsed(candidate))
            if value is not None:
                return value
    cut = _CUT_JSON.search(text) if "{" in text else None
    return cut[1] if cut else None


def _parsed(text: str) -> object:
    """A JSON value, or a Python one in its quotes; None where the text is neither."""
    for parse in (json.loads, ast.literal_eval):
        try:
            value: object = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return value
    return None


def _json_answer(value: object) -> str | None:
    """The text of a JSON answer; None where it has several parts and no key of an answer."""
    if isinstance(value, Mapping):
        by_key = {str(key).lower().replace(" ", "_"): item for key, item in value.items()}
        for key in _JSON_KEYS:
            if key in by_key:
                return _json_answer(by_key[key])
        return _json_answer(next(iter(value.values()))) if len(value) == 1 else None
    if isinstance(value, list):
        return _json_answer(value[0]) if len(value) == 1 else None
    if isinstance(value, bool):
        return "yes" if value else "no"
    return None if value is None else str(value)


def _labeled(text: str) -> str | None:
    if row := re.search(rf"^\|{_MARK}{_NOUNS}{_MARK}\|(?P<value>[^|\n]+)\|", text, re.IGNORECASE | re.MULTILINE):
        return row["value"]
    lines = list(_LABEL_LINE.finditer(text))
    if lines:
        value = lines[-1]["value"].strip()
        return _inner(value if strip_markup(value) else _first_line(text[lines[-1].end() :]))
    phrases = list(_LABEL_PHRASE.finditer(text))
    return _inner(phrases[-1]["value"]) if phrases else None


def _inner(text: str) -> str:
    """The answer of a labeled line: its first sentence, or what a box in it has."""
    boxed = _boxed(text)
    if boxed is not None:
        return boxed
    text = text.strip()
    bold = _BOLD.match(text)
    if bold and strip_markup(bold[0]):
        rest = text[bold.end() :]
        return text if re.match(r"\s+\w", rest) and not re.match(r"\s+(?:because|since|as|which)\b", rest) else bold[0]
    return _REASON.sub("", _first_sentence(text)) or text


def _implicit(text: str) -> _Answer:
    """The answer where nothing marks it: a short line, a conclusion, the only bold text, or the first line."""
    lines = [line.strip() for line in text.splitlines() if strip_markup(line)]
    if not lines:
        return "", "none"
    answers = (find(text, lines) for find in (_leading_line, _conclusion, _closing_line, _leading_sentence, _bold_text))
    first = _short(lines[0]) if _is_short(lines[0]) else (strip_markup(lines[0]), "sentence")
    return next((answer for answer in answers if answer is not None), first)


def _leading_line(text: str, lines: list[str]) -> _Answer | None:
    listed = re.match(r"(?:1[.)]|[-*•])\s", lines[0])
    return _short(lines[0]) if len(lines) > 1 and _is_short(lines[0]) and not listed else None


def _conclusion(text: str, lines: list[str]) -> _Answer | None:
    matches = list(_CONCLUSION.finditer(text))
    if not matches or (len(lines) == 1 and matches[-1].start() == 0):
        return None
    return _emphasized(matches[-1]["value"], "concluded")


def _closing_line(text: str, lines: list[str]) -> _Answer | None:
    last = lines[-1]
    if len(lines) > 1 and (total := _TOTAL.match(last)):
        return strip_markup(total["value"]), "labeled"
    return _short(last, "concluded") if len(lines) > 1 and _is_short(last) and not _LIST_MARK.match(last) else None


def _leading_sentence(text: str, lines: list[str]) -> _Answer | None:
    sentence = _first_sentence(lines[0])
    alone = sentence == lines[0] or _STATEMENT.match(sentence) or lines[0][len(sentence) :].startswith("?")
    return None if alone or not _is_short(sentence, SHORT_SENTENCE) else _short(sentence)


def _bold_text(text: str, lines: list[str]) -> _Answer | None:
    heading = re.match(r"\*\*[^*]+:\*\*\s*(\S.*)", lines[0])
    if heading:
        return strip_markup(heading[1]), "labeled"
    bold = _bold_texts(text)
    return (bold.pop(), "emphasized") if len(bold) == 1 else None


def _bold_texts(text: str) -> set[str]:
    return {strip_markup(match[1] or match[2]) for match in _BOLD.finditer(text)} - {""}


def _emphasized(text: str, form: AnswerForm) -> _Answer:
    bold = _bold_texts(text)
    return (bold.pop() if len(bold) == 1 else strip_markup(_first_sentence(text))), form


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


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if strip_markup(line)), "")


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if strip_markup(line)), "")


def _first_sentence(text: str) -> str:
    end = _SENTENCE_END.search(text)
    return text[: end.start()] if end and text[: end.start()].strip() else text


def _custom(name: str, argument: str, text: str) -> _Answer:
    if name == "after":
        _, mark, rest = text.rpartition(argument)
        return (strip_markup(_first_line(rest)) if mark else ""), "labeled"
    matches = list(re.finditer(argument, text))
    value = (matches[-1][1] if matches[-1].re.groups else matches[-1][0]) if matches else ""
    return strip_markup(value or ""), "labeled"


def _plain_latex(text: str) -> str:
    """LaTeX commands that occur in answers as plain text."""
    previous = None
    while previous != text:
        previous = text
        text = re.sub(
            r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|operatorname|mbox)\s*\{([^{}]*)\}", r"\1", text
        )
        text = re.sub(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1/\2", text)
    text = re.sub(r"\^\s*(?:\{\\circ\}|\\circ)", " degrees", text)
    text = re.sub(r"\\[(\[)\]]", "", text)
    return re.sub(r"\\([%$#&_])", r"\1", re.sub(r"\\(?:,|;|!|quad|left|right|displaystyle)\b|\\[,;!]", " ", text))


_EXPLICIT: tuple[tuple[Callable[[str], "str | None"], AnswerForm], ...] = (
    (_tagged, "tagged"),
    (_boxed, "boxed"),
    (_json, "json"),
    (_labeled, "labeled"),
)
_RULES: Mapping[str, Callable[[str], _Answer]] = {
    "auto": _auto,
    "first_line": lambda text: _short(re.sub(r"^answer\s*:\s*", "", _first_line(text), flags=re.IGNORECASE)),
    "last_line": lambda text: _short(_last_line(text)),
    "boxed": lambda text: (strip_markup(_boxed(text) or ""), "boxed"),
}
