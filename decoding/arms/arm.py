"""An arm of a comparison: a strategy and how tokens are drawn from its scores, as a YAML node of `decoding` says it.

decoding: greedy
decoding: {name: vcd, alpha: 0.5, sampling: {temperature: 0.7}, label: mild}
decoding: {name: vcd, sampling: {beams: 4}}
decoding: {name: vcd, normalize: bytes}           # where options are scored: a UTF-8 byte; or mean, a token; else sum
decoding: {name: moicl, fitted: weights.json}     # parameters that `icl fit` has found
decoding: studies/mine.py:Mine
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from decoding.arms.control_target import ControlTarget, default_control_classes
from decoding.arms.fitting import ParameterSource, read_parameter_file
from decoding.arms.inspection import logits_count
from decoding.base import Strategy
from decoding.formulas.sampling import Beam, Greedy, Sampler
from icl.canonical_json import canonical_digest
from icl.edits import Edit
from icl.errors import ConfigError, did_you_mean
from icl.registry import build, describe
from icl.truncate import truncate

Normalize = Literal["sum", "mean", "bytes"]
"""An option's score: the sum of its tokens' log-probabilities, their mean, or the sum a UTF-8 byte."""

NORMALIZE: tuple[Normalize, ...] = get_args(Normalize)


@dataclass(frozen=True)
class Arm:
    """label: what tables call it; made from the parameters that differ from their defaults where it is ''.

    fitted: the files that parameters were read from, which decide no answers beside these.
    """

    strategy: Strategy
    sampler: Sampler = field(default_factory=Greedy)
    label: str = ""
    normalize: Normalize = "sum"
    fitted: tuple[ParameterSource, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not self.label:
            scored = "" if self.normalize == "sum" else f", normalize={self.normalize}"
            object.__setattr__(self, "label", _told(self.strategy, self.sampler) + scored)

    def describe(self) -> dict[str, Any]:
        """The canonical node: everything that decides the answers, so not the label."""
        return {
            "strategy": describe(self.strategy),
            "sampler": {"name": "greedy"} if _is_greedy(self.sampler) else describe(self.sampler),
        } | ({} if self.normalize == "sum" else {"normalize": self.normalize})

    @cached_property
    def digest(self) -> str:
        """sha256 (16 hex) of the canonical node."""
        return _digest(self.describe())

    @cached_property
    def strategy_digest(self) -> str:
        """The same of the strategy alone: what decides option scores."""
        return _digest(self.describe()["strategy"])


def parse_arm(node: Any, where: str = "") -> Arm:
    """The arm that a node of `decoding` describes. Raises ConfigError; `where` names the place in the YAML."""
    if isinstance(node, Arm):
        return node
    sampling, label, normalize = None, "", "sum"
    fitted: list[ParameterSource] = []
    if isinstance(node, Mapping):
        node = dict(node)
        sampling, label = node.pop("sampling", None), node.pop("label", "")
        normalize = node.pop("normalize", "sum")
        node = _with_fitted(node, where, fitted)
    strategy = _strategy(node, where)
    sampler = strategy.sampler if sampling is None else _sampler(node, sampling, where)
    if not isinstance(label, str):
        raise ConfigError(f"{_at(where, 'label')}a label is a text, not {label!r}.")
    if normalize not in NORMALIZE:
        raise ConfigError(
            f"{_at(where, 'normalize')}normalize is one of {', '.join(NORMALIZE)}, not {normalize!r}."
            f"{did_you_mean(str(normalize), NORMALIZE)}"
        )
    return Arm(strategy, sampler, label, normalize, tuple(fitted))


def default_controls(arm: Arm, *, options: bool = False, shots: int | None = None) -> tuple[Arm, ...]:
    """The default controls of an arm: those that say that they fit it (`Strategy.fits`), in the order of their ranks.

    First controls that wrap the strategy, with its sampler; then the reference: greedy, sampled as the arm is, and at
    the arm's cost. None for a strategy of one branch, and for a control.

    options: option scores are compared, where no sampler plays a part. shots: of the run; 0 has none to double.
    """
    strategy = arm.strategy
    if strategy.traits.is_control or logits_count(strategy) == 1:
        return ()
    target = ControlTarget(arm, options, shots)
    return tuple(
        found for found in (control.control_for(target) for control in default_control_classes()) if found is not None
    )


def _with_fitted(node: Any, where: str, read: list[ParameterSource]) -> Any:
    """A node whose key `fitted` names a file, with the parameters of that file under its own; nested ones too."""
    if not isinstance(node, Mapping):
        return node
    told = {key: _with_fitted(value, f"{where}.{key}" if where else str(key), read) for key, value in node.items()}
    if not isinstance(told.get("fitted"), str):
        return told
    parameters, origin = read_parameter_file(told.pop("fitted"), told.get("name"), where)
    read.append(origin)
    return {**parameters, **told}


def _digest(node: Any) -> str:
    return canonical_digest(node, ascii_only=False)[:16]


def _strategy(node: Any, where: str) -> Strategy:
    try:
        strategy = build("strategy", node, where)
    except ConfigError as error:
        told = str(error)
        raise error if not where or told.startswith(where) else ConfigError(f"{where}: {told}") from error
    if not isinstance(strategy, Strategy):
        raise ConfigError(
            f"{_at(where)}{type(strategy).__name__} is not a strategy: it does not extend decoding.Strategy."
        )
    return strategy


def _sampler(node: Any, sampling: Any, where: str) -> Sampler:
    """`sampling:` takes the parameters of the strategy of that name, or of 'beam' where it says beams."""
    if node.get("name") in ("sampling", "beam"):
        raise ConfigError(
            f"{_at(where)}strategy '{node['name']}' says already how tokens are drawn. Put the parameters there and "
            "drop the key 'sampling'."
        )
    if not isinstance(sampling, Mapping):
        raise ConfigError(
            f"{_at(where, 'sampling')}sampling is a mapping such as {{temperature: 0.7}}, not {sampling!r}."
        )
    name = "beam" if {"beams", "length_penalty"} & set(sampling) else "sampling"
    return _strategy({"name": name, **sampling}, f"{where}.sampling" if where else "sampling").sampler


def _is_greedy(sampler: Sampler) -> bool:
    return sampler.deterministic and getattr(sampler, "beams", 1) == 1


def _told(thing: Any, sampler: Sampler | None = None) -> str:
    """'vcd', 'vcd(alpha=0.5)', 'mask_only(vcd)', 'vcd, temperature=0.7'."""
    mark = getattr(type(thing), "component", None)
    name = mark[1] if mark else type(thing).__name__
    inside = ", ".join(_parameters(thing)) if is_dataclass(thing) else ""
    told = f"{name}({inside})" if inside else name
    own = thing.sampler if isinstance(thing, Strategy) else None
    if sampler is None or sampler == own:
        return told
    if isinstance(sampler, Beam):
        penalty = "" if sampler.length_penalty == 1 else f", length_penalty={sampler.length_penalty:g}"
        return f"{told}, beams={sampler.beams}{penalty}"
    drawn = ", ".join(_parameters(sampler)) or "temperature=1"
    return f"{told}, greedy" if sampler.deterministic else f"{told}, {drawn}"


def _parameters(thing: Any) -> list[str]:
    told = []
    for f in fields(thing):
        value = getattr(thing, f.name)
        if isinstance(value, Strategy):
            told.append(_told(value))
        elif f.default is MISSING or value != f.default:
            told.append(f"{f.metadata.get('key', f.name)}={_value(value)}")
    return told


def _value(value: Any) -> str:
    """A parameter's value; a long one is cut, with a digest of the whole."""
    if isinstance(value, tuple):
        return truncate(f"[{', '.join(map(_value, value))}]")
    if isinstance(value, Edit):
        return truncate(_told(value))
    if is_dataclass(value):
        return f"{{{', '.join(_parameters(value))}}}"
    return f"{value:g}" if isinstance(value, float) else truncate(str(value))


def _at(where: str, key: str = "") -> str:
    place = ".".join(part for part in (where, key) if part)
    return f"{place}: " if place else ""
