"""The dry run: what a grid costs and what its arms share, before any weights are read.

Tokens are counted on a random choice of each task's queries and scaled to all queries. Fields with `_alone` count every
sample on its own. The others count each distinct prompt once, as the runner prefills it.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from decoding import Arm, Strategy, constant_strength, judge_prompts, probe_branches, probe_prompt
from experiments.contexts import PromptNotes, Retrieval, build_contexts, prompt_specs, render
from experiments.contexts.request_sizes import (
    LargestRequests,
    placeholder_retriever,
    sample_queries,
    without_model_calls,
)
from experiments.grid.grid import Cell, Grid
from experiments.grid.grid_warnings import grid_warnings
from experiments.planning.prompt_counts import (
    EqualPrompts,
    IdenticalBranches,
    NestedShots,
    PrefixBlocks,
    PrefixReuse,
    TokenCounts,
    UnlistedOptions,
)
from experiments.stats.significance import smallest_detectable_difference
from experiments.stopping.plan import Pilot, stop_lines
from experiments.terminal.progress import ReportProgress
from icl import Example, Prompt, Task, describe, names_of_files

SAMPLED_QUERIES = 24
"""Queries of each task whose prompts are counted."""

MAX_EMBEDDED_POOL = 5000
"""A plan embeds no larger pool. Random demonstrations stand in for a retriever that would embed it."""


ENGINES = {"strategies": "lockstep", "logits": "loop"}
"""Ability of a model -> the engine that then runs strategies."""


@dataclass
class WorkEstimate:
    """Estimated numbers of prompts, tokens and images of a grid.

    Attributes:
        edited: Images that a strategy changes.
        image_uses: Distinct images of each context, edited or not.
    """

    prompts_alone: float = 0
    prompts: float = 0
    tokens_alone: float = 0
    tokens: float = 0
    num_images: float = 0
    images: float = 0
    edited: float = 0
    image_uses: float = 0
    failed: float = 0

    def add(self, other: "WorkEstimate", scale: float) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + scale * value)


@dataclass(frozen=True)
class DecodingPlan:
    """The engine, branches and temperature of one decoding.

    Attributes:
        label: As tables show it.
        engine: What runs it.
        branches: Rows of each forward pass.
        generates_first: Whether text is generated before decoding.
        temperature: 1 / the sum of the strategy's weights; None if it varies.
        control: Whether the grid added it as a control.
        name: The label without the wrapped strategy.
        owners: Labels of the decodings that it is a control of.
    """

    label: str
    engine: str
    branches: int
    generates_first: bool
    temperature: float | None
    control: bool
    name: str = ""
    owners: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The estimated cost of a grid, and what its arms share.

    Attributes:
        samples: Samples of all cells.
        present: Samples that are finished.
        work: Estimated prompts, tokens and images.
        smallest_differences: Task -> smallest paired difference that is detected with 80 % power.
        counted: Task -> (queries whose prompts were counted, all queries).
        arms: Number of arms.
        sharing: Number of arms that share their demonstrations.
        notes: Warnings.
        unlisted: Sentences on options that no prompt shows.
        stop: Sentences on comparisons that end when they are decided.
        cached_fraction: Fraction of prompt tokens in an engine's prefix cache, if it holds all; None without a cache.
        largest: The largest request of each model among the queries that were counted.
        image_tokens: Sentences on the tokens of each model's largest image.
        answer_files: The files of components from outside the toolkit on which answers depend.
        score_files: Those of metrics.
    """

    grid: Grid
    samples: int
    present: int
    work: WorkEstimate
    decodings: tuple[DecodingPlan, ...]
    smallest_differences: Mapping[str, float]
    counted: Mapping[str, tuple[int, int]]
    arms: int
    sharing: int
    notes: tuple[str, ...] = field(default=())
    unlisted: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    cached_fraction: float | None = None
    largest: LargestRequests = field(default_factory=LargestRequests)
    image_tokens: tuple[str, ...] = ()
    answer_files: tuple[str, ...] = ()
    score_files: tuple[str, ...] = ()


