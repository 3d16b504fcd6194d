"""The `icl` command: finds the module of a subcommand by name and imports that module alone.

A subcommand is a module of this folder with a typer function `command`, or several in `commands`, or both, and a name
in `GROUPS`. The first line of the module's docstring is its line in `icl --help`, which imports no command.
"""

import ast
import io
import logging
import os
import shutil
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, wraps
from pathlib import Path
from typing import Any

from icl import ComponentError, ConfigError, ICLError, ICLWarning, __version__, did_you_mean, strip_control_characters

HEAD = "Research on in-context learning with multimodal language models."
GROUPS = {
    "Study": ("try", "new", "plan", "run"),
    "Read": ("show", "compare", "report", "label", "analyze"),
    "Share": ("push", "import"),
    "Extend": ("ls", "check", "export"),
    "Models and data": ("fit", "optimize", "serve", "data", "doctor"),
}
"""The commands in the order of `icl --help`."""
OLD_COMMANDS = {
    "card": "icl report RUN --as card",
    "diff": "icl doctor backends A B STUDY",
    "figures": "icl show RUN scores --as pdf",
    "judge": "icl label RUN --judge MODEL",
    "leaderboard": "icl report RUN RUN --as leaderboard",
    "merge": "icl import ALL RUN RUN",
    "mine": "icl data mine FILE",
    "probe": "icl doctor server URL",
    "runs": "icl ls runs",
    "schema": "icl ls schema",
    "simulate": "python -m lab.simulation, in a checkout of the repository",
    "table": "icl show RUN scores --as latex",
    "tune": "icl fit FILE",
    "verify": "icl check RUN",
    "watch": "icl show RUN --follow",
}
"""Commands of earlier versions -> what does their work now."""
USER_ERROR = 2
"""Exit status of a command that could not start: config, data, plan, store. A run with failed samples ends with 1."""
INTERRUPTED = 130
BROKEN_PIPE = 141
"""Exit status if the reader of the output, such as `head`, has ended. Unix tools use the same."""
COMPLETION = ("--install-completion", "--show-completion")
COMPLETION_VARIABLE = "_ICL_COMPLETE"
"""Set by the shell when it asks for completions."""
DEBUG = "--debug"
VERBOSE = {"--verbose": 1, "-v": 1, "-vv": 2}
COMMON_OPTIONS = (
    "Every command takes --verbose (log messages on stderr; twice: debug messages) and --debug (tracebacks)."
)
CLEAR_LINE = "\r\x1b[K"
COMPLETION_HELP = "`icl --install-completion` sets up the completion of your shell; `icl --show-completion` prints it."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The words after `icl`; by default those of this process. Every command takes `--verbose` (twice: debug
            messages) and `--debug`, which prints tracebacks before the sentence of an error.

    Returns:
        The exit status. A user's mistake is one sentence on stderr.
    """
    try:
        status = _main(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        return _end_output()
    return status


def _main(argv: Sequence[str] | None) -> int:
    for stream in (sys.stdout, sys.stderr):  # a Windows console of one code page has no '±'
        if isinstance(stream, io.TextIOWrapper) and "utf" not in stream.encoding.lower():
            stream.reconfigure(errors="replace")
    words = list(sys.argv[1:] if argv is None else argv)
    debug, verbosity = DEBUG in words, sum(VERBOSE.get(word, 0) for word in words)
    words = [word for word in words if word != DEBUG and word not in VERBOSE]
    if COMPLETION_VARIABLE in os.environ or (words and words[0] in COMPLETION):
        from experiments.cli.parser import complete

        return complete(words, commands())
    if not words or words[0] in ("--help", "-h", "help"):
        print(_help())
        return 0 if words else USER_ERROR
    if words[0] in ("--version", "-V"):
        print(f"mm-icl {__version__}")
        return 0
    if words[0] not in (names := [name for group in GROUPS.values() for name in group]):
        unknown = f"icl: no command named '{words[0]}'.{did_you_mean(words[0], names)} (icl --help)"
        now = OLD_COMMANDS.get(words[0])
        print(f"icl {words[0]} is now: {now}" if now else unknown, file=sys.stderr)
        return USER_ERROR
    # As vLLM's own command does: an engine process that is forked could not use CUDA if anything here had.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    try:
        return _call(words[0], words[1:], debug, verbosity)
    except ICLError as error:
        if debug:
            traceback.print_exception(error)
        hint = "" if debug or not isinstance(error, ComponentError) else " (--debug shows the traceback)"
        print(strip_control_characters(f"{error}{hint}"), file=sys.stderr)
        return USER_ERROR


def _print_trace(sentence: str, trace: str) -> None:
    print(strip_control_characters(trace), file=sys.stderr)


@cache
def commands() -> dict[str, str]:
    """The name and the summary of every command, read without importing it."""
    summaries = {}
    for name in (name for group in GROUPS.values() for name in group):
        text = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
        summaries[name] = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    return summaries


def _call(name: str, words: list[str], debug: bool, verbosity: int) -> int:
    default_format = warnings.formatwarning
    try:
        from experiments.cli.parser import parser_of
        from icl import user_errors

        warnings.formatwarning = lambda message, category, *more: (
            f"{strip_control_characters(str(message))}\n"
            if issubclass(category, ICLWarning)
            else default_format(message, category, *more)
        )
        app = parser_of(name, COMMON_OPTIONS, _report_interrupt)
        tracebacks = user_errors.collect_tracebacks(_print_trace) if debug else nullcontext()
        with verbose_logging(verbosity), tracebacks, user_errors.convert_user_errors():
            app(args=words, prog_name=f"icl {name}")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:  # while the command is still being imported
        print("stopped.", file=sys.stderr)
        return INTERRUPTED
    finally:
        warnings.formatwarning = default_format
    return 0


class StderrHandler(logging.Handler):
    """A handler that writes to the current `sys.stderr`, above a progress display.

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
    """Shows the records of the logger `icl` and its children, to which all packages log, on stderr (`--verbose`).

    Without it, and in a library, only a `NullHandler` is attached to `icl`: the handlers of the calling program decide.

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


def _report_interrupt(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with a check of its paths. Typer would end silently with 1 after Ctrl-C or a broken pipe."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            for value in kwargs.values():
                for path in value if isinstance(value, list) else [value]:
                    if isinstance(path, Path):
                        checked_path(path)
            command(*args, **kwargs)
            sys.stdout.flush()
        except KeyboardInterrupt:
            print("stopped.", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        except (BrokenPipeError, SystemExit) as error:
            if not any(isinstance(one, BrokenPipeError) for one in (error, error.__context__)):
                raise
            raise SystemExit(_end_output()) from None  # rich ends with 1

    return wrapped


def checked_path(path: str | Path) -> Path:
    """The path. Raises ConfigError if no file can have it: '', or a name of more than 255 bytes."""
    if not str(path):
        raise ConfigError("'' cannot be a path: name a file or folder.")
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be a path: {getattr(error, 'strerror', error)}.") from error
    return Path(path)


def _end_output() -> int:
    """Sends further output nowhere: the interpreter flushes once more when it ends. Returns the exit status."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def _help() -> str:
    summaries, width = commands(), shutil.get_terminal_size().columns
    longest = max(map(len, summaries))
    lines = [f"Usage: icl COMMAND [ARGUMENTS]\n\n{HEAD}"]
    for group, names in GROUPS.items():
        lines += ["", group]
        for name in names:
            lines += hanging_lines(f"  {name:<{longest}}  ", summaries[name], width)
    lines.append("")
    for text in ("`icl COMMAND --help` explains a command.", COMMON_OPTIONS, COMPLETION_HELP):
        lines += hanging_lines("", text, width)
    return "\n".join(lines)


def print_names(summaries: Mapping[str, str]) -> None:
    """Prints names with what they stand for."""
    longest, width = max(map(len, summaries), default=0), shutil.get_terminal_size().columns
    for name, summary in summaries.items():
        print(*hanging_lines(f"  {name:<{longest}}  ", summary, width), sep="\n")


def hanging_lines(head: str, text: str, width: int, further: str | None = None) -> list[str]:
    """The text wrapped, with later lines indented under its first word."""
    below = " " * len(head) if further is None else further
    text = " ".join(text.split())
    return textwrap.wrap(
        text, width, initial_indent=head, subsequent_indent=below, break_on_hyphens=False, break_long_words=False
    ) or [head.rstrip()]


if __name__ == "__main__":
    sys.exit(main())
