"""What every strategy keeps, checked on made-up logits: for our own, and for anyone's (`icl check`).

facts = check_strategy(Mine())      # AssertionError with a sentence, or what the strategy is
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from decoding.arms.inspection import (
    EXITS,
    call_branches,
    constant_weights,
    declares_weights,
    measure_weights,
    probe_branches,
    probe_prompt,
)
from decoding.base import Strategy
from icl.registry import describe
from icl.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 1e-4
ROWS, VOCABULARY = 5, 97


@dataclass(frozen=True)
class StrategyFacts:
    """What a check found. weights: None where they vary. strength: their sum, the hidden inverse temperature."""

    branches: int
    weights: tuple[float, ...] | None
    strength: float | None
    masks: bool

    def told(self) -> str:
        if self.weights is None or self.strength is None:
            what = "weights that vary from step to step"
        else:
            what = f"weights {', '.join(f'{w:g}' for w in self.weights)} (sum {self.strength:g})"
            if abs(self.strength - 1) <= TOLERANCE:
                what += ": identical branches decode as the reference"
            elif self.strength > 0:
                what += f": identical branches decode at temperature {1 / self.strength:.3g}"
            else:
                what += ": identical branches tell it nothing"
        mask = "with a mask" if self.masks else "no mask"
        return f"{self.branches} branch{'es' if self.branches > 1 else ''}, {mask}, {what}"


def check_strategy(strategy: Strategy, prompt: Prompt | None = None) -> StrategyFacts:
    """Runs every check. prompt: to branch; one with made-up images where there is none."""
    _check_component(strategy)
    count = _check_branches(strategy, probe_prompt() if prompt is None else prompt)
    _check_purity(strategy, count)
    _check_rows_alone(strategy, count)
    masks = _check_masks(strategy, count)
    weights = _check_weights(strategy, count)
    strength = None if weights is None else sum(weights)
    if strength is not None and abs(strength - 1) <= TOLERANCE:
        _check_identity(strategy, count)
    _check_neutral(strategy, count)
    _check_settled(strategy, count)
    return StrategyFacts(count - (EXITS if strategy.traits.reads_early_exits else 0), weights, strength, masks)


def made_up(count: int, rows: int = ROWS, scale: float = 3.0, seed: int = 0) -> "Tensor":
    """[n, B, V] float32 logits, the branches alike but not equal."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    common = scale * torch.randn(1, rows, VOCABULARY, generator=generator)
    return common + torch.randn(count, rows, VOCABULARY, generator=generator)


def apply_mask(strategy: Strategy, scores: "Tensor", reference: "Tensor") -> "Tensor":
    """The scores with the strategy's own mask put on them, as the engines do."""
    mask = strategy.mask(reference)
    return scores if mask is None else scores.masked_fill(~mask, -float("inf"))


def _check_component(strategy: Strategy) -> None:
    name = type(strategy).__name__
    _need(isinstance(strategy, Strategy), f"{name} does not extend decoding.Strategy.")
    parameters = getattr(type(strategy), "__dataclass_params__", None)
    _need(parameters is not None and parameters.frozen, f"{name} is not a frozen dataclass.")
    try:
        json.dumps(describe(strategy))
        hash(strategy)
    except TypeError as error:
        raise AssertionError(
            f"the parameters of {name} cannot be written into a record or compared: {error}."
        ) from error


def _check_branches(strategy: Strategy, prompt: Prompt) -> int:
    before = prompt.digest
    branches = call_branches(strategy, prompt)
    _need(isinstance(branches, tuple) and len(branches) > 0, "branches() must give a tuple of at least one prompt.")
    _need(all(isinstance(branch, Prompt) for branch in branches), "branches() gave something that is not a Prompt.")
    _need(prompt.digest == before, "branches() changed the prompt that it was given.")
    again = tuple(branch.digest for branch in probe_branches(strategy, prompt))
    _need(
        again == tuple(branch.digest for branch in branches),
        "branches() gave other prompts when asked again: random edits must draw from the prompt's own stream.",
    )
    return len(branches) + (EXITS if strategy.traits.reads_early_exits else 0)


def _check_purity(strategy: Strategy, count: int) -> None:
    import torch

    logits = made_up(count)
    kept = logits.clone()
    first, mask = strategy.combine(logits, 1), strategy.mask(logits[0])
    _need(isinstance(first, torch.Tensor), f"combine() gave {type(first).__name__}, not scores [B, V].")
    _need(bool(torch.equal(logits, kept)), "combine() or mask() changed the logits that it was given.")
    _need(not bool((first.isnan() | (first == float("inf"))).any()), "combine() gave NaN or +inf on ordinary logits.")
    again = strategy.combine(logits.clone(), 1)
    _need(
        bool(torch.equal(first, again)), "combine() gave other scores for the same logits: it must be a pure function."
    )
    _need(tuple(first.shape) == tuple(logits.shape[1:]), f"combine() gave shape {tuple(first.shape)}, not [B, V].")
    _need(first.dtype == torch.float32, f"combine() gave {first.dtype}, not float32.")
    if mask is not None:
        _need(mask.dtype == torch.bool, f"mask() gave {mask.dtype}, not bool.")
        _need(tuple(mask.shape) == tuple(logits.shape[1:]), f"mask() gave shape {tuple(mask.shape)}, not [B, V].")


