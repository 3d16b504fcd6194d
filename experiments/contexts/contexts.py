"""From queries to prompts: demonstrations are retrieved once and shared by all cells that read them.

A `PromptSpec` is everything of a cell that decides its prompts. Cells of one spec (such as two decodings) share a
prompt. Specs with the same retriever and seed (such as two orders) share demonstrations.

    queries --Retrieval.plan--> demonstrations --arrange--> Context --render--> Prompt
              retriever, seed,                   order,               composer,
              number of demonstrations           transforms           token budget

`build_contexts` does the first two steps. For each query it yields a list with one `PromptItem` per spec.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

from experiments.grid.grid import Cell
from icl import ICLError, Model, PlanError, Pool, StreamKey, Task, convert_user_errors, list_options
from icl.types import Context, Demo, Example, Prompt, Query, RetrievedExample
from prompts import Orderer, Transform, fit, scored_example
from retrievers import EXCLUDE_LEAKS, FittedRetriever, Resources, Retriever, check_takes_policy, declared

LARGE_POOL_RATIO = 4
"""In a pool this many times larger than the demonstrations, allowed examples are not counted."""


@dataclass(frozen=True, eq=False)
class PromptSpec:
    """Everything except the query that decides a prompt, and the cells that read the prompt."""

    cells: tuple[Cell, ...]

    @property
    def cell(self) -> Cell:
        """One of the cells. They agree in everything that decides the prompt."""
        return self.cells[0]

    @property
    def needs_paired_sample(self) -> bool:
        """Whether a cell also reads the prompt of another sample."""
        return any(cell.decoding.strategy.traits.reads_paired_prompt for cell in self.cells)


def prompt_specs(cells: Sequence[Cell]) -> list[PromptSpec]:
    """Groups cells of one task and model by what decides their prompts."""
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((*_context_key(cell), id(cell.composer), cell.max_output_tokens), []).append(cell)
    return [PromptSpec(tuple(group)) for group in groups.values()]


@dataclass(frozen=True, eq=False)
class PromptItem:
    """The context of one query under one spec and, after `render`, its prompt. All cells of the spec share it.

    Attributes:
        example: The query with the gold that scores its answer.
        spec: What decided the prompt.
        context: The demonstrations in the prompt's order.
        prompt: None until `render` composes it, and still None if that fails.
        num_dropped: Demonstrations that did not fit into the model's context.
        failure: Why there is no prompt.
        paired: Another sample under the same spec, if one of the cells reads its prompt.
    """

    example: Example
    spec: PromptSpec
    context: Context
    prompt: Prompt | None = None
    num_dropped: int = 0
    failure: str | None = None
    paired: "PromptItem | None" = None


RetrievalOutcome = tuple[RetrievedExample, ...] | str
"""The demonstrations of a query, or the reason why there are none."""


class Retrieval:
    """The demonstrations of one task's queries. Each retriever is fitted once for each seed on a pool.

    Fitted retrievers are cached for pools that several queries share. Those of a single query's pool are not.
    """

    def __init__(self, task: Task, model: Model) -> None:
        self.task, self.model = task, model
        self.fitted: dict[tuple[int, int, int], tuple[FittedRetriever, Pool]] = {}

    def plan(self, cells: Sequence[Cell], queries: Sequence[Example]) -> dict[tuple[Any, ...], list[RetrievalOutcome]]:
        """Demonstrations of each query for each (retriever, seed, shots, number of demonstrations) of the cells."""
        cell_by_key = {_retrieval_key(cell): cell for cell in cells}
        return {key: self._retrieve(cell, queries) for key, cell in cell_by_key.items()}

    def _retrieve(self, cell: Cell, queries: Sequence[Example]) -> list[RetrievalOutcome]:
        outcomes: list[RetrievalOutcome] = [()] * len(queries)
        if cell.retriever is None or cell.shots == 0:
            return outcomes
        pools = [self.task.pool(query.id) for query in queries]
        by_pool: dict[int, list[int]] = {}
        for i, pool in enumerate(pools):
            by_pool.setdefault(id(pool), []).append(i)
        reads_gold = "gold" in cell.retriever.needs
        if len(by_pool) > 1:
            self._prepare(cell.retriever, cell.seed, [pools[indices[0]] for indices in by_pool.values()], queries)
        for indices in by_pool.values():
            pool = pools[indices[0]]
            pool_queries: list[Any] = [queries[i] if reads_gold else queries[i].query for i in indices]
            try:
                fitted = self._fit(cell.retriever, cell.seed, pool, shared=len(indices) > 1)
            except ICLError as error:
                answers: Sequence[RetrievalOutcome] = [str(error)] * len(indices)
            else:
                count = cell.shots
                if cell.num_demos > cell.shots:  # a control that shows more, if the pool has more
                    count = max(cell.shots, _num_available(cell.num_demos, pool, pool_queries))
                rankings = _retrieve_isolating_errors(fitted, pool_queries, count)
                answers = [check_demos(cell.retriever, ranking, count, pool) for ranking in rankings]
            for i, answer in zip(indices, answers, strict=True):
                outcomes[i] = answer
        return outcomes

    def _prepare(self, retriever: Retriever, seed: int, pools: Sequence[Pool], queries: Sequence[Example]) -> None:
        """Calls the retriever's optional `prepare`, which reads many small pools at once."""
        prepare = getattr(retriever, "prepare", None)
        if prepare is None:
            return
        items = [*(example for pool in pools for example in pool.examples), *(query.query for query in queries)]
        try:
            with convert_user_errors(retriever):
                prepare(items, self._resources(retriever, seed))
        except ICLError:
            return  # an example cannot be read; fitting pool by pool assigns the error to its sample

    def _resources(self, retriever: Retriever, seed: int) -> Resources:
        return Resources(seed, self.model if "model" in retriever.needs else None)

    def _fit(self, retriever: Retriever, seed: int, pool: Pool, shared: bool) -> FittedRetriever:
        key = (id(retriever), seed, id(pool))
        if key not in self.fitted:
            with convert_user_errors(retriever):
                fitted = retriever.fit(pool, self._resources(retriever, seed))
            check_takes_policy(fitted)
            if not shared:
                return fitted
            self.fitted[key] = fitted, pool
        return self.fitted[key][0]


