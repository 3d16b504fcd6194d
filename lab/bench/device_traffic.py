"""What a step of the token loop waits for on an accelerator, counted without one.

A tensor counts as on the device if it is a weight of the model or computed from one, and as on the host if it is made
of Python numbers or a NumPy array. Then a read is whatever returns numbers, or a shape that depends on them, from a
tensor on the device. A copy is a move that does not wait, or the first use of a tensor on the host together with one on
the device. An operation is a call of ATen that is not a view.

    Python numbers --torch.tensor--> host --copy--> device --read--> Python numbers
                                                  |        |
                                         weights -+        +- operations
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from decoding.arms.arm import Arm, default_controls, parse_arm
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest, Failure
from icl.models.hf.model import HF
from icl.models.hf.step_graphs import RecordedStep
from icl.types import Prompt
from lab.bench import Row, one_thread
from lab.bench.decoding import Endless, generated, processed, prompts_of

SHORT_ANSWER, LONG_ANSWER, PROMPTS = 4, 12, 4
"""Tokens of the answers of two runs. Their difference leaves out what happens once per answer."""

SAMPLED_VCD = {"name": "vcd", "sampling": {"temperature": 1.0}}

READING_METHODS = {
    *(Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.item, Tensor.nonzero),
    *(Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__),
}
READING_OPS = {
    *("aten::equal", "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive"),
    "aten::_linalg_eigh",  # checks for errors
}
HOST_FUNCTIONS = {torch.tensor, torch.as_tensor, torch.from_numpy, Tensor.new_tensor}


class DeviceTraffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts reads, copies and operations while it is active.

    Attributes:
        reads: Reads of the device.
        copies: Copies from the host to the device.
        operations: Operations on tensors of the device.
        places: Name of what read or copied -> how often.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reads = self.copies = self.operations = 0
        self.places: Counter[str] = Counter()
        self._is_on_device: dict[StorageWeakRef, bool] = {}
        for tensor in (*model.parameters(), *model.buffers()):
            self._mark(tensor, True)

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = list(_tensors((*args, *kwargs.values())))
        places = [self._place(tensor) for tensor in tensors]
        if True in places:
            name, index = op._schema.name, args[1] if op._schema.name == "aten::index" else ()
            if name in READING_OPS or any(one is not None and one.dtype == torch.bool for one in index):
                self.count_read(name)
            self.operations += not op.is_view
            for tensor, place in zip(tensors, places, strict=True):
                if place is False and tensor.dim():
                    self.count_copy(tensor, name)
        result = op(*args, **kwargs)
        if True in places or False in places:
            for tensor in _tensors(result):
                self._mark(tensor, True in places)
        return result

    def count_read(self, name: str) -> None:
        self.reads += 1
        self.places[f"read {name}"] += 1

    def count_copy(self, tensor: Tensor, name: str) -> None:
        self.copies += 1
        self.places[f"copy {name}"] += 1
        self._mark(tensor, True)

    def count_launch(self, output: Tensor) -> None:
        self.operations += 1
        self._mark(output, True)

    def is_on_device(self, value: Any) -> bool:
        return isinstance(value, Tensor) and self._place(value) is True

    def mark_host(self, value: Any) -> None:
        if isinstance(value, Tensor) and not self.is_on_device(value):
            self._mark(value, False)

    def _place(self, tensor: Tensor) -> bool | None:
        return self._is_on_device.get(_reference(tensor))

    def _mark(self, tensor: Tensor, is_on_device: bool) -> None:
        self._is_on_device[_reference(tensor)] = is_on_device


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of an operation's arguments or results, which are tensors, numbers and lists of them.

    `tree_leaves` of PyTorch reads any tree, but takes a third of the time of a count.
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)


def _reference(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


class _Methods(TorchFunctionMode):
    """Sees methods that read without an operation, and tensors made of numbers."""

    def __init__(self, traffic: DeviceTraffic) -> None:
        super().__init__()
        self.traffic = traffic

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in READING_METHODS and self.traffic.is_on_device(args[0]):
            self.traffic.count_read(function.__name__)
        if function is Tensor.__getitem__ and isinstance(args[1], list) and self.traffic.is_on_device(args[0]):
            self.traffic.copies += 1
        if function is Tensor.to and (kwargs or {}).get("non_blocking") and not self.traffic.is_on_device(args[0]):
            self.traffic.count_copy(args[0], "to")
        result = function(*args, **(kwargs or {}))
        if function in HOST_FUNCTIONS:
            self.traffic.mark_host(result)
        return result


@contextmanager
def device_traffic(model: torch.nn.Module) -> Iterator[DeviceTraffic]:
    """Counts the traffic of the block. A launch of a graph is one operation."""
    traffic, launch = DeviceTraffic(model), RecordedStep.__call__

    def launch_at_once(step: RecordedStep) -> Tensor:
        with _disable_current_modes():
            output = launch(step)
        traffic.count_launch(output)
        return output

    with patch.object(RecordedStep, "__call__", launch_at_once), traffic, _Methods(traffic):
        yield traffic


def four_arms() -> list[Arm]:
    """Greedy decoding, a contrast and two controls of it."""
    controls = ({"name": name, "of": "vcd"} for name in ("mask_only", "temperature_matched"))
    return [*map(parse_arm, ("greedy", "vcd", *controls))]


def twelve_arms() -> list[Arm]:
    """Arms with random numbers, early layers, a state and other parameters."""
    variants = ({"name": "vcd", **one} for one in ({"alpha": 0.5}, {"beta": 0.3}, {"alpha": 0.5, "beta": 0.3}))
    names = ("greedy", "sampling", "vcd", SAMPLED_VCD, "cad", "dola", "nbce", *variants)
    return [*map(parse_arm, names), *default_controls(parse_arm("vcd"))[:2]]


def run_arms(model: Any, prompts: Sequence[Prompt], arms: Sequence[Arm], length: int, **more: Any) -> DeviceTraffic:
    """The traffic of decoding answers of this length. more: fields of the requests, and `lazy_branches`."""
    with device_traffic(model.engine.runner.model) as traffic:
        _decode(model, prompts, arms, length, **more)
    return traffic


def _decode(model: Any, prompts: Sequence[Prompt], arms: Sequence[Arm], length: int, **more: Any) -> None:
    lazy_branches = more.pop("lazy_branches", "never")
    requests = [DecodingRequest(prompt, arm, max_new_tokens=length, **more) for prompt in prompts for arm in arms]
    for answer in run_requests(model, requests, lazy_branches=lazy_branches):
        if isinstance(answer, Failure):
            raise RuntimeError(answer.reason)


def traffic_per_step(model: Any, prompts: Sequence[Prompt], arms: Sequence[Arm], **more: Any) -> dict[str, float]:
    """Reads, copies and operations a step."""
    for _ in range(2):  # encodes the images and captures graphs, the first ones again after their memory has grown
        _decode(model, prompts, arms, LONG_ANSWER, **more)
    short, long = (run_arms(model, prompts, arms, length, **more) for length in (SHORT_ANSWER, LONG_ANSWER))
    return _difference(short, long)


def _difference(short: DeviceTraffic, long: DeviceTraffic) -> dict[str, float]:
    steps = LONG_ANSWER - SHORT_ANSWER
    names = ("reads", "copies", "operations")
    return {name: (getattr(long, name) - getattr(short, name)) / steps for name in names}


def traffic_of_generate(model: HF, prompts: Sequence[Prompt]) -> dict[str, float]:
    """Reads, copies and operations a step of `generate`."""
    inputs, traffic = processed(model, prompts), []
    for length in (SHORT_ANSWER, LONG_ANSWER):
        with device_traffic(model.engine.runner.model) as one:
            generated(model, inputs, length, None)
        traffic.append(one)
    return _difference(*traffic)


def rows() -> Iterator[Row]:
    """Reads of the device, copies to it and operations a step, of `generate` and of one, four and twelve arms."""
    with one_thread():
        model = HF(path="tiny", dtype="float32", device="cpu")
        model.load()
        prompts, endless = prompts_of(0)[:PROMPTS], Endless(model)
        sampled = [parse_arm(SAMPLED_VCD)]
        counted = {"generate": traffic_of_generate(model, prompts)} | {
            name: traffic_per_step(endless, prompts, arms)
            for name, arms in {
                "greedy": four_arms()[:1],
                "four arms": four_arms(),
                "twelve arms": twelve_arms(),
                "vcd, sampled": sampled,
                "beam search": [parse_arm("beam")],
            }.items()
        }
        counted["vcd, deferred"] = traffic_per_step(endless, prompts, [parse_arm("vcd")], lazy_branches="always")
        for name, figures in counted.items():
            figure = ", ".join(f"{value:.1f} {kind}" for kind, value in figures.items())
            yield f"{name}: traffic a step", figure, "1 read"
