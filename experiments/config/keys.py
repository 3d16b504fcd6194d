"""The keys of an experiment file. Each is written once, with its type, default and meaning.

pydantic checks a file against `ExperimentKeys`. The suggestions, the JSON schema and the table in docs/studies.md read
the same types. The comment next to a field is its documentation, as in components.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import AfterValidator, AllowInfNan, BeforeValidator, ConfigDict, Strict, model_validator

from decoding import AnswerMode, LazyBranches
from icl import FLOAT32_MAX, ConfigError, NestedComponent, build, describe, did_you_mean, parse, pydantic_core, suggest
from icl.metrics.base import BASELINES
from icl.models.base import MAX_NEW_TOKENS

METRIC_PREFERENCE = ("lenient", "strict", "option")
"""The primary metric of a run that names none is the first of these that it has."""
DEFAULT_METRICS = ("strict", "lenient")
"""Metrics of a run that names none. Where a run has them, tables show them next to the primary metric."""
DEFAULT_METRIC: str = METRIC_PREFERENCE[0]
Correction = Literal["holm", "none"]
CORRECTIONS: tuple[Correction, ...] = get_args(Correction)
DEFAULT_CORRECTION: Correction = CORRECTIONS[0]
DEFAULT_LAUNCHER = "local"
MAX_NAME_LENGTH = 200
"""A name becomes the name of a folder, and file systems take at most 255 bytes."""
BASELINE_KEY = "baseline"
"""In place of axes, `against: {baseline: vote}` compares an arm with the vote of its demonstrations."""
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
class Node(NestedComponent):
    """Field metadata: the config node of a component, which `experiments.grid` builds.

    built: the file builds it. many: or a list of such nodes.
    """

    built: bool = False
    many: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return pydantic_core.core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        one = {"$comment": self.kind}
        return {"anyOf": [one, {"type": "array", "minItems": 1, "items": one}]} if self.many else one

    def _check(self, node: Any) -> Any:
        if isinstance(node, list):
            if not self.many:
                raise ValueError("must be one component, not a list.")
            if not node:
                raise ValueError("must not be an empty list.")
            return [self._check(one) for one in node]
        try:
            return build(self.kind, node) if self.built else node
        except ConfigError as error:  # pydantic adds the place to a ValueError
            raise ValueError(str(error)) from error


def _listed(node: Any) -> Any:
    """A single value as a list of one; 'none' as the empty list."""
    is_single = isinstance(node, str | Mapping) or type(node) is int
    return [] if node == EMPTY_LIST else [node] if is_single else node


def _none_as_empty(node: Any) -> Any:
    return [] if node == EMPTY_LIST else node


def _buildable_transform(node: Any) -> Any:
    """The node as it is written, if it can be built."""
    Node("transform", built=True)._check(node)
    return node


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if repeated := [value for i, value in enumerate(values) if value in values[:i]]:
        raise ValueError(f"must not repeat a value: {repeated[0]!r} is there twice.")
    return values


def _folder_name(name: str) -> str:
    if not name[:1].isalnum() or not all(c.isascii() and (c.isalnum() or c in "._-") for c in name):
        raise ValueError(f"{name!r} names a folder: letters, digits, '.', '_' and '-' only.")
    if len(name) > MAX_NAME_LENGTH:
        raise ValueError(f"must have at most {MAX_NAME_LENGTH} characters, not {len(name)}.")
    return name


def _named_launcher(node: Any) -> Any:
    """A mapping without a name has parameters of the default launcher."""
    return {"name": DEFAULT_LAUNCHER, **node} if isinstance(node, Mapping) else node


def _axis(*others: str) -> AfterValidator:
    """Checks that a text names an axis, or one of the others."""

    def check(name: str) -> str:
        if name not in (names := (*AXES, *others)):
            raise ValueError(f"no axis '{name}'{suggest('key', name, names)}")
        return name

    return AfterValidator(check)


def _grid_axis(name: str) -> str:
    if name in ("seed", "seeds"):
        raise ValueError(
            "seeds cannot be an axis, because every cell is run with every seed. Set seeds at the top level."
        )
    head, _, parameter = name.partition(".")
    if name not in AXES and not (head in COMPONENT_KINDS and parameter):
        raise ValueError(
            f"no component reads the axis '{name}'{suggest('key', name, AXES)} Axes: {', '.join(AXES)}, or a "
            "parameter of a component such as decoding.alpha."
        )
    return name


def _as_nodes(setting: Mapping[str, Any]) -> Mapping[str, Any]:
    return {axis: [] if axis in LIST_AXES and value == EMPTY_LIST else value for axis, value in setting.items()}


def _as_in_tables(setting: Mapping[str, Any]) -> Mapping[str, Any]:
    return {axis: EMPTY_LIST if axis in LIST_AXES and value == [] else value for axis, value in setting.items()}


def _baseline_exists(setting: Mapping[str, Any]) -> Mapping[str, Any]:
    if BASELINE_KEY in setting and (name := setting[BASELINE_KEY]) not in [*BASELINES]:
        hint = did_you_mean(str(name), BASELINES)
        raise ValueError(f"no baseline {name!r}.{hint} Baselines: {', '.join(BASELINES)}.")
    return setting


def _allows_none(hint: Any) -> bool:
    return hint is type(None) or any(_allows_none(part) for part in get_args(hint))


Int = Annotated[int, Strict()]
Float = Annotated[float, Strict(), AllowInfNan(False), Le(FLOAT32_MAX)]
Text = Annotated[str, MinLen(1)]
Name = Annotated[str, AfterValidator(_folder_name)]
Shots = Annotated[Int, Ge(0), Le(10_000)]
ThinkingLimit = Annotated[Int, Ge(0), Le(100_000)] | None
TokenLimit = Annotated[Int, Ge(1), Le(100_000)]
CandidateCount = Annotated[Int, Ge(1), Le(100_000)] | None
Count = Annotated[Int, Ge(1), Le(1_000_000)]
Fraction = Annotated[Float, Ge(0), Lt(1)]
Positive = Annotated[Float, Gt(0)]
Columns = Annotated[tuple[Text, ...], BeforeValidator(_listed), AfterValidator(_distinct)]
Seeds = Annotated[tuple[Int, ...], MinLen(1), BeforeValidator(_listed), AfterValidator(_distinct)]
Rerankers = Annotated[list[Annotated[Any, Node("reranker")]], BeforeValidator(_none_as_empty)]
Transforms = Annotated[list[Annotated[Any, Node("transform")]], BeforeValidator(_none_as_empty)]
Metrics = Annotated[tuple[Annotated[Any, Node("metric")], ...], MinLen(1), BeforeValidator(_listed)]
Observers = Annotated[tuple[Annotated[Any, Node("observer")], ...], BeforeValidator(_listed)]
Axes = Mapping[Annotated[str, AfterValidator(_grid_axis)], Annotated[list[Any], MinLen(1)]]
Setting = Annotated[Mapping[Annotated[str, _axis()], Any], MinLen(1)]
Reference = Annotated[Mapping[Annotated[str, _axis()], Any], MinLen(1), AfterValidator(_as_in_tables)]
OtherArm = Annotated[Mapping[Annotated[str, _axis(BASELINE_KEY)], Any], MinLen(1), AfterValidator(_baseline_exists)]
Exclusion = Annotated[Mapping[Annotated[str, _axis("seed")], Any], MinLen(1), AfterValidator(_as_nodes)]
Facts = Annotated[Mapping[str, Any], MinLen(1)]
"""Axes, or columns of the data, and their values."""
StopLevel = Annotated[Float, Gt(0), Le(0.5)]
LookCount = Annotated[Int, Ge(1), Le(1000)] | None
SpendPower = Annotated[Float, Ge(0.5), Le(10)]
Chance = Annotated[Float, Gt(0), Lt(1)] | None
StopNull = Literal["exchange", "mean"]
Expectation = Literal["better", "worse", "higher", "lower"]
Objective = Literal["sft", "dpo", "realign", "distill", "cal", "cal_permuted"]
Mixing = Literal["mixed", "sequential"]
Parameters = Literal["lora", "projector", "new_projector", "vectors"]
Modules = Annotated[tuple[Text, ...], MinLen(1)]
BuildableTransforms = Annotated[
    list[Annotated[Any, Node("transform"), AfterValidator(_buildable_transform)]], BeforeValidator(_none_as_empty)
]
BuiltTasks = Annotated[Any, Node("task", built=True, many=True)]
BuiltRetriever = Annotated[Any, Node("retriever", built=True)]
Relations = tuple[BuiltRetriever, ...]
Launcher = Annotated[Any, Node("launcher"), BeforeValidator(_named_launcher)]


class FileKeys:
    """A mapping of an experiment file: the keys that it may have, each with its type. A null stands for the default."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        hints = get_type_hints(cls)
        return {key: value for key, value in node.items() if value is not None or _allows_none(hints.get(key))}


