"""The markup around answers: Markdown, LaTeX, quotes, roles and special tokens, and how to remove it."""

import re
import unicodedata

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
