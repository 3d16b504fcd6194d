"""Answers replaced by other words: `words: {red: crimson}`, in demonstrations, options and gold.

This is between the task's labels and symbols: the meaning stays, the wording is new. The map must keep different
answers different. Answers that it does not contain keep their names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from icl.errors import ConfigError, PlanError
from icl.metrics.normalize import normalize_text
from icl.registry import component
from icl.types import Context
from prompts.example_changes import rename_answers
from prompts.label_renaming import answers_of, new_name


@component("transform", "synonyms")
@dataclass(frozen=True)
class Synonyms:
    """A transform that replaces answers by a user's map, in demonstrations, options and gold."""

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    words: Mapping[str, str] = field(default_factory=dict)  # answer of the task -> new name

    def __post_init__(self) -> None:
        for keys, what in ((list(self.words), "is renamed twice"), (list(self.words.values()), "is the name of two")):
            plain = [normalize_text(key) for key in keys]
            if twice := next((key for key in keys if plain.count(normalize_text(key)) > 1), None):
                raise ConfigError(f"words: '{twice}' {what}. Every answer needs a name of its own.")

    def transform(self, context: Context) -> Context:
        if not self.words:
            return context
        old = answers_of(context)
        new_names = [normalize_text(new_name(answer, self.words)) for answer in old]
        if twice := next((name for name in new_names if new_names.count(name) > 1), None):
            raise PlanError(
                f"synonyms: query '{context.query.id}' would have two answers called '{twice}': one is renamed to what "
                "another is already called. Rename that one too."
            )
        return rename_answers(context, self.words, "synonyms: answers renamed, saw labels")
