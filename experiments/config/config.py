"""Loads an experiment file: pydantic checks it against `ExperimentKeys`, and its first error becomes a sentence.

A key outside `grid` holds for all cells. The same key in `grid` (every combination) or `zip` (side by side) is an axis
and overrides it. An axis can also be one parameter of a component: `decoding.alpha: [0.5, 1.0]`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from experiments.config.keys import (
    AXES,
    DEFAULT_METRICS,
    DEFAULTS,
    HINTS,
    REQUIRED,
    ExperimentKeys,
    FileKeys,
    component_kind,
    unknown_key,
)
from experiments.config.shipped import find_config
from experiments.config.yaml_document import Document, KeyPath, apply_overrides, format_key_path, read_document
from icl import FLOAT32_MAX, ConfigError, did_you_mean, pydantic, suggest, with_article
from icl.parameter_docs import parameter_docs, type_text
from icl.untrusted import untrusted


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
        overrides: Values such as 'grid.shots=[0,4]' that replace the source's values.

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
    with untrusted(document.untrusted_run):
        values = vars(_validate(ExperimentKeys, data, document, ()))
        for key in ("grid", "zip"):
            values[key] = {axis: _axis_values(document, (key, axis), nodes) for axis, nodes in values[key].items()}
    grid, zipped = values["grid"], values["zip"]
    _check_axes(document, grid, zipped)
    for key in REQUIRED:
        if values[key] is None and key not in grid and key not in zipped:
            raise ConfigError(f"{document.name}: the key {key} is missing. (icl ls {key}s)")
    modes = [values["answer_mode"], *grid.get("answer_mode", ()), *zipped.get("answer_mode", ())]
    if "options" in modes and "metrics" not in data:
        values["metrics"] = (*DEFAULT_METRICS, "option")
    return Config(document=document, **values)


def _axis_values(document: Document, place: KeyPath, nodes: Sequence[Any]) -> list[Any]:
    """The checked values of one axis of `grid` or `zip`."""
    hint, values = HINTS.get(str(place[-1]), Any), []
    for i, node in enumerate(nodes):
        value = _validate(hint, node, document, (*place, i))
        if place[0] == "grid" and value in values:
            raise ConfigError(f"{document.where(*place, i)}: {value!r} is listed twice on this axis.")
        values.append(value)
    return values


def _check_axes(document: Document, grid: Mapping[str, list[Any]], zipped: Mapping[str, list[Any]]) -> None:
    for axis in zipped:
        if axis in grid:
            raise ConfigError(f"{document.where('zip', axis)}: {axis} is in grid and in zip. Keep one.")
    if len({len(values) for values in zipped.values()}) > 1:
        text = ", ".join(f"{axis} {len(values)}" for axis, values in zipped.items())
        raise ConfigError(f"{document.where('zip')}: paired axes have different lengths ({text}).")
    rows = list(zip(*zipped.values(), strict=True))
    for i, row in enumerate(rows):
        if row in rows[:i]:  # a single value may be paired with several others
            raise ConfigError(f"{document.where('zip')}: pair {i + 1} is the same as pair {rows.index(row) + 1}.")


def _validate(hint: Any, node: Any, document: Document, place: KeyPath) -> Any:
    """The value of a key, or of an axis at a place of the file. Raises ConfigError for its first mistake."""
    try:
        return _adapter(hint).validate_python(node)
    except pydantic.ValidationError as error:
        problems = [(problem, _path(problem, node)) for problem in error.errors()]
        unknown = [one for one in problems if one[0]["type"] == "unexpected_keyword_argument"]
        # of the alternatives of a union, the one that reaches deepest into the value is meant
        same_key = [one for one in problems if one[1][:1] == problems[0][1][:1]]
        problem, path = max(unknown or same_key, key=lambda one: (len(one[1]), "short" in one[0]["type"]))
        where = document.where(*place, *path[: -1 if problem["type"] == "missing" else None])
        raise ConfigError(f"{where}: {_sentence(problem, (*place[1:2], *path), node)}") from error


@lru_cache
def _adapter(hint: Any) -> Any:
    return pydantic.TypeAdapter(hint)


def _path(problem: Any, node: Any) -> KeyPath:
    """pydantic's location as keys of the value, without the types of unions that it names in between."""
    path: list[str | int] = []
    for i, key in enumerate(problem["loc"]):
        is_missing = problem["type"] == "missing" and i == len(problem["loc"]) - 1
        if isinstance(node, Mapping) and (key in node or is_missing):
            path, node = [*path, key], node.get(key)
        elif isinstance(node, list | tuple) and isinstance(key, int):
            path, node = [*path, key], node[key]
    return tuple(path)


