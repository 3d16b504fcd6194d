"""Tests of the registry: lookup, construction, description, and error messages."""

import ast
import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

from icl import registry
from icl.component_node import _validate as component_validate
from icl.errors import ConfigError
from icl.registry import (
    PACKAGES,
    REQUIRED_MEMBERS,
    Fraction,
    NestedComponent,
    PositiveInt,
    build,
    component,
    component_search_folder,
    describe,
    entries,
    parameter,
    parse,
    resolve,
    schema,
    with_article,
)


@component("metric", "inner")
@dataclass(frozen=True)
class Inner:
    share: Fraction = 0.5


@component("metric", "outer")
@dataclass(frozen=True)
class Outer:
    inner: Annotated[Any, NestedComponent("metric")]
    size: PositiveInt = 3
    limit: PositiveInt | None = parameter("pool", None)
    loud: bool = False
    names: tuple[str, ...] = ()

    presets = {"big": {"size": 100}}  # noqa: RUF012

    def __post_init__(self) -> None:
        if self.size > 100:
            raise ConfigError("size is more than 100.")


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    """Two components of this file stand among the metrics."""
    real = registry.entries
    mine = {
        name: registry.ComponentEntry("metric", name, f"{__name__}:{cls}", "")
        for name, cls in (("inner", "Inner"), ("outer", "Outer"))
    }
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    monkeypatch.setattr(registry, "entries", lambda kind: {**real(kind), **(mine if kind == "metric" else {})})


MINE = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Mine:
    better = "higher"
    k: int = 1

    def score(self, generation, example):
        return 0.0
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def outer(**parameters) -> Outer:
    return build("metric", {"name": "outer", "inner": "inner", **parameters}, "x.yaml:4: metrics[0]")


def test_a_node_is_a_name_a_mapping_or_a_component():
    assert build("metric", "inner") == Inner()
    assert build("metric", {"name": "inner", "share": 0.25}) == Inner(0.25)
    assert build("metric", Inner(0.75)) == Inner(0.75)


def test_components_nest_and_keys_may_differ_from_attributes():
    built = outer(inner={"name": "inner", "share": 1}, pool=7, names=["a"])
    assert built == Outer(Inner(1.0), 3, 7, False, ("a",))
    node = describe(built)
    assert node.pop("name") == f"{__name__}:Outer"
    assert len(node.pop("code")) == 12
    assert node == {"inner": describe(Inner(1.0)), "size": 3, "pool": 7, "loud": False, "names": ["a"]}


def test_a_parsed_node_builds_what_its_node_builds_also_with_another_parameter():
    node = {"name": "outer", "inner": "inner", "pool": 7}
    parsed = parse("metric", node, "x.yaml:4: metrics[0]")
    assert (parsed.kind, parsed.name, parsed.cls, parsed.where) == ("metric", "outer", Outer, "x.yaml:4: metrics[0]")
    assert parsed.parameters == {"inner": "inner", "pool": 7}
    assert parsed.parameter_names == ["inner", "size", "pool", "loud", "names"]
    assert parsed.build() == build("metric", node)
    assert parsed.with_parameter(["inner", "share"], 0.25, "").build() == Outer(Inner(0.25), 3, 7)
    with pytest.raises(ConfigError, match=r"^x\.yaml:5: grid: metric 'outer', pool: "):
        parsed.with_parameter(["pool"], 0, "x.yaml:5: grid").build()
    assert parsed.parameters == {"inner": "inner", "pool": 7}


def test_equal_nodes_have_equal_keys_wherever_they_are():
    nodes = ["inner", {"name": "inner"}, Inner, {"name": Inner}]
    assert len({parse("metric", node, f"x.yaml:{i}").key for i, node in enumerate(nodes)}) == 1
    mine = Inner()
    others = [{"name": "inner", "share": 0.5}, {"name": "inner", "share": 0.25}, mine, Inner()]
    assert len({parse("metric", node).key for node in (*nodes, *others)}) == 5
    assert parse("metric", mine).build() is mine


