"""The estimate of images and tokens of the largest prompts, before the model is loaded."""

from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.contexts.contexts import Retrieval, build_contexts, prompt_specs, render
from experiments.contexts.request_sizes import estimate_sizes
from experiments.grid.grid import Grid, expand

BINDING = {"name": "binding", "ways": 2, "queries": 12}


def grid(**more: Any) -> Grid:
    base = {"name": "x", "task": BINDING, "model": {"name": "hf", "path": "tiny"}, "max_new_tokens": 7}
    return expand(load_config({**base, **more}))


def test_images_and_tokens_of_the_largest_prompt_are_covered() -> None:
    own = grid(grid={"shots": [0, 4], "decoding": ["greedy", "vcd"], "retriever": [{"name": "knn", "by": "image"}]})
    images, tokens, branches = estimate_sizes(own.cells)
    assert (images, branches) == (5, 2)
    largest = 0
    for shots in (0, 4):
        cells = [cell for cell in own.cells if cell.shots == shots]
        retrieval = Retrieval(cells[0].task, cells[0].model)
        for row in build_contexts(retrieval, prompt_specs(cells), cells[0].task.queries):
            prompts = [item.prompt for item in map(render, row) if item.prompt is not None]
            largest = max(largest, *map(cells[0].model.count_tokens, prompts))
    assert largest + 7 <= tokens <= 1.5 * largest + 7


def test_a_control_that_shows_more_demonstrations_counts() -> None:
    few, many = (estimate_sizes(grid(shots=2, decoding=name).cells) for name in ("greedy", "more_demonstrations"))
    assert many[0] > few[0] == 3


def test_a_model_that_is_not_loaded_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    own = grid(shots=2, order="entropy", transforms=[{"name": "descriptions", "where": "all"}])

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the model was called")

    for name in ("load", "generate", "open"):
        monkeypatch.setattr(type(own.models[0]), name, fail)
    assert estimate_sizes(own.cells) == estimate_sizes(grid(shots=2).cells)


def test_no_cells_have_no_size() -> None:
    assert estimate_sizes([]) == (0, 0, 0)