def _num_available(count: int, pool: Pool, queries: Sequence[Query]) -> int:
    """At most `count` examples that the pool may show to each query. Images of a large pool are not opened."""
    if len(pool) >= LARGE_POOL_RATIO * count:
        return count
    try:
        return min(count, *(sum(map(EXCLUDE_LEAKS.allowed_for(query), pool.examples)) for query in queries))
    except ICLError:
        return count  # an image that cannot be read fails its own sample later


def _retrieve_isolating_errors(
    fitted: FittedRetriever, queries: Sequence[Query], shots: int
) -> Sequence[RetrievalOutcome]:
    """Retrieves in one call, or query by query if that fails, so that one unreadable image fails one sample."""
    try:
        with convert_user_errors(fitted):
            rankings = fitted.retrieve(queries, shots, EXCLUDE_LEAKS)
    except ICLError as error:
        if len(queries) == 1:
            return [str(error)]
        return [ranking for query in queries for ranking in _retrieve_isolating_errors(fitted, [query], shots)]
    if not isinstance(rankings, Sequence) or len(rankings) != len(queries):
        what = f"{len(rankings)} answers" if isinstance(rankings, Sequence) else type(rankings).__name__
        raise PlanError(
            f"{type(fitted).__name__}.retrieve returned {what} for {len(queries)} queries. It must return a list with "
            "a tuple of RetrievedExample for each query (icl check retriever …)."
        )
    return rankings


def check_demos(retriever: Retriever, ranking: RetrievalOutcome, shots: int, pool: Pool) -> RetrievalOutcome:
    """The ranking, or what is wrong with it. A result with too few demonstrations would not be of that many shots."""
    if isinstance(ranking, str):
        return ranking
    name = type(retriever).__name__
    wrong = next((d for d in ranking if not isinstance(d, RetrievedExample) or d.id not in pool.by_id), None)
    if wrong is not None:
        text = f"a value of type {type(wrong).__name__}, not a RetrievedExample"
        if isinstance(wrong, RetrievedExample):
            text = f"'{wrong.id}', which is not in the pool"
        return f"retriever {name} returned {text}."
    unranked = next((demo.id for demo in ranking if math.isnan(demo.score)), None)
    if unranked is not None:
        return f"retriever {name} returned a score that is not a number (NaN) for '{unranked}'. Scores must be numbers."
    repeated = next((id_ for id_, count in Counter(demo.id for demo in ranking).items() if count > 1), None)
    if repeated is not None:
        return (
            f"retriever {name} returned '{repeated}' twice. It must return each demonstration once (icl check "
            "retriever …)."
        )
    if len(ranking) != shots and declared(retriever, "returns_k"):
        return (
            f"retriever {name} returned {len(ranking)} demonstrations for {shots} shots. One that may return fewer "
            "declares `returns_k = False`."
        )
    return ranking


