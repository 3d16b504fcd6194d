"""The default controls of every strategy."""

import json
from pathlib import Path
from typing import Any

import pytest

from decoding.arms.arm import default_control_classes, default_controls, parse_arm
from icl.registry import ComponentEntry, entries

WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "greedy": ({}, {}),
    "sampled": ({"sampling": {"temperature": 0.7}}, {}),
    "beams": ({"sampling": {"beams": 3}}, {}),
    "options": ({}, {"options": True}),
    "sampled options": ({"sampling": {}}, {"options": True}),
    "zero shots": ({}, {"shots": 0}),
}
OTHER = """
from dataclasses import dataclass
from typing import Annotated, ClassVar
from decoding.base import Strategy
from decoding.controls.base import WrappingControl
from decoding.arms.inspection import edits_query_image
from icl.registry import NestedComponent

@dataclass(frozen=True)
class Other(WrappingControl):
    of: Annotated[Strategy, NestedComponent("strategy")]
    control_rank: ClassVar[int] = 15

    @classmethod
    def control_for(cls, target):
        return target.with_strategy(cls(target.strategy)) if edits_query_image(target.strategy) else None
"""
ROWS = json.loads((Path(__file__).parent / "default_controls.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("way", WAYS)
def test_each_strategy_has_its_default_controls_in_their_order(way: str) -> None:
    arm_keys, of_run = WAYS[way]
    for row in ROWS:
        if row["way"] != way:
            continue
        for name in row["of"].split():
            arm = parse_arm({"name": name, **arm_keys})
            own = parse_arm(name).label
            labels = [control.label.replace(f"({own})", "(.)") for control in default_controls(arm, **of_run)]
            assert labels == row["controls"], name


def test_strategies_of_one_branch_have_none() -> None:
    for name in ("batch_calibration", "beam", "greedy", "sampling"):
        assert default_controls(parse_arm(name)) == ()


def test_a_new_control_is_a_default_if_its_control_for_returns_an_arm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = {name: [control.label for control in default_controls(parse_arm(name))] for name in ("vcd", "cad")}
    (tmp_path / "other.py").write_text(OTHER)
    by_name = {**entries("strategy"), "other": ComponentEntry("strategy", "other", f"{tmp_path}/other.py:Other", "")}
    for module in ("decoding.arms.arm", "icl.registry"):
        monkeypatch.setattr(f"{module}.entries", lambda kind: by_name)
    default_control_classes.cache_clear()
    after = {name: [control.label for control in default_controls(parse_arm(name))] for name in before}
    default_control_classes.cache_clear()
    assert after == {"vcd": [before["vcd"][0], "Other(vcd)", *before["vcd"][1:]], "cad": before["cad"]}
