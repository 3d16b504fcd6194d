"""Conformance check of a strategy on random logits (`icl check`).

facts = check_strategy(Mine())      # AssertionError with a sentence, or facts about the strategy
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass

from decoding import Arm, Sampling, default_controls
from decoding.arms.inspection import (
    EXITS,
    STEPS,
    call_branches,
    close_weights,
    constant_weights,
    declares_weights,
    measure_slopes,
    measure_weights,
    probe_branches,
    probe_prompt,
    varying_strength,
)
from icl import ConfigError, ICLError, Prompt, Strategy, Tensor, describe, torch
from icl.testing.require import accepts_class, require

TOLERANCE = 1e-4
ROWS, VOCABULARY = 5, 97


@dataclass(frozen=True)
class StrategyFacts:
    """Facts about a strategy that passed the check.

    Attributes:
        branches: Number of prompts.
        weights: Weights of the branches, or None if they vary.
        strength: Sum of the weights, a hidden inverse temperature, or None if it varies.
        masks: Whether tokens were ruled out.
    """

    branches: int
    weights: tuple[float, ...] | None
    strength: float | None
    masks: bool

    def describe(self) -> str:
        """The facts in one line."""
        if self.weights is None or self.strength is None:
            weights = "weights that vary from step to step"
        else:
            weights = f"weights {', '.join(f'{w:g}' for w in self.weights)} (sum {self.strength:g})"
            if abs(self.strength - 1) <= TOLERANCE:
                weights += ": identical branches decode as the reference"
            elif self.strength > 0:
                weights += f": identical branches decode at temperature {1 / self.strength:.3g}"
            else:
                weights += ": identical branches give all surviving tokens equal scores"
        mask = "with a mask" if self.masks else "no mask"
        return f"{self.branches} branch{'es' if self.branches > 1 else ''}, {mask}, {weights}"


@accepts_class
def check_strategy(strategy: Strategy, prompt: Prompt | None = None) -> StrategyFacts:
    """Checks that a strategy, and each of its default controls, does what engines rely on.

    Args:
        strategy: The strategy.
        prompt: The prompt to make branches of; by default a small prompt with images.

    Returns:
        Facts about the strategy.

    Raises:
        AssertionError: A sentence that says what is wrong.
    """
    prompt = probe_prompt() if prompt is None else prompt
    _check_component(strategy)
    count = _check_branches(strategy, prompt)
    _check_purity(strategy, count)
    _check_row_independence(strategy, count)
    masks = _check_masks(strategy, count)
    _check_banned_tokens(strategy, count)
    weights = _check_weights(strategy, count)
    strength = None if weights is None else sum(weights)
    if strength is None:
        _check_strength(strategy)
    if strength is not None and abs(strength - 1) <= TOLERANCE:
        _check_identity(strategy, count)
    _check_neutral(strategy, count)
    _check_reference_decides(strategy, count)
    _check_controls(strategy, prompt)
    return StrategyFacts(count - (EXITS if strategy.traits.reads_early_exits else 0), weights, strength, masks)


def random_logits(count: int, rows: int = ROWS, scale: float = 3.0, seed: int = 0) -> Tensor:
    """Random logits of similar branches, [n, B, V] float32."""
    generator = torch.Generator().manual_seed(seed)
    common = scale * torch.randn(1, rows, VOCABULARY, generator=generator)
    return common + torch.randn(count, rows, VOCABULARY, generator=generator)


def apply_mask(strategy: Strategy, scores: Tensor, reference: Tensor) -> Tensor:
    """The scores with -inf for tokens outside the strategy's mask, as in the engines."""
    mask = strategy.mask(reference)
    return scores if mask is None else scores.masked_fill(~mask, -float("inf"))


def _check_component(strategy: Strategy) -> None:
    name = type(strategy).__name__
    require(isinstance(strategy, Strategy), f"{name} does not extend decoding.Strategy.")
    parameters = getattr(type(strategy), "__dataclass_params__", None)
    require(parameters is not None and parameters.frozen, f"{name} is not a frozen dataclass.")
    try:
        json.dumps(describe(strategy))
        hash(strategy)
    except (TypeError, ICLError) as error:
        raise AssertionError(f"the parameters of {name} cannot be converted to JSON or hashed: {error}.") from error


