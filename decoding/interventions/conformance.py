"""Conformance check of steering methods, for the toolkit's own and for yours (`icl check intervention NAME`)."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from decoding.arms.inspection import probe_prompt
from decoding.interventions.base import SteeringMethod
from icl.models.interventions import Intervention
from icl.testing.require import accepts_class
from icl.types import Prompt

if TYPE_CHECKING:
    from icl.models.hf.model import HF

CLOSE = 1e-3
"""Largest difference of a logit between a prompt in a batch and alone."""


@dataclass(frozen=True)
class InterventionFacts:
    """What a check showed.

    Attributes:
        is_ready: Whether the method can run, so that it was tried on a model. An unfitted one cannot.
        num_edits: Interventions that a prompt got.
        controls: Number of default controls.
    """

    is_ready: bool
    num_edits: int
    controls: int

    def describe(self) -> str:
        """One line about the facts."""
        if not self.is_ready:
            return "It cannot run yet (no file, or no effect), so it was not tried on a model."
        return f"{self.num_edits} edits of a prompt, {self.controls} controls."


@accepts_class
def check_intervention(method: SteeringMethod, model: "HF | None" = None) -> InterventionFacts:
    """Checks that a steering method does what engines rely on.

    Args:
        method: The method.
        model: A loaded model; by default the shipped one.

    Raises:
        AssertionError: A sentence that says what is wrong.
    """
    name = type(method).__name__
    assert isinstance(method, SteeringMethod), f"{name} is no SteeringMethod."
    json.dumps(method.config)
    controls = method.controls()
    assert all(isinstance(one, SteeringMethod) for one in controls), f"{name}.controls() returns other things."
    assert not any(one.controls() for one in controls), f"a control of {name} has controls of its own."
    if method.neutral or method.problem() is not None:
        return InterventionFacts(False, 0, len(controls))
    if model is None:
        from icl.models.hf.model import HF

        model = HF(path="tiny", device="cpu")
    model.load()
    method.check(model)
    prompts = [probe_prompt(2), probe_prompt(3)]
    steered = list(method.steered(prompts, model))
    assert len(steered) == 2, f"{name}.steered returned {len(steered)} prompts for 2."
    again = list(method.steered(prompts, model))
    assert [one.digest for one in steered] == [one.digest for one in again], f"{name}: two calls give other digests."
    edits = [edit for prompt in steered for edit in prompt.interventions]
    assert edits, f"{name} attaches nothing to a prompt, although `neutral` is false."
    assert all(isinstance(edit, Intervention) for edit in edits), f"{name}: an edit lacks a member of Intervention."
    _check_purity(name, edits, model)
    _check_rows(name, steered, model)
    return InterventionFacts(True, len(edits) // 2, len(controls))


def _check_purity(name: str, edits: list[Intervention], model: "HF") -> None:
    """Edits keep the shape, and leave the tensor that they get unchanged."""
    import torch

    for edit in edits:
        for site in edit.sites:
            resolved = model.sites.resolve(site)
            shape = (3, model.sites.width)
            if resolved.kind == "heads":
                projection = model.sites.projection(resolved.layer)
                heads = model.sites.num_heads(resolved.layer)
                shape = (3, heads, projection.in_features // heads)  # type: ignore[union-attr, operator, assignment]
            elif resolved.kind == "scores":
                shape = (3, model.sites.num_heads(resolved.layer), 5)  # type: ignore[assignment]
            x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            before = x.clone()
            after = edit.edit(site, x, [0, 0, 1])
            assert torch.equal(x, before), f"{name}: the edit of {site} changes its input in place."
            assert after.shape == x.shape, f"{name}: the edit of {site} returns {tuple(after.shape)} for {shape}."


def _check_rows(name: str, steered: list[Prompt], model: "HF") -> None:
    """A row in a batch equals the row alone."""
    together = model.open(steered).logits
    for row, prompt in enumerate(steered):
        gap = float((together[row] - model.open([prompt]).logits[0]).abs().max())
        assert gap < CLOSE, f"{name}: prompt {row} in a batch differs by {gap:.1e} from the prompt alone."
