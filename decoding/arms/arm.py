"""An arm of a comparison: a strategy, and how tokens are chosen from its scores.

In an experiment file, an arm is a node of `decoding`:

    decoding: greedy
    decoding: {name: vcd, alpha: 0.5, sampling: {temperature: 0.7}, label: mild}
    decoding: {name: vcd, sampling: {beams: 4}}
    decoding: {name: vcd, logits_processors: [{name: repetition_penalty, penalty: 1.2}]}
    decoding: {name: vcd, acts_in: answer}            # or think: greedy in the other part of a reasoning output
    decoding: {name: vcd, normalize: bytes}           # of option scores: per byte, mean (per token), or sum
    decoding: {name: moicl, fitted: weights.json}     # parameters fitted by `icl fit`
    decoding: studies/mine.py:Mine
"""

import inspect
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal, get_args

from decoding import Beam, Greedy, Sampler, Strategy, Traits, has_reference_scores, logits_count
from decoding.arms.fitting import ParameterSource, read_parameter_file
from icl import (
    Component,
    ConfigError,
    build,
    canonical_digest,
    code_digest,
    describe,
    did_you_mean,
    entries,
    import_path,
    load_class,
    location,
    parse,
    resolve,
    transformers,
    truncate,
)
from icl.models.interventions import ActsIn

# Configuration of a logits processor of transformers, or of a user's own `transformers.LogitsProcessor`.
#
# logits_processors: [{name: repetition_penalty, penalty: 1.2}, {name: no_repeat_ngram, ngram_size: 3}]
# logits_processors: ['mine.py:Mine']
#
# A name is the class name in transformers without `LogitsProcessor`, in any casing, or the path of a class.


SUFFIX = "LogitsProcessor"


@dataclass(frozen=True)
class LogitsProcessorConfig:
    """A logits processor with its parameters.

    Attributes:
        name: Name or path of the class.
        parameters: JSON object of the constructor's arguments. It is a string, so that equal configs have equal hashes.
    """

    name: str
    parameters: str = "{}"

    def build(self) -> Any:
        """The `transformers.LogitsProcessor`."""
        return _processor_class(self.name, "")(**json.loads(self.parameters))

    def describe(self) -> dict[str, Any]:
        """The canonical config node. For a user's own class it includes the digest of the file."""
        parameters: dict[str, Any] = json.loads(self.parameters)
        if ":" not in self.name:
            return {"name": self.name, **parameters}
        cls = _processor_class(self.name, "")
        return {"name": import_path(cls), "code": code_digest(cls), **parameters}

    @property
    def label(self) -> str:
        """'repetition_penalty(penalty=1.2)'."""
        name = self.name.rpartition(":")[2]
        parameters = ", ".join(f"{key}={value}" for key, value in json.loads(self.parameters).items())
        return f"{name}({parameters})" if parameters else name


def parse_logits_processors(node: Any, where: str = "") -> tuple[LogitsProcessorConfig, ...]:
    """Parses a list of logits processors. Each is built once, so that a wrong parameter fails early.

    Raises:
        ConfigError: An unknown name, or parameters that the class does not accept.
    """
    if not isinstance(node, list | tuple):
        raise ConfigError(
            f"{where}: logits_processors must be a list such as [{{name: repetition_penalty, penalty: 1.2}}], "
            f"not {node!r}."
        )
    return tuple(_parse(one, f"{where}[{i}]") for i, one in enumerate(node))


def _parse(node: Any, where: str) -> LogitsProcessorConfig:
    if isinstance(node, LogitsProcessorConfig):
        return node
    if isinstance(node, str):
        node = {"name": node}
    if not isinstance(node, Mapping) or not isinstance(node.get("name"), str):
        raise ConfigError(f"{where}: a logits processor must be a name or a mapping with the key 'name', not {node!r}.")
    parameters = {str(key): value for key, value in node.items() if key != "name"}
    cls = _processor_class(node["name"], where)
    names = [name for name in inspect.signature(cls).parameters if name != "device"]
    for key in parameters:
        if key not in names:
            raise ConfigError(
                f"{where}: {cls.__name__} has no parameter '{key}'.{did_you_mean(key, names)} "
                f"It has {', '.join(names) or 'none'}."
            )
    config = LogitsProcessorConfig(node["name"], json.dumps(parameters, sort_keys=True))
    try:
        config.build()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {cls.__name__}: {error}.") from error
    return config