@dataclass(frozen=True, kw_only=True)
class CompareSpec(FileKeys):
    """The reference that the differences of a table are computed against."""

    to: Reference  # the reference: an axis and its value, such as {decoding: greedy}
    metric: str = DEFAULT_METRIC  # metric of the differences
    correction: Correction = DEFAULT_CORRECTION  # correction of p-values for multiple comparisons


@dataclass(frozen=True, kw_only=True)
class StopSpec(FileKeys):
    """The rule by which comparisons end as soon as they are decided (`experiments.stopping`)."""

    level: StopLevel = 0.05  # largest chance of any false verdict in the family, at any stopping time
    looks: LookCount = None  # looks at the data; by default 20, or 5 if several models take turns
    spend: SpendPower = 2.0  # exponent of the alpha-spending function; smaller values spend alpha earlier
    futility: Chance = 0.05  # chance of a later verdict below which a comparison ends as open; null: never
    margin: Chance = None  # a comparison whose interval lies within this difference ends as equal
    null: StopNull = "exchange"  # what is tested: arm names are exchangeable, or the mean difference is 0
    seed: Int = 0  # seed of the random order of the clusters


Stop = Annotated[StopSpec | None, BeforeValidator(lambda node: {} if node == WHEN_DECIDED else node)]


@dataclass(frozen=True, kw_only=True)
class ClaimSpec(FileKeys):
    """A claim about two arms of the run, which the report tests."""

    claim: Text  # the claim in words
    arm: Setting  # the arm that it is about: axes and values, such as {decoding: vcd}
    against: OtherArm  # the axes in which the other arm differs, and its values; or {baseline: vote}
    expect: Expectation = "better"  # what the claim says of the arm: better, worse, higher or lower than the other one
    metric: Text | None = None  # the metric of the claim; by default the metric of compare
    tasks_with: Text | None = None  # restricts the claim to tasks scored by this metric, as yes_ratio: yes/no tasks
    source: str = ""  # who claims it: a paper, with the place