def build_contexts(
    retrieval: Retrieval, specs: Sequence[PromptSpec], queries: Sequence[Example]
) -> Iterator[list[PromptItem]]:
    """Yields for each query its context under every spec, without prompts (see `render`)."""
    outcomes = retrieval.plan([spec.cell for spec in specs], queries)
    paired_items = {
        seed: list(
            _paired_items(retrieval, [s for s in specs if s.needs_paired_sample and s.cell.seed == seed], queries, seed)
        )
        for seed in {spec.cell.seed for spec in specs if spec.needs_paired_sample}
    }
    for i, example in enumerate(queries):
        items = list(_items(retrieval, specs, example, {key: of_key[i] for key, of_key in outcomes.items()}))
        paired = {spec: item for of_seed in paired_items.values() for spec, item in of_seed[i].items()}
        yield [replace(item, paired=paired.get(item.spec)) for item in items]


def _items(
    retrieval: Retrieval,
    specs: Sequence[PromptSpec],
    example: Example,
    outcomes: Mapping[tuple[Any, ...], RetrievalOutcome],
) -> Iterator[PromptItem]:
    """One query under every spec. outcomes: its demonstrations, by retrieval key."""
    components = (one for spec in specs for one in (spec.cell.order, *spec.cell.transforms) if one is not None)
    needed = any(spec.cell.shots for spec in specs) or any("pool" in one.needs for one in components)
    pool = retrieval.task.pool(example.id) if needed else Pool(())
    contexts: dict[tuple[Any, ...], PromptItem] = {}
    for spec in specs:
        key = _context_key(spec.cell)
        if key not in contexts:
            contexts[key] = _with_context(example, spec, pool, outcomes[_retrieval_key(spec.cell)])
        yield replace(contexts[key], spec=spec)


def _paired_items(
    retrieval: Retrieval, specs: Sequence[PromptSpec], queries: Sequence[Example], seed: int
) -> Iterator[dict[PromptSpec, PromptItem]]:
    """Yields for each query the sample that it is paired with, under every spec of one seed."""
    partners = paired_samples(retrieval.task.queries, queries, seed)
    existing = [partner for partner in partners if partner is not None]
    outcomes = retrieval.plan([spec.cell for spec in specs], existing)
    indices = iter(range(len(existing)))
    for partner in partners:
        if partner is None:
            yield {}
            continue
        i = next(indices)
        items = _items(retrieval, specs, partner, {key: of_key[i] for key, of_key in outcomes.items()})
        yield {item.spec: item for item in items}


class TokenCounter(Protocol):
    """What a prompt is cut by: a model, or its stored counts."""

    @property
    def max_tokens(self) -> int | None: ...

    def count_tokens(self, prompt: Prompt) -> int: ...


def render(item: PromptItem, tokens: TokenCounter | None = None) -> PromptItem:
    """The item with its prompt, cut to the model's context. Opens its images. An error becomes the `failure`.

    Args:
        item: A query under one spec.
        tokens: Counts the tokens of prompts; by default the model of the spec.
    """
    if item.failure is not None:
        return item
    cell = item.spec.cell
    try:
        tokens = tokens or cell.model
        limit, reserve = tokens.max_tokens, cell.max_output_tokens
        with convert_user_errors(cell.composer):
            prompt, context, dropped = fit(item.context, cell.composer, tokens.count_tokens, limit, reserve)
            prompt.digest  # noqa: B018  an unreadable image raises its error here, in its own sample
    except ICLError as error:
        return replace(item, failure=str(error))
    if item.paired is not None:
        prompt = replace(prompt, paired_prompt=render(item.paired, tokens).prompt)
    return replace(item, prompt=prompt, context=context, num_dropped=len(dropped))


