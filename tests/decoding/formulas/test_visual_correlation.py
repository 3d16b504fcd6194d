import torch

from decoding.formulas.visual_correlation import cal_weights

SCORES = torch.tensor([[0.0, 9.0, 2.0, 3.0], [5.0, 7.0, -2.0, 8.0]])
COUNTS = torch.tensor([[True, True, False, True], [False, True, True, True]])


def test_weights_are_bounded_scores_averaged_over_neighbors() -> None:
    """Row 0: (1, 5 | 3): means 3, 3, 3. Row 1: (5, 1, 5): means 3, 11/3, 3."""
    expected = torch.tensor([[1, 1, 0, 1], [0, 9, 11, 9]]) / torch.tensor([[3], [29]])
    torch.testing.assert_close(cal_weights(SCORES, COUNTS), expected)


def test_a_row_does_not_depend_on_the_others() -> None:
    alone = torch.cat([cal_weights(SCORES[i : i + 1], COUNTS[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(cal_weights(SCORES, COUNTS), alone)
    longer = cal_weights(torch.cat([SCORES, SCORES], 1), torch.cat([COUNTS, torch.zeros_like(COUNTS)], 1))
    torch.testing.assert_close(longer[:, :4], alone)


def test_a_row_without_tokens_has_no_weights() -> None:
    assert not cal_weights(SCORES, torch.zeros_like(COUNTS)).any()
