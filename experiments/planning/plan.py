"""The dry run: what a grid costs and what its arms share, before any weights are read.

Tokens are counted on a random choice of queries of each task and scaled up; the choice is stated. `alone` is what the
grid would forward with every sample on its own, `forwarded` what it does with each distinct prompt once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from experiments.contexts.context_overflow import ContextOverflow
from experiments.contexts.contexts import Retrieval, build_contexts, prompt_specs, render
from experiments.contexts.placeholders import placeholder_retriever, without_model_calls
from experiments.contexts.repeated_images import RepeatedImages
from experiments.contexts.size_estimate import sample_queries
from experiments.grid.grid import Cell, Grid
from experiments.grid.grid_warnings import grid_warnings
from experiments.planning.identical_branches import IdenticalBranches
from experiments.planning.prefix_sharing import PrefixBlocks, PrefixReuse
from experiments.terminal.spinner import ReportProgress

if TYPE_CHECKING:
    from decoding.base import Strategy
    from icl.tasks.base import Task
    from icl.types import Example, Prompt

QUERIES_READ = 24
"""Queries of each task whose prompts are counted."""

POOL_EMBEDDED = 5000
"""A larger pool is not embedded for a plan: random demonstrations stand in for a retriever that needs it."""


ENGINES = {"strategies": "lockstep", "logits": "loop"}
"""ability -> what runs strategies on a model that has it."""


@dataclass
class WorkEstimate:
    """Prompts and images of a grid, as counted and scaled. edited: images that a strategy changed."""

    prompts_alone: float = 0
    prompts: float = 0
    tokens_alone: float = 0
    tokens: float = 0
    images_shown: float = 0
    images: float = 0
    edited: float = 0
    failed: float = 0

    def add(self, other: "WorkEstimate", scale: float) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + scale * value)


@dataclass(frozen=True)
class DecodingPlan:
    """How one decoding runs. branches: rows a token; temperature: hidden in the weights, None where it varies.

    owners: labels of the decodings that it was added as a control of. name: without what it wraps.
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
    """smallest: task -> smallest paired difference seen with 80 % power. counted: task -> (queries read, of).

    found: share of the prompt tokens that an engine's prefix cache has, where it has room for all; None without one.
    """

    grid: Grid
    samples: int
    present: int
    work: WorkEstimate
    decodings: tuple[DecodingPlan, ...]
    smallest: Mapping[str, float]
    counted: Mapping[str, tuple[int, int]]
    arms: int
    sharing: int
    notes: tuple[str, ...] = field(default=())
    found: float | None = None


def make_plan(grid: Grid, present: int = 0, tell: ReportProgress = lambda what, done, of: None) -> Plan:
    """The plan of a checked grid. present: samples that its run directory has. tell: hears how far it is.

    Raises ICLError, as a run would.
    """
    from experiments.stats.power import smallest_detectable_difference

    work, counted, notes = (
        WorkEstimate(),
        dict[str, tuple[int, int]](),
        dict.fromkeys((*grid.warnings, *grid_warnings(grid))),
    )
    alike, repeats, room = IdenticalBranches(), RepeatedImages(), ContextOverflow()
    parts = [(task, sample_queries(task.queries, QUERIES_READ), _groups(grid, task)) for task in grid.tasks]
    left = CountingProgress(tell, sum(len(chosen) * len(groups) for _, chosen, groups in parts))
    shared = PrefixReuse()
    for task, chosen, groups in parts:
        counted[task.title] = len(chosen), len(task.queries)
        plain, edited, beginnings = DistinctImages(), DistinctImages(), PrefixBlocks()
        retrievals = {id(group[0].model): Retrieval(task, group[0].model) for group, _ in groups}
        for group, told in groups:
            notes |= dict.fromkeys(told)
            into = PlanCounters(plain, edited, beginnings, alike, repeats, room, left)
            found = _counted(group, chosen, retrievals[id(group[0].model)], into)
            work.add(found, len(task.queries) / len(chosen))
        work.images += plain.scaled(*counted[task.title])
        work.edited += edited.scaled(*counted[task.title])
        shared += beginnings.scaled(*counted[task.title])
    arms = {_arm(cell): cell for cell in grid.cells}
    demos = [(cell.labels["task"], cell.labels["retriever"], cell.shots) for cell in arms.values()]
    return Plan(
        grid=grid,
        samples=sum(len(cell.task.queries) for cell in grid.cells),
        present=present,
        work=work,
        decodings=tuple(_decodings(grid)),
        smallest={task.title: smallest_detectable_difference(_independent(task)) for task in grid.tasks},
        counted=counted,
        arms=len(arms),
        sharing=sum(demos.count(one) > 1 for one in demos),
        notes=(*notes, *alike.notes(), *repeats.notes(), *room.notes()),
        found=shared.share,
    )


def _groups(grid: Grid, task: "Task") -> list[tuple[list[Cell], list[str]]]:
    """The task's cells by model and shots, with stand-ins for what a plan cannot ask, and what is said of these."""
    found: dict[tuple[int, int], list[Cell]] = {}
    for cell in grid.cells:
        if cell.task is task:
            found.setdefault((id(cell.model), cell.shots), []).append(cell)
    return [_stand_ins(cells) for cells in found.values()]


