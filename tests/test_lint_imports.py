"""The check of imports finds circles of three modules, and methods that machinery imports."""

from typing import Any

import pytest
from lint_imports import (
    circles,
    import_graph,
    imports_against_layers,
    imports_from_above,
    imports_of_methods,
    run_time_text,
)

METHOD = '@component("metric", "mine")\nclass Mine: ...\n'


def graph(**sources: str) -> Any:
    return import_graph(sources)


def test_a_circle_of_three_is_a_finding_wherever_the_imports_stand() -> None:
    three = graph(
        a="import b",
        b="def f():\n    from c import x",
        c="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a import y",
    )
    assert circles(three) == ["3 modules import each other in a circle: a, b, c"]
    assert not circles(graph(a="import b", b="import a", c="from a import y"))


def test_an_import_of_a_module_of_a_package_is_one_of_the_module() -> None:
    assert [*graph(**{"p": "", "p.a": "from p import b", "p.b": ""}).edges] == [("p.a", "p.b")]


def test_machinery_that_imports_a_method_is_a_finding() -> None:
    sources = {"m.mine": METHOD, "m.other": METHOD + "from m.mine import Mine", "m.base": "from m.mine import Mine"}
    assert imports_of_methods(import_graph(sources), sources, ()) == ["m.base imports the method m.mine"]
    assert not imports_of_methods(import_graph(sources), sources, ["m.base"])
    moved = {"m.machinery.mine": METHOD, "m.base": "from m.machinery.mine import Mine"}
    assert not imports_of_methods(import_graph(moved), moved, ())


def test_an_exported_name_is_an_import_of_the_module_that_defines_it() -> None:
    exports = {"icl": {"Prompt": "icl.types"}}
    own = import_graph({"icl": "", "icl.types": "", "retrievers.nearest": "from icl import Prompt"}, exports)
    assert [*own.edges] == [("retrievers.nearest", "icl.types")]
    above = import_graph({"icl.types": "", "icl.base": "from decoding import A", "decoding.base": ""},
                         {"decoding": {"A": "decoding.base"}})  # fmt: skip
    assert imports_from_above(above) == ["icl.base imports decoding.base, which stands above it"]


def test_a_name_read_through_an_imported_package_is_an_import_of_its_module() -> None:
    sources = {"m": "", "m.models": "", "m.models.base": "", "m.types": "from m import models\nmodels.Model\nmodels.x"}
    read = import_graph(sources, {"m.models": {"Model": "m.models.base"}})
    assert ("m.types", "m.models.base") in read.edges


def test_an_exported_name_of_a_layer_above_is_a_finding() -> None:
    exports = {"m": {"Model": "m.models.base"}}
    sources = {"m": "", "m.types": "from m import Model", "m.models.base": "", "m.loading": "import m.models.base"}
    contracts = [{"type": "layers", "name": "flow", "layers": ["m.models", "m.text | m.types"]}]
    finding = "m.types imports m.models.base, against: flow"
    assert imports_against_layers(import_graph(sources, exports), contracts) == [finding]
    through = sources | {"m.types": "import m.loading"}
    assert imports_against_layers(import_graph(through, exports), contracts) == [finding]
    accepted = [contracts[0] | {"ignore_imports": ["m.loading -> m.models.base"]}]
    assert not imports_against_layers(import_graph(through, exports), accepted)
    down = sources | {"m.types": "", "m.models.base": "import m.types"}
    assert not imports_against_layers(import_graph(down, exports), contracts)


@pytest.mark.parametrize(("layer", "findings"), [("m.a | m.b", 1), ("m.a : m.b", 0)])
def test_siblings_import_each_other_only_where_a_colon_joins_them(layer: str, findings: int) -> None:
    sources = {"m.a": "", "m.a.one": "import m.a", "m.b": "import m.a.one"}
    contracts = [{"type": "layers", "name": "flow", "layers": [layer]}]
    assert len(imports_against_layers(import_graph(sources), contracts)) == findings


def test_what_type_checkers_do_not_read_is_an_import_at_run_time() -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a\nelse:\n    import b"
    assert run_time_text(text).splitlines() == ["from typing import TYPE_CHECKING", "import b"]
