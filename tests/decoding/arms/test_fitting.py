import json
import math
import os
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
import torch

from decoding.arms.arm import parse_arm
from decoding.arms.fitting import (
    estimate_option_prior,
    fit_mixture_weights,
    fit_option_bias,
    read_parameter_file,
    write_parameter_file,
)
from decoding.controls.constant_bias import ConstantBias
from decoding.strategies.several_prompts import MoICL
from icl.errors import ConfigError, DataError


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


def slow_masked_fit(
    scores: list[list[list[float]]], gold: list[int], start: list[float], top_k: int, step: float
) -> tuple[list[float], list[int]]:
    """I-MLE and Adam in plain floats, with the gradient of the cross-entropy by hand. Returns weights and the mask."""
    groups = len(start)

    def largest(values: list[float]) -> list[int]:
        best = sorted(range(groups), key=lambda i: -values[i])[:top_k]
        return [int(i in best) for i in range(groups)]

    values = [[1 / groups] * groups, list(start)]  # weights, coefficients
    first, second = [[[0.0] * groups for _ in values] for _ in range(2)]
    for t in range(1, 201):
        mask = largest(values[1])
        by_mixture = [0.0] * groups
        for rows, right in zip(scores, gold, strict=True):
            mixed = [sum(values[0][g] * mask[g] * rows[g][o] for g in range(groups)) for o in range(len(rows[0]))]
            total = sum(math.exp(one) for one in mixed)
            for g in range(groups):
                expected = sum(math.exp(one) / total * rows[g][o] for o, one in enumerate(mixed))
                by_mixture[g] += (expected - rows[g][right]) / len(scores)
        by_mask = [values[0][g] * by_mixture[g] for g in range(groups)]
        target = largest([values[1][g] - step * by_mask[g] for g in range(groups)])
        gradients = [
            [by_mixture[g] * mask[g] for g in range(groups)],
            [float(mask[g] - target[g]) for g in range(groups)],
        ]
        for i, gradient in enumerate(gradients):
            for g, one in enumerate(gradient):
                first[i][g] = 0.9 * first[i][g] + 0.1 * one
                second[i][g] = 0.999 * second[i][g] + 0.001 * one**2
                corrected = math.sqrt(second[i][g] / (1 - 0.999**t)) + 1e-8
                values[i][g] -= 0.1 * first[i][g] / (1 - 0.9**t) / corrected
    mask = largest(values[1])
    return [weight * one for weight, one in zip(values[0], mask, strict=True)], mask


def scores_of_groups(strengths: list[float], seed: int) -> tuple[torch.Tensor, list[int]]:
    """Option scores [24, groups, 3] in which a group prefers the right option by its strength."""
    generator = torch.Generator().manual_seed(seed)
    gold = torch.randint(0, 3, (24,), generator=generator).tolist()
    scores = torch.randn(24, len(strengths), 3, generator=generator)
    scores[torch.arange(24), :, gold] += torch.tensor(strengths)
    return scores.log_softmax(-1), gold


@pytest.mark.parametrize("step", [1.0, 0.0])
def test_a_masked_fit_equals_one_in_plain_floats(step: float) -> None:
    scores, gold = scores_of_groups([0.0, 2.0, 0.2, 0.0, 2.5, 0.1], 0)
    start = [0.006, 0.001, 0.005, 0.004, 0.002, 0.003]
    slow, mask = slow_masked_fit(scores.tolist(), gold, start, 2, step)
    assert fit_mixture_weights(scores, gold, 2, start, step) == pytest.approx(slow, abs=1e-4)
    assert mask == ([0, 1, 0, 0, 1, 0] if step else [1, 0, 1, 0, 0, 0])


def test_a_learned_mask_has_the_groups_of_the_best_pair() -> None:
    """Of all 10 pairs, each with its own fitted weights, the learned one has the smallest loss."""
    scores, gold = scores_of_groups([0.0, 1.5, 0.2, 2.5, 0.1], 1)
    strategy = MoICL(top_k=2, selection="learned").fit(scores, gold)

    def loss(pair: tuple[int, ...]) -> float:
        weights = torch.tensor(fit_mixture_weights(scores[:, pair], gold))
        mixture = (weights[:, None] * scores[:, pair]).sum(1)
        return float(torch.nn.functional.cross_entropy(mixture, torch.tensor(gold)))

    best = min(combinations(range(5), 2), key=loss)
    assert tuple(i for i, weight in enumerate(strategy.group_weights) if weight) == best == (1, 3)
    assert strategy.effective_weights(5) == strategy.group_weights


