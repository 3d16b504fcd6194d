"""A decoding step as one CUDA graph: `cuda_graphs: true` of the model `hf`.

A step of a 7B launches about a thousand operations, which takes the host longer than the device. A CUDA graph launches
them at once, but only with the shapes and addresses that it was captured with. So the KV cache of the running session
moves to memory that all graphs share, and a mask hides the slots that are not used yet:

    slots of the graph   [padding | tokens | new | spare, masked]      a row of the session
                         [            spare, masked             ]      a row beyond the session's, which nothing reads

There is a graph for each number of rows and slots, rounded up to eight sizes between two powers of two. It is captured
at its first step. A session returns to its own memory when its rows change, and moves again at the next step.

    StepGraphs.step      moves the session if necessary, then launches a graph
    StepGraph            the inputs, outputs and operations of a step with fixed shapes
    RecordedStep         the same on a CPU: the operations of the captured step one by one, with their first arguments

Kernels are those of a plain step, so logits differ only by what other shapes round differently. Steps with
interventions, which Python code computes, are not captured.
"""

import copy
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from transformers.cache_utils import StaticLayer

from icl import ModelError, copied_to_device, is_out_of_memory
from icl.models.hf import ModelCounters, SharedPrefixLayer
from icl.models.hf.layers import mask_of_step

MIN_SLOTS = 32
"""Slots come in multiples of at least this number, so that a row can be read on for some steps."""

MAX_GRAPHS, MAX_LOGITS_BYTES = 128, 2**28
"""Graphs that are kept, and bytes of their logits. The oldest one is dropped first."""

ATTENTION = ("sdpa", "eager")
"""Kinds of attention that read a mask of fixed shape."""

Key = tuple[int, int, bool]
"""Rows and slots of a graph, and whether it has logits of early layers."""


class Decoder(Protocol):
    """What a graph needs of `icl.models.hf.language_model.LanguageModel`."""

    model: Any
    counters: ModelCounters

    @property
    def attention(self) -> str: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def is_from_transformers(self) -> bool: ...

    def forward(
        self, tokens: Tensor, mask: Tensor, positions: Tensor, cache: Any, *, early_exits: bool = False
    ) -> Tensor: ...


class Rows(Protocol):
    """What a graph needs of `icl.models.hf.session.HFSession`."""

    lengths: list[int]
    width: int
    position: Tensor
    early_exits: bool
    graph: "StepGraph | None"

    def __len__(self) -> int: ...

    @property
    def cache(self) -> Any: ...

    def leave_graph(self) -> None: ...


def rounded_up(size: int, least: int = 1) -> int:
    """The next of eight sizes between two powers of two, at most 1/8 more. least: the smallest step."""
    step = max(least, 1 << max(0, size.bit_length() - 4))
    return -(-size // step) * step


class StepLayer(StaticLayer):  # type: ignore[misc]
    """A full-attention layer of a graph: keys and values of fixed slots, and the slot that the next token takes."""

    def __init__(self, keys: Tensor, values: Tensor, slot: Tensor) -> None:
        super().__init__(keys.shape[2])
        self.keys, self.values, self.cumulative_length, self.device = keys, values, slot, keys.device
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **arguments: Any) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(2, self.cumulative_length[None], key_states)
        self.values.index_copy_(2, self.cumulative_length[None], value_states)
        return self.keys, self.values


