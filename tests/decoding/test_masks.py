import torch
from hypothesis import given
from hypothesis import strategies as st

from decoding.masks import plausible


@given(
    beta=st.floats(1e-6, 1),
    shift=st.floats(-50, 50),
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.0, 0.5, 40.0]),
)
def test_survivors_are_a_share_of_the_best_probability(beta: float, shift: float, seed: int, scale: float) -> None:
    logits = scale * torch.randn(3, 17, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    mask = plausible(logits + shift, beta)
    assert mask is not None
    chances = logits.double().softmax(-1)
    share = chances / chances.amax(-1, keepdim=True)
    clear = (share.log() - torch.tensor(beta, dtype=torch.float64).log()).abs() > 1e-4
    assert torch.equal(mask[clear], (share >= beta)[clear])
    assert mask.gather(-1, (logits + shift).argmax(-1, keepdim=True)).all()


def test_beta_zero_masks_nothing() -> None:
    assert plausible(torch.randn(2, 5), 0.0) is None


def test_beta_one_keeps_the_best_token_and_its_ties() -> None:
    mask = plausible(torch.tensor([[1.0, 3.0, 3.0, 2.0]]), 1.0)
    assert mask is not None
    assert mask.tolist() == [[False, True, True, False]]
