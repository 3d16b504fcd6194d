"""What an experiment file says, checked key by key before any component is built.

    name, task, model, seeds, shots, retriever, rerankers, rerank_candidates, order, transforms, composer, decoding,
    answer_mode, max_new_tokens, metrics, controls, trace, lazy_branches, grid, zip, exclude, compare, launcher

A key outside `grid` holds for all cells; the same key in `grid` (every combination) or `zip` (side by side) is an axis
and overrides it. An axis may also be one parameter of a component: `decoding.alpha: [0.5, 1.0]`. `rerankers` and
`transforms` are lists; an empty one is called none.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decoding.engine.requests import LazyBranches
from experiments.config.keys import (
    ANSWER_MODES,
    AXES,
    COMPONENT_KINDS,
    CORRECTIONS,
    DEFAULT_CORRECTION,
    DEFAULT_LAUNCHER,
    DEFAULT_METRIC,
    DEFAULT_METRICS,
    DEFAULTS,
    EMPTY_LIST,
    KEYS,
    LAZY_BRANCHES,
    LIST_AXES,
    MAXIMA,
)
from experiments.config.overrides import apply_overrides
from experiments.config.yaml_document import Document, read_document
from icl.errors import ConfigError, did_you_mean
from icl.renamed_names import suggest


@dataclass(frozen=True)
class CompareSpec:
    """What a table's differences are taken against. to: axis -> value of the reference; metric: its name."""

    to: Mapping[str, Any]
    metric: str
    correct: str = DEFAULT_CORRECTION


@dataclass(frozen=True)
class Config:
    """base: the node of every key of AXES; grid, zipped: axis -> its values' nodes, in order.

    top_logprobs: how many tokens of each branch are kept of every step; 0: none. lazy_branches: how contrasts are read,
    which is no part of a cell, since answers are the same. launcher: the node of what starts the workers, no part of
    one either.
    """

    document: Document
    name: str
    base: Mapping[str, Any]
    grid: Mapping[str, Sequence[Any]]
    zipped: Mapping[str, Sequence[Any]]
    exclude: Sequence[Mapping[str, Any]]
    seeds: tuple[int, ...]
    metrics: tuple[Any, ...]
    controls: bool
    compare: CompareSpec | None
    top_logprobs: int = 0
    lazy_branches: LazyBranches = "auto"
    launcher: Any = DEFAULT_LAUNCHER

    def where(self, *keys: str | int) -> str:
        return self.document.where(*keys)


def load_config(source: str | Path | Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any] = ()) -> Config:
    """The config of a YAML file, or of a mapping, with overrides `grid.shots=[0,4]` put over it. Raises ConfigError."""
    if isinstance(source, Mapping):
        document = Document("config", Path.cwd(), {str(key): value for key, value in source.items()})
    else:
        document = read_document(Path(source))
    return parse_config(apply_overrides(document, overrides))


