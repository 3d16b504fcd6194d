import math

import pytest
import torch

from decoding.arms.arm import parse_arm
from decoding.engine.decoding_step import combine_branches
from decoding.strategies.vcd import VCD
from icl.edits import DiffusionNoise
from icl.errors import ConfigError, PlanError
from icl.types import Part, Prompt, Turn
from tests.decoding.prompts import image, prompt

REFERENCE = torch.tensor([[2.0, 1.5, 1.0, -1.0]])
NOISED = torch.tensor([[2.5, 0.5, 1.0, -9.0]])


def test_scores_by_hand() -> None:
    """(1 + 1) z - 1 z': 2(2) - 2.5 = 1.5;  2(1.5) - .5 = 2.5;  2(1) - 1 = 1;  2(-1) + 9 = 7."""
    combined = VCD(alpha=1.0, beta=0.0).combine(torch.stack([REFERENCE, NOISED]), 0)
    assert combined.tolist() == [[1.5, 2.5, 1.0, 7.0]]


def test_the_mask_depends_on_the_reference_only() -> None:
    """exp(-3) = .0498 is below .1: the last token is masked, though its contrast is the largest."""
    combined, faults = combine_branches(VCD(alpha=1.0, beta=0.1), torch.stack([REFERENCE, NOISED]), 0)
    assert not faults
    assert combined.tolist() == [[1.5, 2.5, 1.0, -math.inf]]
    assert combined.argmax() == 1
    assert REFERENCE.argmax() == 0


@pytest.mark.parametrize(("beta", "survivors"), [(0.0, 4), (0.049, 4), (0.05, 3), (0.36, 3), (0.37, 2), (1.0, 1)])
def test_beta_is_relative_to_the_best_probability(beta: float, survivors: int) -> None:
    """The tokens have exp(0), exp(-.5) = .61, exp(-1) = .368 and exp(-3) = .0498 of the best one's probability."""
    combined, _ = combine_branches(VCD(beta=beta), torch.stack([REFERENCE, NOISED]), 0)
    assert int((combined > -math.inf).sum()) == survivors


def test_alpha_zero_is_the_reference_under_the_mask() -> None:
    combined, _ = combine_branches(VCD(alpha=0.0, beta=0.1), torch.stack([REFERENCE, NOISED]), 0)
    assert combined.tolist() == [[2.0, 1.5, 1.0, -math.inf]]


def test_only_the_query_image_is_noised_by_default() -> None:
    original, noised = VCD(noise_step=900).branches(prompt(1, shots=2))
    assert original == prompt(1, shots=2)
    assert [p.edits for p in noised.images[:2]] == [(), ()]
    (edit,) = noised.images[2].edits
    assert isinstance(edit, DiffusionNoise)
    assert edit.step == 900
    assert noised.text == original.text


def test_all_images_can_be_noised_independently() -> None:
    _, noised = VCD(images="all").branches(prompt(1, shots=2))
    edits = [edit for p in noised.images for edit in p.edits]
    assert len({edit.describe() for edit in edits}) == 3


def test_query_and_all_are_the_same_without_demonstrations() -> None:
    one, both = (VCD(images=which).branches(prompt(4, shots=0))[1] for which in ("query", "all"))
    assert one.digest == both.digest


def test_noise_depends_on_the_query() -> None:
    again = VCD().branches(prompt(1))[1]
    assert again.digest == VCD().branches(prompt(1))[1].digest
    other = VCD().branches(Prompt(prompt(1).turns, prompt(2).key))[1]
    assert other.digest != again.digest


def test_a_prompt_without_a_named_query_image_is_refused() -> None:
    nameless = Prompt((Turn("user", (Part(image(1)), Part("What is it?"))),))
    with pytest.raises(PlanError, match=r"query\.image"):
        VCD().branches(nameless)
    assert len(VCD(images="all").branches(nameless)[1].images[0].edits) == 1


def test_a_prompt_without_images_has_equal_branches() -> None:
    original, noised = VCD().branches(Prompt((Turn("user", (Part("Say yes.", "query.question"),)),)))
    assert original.digest == noised.digest


def test_presets_have_the_parameters_of_their_sources() -> None:
    values = {
        name: (VCD(**preset).alpha, VCD(**preset).beta, VCD(**preset).noise_step)  # type: ignore[arg-type]
        for name, preset in VCD.presets.items()
    }
    assert values == {
        "released": (1.0, 0.1, 500),
        "paper": (1.0, 0.1, 999),
        "sampler": (0.5, 0.1, 500),
        "pope": (1.0, 0.2, 500),
        "cd_rethink": (1.0, 0.2, 900),
    }


@pytest.mark.parametrize("bad", [{"alpha": -1}, {"beta": 1.5}, {"noise_step": 1000}, {"images": "demos"}])
def test_parameters_out_of_bounds_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        parse_arm({"name": "vcd", **bad})
