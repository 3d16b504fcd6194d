"""On a device without float64, such as Apple's GPUs, decoding uses float32 there and chooses the same tokens."""

from typing import Any

import pytest
import tiny_models
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import icl.memory as device_copies
from decoding.arms.arm import parse_arm
from decoding.engine import trace
from decoding.engine.engine import run_requests
from decoding.engine.requests import Counters, DecodingRequest, Failure
from tests.decoding.toy import Toy

SAMPLED = {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "min_p": 0.01}
ARMS: tuple[Any, ...] = (
    "greedy",
    {"name": "vcd", "sampling": SAMPLED},
    {"name": "entropy_matched", "of": "vcd", "sampling": SAMPLED},
    {"name": "greedy", "sampling": {"name": "beam", "beams": 3}},
    "m3id",
    "nbce",
    "dola",
)


class NoFloat64(TorchDispatchMode):
    """A dispatch mode in which a tensor of another type cannot become float64."""

    is_on_host = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        kinds = {value.dtype for value in tree_iter((args, kwargs)) if isinstance(value, torch.Tensor)}
        made = [value.dtype for value in tree_iter(result) if isinstance(value, torch.Tensor)]
        if torch.float64 in made and kinds - {torch.float64} and not self.is_on_host:
            raise AssertionError(f"{func} makes float64")
        return result


def answers() -> list[Any]:
    prompts = [tiny_models.prompt([i, i + 1], query=str(i)) for i in range(2)]
    arms = [parse_arm(node) for node in ARMS]
    options = ("w1", "w2 w3")
    requests = [DecodingRequest(prompt, arm, max_new_tokens=5, top_logprobs=2) for prompt in prompts for arm in arms]
    requests += [DecodingRequest(prompt, arms[0], options, "options") for prompt in prompts]
    return run_requests(Toy(vocabulary=300), requests, Counters())


def test_a_device_without_float64_chooses_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, guard, copied = answers(), NoFloat64(), device_copies.moved_to_device
    equations, host_calls = trace._normal_equations, list[int]()

    def on_host(logits: torch.Tensor, scores: torch.Tensor) -> list[torch.Tensor]:
        host_calls.append(len(scores))
        guard.is_on_host = True
        try:
            return [one.float() for one in equations(logits, scores)]  # on a device of its own, it is read apart
        finally:
            guard.is_on_host = False

    def moved(on_host: torch.Tensor, device: torch.device) -> torch.Tensor:
        assert on_host.dtype is not torch.float64
        return copied(on_host, device)

    monkeypatch.setattr(trace, "_normal_equations", on_host)
    monkeypatch.setattr(device_copies, "moved_to_device", moved)
    monkeypatch.setattr(device_copies, "has_float64", lambda device: False)
    with guard:
        without = answers()
    assert host_calls
    for one, other in zip(usual, without, strict=True):
        assert not isinstance(other, Failure), other
        assert (one.tokens, one.text) == (other.tokens, other.text)


def test_tensors_of_several_devices_and_types_are_read_in_order() -> None:
    tensors = [torch.tensor([[2**24 - 1, 3]]), torch.tensor([[0.1], [0.2]]), torch.zeros(2, 0)]
    assert device_copies.read_together(tensors) == [
        [[2**24 - 1, 3]], [[float(torch.tensor(0.1))], [float(torch.tensor(0.2))]], [[], []],
    ]  # fmt: skip
    assert device_copies.read_together([]) == []


@pytest.mark.parametrize(("kind", "dtype"), [("mps", torch.float32), ("cpu", torch.float64), ("cuda", torch.float64)])
def test_the_widest_type_of_a_device(kind: str, dtype: torch.dtype) -> None:
    assert device_copies.wide_dtype(torch.device(kind)) is dtype
