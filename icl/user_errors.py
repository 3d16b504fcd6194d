"""Exceptions of somebody's own components: told with the component, the line and the error, not as a defect of ours.

A component of one's own may raise anything. Around the calls of components stands `convert_user_errors`: an exception that comes
out of their code becomes a `ComponentError`, a sentence as any other, so that it fails the sample that it was about and
no other. Which code is whose is read from the traceback: the innermost line that is neither of the toolkit nor of an
installed package. The traceback itself goes where `kept` says.
"""

import site
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

from icl.errors import ComponentError, ICLError
from icl.loading import import_path
from icl.registry import is_builtin

TracebackSink = Callable[[str, str], None]
"""Is told the sentence and the traceback."""

TRACEBACK_SINKS: ContextVar[tuple[TracebackSink, ...]] = ContextVar("KEEPERS", default=())
OUT_OF_MEMORY_MESSAGES = ("out of memory", "can't allocate memory")
TOOLKIT_PACKAGES = ("icl", "retrievers", "prompts", "decoding", "experiments")


@contextmanager
def convert_user_errors(*components: Any) -> Iterator[None]:
    """Turns an exception out of somebody's own code into a ComponentError. What is ours stays as it is.

    components: that are called within. Where one of them is of somebody's own, an exception of ours is about what it
    gave. An ICLError passes, and so does a lack of memory.
    """
    try:
        yield
    except (ICLError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError" or any(words in str(error) for words in OUT_OF_MEMORY_MESSAGES):
            raise  # of a device: whoever asks may do with less
        if (message := error_message(error, *components)) is None:
            raise
        trace = "".join(traceback.format_exception(error))
        for keep in TRACEBACK_SINKS.get():
            keep(message, trace)
        raise ComponentError(message) from error


def error_message(error: BaseException, *components: Any) -> str | None:
    """Where it comes from and what it is; None where it is nobody's own."""
    what = f"{type(error).__name__}: {error}".rstrip(".: ")
    theirs = [type(component) for component in components if not _is_toolkit_class(type(component))]
    files = {getattr(sys.modules.get(cls.__module__), "__file__", None) for cls in theirs}
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if _is_user_file(frame.f_code.co_filename) or frame.f_code.co_filename in files:
            return f"{_call_name(frame)} ({frame.f_code.co_filename}, line {line}) failed: {what}."
    return f"what {import_path(theirs[0])} gave cannot be used: {what}." if theirs else None


@contextmanager
def collect_tracebacks(keep: TracebackSink) -> Iterator[None]:
    """Tracebacks of components that fail within are handed to `keep` too."""
    token = TRACEBACK_SINKS.set((*TRACEBACK_SINKS.get(), keep))
    try:
        yield
    finally:
        TRACEBACK_SINKS.reset(token)


class TracebackLog:
    """Keeps each different traceback once in a file, which begins with the first. A disk that is full keeps none."""

    def __init__(self, path: Path) -> None:
        self.path, self.traces = path, set[str]()

    def __call__(self, message: str, trace: str) -> None:
        if trace in self.traces:
            return
        self.traces.add(trace)
        try:
            with self.path.open("a", encoding="utf-8", errors="replace") as file:
                file.write(f"{message}\n{trace}\n")
        except OSError:
            return  # the sentence stands where the sample is


def _is_toolkit_class(cls: type[Any]) -> bool:
    return cls.__module__ == "builtins" or is_builtin(cls)


def _call_name(frame: FrameType) -> str:
    """'Mine.retrieve', or the function where there is no object."""
    owner = frame.f_locals.get("self")
    name = frame.f_code.co_name
    return name if owner is None else f"{type(owner).__name__}.{name}"


@lru_cache
def _is_user_file(file: str) -> bool:
    """Whether a file of code is neither of the toolkit nor of Python or a package that is installed."""
    if file.startswith("<"):
        return False
    path = Path(file).resolve()
    return not any(path.is_relative_to(folder) for folder in _installed_folders())


@lru_cache
def _installed_folders() -> tuple[Path, ...]:
    root = Path(__file__).resolve().parents[1]
    paths = sysconfig.get_paths()
    installed = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")] + site.getsitepackages()
    return (*(root / name for name in TOOLKIT_PACKAGES), *(Path(folder).resolve() for folder in installed))
