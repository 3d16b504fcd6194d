"""The hypernetwork of MoICL: weights and fit against plain floats, its controls, and what it refuses."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from decoding.arms.arm import Arm, default_controls, parse_arm
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest
from decoding.interventions.vector_file import write_vector_file
from decoding.prompt_edits import keep_demonstrations
from decoding.strategies.moicl_hypernetwork import MoICLHypernetwork, fit_network, network_weights
from icl.errors import ConfigError, DataError, PlanError
from tests.decoding.prompts import prompt
from tests.decoding.toy import Row, Toy


@dataclass(frozen=True)
class Directions:
    """An embedder whose vector of a demonstration is the direction of its number."""

    digest = "directions"

    def embed_images(self, items: Any) -> np.ndarray:
        angles = np.array([int(item.id) for item in items], dtype=float)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def embed_texts(self, texts: Any) -> np.ndarray:
        rows = np.array([[1 + text.count("a"), len(text)] for text in texts], dtype=float)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


TENSORS = {
    "hidden": torch.tensor([[0.9, -0.4], [0.2, 1.3], [-1.0, 0.5]]),
    "bias": torch.tensor([0.1, -0.2, 0.3]),
    "output": torch.tensor([2.5, -0.7, 0.4]),
}


def written(folder: Path, tensors: dict[str, torch.Tensor] | None = None, method: str = "moicl_hypernetwork") -> str:
    path = folder / "network.safetensors"
    report = {"embedder": "directions", "loss": 0.1}
    parameters = {"groups": 2, "features": "images"}
    write_vector_file(path, method, tensors=tensors or TENSORS, parameters=parameters, record={}, report=report)
    return str(path)


def strategy_of(folder: Path, **parameters: Any) -> MoICLHypernetwork:
    return MoICLHypernetwork(
        **{"fitted": written(folder), "embedder": Directions(), "features": "images", "groups": 2, **parameters}
    )


def weights_by_hand(groups: list[list[int]]) -> list[float]:
    outputs = []
    for group in groups:
        x = [sum(trig(i) for i in group) / len(group) for trig in (math.cos, math.sin)]
        units = zip(TENSORS["hidden"].tolist(), TENSORS["bias"].tolist(), TENSORS["output"].tolist(), strict=True)
        outputs.append(sum(b * math.tanh(sum(u * v for u, v in zip(row, x, strict=True)) + a) for row, a, b in units))
    mean = sum(outputs) / len(outputs)
    return [(1 + one - mean) / len(outputs) for one in outputs]


def test_each_group_has_the_weight_of_its_demonstrations(tmp_path: Path) -> None:
    for count, shots, groups in ((2, 5, [[0, 1], [2, 3, 4]]), (0, 3, [[0], [1], [2]])):
        strategy = strategy_of(tmp_path, groups=count)
        ((numbers, weights),) = strategy.prepare([prompt(1, shots=shots)], generate=None)  # type: ignore[misc]
        assert [list(one) for one in numbers] == groups
        assert weights == pytest.approx(weights_by_hand(groups), abs=1e-6)
        assert sum(weights) == pytest.approx(1, abs=1e-6)
    assert min(weights_by_hand([[0], [1], [2]])) < 0, "an anti-expert"


def test_the_place_of_a_group_does_not_matter(tmp_path: Path) -> None:
    x = torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(0))
    order = [4, 0, 5, 2, 1, 3]
    assert torch.allclose(network_weights(x[:, order], **TENSORS), network_weights(x, **TENSORS)[:, order], atol=1e-6)


def test_without_a_file_all_groups_have_the_same_weight() -> None:
    ((_, weights),) = MoICLHypernetwork(groups=2).prepare([prompt(1, shots=4)], generate=None)  # type: ignore[misc]
    assert weights == [0.5, 0.5]


def test_the_engine_combines_each_prompt_with_its_own_weights(tmp_path: Path) -> None:
    """A batch of answers and of option scores equals a slow decode of each prompt alone."""
    model, arm = Toy(), Arm(strategy_of(tmp_path))
    prompts = [prompt(number, shots=shots) for number, shots in ((1, 4), (2, 3), (3, 5))]
    answers = run_requests(model, [DecodingRequest(one, arm, max_new_tokens=4) for one in prompts])
    options = ("w3 w5", "w4")
    scored = run_requests(model, [DecodingRequest(one, arm, options, answer_mode="options") for one in prompts])
    for one, answer, scores in zip(prompts, answers, scored, strict=True):
        count = len({part.demo for part in one.parts()} - {None})
        groups = [list(range(count // 2)), list(range(count // 2, count))]
        weights = torch.tensor(weights_by_hand(groups))
        rows = [keep_demonstrations(one, group) for group in groups]

        def logprobs(tokens: list[int], rows: list[Any] = rows, weights: torch.Tensor = weights) -> torch.Tensor:
            logits = model.logits_of([Row(row, tokens) for row in rows])
            return (weights[:, None] * logits.log_softmax(-1)).sum(0).log_softmax(-1)

        tokens: list[int] = []
        for _ in answer.tokens:
            tokens.append(int(logprobs(tokens).argmax()))
        assert answer.tokens == tuple(tokens)
        for option in options:
            ids = [int(word[1:]) for word in option.split()]
            total = sum(float(logprobs(ids[:i])[token]) for i, token in enumerate(ids))
            assert scores.option_scores[option] == pytest.approx(total, abs=1e-4)


def slow_fit(x: np.ndarray, logprobs: np.ndarray, gold: list[int], settings: MoICLHypernetwork) -> dict[str, Any]:
    """The fit with gradients by hand, in double precision."""
    queries, groups, width = x.shape
    mean = x.reshape(-1, width).mean(0)
    scale = np.sqrt(((x - mean) ** 2).mean())
    z = (x - mean) / scale
    start = torch.randn(settings.hidden, width, generator=torch.Generator().manual_seed(settings.seed)) / width**0.5
    values = [start.double().numpy(), np.zeros(settings.hidden), np.zeros(settings.hidden), np.zeros(())]
    first, second = [np.zeros_like(one) for one in values], [np.zeros_like(one) for one in values]
    for t in range(1, settings.steps + 1):
        hidden, bias, output, log_scale = values
        gradients = [np.zeros_like(one) for one in values]
        for q in range(queries):
            units = [np.tanh(hidden @ z[q, i] + bias) for i in range(groups)]
            outputs = np.array([one @ output for one in units])
            weights = (1 + outputs - outputs.mean()) / groups
            mixed = np.exp(log_scale) * sum(weights[i] * logprobs[q, i] for i in range(groups))
            by_score = np.exp(mixed) / np.exp(mixed).sum()
            by_score[gold[q]] -= 1
            by_score /= queries
            gradients[3] = gradients[3] + by_score @ mixed
            by_weight = np.array([np.exp(log_scale) * by_score @ logprobs[q, i] for i in range(groups)])
            by_output = (by_weight - by_weight.mean()) / groups
            for i in range(groups):
                gradients[2] = gradients[2] + by_output[i] * units[i]
                inner = by_output[i] * output * (1 - units[i] ** 2)
                gradients[1] = gradients[1] + inner
                gradients[0] = gradients[0] + np.outer(inner, z[q, i])
        for k, gradient in enumerate(gradients):
            values[k] = values[k] * (1 - settings.rate * settings.decay)
            first[k] = 0.9 * first[k] + 0.1 * gradient
            second[k] = 0.999 * second[k] + 0.001 * gradient**2
            step = first[k] / (1 - 0.9**t) / (np.sqrt(second[k] / (1 - 0.999**t)) + 1e-8)
            values[k] = values[k] - settings.rate * step
    hidden, bias, output, _ = values
    return {"hidden": hidden / scale, "bias": bias - hidden @ mean / scale, "output": output}


def split(queries: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Features [queries, 4, 3], option scores and right answers. The first feature shows which group errs."""
    generator = torch.Generator().manual_seed(seed)
    gold = torch.randint(0, 3, (queries,), generator=generator)
    x = torch.randn(queries, 4, 3, generator=generator)
    scores = torch.randn(queries, 4, 3, generator=generator)
    wrong = (gold[:, None] + 1) % 3
    target = torch.where(x[..., 0] > 0, gold[:, None].expand(-1, 4), wrong.expand(-1, 4))
    scores.scatter_add_(2, target[..., None], torch.full((queries, 4, 1), 3.0))
    return x + torch.tensor([5.0, 0.0, 0.0]), scores.log_softmax(-1), gold.tolist()


