"""Every steering method conforms, and the check sees what it is for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from decoding.arms.inspection import probe_prompt
from decoding.base import SteeringMethod
from decoding.interventions.base import FittedMethod
from decoding.interventions.conformance import check_intervention, fitted_for_check
from decoding.interventions.edits import VectorEdit
from decoding.interventions.fit_data import FitData
from decoding.interventions.vector_file import FittedTensors
from icl.models.hf.model import HF
from icl.models.interventions import Site, steer
from icl.registry import build, component, entries
from icl.types import Prompt
from tests.decoding.interventions.dev_split import tiny

READY = {"batch_icl": {"layer": 2}, "vista": {}, "memvr": {}, "savaa": {}, "attention_scaling": {}, "knock_out": {}}
"""Methods that need no file, with the parameters that they need."""


@pytest.mark.parametrize("name", entries("intervention"))
def test_the_methods_of_the_toolkit_conform(name: str) -> None:
    method = build("intervention", {"name": name, **READY.get(name, {})})
    facts = check_intervention(method, tiny())
    assert facts.is_ready == (name != "none")
    assert facts.is_fitted_here == (name not in (*READY, "none"))
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


@component("intervention", "test-nan")
@dataclass(frozen=True)
class NotANumber(FittedMethod):
    """A method whose fit goes wrong."""

    def fit(self, data: FitData) -> FittedTensors:
        return FittedTensors({"vectors": torch.full((160,), torch.nan)}, {}, {})


def test_an_unfitted_method_is_fitted_and_a_bad_fit_is_found() -> None:
    with pytest.raises(AssertionError, match=r"NotANumber.fit returns numbers that are not finite"):
        check_intervention(NotANumber(), tiny())


def test_a_fitted_method_has_its_own_controls_and_its_edits_move_the_model(tmp_path: Path) -> None:
    method = fitted_for_check(build("intervention", "task_vector"), tiny(), tmp_path / "v.safetensors")
    facts = check_intervention(build("intervention", "task_vector"), tiny())
    assert facts.controls == len(method.controls()) > 0
    prompt = probe_prompt(2)
    (steered,) = method.steered([prompt], tiny())
    assert not torch.equal(tiny().open([steered]).logits, tiny().open([prompt]).logits)
    assert "fitted on 5 generated prompts" in facts.describe()
