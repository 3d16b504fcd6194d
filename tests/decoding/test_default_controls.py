"""The default controls of every strategy as whole lists: which fits what is said in many files."""

import json
from pathlib import Path
from typing import Any

import pytest

from decoding.arms.arm import controls_of, parse_arm
from decoding.arms.control_target import by_default
from icl.registry import Entry, entries

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
from decoding.controls.wrapped import Wrapped
from decoding.arms.inspection import changes_image
from icl.registry import Nested

@dataclass(frozen=True)
class Other(Wrapped):
    of: Annotated[Strategy, Nested("strategy")]
    rank: ClassVar[int] = 15

    @classmethod
    def fits(cls, held):
        return held.beside(cls(held.strategy)) if changes_image(held.strategy) else None
"""
ROWS = json.loads((Path(__file__).parent / "default_controls.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("way", WAYS)
def test_each_strategy_has_its_default_controls_in_their_order(way: str) -> None:
    beside, of_run = WAYS[way]
    for row in ROWS:
        if row["way"] != way:
            continue
        for name in row["of"].split():
            arm = parse_arm({"name": name, **beside})
            own = parse_arm(name).label
            found = [control.label.replace(f"({own})", "(.)") for control in controls_of(arm, **of_run)]
            assert found == row["controls"], name


def test_strategies_of_one_branch_have_none() -> None:
    for name in ("batch_calibration", "beam", "greedy", "sampling"):
        assert controls_of(parse_arm(name)) == ()


def test_a_control_in_a_file_of_its_own_is_a_default_where_it_says_that_it_fits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = {name: [control.label for control in controls_of(parse_arm(name))] for name in ("vcd", "cad")}
    (tmp_path / "other.py").write_text(OTHER)
    known = {**entries("strategy"), "other": Entry("strategy", "other", f"{tmp_path}/other.py:Other", "")}
    for module in ("decoding.arms.control_target", "icl.registry"):
        monkeypatch.setattr(f"{module}.entries", lambda kind: known)
    by_default.cache_clear()
    after = {name: [control.label for control in controls_of(parse_arm(name))] for name in before}
    by_default.cache_clear()
    assert after == {"vcd": [before["vcd"][0], "Other(vcd)", *before["vcd"][1:]], "cad": before["cad"]}