def make_plan(
    grid: Grid,
    present: int = 0,
    report: ReportProgress = lambda what, done, of: None,
    pilot: Pilot | None = None,
    limit: int | None = None,
) -> Plan:
    """Plans a checked grid.

    Args:
        grid: The grid.
        present: Number of samples that its run directory has.
        report: Receives progress.
        pilot: An earlier run, for the forecast of comparisons that end when they are decided.
        limit: Plans the first `limit` queries of each task.

    Raises:
        ICLError: As a run would.
    """
    work, counted, notes = (
        WorkEstimate(),
        dict[str, tuple[int, int]](),
        dict.fromkeys((*grid.warnings, *grid_warnings(grid))),
    )
    identical, prompts = IdenticalBranches(), PromptNotes()
    unlisted, equal, nested = UnlistedOptions(), EqualPrompts(grid), NestedShots()
    all_queries = {id(task): task.queries[:limit] for task in grid.tasks}
    parts = [(task, sample_queries(all_queries[id(task)], SAMPLED_QUERIES), _groups(grid, task)) for task in grid.tasks]
    notes |= dict.fromkeys(note for task in grid.tasks for note in _image_notes(task.title, all_queries[id(task)]))
    num_rows = sum(len(queries) * len(groups) for _, queries, groups in parts)
    counted_rows = itertools.count()

    def report_row() -> None:
        report("counting", next(counted_rows), num_rows)

    prefix_reuse, largest = PrefixReuse(), LargestRequests()
    token_counts = {id(model): TokenCounts(model) for model in grid.models}
    for task, queries, groups in parts:
        of = len(all_queries[id(task)])
        counted[task.title] = len(queries), of
        plain, edited, prefixes = DistinctImages(), DistinctImages(), PrefixBlocks()
        retrievals = {id(group[0].model): Retrieval(task, group[0].model) for group, _ in groups}
        for group, group_notes in groups:
            notes |= dict.fromkeys(group_notes)
            counters = PlanCounters(
                plain,
                edited,
                prefixes,
                identical,
                equal,
                nested,
                prompts,
                unlisted,
                largest,
                report_row,
                tokens=token_counts[id(group[0].model)],
            )
            group_work = _count(group, queries, retrievals[id(group[0].model)], counters)
            work.add(group_work, of / len(queries))
            largest.add_image_uses(group[0].model, group_work.image_uses * of / len(queries))
        work.images += plain.scaled(*counted[task.title])
        work.edited += edited.scaled(*counted[task.title])
        prefix_reuse += prefixes.scaled(*counted[task.title])
    image_tokens = tuple(_image_tokens(largest, token_counts, several=len(grid.models) > 1))
    for counts in token_counts.values():
        counts.save()
    arms = {_arm(cell): cell for cell in grid.cells}
    same = (note for note in equal.notes() if not any(note.partition(" in all")[0] in one for one in notes))
    demos = [(cell.labels["task"], cell.labels["retriever"], cell.shots) for cell in arms.values()]
    units = {task.title: len({query.group or query.id for query in all_queries[id(task)]}) for task in grid.tasks}
    return Plan(
        grid=grid,
        samples=sum(len(all_queries[id(cell.task)]) for cell in grid.cells),
        present=present,
        work=work,
        decodings=tuple(_decodings(grid)),
        smallest_differences={title: smallest_detectable_difference(count) for title, count in units.items()},
        counted=counted,
        arms=len(arms),
        sharing=sum(demos.count(key) > 1 for key in demos),
        notes=(*notes, *identical.notes(), *same, *nested.notes(), *prompts.notes()),
        unlisted=tuple(unlisted.notes()),
        stop=tuple(stop_lines(grid, pilot)),
        cached_fraction=prefix_reuse.fraction,
        largest=largest,
        image_tokens=image_tokens,
        answer_files=_own_files([cell.config for cell in grid.cells]),
        score_files=_own_files([describe(metric) for metric in grid.metrics.values()]),
    )


