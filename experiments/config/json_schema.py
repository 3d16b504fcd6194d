"""The JSON schema of an experiment file: editors complete keys and components with it, and mark mistakes."""

from typing import Any

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
    ExperimentKeys,
    FileKeys,
    component_kind,
)
from icl.parameter_docs import parameter_docs
from icl.registry import schema

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def experiment_schema() -> dict[str, Any]:
    """A schema document, with a definition in `$defs` for each kind of component. Imports every component."""
    kinds = {kind: _inlined(schema(kind)) for kind in filter(None, map(component_kind, HINTS.values()))}
    kinds["strategy"] = _with_arm_keys(kinds["strategy"])
    document = _with_references(TypeAdapter(ExperimentKeys).json_schema())
    specs: dict[str, Any] = document.pop("$defs")
    for spec in FileKeys.__subclasses__():
        if spec.__name__ in specs:
            _describe(spec, specs[spec.__name__]["properties"])
    properties = document["properties"]
    none = {"const": EMPTY_LIST}
    for key in LIST_AXES:
        properties[key] = {"anyOf": [none, properties[key]], "default": EMPTY_LIST}
    properties["observe"] = {"anyOf": [none, {"$ref": "#/$defs/observer"}, properties["observe"]]}
    properties["stop"]["anyOf"].append({"const": WHEN_DECIDED})
    unnamed = _without_name(kinds["launcher"], DEFAULT_LAUNCHER)  # a mapping without a name has its parameters
    properties["launcher"] = {"anyOf": [{"$ref": "#/$defs/launcher"}, unnamed]}
    _describe(ExperimentKeys, properties)
    for key in ("grid", "zip"):
        properties[key] |= {
            "properties": {
                axis: {
                    "type": "array",
                    "minItems": 1,
                    "items": properties[axis],
                    "description": properties[axis]["description"],
                }
                for axis in AXES
            },
            "patternProperties": {rf"^({'|'.join(COMPONENT_KINDS)})\..+$": {"type": "array", "minItems": 1}},
            "additionalProperties": False,
        }
    return {"$schema": DRAFT, **document, "title": "mm-icl experiment", "required": [], "$defs": kinds | specs}


def _with_references(node: Any) -> Any:
    """The schema with the definition of its kind in the place of each component, without pydantic's titles."""
    if isinstance(node, dict):
        kind = {"$ref": f"#/$defs/{node.pop('$comment')}"} if "$comment" in node else {}
        named = {key: value for key, value in node.items() if key != "title" or isinstance(value, dict)}
        return kind | {key: _with_references(value) for key, value in named.items()}
    return [*map(_with_references, node)] if isinstance(node, list) else node


def _describe(cls: type[Any], properties: dict[str, Any]) -> None:
    """Adds the comments next to a dataclass's fields."""
    for doc in parameter_docs(cls):
        properties[doc.key]["description"] = doc.meaning


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
    """The schema with pydantic's separate definitions moved into the places that refer to them."""
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