@dataclass(frozen=True, kw_only=True)
class PublishedSpec(FileKeys):
    """A published number of one arm, which the report sets next to the run's own."""

    at: Facts  # the arm that it belongs to: axes and values, such as {decoding: vcd, shots: 0}
    value: Float  # the number, in the unit of the metric: an accuracy of 83.3 % is 0.833
    minus: Setting | None = None  # for a difference: the axes in which the subtracted arm differs
    best_of: Annotated[str, _axis()] | None = None  # an axis, such as shots: the number is the best over its values
    metric: Text | None = None  # the metric of the number; by default the metric of compare
    model: str = ""  # the model that was measured
    source: str = ""  # where it is published, and what differs from this file

    def __post_init__(self) -> None:
        for key in ("at", "minus"):
            if self.best_of in (getattr(self, key) or {}):
                raise ValueError(f"{key} sets {self.best_of}, so there is no best value of it. Remove one of the two.")


class TuningControl(StrEnum):
    """A control of an adapter, trained on the same queries in the same order (`experiments.tuning.tune`)."""

    ZERO_SHOT = "zero_shot"
    SHUFFLED = "shuffled"


@dataclass(frozen=True, kw_only=True)
class TuneSpec(FileKeys):
    """The training of an adapter on episodes: prompts with demonstrations, and the answers of their queries."""

    task: BuiltTasks  # task with the training queries and their pools, or a list of tasks
    weights: tuple[Positive, ...] = ()  # several tasks: the share of each in the episodes; empty: equal shares
    mix: Mixing = "mixed"  # several tasks: mixed draws the task of each episode; sequential: one task after the other
    transforms: tuple[
        BuildableTransforms, ...
    ] = ()  # several tasks: the transforms of each, after the file's; empty: none
    dev: Annotated[Any, Node("task", built=True)] = None  # task whose loss is measured at every checkpoint
    objective: Objective = "sft"  # sft: cross-entropy of the answer; dpo: against a wrong one, and sft;
    # realign: Re-Align; distill: without demonstrations, towards the base model with them, and sft; cal: sft with
    # more weight on tokens that depend on the query's image; cal_permuted: its control, with moved weights
    nearest: BuiltRetriever = "knn"  # realign: ranks the other images of the query's pool
    parameters: Parameters = "lora"  # lora: matrices in the decoder; projector: all weights of the model's own
    # projector; new_projector: the same from random first weights; vectors: the tensors of tune.intervene
    intervene: Annotated[Any, Node("intervention", built=True)] = "m2iv"  # vectors: the intervention that trains
    shots: Shots | Annotated[tuple[Shots, ...], MinLen(1)] | None = (
        None  # shots of an episode, or a list to draw from for each episode; null: the largest number of the file
    )
    relations: Relations = ()  # retrievers; each episode draws one of them; empty: the retriever of the file
    steps: Annotated[Int, Ge(0), Le(10_000_000)] = 200  # optimizer steps
    batch: Count = 16  # episodes of a step
    rows: Count = 16  # episodes of one forward pass; fewer need less memory
    lr: Positive = 1e-3  # learning rate after the warm-up; it falls linearly to 0
    warmup: Fraction = 0.05  # share of the steps in which the learning rate rises
    rank: Count = 16  # lora: rank of the LoRA matrices
    alpha: Positive = 32.0  # lora: scale; its product is multiplied by alpha / rank
    dropout: Fraction = 0.0  # lora: share of a layer's inputs that are set to 0
    modules: Modules = ("q_proj", "k_proj", "v_proj", "o_proj")  # lora: names of the decoder's linear modules
    beta: Positive = 0.1  # dpo, realign: weight of the distance from the base model
    sft_weight: Annotated[Float, Ge(0)] = 1.0  # all but sft: weight of the cross-entropy that is added
    clip: Positive = 1.0  # largest norm of the gradient
    save_every: Count = 50  # steps between two checkpoints
    seed: Annotated[Int, Ge(0)] = 0  # seed of the first weights, of the order of queries and of demonstrations

    def __post_init__(self) -> None:
        count = len(self.tasks)
        for name in ("weights", "transforms"):
            if (values := getattr(self, name)) and len(values) != count:
                raise ValueError(f"{name} has {len(values)} values for {count} tasks. Give each task one, in order.")

    @property
    def tasks(self) -> tuple[Any, ...]:
        """The training tasks."""
        return tuple(self.task) if isinstance(self.task, list) else (self.task,)


