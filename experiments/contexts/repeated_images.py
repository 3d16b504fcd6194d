"""Retrievers that show one image in several demonstrations of a prompt: a pool may have several questions an image.

Nearest by image, all questions about the nearest one are equally near, so that more shots show no more images.
"""

from collections import Counter
from dataclasses import dataclass, field

from experiments.contexts.contexts import RenderedSample
from experiments.contexts.placeholders import has_placeholder_retriever
from experiments.grid.grid import Cell
from icl.errors import ICLError
from icl.images import Image
from icl.types import Demo

SHARE = 0.5
"""Of a retriever's prompts: from here on it is said."""


@dataclass
class RepeatedImages:
    """Of each retriever, in how many prompts with several demonstrations two of them have an image in common."""

    read: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)

    def see(self, cell: Cell, item: RenderedSample) -> None:
        label, demos = str(cell.labels["retriever"]), item.context.demos
        if item.prompt is None or len(demos) < 2 or has_placeholder_retriever(cell):
            return
        self.read[label] += 1
        shown = Counter(digest for demo in demos for digest in _digests(demo))
        self.repeated[label] += max(shown.values(), default=0) > 1

    def notes(self) -> list[str]:
        """A sentence for each retriever that does so in most prompts, with what helps."""
        return [
            f"retriever '{label}': in {self.repeated[label]:,} of {read:,} prompts that were read two demonstrations "
            "have the same image, as where a pool has several questions an image. `rerankers: [near_duplicate_cap]` "
            "with `rerank_candidates` several times the shots shows each once; a pool of one question an image "
            "does too."
            for label, read in self.read.items()
            if self.repeated[label] >= SHARE * read
        ]


def _digests(demo: Demo) -> set[str]:
    """Of a demonstration's own images, whatever was done to them."""
    return {_digest(image) for image in demo.example.images}


def _digest(image: Image) -> str:
    try:
        return image.source_digest
    except ICLError:  # its sample fails, and says why
        return image.identity