def parse_config(document: Document) -> Config:
    """The config of a document. Raises ConfigError for unknown keys, wrong types, empty axes."""
    data = _emptied({key: value for key, value in document.data.items() if value is not None})
    for key in data:
        if key not in KEYS:
            meant = suggest("key", key, KEYS)
            known = f" Keys: {', '.join(KEYS)}." if meant == "." else ""
            raise ConfigError(f"{document.where(key)}: no key '{key}'{meant}{known}")
    grid, zipped = (_axes(document, key, data.get(key, {})) for key in ("grid", "zip"))
    for axis in zipped:
        if axis in grid:
            raise ConfigError(f"{document.where('zip', axis)}: {axis} is in grid and in zip. Keep one.")
    lengths = {axis: len(values) for axis, values in zipped.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{axis} {count}" for axis, count in lengths.items())
        raise ConfigError(f"{document.where('zip')}: paired axes have different lengths ({told}).")
    rows = [list(row) for row in zip(*zipped.values(), strict=True)]
    for i, row in enumerate(rows):
        if row in rows[:i]:  # a single value may be paired with several others
            raise ConfigError(f"{document.where('zip')}: pair {i + 1} is the same as pair {rows.index(row) + 1}.")
    for key in ("task", "model"):
        if key not in data and key not in grid and key not in zipped:
            raise ConfigError(f"{document.name}: the key {key} is missing. (icl ls {key}s)")
    for axis in AXES:
        if axis in data:
            check_value(axis, data[axis], document.where(axis))
    return Config(
        document,
        _name(document, data),
        {**DEFAULTS, **{axis: data[axis] for axis in AXES if axis in data}},
        grid,
        zipped,
        _exclude(document, data.get("exclude", [])),
        _seeds(document, data.get("seeds", [0])),
        _metrics(document, data, grid, zipped),
        _controls(document, data.get("controls", "none")),
        _compare(document, data.get("compare")),
        _top_logprobs(document, data.get("top_logprobs")),
        _late(document, data.get("lazy_branches", LAZY_BRANCHES[0])),
        _launch(document, data.get("launcher", DEFAULT_LAUNCHER)),
    )


def _emptied(data: dict[str, Any]) -> dict[str, Any]:
    """`rerankers: none` as the empty list that it is, wherever values of an axis stand.

    In `compare.to`, which names a value as tables do, it is the other way round.
    """

    def own(axis: str, value: Any) -> Any:
        return [] if axis in LIST_AXES and value == EMPTY_LIST else value

    def each(axes: Any) -> Any:
        if not isinstance(axes, Mapping):
            return axes
        return {
            axis: [own(axis, v) for v in values] if axis in LIST_AXES and isinstance(values, list) else values
            for axis, values in axes.items()
        }

    told = {key: own(key, value) for key, value in data.items()}
    told |= {key: each(data[key]) for key in ("grid", "zip") if key in data}
    if isinstance(holes := data.get("exclude"), list):
        told["exclude"] = [
            {key: own(key, value) for key, value in hole.items()} if isinstance(hole, Mapping) else hole
            for hole in holes
        ]
    compare = data.get("compare")
    if isinstance(compare, Mapping) and isinstance(to := compare.get("to"), Mapping):
        named = {key: EMPTY_LIST if key in LIST_AXES and value == [] else value for key, value in to.items()}
        told["compare"] = {**compare, "to": named}
    return told


def check_value(axis: str, node: Any, where: str) -> None:
    """Raises ConfigError where a plain value is of the wrong type. Components are checked when they are built."""
    if axis == "shots" and not (_whole(node) and node >= 0):
        raise ConfigError(f"{where}: shots is a number of demonstrations, 0 or more, not {node!r}.")
    if axis == "max_new_tokens" and not (_whole(node) and node >= 1):
        raise ConfigError(f"{where}: max_new_tokens is a whole number of at least 1, not {node!r}.")
    if axis == "rerank_candidates" and node is not None and not (_whole(node) and node >= 1):
        raise ConfigError(
            f"{where}: rerank_candidates is how many of the retriever's best the rerankers get, 1 or more, not "
            f"{node!r}."
        )
    if axis in MAXIMA and node is not None and node > MAXIMA[axis]:
        raise ConfigError(f"{where}: {axis} is at most {MAXIMA[axis]:,}, not {node:,}.")
    if axis == "answer_mode" and node not in ANSWER_MODES:
        raise ConfigError(
            f"{where}: answer_mode is one of {', '.join(ANSWER_MODES)}, not "
            f"{node!r}.{did_you_mean(str(node), ANSWER_MODES)}"
        )
    if axis in LIST_AXES and not isinstance(node, list):
        raise ConfigError(f"{where}: {axis} is a list of components, applied in turn, or none, not {node!r}.")
    if axis in COMPONENT_KINDS and axis not in LIST_AXES and isinstance(node, list):
        raise ConfigError(f"{where}: a list of {axis} values is an axis: write it under grid.")


def _axes(document: Document, key: str, node: Any) -> dict[str, list[Any]]:
    if not isinstance(node, Mapping):
        raise ConfigError(f"{document.where(key)}: {key} is a mapping from axes to lists of values, not {node!r}.")
    for axis, values in node.items():
        where = document.where(key, axis)
        if axis in ("seed", "seeds"):
            raise ConfigError(f"{where}: every cell is run with every seed: write seeds at the top of the file.")
        head, _, parameter = axis.partition(".")
        if axis not in AXES and not (head in COMPONENT_KINDS and parameter):
            raise ConfigError(f"{where}: no component reads the axis '{axis}'{suggest('key', axis, AXES)} {_AXES_ARE}")
        if not isinstance(values, list):
            raise ConfigError(f"{where}: an axis is a list of values, not {values!r}.")
        if not values:
            raise ConfigError(f"{where}: the axis is empty. Give it a value, or remove it.")
        for i, value in enumerate(values):
            check_value(axis, value, document.where(key, axis, i))
            if key == "grid" and value in values[:i]:
                raise ConfigError(f"{document.where(key, axis, i)}: {value!r} stands in this axis twice.")
    return {axis: list(values) for axis, values in node.items()}


_AXES_ARE = f"Axes: {', '.join(AXES)}, or a parameter of a component such as decoding.alpha."


def _name(document: Document, data: Mapping[str, Any]) -> str:
    name = data.get("name", Path(document.name).stem)
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        where = document.where("name")
        raise ConfigError(f"{where}: {name!r} names a folder: letters, digits, '.', '_' and '-' only.")
    return name


def _seeds(document: Document, node: Any) -> tuple[int, ...]:
    seeds = [node] if _whole(node) else node
    if not isinstance(seeds, list) or not seeds or not all(map(_whole, seeds)):
        raise ConfigError(
            f"{document.where('seeds')}: seeds is a list of whole numbers such as [0, 1, 2], not {node!r}."
        )
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{document.where('seeds')}: a seed stands there twice: {seeds}.")
    return tuple(seeds)


def _exclude(document: Document, node: Any) -> list[Mapping[str, Any]]:
    if not isinstance(node, list):
        raise ConfigError(f"{document.where('exclude')}: exclude is a list of mappings, such as [{{shots: 0}}].")
    known = (*AXES, "seed")
    for i, hole in enumerate(node):
        if not isinstance(hole, Mapping) or not hole:
            raise ConfigError(f"{document.where('exclude', i)}: a hole is a mapping from axes to values, not {hole!r}.")
        for key in hole:
            if key not in known:
                raise ConfigError(f"{document.where('exclude', i, key)}: no axis '{key}'{suggest('key', key, known)}")
    return list(node)


def _metrics(document: Document, data: Mapping[str, Any], *axes: Mapping[str, Any]) -> tuple[Any, ...]:
    options = any(
        "options" in values for values in ([data.get("answer_mode")], *(a.get("answer_mode", []) for a in axes))
    )
    node = data.get("metrics", [*DEFAULT_METRICS, *(["option"] if options else [])])
    if isinstance(node, str | Mapping):
        node = [node]
    if not isinstance(node, list) or not node:
        raise ConfigError(f"{document.where('metrics')}: metrics is a list of at least one metric. (icl ls metrics)")
    return tuple(node)


def _controls(document: Document, node: Any) -> bool:
    if node not in ("none", "default"):
        raise ConfigError(f"{document.where('controls')}: controls is 'none' or 'default', not {node!r}.")
    return bool(node == "default")


def _late(document: Document, node: Any) -> LazyBranches:
    for way in LAZY_BRANCHES:
        if node == way:
            return way
    raise ConfigError(
        f"{document.where('lazy_branches')}: lazy_branches is one of {', '.join(LAZY_BRANCHES)}, not {node!r}."
        f"{did_you_mean(str(node), LAZY_BRANCHES)}"
    )


def _launch(document: Document, node: Any) -> Any:
    """The node of a launcher; a mapping without a name gives parameters of the usual one."""
    if isinstance(node, list):
        raise ConfigError(f"{document.where('launcher')}: launcher is one component, not a list. (icl ls launcher)")
    return {"name": DEFAULT_LAUNCHER, **node} if isinstance(node, Mapping) else node


def _top_logprobs(document: Document, node: Any) -> int:
    if node is None:
        return 0
    if not _whole(node) or node < 0:
        raise ConfigError(
            f"{document.where('top_logprobs')}: top_logprobs is how many tokens of each branch are kept of every step, "
            f"a whole number of 0 or more, not {node!r}."
        )
    return int(node)


def _compare(document: Document, node: Any) -> CompareSpec | None:
    if node is None:
        return None
    where = document.where("compare")
    if not isinstance(node, Mapping) or not isinstance(node.get("to"), Mapping) or not node["to"]:
        raise ConfigError(
            f"{where}: compare needs 'to', the reference's value of an axis: {{to: {{decoding: greedy}}}}."
        )
    for key in node:
        if key not in ("to", "metric", "correction"):
            known = ("to", "metric", "correction")
            raise ConfigError(f"{document.where('compare', key)}: no key '{key}'{suggest('key', key, known)}")
    for axis in node["to"]:
        if axis not in AXES:
            raise ConfigError(f"{document.where('compare', 'to', axis)}: no axis '{axis}'{suggest('key', axis, AXES)}")
    correct = node.get("correction", DEFAULT_CORRECTION)
    if correct not in CORRECTIONS:
        at = document.where("compare", "correction")
        raise ConfigError(f"{at}: correction is one of {', '.join(CORRECTIONS)}, not {correct!r}.")
    return CompareSpec(dict(node["to"]), str(node.get("metric", DEFAULT_METRIC)), correct)


def _whole(node: Any) -> bool:
    return isinstance(node, int) and not isinstance(node, bool)
