"""The answers that an output marks: in tags, as JSON, or after a label such as "Answer:" or "the answer is"."""

import ast
import json
import re
import unicodedata
from collections.abc import Mapping

_TAGS = re.compile(
    r"<(answer|final_answer|final|solution|response|result)>(.*?)(?:</\1>|\Z)"
    r"|<\|begin_of_(?:box|solution)\|>(.*?)(?:<\|end_of_(?:box|solution)\|>|\Z)",
    re.IGNORECASE | re.DOTALL,
)
_JSON_KEYS = ("final_answer", "finalanswer", "answer", "prediction", "label", "choice", "option", "result", "response")
_CUT_JSON = re.compile(r'"(?:final[_ ]?)?answer"\s*:\s*"?([^",}\n]+)', re.IGNORECASE)
_ADJECTIVES = (
    r"(?:final|correct|right|best|short|direct|most\s+likely|most\s+appropriate|predicted|selected|chosen|my|overall)"
)
_NOUNS = (
    r"(?:answer|choice|prediction|conclusion|verdict|antwort|r[ée]ponse|respuesta|risposta|resposta|ответ|答案|回答|正解|정답|답변|답|उत्तर)"
    r"(?:\s+(?:choice|option|letter))?"
)
MARK = r"[*_#>`\s]*"
LABEL_LINE = re.compile(
    rf"^{MARK}(?:(?:the|so|thus|therefore|hence)[,\s]+)*(?:{_ADJECTIVES}\s+)*(?:{_NOUNS}|a(?!\s*:.*\bB\s*:)|ans|答|(?<=\s)option|(?<=\s)selection){MARK}"
    rf"(?:[:=]|-+>|→|(?<=\s)[-–—](?=\s)){MARK}(?P<value>.*)$",
    re.IGNORECASE | re.MULTILINE,
)
_LABEL_PHRASE = re.compile(
    rf"(?:(?:{_ADJECTIVES}\s+)*{_NOUNS}|(?:{_ADJECTIVES}\s+)+(?:name|term|word|label|value|identification|one))"
    rf"(?:\s+(?:to|for|of)\s+(?:the|this|your|that)\s+\w+)?(?:\s+here)?{MARK}"
    r"(?:是|为|は|(?:would\s+be|should\s+be|must\s+be|has\s+to\s+be|will\s+be|(?<=\W)is|is|are|was|ist|est|es|[eè]|é|:|=|-+>|→)"
    r"(?=[\s:*_\"'`(\\$]|[^\x00-\x7f]))"
    rf"\s*(?:clearly|likely|probably|most\s+likely|therefore|thus|indeed|simply)?\s*:?{MARK}(?P<value>.+)",
    re.IGNORECASE,
)
_TABLE = re.compile(
    rf"^(?:\|[^|\n]+)*\|{MARK}{_NOUNS}{MARK}\|\s*\n\|[-:|\s]+\|\s*\n(?:\|[^|\n]+)*\|(?P<value>[^|\n]+)\|\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_DECISIONS = (
    r"i(?:'d|\s+would|'ll|\s+will|'m\s+going\s+to|\s+am\s+going\s+to)?\s+(?:go\s+with|choose|pick|select|opt\s+for)",
    r"i(?:'m|\s+am)\s+going\s+with",
    r"my\s+(?:best\s+|educated\s+|final\s+)*(?:guess|bet|pick)\s+(?:is|would\s+be)",
)
_DECISION = re.compile(
    rf"\b(?:{'|'.join(_DECISIONS)})\s+(?:that\s+)?(?:it(?:'s|\s+is)\s+)?(?P<value>[^\n]+)", re.IGNORECASE
)
_HEADING = re.compile(r"^[^\w\n]*(?:final\s+|correct\s+)?answer[^\w\n]*$(?=\s*\S)", re.IGNORECASE | re.MULTILINE)
_REASON = re.compile(r"\s*[,;—–]?\s*\b(?:because|since|due\s+to|given\s+that)\b.*$", re.IGNORECASE | re.DOTALL)