def test_equal_components_have_equal_descriptions():
    assert json.dumps(describe(Inner(1))) == json.dumps(describe(Inner(1.0)))
    assert describe(Inner(0.5)) == describe(build("metric", "inner")) != describe(Inner(0.25))


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("strickt", "no metric named 'strickt'. Did you mean 'strict'? (icl ls metric)"),
        ({"share": 1}, "a metric must be a name or a mapping with the key 'name', not {'share': 1}."),
        (7, "a metric must be a name or a mapping"),
        ({"name": "inner", "sahre": 1}, "no parameter 'sahre'. Did you mean 'share'? It takes share."),
        ({"name": "strict", "a": 1}, "metric 'strict' has no parameter 'a'. It takes no parameters."),
        ({"name": "inner", "share": 2}, "metric 'inner', share: input should be less than or equal to 1, not 2."),
        ({"name": "inner", "share": "much"}, "metric 'inner', share: input should be a valid number"),
        ({"name": "inner", "share": True}, "metric 'inner', share: True is not a number. (YAML reads yes"),
        ({"name": "outer"}, "metric 'outer', inner: field required."),
        ({"name": "outer", "inner": "inner", "pool": 0}, "'outer', pool: input should be greater than"),
        ({"name": "outer", "inner": "inner", "pool": True}, "metric 'outer', pool: True is not a number."),
        ({"name": "outer", "inner": "inner", "limit": 3}, "metric 'outer' has no parameter 'limit'."),
        ({"name": "outer", "inner": {"name": "inner", "share": 2}}, "metric 'outer': metric 'inner', share: "),
        ({"name": "outer", "inner": "inner", "size": 101}, "metric 'outer': size is more than 100."),
        ({"name": "outer", "inner": "inner", "preset": "bog"}, "has no preset 'bog'. Did you mean 'big'?"),
        (":", "':' is not the start of a component path. Write 'module:name' or 'file.py:name'."),
        ("..mine:Mine", "'..mine:' is not the start of a component path"),
        ("nowhere:Mine", "there is no module 'nowhere'. Is its package installed?"),
        ("icl.nowhere:Mine", "no metric named 'icl.nowhere:Mine'. Did you mean "),
        ("icl.metrics.strict:Strict", "no metric named 'icl.metrics.strict:Strict'. Did you mean 'strict'?"),
        ("icl.metrics.chair:ChairI", "no metric named 'icl.metrics.chair:ChairI'. Did you mean 'chair_i'?"),
        ("icl.types:Exampel", "icl.types has no class 'Exampel'. Did you mean 'Example'?"),
        ("icl.registry:Share", "icl.registry has no class 'Share'."),
        ("mine.py:Mine", "there is no file mine.py (looked in "),
        ("icl.models.fake:FakeCopy", "'fake-copy' is a model, not a metric. (icl ls metric)"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_with_its_place_and_a_remedy(node, message):
    with pytest.raises(ConfigError) as error:
        build("metric", node, "x.yaml:4: metrics[0]")
    assert str(error.value).startswith("x.yaml:4: metrics[0]: ")
    assert message in str(error.value)


def test_allowed_values_keep_their_case():
    from typing import Literal

    @dataclass(frozen=True)
    class Cased:
        mode: Literal["A", "b"] = "A"

    with pytest.raises(ConfigError, match="'A' or 'b'"):
        component_validate(Cased, {"mode": "a"}, "x")


def test_true_is_a_valid_flag():
    assert outer(loud=True).loud is True


def test_an_unknown_kind_is_an_error():
    with pytest.raises(ConfigError, match=r"no kind of component named 'retreiver'. Did you mean 'retriever'"):
        resolve("retreiver", "knn")


def test_parameters_override_those_of_a_preset():
    assert outer(preset="big").size == 100
    assert outer(preset="big", size=5).size == 5


@dataclass(frozen=True)
class Words:
    words: frozenset[str] = frozenset()


def test_a_set_has_the_same_description_in_every_process():
    code = "from icl.registry import describe; print(describe(frozenset(['red', 'green', 'blue', 'yes', 'no'])))"
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs == ["['blue', 'green', 'no', 'red', 'yes']\n"] * 2


def test_an_object_without_a_text_cannot_be_a_parameter():
    with pytest.raises(ConfigError, match="a parameter of type object has no stable text"):
        describe(Words(object()))


def test_a_file_is_searched_in_the_folder_of_the_config_and_its_description_has_no_folder(
    study, monkeypatch, tmp_path_factory
):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    with component_search_folder(study):
        first = build("metric", {"name": "mine.py:Mine", "k": 2})
    with pytest.raises(ConfigError, match="there is no file"):
        build("metric", "mine.py:Mine")
    (elsewhere / "mine.py").write_text((study / "mine.py").read_text())
    copied = build("metric", {"name": "mine.py:Mine", "k": 2})
    assert describe(first) == describe(copied)
    assert describe(first)["name"] == "mine.py:Mine"
    assert describe(first) != describe(build("metric", "mine.py:Mine"))


def test_an_edited_file_runs_its_new_code_and_changes_its_description(study, monkeypatch):
    monkeypatch.setattr("sys.dont_write_bytecode", False)  # stored bytecode must not hide the edit
    path = study / "mine.py"
    before = build("metric", f"{path}:Mine")
    description = describe(before)
    path.write_text(path.read_text().replace("0.0", "1.0"))
    after = build("metric", f"{path}:Mine")
    assert (before.score(None, None), after.score(None, None)) == (0.0, 1.0)
    assert describe(before) == description != describe(after)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("x = 1\nraise RuntimeError('half done.')\n", "(line 2): RuntimeError: half done."),
        ("def (\n", "(line 1): SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(3)\n", "(line 2): SystemExit: 3."),
        ("import there_is_no_such_package\n", "(line 1): ModuleNotFoundError: No module named 'there_is_no_such"),
        ("x = '\0'\n", "cannot be loaded: SyntaxError: source code string cannot contain null bytes."),
    ],
)
def test_the_error_of_a_file_that_fails_to_load_names_its_line_and_is_not_cached(study, code, says):
    (study / "bad.py").write_text(code)
    for _ in range(2):
        with pytest.raises(ConfigError) as error:
            build("metric", f"{study / 'bad.py'}:Mine", "x.yaml:4: metrics[0]")
        assert str(error.value).startswith(f"x.yaml:4: metrics[0]: {study / 'bad.py'} cannot be loaded")
        assert says in str(error.value)