def _processor_class(name: str, where: str) -> type[Any]:
    if ":" in name:
        cls = load_class(name, where)
        if not issubclass(cls, transformers.LogitsProcessor):
            raise ConfigError(f"{where}: {name} is not a transformers.LogitsProcessor.")
        return cls
    classes: dict[str, type[Any]] = {
        _normalize(key): value
        for key, value in vars(transformers.generation.logits_process).items()
        if key.endswith(SUFFIX) and key != SUFFIX
    }
    if _normalize(name) not in classes:
        names = [one.__name__.removesuffix(SUFFIX) for one in classes.values()]
        raise ConfigError(f"{where}: transformers has no logits processor '{name}'.{did_you_mean(name, names)}")
    return classes[_normalize(name)]


def _normalize(name: str) -> str:
    return name.removesuffix(SUFFIX).replace("_", "").lower()


Normalize = Literal["sum", "mean", "bytes"]
"""Score of an option: the sum of its tokens' log-probabilities, their mean, or the sum per UTF-8 byte."""

NORMALIZE: tuple[Normalize, ...] = get_args(Normalize)
ACTS_IN: tuple[ActsIn, ...] = get_args(ActsIn)
ARM_KEYS = ("sampling", "logits_processors", "acts_in", "normalize", "label")
"""Keys of a `decoding` node that are not parameters of the strategy."""


