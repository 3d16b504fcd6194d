"""The parser of a command's words, with hints for options that are spelled differently here, and shell completion."""

import importlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from experiments.cli.options import FORMATS

UsageError: Any = typer.BadParameter.__base__
"""The base class of errors about words, which typer does not export."""
SAME_WORD = 0.8
OLD_OPTIONS = {
    "show": {
        "--prompt": "icl show RUN prompt QUERY",
        "--failed": "icl show RUN failed",
        "--once": "icl show RUN progress",
    },
    "compare": {
        "--controls": "icl show RUN controls",
        "--page": "icl show RUN controls --as markdown --out FILE",
    },
    "doctor": dict.fromkeys(("--bench", "--quick", "--out"), "make gpu, in a checkout of the repository"),
}
"""Options of earlier versions -> what does their work now."""
TYPED = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")
"""Variables in which shells pass the words so far."""

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def parser_of(name: str, epilog: str, wrap: Decorator) -> typer.Typer:
    """The parser of one command, whose module has one function `command`, or several `commands`, or both.

    Args:
        name: The name of the command.
        epilog: The last lines of each help page.
        wrap: What is put around each function.
    """
    app = typer.Typer(
        name=name, cls=CommandGroup, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
    )
    module = importlib.import_module(f"experiments.cli.{name}")
    several: Sequence[Callable[..., None]] = getattr(module, "commands", ())
    for function in several or (module.command,):
        doc = inspect.cleandoc(function.__doc__ or "")
        text = doc if several else f"{module.__doc__}\n\n{doc}"
        app.command(function.__name__ if several else name, cls=CommandLine, help=text, epilog=epilog)(wrap(function))
    if several:
        alone = getattr(module, "command", None)
        text = f"{module.__doc__}\n\n{inspect.cleandoc(alone.__doc__ or '') if alone else ''}".rstrip()
        app.callback(help=text, epilog=epilog, invoke_without_command=alone is not None)(
            wrap(alone) if alone else _nothing
        )
    return app


class Hints:
    """What `CommandLine` and `CommandGroup` share: the explanation of an unknown option.

    Common mistakes: an option of an earlier version; `--model tiny`, which is a key of the experiment file; and
    `--latex` or `--format latex`, which is `--as latex`. Anything else is a typing error, which typer explains.
    """

    name: str | None
    params: list[Any]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = list(args)
        try:
            parsed: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]  # of the command or the group
            return parsed
        except UsageError as error:
            if hasattr(error, "possibilities") and (hint := self._hint(error.option_name, words)):
                error.possibilities, error.message = [], f"{error.message}. {hint}"
            raise

    def _hint(self, option: str, words: Sequence[str]) -> str:
        """A sentence on an unknown option, or ''."""
        place = next(i for i, word in enumerate(words) if word.partition("=")[0] == option)
        _, has_value, value = words[place].partition("=")
        value = value if has_value else next(iter(words[place + 1 :]), "")
        if now := OLD_OPTIONS.get(self.name or "", {}).get(option):
            return f"It is now: {now}"
        if any("--as" in parameter.opts for parameter in self.params):
            end = value.rpartition(".")[2]
            if option == "--format" and value in FORMATS:
                return f"Did you mean --as {value}?"
            if option == "--figure" and end in FORMATS:
                return f"Did you mean --as {end} --out {value}?"
            if option[2:] in FORMATS:
                file = f" --out {value}" if end == option[2:] else ""
                return f"Did you mean --as {option[2:]}{file}?"
        if key := self._config_key(option.lstrip("-")):
            return f"A key of the experiment file is written without dashes: {key}={value or '…'}"
        return ""

    def _config_key(self, name: str) -> str:
        """The key of an experiment file that an option names, or ''. Commands without a file have no such option."""
        if all(parameter.name != "overrides" for parameter in self.params):
            return ""
        from experiments.config.keys import KEYS

        first, dot, rest = name.replace("-", "_").partition(".")
        nearest = get_close_matches(first, KEYS, 1, SAME_WORD)
        return f"{nearest[0]}{dot}{rest}" if nearest else ""


class CommandLine(Hints, TyperCommand):
    """A command that explains an unknown option. The list of a group has its whole summary."""

    def get_short_help_str(self, limit: int = 0) -> str:
        return super().get_short_help_str(limit=10_000)


class CommandGroup(Hints, TyperGroup):
    """Several commands under one name that explain an unknown option."""


def complete(words: Sequence[str], summaries: Mapping[str, str]) -> int:
    """Installs or prints the completion, or answers a shell that asks for completions. Returns the exit status.

    Args:
        words: The words after `icl`.
        summaries: The line of each command.
    """
    typed = {word for name in TYPED for word in os.environ.get(name, "").split()}
    app = typer.Typer(rich_markup_mode=None)
    for name, summary in summaries.items():
        if name in typed:  # only the module of the command that is being completed is imported
            parser = parser_of(name, "", lambda function: function)
            if len(parser.registered_commands) > 1:
                app.add_typer(parser, name=name, help=summary)
            else:
                app.command(name, help=summary)(parser.registered_commands[0].callback or _nothing)
        else:
            app.command(name, help=summary)(_nothing)
    try:
        app(args=list(words), prog_name="icl")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def _nothing() -> None:
    """Stands for a command that does nothing by itself."""
