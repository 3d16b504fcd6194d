"""Shortens long parameter values for labels. A digest distinguishes values with the same beginning."""

import hashlib

MAX_LENGTH = 60
"""Characters of a parameter value that a label shows."""


def truncate(text: str) -> str:
    """The text, cut to MAX_LENGTH characters with a digest at the end: '[0.1, 0.2, 0.…#9f86d0]'."""
    if len(text) <= MAX_LENGTH:
        return text
    mark = f"…#{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:6]}"
    closed = text[-1] if text[-1] in ")]}" else ""
    return f"{text[: MAX_LENGTH - len(mark) - len(closed)]}{mark}{closed}"
