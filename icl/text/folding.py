"""The folded form of a text: two answers with equal folded texts are the same answer."""

import re
import unicodedata


def fold(text: str) -> str:
    """The text in Unicode NFKC and lower case, without markup, quotes, a leading article and punctuation around it."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'").casefold()
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", text)
    text = " ".join(re.sub(r"[*_`$\"“”]+|^#+|(?<!\w)'|'(?!\w)", " ", text).split())
    return re.sub(r"^(?:an?|the)\s+", "", re.sub(r"^(?:[ !,;:]|\.(?!\d))+|[ .!,;:]+$", "", text))
