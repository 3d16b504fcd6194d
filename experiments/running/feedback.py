"""Fit a retriever on the model's feedback (`icl fit`): what each demonstration is worth to training queries.

    F[q, e] = log p(gold of q | e, q)          with e as the only demonstration; the study's model, composer, transforms

or the Banzhaf value of e among random sets (`retrievers.machinery.trained_heads`), if the retriever asks for it.

With options, p is the share of the gold among them, of the mean log-probability per token; without, the mean
log-probability per token of the best accepted answer. The pairs are ordered by demonstration, so that its tokens are
prefilled once for its queries. Every score is stored in HEAD.feedback.jsonl, which a fit reads first. So a killed fit
repeats no call, and other settings of the head need none.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from experiments.config import Config
from experiments.contexts.contexts import PromptItem, PromptSpec, arrange, bind_resources, render
from experiments.grid import Cell, check_data, expand, fitting_origin, vector_record
from experiments.running.fit import ReportProgress, check_single_setting
from experiments.running.paid_calls import PaidCalls, Scores, gold_probability
from icl import ConfigError, Example, ModelError, PlanError, Pool, RetrievedExample, canonical_digest
from icl.registry import component_search_folder, parse
from icl.tasks import image_digests
from prompts import scored_example
from retrievers import EXCLUDE_LEAKS, Resources
from retrievers.machinery.bilinear_head import Feedback

Values = Mapping[tuple[str, str], float]
"""(key of the query, key of the member) -> log p(gold)."""


class FittedHeads(Protocol):
    """What a fit of a retriever returns. record: where it was fitted. report: numbers of the fit."""

    @property
    def record(self) -> Mapping[str, Any]: ...

    @property
    def report(self) -> Mapping[str, Any]: ...

    def save(self, path: Path) -> None: ...


@runtime_checkable
class LearnsFromFeedback(Protocol):
    """A retriever that `icl fit` fits on the model's feedback."""

    def feedback_candidates(
        self, queries: Sequence[Example], pool: Pool, resources: Resources
    ) -> Iterator[tuple[str, ...]]:
        """For each query, the ids of the members of the pool that it needs feedback on."""
        ...

    def feedback_sets(
        self, query: Example, members: Sequence[Example], resources: Resources
    ) -> Sequence[Sequence[Example]]:
        """The sets of these members to score: for example, each member alone."""
        ...

    def member_values(self, scored: Sequence[tuple[Sequence[str], float]]) -> Mapping[str, float]:
        """Key of a member -> its value for one query. scored: (keys of a set, log p of the gold with it)."""
        ...

    def learn(self, feedback: Feedback, record: Mapping[str, Any], resources: Resources) -> FittedHeads:
        """The fitted heads. record: where the feedback comes from."""
        ...


@dataclass(frozen=True)
class RetrieverFit:
    """The result of `fit_retriever`.

    Attributes:
        heads: The fitted heads.
        calls: Number of model calls of this fit, without those that were stored.
        left_out: Reason -> number of prompts without a score.
        warnings: Reasons to doubt the retriever.
    """

    heads: FittedHeads
    calls: int
    left_out: Mapping[str, int]
    warnings: tuple[str, ...]


def names_learning_retriever(config: Config) -> bool:
    """Whether a config has a retriever without a file that learns from feedback, which `icl fit` then fits."""
    nodes = [config.retriever, *config.grid.get("retriever", ()), *config.zip.get("retriever", ())]
    with component_search_folder(config.document.folder):
        components = [parse("retriever", node, config.where("retriever")) for node in nodes]
    return any(hasattr(one.cls, "feedback_candidates") and not one.parameters.get("fitted") for one in components)


def fit_retriever(
    config: Config, out: Path, report_progress: ReportProgress = lambda what, done, of: None
) -> RetrieverFit:
    """Fits the retriever of a config on its queries, which are the training split.

    Args:
        config: A config with one retriever that learns, and one model, task and composer. Shots and
            decodings do not matter: the feedback is of one demonstration.
        out: The file of the head. The feedback is beside it.
        report_progress: Called with a text and the number of pairs done and planned.

    Raises:
        ConfigError: The config has several settings, or no such retriever.
        PlanError: The model cannot score answers.
        DataError: Too few queries have feedback.
        ModelError: The model returns numbers that are not finite.
    """
    from decoding import Arm, parse_arm, unsupported_reason

    grid = expand(replace(config, compare=None, controls="none"))
    cells = [cell for cell in grid.cells if isinstance(cell.axis_value("retriever"), LearnsFromFeedback)]
    cells = [cell for cell in cells if (cell.shots, cell.decoding) == (cells[0].shots, cells[0].decoding)]
    if not cells:
        raise ConfigError(f"{config.where('shots')}: a retriever is fitted at 1 shot or more, and shots is 0.")
    check_single_setting(config, cells, "retrievers")
    check_data(grid)
    cell = replace(cells[0], shots=1)
    arm = Arm(parse_arm("greedy").strategy, normalize="mean")
    if problem := unsupported_reason(arm.strategy, cell.model.abilities, "options"):
        raise PlanError(f"{config.where('model')}: {problem}")
    record = {**fitting_origin(cell.model.digest, cell.config["task"]), **vector_record(cell, cell.model)}
    queries = sorted(cell.task.queries, key=lambda query: query.id)
    retriever, resources = cell.axis_value("retriever"), Resources(cell.seed)
    sets = sorted(_planned(cell, queries, retriever, resources), key=lambda one: [member.id for member in one[1]])
    items = [_item(cell, *one) for one in sets]
    scoring = replace(cell, decoding=arm, max_thinking_tokens=None)
    calls = PaidCalls(out.with_suffix(".feedback.jsonl"), scoring, report_progress)
    left_out: Counter[str] = Counter()
    scored: dict[str, list[tuple[list[str], float]]] = {}
    for (query, members), item, scores in zip(sets, items, calls.scores(items), strict=True):
        if isinstance(scores, str):
            left_out[scores] += 1
        else:
            scored.setdefault(_key(query), []).append((list(map(_key, members)), _gold_logprob(scores, item)))
    values = {
        (query, member): value
        for query, own in scored.items()
        for member, value in retriever.member_values(own).items()
    }
    feedback = _feedback(cell, queries, values)
    work = {"calls": len(calls.used), "tokens": calls.tokens, "images": sorted(image_digests(*queries))}
    heads = retriever.learn(feedback, {**record, **work}, resources)
    return RetrieverFit(heads, calls.paid, left_out, tuple(_warnings(heads.report)))


