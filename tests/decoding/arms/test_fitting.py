import json
import os
from collections.abc import Callable
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
