"""Windows of a run: the missing samples of some queries with their rendered prompts, answered in one call.

A window takes whole rows of the table in `experiments.running.runner`. It may be made in a thread while the model
answers the window before (`experiments.running.background`), unless making it calls the model.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Event

from experiments.contexts.contexts import PromptItem, Retrieval, build_contexts, prompt_specs, render
from experiments.grid.grid import Cell
from experiments.running.failing_arms import FailingArms
from experiments.running.image_store import prefetch_images
from icl.images import Image
from icl.types import Example

RETRIEVAL_BATCH = 64
"""Queries whose demonstrations are retrieved together."""

WINDOW_TOKENS = 65_536
WINDOW_SAMPLES = 1024
"""A window ends with the query that reaches one of these. A larger one batches better and takes more memory."""

Window = list[tuple[Cell, PromptItem]]


@dataclass(frozen=True)
class Windows:
    """The missing samples of cells of one model, task and number of shots, in windows, query by query.

    Attributes:
        cells: The cells.
        missing: Cell digest -> ids of the missing queries.
        retrieval: The demonstrations of their task.
        failing: Cells that are given up, of which no more samples are made.
        is_stopped: Ends the iteration after the current query.
    """

    cells: Sequence[Cell]
    missing: Mapping[str, set[str]]
    retrieval: Retrieval
    failing: FailingArms
    is_stopped: Event

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
            if tokens >= WINDOW_TOKENS or len(window) >= WINDOW_SAMPLES:
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
    from decoding.arms.inspection import probe_branches

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
