"""Turns exceptions of users' own components into errors that name the component, the line and the problem.

A user's component may raise anything. Calls of components run inside `convert_user_errors`, which turns an exception
from user code into a `ComponentError`. It then fails only the sample that it belongs to. The innermost traceback line
that belongs neither to the toolkit nor to an installed package decides whose code failed. `collect_tracebacks` receives
the full traceback.
"""

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

from icl import ComponentError, ICLError, import_path, is_out_of_memory
from icl.lazy_exports import PACKAGES
from icl.registry import is_builtin

TracebackSink = Callable[[str, str], None]
"""Function that takes the message and the traceback."""

TRACEBACK_SINKS: ContextVar[tuple[TracebackSink, ...]] = ContextVar("TRACEBACK_SINKS", default=())

INSTALLED = frozenset({"site-packages", "dist-packages"})
"""Folders of installed packages, including folders of other environments that this one reads (`pip install --user`)."""


@contextmanager
def convert_user_errors(*components: Any) -> Iterator[None]:
    """Turn an exception from user code into a ComponentError. Other exceptions pass unchanged.

    ICLError and out-of-memory errors pass, except a MemoryError in a call of `components`, which has no batch to halve.
    SystemExit counts as an exception: `sys.exit` in a component must not end a run as if it were complete.

    Args:
        components: The components that are called in the block. If one of them is a user's, an exception in toolkit
            code is attributed to the value that it returned.
    """
    try:
        yield
    except ICLError:
        raise
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error) and not (components and isinstance(error, MemoryError)):
            raise  # the caller may retry with a smaller batch
        if (message := error_message(error, *components)) is None:
            raise
        trace = "".join(traceback.format_exception(error))
        for sink in TRACEBACK_SINKS.get():
            sink(message, trace)
        raise ComponentError(message) from error


def error_message(error: BaseException, *components: Any) -> str | None:
    """A sentence about an exception of user code; None if no user code is involved."""
    what = f"{type(error).__name__}: {error}".rstrip(".: ")
    classes = map(type, components)
    theirs = [cls for cls in classes if cls.__module__ != "builtins" and not is_builtin(cls)]
    files = {getattr(sys.modules.get(cls.__module__), "__file__", None) for cls in theirs}
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if _is_user_file(frame.f_code.co_filename) or frame.f_code.co_filename in files:
            return f"{_call_name(frame)} ({frame.f_code.co_filename}, line {line}) failed: {what}."
    return f"the return value of {import_path(theirs[0])} cannot be used: {what}." if theirs else None


@contextmanager
def collect_tracebacks(sink: TracebackSink) -> Iterator[None]:
    """Pass the tracebacks of components that fail in the block to a sink."""
    token = TRACEBACK_SINKS.set((*TRACEBACK_SINKS.get(), sink))
    try:
        yield
    finally:
        TRACEBACK_SINKS.reset(token)


class TracebackLog:
    """A file of tracebacks, each written once. The first one creates the file. Write errors are ignored."""

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
            return  # the sample has the message


def _call_name(frame: FrameType) -> str:
    """The name of the failing call: 'Mine.retrieve', or the name of a function."""
    owner = frame.f_locals.get("self")
    name = frame.f_code.co_name
    return name if owner is None else f"{type(owner).__name__}.{name}"


@lru_cache
def _is_user_file(file: str) -> bool:
    """Whether a source file belongs neither to the toolkit nor to Python or an installed package."""
    if file.startswith("<"):
        return False
    path = Path(file).resolve()
    if INSTALLED.intersection(path.parts):
        return False
    return not any(path.is_relative_to(folder) for folder in _installed_folders())


@lru_cache
def _installed_folders() -> tuple[Path, ...]:
    root = Path(__file__).resolve().parents[1]
    paths = sysconfig.get_paths()
    installed = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return (*(root / name for name in PACKAGES), *(Path(folder).resolve() for folder in installed))
