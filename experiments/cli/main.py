"""The `icl` command: finds the module of a subcommand by name and imports that module alone.

A subcommand is a module of this folder with a typer function `command`. The first line of the module's docstring is
its line in `icl --help`. A new command is a new file, and `icl --help` imports no command.
"""

import ast
import inspect
import io
import os
import shutil
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import wraps
from pathlib import Path
from typing import Any

from icl import __version__
from icl.errors import ComponentError, ConfigError, ICLError, ICLWarning, did_you_mean, strip_control_characters

HEAD = "Research on in-context learning with multimodal language models."
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
    names = commands()
    if COMPLETION_VARIABLE in os.environ or (words and words[0] in COMPLETION):
        from experiments.cli.completion import complete

        return complete(words, names)
    if not words or words[0] in ("--help", "-h", "help"):
        print(_help())
        return 0 if words else USER_ERROR
    if words[0] in ("--version", "-V"):
        print(f"mm-icl {__version__}")
        return 0
    if words[0] not in names:
        print(f"icl: no command named '{words[0]}'.{did_you_mean(words[0], names)} (icl --help)", file=sys.stderr)
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


def commands() -> dict[str, str]:
    """The name and the summary of every command, read without importing it."""
    summaries = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "\ndef command(" in text:
            summary = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
            summaries[path.stem.replace("_", "-")] = summary
    return summaries


def _call(name: str, words: list[str], debug: bool, verbosity: int) -> int:
    import importlib

    default_format = warnings.formatwarning
    try:
        import typer

        from experiments.cli.command_line import CommandLine
        from experiments.terminal.log_handler import verbose_logging
        from icl import user_errors

        warnings.formatwarning = lambda message, category, *more: (
            f"{strip_control_characters(str(message))}\n"
            if issubclass(category, ICLWarning)
            else default_format(message, category, *more)
        )
        module = importlib.import_module(f"experiments.cli.{name.replace('-', '_')}")
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        app.command(
            cls=CommandLine,
            help=f"{module.__doc__}\n\n{inspect.cleandoc(module.command.__doc__ or '')}",
            epilog=COMMON_OPTIONS,
        )(_report_interrupt(module.command))
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


def _report_interrupt(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with a check of its paths. Typer would end silently with 1 after Ctrl-C or a broken pipe."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            for value in kwargs.values():
                _check_paths(value if isinstance(value, list) else [value])
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


def _check_paths(values: Sequence[Any]) -> None:
    """Raises ConfigError for a path that no file can have, such as one with a name of more than 255 bytes."""
    for path in (value for value in values if isinstance(value, Path)):
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        except OSError as error:
            raise ConfigError(f"{path} cannot be a path: {error.strerror}.") from error


def _end_output() -> int:
    """Sends further output nowhere: the interpreter flushes once more when it ends. Returns the exit status."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def _help() -> str:
    summaries = commands()
    width = max(map(len, summaries), default=0)
    lines = "\n".join(_folded(f"  {name:<{width}}  ", summary) for name, summary in summaries.items())
    end = "\n".join(
        _folded("", text) for text in ("`icl COMMAND --help` explains a command.", COMMON_OPTIONS, COMPLETION_HELP)
    )
    return f"Usage: icl COMMAND [ARGUMENTS]\n\n{HEAD}\n\nCommands:\n{lines}\n\n{end}"


def _folded(head: str, text: str) -> str:
    """The text wrapped to the terminal, with later lines indented under its first word."""
    columns = shutil.get_terminal_size().columns
    return textwrap.fill(text, columns, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)


if __name__ == "__main__":
    sys.exit(main())