_LATER_SENTENCE = re.compile(r"(?<=\w);\s+(?:(?:the|this|that|it|a|an)\s+)(?:\S+\s+){3,}\S+$", re.IGNORECASE)
"""A sentence behind the answer: "Nokia; the Samsung logo is on the TV"."""


def tagged_answer(text: str) -> str | None:
    """The content of the last `<answer>` or box tag, or None."""
    contents = _tag_contents(text)
    if not contents:
        return None
    return _inner((_tag_contents(contents[-1]) or contents)[-1])  # a box in a tag


def _tag_contents(text: str) -> list[str]:
    return [(match[2] or match[3] or "").strip() for match in _TAGS.finditer(text)]


def json_answer(text: str) -> str | None:
    """The answer of a JSON object in the text, or None."""
    start, end = text.find("{"), text.rfind("}")
    for candidate in (text.strip(), text[start : end + 1] if 0 <= start < end else ""):
        parsed = _parsed(candidate) if candidate[:1] in ("{", "[") else None
        if isinstance(parsed, Mapping | list) and (value := _json_answer(parsed)) is not None:
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


def labeled_answer(text: str) -> str | None:
    """What follows the last label, such as "Answer:", "the answer is" or "I'd go with", or None."""
    if column := _TABLE.search(text):
        return column["value"]
    if row := re.search(rf"^\|{MARK}{_NOUNS}{MARK}\|(?P<value>[^|\n]+)\|", text, re.IGNORECASE | re.MULTILINE):
        return row["value"]
    lines = list(LABEL_LINE.finditer(text))
    if (heading := _HEADING.search(text)) and not lines:
        return _inner(first_line(text[heading.end() :]))
    if lines:
        value = lines[-1]["value"].strip()
        return _inner(value if strip_markup(value) else first_line(text[lines[-1].end() :]))
    phrases = list(_LABEL_PHRASE.finditer(text))
    phrases = phrases or list(_DECISION.finditer(text))
    if not phrases:
        return None
    value = phrases[-1]["value"]
    while later := _LABEL_PHRASE.search(value):  # "The answer is not A. The answer is B."
        value = later["value"]
    return _inner(value)


def _inner(text: str) -> str:
    """The answer of a labeled line: its first sentence, or what a box in it has."""
    boxed = boxed_text(text)
    if boxed is not None:
        return boxed
    text = text.strip()
    bold = BOLD.match(text)
    if bold and strip_markup(bold[0]):
        rest = text[bold.end() :]
        return text if re.match(r"\s+\w", rest) and not re.match(r"\s+(?:because|since|as|which)\b", rest) else bold[0]
    return _REASON.sub("", _LATER_SENTENCE.sub("", first_sentence(text))) or text


_ROLE = re.compile(
    r"^\s*(?:<s>|\[/INST\]|<\|(?:im_start|start|start_header_id)\|>\s*\w+\s*(?:<\|end_header_id\|>|\n)?|<start_of_turn>\s*\w+\n"
    r"|(?:assistant|model|ai|bot)\s*:)\s*",
    re.IGNORECASE,
)
_TRANSCRIPT = re.compile(r"^\s*(?:system\n.*\n)?user\n.*\nassistant\n", re.DOTALL)
"""The prompt before the answer, as chat templates write it without their special tokens."""

