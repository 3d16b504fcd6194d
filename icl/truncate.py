"""Shortens long parameter values for labels. A digest distinguishes values with the same beginning."""

import hashlib

MAX_LENGTH = 60
"""Characters of a parameter value that a label shows."""


def truncate(text: str, longest: int = MAX_LENGTH) -> str:
    """The text, cut to `longest` characters with a digest at the end: '[0.1, 0.2, 0.…#9f86d0]'."""
    if len(text) <= longest:
        return text
    mark = f"…#{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:6]}"
    closed = text[-1] if text[-1] in ")]}" else ""
    return f"{text[: longest - len(mark) - len(closed)]}{mark}{closed}"
