"""Retrievers that show one picture in several demonstrations of a prompt: a pool may have several questions a picture.

Nearest by picture, all questions about the nearest one are equally near, so that more shots show no more pictures.
"""

from collections import Counter
from dataclasses import dataclass, field

from experiments.contexts.contexts import Written
from experiments.contexts.placeholders import stands_in
from experiments.grid.grid import Cell
from icl.errors import ICLError
from icl.images import Picture
from icl.types import Demo

SHARE = 0.5
"""Of a retriever's prompts: from here on it is said."""


@dataclass
class Repeats:
    """Of each retriever, in how many prompts with several demonstrations two of them have a picture in common."""

    read: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)

    def see(self, cell: Cell, item: Written) -> None:
        label, demos = str(cell.labels["retriever"]), item.context.demos
        if item.prompt is None or len(demos) < 2 or stands_in(cell):
            return
        self.read[label] += 1
        shown = Counter(digest for demo in demos for digest in _digests(demo))
        self.repeated[label] += max(shown.values(), default=0) > 1

    def notes(self) -> list[str]:
        """A sentence for each retriever that does so in most prompts, with what helps."""
        return [
            f"retriever '{label}': in {self.repeated[label]:,} of {read:,} prompts that were read two demonstrations "
            "have the same picture, as where a pool has several questions a picture. `rerank: [near_duplicate_cap]` "
            "with `candidates` several times the shots shows each once; a pool of one question a picture does too."
            for label, read in self.read.items()
            if self.repeated[label] >= SHARE * read
        ]


def _digests(demo: Demo) -> set[str]:
    """Of a demonstration's own pictures, whatever was done to them."""
    return {_digest(picture) for picture in demo.example.pictures}


def _digest(picture: Picture) -> str:
    try:
        return picture.source_digest
    except ICLError:  # its sample fails, and says why
        return picture.identity