@dataclass(frozen=True, kw_only=True)
class ExperimentKeys(FileKeys):
    """The values of the keys of an experiment file. Components are config nodes that are not built yet."""

    name: Name  # folder of the run; by default the name of the file
    task: Annotated[Any, Axis(), Node("task")] = None  # provides the queries and the pool of demonstrations
    model: Annotated[Any, Axis(), Node("model")] = None  # answers the prompts
    shots: Annotated[Shots, Axis()] = 0  # number of demonstrations
    retriever: Annotated[Any, Axis(), Node("retriever")] = "random"  # chooses demonstrations from the pool
    rerankers: Annotated[Rerankers, Axis()] = field(default_factory=list)  # rerank the candidates, applied in order
    rerank_candidates: Annotated[CandidateCount, Axis()] = None  # number of candidates that the rerankers get
    order: Annotated[Any, Axis(), Node("orderer")] = "reversed"  # orders the demonstrations
    transforms: Annotated[Transforms, Axis()] = field(default_factory=list)  # change the context, applied in order
    composer: Annotated[Any, Axis(), Node("composer")] = "chat"  # writes the prompt
    decoding: Annotated[Any, Axis(), Node("strategy")] = "greedy"  # decodes the answer
    intervene: Annotated[Any, Axis(), Node("intervention")] = NO_INTERVENTION  # edits the model's states
    answer_mode: Annotated[AnswerMode, Axis()] = "generate"  # generate a text, or score the query's options
    max_new_tokens: Annotated[TokenLimit, Axis()] = MAX_NEW_TOKENS  # maximum number of generated tokens
    max_thinking_tokens: Annotated[ThinkingLimit, Axis()] = None  # tokens of a reasoning block, besides max_new_tokens
    stop_strings: tuple[Text, ...] = ()  # strings that end a generated answer; they are removed from it
    seeds: Seeds = (0,)  # random seeds; every cell runs with each
    metrics: Metrics = DEFAULT_METRICS  # scores of an answer; 'option' is added if options are scored
    controls: Literal["none", "default"] = "none"  # default: all of each strategy. To run some, list them in decoding
    top_logprobs: Annotated[Int, Ge(0)] = 0  # number of tokens of each branch that are stored for every step
    lazy_branches: LazyBranches = "auto"  # whether to skip branches that no step needs
    continuous_batching: bool = False  # whether prompts take the places of ended answers in a running batch of `hf`
    grid: Axes = field(default_factory=dict)  # axes whose product is run
    zip: Axes = field(default_factory=dict)  # axes of equal length that are paired
    exclude: list[Exclusion] = field(default_factory=list)  # combinations that are left out
    by: Columns = ()  # columns of the data by which the report divides the scores, such as [category]
    compare: CompareSpec | None = None  # reference and metric of the tables
    claims: tuple[ClaimSpec, ...] = ()  # claims of papers that the report tests
    published: tuple[PublishedSpec, ...] = ()  # published numbers that the report sets next to the run's own
    stop: Stop = None  # 'when_decided', or the rule's keys: ends each comparison when it is decided
    tune: TuneSpec | None = None  # how `icl fit` trains an adapter; `icl run` ignores it
    launcher: Launcher = DEFAULT_LAUNCHER  # starts the workers
    observe: Observers = ()  # trackers that receive the settings, scores and tables, such as [mlflow, wandb]