def test_ctrl_c_while_a_file_loads_is_not_converted_to_an_error(study):
    (study / "bad.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        build("metric", f"{study / 'bad.py'}:Mine")


@pytest.mark.parametrize("kind", list(REQUIRED_MEMBERS))
def test_a_class_without_a_member_of_its_kind_is_refused(study, kind):
    (study / "empty.py").write_text(
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Empty:\n    x: int = 0\n"
    )
    with pytest.raises(ConfigError) as error:
        build(kind, f"{study / 'empty.py'}:Empty")
    assert f"is not {with_article(kind)}: it has no {', '.join(REQUIRED_MEMBERS[kind])}." in str(error.value)


@pytest.mark.parametrize("kind", list(REQUIRED_MEMBERS))
def test_shipped_components_have_all_members_of_their_kind(kind):
    for name in entries(kind):
        if name not in ("inner", "outer"):
            registry._check_members(kind, resolve(kind, name), name, "")


def test_a_class_that_is_not_a_dataclass_is_refused(study):
    (study / "plain.py").write_text("class Mine:\n    pass\n")
    with pytest.raises(ConfigError, match="is not a dataclass"):
        build("metric", f"{study / 'plain.py'}:Mine")


def test_an_entry_point_adds_a_name(monkeypatch):
    from importlib.metadata import EntryPoint

    point = EntryPoint("metric.theirs", f"{__name__}:Inner", registry.ENTRY_POINT_GROUP)
    monkeypatch.undo()
    monkeypatch.setattr(registry, "_entry_points", lambda: [point])
    entries.cache_clear()
    try:
        assert entries("metric")["theirs"].target == f"{__name__}:Inner"
        assert "theirs" not in entries("model")
    finally:
        entries.cache_clear()


@pytest.mark.parametrize("kind", sorted(PACKAGES))
def test_every_component_resolves_by_name_and_has_a_summary_of_one_line(kind):
    for name, entry in entries(kind).items():
        cls = resolve(kind, name)
        assert cls.component == (kind, name)
        assert entry.summary
        assert len(entry.summary) <= 120


@pytest.mark.parametrize("kind", sorted(PACKAGES))
def test_the_entries_of_a_kind_are_the_marked_classes_of_its_files(kind):
    """The registry finds them by a pattern. Python's parser sees the same classes and docstrings."""
    parsed = {}
    for package in PACKAGES[kind]:
        for path in sorted(Path(importlib.import_module(package).__path__[0]).glob("*.py")):
            tree = ast.parse(path.read_text())
            for node in (node for node in tree.body if isinstance(node, ast.ClassDef)):
                for call in (one for one in node.decorator_list if isinstance(one, ast.Call)):
                    if getattr(call.func, "id", "") == "component" and ast.literal_eval(call.args[0]) == kind:
                        doc = (ast.get_docstring(node) or ast.get_docstring(tree) or "").split("\n")[0]
                        parsed[ast.literal_eval(call.args[1])] = f"{package}.{path.stem}:{node.name}", doc
    assert {name: (entry.target, entry.summary) for name, entry in entries(kind).items()} == parsed


def test_a_component_in_a_file_of_its_name_is_found_without_reading_the_others(monkeypatch):
    monkeypatch.setattr(registry, "entries", lambda kind: pytest.fail(f"all files of {kind} were read"))
    assert resolve("retriever", "bm25").__name__ == "BM25"
    assert resolve("task", "emoji-shift").__name__ == "EmojiShiftTask"
    assert resolve("model", "hf").__name__ == "HF"


@pytest.mark.parametrize("name", ["", "../knn", "/knn", "k*n", "knn.py", "base"])
def test_a_name_that_is_not_that_of_a_component_is_refused(name):
    with pytest.raises(ConfigError, match="no retriever named"):
        resolve("retriever", name)


@pytest.mark.parametrize("kind", sorted(PACKAGES))
def test_every_kind_has_a_schema_that_is_json_and_names_its_parameters(kind):
    kind_schema = json.loads(json.dumps(schema(kind)))
    by_name = {one["properties"]["name"]["const"]: one for one in kind_schema["anyOf"][1:]}
    assert set(by_name) >= set(entries(kind))
    assert all(one["additionalProperties"] is False for one in by_name.values())


@pytest.mark.parametrize(("kind", "name", "preset"), [("strategy", "vcd", "paper"), ("task", "hub", "pope")])
def test_a_schema_lists_presets_and_does_not_require_the_parameters_that_they_set(kind, name, preset):
    one = next(o for o in schema(kind)["anyOf"][1:] if o["properties"]["name"]["const"] == name)
    assert preset in one["properties"]["preset"]["enum"]
    assert one["required"] == ["name"]


def test_listing_imports_nothing_heavy():
    script = (
        "import sys; from icl.registry import PACKAGES, entries; [entries(k) for k in PACKAGES]; "
        "heavy = ('torch', 'transformers', 'datasets', 'pydantic', 'pandas', 'faiss', 'PIL'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
        == "[]"
    )


@pytest.mark.parametrize("kind", sorted(PACKAGES))
def test_every_parameter_has_a_description_in_the_schema(kind):
    for node in schema(kind)["anyOf"][1:]:
        name = node["properties"]["name"]["const"]
        if name not in ("inner", "outer"):
            missing = [
                key for key, value in node["properties"].items() if key != "name" and not value.get("description")
            ]
            assert not missing, f"{kind} '{name}': no comment beside {', '.join(missing)}"


def test_the_comment_beside_a_parameter_is_its_description():
    node = next(o for o in schema("edit")["anyOf"][1:] if o["properties"]["name"]["const"] == "blur")
    assert node["properties"]["radius"]["description"] == "standard deviation in pixels"


def test_a_loaded_component_file_is_logged(study, caplog):
    with caplog.at_level("INFO", logger="icl"):
        build("metric", f"{study / 'mine.py'}:Mine")
    assert any("loading components of" in message and "mine.py" in message for message in caplog.messages)
