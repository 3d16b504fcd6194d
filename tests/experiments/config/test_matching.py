"""Which arms a value of a config names."""

from typing import Any

import pytest

from experiments.config.keys import match_label, node_matches
from icl.errors import ConfigError

PRECISIONS = ("tiny(quantize=none)", "tiny(quantize=nf4)")


@pytest.mark.parametrize(
    ("value", "node", "expected"),
    [
        ("vcd", {"name": "vcd", "alpha": 0.5}, True),
        ("vcd", {"name": "own_vcd"}, False),
        ("Mine", {"name": "mine.py:Mine"}, True),
        ("folder/mine.py:Mine", {"name": "mine.py:Mine"}, True),
        ("mine.py", {"name": "mine.py:Mine"}, False),
        ("vcd", {}, False),
        ({"name": "vcd", "alpha": 0.5}, {"name": "vcd", "alpha": 0.5, "beta": 0.1}, True),
        ({"name": "vcd", "alpha": 1.0}, {"name": "vcd", "alpha": 0.5}, False),
        ([{"name": "mask"}], [{"name": "mask"}, {"name": "mask"}], False),
        (2, 2, True),
    ],
)
def test_a_value_names_a_component_by_its_name_and_some_of_its_parameters(
    value: Any, node: Any, expected: bool
) -> None:
    assert node_matches(value, node) is expected


def test_a_name_with_a_parameter_is_the_label_that_has_both() -> None:
    value = {"name": "tiny", "quantize": "none"}
    assert match_label(value, PRECISIONS, "model", "compare.to") == "tiny(quantize=none)"


def test_a_name_that_several_labels_have_is_refused_with_all_of_them() -> None:
    sentence = (
        r"compare\.to: 2 arms have model 'tiny'\. Use the label of one: tiny\(quantize=none\), tiny\(quantize=nf4\)"
    )
    with pytest.raises(ConfigError, match=sentence):
        match_label("tiny", PRECISIONS, "model", "compare.to")