def _gold_logprob(scores: Scores, item: PromptItem) -> float:
    """log p(gold). Raises ModelError if it is not finite."""
    with np.errstate(divide="ignore"):
        value = float(np.log(gold_probability(scores, item.example)))
    if not math.isfinite(value):
        names = ", ".join(demo.example.id for demo in item.context.demos)
        raise ModelError(
            f"query '{item.example.id}' with the demonstrations '{names}': the model's log-probability of the gold "
            f"is {value}. Feedback needs finite numbers: load the model in another dtype."
        )
    return value


def _matrix(values: Values, queries: Sequence[str], members: Sequence[str]) -> "np.ndarray":
    """[Q, E] float32 of these keys, NaN where a pair was not scored."""
    row, column = ({key: i for i, key in enumerate(keys)} for keys in (queries, members))
    logprobs = np.full((len(row), len(column)), np.nan, np.float32)
    for (query, member), value in values.items():
        if query in row and member in column:
            logprobs[row[query], column[member]] = value
    return logprobs


def _planned(
    cell: Cell, queries: Sequence[Example], retriever: LearnsFromFeedback, resources: Resources
) -> Iterator[tuple[Example, Sequence[Example]]]:
    by_pool: dict[int, list[Example]] = {}
    pools = {query.id: cell.task.pool(query.id) for query in queries}
    for query in queries:
        by_pool.setdefault(id(pools[query.id]), []).append(query)
    for own in by_pool.values():
        pool = pools[own[0].id]
        for query, ids in zip(own, retriever.feedback_candidates(own, pool, resources), strict=True):
            members = [pool.by_id[name] for name in ids]
            yield from ((query, chosen) for chosen in retriever.feedback_sets(query, members, resources))


def _item(cell: Cell, query: Example, members: Sequence[Example]) -> PromptItem:
    """The query with these demonstrations, as the study writes it. Without all of them it has no prompt."""
    pool = cell.task.pool(query.id)
    transforms = [bind_resources(transform, pool, cell.model) for transform in cell.transforms]
    context = arrange(
        query, [RetrievedExample(member.id) for member in members], pool, cell.seed, transforms=transforms
    )
    item = render(PromptItem(scored_example(query, context), PromptSpec((cell,)), context))
    return (
        replace(item, prompt=None, failure="demonstrations do not fit into the model's context.")
        if item.num_dropped
        else item
    )


def _feedback(cell: Cell, queries: Sequence[Example], values: Values) -> Feedback:
    scored = {member for _, member in values}
    members: dict[str, Example] = {}
    pool_keys: dict[int, set[str]] = {}
    for query in queries:
        pool = cell.task.pool(query.id)
        if id(pool) not in pool_keys:
            own = {key: member for member in pool.examples if (key := _key(member)) in scored}
            pool_keys[id(pool)] = set(own)
            members |= own
    allowed = np.zeros((len(queries), len(members)), bool)
    for row, query in zip(allowed, queries, strict=True):
        is_allowed, own_keys = EXCLUDE_LEAKS.allowed_for(query.query), pool_keys[id(cell.task.pool(query.id))]
        row[:] = [key in own_keys and is_allowed(member) for key, member in members.items()]
    logprobs = _matrix(values, [_key(query) for query in queries], [*members])
    return Feedback(queries, [*members.values()], np.where(allowed, logprobs, np.nan), allowed)


def _key(example: Example) -> str:
    """Identifies an example by its content."""
    images = [image.digest for image in example.images]
    return canonical_digest([example.id, example.question, example.answers, example.options, images])[:16]


def _warnings(report: Mapping[str, Any]) -> Iterator[str]:
    own, without = (np.array(report[key]) for key in ("probe", "probe_without_match"))
    if not _is_above_zero(own - without):
        general = "shows which demonstrations are good, but not for which query"
        what = general if _is_above_zero(without - 0.5) else "does not show which demonstrations help"
        yield (
            f"this embedder {what}: on queries outside its training, a head orders demonstrations no better "
            f"({own.mean():.2f}) than a head trained on the feedback of other queries ({without.mean():.2f}). Use "
            "another embedder, or join two (mix)."
        )


def _is_above_zero(values: "np.ndarray") -> bool:
    """Whether the mean is more than two standard errors above zero. values: [N]."""
    return bool(values.mean() > 2 * values.std(ddof=1) / len(values) ** 0.5)
