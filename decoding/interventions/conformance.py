"""Conformance check of steering methods, for the toolkit's own and for yours (`icl check intervention NAME`).

A method without a file is fitted first, on a few generated prompts and with few steps, so that its fit is checked too.
"""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from decoding import DevPrompt, FitData, FittedMethod, FittedTensors, SteeringMethod, probe_prompt
from decoding.interventions import TrainableMethod, write_vector_file
from icl import END, TOWER_KINDS, Intervention, Prompt, StreamKey, Where, build, torch
from icl.models.answer_likelihood import demo_prompt
from icl.models.hf.model import HF
from icl.testing.require import accepts_class

CLOSE = 1e-3
"""Largest difference of a logit between a prompt in a batch and alone."""

SOURCES, CHOICE, SHOTS, STEPS = 3, 2, 2, 2
"""Prompts, demonstrations, and steps or passes of a fit that is only a check."""


@dataclass(frozen=True)
class InterventionFacts:
    """What a check showed.

    Attributes:
        is_ready: Whether the method can run, so that it was tried on a model.
        num_edits: Interventions that a prompt got.
        controls: Number of default controls.
        is_fitted_here: Whether the check fitted it, because it had no file.
    """

    is_ready: bool
    num_edits: int
    controls: int
    is_fitted_here: bool = False

    def describe(self) -> str:
        """One line about the facts."""
        if not self.is_ready:
            return "It cannot run yet (a parameter is missing, or it has no effect), so it was not tried on a model."
        where = f" It was fitted on {SOURCES + CHOICE} generated prompts for this check." if self.is_fitted_here else ""
        return f"{self.num_edits} edits of a prompt, {self.controls} controls.{where}"


@accepts_class
def check_intervention(method: SteeringMethod, model: HF | None = None) -> InterventionFacts:
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
    is_unfitted = isinstance(method, FittedMethod) and not method.fitted
    if method.neutral or (method.problem() is not None and not is_unfitted):
        return InterventionFacts(False, 0, len(_controls(name, method)))
    if model is None:
        model = HF(path="tiny", device="cpu")
    model.load()
    if not isinstance(method, FittedMethod) or method.fitted:
        return _check_ready(name, method, model)
    with TemporaryDirectory(prefix="icl-check-") as folder:
        facts = _check_ready(name, fitted_for_check(method, model, Path(folder) / "check.safetensors"), model)
    return replace(facts, is_fitted_here=True)


def fitted_for_check(method: FittedMethod, model: HF, path: Path) -> FittedMethod:
    """The method with a file of vectors of a few generated prompts, fitted with few steps.

    Args:
        method: A method without a file.
        model: A loaded model.
        path: The file to write.

    Raises:
        AssertionError: The fit gives numbers that are not finite, or no tensor of the name in `tensor`.
    """
    name = type(method).__name__
    few: dict[str, Any] = {one.name: STEPS for one in fields(method) if one.name in ("steps", "passes")}
    data = FitData(model, *_dev_split(), max_new_tokens=2)
    has_fit = not isinstance(method, TrainableMethod) or method.has_fit()
    fitted = replace(method, **few).fit(data) if has_fit else _untrained(method, data)
    bad = [key for key, tensor in fitted.tensors.items() if not tensor.isfinite().all()]
    assert not bad, f"{name}.fit returns numbers that are not finite ({', '.join(bad)})."
    component: Any = type(method)
    write_vector_file(
        path,
        component.component[1],
        tensors=fitted.tensors,
        parameters=fitted.parameters,
        record={"width": model.sites.width},
        report=fitted.report,
    )
    return replace(method, fitted=str(path))


def _untrained(method: Any, data: FitData) -> FittedTensors:
    """What the training of a method starts with, with noise in place of its steps."""
    start: FittedTensors = method.start(data.model, [one.prompt for one in data.sources], data.seed)
    generator = torch.Generator().manual_seed(data.seed)
    noisy = {name: one + 0.1 * torch.randn(one.shape, generator=generator) for name, one in start.tensors.items()}
    return replace(start, tensors=noisy)


