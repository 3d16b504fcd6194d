"""The token loop reads from the device once a step, for all arms together (`lab.bench.device_traffic`)."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from decoding.arms.arm import parse_arm
from icl.models.hf.model import HF
from icl.types import Prompt
from lab.bench.decoding import Endless, prompts_of
from lab.bench.device_traffic import (
    LONG_ANSWER,
    SAMPLED_VCD,
    device_traffic,
    four_arms,
    run_arms,
    traffic_per_step,
    twelve_arms,
)

STEADY = {
    "greedy": ["greedy"],
    "a contrast": ["vcd"],
    "four arms": four_arms(),
    "sampled": [SAMPLED_VCD],
    "early layers": ["dola"],
    "a state": ["nbce"],
    "a random gate": [{"name": "random_gate", "of": "dcd"}],
}


@pytest.fixture(scope="module")
def model() -> Any:
    hf = HF(path="tiny", dtype="float32", device="cpu")
    hf.load()
    return Endless(hf)


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    """Prompts of different lengths, so that rows have padding."""
    return [replace(one, turns=one.turns[-1 - 2 * i :]) for i, one in enumerate(prompts_of(0)[:3])]


def arms_of(nodes: list[Any]) -> list[Any]:
    return [parse_arm(node) if isinstance(node, str | dict) else node for node in nodes]


@pytest.mark.parametrize("name", STEADY)
def test_a_step_reads_once_and_copies_nothing(name: str, model: Any, prompts: list[Prompt]) -> None:
    traffic = traffic_per_step(model, prompts, arms_of(STEADY[name]))
    assert traffic["reads"] == 1
    assert traffic["copies"] <= (1 if name == "a random gate" else 0)  # the gate of each row is a random number


@pytest.mark.parametrize(("arms", "operations"), [(["greedy"], 40), (four_arms(), 100), (twelve_arms(), 300)])
def test_a_graph_replaces_the_operations_of_the_model(arms: list[Any], operations: int, prompts: list[Prompt]) -> None:
    traffic = traffic_per_step(Endless(HF(path="tiny", device="cpu", cuda_graphs=True)), prompts, arms_of(arms))
    assert traffic["operations"] <= operations
    assert traffic["reads"] == 1


def test_rows_without_padding_need_no_mask(model: Any) -> None:
    traffic = traffic_per_step(model, prompts_of(0)[:3], arms_of(["greedy"]))
    assert (traffic["reads"], traffic["copies"]) == (1, 0)


def test_twelve_arms_read_once_a_step(model: Any, prompts: list[Prompt]) -> None:
    assert traffic_per_step(model, prompts, twelve_arms())["reads"] <= 1


@pytest.mark.parametrize(
    ("node", "more", "copies"),
    [
        ("vcd", {"top_logprobs": 5}, 0),
        ("adacad", {"top_logprobs": 5}, 0),  # its weights are fitted
        ("vcd", {"stop_strings": ("no such text",)}, 0),
        ("beam", {}, 4),  # rows, tokens and scores of the selected beams, and where their logits are
        ("beam", {"top_logprobs": 5}, 4),
        ({"name": "greedy", "logits_processors": [{"name": "repetition_penalty", "penalty": 1.2}]}, {}, 1),
    ],
)
def test_traces_stop_strings_beams_and_processors_are_part_of_the_one_read(
    node: Any, more: dict[str, Any], copies: int, model: Any, prompts: list[Prompt]
) -> None:
    traffic = traffic_per_step(model, prompts, arms_of([node]), **more)
    assert traffic["reads"] == 1
    assert traffic["copies"] <= copies


@pytest.mark.parametrize("nodes", [["vcd"], ["dcd"], ["chasd"], four_arms(), [SAMPLED_VCD]])
def test_a_deferred_contrast_is_read_with_the_tokens(nodes: list[Any], model: Any, prompts: list[Prompt]) -> None:
    """A step waits once more only if it prefills or reads branches, which are passes of their own."""
    run_arms(model, prompts, arms_of(nodes), 1)  # a model reads the first features of each shape to check them
    before = model.engine.counters.forwards
    traffic = run_arms(model, prompts, arms_of(nodes), LONG_ANSWER, lazy_branches="always")
    assert LONG_ANSWER <= traffic.places["read tolist"] <= model.engine.counters.forwards - before


def test_the_counter_sees_every_kind_of_traffic() -> None:
    layer = torch.nn.Linear(2, 2)
    with torch.no_grad(), device_traffic(layer) as traffic:
        on_device = layer.weight * 2
        for read in (bool, int, float, torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.nonzero):
            read(on_device.sum())
        on_device[on_device > 0]
        assert (traffic.reads, traffic.copies) == (7, 0)
        on_device + torch.tensor([1.0, 2.0])
        on_device[[0, 1]]
        assert (traffic.reads, traffic.copies) == (7, 2)
        on_host = torch.tensor([1.0, 2.0])
        assert bool((on_host + 1 > 0).all())
        assert (traffic.reads, traffic.copies) == (7, 2)