@dataclass(frozen=True)
class Arm:
    """A strategy with a sampler and logits processors.

    Attributes:
        strategy: Combines the logits of its branches.
        sampler: Chooses tokens from the combined scores.
        label: Name in tables. By default it is made of the parameters that differ from their defaults.
        normalize: How option scores are normalized.
        logits_processors: Processors of transformers that act on the combined scores before the sampler.
        acts_in: The part of a reasoning output in which the strategy chooses tokens. In the other part, the sampler
            chooses them from the logits of branch 0. Always `both` for strategies that score as branch 0 does.
        parameter_sources: Files that parameters were read from. They do not affect the answers beyond the parameters.
    """

    strategy: Strategy
    sampler: Sampler = field(default_factory=Greedy)
    label: str = ""
    normalize: Normalize = "sum"
    logits_processors: tuple[LogitsProcessorConfig, ...] = ()
    acts_in: ActsIn = "both"
    parameter_sources: tuple[ParameterSource, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if self.acts_in != "both" and has_reference_scores(self.strategy):
            object.__setattr__(self, "acts_in", "both")
        if not self.label:
            object.__setattr__(self, "label", _default_label(self))

    @cached_property
    def traits(self) -> Traits:
        """The traits of the strategy, computed once: wrappers derive theirs, and engines read them for each request."""
        return self.strategy.traits

    @cached_property
    def config(self) -> dict[str, Any]:
        """The canonical config node: everything that affects the answers, so without the label."""
        is_greedy = self.sampler.deterministic and getattr(self.sampler, "beams", 1) == 1
        node = {
            "strategy": describe(self.strategy),
            "sampler": {"name": "greedy"} if is_greedy else describe(self.sampler),
        }
        if self.normalize != "sum":
            node["normalize"] = self.normalize
        if self.logits_processors:
            node["logits_processors"] = [one.describe() for one in self.logits_processors]
        if self.acts_in != "both":
            node["acts_in"] = self.acts_in
        return node

    @cached_property
    def digest(self) -> str:
        """sha256 (16 hex digits) of the canonical node."""
        return canonical_digest(self.config, ascii_only=False)[:16]

    @cached_property
    def strategy_digest(self) -> str:
        """sha256 (16 hex digits) of the strategy's canonical node, which determines option scores."""
        return canonical_digest(self.config["strategy"], ascii_only=False)[:16]


def parse_arm(node: Any, where: str = "") -> Arm:
    """The arm of a `decoding` node.

    Args:
        node: A name, a mapping, or an arm.
        where: Position in the experiment file, for messages.

    Raises:
        ConfigError: The node names no strategy, or has wrong parameters.
    """
    return node if isinstance(node, Arm) else build_arm(parse("strategy", node, where))


def build_arm(component: Component) -> Arm:
    """The arm of a parsed `decoding` node. The node's parameters include `ARM_KEYS`. Raises ConfigError."""
    if isinstance(component.instance, Arm):
        return component.instance
    where, sources = component.where, list[ParameterSource]()
    settings = {key: value for key, value in component.parameters.items() if key in ARM_KEYS}
    others = {key: value for key, value in component.parameters.items() if key not in ARM_KEYS}
    parameters = _insert_fitted({"name": component.name, **others}, where, sources)
    del parameters["name"]
    strategy: Strategy = replace(component, parameters=parameters).build()
    label = settings.get("label", "")
    if not isinstance(label, str):
        raise ConfigError(f"{location(_join(where, 'label'))}a label must be a string, not {label!r}.")
    for key, choices in (("normalize", NORMALIZE), ("acts_in", ACTS_IN)):
        value = settings.get(key, choices[0])
        if value not in choices:
            raise ConfigError(
                f"{location(_join(where, key))}{key} must be one of {', '.join(choices)}, not {value!r}."
                f"{did_you_mean(str(value), choices)}"
            )
    sampling = settings.get("sampling")
    return Arm(
        strategy,
        strategy.sampler if sampling is None else _build_sampler(component.name, sampling, where),
        label,
        settings.get("normalize", "sum"),
        parse_logits_processors(settings.get("logits_processors", ()), _join(where, "logits_processors")),
        settings.get("acts_in", "both"),
        tuple(sources),
    )


def default_controls(arm: Arm, *, options: bool = False, shots: int | None = None) -> tuple[Arm, ...]:
    """The default controls of an arm: all that `Strategy.control_for` returns for it, by `control_rank`.

    Controls that wrap the strategy, with its sampler, come first. Then come the references: greedy, sampled as the arm
    is, and at the arm's cost. Controls and one-branch strategies get no controls. A strategy that rewrites the prompt
    gets only controls that need no logits, and a search none that wrap it.

    Args:
        arm: The arm.
        options: Whether option scores are compared, so that the sampler does not matter.
        shots: Number of shots of the run, if known.
    """
    strategy = arm.strategy
    is_search = strategy.traits.rows_per_beam > 0
    if strategy.traits.is_control or (logits_count(strategy) == 1 and not is_search):
        return ()
    target = ControlTarget(arm, options, shots)
    candidates = (control.control_for(target) for control in default_control_classes())
    controls = tuple(control for control in candidates if control is not None)
    if is_search:
        controls = tuple(control for control in controls if getattr(control.strategy, "inner", None) is None)
    if not strategy.traits.rewrites_prompt:
        return controls
    return tuple(control for control in controls if control.strategy.traits.needs <= {"generate"})


def _insert_fitted(node: Any, where: str, sources: list[ParameterSource]) -> Any:
    """Inserts the parameters of the files that `fitted` names, in nested nodes too. Explicit parameters win."""
    if not isinstance(node, Mapping):
        return node
    expanded = {key: _insert_fitted(value, _join(where, str(key)), sources) for key, value in node.items()}
    if not isinstance(expanded.get("fitted"), str):
        return expanded
    parameters, source = read_parameter_file(expanded.pop("fitted"), expanded.get("name"), where)
    sources.append(source)
    return {**parameters, **expanded}


def _build_sampler(name: str, sampling: Any, where: str) -> Sampler:
    """`sampling:` has the parameters of the strategy 'sampling', or of 'beam' if it has beams."""
    if name in ("sampling", "beam"):
        raise ConfigError(
            f"{location(where)}strategy '{name}' already defines how tokens are drawn. Put the parameters "
            "there and drop the key 'sampling'."
        )
    if not isinstance(sampling, Mapping):
        raise ConfigError(
            f"{location(_join(where, 'sampling'))}sampling must be a mapping such as {{temperature: 0.7}}, not "
            f"{sampling!r}."
        )
    name = "beam" if {"beams", "length_penalty"} & set(sampling) else "sampling"
    strategy: Strategy = build("strategy", {"name": name, **sampling}, _join(where, "sampling"))
    return strategy.sampler


def _default_label(arm: Arm) -> str:
    """'vcd', 'vcd(alpha=0.5)', 'mask_only(vcd)', 'vcd, temperature=0.7'."""
    parts = [_component_label(arm.strategy)]
    if isinstance(arm.sampler, Beam) and arm.sampler != arm.strategy.sampler:
        penalty = "" if arm.sampler.length_penalty == 1 else f", length_penalty={arm.sampler.length_penalty:g}"
        parts.append(f"beams={arm.sampler.beams}{penalty}")
    elif arm.sampler != arm.strategy.sampler:
        parameters = ", ".join(_parameter_labels(arm.sampler)) or "temperature=1"
        parts.append("greedy" if arm.sampler.deterministic else parameters)
    parts += [one.label for one in arm.logits_processors]
    if arm.acts_in != "both":
        parts.append(f"acts_in={arm.acts_in}")
    if arm.normalize != "sum":
        parts.append(f"normalize={arm.normalize}")
    return ", ".join(parts)


def _component_label(component: Any) -> str:
    mark = getattr(type(component), "component", None)
    name = mark[1] if mark else type(component).__name__
    parameters = ", ".join(_parameter_labels(component)) if is_dataclass(component) else ""
    return f"{name}({parameters})" if parameters else name


def _parameter_labels(component: Any) -> list[str]:
    labels = []
    for f in fields(component):
        value = getattr(component, f.name)
        if isinstance(value, Strategy):
            labels.append(_component_label(value))
        elif f.name != "code" and value != (f.default if f.default_factory is MISSING else f.default_factory()):
            labels.append(f"{f.metadata.get('key', f.name)}={_value_label(value)}")
    return labels


def _value_label(value: Any) -> str:
    """The value of a parameter; a long one is cut and gets a digest."""
    if isinstance(value, tuple):
        return truncate(f"[{', '.join(map(_value_label, value))}]")
    if hasattr(type(value), "component"):
        return truncate(_component_label(value))
    if is_dataclass(value):
        return f"{{{', '.join(_parameter_labels(value))}}}"
    return f"{value:g}" if isinstance(value, float) else truncate(str(value))


def _join(where: str, key: str) -> str:
    return ".".join(part for part in (where, key) if part)


# The arm under test, for which controls are chosen.
#
# `controls: default` calls `control_for` of every registered strategy, in the order of `control_rank`. A control
# therefore needs no change in another file.


@dataclass(frozen=True)
class ControlTarget:
    """An arm under test, with the facts about its run that determine its controls.

    Attributes:
        arm: The arm.
        options: Whether option scores are compared, so that the sampler does not matter.
        shots: Number of shots of the run, or None if unknown.
    """

    arm: "Arm"
    options: bool = False
    shots: int | None = None

    @property
    def strategy(self) -> Strategy:
        return self.arm.strategy

    @property
    def sampler(self) -> Sampler:
        """The sampler of the arm, or the greedy one if the sampler does not matter."""
        return Greedy() if self.options else self.arm.sampler

    @property
    def is_sampled(self) -> bool:
        return not self.sampler.deterministic

    def with_strategy(
        self, strategy: Strategy, sampler: Sampler | None = None, normalize: "Normalize | None" = None
    ) -> "Arm":
        """The arm of another strategy, by default with the sampler and normalization of this arm."""
        return replace(
            self.arm,
            strategy=strategy,
            sampler=self.arm.sampler if sampler is None else sampler,
            label="",
            normalize=self.arm.normalize if normalize is None else normalize,
            parameter_sources=(),
        )


@lru_cache
def default_control_classes() -> tuple[type[Strategy], ...]:
    """Every registered strategy that defines `control_for`, by `control_rank`, then by name."""
    classes = [resolve("strategy", name) for name in entries("strategy")]
    return tuple(sorted((cls for cls in classes if "control_for" in vars(cls)), key=lambda cls: cls.control_rank))
