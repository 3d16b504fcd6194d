"""A run directory may be somebody else's: without the user's trust, no code that it names runs, and no address that it
names is contacted.

Whatever reads a run directory builds components inside `untrusted`. There, only installed components are loaded
(`icl.loading`), `icl.registry.build` refuses parameters through which code can run, and an endpoint is built closed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from icl.errors import ConfigError

_RUN: ContextVar[Path | None] = ContextVar("UNTRUSTED_RUN", default=None)


@contextmanager
def untrusted(run: Path | None) -> Iterator[None]:
    """Refuse what this run directory names. None changes nothing: inside, trust cannot be gained."""
    token = _RUN.set(run or _RUN.get())
    try:
        yield
    finally:
        _RUN.reset(token)


def untrusted_run() -> Path | None:
    """The run directory that is being read without trust, or None."""
    return _RUN.get()


def refusal(run: Path, what: str) -> str:
    """The sentence about something that needs trust. what: 'the code mine.py:Mine is not imported'."""
    return (
        f"{run}: {what} without --trust, because a run directory may be somebody else's. Check it, then add --trust, "
        "or use the experiment file instead of the run."
    )


def refuse_untrusted(what: str, where: str = "") -> None:
    """Raises ConfigError if a run directory is being read without trust.

    Args:
        what: What does not happen: 'the code mine.py:Mine is not imported'.
        where: The beginning of the message, such as 'config: metrics[1]: '.
    """
    if (run := untrusted_run()) is not None:
        raise ConfigError(where + refusal(run, what))
