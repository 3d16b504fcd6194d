"""What the prompts of a grid will take of a model, read off a few of them before the model is started.

An engine sets memory aside for images and tokens when it starts. This is a guess from some queries, and one that is
too small costs time but no sample: an engine that meets a larger prompt is started again with all the room there is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from experiments.contexts.contexts import Retrieval, build_contexts, prompt_specs, render
from experiments.contexts.placeholders import placeholder_retriever, without_model_calls
from experiments.grid.grid import Cell
from experiments.planning.plan import sample_queries
from icl.errors import ICLError
from icl.types import Prompt

QUERIES_READ = 8
"""Of each task and number of shots."""

MARGIN = 1.25
"""Other prompts may be longer by this factor."""


@dataclass(frozen=True)
class SizeEstimate:
    """images: of the prompt with the most. tokens: of the longest prompt and its answer, with a margin."""

    images: int = 0
    tokens: int = 0


def estimate_sizes(cells: Sequence[Cell]) -> SizeEstimate:
    """Of cells of one model, which is asked nothing. Branches of strategies count too; demonstrations are random."""
    images = tokens = 0
    usual = placeholder_retriever()
    for same in _alike(cells):
        stood_in = [replace(cell, retriever=cell.retriever and usual) for cell in without_model_calls(same)]
        task = same[0].task
        retrieval = Retrieval(task, same[0].model)
        for row in build_contexts(retrieval, prompt_specs(stood_in), sample_queries(task.queries, QUERIES_READ)):
            for item in map(render, row):
                for cell in item.spec.cells if item.prompt is not None else ():
                    try:
                        shown, length = _taken(cell, item.prompt)
                    except ICLError:  # a broken sample, which is told where it is asked
                        continue
                    images = max(images, shown)
                    tokens = max(tokens, round(MARGIN * length) + cell.max_new_tokens)
    return SizeEstimate(images, tokens)


def _alike(cells: Sequence[Cell]) -> list[list[Cell]]:
    found: dict[tuple[int, int], list[Cell]] = {}
    for cell in cells:
        found.setdefault((id(cell.task), cell.shots), []).append(cell)
    return list(found.values())


def _taken(cell: Cell, prompt: Prompt | None) -> tuple[int, int]:
    """Images of the prompt and tokens, of the branch with the most."""
    from decoding.arms.inspection import probe_branches

    branches = probe_branches(cell.decoding.strategy, prompt)
    return max(len(branch.images) for branch in branches), max(map(cell.model.count_tokens, branches))
