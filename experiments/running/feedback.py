"""Fit a retriever on the model's feedback (`icl fit`): what each demonstration is worth to training queries.

    F[q, e] = log p(gold of q | e, q)          with e as the only demonstration; the study's model, composer, transforms

With options, p is the share of the gold among them, of the mean log-probability per token; without, the mean
log-probability per token of the best accepted answer. The pairs are ordered by demonstration, so that its tokens are
prefilled once for its queries. Every CHUNK pairs go to a file, HEAD.feedback.safetensors, and a fit reads it first: a
killed fit pays for nothing twice, and other settings of the head cost no call.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from experiments.config import Config
from experiments.contexts.contexts import PromptItem, PromptSpec, arrange, bind_resources, render
from experiments.grid import Cell, check_data, expand, fitting_origin, vector_record
from experiments.running.fit import ReportProgress, check_single_setting
from experiments.running.generation import engine_for
from icl import ConfigError, Example, Pool, RetrievedExample, canonical_digest
from icl.metrics import accepted_probability, is_accepted
from icl.registry import component_search_folder, parse
from prompts import scored_example
from retrievers import EXCLUDE_LEAKS, Resources
from retrievers.machinery.bilinear_head import Feedback
from retrievers.machinery.trained_heads import load_head, save_head

CHUNK = 512
"""Pairs between two writes. A killed fit loses at most these."""

FORMAT = "mm-icl feedback, 1"
ORIGIN = {
    "model_digest": "model",
    "template_digest": "composer, or other transforms",
    "intervention": "intervention",
    "seed": "seed",
}
"""What the numbers of a file belong to -> its name in a sentence."""


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
        """The ids of the members of the pool that are scored for each query."""
        ...

    def learn(self, feedback: Feedback, record: Mapping[str, Any], resources: Resources) -> FittedHeads:
        """The fitted heads. record: where the feedback comes from."""
        ...


@dataclass(frozen=True)
class RetrieverFit:
    """The result of `fit_retriever`.

    Attributes:
        heads: What is written.
        calls: Model calls of this fit: pairs that no file had.
        left_out: Reason -> pairs without a number.
        warnings: What makes the retriever doubtful.
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
        ConfigError: The config has several settings, or no such retriever; or the file of feedback is of another model,
            composer or intervention.
        PlanError: The model cannot score answers.
        DataError: Too few queries have feedback.
        ModelError: The model returns numbers that are not finite.
    """
    from decoding import Arm, parse_arm, unsupported_reason
    from icl.errors import PlanError

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
    intervention = canonical_digest(cell.config["intervene"])
    store = _Store(
        out.with_suffix(".feedback.safetensors"), {**record, "intervention": intervention, "seed": cell.seed}
    )
    queries = sorted(cell.task.queries, key=lambda query: query.id)
    retriever, resources = cell.axis_value("retriever"), Resources(cell.seed)
    planned = list(_planned(cell, queries, retriever, resources))
    missing = [pair for pair in planned if _keys(pair) not in store.values]
    missing.sort(key=lambda pair: pair[1].id)
    cell.model.load()
    left_out: Counter[str] = Counter()
    for start in range(0, len(missing), CHUNK):
        report_progress("feedback", len(planned) - len(missing) + start, len(planned))
        try:
            _score(cell, arm, missing[start : start + CHUNK], store, left_out)
        finally:
            store.write()  # also the numbers before one that is not finite
    feedback = _feedback(cell, queries, store.only(map(_keys, planned)))
    images = sorted({image.source_digest for query in queries for image in query.images})
    heads = retriever.learn(feedback, {**record, **store.work, "images": images}, resources)
    return RetrieverFit(heads, len(missing) - left_out.total(), left_out, tuple(_warnings(heads.report)))


class _Store:
    """log p(gold) of pairs, by the keys of query and member, and the work that they cost."""

    def __init__(self, path: Path, origin: Mapping[str, Any]) -> None:
        self.path, self.origin = path, {key: str(origin[key]) for key in ORIGIN}
        self.values: dict[tuple[str, str], float] = {}
        self.names: dict[str, str] = {}
        self.work = {"calls": 0, "tokens": 0}
        if path.is_file():
            self._read()

    def only(self, pairs: Iterable[tuple[str, str]]) -> Values:
        """The numbers of these pairs: what another fit added to the file changes nothing."""
        return {pair: self.values[pair] for pair in pairs if pair in self.values}

    def _read(self) -> None:
        tensors, metadata = load_head(self.path, "a file of feedback", "Delete it: its calls are then paid again.")
        for key, what in ORIGIN.items():
            if metadata.get(key) != self.origin[key]:
                raise ConfigError(
                    f"{self.path} has feedback of another {what} ({str(metadata.get(key))[:12]}, and this is "
                    f"{self.origin[key][:12]}). Write to another file (--out), or delete it."
                )
        queries, members = (json.loads(metadata[key]) for key in ("queries", "members"))
        self.names = queries | members
        self.work = json.loads(metadata["work"])
        rows, columns = list(queries), list(members)
        logprobs = tensors["logprobs"]
        for i, j in np.argwhere(~np.isnan(logprobs)).tolist():
            self.values[rows[i], columns[j]] = float(logprobs[i, j])

    def write(self) -> None:
        """Replaces the file."""
        queries, members = (dict.fromkeys(key[side] for key in self.values) for side in (0, 1))
        names = {
            key: json.dumps({one: self.names[one] for one in keys})
            for key, keys in (("queries", queries), ("members", members))
        }
        temporary = self.path.with_suffix(".part")
        metadata = {"format": FORMAT, **self.origin, **names, "work": json.dumps(self.work)}
        save_head(temporary, {"logprobs": _matrix(self.values, [*queries], [*members])}, metadata)
        temporary.replace(self.path)


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
) -> Iterator[tuple[Example, Example]]:
    by_pool: dict[int, list[Example]] = {}
    pools = {query.id: cell.task.pool(query.id) for query in queries}
    for query in queries:
        by_pool.setdefault(id(pools[query.id]), []).append(query)
    for own in by_pool.values():
        pool = pools[own[0].id]
        for query, ids in zip(own, retriever.feedback_candidates(own, pool, resources), strict=True):
            yield from ((query, pool.by_id[name]) for name in ids)


def _score(
    cell: Cell, arm: Any, pairs: Sequence[tuple[Example, Example]], store: _Store, left_out: Counter[str]
) -> None:
    """Adds the numbers of these pairs to the store."""
    from decoding import DecodingRequest, Failure
    from icl.errors import ModelError

    requests, scored = [], []
    for query, member in pairs:
        item = _item(cell, query, member)
        if item.prompt is None:
            left_out[str(item.failure)] += 1
            continue
        answers, options = item.example.answers, item.example.options
        is_choice = len(options) > 1 and any(is_accepted(option, answers) for option in options)
        among = options if is_choice else answers
        requests.append(DecodingRequest(item.prompt, arm, among, "options", intervene=cell.steering))
        scored.append((query, member, answers if is_choice else ()))
    for request, (query, member, right), answer in zip(
        requests, scored, engine_for(cell.model)(cell.model, requests), strict=True
    ):
        if isinstance(answer, Failure):
            left_out[answer.reason] += 1
            continue
        value = gold_logprob(answer.option_scores, right)
        if not math.isfinite(value):
            raise ModelError(
                f"query '{query.id}' with the demonstration '{member.id}': the model's log-probability of the gold is "
                f"{value}. Feedback needs finite numbers: load the model in another dtype."
            )
        keys = _keys((query, member))
        store.names |= dict(zip(keys, (query.id, member.id), strict=True))
        store.values[keys] = value
        store.work["calls"] += 1
        store.work["tokens"] += cell.model.count_tokens(request.prompt)


def gold_logprob(scores: Mapping[str, float], right: Sequence[str]) -> float:
    """log p(gold): of the right ones among the options, or of the best accepted answer.

    Args:
        scores: Mean log-probabilities per token of options, or of the accepted answers to an open question.
        right: The accepted answers of a choice; none of an open question.
    """
    return float(np.log(accepted_probability(scores, right))) if right else max(scores.values())


def _item(cell: Cell, query: Example, member: Example) -> PromptItem:
    """The query with one demonstration, as the study writes it."""
    pool = cell.task.pool(query.id)
    transforms = [bind_resources(transform, pool, cell.model) for transform in cell.transforms]
    context = arrange(query, [RetrievedExample(member.id)], pool, cell.seed, transforms=transforms)
    return render(PromptItem(scored_example(query, context), PromptSpec((cell,)), context))


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


def _keys(pair: tuple[Example, Example]) -> tuple[str, str]:
    query, member = pair
    return _key(query), _key(member)


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
