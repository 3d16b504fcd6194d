"""Render and answer one prompt of each model before its samples, so that what breaks all of them is one error.

    without weights    the longest prompt of each model, task and composer is rendered and counted: a broken chat
                       template, a context that is too short for the query alone; and whether the free memory is enough
                       for the largest request of each cell
    with weights       the longest of these prompts is answered with one token: weights that give NaN, an endpoint that
                       refuses every request

A single query may be at fault. So a problem ends the run only if MAX_QUERIES queries have it, or all queries of a small
task. Random demonstrations stand in for a retriever's. Nothing is stored.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from decoding.arms.arm import parse_arm
from decoding.arms.inspection import probe_branches
from decoding.engine.requests import Counters
from experiments.contexts.contexts import PromptItem, PromptSpec, Retrieval, build_contexts
from experiments.contexts.request_sizes import (
    LargestRequests,
    placeholder_retriever,
    sample_queries,
    without_model_calls,
)
from experiments.grid.grid import Cell
from experiments.running.generation import Answer, SampleRequest, answer
from icl import Example, ICLError, Model, ModelError, Prompt, convert_user_errors
from icl.models.hf.memory import RequestSize
from prompts.budget import ContextTooShortError, fit

MAX_QUERIES = 3
"""Queries of each task that are tried."""


class Preflight:
    """The checks before the first sample. cells: the cells with missing samples."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        groups: dict[tuple[int, int, int], list[Cell]] = {}
        for cell in cells:
            groups.setdefault((id(cell.model), id(cell.task), id(cell.composer)), []).append(cell)
        self.groups = list(groups.values())
        self.cells = [_with_random_demos(max(group, key=_size)) for group in self.groups]
        self.longest: dict[int, tuple[int, Cell]] = {}
        """id of a model -> tokens of its longest prompt, and the cell."""

    def check_prompts(self) -> None:
        """Render a prompt of each model, task and composer. Needs no weights.

        Raises:
            ModelError: The model's processor or chat template does not accept the prompts.
            ContextTooShortError: The queries do not fit into the model's context.
        """
        for cell in without_model_calls(self.cells):
            queries, problems = _queries(cell), list[ICLError]()
            for number in range(len(queries)):
                try:
                    item = _item(cell, number)
                    tokens = 0 if item.prompt is None else cell.model.count_tokens(item.prompt)
                except (ModelError, ContextTooShortError) as error:
                    problems.append(error)
                except ICLError:
                    continue  # the data of this query, which fails its own sample
                else:
                    if tokens >= self.longest.get(id(cell.model), (0, cell))[0]:
                        self.longest[id(cell.model)] = tokens, cell
                    break
            if problems and len(problems) == len(queries):
                raise type(problems[-1])(_message(cell, "no prompt can be written", str(problems[-1])))

    def check_memory(self) -> None:
        """Raise ModelError if a model's largest request does not fit into memory with its weights. Needs no weights."""
        for model in {id(cell.model): cell.model for cell in self.cells}.values():
            model.check_memory(self._requests(model))

    def _requests(self, model: Model) -> Iterator[RequestSize]:
        """The largest requests of a model's cells. Nothing is rendered before a model that checks its memory asks.

        Cells with as many demonstrations and as long an answer have one prompt. Branches count as equally long.
        """
        requests = LargestRequests()
        for group in self.groups:
            if group[0].model is not model:
                continue
            by_size: dict[tuple[int, int], list[Cell]] = {}
            for cell in group:
                by_size.setdefault(_size(cell), []).append(cell)
            for cells in by_size.values():
                (rendered,) = without_model_calls([_with_random_demos(cells[0])])
                if (counted := _first_prompt(rendered)) is None:
                    continue
                prompt, tokens = counted
                for cell in cells:
                    try:
                        branches = len(probe_branches(cell.decoding.strategy, prompt))
                    except ICLError:  # the cell's own samples fail with this error
                        continue
                    requests.add(cell, branches, tokens, prompt.images)
        for _, sizes in requests.by_model():
            yield from sizes

    def check_answer(self, model: Model) -> Mapping[str, Any] | None:
        """Answer the longest prompt of a loaded model with one token, and probe its server, once. Raises ModelError.

        The counters of the run's engine do not contain this work.

        Returns:
            What the probe says (`Model.probe_server`).
        """
        _, cell = self.longest.pop(id(model), (0, None))
        if cell is None:
            return None
        limit = cell.max_new_tokens if model.is_endpoint else 1  # some endpoints refuse a limit of one token
        cell = replace(cell, decoding=parse_arm("greedy"), answer_mode="generate", max_new_tokens=limit)
        problem, queries = "", _queries(cell)
        for number in range(len(queries)):
            try:
                item = _item(cell, number)
            except ICLError:
                continue
            answers = _answers(model, cell, item)
            if not answers or not isinstance(answers[0], str):
                return None if item.prompt is None else model.probe_server(item.prompt)
            problem = answers[0]
        if problem:
            raise ModelError(_message(cell, "the model does not answer", problem))
        return None


def _with_random_demos(cell: Cell) -> Cell:
    return replace(cell, retriever=cell.retriever and placeholder_retriever())


def _size(cell: Cell) -> tuple[int, int]:
    return cell.num_demos, cell.max_output_tokens


def _queries(cell: Cell) -> Sequence[Example]:
    return sample_queries(cell.task.queries, MAX_QUERIES)


def _first_prompt(cell: Cell) -> tuple[Prompt, int] | None:
    """The first of the tried queries' prompts that can be written, and its tokens."""
    for number in range(len(_queries(cell))):
        try:
            prompt = _item(cell, number).prompt
            if prompt is not None:
                return prompt, cell.model.count_tokens(prompt)
        except ICLError:  # the data of this query, which fails its own sample
            continue
    return None


def _item(cell: Cell, number: int) -> PromptItem:
    """The prompt of one of the tried queries. Raises ICLError."""
    query = _queries(cell)[number]
    ((item,),) = build_contexts(Retrieval(cell.task, cell.model), [PromptSpec((cell,))], [query])
    if item.failure is not None:
        return item
    with convert_user_errors(cell.composer):
        prompt, context, dropped = fit(
            item.context, cell.composer, cell.model.count_tokens, cell.model.max_tokens, cell.max_output_tokens
        )
        prompt.digest  # noqa: B018  an image that cannot be read raises its error here, as in the sample
    return replace(item, prompt=prompt, context=context, num_dropped=len(dropped))


def _answers(model: Model, cell: Cell, item: PromptItem) -> list[Answer]:
    answers: list[Answer] = []
    if item.prompt is not None:
        request = SampleRequest(cell, item, item.prompt)
        answer(model, [request], Counters(), lambda request, result: answers.append(result))
    return answers


def _message(cell: Cell, what: str, problem: str) -> str:
    shots = f"{cell.shots} shot{'s' * (cell.shots != 1)}"
    return (
        f"model '{cell.labels['model']}', task '{cell.labels['task']}', composer '{cell.labels['composer']}', {shots}: "
        f"{what}: {problem.rstrip('.')}. Nothing was computed."
    )
