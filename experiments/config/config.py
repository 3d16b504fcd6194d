"""Loads an experiment file and checks it key by key, before any component is built.

`experiments.config.keys.ExperimentKeys` lists the keys. A key outside `grid` holds for all cells. The same key in
`grid` (every combination) or `zip` (side by side) is an axis and overrides it. An axis can also be one parameter of a
component: `decoding.alpha: [0.5, 1.0]`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import MinLen

from experiments.config.keys import (
    AXES,
    COMPONENT_KINDS,
    DEFAULT_LAUNCHER,
    DEFAULT_METRICS,
    DEFAULTS,
    EMPTY_LIST,
    HINTS,
    KEYS,
    LIST_AXES,
    WHEN_DECIDED,
    CompareSpec,
    ExpectedText,
    ExperimentKeys,
    StopSpec,
)
from experiments.config.overrides import apply_overrides
from experiments.config.shipped import find_config
from experiments.config.statements import BASELINE_KEY, ClaimSpec, PublishedSpec
from experiments.config.tuning_keys import TuneSpec
from experiments.config.yaml_document import Document, read_document
from icl.constraints import FLOAT32_MAX
from icl.errors import ConfigError, did_you_mean
from icl.metrics.baselines import BASELINES
from icl.renamed_names import suggest
from icl.untrusted import untrusted

ARM_KEYS = {"arm", "against", "at", "minus"}
"""The keys of claims and published numbers that name an arm."""
MAX_NAME_LENGTH = 200
"""A name is that of a folder, and file systems take at most 255 bytes."""


@dataclass(frozen=True, kw_only=True)
class Config(ExperimentKeys):
    """The checked values of an experiment file, with their places in it."""

    document: Document

    @property
    def base(self) -> dict[str, Any]:
        """axis -> the value that holds for all cells. A task or model that is in grid or zip alone is left out."""
        return {axis: value for axis in AXES if (value := getattr(self, axis)) is not None or axis in DEFAULTS}

    def where(self, *keys: str | int) -> str:
        return self.document.where(*keys)


def load_config(source: str | Path | Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any] = ()) -> Config:
    """The config of a YAML file, of a shipped experiment or of a mapping.

    Args:
        source: A path, the name of a shipped experiment such as `quickstart`, or the keys themselves.
        overrides: Values such as 'grid.shots=[0,4]' that replace those of the source.

    Raises:
        ConfigError: An unknown key or axis, or a wrong value.
    """
    if isinstance(source, Mapping):
        document = Document("config", Path.cwd(), {str(key): value for key, value in source.items()})
    else:
        document = read_document(find_config(Path(source)))
    return parse_config(apply_overrides(document, overrides))


def parse_config(document: Document) -> Config:
    """The config of a document.

    Raises:
        ConfigError: An unknown key or axis, or a wrong value.
    """
    data = {"name": Path(document.name).stem}
    data |= {key: value for key, value in document.data.items() if value is not None}
    for key in data:
        if key not in KEYS:
            hint = suggest("key", key, KEYS)
            keys = f" Keys: {', '.join(KEYS)}." if hint == "." else ""
            raise ConfigError(f"{document.where(key)}: no key '{key}'{hint}{keys}")
    with untrusted(document.untrusted_run):
        values = {key: _PARSERS.get(key, _parse_value)(document, key, node) for key, node in data.items()}
    grid, zipped = values.get("grid", {}), values.get("zip", {})
    _check_axes(document, grid, zipped)
    for key in ("task", "model"):
        if key not in values and key not in grid and key not in zipped:
            raise ConfigError(f"{document.name}: the key {key} is missing. (icl ls {key}s)")
        values.setdefault(key, None)
    modes = [values.get("answer_mode"), *grid.get("answer_mode", ()), *zipped.get("answer_mode", ())]
    if "options" in modes:
        values.setdefault("metrics", (*DEFAULT_METRICS, "option"))
    return Config(document=document, **values)


def check_value(key: str, node: Any, where: str) -> Any:
    """The value of a key, or of the parameter of a component. Components themselves are checked when they are built.

    Args:
        key: A key of the file or an axis.
        node: Its value in the file.
        where: The place that error messages name.

    Raises:
        ConfigError: The value has the wrong type, or is out of range.
    """
    if key in LIST_AXES:
        node = [] if node == EMPTY_LIST else node
        if not isinstance(node, list):
            raise ConfigError(f"{where}: {key} must be a list of components, applied in order, or none, not {node!r}.")
    elif key in COMPONENT_KINDS:
        if isinstance(node, list):
            raise ConfigError(f"{where}: a list of {key} values is an axis: write it under grid.")
    elif key in HINTS:
        return _check_type(HINTS[key], key, node, where)
    return node


def _check_type(hint: Any, key: str, node: Any, where: str) -> Any:
    """The value of a key that holds no component, with lists as tuples."""
    from pydantic import ValidationError

    try:
        value = _adapter(hint).validate_python(tuple(node) if isinstance(node, list) else node, strict=True)
    except ConfigError as error:  # of a component inside
        raise ConfigError(f"{where}: {error}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        has_text = any(isinstance(extra, ExpectedText) for extra in get_args(hint))
        if not has_text and (item := _item_problem(node, error.errors())):
            raise ConfigError(f"{where}: {key}{item}") from error
        if problem["type"] == "less_than_equal":
            raise ConfigError(f"{where}: {key} must be at most {problem['ctx']['le']:,}, not {node:,}.") from error
        is_annotated = get_origin(hint) is Annotated
        base, *metadata = get_args(hint) if is_annotated else (hint,)
        choices = get_args(base) if get_origin(base) is Literal else ()
        texts = [extra.text for extra in metadata if isinstance(extra, ExpectedText)]
        bound = _BOUND_WORDS.get(problem["type"], "").format(**problem.get("ctx", {}))
        expected = texts[0] if texts else f"one of {', '.join(choices)}" if choices else bound or _describe_type(base)
        raise ConfigError(
            f"{where}: {key} must be {expected}, not {node!r}.{did_you_mean(str(node), choices)}"
        ) from error
    if isinstance(value, float) and not abs(value) <= FLOAT32_MAX:
        raise ConfigError(f"{where}: {key} must be a finite number, not {value}.")
    return value


def _item_problem(node: Any, errors: Sequence[Any]) -> str | None:
    """The sentence about the first wrong item of a list, or None if no item is wrong by itself."""
    for error in errors:
        number = error["loc"][-1] if error["loc"] else None
        if isinstance(node, list) and isinstance(number, int) and error["type"] in _ITEM_WORDS:
            expected = _ITEM_WORDS[error["type"]].format(**error.get("ctx", {}))
            return f"[{number}] must be {expected}, not {node[number]!r}."
    return None


def _describe_type(hint: Any) -> str:
    """'a text or none': the types of a hint in words."""
    if get_origin(hint) is Annotated:
        base, *metadata = get_args(hint)
        return _describe_type(base) + (" that is not empty" if any(isinstance(one, MinLen) for one in metadata) else "")
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_describe_type(part) for part in get_args(hint))
    kind = get_origin(hint) or hint
    return _TYPE_WORDS.get(kind, str(getattr(kind, "__name__", kind)))


_BOUND_WORDS = {"greater_than": "above {gt:g}", "greater_than_equal": "at least {ge:g}", "less_than": "below {lt:g}"}
_ITEM_WORDS = {
    **_BOUND_WORDS,
    "less_than_equal": "at most {le:,}",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a text",
    "string_too_short": "a text that is not empty",
}
_TYPE_WORDS: Mapping[Any, str] = {
    float: "a number",
    int: "a whole number",
    str: "a text",
    bool: "true or false",
    tuple: "a list",
    Mapping: "a mapping",
    type(None): "none",
}


@lru_cache
def _adapter(hint: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(hint)


def _parse_value(document: Document, key: str, node: Any) -> Any:
    return check_value(key, node, document.where(key))


def _parse_axes(document: Document, key: str, node: Any) -> dict[str, list[Any]]:
    """axis -> its values, of `grid` or `zip`."""
    if not isinstance(node, Mapping):
        raise ConfigError(f"{document.where(key)}: {key} must be a mapping from axes to lists of values, not {node!r}.")
    axes: dict[str, list[Any]] = {}
    for axis, values in node.items():
        where = document.where(key, axis)
        if axis in ("seed", "seeds"):
            raise ConfigError(
                f"{where}: seeds cannot be an axis, because every cell is run with every seed. Set seeds at the "
                "top level of the file."
            )
        head, _, parameter = axis.partition(".")
        if axis not in AXES and not (head in COMPONENT_KINDS and parameter):
            raise ConfigError(f"{where}: no component reads the axis '{axis}'{suggest('key', axis, AXES)} {_AXES_ARE}")
        if not isinstance(values, list):
            raise ConfigError(f"{where}: an axis must be a list of values, not {values!r}.")
        if not values:
            raise ConfigError(f"{where}: the axis is empty. Give it a value, or remove it.")
        axes[axis] = []
        for i, item in enumerate(values):
            value = check_value(axis, item, document.where(key, axis, i))
            if key == "grid" and value in axes[axis]:
                raise ConfigError(f"{document.where(key, axis, i)}: {value!r} is listed twice on this axis.")
            axes[axis].append(value)
    return axes


_AXES_ARE = f"Axes: {', '.join(AXES)}, or a parameter of a component such as decoding.alpha."


def _check_axes(document: Document, grid: Mapping[str, list[Any]], zipped: Mapping[str, list[Any]]) -> None:
    for axis in zipped:
        if axis in grid:
            raise ConfigError(f"{document.where('zip', axis)}: {axis} is in grid and in zip. Keep one.")
    lengths = {axis: len(values) for axis, values in zipped.items()}
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{axis} {count}" for axis, count in lengths.items())
        raise ConfigError(f"{document.where('zip')}: paired axes have different lengths ({text}).")
    rows = list(zip(*zipped.values(), strict=True))
    for i, row in enumerate(rows):
        if row in rows[:i]:  # a single value may be paired with several others
            raise ConfigError(f"{document.where('zip')}: pair {i + 1} is the same as pair {rows.index(row) + 1}.")


def _parse_name(document: Document, key: str, node: Any) -> str:
    if not isinstance(node, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", node):
        raise ConfigError(f"{document.where(key)}: {node!r} names a folder: letters, digits, '.', '_' and '-' only.")
    if len(node) > MAX_NAME_LENGTH:
        raise ConfigError(f"{document.where(key)}: a name has at most {MAX_NAME_LENGTH} characters, not {len(node)}.")
    return node


def _parse_seeds(document: Document, key: str, node: Any) -> tuple[int, ...]:
    where = document.where(key)
    seeds: tuple[int, ...] = check_value(key, [node] if type(node) is int else node, where)
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{where}: duplicate seed: {node}.")
    return seeds


def _parse_by(document: Document, key: str, node: Any) -> tuple[str, ...]:
    where = document.where(key)
    columns: tuple[str, ...] = check_value(key, [node] if isinstance(node, str) else node, where)
    if len(set(columns)) < len(columns):
        raise ConfigError(f"{where}: {key} names a column twice: {', '.join(columns)}.")
    return columns


def _parse_exclude(document: Document, key: str, node: Any) -> list[Mapping[str, Any]]:
    if not isinstance(node, list):
        raise ConfigError(f"{document.where(key)}: exclude must be a list of mappings, such as [{{shots: 0}}].")
    names = (*AXES, "seed")
    for i, hole in enumerate(node):
        if not isinstance(hole, Mapping) or not hole:
            raise ConfigError(
                f"{document.where(key, i)}: an entry of exclude must be a mapping from axes to values, not {hole!r}."
            )
        for axis in hole:
            if axis not in names:
                raise ConfigError(f"{document.where(key, i, axis)}: no axis '{axis}'{suggest('key', axis, names)}")
    return [
        {axis: [] if axis in LIST_AXES and value == EMPTY_LIST else value for axis, value in hole.items()}
        for hole in node
    ]


def _parse_metrics(document: Document, key: str, node: Any) -> tuple[Any, ...]:
    metrics = [node] if isinstance(node, str | Mapping) else node
    if not isinstance(metrics, list) or not metrics:
        raise ConfigError(f"{document.where(key)}: metrics must be a list of at least one metric. (icl ls metrics)")
    return tuple(metrics)


def _parse_observe(document: Document, key: str, node: Any) -> tuple[Any, ...]:
    observers = [node] if isinstance(node, str | Mapping) and node != EMPTY_LIST else node
    if observers != EMPTY_LIST and not isinstance(observers, list):
        raise ConfigError(
            f"{document.where(key)}: observe must be a list of observers, not {node!r}. (icl ls observers)"
        )
    return () if observers == EMPTY_LIST else tuple(observers)


def _parse_launcher(document: Document, key: str, node: Any) -> Any:
    """The node of a launcher. A mapping without a name has parameters of the default launcher."""
    if isinstance(node, list):
        raise ConfigError(f"{document.where(key)}: launcher must be one component, not a list. (icl ls launcher)")
    return {"name": DEFAULT_LAUNCHER, **node} if isinstance(node, Mapping) else node


def _parse_compare(document: Document, key: str, node: Any) -> CompareSpec:
    if not isinstance(node, Mapping) or not isinstance(node.get("to"), Mapping) or not node["to"]:
        where = document.where(key)
        raise ConfigError(
            f"{where}: compare needs 'to', the reference's value of an axis: {{to: {{decoding: greedy}}}}."
        )
    _check_names(CompareSpec, document, node, key)
    for axis in node["to"]:
        if axis not in AXES:
            raise ConfigError(f"{document.where(key, 'to', axis)}: no axis '{axis}'{suggest('key', axis, AXES)}")
    values = _spec_values(CompareSpec, document, key, {name: value for name, value in node.items() if name != "to"})
    # `to` names values as tables do.
    to = {axis: EMPTY_LIST if axis in LIST_AXES and value == [] else value for axis, value in node["to"].items()}
    return CompareSpec(to=to, **values)


def _parse_statements(document: Document, key: str, node: Any) -> tuple[Any, ...]:
    """The claims or published numbers. Axes and required keys are checked; labels are, when a run is read."""
    spec: type[Any] = {"claims": ClaimSpec, "published": PublishedSpec}[key]
    if not isinstance(node, list):
        raise ConfigError(f"{document.where(key)}: {key} must be a list of mappings, not {node!r}.")
    required = [f.name for f in fields(spec) if f.default is MISSING]
    hints = get_type_hints(spec, include_extras=True)
    statements = []
    for i, one in enumerate(node):
        where = document.where(key, i)
        if not isinstance(one, Mapping) or not set(required) <= set(one):
            raise ConfigError(f"{where}: an entry of {key} must be a mapping with {', '.join(required)}, not {one!r}.")
        _check_names(spec, document, one, key, i)
        for name in ARM_KEYS & set(one):
            _check_arm(document, (key, i, name), one[name])
        _check_statement(document, (key, i), one)
        values = {name: _check_type(hints[name], name, v, document.where(key, i, name)) for name, v in one.items()}
        statements.append(spec(**values))
    return tuple(statements)


def _check_statement(document: Document, place: tuple[str | int, ...], one: Mapping[str, Any]) -> None:
    """Raises ConfigError for a baseline, an axis or a number that no run can have."""
    against, best = one.get("against"), one.get("best_of")
    if isinstance(against, Mapping) and BASELINE_KEY in against and (name := against[BASELINE_KEY]) not in [*BASELINES]:
        where, names = document.where(*place, "against", BASELINE_KEY), ", ".join(BASELINES)
        raise ConfigError(f"{where}: no baseline {name!r}.{did_you_mean(str(name), BASELINES)} Baselines: {names}.")
    if best is None:
        return
    where = document.where(*place, "best_of")
    if best not in AXES:
        raise ConfigError(f"{where}: no axis {best!r}{suggest('key', str(best), AXES)}")
    for name in ("at", "minus"):
        if best in (one.get(name) or {}):
            raise ConfigError(f"{where}: {name} sets {best}, so there is no best value of it. Remove one of the two.")


def _check_arm(document: Document, place: tuple[str | int, ...], node: Any) -> None:
    """Raises ConfigError if a setting has a key that is no axis."""
    if not isinstance(node, Mapping) or not node:
        raise ConfigError(f"{document.where(*place)}: {place[-1]} must map axes to values, not {node!r}.")
    if place[-1] == "at":  # may name columns of the data
        return
    allowed = (*AXES, BASELINE_KEY) if place[-1] == "against" else AXES
    for axis in node:
        if axis not in allowed:
            raise ConfigError(f"{document.where(*place, axis)}: no axis '{axis}'{suggest('key', str(axis), allowed)}")


def _parse_stop(document: Document, key: str, node: Any) -> StopSpec:
    if node == WHEN_DECIDED:
        return StopSpec()
    if not isinstance(node, Mapping):
        raise ConfigError(
            f"{document.where(key)}: stop must be {WHEN_DECIDED}, or a mapping such as {{level: 0.05, looks: 20}}, "
            f"not {node!r}."
        )
    _check_names(StopSpec, document, node, key)
    return StopSpec(**_spec_values(StopSpec, document, key, node))


def _parse_tune(document: Document, key: str, node: Any) -> TuneSpec:
    if not isinstance(node, Mapping):
        names = ", ".join(f.name for f in fields(TuneSpec))
        raise ConfigError(f"{document.where(key)}: tune must be a mapping of {names}, not {node!r}.")
    if node.get("task") is None:
        raise ConfigError(f"{document.where(key)}: tune needs `task`, the task with the training queries.")
    _check_names(TuneSpec, document, node, key)
    return TuneSpec(**_spec_values(TuneSpec, document, key, node))


def _check_names(spec: type, document: Document, node: Mapping[str, Any], *place: str | int) -> None:
    """Raises ConfigError for a key of the mapping that the spec has no field for."""
    names = [f.name for f in fields(spec)]
    for name in node:
        if name not in names:
            raise ConfigError(f"{document.where(*place, name)}: no key '{name}'{suggest('key', str(name), names)}")


def _spec_values(spec: type, document: Document, key: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """The checked values of a mapping. A null where the field allows none is its default."""
    hints = get_type_hints(spec, include_extras=True)
    return {
        name: _check_type(hints[name], name, value, document.where(key, name))
        for name, value in node.items()
        if value is not None or _allows_none(hints[name])
    }


def _allows_none(hint: Any) -> bool:
    return hint is type(None) or any(_allows_none(part) for part in get_args(hint))


_PARSERS: Mapping[str, Callable[[Document, str, Any], Any]] = {
    "name": _parse_name,
    "seeds": _parse_seeds,
    "by": _parse_by,
    "metrics": _parse_metrics,
    "grid": _parse_axes,
    "zip": _parse_axes,
    "exclude": _parse_exclude,
    "compare": _parse_compare,
    "claims": _parse_statements,
    "published": _parse_statements,
    "stop": _parse_stop,
    "tune": _parse_tune,
    "launcher": _parse_launcher,
    "observe": _parse_observe,
}
"""Keys with checks beyond their type."""
