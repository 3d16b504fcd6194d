"""Estimate the images and tokens of a grid's prompts from a few of them, before the model is loaded.

An engine reserves memory for images and tokens when it starts. An estimate that is too small costs time but no
sample: an engine that meets a larger prompt restarts with its largest size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from experiments.contexts.contexts import Retrieval, build_contexts, prompt_specs, render
from experiments.contexts.placeholders import placeholder_retriever, without_model_calls
from experiments.grid.grid import Cell
from icl.errors import ICLError
from icl.tasks.subset import nested_choice
from icl.types import Example, Prompt

SAMPLED_QUERIES = 8
"""Queries of each task and number of shots whose prompts are measured."""

MARGIN = 1.25
"""Other prompts may be longer by this factor."""


@dataclass(frozen=True)
class SizeEstimate:
    """The largest prompt sizes of a grid: images of one prompt; tokens of one prompt and its answer, with a margin."""

    images: int = 0
    tokens: int = 0


def estimate_sizes(cells: Sequence[Cell]) -> SizeEstimate:
    """Estimate the largest prompt of cells of one model. All branches count.

    The model is not called: random demonstrations replace those of a retriever.
    """
    images = tokens = 0
    retriever = placeholder_retriever()
    for group in _same_task_and_shots(cells):
        measured = [replace(cell, retriever=cell.retriever and retriever) for cell in without_model_calls(group)]
        task = group[0].task
        retrieval = Retrieval(task, group[0].model)
        for items in build_contexts(retrieval, prompt_specs(measured), sample_queries(task.queries, SAMPLED_QUERIES)):
            for item in map(render, items):
                for cell in item.spec.cells if item.prompt is not None else ():
                    try:
                        branch_images, length = _largest_branch(cell, item.prompt)
                    except ICLError:  # the sample fails with this error when it is computed
                        continue
                    images = max(images, branch_images)
                    tokens = max(tokens, round(MARGIN * length) + cell.max_output_tokens)
    return SizeEstimate(images, tokens)


def sample_queries(queries: Sequence[Example], limit: int) -> list[Example]:
    """A fixed random choice of at most `limit` queries, in the order of the task."""
    return [queries[i] for i in sorted(nested_choice([query.id for query in queries], limit, 0, "plan"))]


def _same_task_and_shots(cells: Sequence[Cell]) -> list[list[Cell]]:
    groups: dict[tuple[int, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((id(cell.task), cell.shots), []).append(cell)
    return list(groups.values())


def _largest_branch(cell: Cell, prompt: Prompt | None) -> tuple[int, int]:
    """The most images and the most tokens of any branch of the cell's strategy."""
    from decoding.arms.inspection import probe_branches

    branches = probe_branches(cell.decoding.strategy, prompt)
    return max(len(branch.images) for branch in branches), max(map(cell.model.count_tokens, branches))