def _stand_ins(cells: Sequence[Cell]) -> tuple[list[Cell], list[str]]:
    """Random retrieval in the place of what would have to embed a large pool, or to ask the model."""
    large = cells[0].task.pool_size > POOL_EMBEDDED
    heavy = {"embedder", "model"} if large else {"model"}
    stand_in = placeholder_retriever()
    counted, told = list[Cell](), dict[str, None]()
    for cell, quiet in zip(cells, without_model_calls(cells), strict=True):
        other: dict[str, Any] = {}
        if len(quiet.transforms) < len(cell.transforms):
            told["counted without the transforms that ask the model"] = None
        if met := heavy & getattr(cell.retriever, "needs", frozenset()):
            why = "which asks the model" if "model" in met else "whose pool is large"
            told[f"counted with random demonstrations in the place of {cell.labels['retriever']}, {why}"] = None
            other = {"retriever": stand_in, "rerankers": ()}
        counted.append(replace(quiet, **other))
    return counted, list(told)


@dataclass
class CountingProgress:
    """How much is still to be counted, for whoever waits."""

    tell: ReportProgress
    of: int
    done: int = 0

    def step(self) -> None:
        self.tell("counting", self.done, self.of)
        self.done += 1


@dataclass(frozen=True)
class PlanCounters:
    """What the groups of a task are counted into beside their work."""

    plain: "DistinctImages"
    edited: "DistinctImages"
    beginnings: PrefixBlocks
    alike: "IdenticalBranches"
    repeats: RepeatedImages
    room: ContextOverflow
    left: CountingProgress


def _counted(
    cells: Sequence[Cell], queries: "Sequence[Example]", retrieval: Retrieval, into: PlanCounters
) -> WorkEstimate:
    """Of one task, model and number of shots."""
    from decoding.arms.inspection import probe_branches

    found = WorkEstimate()
    for place, row in enumerate(build_contexts(retrieval, prompt_specs(cells), queries)):
        into.left.step()
        tokens: dict[str, int] = {}
        for item in map(render, row):
            if item.prompt is None:
                found.failed += len(item.spec.cells)
                into.room.add_failure(item)
                continue
            into.repeats.add(item.spec.cells[0], item)
            into.room.add(item.spec.cells[0], item)
            for cell in item.spec.cells:
                branches = probe_branches(cell.decoding.strategy, item.prompt)
                into.alike.add(cell, branches)
                for branch in branches:
                    if branch.digest not in tokens:
                        tokens[branch.digest] = cell.model.count_tokens(branch)
                        for image in branch.images:
                            (into.edited if image.edits else into.plain).add(image.digest, place)
                    times = 1 if cell.answer_mode == "options" else cell.decoding.strategy.traits.num_samples
                    found.prompts_alone += times
                    found.tokens_alone += times * tokens[branch.digest]
                    found.images_shown += times * len(branch.images)
                    into.beginnings.see(cell.model, branch, tokens[branch.digest], times, place)
        found.prompts += len(tokens)
        found.tokens += sum(tokens.values())
    return found


@dataclass
class DistinctImages:
    """Distinct images, each with the place of the query that showed it first."""

    first: dict[str, int] = field(default_factory=dict)

    def add(self, digest: str, place: int) -> None:
        self.first[digest] = min(place, self.first.get(digest, place))

    def scaled(self, read: int, of: int) -> float:
        """How many there will be after all queries, if they go on to grow as from the first half to the whole.

        A pool that all queries share is used up, so the number grows by a power of the queries that is below 1.
        """
        whole = len(self.first)
        half = sum(place < read / 2 for place in self.first.values())
        if read == of or not half:
            return whole
        power = min(1.0, math.log(whole / half) / math.log(read / math.ceil(read / 2)))
        return whole * math.pow(of / read, power)


def _decodings(grid: Grid) -> list[DecodingPlan]:
    from decoding.arms.inspection import constant_strength, probe_branches

    found: dict[str, DecodingPlan] = {}
    called = {cell.decoding.digest: str(cell.labels["decoding"]) for cell in grid.cells}
    owners: dict[str, dict[str, None]] = {}
    for cell in grid.cells:
        label, strategy = str(cell.labels["decoding"]), cell.decoding.strategy
        owners.setdefault(label, {}).update(dict.fromkeys(called[owner] for owner in cell.controls if owner in called))
        if label not in found:
            strength: Any = constant_strength(strategy)
            found[label] = DecodingPlan(
                label,
                next((ENGINES[a] for a in ENGINES if a in cell.model.abilities), "requests"),
                len(probe_branches(strategy)),
                generates_first(strategy),
                1 / strength if strength is not None and strength > 0 else None,
                cell.control,
                _name(cell),
            )
    return [replace(arm, owners=tuple(owners[label])) for label, arm in found.items()]


def _name(cell: Cell) -> str:
    """Of a decoding without what it wraps and how tokens are drawn, which a control has from what it controls."""
    from decoding.arms.arm import Arm

    strategy = cell.decoding.strategy
    told = Arm(strategy, strategy.sampler).label
    return told.partition("(")[0] if hasattr(strategy, "of") else told


def generates_first(strategy: "Strategy") -> bool:
    """Whether something is generated before decoding."""
    from decoding.arms.inspection import probe_prompt

    asked: list[int] = []

    def generate(prompts: "Sequence[Prompt]", max_new_tokens: int) -> list[str]:
        asked.append(len(prompts))
        return [""] * len(prompts)

    strategy.prepare([probe_prompt()], generate)
    return bool(asked)


def _independent(task: "Task") -> int:
    """Groups where the task has them (questions about one image), else queries."""
    return len({query.group or query.id for query in task.queries})


def _arm(cell: Cell) -> tuple[Any, ...]:
    return tuple(value for axis, value in cell.labels.items() if axis != "seed")
