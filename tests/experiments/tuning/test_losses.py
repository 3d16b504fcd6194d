"""Losses of tuning, against the same numbers computed another way."""

import math

import pytest
import torch

from experiments.tuning.objectives import (
    IGNORED,
    answer_loss,
    dpo_loss,
    learning_rate,
    preference_loss,
    sequence_logprobs,
)

LOGITS = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]], [[1.0, 1.0, 1.0], [0.0, 2.0, 0.0]]])
TARGETS = torch.tensor([[IGNORED, 0], [2, 1]])


def test_the_loss_is_the_sum_over_answer_tokens() -> None:
    logprobs = LOGITS.log_softmax(-1)
    by_hand = -(logprobs[0, 1, 0] + logprobs[1, 0, 2] + logprobs[1, 1, 1])
    loss, count = answer_loss(LOGITS, TARGETS)
    assert count == 3
    assert float(loss) == pytest.approx(float(by_hand))
    assert sequence_logprobs(LOGITS, TARGETS).tolist() == pytest.approx(
        [float(logprobs[0, 1, 0]), float(logprobs[1, 0, 2] + logprobs[1, 1, 1])]
    )


def test_positions_outside_answers_have_no_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    answer_loss(logits, TARGETS)[0].backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[0, 0].eq(0).all()
    assert logits.grad[0, 1].ne(0).all()


def test_a_pair_that_the_base_model_scores_alike_costs_log_two() -> None:
    base = torch.tensor([-1.0, -2.0])
    assert float(dpo_loss(base, base, base, base, 0.3)) == pytest.approx(2 * math.log(2))
    better = dpo_loss(base + 1, base - 1, base, base, 0.5)
    assert float(better) == pytest.approx(2 * math.log1p(math.exp(-1.0)))
    assert float(dpo_loss(base - 1, base + 1, base, base, 0.5)) > float(better)


def test_re_align_is_dpo_and_the_preference_for_the_own_image() -> None:
    base = torch.tensor([[-1.0, -2.0], [-3.0, -1.0], [-2.0, -2.5]])  # right, wrong, right about another image
    tuned = base + torch.tensor([[1.0, 0.5], [-1.0, 0.0], [0.25, -0.5]])
    sigmoid = [(1 + math.exp(-0.3 * margin)) ** -1 for margin in (2.0, 0.5, 0.75, 1.0)]
    assert float(preference_loss(tuned, base, 0.3)) == pytest.approx(-sum(map(math.log, sigmoid)))
    pair = dpo_loss(tuned[0], tuned[1], base[0], base[1], 0.3)
    assert torch.equal(preference_loss(tuned[:2], base[:2], 0.3), pair)


def test_the_rate_rises_and_falls_to_zero() -> None:
    rates = [learning_rate(step, 10, 1.0, 0.2) for step in range(11)]
    assert rates == pytest.approx([0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0])
