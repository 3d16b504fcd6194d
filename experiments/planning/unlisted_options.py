"""Find questions whose options no prompt shows: a model that cannot know them answers in words of its own."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from icl.metrics.machinery.yes_no import asks_yes_no
from icl.metrics.normalize import normalize_text
from icl.option_listing import OPTION_TEXTS

if TYPE_CHECKING:
    from experiments.contexts.contexts import PromptItem


@dataclass
class UnlistedOptions:
    """For each task and query, an option that no prompt showed so far; None if a prompt showed all of them."""

    missing: dict[str, dict[str, str | None]] = field(default_factory=dict)

    def add(self, item: "PromptItem") -> None:
        """Reads a rendered prompt. Yes-no questions and single options need no list."""
        example = item.example
        if item.prompt is None or len(example.options) < 2 or asks_yes_no(example):
            return
        options = example.meta.get(OPTION_TEXTS, example.options)
        text = normalize_text(item.prompt.text)
        queries = self.missing.setdefault(item.spec.cell.task.title, {})
        if queries.get(example.id, "") is not None:
            queries[example.id] = next((option for option in options if normalize_text(option) not in text), None)

    def notes(self) -> list[str]:
        """A sentence for each task whose options are missing in the prompts of most queries."""
        notes = list[str]()
        for title, queries in self.missing.items():
            missing = [option for option in queries.values() if option is not None]
            if 2 * len(missing) > len(queries):
                notes.append(
                    f"task '{title}': options are not in the prompt of {len(missing)} of {len(queries)} queries that "
                    f"choose among options, for example '{missing[0]}'. The task `hub` lists them with list_options: "
                    "letters or texts, other tasks with transforms: [option_list]."
                )
        return notes
