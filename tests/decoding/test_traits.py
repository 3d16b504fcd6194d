"""Traits: wrappers forward those of the strategy they wrap, and misspelled members are errors."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Annotated, ClassVar

import pytest
import torch

from decoding.arms.wrapper import StrategyWrapper
from decoding.base import TRAITS, Strategy, Traits
from decoding.controls.other_methods import OLM, MoreDemonstrations, SelfConsistency
from decoding.controls.recombinations import MaskOnly
from decoding.strategies.vcd import VCD
from icl.errors import ConfigError
from icl.registry import NestedComponent, entries, resolve
from tests.decoding.test_strategies import ALL, made

OVERRIDES: dict[str, dict[str, object]] = {
    "chasd": {"is_gated": True},
    "entropy_matched": {"is_control": True, "preserves_argmax": True},
    "gaussian_proxy": {"is_control": True, "preserves_argmax": False, "draws_random_numbers": True},
    "mask_only": {"is_control": True, "preserves_argmax": True},
    "no_image": {"is_control": True, "preserves_argmax": False},
    "other_answers": {"is_control": True, "preserves_argmax": False},
    "plain_average": {"is_control": True, "preserves_argmax": False},
    "plus": {"is_control": True, "preserves_argmax": False},
    "random_gate": {
        "is_control": True,
        "preserves_argmax": False,
        "draws_random_numbers": True,
        "masks_in_combine": True,
    },
    "shuffled_negative": {"is_control": True, "preserves_argmax": False, "reads_paired_prompt": True},
    "sign_flip": {"is_control": True, "preserves_argmax": False},
    "temperature_matched": {"is_control": True, "preserves_argmax": True},
    "unrelated_image": {"is_control": True, "preserves_argmax": False},
}
"""wrapper -> the traits that it sets. It forwards all others."""

BRANCH_TRAITS = ("draws_random_numbers", "keeps_state", "combines_notes", "reads_early_exits")
"""Traits of reading the other branches, which a control drops if it reads the reference alone."""


def wrapper_classes() -> dict[str, type[StrategyWrapper]]:
    classes = {name: resolve("strategy", name) for name in entries("strategy")}
    return {name: cls for name, cls in classes.items() if issubclass(cls, StrategyWrapper)}


def pairs() -> Iterator[tuple[str, str, StrategyWrapper]]:
    """Every wrapper around every strategy that it accepts."""
    for name, cls in wrapper_classes().items():
        for inner in ALL:
            try:
                yield name, inner, cls(made(inner))  # type: ignore[call-arg]
            except ConfigError:  # this wrapper is not defined for this strategy
                continue


def test_every_wrapper_is_covered() -> None:
    assert set(OVERRIDES) == set(wrapper_classes())
    assert {name for name, _, _ in pairs()} == set(OVERRIDES)


@pytest.mark.parametrize("wrapper", OVERRIDES)
def test_a_wrapper_forwards_every_trait_that_it_does_not_set(wrapper: str) -> None:
    for _, inner, strategy in (pair for pair in pairs() if pair[0] == wrapper):
        expected = replace(strategy.inner.traits, needs=strategy.inner.traits.needs | {"logits"})
        if not getattr(strategy, "needs_all_branches", True):
            expected = replace(expected, **dict.fromkeys(BRANCH_TRAITS, False))
        assert strategy.traits == replace(expected, **OVERRIDES[wrapper]), inner  # type: ignore[arg-type]


def test_controls_keep_how_options_are_scored_and_how_many_answers_are_sampled() -> None:
    assert MaskOnly(OLM()).traits.sums_first_tokens
    assert MaskOnly(SelfConsistency(3)).traits.num_samples == 3
    assert MaskOnly(MoreDemonstrations(2)).traits.demonstration_factor == 2


@dataclass(frozen=True)
class Outer(StrategyWrapper):
    """A user's wrapper that changes nothing."""

    of: Annotated[Strategy, NestedComponent("strategy")]

    @property
    def inner(self) -> Strategy:
        return self.of

    def combine_stateful(self, logits, step, states):  # type: ignore[no-untyped-def]
        return self.of.combine_stateful(logits, step, states)


@pytest.mark.parametrize("trait", [f.name for f in fields(Traits) if f.name != "needs"])
def test_a_users_wrapper_forwards_each_trait(trait: str) -> None:
    default = getattr(Traits(), trait)
    value: object = "greedy" if isinstance(default, str) else True if default is False else 7
    value = ("Is {answer} right?", "Yes") if trait == "judge" else value

    @dataclass(frozen=True)
    class Inner(Strategy):
        traits = Traits(**{trait: value})

    assert getattr(Outer(Inner()).traits, trait) == value


def test_a_misspelled_method_is_an_error_at_class_creation() -> None:
    with pytest.raises(TypeError, match=r"Blind.brances is not a member of Strategy. Did you mean 'branches'\?"):

        class Blind(Strategy):
            def brances(self, prompt):  # type: ignore[no-untyped-def]
                return prompt, prompt


def test_a_misspelled_trait_is_an_error_at_class_creation() -> None:
    with pytest.raises(
        TypeError, match=r"Masking.masks_in_combin is not .* Did you mean the trait 'masks_in_combine', as in traits"
    ):

        class Masking(Strategy):
            masks_in_combin: ClassVar[bool] = True

    with pytest.raises(TypeError, match="masks_in_combin"):
        Traits(masks_in_combin=True)  # type: ignore[call-arg]


@pytest.mark.parametrize("trait", TRAITS)
def test_a_trait_as_a_class_attribute_is_an_error_at_class_creation(trait: str) -> None:
    with pytest.raises(TypeError, match=rf"Did you mean the trait '{trait}', as in traits = Traits\({trait}="):
        type("Flagged", (Strategy,), {trait: True})


def test_a_parameter_that_hides_a_method_is_an_error_at_class_creation() -> None:
    with pytest.raises(TypeError, match=r"the parameter 'mask' hides the method Strategy.mask"):

        @dataclass(frozen=True)
        class Masked(Strategy):
            mask: str = "none"


def test_parameters_helpers_and_the_methods_of_other_bases_are_free() -> None:
    class Mixin:
        def weight(self) -> float:
            return 1.0

    @dataclass(frozen=True)
    class Free(Mixin, VCD):
        weight: float = 1.0  # nearly a member, but a parameter
        maskk: int = 0

        def _combined(self) -> None: ...
        def schedule(self) -> None: ...
        def weight_of(self) -> float:
            return self.weight

    assert Free().weight == 1.0


def test_a_strategy_in_a_few_lines_needs_no_traits() -> None:
    @dataclass(frozen=True)
    class Blind(Strategy):
        """Contrast with the prompt with blank images."""

        alpha: float = 1.0

        def branches(self, prompt):  # type: ignore[no-untyped-def]
            return prompt, prompt

        def combine(self, logits, step):  # type: ignore[no-untyped-def]
            original, blank = logits
            return (1 + self.alpha) * original - self.alpha * blank

    assert Blind().traits == Traits()
    assert torch.equal(Blind(0.0).combine(torch.ones(2, 1, 3), 0), torch.ones(1, 3))
