"""From queries to prompts: demonstrations are retrieved once and shared by all arms that read them.

A recipe is everything of a cell that decides its prompt. Cells of one recipe (say two decodings) get one prompt;
recipes of one retriever and seed (say two orders) get the same demonstrations.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from experiments.contexts.paired_sample import paired_samples
from experiments.grid.grid import Cell
from icl.errors import ICLError, PlanError
from icl.streams import StreamKey
from icl.types import Context, Demo, Example, Prompt, Query, RetrievedExample
from icl.user_errors import convert_user_errors
from prompts.budget import fit
from prompts.label_renaming import scored_example
from retrievers.base import FittedRetriever, Resources
from retrievers.leak_policy import EXCLUDE_LEAKS

if TYPE_CHECKING:
    from icl.models.base import Model
    from icl.tasks.base import Pool, Task
    from prompts.base import Orderer, Transform
    from retrievers.base import Retriever


LARGE_POOL_RATIO = 4
"""A pool of so many times the demonstrations is not counted through for what it may not show."""


@dataclass(frozen=True, eq=False)
class PromptSpec:
    """What decides a prompt beside the query, and the cells that read it."""

    cells: tuple[Cell, ...]

    @property
    def cell(self) -> Cell:
        """Any of its cells: they agree in all that matters here."""
        return self.cells[0]

    @property
    def needs_paired_sample(self) -> bool:
        """Whether another sample's prompt is read beside each of its own."""
        return any(cell.decoding.strategy.traits.reads_paired_prompt for cell in self.cells)


def prompt_specs(cells: Sequence[Cell]) -> list[PromptSpec]:
    """The cells of one task, model and number of shots, by what decides their prompts."""
    by_key: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        by_key.setdefault((*_order_key(cell), id(cell.composer), cell.max_new_tokens), []).append(cell)
    return [PromptSpec(tuple(same)) for same in by_key.values()]


@dataclass(frozen=True, eq=False)
class RenderedSample:
    """One query under one recipe: its prompt and the context that it shows, or why there is none.

    example: the query with the gold that its answer is scored by. other: another sample under the same recipe, where
    one of its cells reads it.
    """

    example: Example
    spec: PromptSpec
    context: Context
    prompt: Prompt | None = None
    num_dropped: int = 0
    failure: str | None = None
    paired: "RenderedSample | None" = None


RetrievalOutcome = tuple[RetrievedExample, ...] | str
"""The demonstrations of a query, or why it has none."""


class Retrieval:
    """Fits each retriever once a seed on a shared pool and asks it once a number of shots.

    A retriever fitted on a pool that several queries share is kept; one on a single query's pool is let go at once.
    """

    def __init__(self, task: "Task", model: "Model") -> None:
        self.task, self.model = task, model
        self.fitted: dict[tuple[int, int, int], tuple[FittedRetriever, Pool]] = {}

    def plan(self, cells: Sequence[Cell], queries: Sequence[Example]) -> dict[tuple[Any, ...], list[RetrievalOutcome]]:
        """Demonstrations of each query for each (retriever, seed, shots) of the cells."""
        wanted = {_retrieval_key(cell): cell for cell in cells}
        return {key: self._ask(cell, queries) for key, cell in wanted.items()}

    def _ask(self, cell: Cell, queries: Sequence[Example]) -> list[RetrievalOutcome]:
        found: list[RetrievalOutcome] = [()] * len(queries)
        if cell.retriever is None or cell.shots == 0:
            return found
        more = cell.num_demos > cell.shots  # twice as many, or as many as there are
        pools = [self.task.pool(query.id) for query in queries]
        together: dict[int, list[int]] = {}
        for i, pool in enumerate(pools):
            together.setdefault(id(pool), []).append(i)
        gold = "gold" in cell.retriever.needs  # an oracle that says so gets the examples
        if len(together) > 1:
            self._prepare(cell.retriever, cell.seed, [pools[places[0]] for places in together.values()], queries)
        for places in together.values():
            asked: list[Any] = [queries[i] if gold else queries[i].query for i in places]
            try:
                fitted = self._fit(cell.retriever, cell.seed, pools[places[0]], shared=len(places) > 1)
            except ICLError as error:
                answers: Sequence[RetrievalOutcome] = [str(error)] * len(places)
            else:
                pool = pools[places[0]]
                count = max(cell.shots, _most(cell.num_demos, pool, asked)) if more else cell.shots
                given = _retrieved(fitted, asked, count)
                answers = [check_demos(cell.retriever, one, count, pool) for one in given]
            for place, answer in zip(places, answers, strict=True):
                found[place] = answer
        return found

    def _prepare(self, retriever: "Retriever", seed: int, pools: Sequence["Pool"], queries: Sequence[Example]) -> None:
        """Lets a retriever that can (optional `prepare`) read many small pools at once instead of one by one."""
        prepare = getattr(retriever, "prepare", None)
        if prepare is None:
            return
        items = [*(example for pool in pools for example in pool.examples), *(query.query for query in queries)]
        try:
            with convert_user_errors(retriever):
                prepare(items, self._resources(retriever, seed))
        except ICLError:
            return  # one of them cannot be read: pool by pool, the error finds the sample that it belongs to

    def _resources(self, retriever: "Retriever", seed: int) -> Resources:
        return Resources(seed, self.model if "model" in retriever.needs else None)

    def _fit(self, retriever: "Retriever", seed: int, pool: "Pool", shared: bool) -> FittedRetriever:
        key = (id(retriever), seed, id(pool))
        if key not in self.fitted:
            with convert_user_errors(retriever):
                fitted = retriever.fit(pool, self._resources(retriever, seed))
            if not shared:
                return fitted
            self.fitted[key] = fitted, pool
        return self.fitted[key][0]