_STRUCK = re.compile(r"~~.+?~~")
_MARKUP_TAG = re.compile(
    r"</?(?!(?:answer|final_answer|final|solution|response|result|image)\b)[a-z][\w-]*(?:\s[^<>]*)?/?>", re.IGNORECASE
)
_GROUNDING = re.compile(r"<\|(det|quad)\|>.*?<\|/\1\|>|<\|/?(?:ref|object_ref_start|object_ref_end)\|>")
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad]")
_QUOTES = str.maketrans({"“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "「": '"', "」": '"', "‘": "'", "’": "'"})
LIST_MARK = re.compile(r"^\s*(?:[-*•+]|#+|>)\s+")
BOLD = re.compile(r"\*\*(?!\s)(.+?)(?<!\s)\*\*|(?<!\w)__(?!\s)(.+?)(?<!\s)__(?!\w)")
_EMPHASIS = re.compile(r"(?<![\w*])\*(?!\s)([^*\n]+?)(?<!\s)\*(?![\w*])|(?<!\w)_(?!\s)([^_\n]+?)(?<!\s)_(?!\w)")
_SENTENCE_END = re.compile(
    r"(?<!\b[A-Z])(?<!\bvs)(?<!\bSt)(?<!\bMr)(?<!\bDr)(?<!\bMrs)(?<!\bMs)(?<!\bProf)(?<!\d)[.!?](?=\s+[\"'A-Z*(])|[。！？]|\.\s*(?=\n|$)"
)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")


def clean_output(output: str) -> str:
    """The output without invisible letters, its role and struck text, in NFKC and with plain quotes."""
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", output)).translate(_QUOTES).replace("\r\n", "\n")
    return _STRUCK.sub("", _GROUNDING.sub("", _ROLE.sub("", _TRANSCRIPT.sub("", text))))


def strip_markup(text: str) -> str:
    """A short text without Markdown, LaTeX, quotes, list marks and the punctuation around it."""
    text = LIST_MARK.sub("", _plain_latex(_MARKUP_TAG.sub("", text)))
    text = _EMPHASIS.sub(r"\1\2", re.sub(r"\*\*|__|`", "", text)).replace("⁄", "/")
    previous = None
    while previous != text:
        previous = text
        quote = "" if text.count('"') % 2 == 0 and not re.fullmatch(r'[\s.*]*".*"[\s.*]*', text, re.DOTALL) else '"'
        text = (
            re.sub(r"^\$(?!\d)|(?<!\\)\$$", "", text.strip().strip(f"*{quote}' \t\n"))
            .rstrip(".,;:!。，；：！、")
            .strip()
        )
        if text[:1] == "(" and text[-1:] == ")" and "(" not in text[1:] and len(text) > len("(A)"):
            text = text[1:-1]
        if text[:1] + text[-1:] in ("[]", "【】", "{}"):
            text = text[1:-1]
    return text


def _plain_latex(text: str) -> str:
    """LaTeX commands that occur in answers as plain text."""
    previous = None
    while previous != text:
        previous = text
        text = re.sub(
            r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|operatorname|mbox)\s*\{([^{}]*)\}", r"\1", text
        )
        text = re.sub(r"\\sqrt\s*\{(\w+)\}", r"√\1", text)
        text = re.sub(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1/\2", text)
    text = text.replace("{,}", ",")
    text = re.sub(r"\^\s*(?:\{\\circ\}|\\circ)", " degrees", text)
    text = re.sub(r"\\[(\[)\]]", "", re.sub(r"\$([^$\n]{0,200}[^$\d\s,.][^$\n]{0,200}|\d+)\$", r"\1", text))
    return re.sub(r"\\([%$#&_])", r"\1", re.sub(r"\\(?:,|;|!|quad|left|right|displaystyle)\b|\\[,;!]", " ", text))


def boxed_text(text: str) -> str | None:
    """The content of the last `\\boxed{}`, or None."""
    matches = list(_BOXED.finditer(text))
    if not matches:
        return None
    start, depth = matches[-1].end(), 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place]
    return text[start:]


def bold_texts(text: str) -> set[str]:
    """The distinct bold texts, without headings that end with a colon."""
    texts = [match[1] or match[2] for match in BOLD.finditer(text) if text[match.end() : match.end() + 1] != ":"]
    return {strip_markup(one) for one in texts if not one.endswith(":")} - {""}


def first_line(text: str) -> str:
    """The first line with a letter or digit, or ''."""
    return next((line.strip() for line in text.splitlines() if strip_markup(line)), "")


def last_line(text: str) -> str:
    """The last line with a letter or digit, or ''."""
    return next((line.strip() for line in reversed(text.splitlines()) if strip_markup(line)), "")


def first_sentence(text: str) -> str:
    """The first sentence without its end mark, or the whole text."""
    end = _SENTENCE_END.search(text)
    return text[: end.start()] if end and text[: end.start()].strip() else text
