"""Lazy and gated contrasts on real architectures with random weights that are confident enough to skip contrasts."""

import os
from collections.abc import Callable, Sequence

import pytest
import tiny_models
import torch

from decoding.arms.arm import Arm, parse_arm
from decoding.engine.engine import run_requests
from decoding.engine.requests import ArmWork, Counters, DecodingRequest, LazyBranches
from icl.models.hf.model import HF
from icl.types import Generation, Prompt

SHARPER = 6.0
"""Of the output layer's weights: about half of the steps have one survivor then."""

NAMES = list(tiny_models.ARCHITECTURES)


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], HF]:
    made: dict[str, HF] = {}

    def get(name: str) -> HF:
        if name not in made:
            folder = tiny_models.save(name, tmp_path_factory.mktemp(name))
            model = HF(path=str(folder), dtype="float32", device="cpu")
            with torch.no_grad():
                model.engine.runner.model.get_output_embeddings().weight.mul_(SHARPER)
            made[name] = model
        return made[name]

    return get


def questions(count: int) -> list[Prompt]:
    """Prompts of different lengths and numbers of images, each about a different image."""
    colors = [[1, 2, 3], [4], [5, 1, 6, 2], [2, 7]]
    return [
        tiny_models.prompt([*colors[i % 4][:-1], 10 + i], "color" + "?" * (i % 5), query=f"q{i}", size=(56, 84))
        for i in range(count)
    ]


def arms() -> list[Arm]:
    nodes: list[object] = [
        {"name": "vcd", "noise_step": 999},
        {"name": "vcd", "alpha": 2.0, "sampling": {"temperature": 1.0}},
        {"name": "vcd", "images": "all", "noise_step": 999},
        {"name": "plain_average", "of": {"name": "vcd", "noise_step": 999}},
        {"name": "chasd", "threshold": 0.6, "method": {"name": "vcd", "noise_step": 999}},
        {"name": "chasd", "threshold": 0.6, "sampling": {"temperature": 1.0}},
        "cad",
    ]
    return [parse_arm(node) for node in nodes]


def tokens_of(
    model: HF, requests: Sequence[DecodingRequest], lazy_branches: LazyBranches, counters: Counters | None = None
) -> list[tuple[int, ...]]:
    answers = run_requests(model, requests, counters, lazy_branches=lazy_branches)
    assert all(isinstance(answer, Generation) for answer in answers), answers
    return [answer.tokens for answer in answers if isinstance(answer, Generation)]


@pytest.mark.parametrize("name", NAMES)
def test_lazy_and_gated_answers_equal_eager_ones(name: str, model_of: Callable[[str], HF]) -> None:
    model, counters = model_of(name), Counters()
    requests = [DecodingRequest(q, arm, max_new_tokens=5 + i % 4) for i, q in enumerate(questions(5)) for arm in arms()]
    lazy_tokens = tokens_of(model, requests, "always", counters)
    assert lazy_tokens == tokens_of(model, requests, "never")
    assert lazy_tokens[3 : 3 + len(arms())] != lazy_tokens[3:4] * len(arms())
    total = ArmWork()
    for work in counters.arms.values():
        total.lazy, total.gated = total.lazy + work.lazy, total.gated + work.gated
        total.tokens_saved += work.tokens_saved
        total.forwards_saved += work.forwards_saved
    assert total.lazy >= 15
    assert total.gated >= 5
    assert total.tokens_saved > 0
    assert total.forwards_saved > total.tokens_saved


def with_demonstrations(i: int) -> Prompt:
    """Prompts with different demonstrations of equal number and size, and a different query."""
    return tiny_models.prompt([10 * i + 1, 10 * i + 2, 10 * i + 3, 10 * i + 4], "color", query=f"d{i}", size=(56, 56))


@pytest.mark.parametrize("name", tiny_models.SAMPLE)
def test_a_lazy_contrast_reuses_the_cache_of_its_demonstrations(name: str, model_of: Callable[[str], HF]) -> None:
    model, counters = model_of(name), Counters()
    requests = [
        DecodingRequest(with_demonstrations(i), arm, max_new_tokens=8)
        for i in range(4)
        for arm in (
            parse_arm({"name": "vcd", "noise_step": 999}),
            parse_arm({"name": "vcd", "noise_step": 999, "sampling": {"temperature": 1.0}}),
        )
    ]
    want = tokens_of(model, requests, "never")
    before = model.counters()
    lazy_tokens = tokens_of(model, requests, "always", counters)
    work = {key: value - before[key] for key, value in model.counters().items()}
    references = sum(model.count_tokens(with_demonstrations(i)) for i in range(4))
    contrasts = work["prompt_tokens"] - references
    assert lazy_tokens == want
    assert contrasts > 0
    assert counters.prompts_prefilled > 4
    if name in ("gemma3", "qwen3_5"):  # a window that has forgotten, a state: they are read anew
        assert work["shared_prefix_tokens"] == 0
    else:
        assert work["shared_prefix_tokens"] > 0.6 * contrasts
        assert work["prefill_tokens"] == references + contrasts - work["shared_prefix_tokens"]


LONG = NAMES if os.environ.get("ICL_ARCHITECTURES") == "all" else ["llava", "gemma3", "qwen3_5"]
"""A whole cache, a window and a state; all of them with `ICL_ARCHITECTURES=all`."""


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_lazy_equals_eager_over_long_answers_in_a_large_batch(name: str, model_of: Callable[[str], HF]) -> None:
    model = model_of(name)
    chosen = [arms()[0], arms()[1], arms()[4]]
    requests = [DecodingRequest(q, arm, max_new_tokens=32) for q in questions(16) for arm in chosen]
    assert tokens_of(model, requests, "always") == tokens_of(model, requests, "never")