def _sentence(problem: Any, path: KeyPath, node: Any) -> str:
    """pydantic's problem in the words of the documentation: `shots must be an integer from 0 to 10000, not 'x'.`"""
    kind, value, key = problem["type"], problem["input"], path[-1]
    if kind in ("unexpected_keyword_argument", "missing"):
        names = [f.name for f in fields(_spec(path[:-1]))]
        if kind == "missing":
            text = f"the key '{key}' is missing."
        else:
            text = unknown_key(str(key), node) if len(path) == 1 else f"no key '{key}'{suggest('key', str(key), names)}"
        is_bare = text in (f"the key '{key}' is missing.", f"no key '{key}'.")
        return f"{text} Keys: {', '.join(names)}." if is_bare else text
    if path[0] in ("grid", "zip") and len(path) == 2 and kind != "value_error":
        return f"an axis must be a list of at least one value, not {value!r}."
    hint, meaning = _documentation(path)
    component = component_kind(hint)
    remedy = f" ({'; '.join(filter(None, (meaning, f'icl ls {component}' if component else '')))})"
    remedy = "" if remedy == " ()" else remedy
    name = format_key_path(path[max(i for i, part in enumerate(path) if isinstance(part, str)) :])
    if kind == "value_error":
        text = str(problem["ctx"]["error"])
        at_axis = " A list of values is an axis: write it under grid." if component and path[0] in AXES else ""
        return f"{name} {text}{at_axis}{remedy}" if text.startswith("must ") else text
    choices = get_args(_part(hint, lambda part: get_origin(part) is Literal))
    expected = f"one of {', '.join(choices)}" if choices else type_text(hint)
    expected = expected if re.match("an? |one of ", expected) else with_article(expected)
    expected += " that is not empty" if kind.endswith("too_short") else ""
    if kind == "finite_number" or problem.get("ctx") == {"le": FLOAT32_MAX}:
        expected = "a finite number"
    return f"{name} must be {expected}, not {value!r}.{did_you_mean(str(value), choices)}{remedy}"


def _documentation(path: KeyPath) -> tuple[Any, str]:
    """The type of the value at a path, and the meaning of its key."""
    hint, meaning = Any, ""
    for i, part in enumerate(path):
        if isinstance(part, int):
            hint = (*get_args(_part(hint, lambda part: get_origin(part) in (list, tuple))), Any)[0]
        elif part in (hints := get_type_hints(_spec(path[:i]), include_extras=True)):
            hint = hints[part]
            meaning = next(doc.meaning for doc in parameter_docs(_spec(path[:i])) if doc.key == part)
    return hint, meaning


def _spec(path: KeyPath) -> Any:
    """The class that has the keys of the mapping at a path as fields."""
    spec: Any = ExperimentKeys
    for part in path:
        if isinstance(part, str) and part in (hints := get_type_hints(spec, include_extras=True)):
            spec = _part(hints[part], lambda one: isinstance(one, type) and issubclass(one, FileKeys)) or spec
    return spec


def _part(hint: Any, accepts: Callable[[Any], bool]) -> Any:
    """The first type in a type, or the type itself, that is accepted; None if there is none."""
    if accepts(hint):
        return hint
    return next((inner for part in get_args(hint) if (inner := _part(part, accepts)) is not None), None)