def component_kind(hint: Any) -> str | None:
    """The registry kind of the component, or list of components, that a type hint stands for."""
    for part in get_args(hint):
        kind = part.kind if isinstance(part, Node) else component_kind(part)
        if kind is not None:
            return kind
    return None


def unknown_key(key: str, data: Mapping[str, Any]) -> str:
    """The problem of an unknown top-level key: nearly a key, a parameter of a component or a sampler, or a near key."""
    if near := get_close_matches(key, KEYS, n=1, cutoff=0.85):
        return f"no key '{key}'. Did you mean '{near[0]}'?"
    nodes = [(axis, data.get(axis)) for axis in COMPONENT_KINDS]
    grid = data.get("grid")
    for axis, values in (grid if isinstance(grid, Mapping) else {}).items():
        nodes += [(f"grid.{axis}.{i}", node) for i, node in enumerate(values if isinstance(values, list) else [])]
    for place, node in nodes:
        kind = COMPONENT_KINDS.get(place.split(".")[1 if place.startswith("grid.") else 0])
        with suppress(ConfigError):  # a component with a mistake of its own is named once this key is right
            if kind and node and key in parse(kind, node).parameter_names:
                return f"no key '{key}'. It is a parameter of the {kind}: write {place}.{key}."
    if key in parse("strategy", "sampling").parameter_names:
        return f"no key '{key}'. It is a parameter of the sampler: write decoding.sampling.{key}."
    return f"no key '{key}'{suggest('key', key, KEYS)}"


def _defaults() -> dict[str, Any]:
    return {
        f.name: f.default if f.default_factory is MISSING else f.default_factory()
        for f in fields(ExperimentKeys)
        if f.default is not MISSING or f.default_factory is not MISSING
    }


HINTS: Mapping[str, Any] = get_type_hints(ExperimentKeys, include_extras=True)
KEYS: tuple[str, ...] = tuple(HINTS)
AXES: tuple[str, ...] = tuple(key for key, hint in HINTS.items() if Axis() in get_args(hint))
REQUIRED = ("task", "model")
"""Keys without a default. The grid may set them in place of the file."""
DEFAULTS: Mapping[str, Any] = {k: value for k, value in _defaults().items() if k in AXES and k not in REQUIRED}
COMPONENT_KINDS: Mapping[str, str] = {axis: kind for axis in AXES if (kind := component_kind(HINTS[axis]))}
"""Axis -> registry kind of the components that it holds."""
LIST_AXES: tuple[str, ...] = tuple(axis for axis in AXES if get_origin(get_args(HINTS[axis])[0]) is list)
"""Axes that hold a list of components, applied in turn."""
DEFAULT_REFERENCES: Mapping[str, str] = {axis: DEFAULTS[axis] for axis in ("retriever", "decoding")}
"""Axis -> the reference that its other values are compared with by default: chance, and greedy decoding."""


def primary_metric(info: Mapping[str, Any], metrics: Sequence[str]) -> str | None:
    """The metric that a run is judged by: its `compare.metric`, else the first of `METRIC_PREFERENCE` that it has, else
    its first."""
    metric = ((info.get("config") or {}).get("compare") or {}).get("metric")
    return str(metric) if metric else next((m for m in METRIC_PREFERENCE if m in metrics), next(iter(metrics), None))


