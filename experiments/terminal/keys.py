"""Single keys of a terminal, without the Return key; lines of a pipe elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

END = ""
"""What `read_key` returns at the end of the input."""
INTERRUPT = "\x03"


def read_key() -> str:
    """The next key, inside `single_keys`. In a pipe it is the first character of a line, and a space of an empty one.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return (line.strip()[:1] or " ") if line else END
    if sys.platform == "win32":
        import msvcrt

        key = msvcrt.getwch()
    else:
        key = sys.stdin.read(1)
    if key == INTERRUPT:
        raise KeyboardInterrupt
    return key


@contextmanager
def single_keys() -> Iterator[None]:
    """A terminal that passes each key on at once and does not print it."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