class StepGraph:
    """A step with fixed shapes and addresses.

    Attributes:
        tokens: The tokens that rows read [R, 1].
        positions: Their position ids [..., R, 1].
        starts: The first slot of each row that is no padding [R, 1].
        slot: The slot of the new tokens [].
        size: Slots of a row.
        filled: Slots that hold tokens of the session, or padding before them.
        logits_bytes: Memory of its logits, which the graph keeps after its first step.
    """

    def __init__(
        self, runner: Decoder, cache: Any, buffers: list[tuple[Tensor, Tensor]], session: Rows, pool: Any
    ) -> None:
        """A graph that is not captured yet.

        Args:
            runner: The language model.
            cache: A cache of the model, whose layers are replaced.
            buffers: Keys and values [R, H, S, D] of each layer.
            session: Gives the shape of position ids and whether there are early layers.
            pool: Memory of activations on a GPU.
        """
        rows, self.size = buffers[0][0].shape[0], buffers[0][0].shape[2]
        device, shape = session.position.device, session.position.shape
        self.runner, self.early_exits, self.buffers, self.pool = runner, session.early_exits, buffers, pool
        self.tokens, self.starts = torch.zeros(2, rows, 1, dtype=torch.long, device=device)
        self.positions = session.position.new_zeros(*shape[:-2], rows, 1)
        self.slot, self.columns = torch.zeros_like(self.tokens[0, 0]), torch.arange(self.size, device=device)
        self.cache = copy.copy(cache)
        self.cache.layers = [StepLayer(keys, values, self.slot) for keys, values in buffers]
        self.launch: Callable[[], Tensor] | None = None
        self.filled = self.logits_bytes = 0

    def place(self, session: Rows, slot: int) -> None:
        """Set what stays as it is while the rows are the same. slot: where the new tokens go."""
        starts = [[slot - length] for length in session.lengths]
        self.starts.zero_()
        self.starts[: len(starts)] = copied_to_device(starts, torch.long, self.starts.device)
        self.slot.fill_(slot)
        self.filled = slot

    def read(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Let all rows read a token. Returns logits [R, V] float32, or [R, 1 + early layers, V]."""
        rows = len(tokens)
        self.tokens[:rows, 0] = tokens
        self.positions[..., :rows, :] = positions
        if self.launch is None:
            is_cuda = tokens.device.type == "cuda"
            self.launch = captured(self._step, self.pool, tokens.device) if is_cuda else RecordedStep(self._step)
        output = self.launch()
        self.logits_bytes = output.nbytes
        logits = output[:rows].clone()
        self.slot += 1
        self.filled += 1
        return logits

    def _step(self) -> Tensor:
        runner = self.runner
        mask = (self.columns >= self.starts) & (self.columns <= self.slot)
        mask = mask_of_step(mask, runner.attention, runner.dtype)
        before = runner.counters.forwards
        logits = runner.forward(self.tokens, mask, self.positions, self.cache, early_exits=self.early_exits)
        runner.counters.forwards = before
        return logits[:, -1].float()


class StepGraphs:
    """The graphs of a language model, and the memory that they share.

    Attributes:
        runner: The language model.
        graphs: The captured graphs.
        memory: For each layer, memory of keys and of values.
        pool: Memory of activations on a GPU.
    """

    def __init__(self, runner: Decoder) -> None:
        """No graphs yet. Raises ModelError if the model's attention cannot read a mask of fixed shape."""
        if runner.attention not in ATTENTION or not runner.is_from_transformers:
            raise refused_graph(runner, f"its attention ({runner.attention}) makes its own mask")
        self.runner = runner
        self.clear()
        self._owner: Callable[[], Rows | None] = lambda: None

    def clear(self) -> None:
        """Forget the graphs and their memory. A session that still uses a graph keeps it."""
        self.graphs: dict[Key, StepGraph] = {}
        self.memory: list[tuple[Tensor, Tensor]] = []
        self.pool = torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None  # ends with its last graph

    def step(self, session: Rows, tokens: Tensor) -> Tensor:
        """Logits of a step of all rows, as of `LanguageModel.forward`, in float32.

        Args:
            session: Its `lengths` do not count the new tokens yet; its positions are those of the new tokens.
            tokens: [R].
        """
        try:
            graph = session.graph
            if graph is None or graph.filled == graph.size:
                graph = self._enter(session)
            logits = graph.read(tokens, session.position)
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
            if is_out_of_memory(error):
                raise
            raise refused_graph(self.runner, next(iter(str(error).splitlines()), type(error).__name__)) from error
        self.runner.counters.forwards += 1
        self.runner.counters.graph_steps += 1
        return logits

    def _enter(self, session: Rows) -> StepGraph:
        """Move the KV cache of a session to the shared memory. Returns the graph of its next step."""
        if (owner := self._owner()) is not None:
            owner.leave_graph()
        cache, slot = session.cache, session.width
        if others := sorted({type(one).__name__ for one in cache.layers if not isinstance(one, SharedPrefixLayer)}):
            raise NotImplementedError(f"its KV cache has more than full attention ({', '.join(others)})")
        rows, slots = rounded_up(len(session)), rounded_up(slot + 1, MIN_SLOTS)
        self._reserve(cache, rows * slots)
        key = rows, slots, session.early_exits
        graph = self.graphs.pop(key, None)
        if graph is None:
            while len(self.graphs) >= MAX_GRAPHS or self.logits_bytes > MAX_LOGITS_BYTES:
                del self.graphs[next(iter(self.graphs))]
            with torch.inference_mode(False):
                buffers = [(_view(keys, rows, slots), _view(values, rows, slots)) for keys, values in self.memory]
                graph = StepGraph(self.runner, cache, buffers, session, self.pool)
        self.graphs[key] = graph
        for layer, (keys, values) in zip(cache.layers, graph.buffers, strict=True):
            layer.move(keys[: len(session)], values[: len(session)])
        graph.place(session, slot)
        session.graph, self._owner = graph, weakref.ref(session)
        return graph

    @property
    def logits_bytes(self) -> int:
        """Memory of the logits that the graphs keep."""
        return sum(graph.logits_bytes for graph in self.graphs.values())

    def _reserve(self, cache: Any, slots: int) -> None:
        """Make memory for this number of slots of all rows together. Graphs of smaller memory are dropped."""
        if self.memory and self.memory[0][0].shape[1] >= slots:
            return
        self.clear()
        with torch.inference_mode(False):  # memory of inference mode could not be written to outside of it
            for layer in cache.layers:
                keys, values = (
                    states.new_zeros(states.shape[1], rounded_up(slots), states.shape[3]) for states in layer.last(0)
                )
                self.memory.append((keys, values))


def _view(memory: Tensor, rows: int, slots: int) -> Tensor:
    """The first part of memory [H, S, D] as [R, H, slots, D], with R * slots <= S."""
    heads, _, size = memory.shape
    return memory.view(-1)[: rows * heads * slots * size].view(rows, heads, slots, size)


def captured(step: Callable[[], Tensor], pool: Any, device: torch.device) -> Callable[[], Tensor]:
    """Launches the operations of a step as a CUDA graph. Its output is overwritten by the next launch.

    Other threads may use the device during the capture: the read-ahead of images does.

    Args:
        step: The step. It runs once before the capture.
        pool: Memory of activations, shared with other graphs: one is launched at a time, and each owns its output.
        device: The device of the model, which need not be the current one.
    """
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries allocate their workspaces before the capture
            step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            output = step()

    def launch() -> Tensor:
        graph.replay()
        return output

    return launch


def refused_graph(runner: Decoder, reason: str) -> ModelError:
    """The error of a model whose step is not a graph."""
    name = type(runner.model).__name__
    return ModelError(
        f"model.cuda_graphs: a decoding step of {name} cannot be a CUDA graph: {reason}. Use `cuda_graphs: false`."
    )


class _Output(int):
    """Number of a tensor that a recorded operation returned."""


class RecordedStep(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operations of a step, recorded once and repeated with the same arguments, as a CUDA graph does on a GPU.

    What a step computes in Python is fixed by the record. Reading a tensor on the host is an error, as in a capture.

    Attributes:
        calls: The operations with their arguments.
    """

    def __init__(self, step: Callable[[], Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Callable[..., Any], Any, Any]] = []
        self._number: dict[int, _Output] = {}
        self._alive: list[Any] = []
        with self:
            self.output = self._number[id(step())]
        self._number, self._alive = {}, []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if reads_on_host(op, args):
            raise RuntimeError(f"it reads a tensor on the host ({op})")
        recorded = tree_map(self._recorded, (args, kwargs or {}))
        result = op(*args, **(kwargs or {}))
        self.calls.append((op, *recorded))
        for leaf in tree_leaves(result):
            self._number[id(leaf)] = _Output(len(self._alive))
            self._alive.append(leaf)
        return result

    def _recorded(self, leaf: Any) -> Any:
        return self._number.get(id(leaf), leaf) if isinstance(leaf, Tensor) else leaf

    def __call__(self) -> Tensor:
        """Repeats the operations. Returns the output of the step."""
        made: list[Any] = []

        def value(leaf: Any) -> Any:
            return made[leaf] if isinstance(leaf, _Output) else leaf

        for op, args, kwargs in self.calls:
            made += tree_leaves(op(*tree_map(value, args), **tree_map(value, kwargs)))
        output: Tensor = made[self.output]
        return output


def reads_on_host(op: Any, args: Any) -> bool:
    """Whether an operation waits for a tensor's values, or copies numbers of the host."""
    if op is torch.ops.aten.index.Tensor:
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    if op is torch.ops.aten.lift_fresh.default:
        return True
    return bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(op.tags))
