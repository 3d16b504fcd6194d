"""The JSON schema of an experiment file: editors complete keys and components with it, and mark what is wrong."""

from typing import Any

from decoding.arms.arm import NORMALIZE
from experiments.config.keys import (
    ANSWER_MODES,
    AXES,
    COMPONENT_KINDS,
    CORRECTIONS,
    DEFAULT_LAUNCHER,
    DEFAULTS,
    EMPTY_LIST,
    LAZY_BRANCHES,
    LIST_AXES,
    MAXIMA,
)
from icl.registry import schema

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def experiment_schema() -> dict[str, Any]:
    """A schema document; each kind of component is a definition in `$defs`. Imports every component."""
    kinds = {kind: _inlined(schema(kind)) for kind in dict.fromkeys((*COMPONENT_KINDS.values(), "metric", "launcher"))}
    kinds["strategy"] = _with_arm_keys(kinds["strategy"])
    values = {axis: _value(axis) for axis in AXES}
    axes = {
        "type": "object",
        "properties": {axis: {"type": "array", "items": value, "minItems": 1} for axis, value in values.items()},
        "patternProperties": {rf"^({'|'.join(COMPONENT_KINDS)})\..+$": {"type": "array", "minItems": 1}},
        "additionalProperties": False,
    }
    properties: dict[str, Any] = {
        "name": {"type": "string", "description": "the run's folder"},
        **values,
        "seeds": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "default": [0]},
        "metrics": {"type": "array", "items": {"$ref": "#/$defs/metric"}, "minItems": 1},
        "controls": {"enum": ["none", "default"], "description": "default: each strategy's controls are added"},
        "top_logprobs": {
            "type": "integer",
            "minimum": 0,
            "default": 0,
            "description": "how many of each branch's most probable tokens are kept of every step",
        },
        "lazy_branches": {
            "enum": list(LAZY_BRANCHES),
            "default": LAZY_BRANCHES[0],
            "description": "whether branches that no step of an answer needs are left unread: the answers are the same",
        },
        "grid": {**axes, "description": "every combination"},
        "zip": {**axes, "description": "side by side: lists of one length"},
        "exclude": {"type": "array", "items": {"type": "object"}, "description": "combinations to leave out"},
        "compare": {
            "type": "object",
            "properties": {
                "to": {"type": "object", "description": "the reference: a value of an axis"},
                "metric": {"type": "string"},
                "correction": {"enum": list(CORRECTIONS)},
            },
            "required": ["to"],
            "additionalProperties": False,
        },
    }
    usual = next(
        one
        for one in kinds["launcher"]["anyOf"]
        if one.get("properties", {}).get("name") == {"const": DEFAULT_LAUNCHER}
    )
    unnamed = {**usual, "required": [key for key in usual["required"] if key != "name"]}
    properties["launcher"] = {
        "anyOf": [{"$ref": "#/$defs/launcher"}, unnamed],  # parameters alone are those of the usual one
        "default": DEFAULT_LAUNCHER,
        "description": "where the work is done, by how many workers; no part of a cell",
    }
    return {
        "$schema": DRAFT,
        "title": "mm-icl experiment",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": kinds,
    }


def _value(axis: str) -> dict[str, Any]:
    default = {"default": DEFAULTS[axis]} if axis in DEFAULTS else {}
    if axis == "shots":
        return {"type": "integer", "minimum": 0, "maximum": MAXIMA[axis], **default}
    if axis == "max_new_tokens":
        return {"type": "integer", "minimum": 1, "maximum": MAXIMA[axis], **default}
    if axis == "rerank_candidates":
        return {"type": ["integer", "null"], "minimum": 1, "maximum": MAXIMA[axis], **default}
    if axis == "answer_mode":
        return {"enum": list(ANSWER_MODES), **default}
    node = {"$ref": f"#/$defs/{COMPONENT_KINDS[axis]}"}
    if axis in LIST_AXES:
        return {"anyOf": [{"const": EMPTY_LIST}, {"type": "array", "items": node}], "default": EMPTY_LIST}
    return {**node, **default}


def _with_arm_keys(node: dict[str, Any]) -> dict[str, Any]:
    """A decoding has more keys than its strategy's parameters."""
    more = {
        "sampling": {"type": "object"},
        "label": {"type": "string"},
        "normalize": {"enum": list(NORMALIZE), "description": "where options are scored: what a score is divided by"},
        "fitted": {"type": "string", "description": "a file of icl fit with parameters"},
    }
    told = [
        {**one, "properties": {**one["properties"], **more}} if one.get("type") == "object" else one
        for one in node["anyOf"]
    ]
    return {**node, "anyOf": told}


def _inlined(node: dict[str, Any]) -> dict[str, Any]:
    """Definitions that pydantic put beside a component's schema, moved into where they are named."""
    definitions: dict[str, Any] = {}
    for one in node["anyOf"]:
        definitions |= one.pop("$defs", {})

    def told(value: Any) -> Any:
        if isinstance(value, dict):
            name = str(value.get("$ref", "")).removeprefix("#/$defs/")
            if name in definitions:
                return told({**definitions[name], **{k: v for k, v in value.items() if k != "$ref"}})
            return {key: told(inner) for key, inner in value.items()}
        return [told(inner) for inner in value] if isinstance(value, list) else value

    inlined: dict[str, Any] = told(node)
    return inlined
