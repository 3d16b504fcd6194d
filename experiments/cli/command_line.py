"""The parser of a subcommand's words, with hints for options that other tools have."""

from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperCommand

UsageError: Any = typer.BadParameter.__base__
"""The base class of errors about words, which typer does not export."""

SAME_WORD = 0.8


class CommandLine(TyperCommand):
    """A command that explains an unknown option.

    Three mistakes are common. `--model tiny` is a key of the experiment file, and `--format latex` is an option of the
    name of its value. Anything else is a typing error, which typer explains.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            if hasattr(error, "possibilities"):
                self._explain(error, words)
            raise

    def _explain(self, error: Any, words: list[str]) -> None:
        """Adds a hint to the error about an unknown option."""
        options = {name for parameter in self.params for name in parameter.opts}
        place = next(i for i, word in enumerate(words) if word.partition("=")[0] == error.option_name)
        _, has_value, value = words[place].partition("=")
        value = value if has_value else next(iter(words[place + 1 :]), "")
        if f"--{value}" in options:
            error.possibilities = [f"--{value}"]
        elif key := self._config_key(error.option_name.lstrip("-")):
            error.possibilities = []
            error.message += f". A key of the experiment file is written without dashes: {key}={value or '…'}"

    def _config_key(self, name: str) -> str:
        """The key of an experiment file that an option names, or ''. Commands without a file have no such option."""
        if all(parameter.name != "overrides" for parameter in self.params):
            return ""
        from experiments.config.keys import KEYS

        first, dot, rest = name.replace("-", "_").partition(".")
        nearest = get_close_matches(first, KEYS, 1, SAME_WORD)
        return f"{nearest[0]}{dot}{rest}" if nearest else ""
