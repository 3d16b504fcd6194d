"""Find retrievers that show one image in several demonstrations of a prompt.

A pool may have several questions about an image. A retriever that ranks by image then ranks them equally, so more shots
show no more images.
"""

from collections import Counter
from dataclasses import dataclass, field

from experiments.contexts.contexts import PromptItem
from experiments.contexts.placeholders import has_placeholder_retriever
from experiments.grid.grid import Cell
from icl.errors import ICLError
from icl.images import Image
from icl.types import Demo

MIN_FRACTION = 0.5
"""Fraction of a retriever's prompts from which it gets a note."""


@dataclass
class RepeatedImages:
    """A counter of prompts in which two demonstrations have an image in common, for each retriever.

    It serves notes to the user and changes no sample.
    """

    read: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)

    def add(self, cell: Cell, item: PromptItem) -> None:
        """Counts a sample's prompt, if it has one with several demonstrations."""
        label, demos = str(cell.labels["retriever"]), item.context.demos
        if item.prompt is None or len(demos) < 2 or has_placeholder_retriever(cell):
            return
        self.read[label] += 1
        counts = Counter(digest for demo in demos for digest in _digests(demo))
        self.repeated[label] += max(counts.values(), default=0) > 1

    def notes(self) -> list[str]:
        """A sentence with a remedy for each retriever that repeats images in many prompts."""
        return [
            f"retriever '{label}': in {self.repeated[label]:,} of {read:,} prompts that were read, two demonstrations "
            "have the same image. This happens if a pool has several questions about an image. `rerankers: "
            "[near_duplicate_cap]` with `rerank_candidates` of several times the shots shows each image once. So does "
            "a pool with one question about each image."
            for label, read in self.read.items()
            if self.repeated[label] >= MIN_FRACTION * read
        ]


def _digests(demo: Demo) -> set[str]:
    """Digests of a demonstration's images before any edit."""
    return {_digest(image) for image in demo.example.images}


def _digest(image: Image) -> str:
    try:
        return image.source_digest
    except ICLError:  # its sample fails with this error
        return image.identity
