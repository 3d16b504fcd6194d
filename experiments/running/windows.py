"""Windows of a run: the missing samples of some queries with their rendered prompts, answered in one call.

A window takes whole rows of the table in `experiments.running.runner`. It may be made in a thread while the model
answers the window before, unless making it calls the model.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event

from decoding.arms.inspection import probe_branches
from experiments.contexts.contexts import (
    PromptItem,
    Retrieval,
    build_contexts,
    has_nested_prompts,
    prompt_specs,
    render,
)
from experiments.grid.grid import Cell, Grid
from experiments.running.image_store import ImageStore, prefetch_images
from experiments.stats import format_count
from experiments.store import FINISHED_FILE, Store
from experiments.terminal.progress import failure_kind
from icl import Example, Image, Model, Sample

RETRIEVAL_BATCH = 64
"""Queries whose demonstrations are retrieved together."""

WINDOW_TOKENS = 65_536
WINDOW_SAMPLES = 1024
"""A window ends with the query that reaches one of these. A larger one batches better and takes more memory."""

JOINING_BATCHES = 4
"""With continuous batching, a window has the tokens of this many batches of the model."""

Window = list[tuple[Cell, PromptItem]]


@dataclass(frozen=True)
class Windows:
    """The missing samples of one of the `cell_groups`, in windows, query by query.

    Attributes:
        cells: The cells.
        missing: Cell digest -> ids of the missing queries.
        retrieval: The demonstrations of their task.
        failing: Cells that are given up; no more samples of them are made.
        is_stopped: Ends the iteration after the current query.
        min_tokens: Tokens that a window reaches, if they are more than WINDOW_TOKENS.
    """

    cells: Sequence[Cell]
    missing: Mapping[str, set[str]]
    retrieval: Retrieval
    failing: "FailingArms"
    is_stopped: Event
    min_tokens: int = 0

    @property
    def may_run_ahead(self) -> bool:
        """Whether nothing that makes prompts calls the model, which may be busy with another window."""
        components = [one for cell in self.cells for one in (cell.retriever, cell.order, *cell.transforms)]
        return not any("model" in getattr(component, "needs", ()) for component in components)

    def __iter__(self) -> Iterator[Window]:
        cells = [cell for cell in self.cells if self.missing[cell.digest]]
        missing_ids: set[str] = set().union(*self.missing.values())
        queries = [query for query in cells[0].task.queries if query.id in missing_ids]
        batches = (queries[i : i + RETRIEVAL_BATCH] for i in range(0, len(queries), RETRIEVAL_BATCH))
        items_by_query = (items for batch in batches for items in self._prompt_items(cells, batch))
        num_branches = _num_branches(cells)
        window: Window = []
        tokens = 0
        for items in prefetch_images(items_by_query, _images):  # decodes images of later queries in threads
            if self.is_stopped.is_set():
                return
            for item in items:
                missing_cells = [
                    cell
                    for cell in item.spec.cells
                    if item.example.id in self.missing[cell.digest] and not self.failing.is_given_up(cell)
                ]
                if missing_cells:
                    rendered = render(item)
                    window += [(cell, rendered) for cell in missing_cells]
                    tokens += _prefill_tokens(missing_cells, rendered, num_branches)
            if tokens >= max(WINDOW_TOKENS, self.min_tokens) or len(window) >= WINDOW_SAMPLES:
                yield window
                window, tokens = [], 0
        if window:
            yield window

    def _prompt_items(self, cells: Sequence[Cell], queries: Sequence[Example]) -> Iterator[list[PromptItem]]:
        """Yields for each query one item per spec of the cells that are not given up."""
        if specs := prompt_specs([cell for cell in cells if not self.failing.is_given_up(cell)]):
            yield from build_contexts(self.retrieval, specs, queries)


def _images(items: Sequence[PromptItem]) -> list[Image]:
    """The images of the items' query and of all their demonstrations."""
    examples = [demo.example for item in items for demo in item.context.demos]
    return [*items[0].example.images, *(image for example in examples for image in example.images)]


def _num_branches(cells: Sequence[Cell]) -> dict[str, int]:
    """Cell digest -> number of its strategy's branches; 0 if the model gives no logits, so nothing is prefilled."""
    branches_by_decoding: dict[int, int] = {}
    for cell in cells:
        if id(cell.decoding) not in branches_by_decoding:
            has_logits = "logits" in cell.model.abilities
            branches_by_decoding[id(cell.decoding)] = len(probe_branches(cell.decoding.strategy)) if has_logits else 0
    return {cell.digest: branches_by_decoding[id(cell.decoding)] for cell in cells}


def _prefill_tokens(cells: Sequence[Cell], item: PromptItem, num_branches: Mapping[str, int]) -> int:
    """An upper limit of the tokens to prefill for one prompt in these cells.

    Every strategy has one branch with the unmodified prompt, shared by all cells; only the others add prefills.
    """
    model = cells[0].model
    if item.prompt is None or not num_branches[cells[0].digest]:
        return 0
    return model.count_tokens(item.prompt) * (1 + sum(num_branches[cell.digest] - 1 for cell in cells))


def cell_groups(grid: Grid, model: Model) -> list[list[Cell]]:
    """The model's cells by task and number of shots, in the order of the tasks, few shots first.

    Cells whose prompts begin with those of fewer shots are in one group, so that the model reads the common beginnings
    of a query once.
    """
    groups: dict[tuple[int, int, bool], list[Cell]] = {}
    order = {id(task): i for i, task in enumerate(grid.tasks)}
    for cell in grid.cells:
        if cell.model is model:
            is_nested = has_nested_prompts(cell)
            groups.setdefault((order[id(cell.task)], 0 if is_nested else cell.shots, is_nested), []).append(cell)
    return [groups[key] for key in sorted(groups)]