def _check_branches(strategy: Strategy, prompt: Prompt) -> int:
    """The number of distributions that `combine` receives."""
    before = prompt.digest
    branches = call_branches(strategy, prompt)
    require(isinstance(branches, tuple) and len(branches) > 0, "branches() must return a tuple of at least one prompt.")
    require(
        all(isinstance(branch, Prompt) for branch in branches), "branches() returned something that is not a Prompt."
    )
    require(prompt.digest == before, "branches() changed its prompt.")
    again = tuple(branch.digest for branch in probe_branches(strategy, prompt))
    require(
        again == tuple(branch.digest for branch in branches),
        "branches() returned other prompts when called again: random edits must use the prompt's random stream.",
    )
    return len(branches) + (EXITS if strategy.traits.reads_early_exits else 0)


def _check_purity(strategy: Strategy, count: int) -> None:
    logits = random_logits(count)
    original = logits.clone()
    first, mask = strategy.combine(logits, 1), strategy.mask(logits[0])
    require(isinstance(first, torch.Tensor), f"combine() returned {type(first).__name__}, not scores [B, V].")
    require(bool(torch.equal(logits, original)), "combine() or mask() changed the logits in place.")
    require(
        not bool((first.isnan() | (first == float("inf"))).any()), "combine() returned NaN or +inf for finite logits."
    )
    again = strategy.combine(logits.clone(), 1)
    require(
        bool(torch.equal(first, again)),
        "combine() returned other scores for the same logits: it must be a pure function.",
    )
    require(
        tuple(first.shape) == tuple(logits.shape[1:]), f"combine() returned shape {tuple(first.shape)}, not [B, V]."
    )
    require(first.dtype == torch.float32, f"combine() returned {first.dtype}, not float32.")
    if mask is not None:
        require(mask.dtype == torch.bool, f"mask() returned {mask.dtype}, not bool.")
        require(tuple(mask.shape) == tuple(logits.shape[1:]), f"mask() returned shape {tuple(mask.shape)}, not [B, V].")


def _check_row_independence(strategy: Strategy, count: int) -> None:
    """Checks that the scores of a row do not depend on the other rows."""
    for step in (0, 1, 7):
        logits = random_logits(count, seed=step)
        scores = apply_mask(strategy, strategy.combine(logits, step), logits[0])
        for row in range(ROWS):
            single = logits[:, row : row + 1]
            single_scores = apply_mask(strategy, strategy.combine(single, step), single[0])
            require(
                _same(single_scores[0], scores[row]),
                f"step {step}: a row's scores depend on the other rows of its batch.",
            )


def _check_masks(strategy: Strategy, count: int) -> bool:
    """Checks that a token survives in flat and sharp distributions, and that masks are declared.

    Returns:
        Whether any token was ruled out.
    """
    rules_out = False
    for scale in (0.0, 0.1, 3.0, 30.0):
        logits = random_logits(count, scale=scale)
        combined = strategy.combine(logits, 1)
        has_inf = bool((combined == -float("inf")).any())
        require(
            strategy.traits.masks_in_combine or not has_inf,
            "combine() returns -inf. Declare `traits = Traits(masks_in_combine=True)`, or use mask() if the mask "
            "depends on the reference only.",
        )
        survives = apply_mask(strategy, combined, logits[0]) > -float("inf")
        require(bool(survives.any(-1).all()), "no token survives mask() and combine(); at least one must survive.")
        rules_out |= not bool(survives.all())
    return rules_out


def _check_banned_tokens(strategy: Strategy, count: int) -> None:
    """Checks that a token that all branches ban, as a logits processor does, leaves the other scores usable."""
    logits = random_logits(count)
    logits[..., -1] = -float("inf")
    scores = apply_mask(strategy, strategy.combine(logits, 1), logits[0])[:, :-1]
    require(
        not bool((scores.isnan() | (scores == float("inf"))).any()) and bool((scores > -float("inf")).any(-1).all()),
        "combine() returned NaN, +inf or no token for logits in which one token is banned (-inf in every branch).",
    )


def _check_weights(strategy: Strategy, count: int) -> tuple[float, ...] | None:
    weights = constant_weights(strategy)
    if declares_weights(strategy) and weights is not None:
        require(len(weights) == count, f"weights has {len(weights)} numbers for {count} branches.")
        measured = measure_weights(strategy)
        require(
            measured is not None and close_weights(weights, measured),
            f"weights is {weights}, but combine() weighs the branches {measured or 'differently at each step'}.",
        )
    return weights


