from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from decoding.arms.arm import ARM_KEYS
from experiments.config.config import load_config
from experiments.config.json_schema import experiment_schema
from experiments.config.keys import (
    AXES,
    KEYS,
    ClaimSpec,
    CompareSpec,
    ExperimentKeys,
    PublishedSpec,
    StopSpec,
    TuneSpec,
)
from experiments.config.yaml_document import parse_yaml, to_flow_yaml
from icl.errors import ConfigError
from icl.parameter_docs import ParameterDoc, parameter_docs

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "experiments" / "configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return experiment_schema()


def properties(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, schema) of every property that a schema defines, at any depth."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "properties":
                for name, inner in value.items():
                    yield f"{path}.{name}", inner
            yield from properties(value, f"{path}.{key}")
    elif isinstance(node, list):
        for i, item in enumerate(node):
            yield from properties(item, f"{path}[{i}]")


def test_every_key_and_parameter_has_a_description(schema: dict[str, Any]) -> None:
    documented = {path: node for path, node in properties(schema) if not path.endswith(".name")}
    assert len(documented) > 600
    assert [path for path, node in documented.items() if not node.get("description")] == []


def test_keys_and_arm_keys_are_those_of_the_loader(schema: dict[str, Any]) -> None:
    assert tuple(schema["properties"]) == KEYS
    assert tuple(schema["properties"]["grid"]["properties"]) == AXES
    vcd = next(
        n for n in schema["$defs"]["strategy"]["anyOf"] if n.get("properties", {}).get("name") == {"const": "vcd"}
    )
    assert {*ARM_KEYS, "fitted"} <= set(vcd["properties"])
    assert "temperature" in vcd["properties"]["sampling"]["anyOf"][0]["properties"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid(schema: dict[str, Any], path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(schema).validate(parse_yaml(path.read_text(encoding="utf-8"), path.name)[0])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shots", -1),
        ("shots", 10_001),
        ("shots", "four"),
        ("max_new_tokens", 0),
        ("max_new_tokens", 100_001),
        ("rerank_candidates", 0),
        ("rerank_candidates", 100_001),
        ("answer_mode", "option"),
        ("seeds", []),
        ("seeds", ["x"]),
        ("controls", "yes"),
        ("top_logprobs", -1),
        ("lazy_branches", "nevr"),
        ("stop_strings", "."),
        ("stop_strings", [""]),
        ("stop_strings", [3]),
        ("transforms", "x"),
        ("metrics", []),
        ("exclude", {"shots": 0}),
        ("compare", {"metric": "strict"}),
        ("compare", {"to": {"shots": 0}, "correction": "holmes"}),
        ("stop", "when_done"),
        ("stop", {"level": 0}),
        ("stop", {"looks": 0}),
        ("stop", {"margins": 0.1}),
        ("stop", {"null": "none"}),
        ("claims", {"claim": "x"}),
        ("claims", [{"claim": "x", "arm": {"shots": 4}}]),
        ("claims", [{"claim": "x", "arm": {"shots": 4}, "against": {"shots": 0}, "expect": "good"}]),
        ("published", [{"at": {"shots": 4}, "value": "high"}]),
        ("published", [{"at": {"shots": 4}, "value": 0.5, "unit": "%"}]),
        ("tune", {"steps": 3}),
        ("tune", {"task": []}),
        ("tune", {"task": ["binding", 3]}),
        ("tune", {"task": ["binding", "operators"], "weights": [1, 0]}),
        ("tune", {"task": "binding", "steps": -1}),
        ("tune", {"task": "binding", "step": 1}),
        ("tune", {"task": "binding", "objective": "dpp"}),
        ("grid", {"shots": []}),
        ("grid", {"shot": [1]}),
        ("launcher", ["local"]),
    ],
)
def test_the_schema_and_the_loader_refuse_the_same_values(schema: dict[str, Any], key: str, value: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    valid = {"name": "x", "task": "easy-vqa", "model": "fake-copy"}
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(valid)
    assert not validator.is_valid({**valid, key: value})
    with pytest.raises(ConfigError, match=rf"config: {key}"):
        load_config({**valid, key: value})


@pytest.mark.parametrize("stop", ["when_decided", {"level": 0.1}, None])
def test_the_schema_accepts_the_ways_to_write_stop(schema: dict[str, Any], stop: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    config = {"name": "x", "task": "easy-vqa", "model": "fake-copy", "stop": stop}
    assert jsonschema.Draft202012Validator(schema).is_valid(config)
    assert (load_config(config).stop is None) == (stop is None)


def test_an_axis_has_at_least_one_value(schema: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(schema)
    config = {"name": "x", "task": "easy-vqa", "model": "fake-copy"}
    assert validator.is_valid({**config, "grid": {"shots": [1]}})
    assert not validator.is_valid({**config, "grid": {"shots": []}})


def documented_row(doc: ParameterDoc, prefix: str = "") -> str:
    default = "" if doc.required or doc.default in (None, {}) else f"`{to_flow_yaml(doc.default)}`"
    return f"| `{prefix}{doc.key}` | {doc.kind} | {default} | {doc.meaning} |"


def test_the_documented_keys_are_those_of_the_loader() -> None:
    rows = [documented_row(doc) for doc in parameter_docs(ExperimentKeys)]
    rows += [documented_row(doc, "compare.") for doc in parameter_docs(CompareSpec)]
    rows += [documented_row(doc, "stop.") for doc in parameter_docs(StopSpec)]
    rows += [documented_row(doc, "tune.") for doc in parameter_docs(TuneSpec)]
    rows += [documented_row(doc, "claims.") for doc in parameter_docs(ClaimSpec)]
    rows += [documented_row(doc, "published.") for doc in parameter_docs(PublishedSpec)]
    text = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    assert [row for row in rows if row not in text.splitlines()] == []