def mend_images(store: Store, grid: Grid, of_samples: Mapping[str, tuple[str, str]]) -> str:
    """Saves the missing images. Returns a sentence on what was saved or could not be saved; '' if all were there.

    Args:
        store: The run directory.
        grid: The cells.
        of_samples: For each digest of an image in a prompt, cell and query of a sample.
    """
    images = ImageStore(store.folder / "images")
    lost: dict[str, set[str]] = {cell.digest: set() for cell in grid.cells}
    for digest, (cell, query) in of_samples.items():
        if digest not in images.digests:
            lost[cell].add(query)
    before = len(images.digests)
    if any(lost.values()) and images.used < images.max_bytes:
        for cells in (cells for model in grid.models for cells in cell_groups(grid, model)):
            of_group = {cell.digest: lost[cell.digest] for cell in cells}
            windows = Windows(cells, of_group, Retrieval(cells[0].task, cells[0].model), FailingArms(cells, 1), Event())
            if any(of_group.values()) and windows.may_run_ahead:  # without the model
                for window in windows:
                    prompts = (item.prompt for _, item in window if item.prompt is not None)
                    images.save(image for prompt in prompts for image in prompt.images if image.digest in of_samples)
    images.close()
    if images.problem:  # the next run reads all samples, and tries again
        (store.folder / FINISHED_FILE).unlink(missing_ok=True)
    if not images.problem and len(images.digests) == before:
        return ""
    count = format_count(len(images.digests) - before, "image")
    return images.problem or f"{count} of the report, missing or damaged, saved again."


MIN_FAILURES = 3
"""Failures of each arm after which a group of arms is given up: a single query may be at fault."""

ArmKey = tuple[tuple[str, str], ...]


@dataclass
class FailingArms:
    """Arms whose first samples all fail. The runner gives them up and computes the other arms.

    An arm that fails alone, for example in its retriever, does not stop the grid. A model or a data set that fails in
    every arm of a group does not cost `limit` samples of each of them.

    Args:
        cells: All cells of the run with missing samples.
        limit: Failures in a row after which an arm is given up.
    """

    cells: Sequence[Cell]
    limit: int
    failures: Counter[ArmKey] = field(default_factory=Counter)
    succeeded: set[ArmKey] = field(default_factory=set)
    given_up: dict[ArmKey, str] = field(default_factory=dict)
    group: frozenset[ArmKey] = frozenset()

    def __post_init__(self) -> None:
        self.arms = {cell.digest: _arm_key(cell) for cell in self.cells}

    def begin_group(self, cells: Iterable[Cell]) -> None:
        """Names the cells that are computed together from now on."""
        self.group = frozenset(self.arms[cell.digest] for cell in cells)

    def add(self, sample: Sample) -> None:
        arm = self.arms[sample.cell]
        if not sample.failed:
            self.succeeded.add(arm)
        elif arm not in self.succeeded:
            self.failures[arm] += 1
            if self.failures[arm] >= self.limit:
                self.given_up.setdefault(arm, sample.failed)
            elif self._group_fails():
                self.given_up |= {arm: self.given_up.get(arm, sample.failed) for arm in self.group}

    def is_given_up(self, cell: Cell) -> bool:
        return self.arms[cell.digest] in self.given_up

    @property
    def all_given_up(self) -> bool:
        """Whether no arm is left."""
        return self.given_up.keys() >= set(self.arms.values())

    def describe(self, missing: Mapping[str, set[str]]) -> tuple[str, int]:
        """A sentence on the arms that were given up, and the number of their samples that were not tried.

        Args:
            missing: Cell digest -> queries without a sample.
        """
        untried = {digest: len(missing[digest]) for digest, arm in self.arms.items() if arm in self.given_up}
        arms = {arm for digest, arm in self.arms.items() if untried.get(digest)}
        if not arms:
            return "", 0
        kinds: dict[str, list[ArmKey]] = {}
        for arm, reason in self.given_up.items():
            if arm in arms:
                kinds.setdefault(failure_kind(reason), []).append(arm)
        varying = [axis for axis, _ in next(iter(arms)) if len({dict(other)[axis] for other in self.arms.values()}) > 1]
        names = {
            kind: "; ".join(", ".join(f"{axis} {dict(arm)[axis]}" for axis in varying) for arm in same)
            for kind, same in kinds.items()
        }
        sentences = [
            f"{'1 arm was' if len(same) == 1 else f'{len(same)} arms were'} given up, because all samples of "
            f"{'it' if len(same) == 1 else 'them'} failed so far ({names[kind]}): {self.given_up[same[0]].rstrip('.')}."
            for kind, same in kinds.items()
        ]
        return " ".join(sentences), sum(untried.values())

    def _group_fails(self) -> bool:
        least = max(MIN_FAILURES, self.limit // len(self.group))
        return (
            not self.group & self.succeeded
            and sum(self.failures[arm] for arm in self.group) >= self.limit
            and all(self.failures[arm] >= least for arm in self.group)
        )


def _arm_key(cell: Cell) -> ArmKey:
    """The labels of a cell without its seed."""
    return tuple((axis, str(label)) for axis, label in cell.labels.items() if axis != "seed")