def _check_strength(strategy: Strategy) -> None:
    """Checks that a strategy with varying weights returns their sum."""
    for step in STEPS:
        for logits, slopes in measure_slopes(strategy, step):
            try:
                strength = varying_strength(strategy, logits, step)
            except ConfigError as error:
                raise AssertionError(str(error)) from error
            is_right = isinstance(strength, torch.Tensor) and tuple(strength.shape) == (logits.shape[1], 1)
            require(is_right and bool(strength.isfinite().all()), "strength() must return finite numbers [B, 1].")
            if slopes is not None:
                require(
                    abs(float(strength) - sum(slopes)) <= 1e-2 * (1 + abs(sum(slopes))),
                    f"step {step}: strength() is {float(strength):g}, but the weights of combine() sum to "
                    f"{sum(slopes):g}.",
                )


def _check_controls(strategy: Strategy, prompt: Prompt) -> None:
    """Checks every control that `controls: default` adds to an arm of the strategy."""
    for control in dict.fromkeys(_default_controls(strategy)):
        try:
            count = _check_branches(control.strategy, prompt)
            _check_purity(control.strategy, count)
            _check_masks(control.strategy, count)
            _check_banned_tokens(control.strategy, count)
        except (AssertionError, ICLError, NotImplementedError) as error:
            raise AssertionError(f"the default control '{control.label}' fails: {error}") from error


def _default_controls(strategy: Strategy) -> Iterator[Arm]:
    """The default controls of greedy and sampled answers, and of option scores."""
    for sampler in (strategy.sampler, Sampling()):
        for options in (False, True):
            try:
                yield from default_controls(Arm(strategy, sampler), options=options, shots=2)
            except (ICLError, NotImplementedError) as error:
                raise AssertionError(f"controls: default cannot be built for this strategy: {error}") from error


def _check_identity(strategy: Strategy, count: int) -> None:
    reference = random_logits(1)
    combined = strategy.combine(reference.expand(count, -1, -1).clone(), 1)
    require(
        _same_distribution(strategy, combined, reference[0]),
        "the weights sum to one, but identical branches do not decode as the reference under the mask.",
    )


def _check_neutral(strategy: Strategy, count: int) -> None:
    if strategy.neutral_parameters is None:
        return
    neutral = dataclasses.replace(strategy, **strategy.neutral_parameters)  # type: ignore[type-var]
    logits = random_logits(count)
    parameters = ", ".join(f"{name} = {value:g}" for name, value in strategy.neutral_parameters.items())
    require(
        _same_distribution(neutral, neutral.combine(logits, 1), logits[0]),
        f"at {parameters} the scores must equal the reference's scores under the mask, but they do not.",
    )


def _check_reference_decides(strategy: Strategy, count: int) -> None:
    """Checks that rows of `reference_decides` keep their distribution if the reference replaces all other branches."""
    if strategy.traits.keeps_state or strategy.traits.reads_early_exits:
        return
    for scale in (0.3, 3.0, 30.0):
        logits = random_logits(count, scale=scale)
        reference_decides = strategy.reference_decides(logits[0])
        if reference_decides is None:
            continue
        require(
            tuple(reference_decides.shape) == (ROWS,),
            f"reference_decides() returned shape {tuple(reference_decides.shape)}, not [B].",
        )
        reference_only = logits[:1].expand(count, -1, -1)
        distribution, without_branches = (
            apply_mask(strategy, strategy.combine(z, 1), z[0]).softmax(-1)[reference_decides]
            for z in (logits, reference_only)
        )
        require(
            _same(distribution, without_branches),
            "reference_decides() is true for rows whose distribution the other branches do change.",
        )


def _same_distribution(strategy: Strategy, combined: Tensor, reference: Tensor) -> bool:
    """Whether scores decode as the reference, under the mask and without the tokens that the scores rule out."""
    is_out = combined == -float("inf")
    expected = apply_mask(strategy, reference.masked_fill(is_out, -float("inf")), reference)
    return _same(apply_mask(strategy, combined, reference).softmax(-1), expected.softmax(-1))


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE))