def _most(wanted: int, pool: "Pool", queries: Sequence[Query]) -> int:
    """As many as are wanted, or as a pool has for each of the queries. Images of a pool large enough stay closed."""
    if len(pool) >= LARGE_POOL_RATIO * wanted:
        return wanted
    try:
        return min(wanted, *(sum(map(EXCLUDE_LEAKS.allowed_for(query), pool.examples)) for query in queries))
    except ICLError:
        return wanted  # an image that cannot be read fails its own sample, where it is shown


def _retrieved(fitted: FittedRetriever, queries: Sequence[Query], shots: int) -> Sequence[RetrievalOutcome]:
    """In one call; query by query where that fails, so that one unreadable image fails one sample."""
    try:
        with convert_user_errors(fitted):
            found = fitted.retrieve(queries, shots, EXCLUDE_LEAKS)
    except ICLError as error:
        if len(queries) == 1:
            return [str(error)]
        return [one for query in queries for one in _retrieved(fitted, [query], shots)]
    if not isinstance(found, Sequence) or len(found) != len(queries):
        told = f"{len(found)} answers" if isinstance(found, Sequence) else type(found).__name__
        raise PlanError(
            f"{type(fitted).__name__}.retrieve gave {told} for {len(queries)} queries. It returns a list with a tuple "
            "of Scored for each query (icl check retriever …)."
        )
    return found


def check_demos(retriever: "Retriever", found: RetrievalOutcome, shots: int, pool: "Pool") -> RetrievalOutcome:
    """The answer, or what is wrong with it: fewer demonstrations than shots would pass for a few-shot result."""
    if isinstance(found, str):
        return found
    name = type(retriever).__name__
    strange = next((one.id for one in found if one.id not in pool.by_id), None)
    if strange is not None:
        return f"retriever {name} gave '{strange}', which is not in the pool."
    unranked = next((one.id for one in found if math.isnan(one.score)), None)
    if unranked is not None:
        return f"retriever {name} gave '{unranked}' a score that is not a number (NaN). Give every one a number."
    twice = next((name for name, count in Counter(one.id for one in found).items() if count > 1), None)
    if twice is not None:
        return f"retriever {name} gave '{twice}' twice. It gives every demonstration once (icl check retriever …)."
    if len(found) != shots and getattr(retriever, "exact", True):
        return f"retriever {name} gave {len(found)} demonstrations for {shots} shots (one that means to sets `exact`)."
    return found


def build_contexts(
    retrieval: Retrieval, recipes: Sequence[PromptSpec], queries: Sequence[Example]
) -> Iterator[list[RenderedSample]]:
    """For each query, in turn, its context under every recipe; prompts are still to be written."""
    found = retrieval.plan([recipe.cell for recipe in recipes], queries)
    beside = {
        seed: list(
            _beside(retrieval, [r for r in recipes if r.needs_paired_sample and r.cell.seed == seed], queries, seed)
        )
        for seed in {recipe.cell.seed for recipe in recipes if recipe.needs_paired_sample}
    }
    for i, example in enumerate(queries):
        row = list(_row(retrieval, recipes, example, {key: of[i] for key, of in found.items()}))
        others = {recipe: item for of_seed in beside.values() for recipe, item in of_seed[i].items()}
        yield [replace(item, paired=others.get(item.spec)) for item in row]


def _row(
    retrieval: Retrieval,
    recipes: Sequence[PromptSpec],
    example: Example,
    found: Mapping[tuple[Any, ...], RetrievalOutcome],
) -> Iterator[RenderedSample]:
    """One query under every recipe. found: its demonstrations, by what retrieved them."""
    pool = retrieval.task.pool(example.id)
    made: dict[tuple[Any, ...], RenderedSample] = {}
    for recipe in recipes:
        key = _order_key(recipe.cell)
        if key not in made:
            made[key] = _shown(example, recipe, pool, found[_retrieval_key(recipe.cell)])
        yield replace(made[key], spec=recipe)