def _image_tokens(largest: LargestRequests, counts: Mapping[int, TokenCounts], several: bool) -> Iterator[str]:
    """'512 for an image of 1024 x 768 pixels (1,024 by default)' for each model that knows it."""
    for cell, image in largest.images():
        width, height = image.open().size
        if tokens := counts[id(cell.model)].tokens_of_image(image):
            own, default = tokens
            label = f"{cell.labels['model']}: " if several else ""
            usual = f" ({default:,} by default)" if default != own else ""
            yield f"{label}{own:,} for an image of {width} x {height} pixels{usual}"


def _own_files(node: Any) -> tuple[str, ...]:
    """The files behind the code digests in nodes of components."""
    parts = list(node.values()) if isinstance(node, Mapping) else node if isinstance(node, list | tuple) else []
    own = names_of_files(str(node.get("code"))) if isinstance(node, Mapping) else ()
    return tuple(dict.fromkeys((*own, *(name for part in parts for name in _own_files(part)))))


def _groups(grid: Grid, task: Task) -> list[tuple[list[Cell], list[str]]]:
    """The task's cells by model and shots, with placeholders for what a plan cannot run, and notes on these."""
    groups: dict[tuple[int, int], list[Cell]] = {}
    for cell in grid.cells:
        if cell.task is task:
            groups.setdefault((id(cell.model), cell.shots), []).append(cell)
    return [_with_placeholders(cells) for cells in groups.values()]


def _with_placeholders(cells: Sequence[Cell]) -> tuple[list[Cell], list[str]]:
    """Replaces retrievers that would embed a large pool or call the model by random retrieval. Returns notes on it."""
    is_large = cells[0].task.pool_size > MAX_EMBEDDED_POOL
    expensive = {"embedder", "model"} if is_large else {"model"}
    placeholder = placeholder_retriever()
    replaced, notes = list[Cell](), dict[str, None]()
    for cell, without_calls in zip(cells, without_model_calls(cells), strict=True):
        changes: dict[str, Any] = {}
        if len(without_calls.transforms) < len(cell.transforms):
            notes["counted without the transforms that call the model"] = None
        if needs := expensive & getattr(cell.retriever, "needs", frozenset()):
            why = "which calls the model" if "model" in needs else "whose pool is large"
            notes[f"counted with random demonstrations instead of {cell.labels['retriever']}, {why}"] = None
            changes = {"retriever": placeholder, "rerankers": ()}
        replaced.append(replace(without_calls, **changes))
    return replaced, list(notes)


@dataclass(frozen=True)
class PlanCounters:
    """The counters that the groups of a task share. report_row: called for each row of prompts."""

    plain: "DistinctImages"
    edited: "DistinctImages"
    prefixes: PrefixBlocks
    identical: "IdenticalBranches"
    equal: EqualPrompts
    nested: NestedShots
    prompts: PromptNotes
    unlisted: UnlistedOptions
    largest: LargestRequests
    report_row: Callable[[], None]
    tokens: TokenCounts


def _image_notes(title: str, queries: Sequence[Example]) -> Iterator[str]:
    """A sentence if some queries have images and others do not, as in a table with empty cells."""
    without = [query.id for query in queries if not query.images]
    if 0 < len(without) < len(queries):
        yield (
            f"task '{title}': {len(without)} of {len(queries)} queries have no image, for example '{without[0]}', and "
            "are asked without one. Remove the rows whose image is missing."
        )


