"""Components as JSON: their identity, and the config that builds them again."""

import json
from dataclasses import dataclass, fields

import pytest

from decoding.formulas.sampling import Beam, Greedy, Sampling
from decoding.strategies.vcd import VCD
from icl.component_json import describe, to_config
from icl.edits import Blur, Edit
from icl.errors import ConfigError, PlanError
from icl.registry import PACKAGES, build, component_search_folder, entries, later_parameter, resolve

STRIPES = """
from dataclasses import dataclass
from icl.edits import Edit

@dataclass(frozen=True)
class Stripes(Edit):
    width: int = 1
"""


def strings_in(node):
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from strings_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from strings_in(value)


def built_components():
    """Every component that its defaults or one of its presets can build."""
    for kind in PACKAGES:
        for name in entries(kind):
            for preset in (None, *getattr(resolve(kind, name), "presets", {})):
                try:
                    yield kind, build(kind, {"name": name, **({"preset": preset} if preset else {})})
                except ConfigError:
                    continue


def test_no_identity_contains_a_module_path():
    components = [built for _, built in built_components()]
    components.append(build("strategy", {"name": "contrast", "branches": ["no_image"], "weights": [2, -1]}))
    for built in components:
        assert not [text for text in strings_in(describe(built)) if text.startswith(("icl.", "decoding.", "prompts."))]


def test_a_branch_of_contrast_is_known_by_its_parameters():
    strategy = build("strategy", {"name": "contrast", "branches": ["no_image"], "weights": [2, -1]})
    (branch,) = describe(strategy)["branches"]
    assert "name" not in branch
    assert branch["change"] == "no_image"


def test_every_component_is_built_again_from_its_json():
    for kind, built in built_components():
        assert build(kind, json.loads(json.dumps(to_config(built)))) == built
        if not has_former_default(built):
            assert describe(build(kind, json.loads(json.dumps(describe(built))))) == describe(built)


def has_former_default(built):
    """Whether a parameter has the value that was its default before: the identity leaves it out, as in stored cells."""
    later = [one for one in fields(built) if one.metadata.get("before", one.default) != one.default]
    return any(getattr(built, one.name) == one.metadata["before"] for one in later)


def test_a_nested_edit_of_a_file_is_built_again_from_its_config(tmp_path):
    (tmp_path / "stripes.py").write_text(STRIPES)
    with component_search_folder(tmp_path):
        node = {"name": "contrast", "branches": [{"change": {"name": "stripes.py:Stripes", "width": 3}}],
                "weights": [2, -1]}  # fmt: skip
        built = build("strategy", node)
    assert build("strategy", json.loads(json.dumps(to_config(built)))) == built
    assert describe(built)["branches"][0]["change"]["name"] == "stripes.py:Stripes"
    assert len(describe(built)["branches"][0]["change"]["code"]) == 12


def test_a_class_of_a_function_has_no_config_for_another_process():
    @dataclass(frozen=True)
    class Local(Edit):
        pass

    with pytest.raises(PlanError, match="where another process cannot find it"):
        to_config(Local())


def test_samplers_have_names():
    assert describe(Greedy()) == {"name": "greedy"}
    assert describe(Sampling(0.5))["name"] == "sampling"
    assert describe(Beam(4))["name"] == "beam"


def test_an_edit_describes_itself_by_the_same_json():
    assert json.loads(Blur(2.0).describe()) == describe(Blur(2.0)) == {"name": "blur", "radius": 2}


def test_whole_numbers_are_one_value():
    assert json.dumps(describe(VCD(alpha=1))) == json.dumps(describe(VCD(alpha=1.0)))


def test_the_default_of_a_later_parameter_keeps_the_identity_from_before():
    @dataclass(frozen=True)
    class Grown:
        budget: int | None = later_parameter(None, 8192)
        device: str = later_parameter("auto")

    assert describe(Grown()) == {**describe(Grown(8192)), "budget": 8192}
    assert "device" not in describe(Grown())
    assert describe(Grown(7, "cpu"))["device"] == "cpu"
    assert describe(Grown(7, "cpu"))["budget"] == 7


def test_the_config_of_a_later_parameter_is_its_value():
    from icl.models.hf.model import HF

    assert describe(HF())["token_budget"] == 8192
    assert to_config(HF())["token_budget"] is None
