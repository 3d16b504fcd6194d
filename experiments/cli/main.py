"""The `icl` command: finds the file of a subcommand by name and imports that one alone.

A subcommand is a module of this folder with a typer function `command`; the first line of the module's docstring is
its line in `icl --help`. So a new command is a new file, and the help of all of them imports none.
"""

import ast
import inspect
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
from icl.errors import ComponentError, ICLError, ICLWarning, did_you_mean, strip_control_characters

HEAD = "Research on in-context learning with multimodal language models."
WRONG = 2
"""Exit status of a command that could not start: config, data, plan, store. A run with failed samples ends with 1."""
INTERRUPTED = 130
DEBUG = "--debug"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit status. A user's mistake is one sentence on stderr, never a traceback.

    With --debug, which every command takes, the traceback of what it ended with stands before the sentence, and those
    of somebody's own components as they come.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if debug := DEBUG in words:
        words.remove(DEBUG)
    if not words or words[0] in ("--help", "-h", "help"):
        print(_help())
        return 0 if words else WRONG
    if words[0] in ("--version", "-V"):
        print(f"mm-icl {__version__}")
        return 0
    names = commands()
    if words[0] not in names:
        print(f"icl: no command named '{words[0]}'.{did_you_mean(words[0], names)} (icl --help)", file=sys.stderr)
        return WRONG
    try:
        return _call(words[0], words[1:], debug)
    except ICLError as error:
        if debug:
            traceback.print_exception(error)
        hint = "" if debug or not isinstance(error, ComponentError) else " (--debug shows the traceback)"
        print(strip_control_characters(f"{error}{hint}"), file=sys.stderr)
        return WRONG
    except BrokenPipeError:  # the reader (`head`) left
        sys.stderr.close()
        return 0


def _traced(sentence: str, trace: str) -> None:
    print(strip_control_characters(trace), file=sys.stderr)


def commands() -> dict[str, str]:
    """name -> one line, of every command, without importing it."""
    summaries = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "\ndef command(" in text:
            summary = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
            summaries[path.stem.replace("_", "-")] = summary
    return summaries


def _call(name: str, words: list[str], debug: bool) -> int:
    import importlib

    written = warnings.formatwarning
    try:
        import typer

        from icl import user_errors as blame

        warnings.formatwarning = lambda message, category, *more: (
            f"{strip_control_characters(str(message))}\n"
            if issubclass(category, ICLWarning)
            else written(message, category, *more)
        )
        module = importlib.import_module(f"experiments.cli.{name.replace('-', '_')}")
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        app.command(help=f"{module.__doc__}\n\n{inspect.cleandoc(module.command.__doc__ or '')}")(
            _stoppable(module.command)
        )
        with blame.collect_tracebacks(_traced) if debug else nullcontext(), blame.convert_user_errors():
            app(args=words, prog_name=f"icl {name}")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:  # while the command is still being imported
        print("stopped.", file=sys.stderr)
        return INTERRUPTED
    finally:
        warnings.formatwarning = written
    return 0


def _stoppable(command: Callable[..., None]) -> Callable[..., None]:
    """The command, which says that it was stopped: its parser would end it without a word."""

    @wraps(command)
    def stoppable(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            print("stopped.", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None

    return stoppable


def _help() -> str:
    summaries = commands()
    width = max(map(len, summaries), default=0)
    lines = "\n".join(_folded(f"  {name:<{width}}  ", summary) for name, summary in summaries.items())
    end = "`icl COMMAND --help` explains one, --debug shows tracebacks."
    return f"Usage: icl COMMAND [ARGUMENTS]\n\n{HEAD}\n\nCommands:\n{lines}\n\n{end}"


def _folded(head: str, text: str) -> str:
    """Within the terminal, the lines after the first under its text."""
    columns = shutil.get_terminal_size().columns
    return textwrap.fill(text, columns, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)


if __name__ == "__main__":
    sys.exit(main())