def arrange(
    query: Query | Example,
    ranking: Sequence[RetrievedExample],
    pool: Pool,
    seed: int,
    *,
    order: Orderer | None = None,
    transforms: Sequence[Transform] = (),
) -> Context:
    """The context of a query: its demonstrations, ordered and transformed, with listed options.

    Args:
        query: An Example's gold is visible only to orderers and transforms that need it.
        ranking: The demonstrations, the nearest first.
        pool: The pool of the demonstrations.
        seed: The seed of the query's random stream.
        order: Keeps the order of `ranking` if None.
        transforms: Applied in turn.

    Raises:
        ICLError: A component fails.
    """
    demos = tuple(Demo(pool.by_id[item.id], item.score, rank) for rank, item in enumerate(ranking))
    without_gold = query.query if isinstance(query, Example) else query
    marks = tuple(dict.fromkeys(item.mark for item in ranking if item.mark))
    context = Context(without_gold, demos, StreamKey(seed, without_gold.id), marks)
    if order is not None:
        with convert_user_errors(order):
            context = _without_gold(order.order(_with_gold(order, context, query)))
    for transform in transforms:
        with convert_user_errors(transform):
            context = _without_gold(transform.transform(_with_gold(transform, context, query)))
    return list_options(context)


def bind_resources(component: Any, pool: Pool, model: Model | None) -> Any:
    """The orderer or transform with the model and the pool, if it needs them. Raises PlanError."""
    needed = component is not None and component.needs & {"model", "pool"}
    with convert_user_errors(component):
        return component.fitted(pool, model) if needed else component


def _with_gold(component: Orderer | Transform, context: Context, query: Query | Example) -> Context:
    """The context with the gold of its query, if the component needs it. Changes of the query by transforms stay."""
    if "gold" not in component.needs or not isinstance(query, Example):
        return context
    current = context.query
    changed = {name: getattr(current, name) for name in ("images", "question", "options", "listing")}
    with_gold: Any = replace(query, **changed)
    return replace(context, query=with_gold)


def _without_gold(context: Context) -> Context:
    query: Any = context.query
    return replace(context, query=query.query) if isinstance(query, Example) else context


def _with_context(example: Example, spec: PromptSpec, pool: Pool, outcome: RetrievalOutcome) -> PromptItem:
    cell = spec.cell
    without_demos = Context(example.query, key=StreamKey(cell.seed, example.id))
    if isinstance(outcome, str):
        return PromptItem(example, spec, without_demos, failure=outcome)
    try:
        order = bind_resources(cell.order, pool, cell.model)
        transforms = [bind_resources(transform, pool, cell.model) for transform in cell.transforms]
        context = arrange(example, outcome, pool, cell.seed, order=order, transforms=transforms)
    except ICLError as error:
        return PromptItem(example, spec, without_demos, failure=str(error))
    if cell.retriever is not None and outcome and "gold" in cell.retriever.needs:
        context = replace(context, provenance=("retriever: saw the gold", *context.provenance))
    if len(outcome) < cell.num_demos and cell.num_demos > cell.shots:
        mark = f"{len(outcome)} demonstrations of {cell.num_demos}, as many as the pool has"
        context = replace(context, provenance=(*context.provenance, mark))
    return PromptItem(scored_example(example, context), spec, context)


def _retrieval_key(cell: Cell) -> tuple[Any, ...]:
    return id(cell.retriever), cell.seed, cell.shots, cell.num_demos


def has_nested_prompts(cell: Cell) -> bool:
    """Whether the demonstrations of a prompt begin with those of the cell's arm with fewer shots."""
    return cell.shots > 0 and bool(declared(cell.retriever, "nested") and getattr(cell.order, "nested", False))


def _context_key(cell: Cell) -> tuple[Any, ...]:
    return (*_retrieval_key(cell), id(cell.order), *map(id, cell.transforms))


PAIRING_FACTOR = "other sample"


def paired_samples(queries: Sequence[Example], chosen: Sequence[Example], seed: int) -> list[Example | None]:
    """For each of the chosen queries its partner among all queries; None if there is none.

    Controls that read another sample's prompt need it. The queries of a task form a ring, ordered by a number that each
    draws from its own random stream. The partner of a query is the next one in the ring. If queries have groups (such
    as questions about one image), it is the next one of another group. So the pairs depend on the seed and the ids
    alone, and not on batches or resuming.
    """
    by_id = {query.id: query for query in queries}
    ring = _ring(tuple(by_id), seed)
    index = {name: i for i, name in enumerate(ring)}
    return [_partner(by_id[query.id], (by_id[name] for name in _after(ring, index[query.id]))) for query in chosen]


@lru_cache(8)
def _ring(names: tuple[str, ...], seed: int) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: (StreamKey(seed, name).number(PAIRING_FACTOR), name)))


def _after(ring: Sequence[str], index: int) -> Iterator[str]:
    return (ring[(index + step) % len(ring)] for step in range(1, len(ring)))


def _partner(query: Example, candidates: Iterable[Example]) -> Example | None:
    return next((other for other in candidates if query.group is None or other.group != query.group), None)
