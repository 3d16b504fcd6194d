"""The keys of an experiment file. Each is written once, with its type, default and meaning.

The loader, its suggestions, the JSON schema and the table in docs/studies.md read `ExperimentKeys`. The comment beside
a field is its documentation, as in components.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen

from decoding.engine.requests import AnswerMode, LazyBranches
from experiments.config.statements import ClaimSpec, PublishedSpec
from experiments.config.tuning_keys import TuneSpec
from icl.models.base import MAX_NEW_TOKENS
from icl.registry import NestedComponent

METRIC_PREFERENCE = ("lenient", "strict", "option")
"""The primary metric of a run that names none is the first of these that it has."""
DEFAULT_METRICS = ("strict", "lenient")
"""Metrics of a run that names none. Where a run has them, tables show them beside the primary metric."""
DEFAULT_METRIC = METRIC_PREFERENCE[0]
Correction = Literal["holm", "none"]
CORRECTIONS: tuple[Correction, ...] = get_args(Correction)
DEFAULT_CORRECTION = CORRECTIONS[0]
DEFAULT_LAUNCHER = "local"
WHEN_DECIDED = "when_decided"
"""The value of `stop` that means its rule with default values."""
MAX_COLUMN_VALUES = 100
"""The largest number of values of a column in `by`. More values have a few queries each."""
NO_INTERVENTION = "none"
"""The default of the axis `intervene`."""
EMPTY_LIST = "none"
"""Name of an empty list, in files and tables."""
DEMONSTRATION_AXES = ("retriever", "rerankers", "rerank_candidates", "order")
"""Axes that have no effect without demonstrations: at 0 shots, one arm stands for all of their values."""


@dataclass(frozen=True)
class Axis:
    """Field metadata of a key that can be an axis of the grid."""


@dataclass(frozen=True)
class ExpectedText:
    """Field metadata: what an error message says that the value is."""

    text: str


Shots = Annotated[int, Ge(0), Le(10_000), ExpectedText("a number of demonstrations, 0 or more")]
ThinkingLimit = Annotated[
    Annotated[int, Ge(0), Le(100_000)] | None, ExpectedText("the number of tokens of a reasoning block, 0 or more")
]
TokenLimit = Annotated[int, Ge(1), Le(100_000), ExpectedText("an integer of at least 1")]
CandidateCount = Annotated[
    Annotated[int, Ge(1), Le(100_000)] | None,
    ExpectedText("the number of candidates that the rerankers get, 1 or more"),
]
TraceWidth = Annotated[
    int, Ge(0), ExpectedText("the number of tokens to store for each branch and step, an integer of 0 or more")
]
StopStrings = Annotated[
    tuple[Annotated[str, MinLen(1)], ...], ExpectedText('a list of strings that end an answer, such as ["\\n"]')
]
Columns = Annotated[
    tuple[Annotated[str, MinLen(1)], ...], ExpectedText("a list of columns of the data, such as [category]")
]
Seeds = Annotated[tuple[int, ...], MinLen(1), ExpectedText("a list of integers such as [0, 1, 2]")]
Controls = Annotated[Literal["none", "default"], ExpectedText("'none' or 'default'")]
Rerankers = list[Annotated[Any, NestedComponent("reranker")]]
Transforms = list[Annotated[Any, NestedComponent("transform")]]
Metrics = tuple[Annotated[Any, NestedComponent("metric")], ...]
Observers = tuple[Annotated[Any, NestedComponent("observer")], ...]


@dataclass(frozen=True, kw_only=True)
class CompareSpec:
    """The reference that the differences of a table are computed against."""

    to: Mapping[str, Any]  # the reference: an axis and its value, such as {decoding: greedy}
    metric: Annotated[str, ExpectedText("the name of a metric")] = DEFAULT_METRIC  # metric of the differences
    correction: Correction = DEFAULT_CORRECTION  # correction of p-values for multiple comparisons


StopLevel = Annotated[float, Gt(0), Le(0.5), ExpectedText("a probability above 0 and at most 0.5, such as 0.05")]
LookCount = Annotated[
    Annotated[int, Ge(1), Le(1000)] | None, ExpectedText("the number of looks, 1 to 1000, or null for the default")
]
SpendPower = Annotated[float, Ge(0.5), Le(10), ExpectedText("a number from 0.5 to 10, such as 2")]
Futility = Annotated[Annotated[float, Gt(0), Lt(1)] | None, ExpectedText("a probability between 0 and 1, or null")]
Margin = Annotated[Annotated[float, Gt(0), Lt(1)] | None, ExpectedText("a difference between 0 and 1, or null")]
StopNull = Annotated[Literal["exchange", "mean"], ExpectedText("'exchange' or 'mean'")]


@dataclass(frozen=True, kw_only=True)
class StopSpec:
    """The rule by which comparisons end as soon as they are decided (`experiments.stopping`)."""

    level: StopLevel = 0.05  # largest chance of any false verdict in the family, at any stopping time
    looks: LookCount = None  # looks at the data; by default 20, or 5 if several models take turns
    spend: SpendPower = 2.0  # power of the share of clusters in the spent level; lower spends earlier
    futility: Futility = 0.05  # chance of a later verdict below which a comparison ends as open; null: never
    margin: Margin = None  # a comparison whose interval lies within this difference ends as equal
    null: StopNull = "exchange"  # what is tested: arm names are exchangeable, or the mean difference is 0
    seed: Annotated[int, ExpectedText("an integer")] = 0  # seed of the random order of the clusters


@dataclass(frozen=True, kw_only=True)
class ExperimentKeys:
    """The values of the keys of an experiment file. Components are config nodes that are not built yet."""

    name: str  # folder of the run; by default the name of the file
    task: Annotated[Any, Axis(), NestedComponent("task")]  # provides the queries and the pool of demonstrations
    model: Annotated[Any, Axis(), NestedComponent("model")]  # answers the prompts
    shots: Annotated[Shots, Axis()] = 0  # number of demonstrations
    retriever: Annotated[Any, Axis(), NestedComponent("retriever")] = "random"  # chooses demonstrations from the pool
    rerankers: Annotated[Rerankers, Axis()] = field(default_factory=list)  # rerank the candidates, applied in order
    rerank_candidates: Annotated[CandidateCount, Axis()] = None  # number of candidates that the rerankers get
    order: Annotated[Any, Axis(), NestedComponent("orderer")] = "reversed"  # orders the demonstrations
    transforms: Annotated[Transforms, Axis()] = field(default_factory=list)  # change the context, applied in order
    composer: Annotated[Any, Axis(), NestedComponent("composer")] = "chat"  # writes the prompt
    decoding: Annotated[Any, Axis(), NestedComponent("strategy")] = "greedy"  # decodes the answer
    intervene: Annotated[Any, Axis(), NestedComponent("intervention")] = NO_INTERVENTION  # edits the model's states
    answer_mode: Annotated[AnswerMode, Axis()] = "generate"  # generate a text, or score the query's options
    max_new_tokens: Annotated[TokenLimit, Axis()] = MAX_NEW_TOKENS  # maximum number of generated tokens
    max_thinking_tokens: Annotated[ThinkingLimit, Axis()] = None  # tokens of a reasoning block, beside max_new_tokens
    stop_strings: StopStrings = ()  # strings that end a generated answer; they are removed from it
    seeds: Seeds = (0,)  # random seeds; every cell runs with each
    metrics: Metrics = DEFAULT_METRICS  # scores of an answer; 'option' is added if options are scored
    controls: Controls = "none"  # default: adds the controls of each decoding strategy
    top_logprobs: TraceWidth = 0  # number of tokens of each branch that are stored for every step
    lazy_branches: LazyBranches = "auto"  # whether to skip branches that no step needs
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # axes whose product is run
    zip: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # axes of equal length that are paired
    exclude: list[Mapping[str, Any]] = field(default_factory=list)  # combinations that are left out
    by: Columns = ()  # columns of the data by which the report divides the scores, such as [category]
    compare: CompareSpec | None = None  # reference and metric of the tables
    claims: tuple[ClaimSpec, ...] = ()  # claims of papers that the report tests
    published: tuple[PublishedSpec, ...] = ()  # published numbers that the report sets beside those of the run
    stop: StopSpec | None = None  # 'when_decided', or the rule's keys: ends each comparison when it is decided
    tune: TuneSpec | None = None  # how `icl tune` trains an adapter; `icl run` ignores it
    launcher: Annotated[Any, NestedComponent("launcher")] = DEFAULT_LAUNCHER  # starts the workers
    observe: Observers = ()  # trackers that receive the settings, scores and tables, such as [mlflow, wandb]


def component_kind(hint: Any) -> str | None:
    """The registry kind of the component, or list of components, that a type hint stands for."""
    for part in get_args(hint):
        kind = part.kind if isinstance(part, NestedComponent) else component_kind(part)
        if kind is not None:
            return kind
    return None


def _defaults() -> dict[str, Any]:
    return {
        f.name: f.default if f.default_factory is MISSING else f.default_factory()
        for f in fields(ExperimentKeys)
        if f.default is not MISSING or f.default_factory is not MISSING
    }


HINTS: Mapping[str, Any] = get_type_hints(ExperimentKeys, include_extras=True)
KEYS: tuple[str, ...] = tuple(HINTS)
AXES: tuple[str, ...] = tuple(key for key, hint in HINTS.items() if Axis() in get_args(hint))
DEFAULTS: Mapping[str, Any] = {key: value for key, value in _defaults().items() if key in AXES}
COMPONENT_KINDS: Mapping[str, str] = {axis: kind for axis in AXES if (kind := component_kind(HINTS[axis]))}
"""Axis -> registry kind of the components that it holds."""
LIST_AXES: tuple[str, ...] = tuple(axis for axis in AXES if get_origin(get_args(HINTS[axis])[0]) is list)
"""Axes that hold a list of components, applied in turn."""
DEFAULT_REFERENCES: Mapping[str, str] = {axis: DEFAULTS[axis] for axis in ("retriever", "decoding")}
"""Axis -> the reference that its other values are compared with by default: chance, and greedy decoding."""


def primary_metric(info: Mapping[str, Any], metrics: Sequence[str]) -> str | None:
    """The metric that a run is judged by: that of its `compare`, else of `METRIC_PREFERENCE`, else its first."""
    metric = ((info.get("config") or {}).get("compare") or {}).get("metric")
    return str(metric) if metric else next((m for m in METRIC_PREFERENCE if m in metrics), next(iter(metrics), None))