def _dev_split() -> tuple[tuple[DevPrompt, ...], tuple[DevPrompt, ...]]:
    """Sources and choice: prompts of one operator, with answers that can be shuffled."""
    task = build("task", {"name": "operators", "operator": "minus", "queries": SOURCES + CHOICE})
    prompts = []
    for query in task.queries:
        demos = {demo.answer: demo for demo in task.pool(query.id).examples}  # different answers
        prompt = demo_prompt(query.query, list(demos.values())[:SHOTS], StreamKey(0, query.id))
        prompts.append(DevPrompt(query.id, prompt, query.answers))
    return tuple(prompts[:SOURCES]), tuple(prompts[SOURCES:])


def _controls(name: str, method: SteeringMethod) -> tuple[SteeringMethod, ...]:
    """The default controls. They must have no controls of their own."""
    controls = method.controls()
    assert all(isinstance(one, SteeringMethod) for one in controls), f"{name}.controls() returns other things."
    assert not any(one.controls() for one in controls), f"a control of {name} has controls of its own."
    return controls


def _check_ready(name: str, method: SteeringMethod, model: HF) -> InterventionFacts:
    """Checks a method that can run."""
    controls = _controls(name, method)
    json.dumps(method.config)
    method.check(model)
    prompts = [probe_prompt(2), probe_prompt(3)]
    steered = list(method.steered(prompts, model))
    assert len(steered) == 2, f"{name}.steered returned {len(steered)} prompts for 2."
    again = list(method.steered(prompts, model))
    assert [one.digest for one in steered] == [one.digest for one in again], f"{name}: two calls give other digests."
    edits = [edit for prompt in steered for edit in prompt.interventions]
    assert edits, f"{name} attaches nothing to a prompt, although `neutral` is false."
    assert all(isinstance(edit, Intervention) for edit in edits), f"{name}: an edit lacks a member of Intervention."
    places = {edit.where for edit in edits}
    assert method.acts_on_output == all(where.part != "prompt" or where == END for where in places), (
        f"{name}.acts_on_output is {method.acts_on_output}, and the edits address {', '.join(map(str, places))}."
    )
    _check_purity(name, edits, model)
    _check_rows(name, steered, model)
    return InterventionFacts(True, len(edits) // 2, len(controls))


def _check_purity(name: str, edits: list[Intervention], model: HF) -> None:
    """Edits keep the shape, and leave the tensor that they get unchanged.

    An edit may have an attribute `tokens`: the number of tokens that it addresses in each row.
    """
    for edit in edits:
        tokens = getattr(edit, "tokens", None)
        rows = [0, 0, 1] if tokens is None else [0] * tokens + [1] * tokens
        count = len(rows)
        for site in edit.sites:
            resolved = model.sites.resolve(site)
            shape = (count, model.sites.width)
            if resolved.kind in TOWER_KINDS:
                shape = (count, model.observe([probe_prompt(1)], [resolved], Where("images"))[0][resolved].shape[-1])
            elif resolved.kind == "heads":
                projection = model.sites.projection(resolved.layer)
                heads = model.sites.num_heads(resolved.layer)
                shape = (count, heads, projection.in_features // heads)  # type: ignore[union-attr, operator, assignment]
            elif resolved.kind == "scores":
                shape = (count, model.sites.num_heads(resolved.layer), 5)  # type: ignore[assignment]
            x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            before = x.clone()
            after = edit.edit(site, x, rows)
            assert torch.equal(x, before), f"{name}: the edit of {site} changes its input in place."
            assert after.shape == x.shape, f"{name}: the edit of {site} returns {tuple(after.shape)} for {shape}."


def _check_rows(name: str, steered: list[Prompt], model: HF) -> None:
    """A row in a batch equals the row alone."""
    together = model.open(steered).logits
    for row, prompt in enumerate(steered):
        gap = float((together[row] - model.open([prompt]).logits[0]).abs().max())
        assert gap < CLOSE, f"{name}: prompt {row} in a batch differs by {gap:.1e} from the prompt alone."