# Match cells against the values in `exclude` and `compare: {to: ...}`.
#
# A name matches every component of that name. For `decoding` it may also be the arm's label. A mapping matches where
# its keys agree. A list matches any of its values. `match_label` finds the one label of a table that a value names.


def matches_all(exclusion: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Whether a cell has all values of one entry of `exclude`. values: axis -> the component or number of the cell."""
    return all(matches(values[axis], axis, value) for axis, value in exclusion.items())


def matches(component: Any, axis: str, value: Any) -> bool:
    """Whether a value of the file names the component or number that a cell has on this axis."""
    if isinstance(value, list) and axis not in LIST_AXES:
        return any(matches(component, axis, item) for item in value)
    if axis != "decoding":
        return node_matches(value, describe(component))
    arm = component.config
    return value == component.label or node_matches(value, {**arm["strategy"], "sampling": arm["sampler"]})


def node_matches(value: Any, node: Any) -> bool:
    """Whether a value of a config names a node of `icl.registry.describe`."""
    if isinstance(node, Mapping) and isinstance(value, str):
        return bool(node.get("name") == value or node.get("name", "").endswith(":" + value.rpartition(":")[2]))
    if isinstance(value, Mapping) and isinstance(node, Mapping):
        return all(key in node and node_matches(item, node[key]) for key, item in value.items())
    if isinstance(value, list) and isinstance(node, list):
        return len(value) == len(node) and all(map(node_matches, value, node))
    return bool(value == node)


def match_label(value: Any, labels: Sequence[str], axis: str, where: str) -> str:
    """The one label that a value names. Raises ConfigError if it names none or several.

    Args:
        value: A label, a component's name, or a mapping of a name and parameters.
        labels: The labels that the axis has.
        axis: The axis, for the error.
        where: The place of the value (file and key), for the error.
    """
    label = str(_label(value))
    matches = matching_labels(value, labels)
    if len(matches) != 1:
        text = ", ".join(f"{key}={item}" for key, item in value.items()) if isinstance(value, Mapping) else label
        several = f"{where}: {len(matches)} arms have {axis} '{text}'. Use the label of one: {', '.join(matches)}."
        none = f"{where}: no arm has {axis} '{text}'.{did_you_mean(label, labels)} Values: {', '.join(labels)}."
        raise ConfigError(several if matches else none)
    return matches[0]


def name_of(label: str) -> str:
    """'vcd' of 'vcd(alpha=0.5), temperature=1'."""
    return label.partition("(")[0].partition(", ")[0]


def matching_labels(value: Any, labels: Sequence[str]) -> list[str]:
    """The labels that a value may name: {quantize: none} matches 'tiny(quantize=none)'.

    A label has only the parameters in which it differs from others; all other parameters are equal. A bare name
    matches every label of that name. It also matches a component given by its path if the label contains its name.
    """
    if (label := str(_label(value))) in labels:
        return [label]
    parameters_of = {label: set(label.partition("(")[2].removesuffix(")").split(", ")) for label in labels}
    if isinstance(value, str):
        return [label for label in labels if name_of(label) == value or f"name={value}" in parameters_of[label]]
    if not isinstance(value, Mapping):
        return []
    keys = {item.partition("=")[0] for items in parameters_of.values() for item in items}
    flat = _flat_parameters({key: item for key, item in value.items() if key not in ("name", "label")})
    required = {f"{key}={item}" for path, item in flat.items() for key in keys if f".{path}".endswith(f".{key}")}
    required |= {f"name={value['name']}"} & set().union(*parameters_of.values()) if "name" in value else set()
    names = {str(value[key]).rstrip("/").rpartition("/")[2] for key in ("label", "name", "path") if key in value}
    same_name = [label for label in labels if label.partition("(")[0] in names]
    if not required and not same_name:
        return []
    return [label for label in same_name or labels if required <= parameters_of[label]]


def _flat_parameters(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value. An inner component is the key of its place with its name as the value."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat |= _flat_parameters(value, f"{prefix}{key}.")
        else:
            flat[prefix.rstrip(".") if key == "name" and prefix else f"{prefix}{key}"] = value
    return flat


def _label(value: Any) -> Any:
    return value.get("label", value.get("name")) if isinstance(value, Mapping) else value
