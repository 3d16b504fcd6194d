import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decoding.formulas.distributions import kth_plausibility_mask, plausibility_mask, typical_mask
from icl.errors import PlanError


@given(
    beta=st.floats(1e-6, 1),
    shift=st.floats(-50, 50),
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.0, 0.5, 40.0]),
)
def test_survivors_reach_a_proportion_of_the_best_probability(
    beta: float, shift: float, seed: int, scale: float
) -> None:
    logits = scale * torch.randn(3, 17, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    mask = plausibility_mask(logits + shift, beta)
    assert mask is not None
    chances = logits.double().softmax(-1)
    share = chances / chances.amax(-1, keepdim=True)
    clear = (share.log() - torch.tensor(beta, dtype=torch.float64).log()).abs() > 1e-4
    assert torch.equal(mask[clear], (share >= beta)[clear])
    assert mask.gather(-1, (logits + shift).argmax(-1, keepdim=True)).all()


def test_beta_zero_masks_nothing() -> None:
    assert plausibility_mask(torch.randn(2, 5), 0.0) is None


def test_beta_one_keeps_the_best_token_and_its_ties() -> None:
    mask = plausibility_mask(torch.tensor([[1.0, 3.0, 3.0, 2.0]]), 1.0)
    assert mask is not None
    assert mask.tolist() == [[False, True, True, False]]


def test_the_mask_is_relative_to_the_kth_best_token() -> None:
    """p = (.5, .3, .15, .05): a third of the second best is .1, of the best .167; all of the k-th leaves k."""
    z = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for alpha, k, survivors in ((1 / 3, 2, 3), (1 / 3, 1, 2), (1.0, 2, 2), (1.0, 3, 3)):
        mask = kth_plausibility_mask(z, alpha, k)
        assert mask is not None
        assert int(mask.sum()) == survivors
    assert kth_plausibility_mask(z, 0.0, 2) is None


def test_a_k_larger_than_the_vocabulary_is_an_error() -> None:
    with pytest.raises(PlanError, match="vocabulary of 4"):
        kth_plausibility_mask(torch.zeros(1, 4), 0.1, 5)


def test_an_entropy_band_by_hand() -> None:
    """p = (.7, .2, .1): H = .8018; surprises .357, 1.609, 2.303; .445, .808 and 1.501 from H. The best always stays."""
    z = torch.tensor([[0.7, 0.2, 0.1]]).log()
    assert typical_mask(z, 0.5).tolist() == [[True, False, False]]
    assert typical_mask(z, 0.9).tolist() == [[True, True, False]]
    assert typical_mask(z, 0.1).tolist() == [[True, False, False]]
