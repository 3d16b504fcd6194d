"""Long values in a few letters, for labels: the beginning, and a digest that tells it from others that begin so."""

import hashlib

MAX_LENGTH = 60
"""Letters of a parameter's value that a label has room for."""


def truncate(text: str, longest: int = MAX_LENGTH) -> str:
    """'[0.1, 0.2, 0.…#9f86d0]': the text itself where it is short, else as long as `longest`."""
    if len(text) <= longest:
        return text
    mark = f"…#{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:6]}"
    closed = text[-1] if text[-1] in ")]}" else ""
    return f"{text[: longest - len(mark) - len(closed)]}{mark}{closed}"
