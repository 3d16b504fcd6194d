"""Notes on the prompts of a run: those that exceed a model's limits, images that are shown several times, and leaks.

A prompt that is too long loses its least similar demonstrations (`prompts.budget`), so an arm of many shots may show
fewer. A model refuses a prompt with too many images, and the sample fails.

A pool may have several questions about an image. A retriever that ranks by image then ranks them equally, so more shots
show no more images.
"""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from experiments.contexts.contexts import PromptItem
from experiments.contexts.request_sizes import has_placeholder_retriever
from experiments.grid import Cell, TrainingImages, fitted_records, training_images
from icl import ICLError, Image

MAX_REASONS = 3
"""Different reasons for missing prompts that `notes` lists."""


@dataclass
class _ArmOverflow:
    """The prompts of one model and number of shots that do not fit; keys are prompt digests.

    dropped: digest -> number of demonstrations that were dropped. max_images: of a prompt with too many.
    """

    prompts: set[str] = field(default_factory=set)
    dropped: dict[str, int] = field(default_factory=dict)
    too_many_images: set[str] = field(default_factory=set)
    max_images: int = 0


@dataclass
class ContextOverflow:
    """A counter of prompts that do not fit, for each model and number of shots, and of samples without a prompt."""

    arms: dict[tuple[str, int], _ArmOverflow] = field(default_factory=dict)
    cells: dict[tuple[str, int], Cell] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Reason -> the first query without a prompt."""

    def add_failure(self, item: PromptItem) -> None:
        """Counts a sample that has no prompt."""
        self.failures.setdefault(item.failure or "", item.example.id)

    def add(self, cell: Cell, item: PromptItem) -> None:
        """Counts a sample's prompt, if it has one."""
        if item.prompt is None:
            return
        key = str(cell.labels["model"]), cell.shots
        arm, digest = self.arms.setdefault(key, _ArmOverflow()), item.prompt.digest
        self.cells.setdefault(key, cell)
        arm.prompts.add(digest)
        if item.num_dropped:
            arm.dropped[digest] = item.num_dropped
        limit, images = cell.model.max_images, len(item.prompt.images)
        if limit is not None and images > limit:
            arm.too_many_images.add(digest)
            arm.max_images = max(arm.max_images, images)

    def notes(self) -> list[str]:
        """A sentence for each reason without a prompt, and for each arm that drops demonstrations or will fail."""
        reasons = list(self.failures.items())[:MAX_REASONS]
        failures = [f"sample {query} has no prompt: {reason}" for reason, query in reasons]
        return [*failures, *(sentence for key, arm in self.arms.items() for sentence in self._arm_notes(key, arm))]

    def _arm_notes(self, key: tuple[str, int], arm: _ArmOverflow) -> list[str]:
        (label, shots), model = key, self.cells[key].model
        where = f"model '{label}', {shots:,} shot{'s' * (shots != 1)}"
        of_prompts = f"of {len(arm.prompts):,} prompts that were read"
        sentences = []
        if arm.dropped:
            low, high = min(arm.dropped.values()), max(arm.dropped.values())
            span = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            sentences.append(
                f"{where}: {len(arm.dropped):,} {of_prompts} are longer than its context of {model.max_tokens:,} "
                f"tokens, so {span} of the demonstrations are left out of each, the least similar first. Tables still "
                f"call them {shots:,} shots."
            )
        if arm.too_many_images:
            sentences.append(
                f"{where}: {len(arm.too_many_images):,} {of_prompts} have up to {arm.max_images:,} images, and "
                f"model.max_images allows {model.max_images:,}. Such samples fail: set it higher, or leave it out."
            )
        return sentences


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
        counts = Counter(digest for demo in demos for digest in {*map(_digest, demo.example.images)})
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


@dataclass
class TrainingLeaks:
    """A counter of queries with an image of a query that something was fitted on, for each file.

    Warnings of a grid assume that other splits and seeds of a task have other queries. This counter compares images,
    and a copy that was scaled or encoded again counts too.
    """

    leaks: dict[tuple[str, str], dict[tuple[str, str], bool]] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    of_cells: dict[str, list[tuple[dict[tuple[str, str], bool], TrainingImages]]] = field(default_factory=dict)

    def add(self, cell: Cell, item: PromptItem) -> None:
        """Compares a sample's query with what its arm was fitted on."""
        if cell.digest not in self.of_cells:
            self.of_cells[cell.digest] = self._files(cell)
        query = str(cell.labels["task"]), item.example.id  # queries of several tasks may have one id
        for own, images in self.of_cells[cell.digest]:
            with suppress(ICLError):  # an image that cannot be read: its sample fails with this error
                if query not in own:
                    own[query] = any(map(images.has, item.example.images))

    def _files(self, cell: Cell) -> list[tuple[dict[tuple[str, str], bool], TrainingImages]]:
        """The leaks and the training images of each file that a cell reads."""
        files = []
        for file, record in fitted_records(cell):
            try:  # files of several folders may have one name
                files.append((self.leaks.setdefault((file, str(record)), {}), training_images(record, cell)))
            except ICLError as error:
                self.unread[file] = str(error)
        return files

    def notes(self) -> list[str]:
        """A sentence for each file with a leak, and for each one that cannot be checked."""
        return [
            *(
                f"the numbers in {file} were fitted on images of {sum(own.values()):,} of {len(own):,} queries, "
                f"such as '{next(name for (_, name), bad in own.items() if bad)}', so scores are too "
                "high. Fit on queries with other images."
                for (file, _), own in self.leaks.items()
                if any(own.values())
            ),
            *(
                f"the numbers in {file} may be fitted on images of these queries. This is unknown, because the task of "
                f"the fit cannot be read. {error}"
                for file, error in self.unread.items()
            ),
        ]


@dataclass
class PromptNotes:
    """The counters of this module. `add` takes each sample, and `notes` has all sentences."""

    repeated: RepeatedImages = field(default_factory=RepeatedImages)
    overflow: ContextOverflow = field(default_factory=ContextOverflow)
    training: TrainingLeaks = field(default_factory=TrainingLeaks)

    def add(self, cell: Cell, item: PromptItem) -> None:
        """Counts a sample."""
        self.repeated.add(cell, item)
        self.overflow.add(cell, item)
        self.training.add(cell, item)

    def notes(self) -> list[str]:
        """The sentences of all counters."""
        return [*self.training.notes(), *self.repeated.notes(), *self.overflow.notes()]


def _digest(image: Image) -> str:
    """Digest of an image before any edit."""
    try:
        return image.source_digest
    except ICLError:  # its sample fails with this error
        return image.identity
