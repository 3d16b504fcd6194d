import pytest
import torch

from decoding.arms.fitting import fit_mixture_weights, fit_option_bias
from icl.errors import DataError


def hits(scores: torch.Tensor, bias: tuple[float, ...], gold: list[int]) -> int:
    return int(((scores + torch.tensor(bias)).argmax(-1) == torch.tensor(gold)).sum())


def test_a_bias_between_the_thresholds_by_hand() -> None:
    """Option 1 wins query i from a bias of 1, 2 and 3 on; the first is option 0, the others 1: between 1 and 2."""
    scores = torch.tensor([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    assert fit_option_bias(scores, [0, 0, 1]) == (0.0, 1.5)
    assert fit_option_bias(scores, [0, 0, 0]) == (0.0, 0.0)  # right already: nothing moves
    assert fit_option_bias(scores, [0, 1, 1]) == (0.0, 2.5)


def test_a_bias_of_several_options_is_at_least_as_good_as_none() -> None:
    generator = torch.Generator().manual_seed(0)
    gold = torch.randint(0, 4, (300,), generator=generator).tolist()
    scores = torch.randn(300, 4, generator=generator)
    scores[torch.arange(300), gold] += 1.5
    shifted = scores + torch.tensor([0.0, 2.0, -1.0, 1.0])
    bias = fit_option_bias(shifted, gold)
    assert hits(shifted, (0.0,) * 4, gold) + 30 < hits(shifted, bias, gold)
    assert hits(shifted, bias, gold) >= hits(scores, (0.0,) * 4, gold) - 3


def test_the_informative_group_gets_the_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    gold = torch.randint(0, 3, (200,), generator=generator).tolist()
    knows, noise = torch.randn(2, 200, 3, generator=generator)
    knows[torch.arange(200), gold] += 2.0
    against = -knows
    weights = fit_mixture_weights(torch.stack([knows, noise, against], 1).log_softmax(-1), gold)
    assert weights[0] > 0.3
    assert abs(weights[1]) < 0.2
    assert weights[2] < 0  # an anti-expert


def test_right_answers_that_do_not_match_the_scores_are_refused() -> None:
    with pytest.raises(DataError, match="one right answer per query"):
        fit_option_bias(torch.zeros(2, 3), [0])
    with pytest.raises(DataError, match="0 to 2"):
        fit_mixture_weights(torch.zeros(1, 2, 3), [3])
