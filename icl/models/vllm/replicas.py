"""Several engines, each in a process and on GPUs of its own: `data_parallel_size`.

A group runs whole in one engine, since its branches decode in step. Neighboring groups go to the same engine, because
they begin alike and each engine has its own prefix cache. A thread drives each engine. The caller's thread makes the
groups and receives the outputs.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from icl.models.vllm.engine import NumberedGroup, OnGroup, VLLMEngine
from icl.models.vllm.engine_io import EngineOutput, EngineRequest

if TYPE_CHECKING:
    from icl.models.vllm.model import VLLM

CHUNK_SIZE = 16
"""Number of groups that an engine gets at once."""


class Replicas:
    """Several engines with the interface of one `VLLMEngine`."""

    def __init__(self, model: "VLLM") -> None:
        self.engines = []
        for rank in range(model.data_parallel_size):
            with _environment_of(rank, model.tensor_parallel_size if model.device_type == "cuda" else 0):
                self.engines.append(VLLMEngine(model))

    @property
    def counts(self) -> dict[str, int]:
        return {name: sum(engine.counts[name] for engine in self.engines) for name in self.engines[0].counts}

    def run(self, groups: Iterable[Sequence[EngineRequest]], on_group: OnGroup) -> None:
        """As `VLLMEngine.run`. Raises what an engine raises."""
        waiting = enumerate(groups)
        events: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        inboxes: list[SimpleQueue[list[NumberedGroup]]] = [SimpleQueue() for _ in self.engines]
        pool = ThreadPoolExecutor(len(self.engines), thread_name_prefix="engine")
        for rank, engine in enumerate(self.engines):
            pool.submit(_drive, engine, rank, events, inboxes[rank]).add_done_callback(
                lambda future: events.put(("end", future))
            )
        running = len(self.engines)
        try:
            while running:
                kind, value = events.get()
                if kind == "request":  # of an engine for more groups
                    inboxes[value].put(list(islice(waiting, CHUNK_SIZE)))
                elif kind == "outputs":
                    on_group(*value)
                else:
                    value.result()
                    running -= 1
        finally:
            for inbox in inboxes:
                inbox.put([])
            pool.shutdown(wait=False)

    def take_records(self, groups: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        return {name: record for engine in self.engines for name, record in engine.take_records(groups).items()}

    def stop(self) -> None:
        for engine in self.engines:
            engine.stop()


def _drive(
    engine: VLLMEngine,
    rank: int,
    events: "SimpleQueue[tuple[str, Any]]",
    inbox: "SimpleQueue[list[NumberedGroup]]",
) -> None:
    """The thread of one engine: requests groups and reports their outputs as events."""

    def groups() -> Iterator[NumberedGroup]:
        while True:
            events.put(("request", rank))
            chunk = inbox.get()
            if not chunk:
                return
            yield from chunk

    def on_group(number: int, outputs: list[EngineOutput]) -> None:
        events.put(("outputs", (number, outputs)))

    engine.run_numbered(groups(), on_group)


@contextmanager
def _environment_of(rank: int, gpus: int) -> Iterator[None]:
    """The environment in which the engine of a rank starts: a process of its own, and `gpus` of the visible GPUs."""
    before = dict(os.environ)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    if gpus:
        import torch

        visible = before.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[rank * gpus : (rank + 1) * gpus])
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