def _beside(
    retrieval: Retrieval, recipes: Sequence[PromptSpec], queries: Sequence[Example], seed: int
) -> Iterator[dict[PromptSpec, RenderedSample]]:
    """For each query, in turn, another sample under every recipe of one seed."""
    others = paired_samples(retrieval.task.queries, queries, seed)
    there = [other for other in others if other is not None]
    found = retrieval.plan([recipe.cell for recipe in recipes], there)
    places = iter(range(len(there)))
    for other in others:
        if other is None:
            yield {}
            continue
        i = next(places)
        yield {item.spec: item for item in _row(retrieval, recipes, other, {key: of[i] for key, of in found.items()})}


def render(item: RenderedSample) -> RenderedSample:
    """The item with its prompt, within the model's context; opens its images."""
    if item.failure is not None:
        return item
    cell = item.spec.cell
    try:
        limit, reserve = cell.model.max_tokens, cell.max_new_tokens
        with convert_user_errors(cell.composer):
            prompt, shown, dropped = fit(item.context, cell.composer, cell.model.count_tokens, limit, reserve)
            prompt.digest  # noqa: B018  an unreadable image fails here, in its own sample
    except ICLError as error:
        return replace(item, failure=str(error))
    if item.paired is not None:
        prompt = replace(prompt, paired_prompt=render(item.paired).prompt)
    return replace(item, prompt=prompt, context=shown, num_dropped=len(dropped))


def arrange(
    query: Query | Example,
    found: Sequence[RetrievedExample],
    pool: "Pool",
    seed: int,
    *,
    order: "Orderer | None" = None,
    transforms: "Sequence[Transform]" = (),
) -> Context:
    """The context of a query: its demonstrations in prompt order, transformed. Raises ICLError.

    Given as an Example, its gold is shown to the orderers and transforms that declare the need, and to no other.
    """
    demos = tuple(Demo(pool.by_id[one.id], one.score, rank) for rank, one in enumerate(found))
    blind = query.query if isinstance(query, Example) else query
    marks = tuple(dict.fromkeys(one.mark for one in found if one.mark))
    context = Context(blind, demos, StreamKey(seed, blind.id), marks)
    if order is not None:
        with convert_user_errors(order):
            context = _blind(order.order(_shown_to(order, context, query)))
    for transform in transforms:
        with convert_user_errors(transform):
            context = _blind(transform.transform(_shown_to(transform, context, query)))
    return context


def bind_resources(component: Any, pool: "Pool", model: "Model | None") -> Any:
    """An orderer or transform that needs the model or the pool, with them; any other as it is. Raises PlanError."""
    needed = component is not None and component.needs & {"model", "pool"}
    with convert_user_errors(component):
        return component.fitted(pool, model) if needed else component


def _shown_to(component: "Orderer | Transform", context: Context, query: Query | Example) -> Context:
    """With the gold beside the query as it is now, where the component is an oracle that says so."""
    if "gold" not in component.needs or not isinstance(query, Example):
        return context
    now = context.query
    oracle: Any = replace(query, images=now.images, question=now.question, options=now.options)
    return replace(context, query=oracle)


def _blind(context: Context) -> Context:
    query: Any = context.query
    return replace(context, query=query.query) if isinstance(query, Example) else context


def _shown(example: Example, recipe: PromptSpec, pool: "Pool", found: RetrievalOutcome) -> RenderedSample:
    cell = recipe.cell
    bare = Context(example.query, key=StreamKey(cell.seed, example.id))
    if isinstance(found, str):
        return RenderedSample(example, recipe, bare, failure=found)
    try:
        order = bind_resources(cell.order, pool, cell.model)
        transforms = [bind_resources(transform, pool, cell.model) for transform in cell.transforms]
        context = arrange(example, found, pool, cell.seed, order=order, transforms=transforms)
    except ICLError as error:
        return RenderedSample(example, recipe, bare, failure=str(error))
    if cell.retriever is not None and found and "gold" in cell.retriever.needs:
        context = replace(context, provenance=("retriever: saw the gold", *context.provenance))
    if len(found) < cell.num_demos and cell.num_demos > cell.shots:
        mark = f"{len(found)} demonstrations of {cell.num_demos}, as many as the pool has"
        context = replace(context, provenance=(*context.provenance, mark))
    return RenderedSample(scored_example(example, context), recipe, context)


def _retrieval_key(cell: Cell) -> tuple[Any, ...]:
    return id(cell.retriever), cell.seed, cell.num_demos


def _order_key(cell: Cell) -> tuple[Any, ...]:
    return (*_retrieval_key(cell), id(cell.order), *map(id, cell.transforms))