def test_a_fit_equals_one_with_gradients_by_hand() -> None:
    x, logprobs, gold = split(12, 0)
    settings = MoICLHypernetwork(hidden=3, steps=25)
    tensors, _ = fit_network(x, logprobs, gold, settings)
    slow = slow_fit(x.double().numpy(), logprobs.double().numpy(), gold, settings)
    for name, tensor in tensors.items():
        assert tensor.numpy() == pytest.approx(slow[name], abs=1e-4)


def test_a_fitted_network_knows_which_new_groups_err() -> None:
    """Of queries and groups that the fit has not read, also if there are more of them."""
    tensors, loss = fit_network(*split(150, 1), MoICLHypernetwork())
    x, logprobs, gold = split(150, 2)

    def accuracy(weights: torch.Tensor) -> float:
        return float(((weights[..., None] * logprobs).sum(1).argmax(-1) == torch.tensor(gold)).float().mean())

    weights = network_weights(x, **tensors)
    assert accuracy(weights) > accuracy(torch.ones(150, 4)) + 0.3
    assert accuracy(weights.roll(1, 1)) < accuracy(torch.ones(150, 4)) + 0.05, (
        "the weights of other groups are worth nothing"
    )
    assert loss < 0.3
    many = network_weights(x.reshape(75, 8, 3), **tensors)
    good = x.reshape(75, 8, 3)[..., 0] > 5
    assert float(many[good].mean()) > 0.15
    assert float(many[~good].mean()) < 0.05


