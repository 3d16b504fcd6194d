"""Formulas of docstrings as MathML, which browsers draw without a script or a font from elsewhere.

Docstrings write formulas as one types them: `scores = (1 + alpha) z(y | image) - alpha z(y | noised image)`. A letter
is a variable, the name of a Greek letter is that letter, `_` and `^` attach an index or a power, other words are text.
"""

import re

from latex2mathml.converter import convert

GREEK = frozenset(
    {
        *(
            "alpha",
            "beta",
            "gamma",
            "delta",
            "epsilon",
            "zeta",
            "eta",
            "theta",
            "kappa",
            "lambda",
            "mu",
            "nu",
            "xi",
            "pi",
        ),
        *("rho", "sigma", "tau", "phi", "chi", "psi", "omega"),
    }
)
FUNCTIONS = frozenset(
    {
        *("log", "exp", "max", "min", "cos", "argmax", "argmin", "softmax", "sigmoid", "mean", "median", "sd", "sign"),
        *("sqrt", "ln", "log2", "topk", "unit", "JSD", "KL"),
    }
)
OPERATORS = {
    "<=": r"\le ",
    ">=": r"\ge ",
    "!=": r"\ne ",
    "->": r"\to ",
    ":=": r"\mathrel{:=}",
    "*": r"\cdot ",
    "{": r"\{",
    "}": r"\}",
    "%": r"\%",
    "...": r"\ldots ",
    "||": r"\Vert ",
    "~": r"\sim ",
}
INDEX = r"(?:[_^](?:[A-Za-z]+|\d+)(?:[-+]\d+|,\d+|,[a-z])?)*'*"
TOKEN = re.compile(
    rf"(?P<word>[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9](?:'s)?|[A-Za-z])(?P<index>{INDEX})"
    r"|(?P<number>\d*\.?\d+(?:,\d{3})*(?:e-?\d+)?)"
    r"|(?P<power>\^(?:\w+|\([^()]*\)))"
    r"|(?P<operator><=|>=|!=|->|:=|\.\.\.|\|\||[-+*/=<>()\[\]{},.;:|%~])"
    r"|(?P<space>\s+)"
)


def formula_block(lines: list[str]) -> str | None:
    """MathML of the lines of an indented block, or None if one of them is no formula."""
    rows = [to_latex(line) for line in lines]
    if not any("=" in line for line in lines) or None in rows or _is_prose(lines):
        return None
    equations = "\n".join(convert(row, display="block") for row in rows if row)
    return f'<div class="formula">\n{equations}\n</div>'


def to_latex(line: str) -> str | None:
    """LaTeX of one line, or None if it has a character that formulas do not use."""
    chunks = [_chunk(chunk) for chunk in re.split(r"\s{3,}", line.strip())]
    return None if None in chunks else r"\qquad ".join(chunk for chunk in chunks if chunk)


def _is_prose(lines: list[str]) -> bool:
    """Whether the lines have twice as many words as symbols. Such a block stays text, which can wrap."""
    text = " ".join(lines)
    return len(re.findall(r"[A-Za-z-]{2,}", text)) > 2 * len(re.findall(r"[-+*/=<>()|]|\b[A-Za-z]\b", text))


def _chunk(text: str) -> str | None:
    """LaTeX of a formula or of a condition after it. Words that follow one another are one text."""
    parts, words, position = list[str](), list[str](), 0
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None:
            return None
        position = match.end()
        if match["word"] == "x" and re.search(r"[\d)] +$", text[: match.start()]):
            parts.append(r"\times")
            continue
        if match["word"] and not match["index"] and _is_text(match["word"], text, match.start(), position):
            words.append(match["word"])
            continue
        if match["space"]:
            continue
        parts += [_text(words)] * bool(words)
        words = []
        parts.append(_symbol(match))
    parts += [_text(words)] * bool(words)
    return " ".join(parts)


def _is_text(word: str, text: str, start: int, end: int) -> bool:
    """Whether a word is text. A single letter is text only as the article in a row of words."""
    if word in GREEK or word in FUNCTIONS:
        return False
    return len(word) > 1 or (
        word in "aI" and bool(re.search(r"[a-z]{2} $", text[:start])) and text[end : end + 1] == " "
    )


def _text(words: list[str]) -> str:
    return rf"\;\text{{{' '.join(words)}}}\;"


def _symbol(match: re.Match[str]) -> str:
    """LaTeX of a variable with its indices, a number, a bar with a power, or an operator."""
    if match["power"]:
        return f"^{{{_chunk(match['power'][1:].strip('()')) or ''}}}"
    if not match["word"]:
        return match["number"] or OPERATORS.get(match["operator"], match["operator"])
    latex = r"\sum" if match["word"] == "sum" else _name(match["word"])
    primes = match["index"].count("'")
    indices = re.findall(r"([_^])([^_^']+)", match["index"])
    attached = "".join(rf"{mark}{{{_name(name)}}}" for mark, name in indices)
    return latex + "'" * primes + attached


def _name(word: str) -> str:
    if word in GREEK:
        return rf"\{word}"
    if word in FUNCTIONS:
        return r"\log_2" if word == "log2" else rf"\operatorname{{{word}}}"
    return (
        word
        if len(word) == 1 or not word[0].isalpha() or re.fullmatch(r"[a-z][-+,][a-z0-9]+", word)
        else rf"\text{{{word}}}"
    )
