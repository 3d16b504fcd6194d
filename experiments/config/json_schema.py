"""The JSON schema of an experiment file: editors complete keys and components with it, and mark mistakes."""

from typing import Any, get_type_hints

from pydantic import TypeAdapter

from decoding.arms.arm import ACTS_IN, NORMALIZE
from experiments.config.keys import (
    AXES,
    COMPONENT_KINDS,
    DEFAULT_LAUNCHER,
    EMPTY_LIST,
    HINTS,
    LIST_AXES,
    WHEN_DECIDED,
    CompareSpec,
    ExperimentKeys,
    StopSpec,
    component_kind,
)
from experiments.config.statements import ClaimSpec, PublishedSpec
from experiments.config.tuning_keys import TuneSpec
from icl.parameter_docs import parameter_docs
from icl.registry import schema

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def experiment_schema() -> dict[str, Any]:
    """A schema document, with a definition in `$defs` for each kind of component. Imports every component."""
    kinds = {kind: _inlined(schema(kind)) for kind in filter(None, map(component_kind, HINTS.values()))}
    kinds["strategy"] = _with_arm_keys(kinds["strategy"])
    properties = {key: _value_schema(key) for key in HINTS}
    properties |= {"grid": _axes_schema(), "zip": _axes_schema(), "compare": _spec_schema(CompareSpec)}
    properties["tune"] = _spec_schema(TuneSpec)
    properties |= {
        key: {"type": "array", "items": _spec_schema(spec)}
        for key, spec in (("claims", ClaimSpec), ("published", PublishedSpec))
    }
    properties["stop"] = {"anyOf": [{"const": WHEN_DECIDED}, _spec_schema(StopSpec)]}
    unnamed = _without_name(
        kinds["launcher"], DEFAULT_LAUNCHER
    )  # a mapping without a name has the default's parameters
    properties["launcher"] = {"anyOf": [properties["launcher"], unnamed]}
    return {
        "$schema": DRAFT,
        "title": "mm-icl experiment",
        "type": "object",
        "properties": _documented(ExperimentKeys, properties),
        "additionalProperties": False,
        "$defs": kinds,
    }


def _documented(cls: type[Any], properties: dict[str, Any]) -> dict[str, Any]:
    """The properties with the comments and defaults of a dataclass's fields."""
    described = {}
    for doc in parameter_docs(cls):
        default = EMPTY_LIST if doc.key in LIST_AXES else doc.default
        optional = {} if doc.required or default is None else {"default": default}
        described[doc.key] = {**properties[doc.key], **optional, "description": doc.meaning}
    return described


def _value_schema(key: str) -> dict[str, Any]:
    kind = component_kind(HINTS[key])
    if kind is None:
        node: dict[str, Any] = TypeAdapter(HINTS[key]).json_schema()
        return node
    node = {"$ref": f"#/$defs/{kind}"}
    if key == "metrics":
        return {"type": "array", "items": node, "minItems": 1}
    if key == "observe":
        return {"anyOf": [{"const": EMPTY_LIST}, node, {"type": "array", "items": node}]}
    return {"anyOf": [{"const": EMPTY_LIST}, {"type": "array", "items": node}]} if key in LIST_AXES else node


def _axes_schema() -> dict[str, Any]:
    meanings = {doc.key: doc.meaning for doc in parameter_docs(ExperimentKeys)}
    axes = {axis: {"items": _value_schema(axis), "description": meanings[axis]} for axis in AXES}
    return {
        "type": "object",
        "properties": {axis: {"type": "array", "minItems": 1, **node} for axis, node in axes.items()},
        "patternProperties": {rf"^({'|'.join(COMPONENT_KINDS)})\..+$": {"type": "array", "minItems": 1}},
        "additionalProperties": False,
    }


def _spec_schema(spec: type[Any]) -> dict[str, Any]:
    """The schema of a key whose value is a mapping with the fields of a dataclass."""
    hints = get_type_hints(spec, include_extras=True)
    return {
        "type": "object",
        "properties": _documented(spec, {key: TypeAdapter(hint).json_schema() for key, hint in hints.items()}),
        "required": [doc.key for doc in parameter_docs(spec) if doc.required],
        "additionalProperties": False,
    }


def _without_name(kind: dict[str, Any], name: str) -> dict[str, Any]:
    """The schema of one component's parameters."""
    node = next(one for one in kind["anyOf"] if one.get("properties", {}).get("name") == {"const": name})
    properties = {key: value for key, value in node["properties"].items() if key != "name"}
    return {**node, "properties": properties, "required": [key for key in node["required"] if key != "name"]}


def _with_arm_keys(strategies: dict[str, Any]) -> dict[str, Any]:
    """The schema of an arm: a strategy's parameters and the keys of `decoding.arms.arm`."""
    sampling = {"anyOf": [_without_name(strategies, name) for name in ("sampling", "beam")]}
    processor = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    arm_keys = {
        "sampling": {**sampling, "description": "how a token is chosen: parameters of 'sampling' or 'beam'"},
        "logits_processors": {
            "type": "array",
            "items": {"anyOf": [{"type": "string"}, processor]},
            "description": "processors of transformers on the combined scores, such as repetition_penalty",
        },
        "acts_in": {"enum": list(ACTS_IN), "description": "part of a reasoning output in which the strategy acts"},
        "normalize": {"enum": list(NORMALIZE), "description": "what the score of an option is divided by"},
        "label": {"type": "string", "description": "name in tables"},
        "fitted": {"type": "string", "description": "a file of icl fit with parameters"},
    }
    nodes = [
        {**node, "properties": {**node["properties"], **arm_keys}} if node.get("type") == "object" else node
        for node in strategies["anyOf"]
    ]
    return {**strategies, "anyOf": nodes}


def _inlined(kind: dict[str, Any]) -> dict[str, Any]:
    """The schema with the definitions that pydantic put beside each component in the places that refer to them."""
    definitions: dict[str, Any] = {}
    for node in kind["anyOf"]:
        definitions |= node.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, dict):
            name = str(value.get("$ref", "")).removeprefix("#/$defs/")
            if name in definitions:
                return inline({**definitions[name], **{k: v for k, v in value.items() if k != "$ref"}})
            return {key: inline(inner) for key, inner in value.items()}
        return [inline(inner) for inner in value] if isinstance(value, list) else value

    inlined: dict[str, Any] = inline(kind)
    return inlined