def test_random_masks_have_their_size_and_depend_on_the_seed_alone() -> None:
    scores, gold = scores_of_groups([0.5, 0.5, 0.5, 0.5, 0.5, 0.5], 2)
    other, other_gold = scores_of_groups([0.0, 3.0, 0.0, 0.0, 0.0, 3.0], 3)
    masks = []
    for seed in range(4):
        strategy = MoICL(top_k=2, selection="random", seed=seed)
        fits = [strategy.fit(scores, gold), strategy.fit(other, other_gold)]
        one, same = ({i for i, weight in enumerate(fit.group_weights) if weight} for fit in fits)
        assert one == same
        masks.append(frozenset(one))
    assert {len(mask) for mask in masks} == {2}
    assert len(set(masks)) > 1


def test_a_mask_without_a_size_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"selection: learned chooses groups. Set top_k"):
        MoICL(selection="learned")


def test_right_answers_that_do_not_match_the_scores_are_refused() -> None:
    with pytest.raises(DataError, match="one right answer per query"):
        fit_option_bias(torch.zeros(2, 3), [0])
    with pytest.raises(DataError, match="0 to 2"):
        fit_mixture_weights(torch.zeros(1, 2, 3), [3])


def write(folder: Path, **changes: object) -> str:
    write_parameter_file(ConstantBias((0.0, 1.5)), folder / "weights.json", {"task": "shapes"})
    content = json.loads((folder / "weights.json").read_text()) | changes
    (folder / "weights.json").write_text(json.dumps(content))
    return str(folder / "weights.json")


def test_a_parameter_file_is_read_back_with_its_source(tmp_path: Path) -> None:
    file = write(tmp_path)
    parameters, source = read_parameter_file(file, "constant_bias")
    assert parameters == {"biases": [0.0, 1.5]}
    assert (source.file, source.on) == (file, {"task": "shapes"})
    assert parse_arm({"name": "constant_bias", "fitted": file}).strategy == ConstantBias((0.0, 1.5))


def test_a_parameter_file_is_found_beside_the_config_and_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    with pytest.raises(ConfigError, match=r"there is no file weights.json \(looked in .*\)\. `icl fit` writes one"):
        read_parameter_file("weights.json", "constant_bias")
    monkeypatch.chdir(tmp_path)
    assert read_parameter_file("weights.json", "constant_bias")[0] == {"biases": [0.0, 1.5]}


def test_what_is_no_parameter_file_is_named(tmp_path: Path) -> None:
    file = write(tmp_path)
    with pytest.raises(ConfigError, match="has parameters of 'constant_bias', not of 'moicl'"):
        read_parameter_file(file, "moicl")
    with pytest.raises(ConfigError, match="is a directory, not a file"):
        read_parameter_file(str(tmp_path), "constant_bias")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="is a pipe, a device or a socket, not a file"):
        read_parameter_file(str(tmp_path / "pipe"), "constant_bias")
    with pytest.raises(ConfigError, match="has the format 'other'"):
        read_parameter_file(write(tmp_path, format="other"), "constant_bias")
    (tmp_path / "weights.json").write_text("[]")
    with pytest.raises(ConfigError, match="was not written by `icl fit`"):
        read_parameter_file(file, "constant_bias")


def test_a_prior_is_the_mean_probability_and_never_zero() -> None:
    logprobs = torch.tensor([[0.8, 0.2, 0.0], [0.4, 0.6, 0.0]]).log()
    prior = estimate_option_prior(logprobs)
    assert prior[:2] == pytest.approx((0.6, 0.4), abs=1e-6)
    assert 0 < prior[2] < 1e-300
    with pytest.raises(DataError, match="at least one query"):
        estimate_option_prior(torch.empty(0, 3))


@pytest.mark.parametrize("fit", [fit_option_bias, lambda scores, gold: fit_mixture_weights(scores[:, None], gold)])
def test_a_fit_refuses_answers_that_do_not_match_the_scores(fit: Callable[..., object]) -> None:
    scores = torch.zeros(2, 3)
    for gold in ([0], [0, 1, 2], []):
        with pytest.raises(DataError, match="one right answer per query"):
            fit(scores, gold)
    for gold in ([0, 3], [-1, 0]):
        with pytest.raises(DataError, match="index of the right option, 0 to 2"):
            fit(scores, gold)
    fit(scores, [0, 2])