def test_the_fit_reads_the_features_of_the_prompts() -> None:
    strategy = MoICLHypernetwork(embedder=Directions(), features="images", groups=2, hidden=2, steps=5)
    prompts = [prompt(number, shots=4) for number in range(6)]
    _, logprobs, gold = split(6, 3)
    fitted = strategy.fit_on_prompts(logprobs[:, :2], gold, prompts)
    angles = np.array([[0.0, 1.0], [2.0, 3.0]])
    rows = np.stack([np.cos(angles).mean(1), np.sin(angles).mean(1)], axis=1)
    x = torch.from_numpy(rows).float().expand(6, -1, -1)
    expected, loss = fit_network(x, logprobs[:, :2], gold, strategy)
    assert all(torch.allclose(fitted.tensors[name], one, atol=1e-3) for name, one in expected.items())
    assert fitted.report == {"embedder": "directions", "loss": pytest.approx(loss, abs=1e-6)}
    assert {"groups": 2, "features": "images", "hidden": 2}.items() <= fitted.parameters.items()
    with pytest.raises(DataError, match=r"prompts have 1 or 2 groups of demonstrations, and the fit needs 2"):
        strategy.fit_on_prompts(logprobs[:, :2], gold, [*prompts[:5], prompt(9, shots=1)])
    with pytest.raises(PlanError, match="reads the demonstrations of a group, and a prompt has none"):
        strategy.fit_on_prompts(logprobs[:, :1], gold, [prompt(9, shots=0)] * 6)
    with pytest.raises(ConfigError, match="there are none at 0 shots"):
        strategy.calibration_strategies(0)


def test_controls_have_the_weights_of_other_groups_or_of_a_random_network(tmp_path: Path) -> None:
    strategy = strategy_of(tmp_path, groups=0)
    for number in range(5):
        one = prompt(number, shots=4)
        own, permuted, random, other = (
            replace(strategy, control=control, draw=draw).groups_and_weights(one)[1]
            for control, draw in (("none", 0), ("permuted", 0), ("random", 0), ("random", 1))
        )
        assert sorted(permuted) == sorted(own)
        assert all(a != b for a, b in zip(own, permuted, strict=True))
        assert sum(random) == pytest.approx(1, abs=1e-5)
        assert random != other
    controls = [one.strategy for one in default_controls(Arm(strategy))]
    assert [one for one in controls if isinstance(one, MoICLHypernetwork)] == [replace(strategy, control="permuted")]


def test_a_file_gives_its_parameters_and_its_source(tmp_path: Path) -> None:
    path = written(tmp_path)
    arm = parse_arm({"name": "moicl_hypernetwork", "fitted": path, "features": "texts"})
    assert isinstance(arm.strategy, MoICLHypernetwork)
    assert (arm.strategy.groups, arm.strategy.features, arm.strategy.fitted) == (2, "texts", path)
    assert [source.file for source in arm.parameter_sources] == [path]
    assert "code=" not in arm.label
    before = arm.digest
    written(tmp_path, {name: 2 * one for name, one in TENSORS.items()})
    assert parse_arm({"name": "moicl_hypernetwork", "fitted": path, "features": "texts"}).digest != before
    with pytest.raises(ConfigError, match=r"the network .* has changed"):
        arm.strategy.preflight()


def test_files_that_do_not_fit_the_strategy_are_sentences(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Other(Directions):
        digest = "other vectors"

    strategy = strategy_of(tmp_path)
    whole = prompt(1, shots=4)
    with pytest.raises(PlanError, match=r"was fitted with another embedder \(directions, not other vectors\)"):
        replace(strategy, embedder=Other()).preflight()
    with pytest.raises(PlanError, match="reads vectors with 2 numbers, and features: both gives 4"):
        replace(strategy, features="both").groups_and_weights(whole)
    with pytest.raises(PlanError, match="moicl_hypernetwork embeds images, and demonstration 0 has none"):
        strategy.groups_and_weights(whole.without_images("demos"))
    with pytest.raises(ConfigError, match=r"there is no file nowhere\.safetensors"):
        MoICLHypernetwork(fitted="nowhere.safetensors").preflight()
    with pytest.raises(ConfigError, match="`fitted` names no file"):
        MoICLHypernetwork(control="permuted")
    with pytest.raises(ConfigError, match="has parameters of 'task_vector', not of 'moicl_hypernetwork'"):
        parse_arm({"name": "moicl_hypernetwork", "fitted": written(tmp_path, method="task_vector")})
    with pytest.raises(ConfigError, match="has parameters of 'moicl_hypernetwork', not of 'moicl'"):
        parse_arm({"name": "moicl", "fitted": written(tmp_path)})
