"""The prompts of a run, composed again for analyses that read the model.

Decoding and controls do not change a prompt, so each setting of the other axes has one prompt for each query and seed.
The answer next to it comes from the setting's first cell without an intervention, or else from its first cell.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from experiments import RunView, answered_samples
from experiments.contexts.contexts import PromptItem, PromptSpec, Retrieval, build_contexts, render
from experiments.grid.grid import Cell, expand
from experiments.results.loaded_run import load_run
from experiments.stats import UNIT, label_axes
from icl import DataFrame, Model, Part, PlanError, Prompt, StoreError, Turn

QUERIES = 50
"""The number of queries that analyses of the model read in each cell, unless `--queries` sets another."""

QUERY_ANSWER = "query.answer"
"""The name of an answer that follows a prompt (`with_answer`)."""

AXES_AFTER_PROMPT = ("decoding", "answer_mode", "max_new_tokens", "intervene")


@dataclass(frozen=True)
class RunPrompt:
    """A prompt of a run.

    Attributes:
        item: The query, its context and its prompt.
        unit: The cluster of its intervals.
        output: The model's answer in the run.
    """

    item: PromptItem
    unit: Any
    output: str

    @property
    def prompt(self) -> Prompt:
        assert self.item.prompt is not None
        return self.item.prompt

    @property
    def cell(self) -> Cell:
        return self.item.spec.cell


def run_prompts(
    view: RunView,
    ability: str,
    queries: int,
    with_demos: bool = True,
    problem_of: Callable[[Model], str | None] = lambda _: None,
) -> Iterator[tuple[dict[str, Any], list[RunPrompt]]]:
    """(setting, prompts) of each setting, with its model loaded, and no other. Settings of a model follow each other.

    Args:
        view: The run.
        ability: What the model must be able to do, of `icl.models.base.ABILITIES`.
        queries: The largest number of queries of a cell, the first ones of the task.
        with_demos: Whether samples without demonstrations are left out.
        problem_of: Why a model, which is not loaded yet, cannot be analyzed; None if it can.

    Raises:
        StoreError: The components or the checkpoint have changed since the run.
        PlanError: The model lacks the ability, or has a problem.
    """
    rows = answered_samples(view, with_demos)
    axes = label_axes(rows, [axis for axis in view.axes if axis not in AXES_AFTER_PROMPT])
    settings: dict[tuple[Any, ...], dict[int, Cell]] = {}
    for cell in _stored_cells(view, rows):
        if not cell.decoding.strategy.traits.demonstration_factor > 1:
            own = settings.setdefault(tuple(cell.labels[axis] for axis in axes), {})
            if cell.seed not in own or (own[cell.seed].steering is not None and cell.steering is None):
                own[cell.seed] = cell
    if not settings:
        raise _no_cells(view)
    loaded: Model | None = None
    by_model: dict[int, list[tuple[tuple[Any, ...], dict[int, Cell]]]] = {}
    for values, cells in settings.items():
        by_model.setdefault(id(next(iter(cells.values())).model), []).append((values, cells))
    for values, cells in chain.from_iterable(by_model.values()):
        setting = dict(zip(axes, values, strict=True))
        prompts = [one for cell in cells.values() for one in _prompts(cell, rows[rows["cell"] == cell.digest], queries)]
        if prompts:
            if problem := problem_of(prompts[0].cell.model):
                raise PlanError(f"{view.path}: {problem}")
            loaded = _load(view, prompts[0].cell, ability, loaded)
            yield setting, prompts


def load_models(view: RunView, rows: DataFrame, ability: str) -> Iterator[tuple[Model, list[Cell]]]:
    """(model, its cells) of each model of the run, which is loaded, and no other.

    Args:
        view: The run.
        rows: Its samples that are analyzed.
        ability: What the model must be able to do, of `icl.models.base.ABILITIES`.

    Raises:
        StoreError: The components or the checkpoint have changed since the run.
        PlanError: The model lacks the ability.
    """
    cells: dict[Any, list[Cell]] = {}
    for cell in _stored_cells(view, rows):
        cells.setdefault(cell.labels["model"], []).append(cell)
    if not cells:
        raise _no_cells(view)
    loaded: Model | None = None
    for own in cells.values():
        loaded = _load(view, own[0], ability, loaded)
        yield loaded, own


def _stored_cells(view: RunView, rows: DataFrame) -> list[Cell]:
    """The cells of the rows that the config still has."""
    stored = set(rows["cell"])
    return [cell for cell in expand(load_run(view.path, view.trust).load_config()).cells if cell.digest in stored]


def _no_cells(view: RunView) -> StoreError:
    return StoreError(
        f"{view.path}: none of its cells can be composed again: a component or the checkpoint has changed since. "
        "Use the version and the checkpoint of the run, or run it again."
    )


def _load(view: RunView, cell: Cell, ability: str, loaded: Model | None) -> Model:
    """The model of a cell, loaded in place of another one. Raises PlanError if it lacks the ability."""
    model = cell.model
    if ability not in model.abilities:
        raise PlanError(
            f"{view.path}: this analysis reads {ability.replace('_', ' ')}, which '{cell.labels['model']}' does not "
            "give. Use a run of the model 'hf'."
        )
    if loaded is not None and loaded is not model:
        loaded.unload()
    model.load()
    return model


def with_answer(prompt: Prompt, text: str) -> Prompt:
    """The prompt with an answer of the assistant after it, the part QUERY_ANSWER."""
    return replace(prompt, turns=(*prompt.turns, Turn("assistant", (Part(text, QUERY_ANSWER),))))


def _prompts(cell: Cell, rows: Any, queries: int) -> Iterator[RunPrompt]:
    """The prompts of the first queries that the cell answered."""
    own = rows.drop_duplicates("query").set_index("query")
    examples: Sequence[Any] = [query for query in cell.task.queries if query.id in own.index][:queries]
    for (item,) in build_contexts(Retrieval(cell.task, cell.model), [PromptSpec((cell,))], examples):
        rendered = render(item)
        if rendered.prompt is not None:
            row = own.loc[rendered.example.id]
            yield RunPrompt(rendered, row[UNIT], str(row["output"] or ""))
