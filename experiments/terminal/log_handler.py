"""`--verbose`: the log records of the toolkit on stderr, above the progress display.

All packages log to children of the logger `icl`. Without `--verbose`, and in a library, only a `NullHandler` is
attached to it, so that the handlers of the calling program decide.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from icl import strip_control_characters

CLEAR_LINE = "\r\x1b[K"


class StderrHandler(logging.Handler):
    """A handler that writes to the current `sys.stderr`.

    rich replaces `sys.stderr` while a progress bar is shown, and prints above the bar what is written to it. The line
    of `spinner` is cleared first; its next update writes it again.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            stream = sys.stderr
            is_plain_terminal = stream.isatty() and not hasattr(stream, "rich_proxied_file")
            stream.write(f"{CLEAR_LINE if is_plain_terminal else ''}{strip_control_characters(self.format(record))}\n")
            stream.flush()
        except Exception:  # noqa: BLE001 (a record that cannot be written must not end a run)
            self.handleError(record)


@contextmanager
def verbose_logging(verbosity: int) -> Iterator[None]:
    """Shows the records of the logger `icl` and its children.

    Args:
        verbosity: 0 shows none, 1 shows INFO and above, 2 or more shows DEBUG too.
    """
    if not verbosity:
        yield
        return
    logger, handler = logging.getLogger("icl"), StderrHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
    level = logger.level
    logger.setLevel(logging.INFO if verbosity == 1 else logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