def _check_rows_alone(strategy: Strategy, count: int) -> None:
    """A row's scores do not depend on the batch around it."""
    for step in (0, 1, 7):
        logits = made_up(count, seed=step)
        scores = apply_mask(strategy, strategy.combine(logits, step), logits[0])
        for row in range(ROWS):
            alone = logits[:, row : row + 1]
            own = apply_mask(strategy, strategy.combine(alone, step), alone[0])
            _need(_same(own[0], scores[row]), f"step {step}: a row's scores depend on the other rows of its batch.")


def _check_masks(strategy: Strategy, count: int) -> bool:
    """At least one token survives, for flat and for sharp distributions; who masks says so."""
    ruled_out = False
    for scale in (0.0, 0.1, 3.0, 30.0):
        logits = made_up(count, scale=scale)
        combined = strategy.combine(logits, 1)
        own = bool((combined == -float("inf")).any())
        _need(
            strategy.traits.masks_in_combine or not own,
            "combine() writes -inf: the class must say so with `masks_in_combine = True`, or use mask() where the mask "
            "reads the reference alone.",
        )
        alive = apply_mask(strategy, combined, logits[0]) > -float("inf")
        _need(bool(alive.any(-1).all()), "no token survives mask and combine; at least one must, always.")
        ruled_out |= not bool(alive.all())
    return ruled_out


def _check_weights(strategy: Strategy, count: int) -> tuple[float, ...] | None:
    weights = constant_weights(strategy)
    if declares_weights(strategy) and weights is not None:
        _need(len(weights) == count, f"weights has {len(weights)} numbers for {count} branches.")
        found = measure_weights(strategy)
        _need(
            found is not None and all(abs(a - b) <= 1e-2 * (1 + abs(b)) for a, b in zip(found, weights, strict=True)),
            f"weights says {weights}, and combine() weighs the branches {found or 'otherwise at each step'}.",
        )
    return weights


def _check_identity(strategy: Strategy, count: int) -> None:
    reference = made_up(1)
    combined = strategy.combine(reference.expand(count, -1, -1).clone(), 1)
    _need(
        _same_distribution(strategy, combined, reference[0]),
        "the weights sum to one, and identical branches do not decode as the reference under the mask.",
    )


def _check_neutral(strategy: Strategy, count: int) -> None:
    if strategy.neutral_parameters is None:
        return
    neutral = dataclasses.replace(strategy, **strategy.neutral_parameters)  # type: ignore[type-var]
    logits = made_up(count)
    told = ", ".join(f"{name} = {value:g}" for name, value in strategy.neutral_parameters.items())
    _need(
        _same_distribution(neutral, neutral.combine(logits, 1), logits[0]),
        f"at {told} the scores should be the reference's under the mask, and are not.",
    )


def _check_settled(strategy: Strategy, count: int) -> None:
    """What is drawn from a settled row is the same with the reference in the place of every other branch."""
    if strategy.traits.keeps_state or strategy.traits.reads_early_exits:
        return
    for scale in (0.3, 3.0, 30.0):
        logits = made_up(count, scale=scale)
        reference_decides = strategy.reference_decides(logits[0])
        if reference_decides is None:
            continue
        _need(
            tuple(reference_decides.shape) == (ROWS,),
            f"settled() gave shape {tuple(reference_decides.shape)}, not [B].",
        )
        alone = logits[:1].expand(count, -1, -1)
        own, without = (
            apply_mask(strategy, strategy.combine(z, 1), z[0]).softmax(-1)[reference_decides] for z in (logits, alone)
        )
        _need(_same(own, without), "settled() names rows whose distribution the other branches do change.")


def _same_distribution(strategy: Strategy, combined: "Tensor", reference: "Tensor") -> bool:
    """Whether scores decode as the reference, both under its mask and what the scores rule out themselves."""
    out = combined == -float("inf")
    wanted = apply_mask(strategy, reference.masked_fill(out, -float("inf")), reference)
    return _same(apply_mask(strategy, combined, reference).softmax(-1), wanted.softmax(-1))


def _same(a: "Tensor", b: "Tensor") -> bool:
    import torch

    return bool(torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE))


def _need(holds: bool, sentence: str) -> None:
    if not holds:
        raise AssertionError(sentence)
