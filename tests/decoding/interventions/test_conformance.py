"""Every steering method conforms, and the check sees what it is for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from decoding.interventions.base import SteeringMethod
from decoding.interventions.conformance import check_intervention
from decoding.interventions.edits import VectorEdit
from icl.models.hf.model import HF
from icl.models.interventions import Site, steer
from icl.registry import build, entries
from icl.types import Prompt
from tests.decoding.interventions.dev_split import tiny

READY = {"batch_icl": {"layer": 2}, "vista": {}, "attention_scaling": {}, "knock_out": {}}
"""Methods that need no file, with the parameters that they need."""


@pytest.mark.parametrize("name", entries("intervention"))
def test_the_methods_of_the_toolkit_conform(name: str) -> None:
    method = build("intervention", {"name": name, **READY.get(name, {})})
    facts = check_intervention(method, tiny())
    assert facts.is_ready == (name in READY)
    for control in method.controls():
        assert check_intervention(control, tiny()).is_ready


@dataclass(frozen=True)
class InPlace(VectorEdit):
    def edit(self, site: Site, x: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        x += 1
        return x


@dataclass(frozen=True)
class Mine(SteeringMethod):
    how: str = "in place"
    neutral: bool = False  # type: ignore[assignment]

    def steered(self, prompts: Sequence[Prompt], model: HF) -> Sequence[Prompt]:
        vectors = {Site("residual", 1): torch.ones(160)}
        edit = InPlace(vectors) if self.how == "in place" else VectorEdit(vectors)
        return prompts if self.how == "nothing" else [steer(prompt, edit) for prompt in prompts]


def test_edits_in_place_and_methods_that_attach_nothing_are_found() -> None:
    assert check_intervention(Mine("right"), tiny()).num_edits == 1
    with pytest.raises(AssertionError, match="changes its input in place"):
        check_intervention(Mine(), tiny())
    with pytest.raises(AssertionError, match="attaches nothing to a prompt"):
        check_intervention(replace(Mine(), how="nothing"), tiny())