def _count(
    cells: Sequence[Cell], queries: Sequence[Example], retrieval: Retrieval, counters: PlanCounters
) -> WorkEstimate:
    """Counts the prompts of cells of one task, model and number of shots."""
    work = WorkEstimate()
    for index, row in enumerate(build_contexts(retrieval, prompt_specs(cells), queries)):
        counters.report_row()
        tokens: dict[str, int] = {}
        context_images: set[str] = set()
        for item in (render(one, counters.tokens) for one in row):
            if item.prompt is None:
                work.failed += len(item.spec.cells)
                counters.prompts.overflow.add_failure(item)
                continue
            for cell in item.spec.cells:  # arms that read one prompt may be fitted on different queries
                counters.prompts.training.add(cell, item)
            counters.prompts.repeated.add(item.spec.cells[0], item)
            counters.prompts.overflow.add(item.spec.cells[0], item)
            counters.unlisted.add(item)
            counters.equal.add(item)
            if counters.equal.is_own(item.spec.cell):
                counters.nested.add(item, counters.tokens.count_tokens(item.prompt))
            for cell in item.spec.cells:
                strategy = cell.decoding.strategy
                branches = probe_branches(strategy, item.prompt)
                counters.identical.add(cell, branches)
                samples = 1 if cell.answer_mode == "options" else strategy.traits.num_samples
                judge = strategy.traits.judge if samples > 1 else None
                checks = judge_prompts(item.prompt, judge[0], map(str, range(samples))) if judge else []
                for branch, times in [*((one, samples) for one in branches), *((one, 1) for one in checks)]:
                    if branch.digest not in tokens:
                        tokens[branch.digest] = counters.tokens.count_tokens(branch)
                        context_images.update(image.digest for image in branch.images)
                        for image in branch.images:
                            (counters.edited if image.edits else counters.plain).add(image.digest, index)
                    work.prompts_alone += times
                    work.tokens_alone += times * tokens[branch.digest]
                    work.num_images += times * len(branch.images)
                    counters.prefixes.add(cell.model, branch, tokens[branch.digest], times, index)
                    counters.largest.add(cell, len(branches), tokens[branch.digest], branch.images)
        work.image_uses += len(context_images)
        work.prompts += len(tokens)
        work.tokens += sum(tokens.values())
    return work


@dataclass
class DistinctImages:
    """A set of distinct images. first: digest -> index of the first query that showed it."""

    first: dict[str, int] = field(default_factory=dict)

    def add(self, digest: str, index: int) -> None:
        self.first[digest] = min(index, self.first.get(digest, index))

    def scaled(self, read: int, of: int) -> float:
        """Estimates the number of distinct images after all queries, from its growth in the second half of those read.

        A pool that all queries share is used up, so the number grows with a power of the queries that is at most 1.
        """
        count = len(self.first)
        in_first_half = sum(index < read / 2 for index in self.first.values())
        if read == of or not in_first_half:
            return count
        power = min(1.0, math.log(count / in_first_half) / math.log(read / math.ceil(read / 2)))
        return count * math.pow(of / read, power)


def _decodings(grid: Grid) -> list[DecodingPlan]:
    plans: dict[str, DecodingPlan] = {}
    labels = {cell.decoding.digest: str(cell.labels["decoding"]) for cell in grid.cells}
    owners: dict[str, dict[str, None]] = {}
    for cell in grid.cells:
        label, strategy = str(cell.labels["decoding"]), cell.decoding.strategy
        owners.setdefault(label, {}).update(dict.fromkeys(labels[owner] for owner in cell.controls if owner in labels))
        if label not in plans:
            strength: Any = constant_strength(strategy)
            plans[label] = DecodingPlan(
                label,
                next((ENGINES[a] for a in ENGINES if a in cell.model.abilities), "requests"),
                len(probe_branches(strategy)),
                generates_first(strategy),
                1 / strength if strength is not None and strength > 0 else None,
                cell.control,
                _name(cell),
            )
    return [replace(arm, owners=tuple(owners[label])) for label, arm in plans.items()]


def _name(cell: Cell) -> str:
    """The decoding's label without the wrapped strategy and the sampler, which a control has from its owner."""
    strategy = cell.decoding.strategy
    label = Arm(strategy, strategy.sampler).label
    return label.partition("(")[0] if hasattr(strategy, "of") else label


def generates_first(strategy: Strategy) -> bool:
    """Whether the strategy generates text before decoding."""
    calls: list[int] = []

    def generate(prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        calls.append(len(prompts))
        return [""] * len(prompts)

    strategy.prepare([probe_prompt()], generate)
    return bool(calls)


def _arm(cell: Cell) -> tuple[Any, ...]:
    return tuple(value for axis, value in cell.labels.items() if axis != "seed")
