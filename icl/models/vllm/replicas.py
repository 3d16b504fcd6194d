"""Engines side by side, each in a process and on GPUs of its own: what `data_parallel_size` starts.

A group goes whole to one of them, since its branches decode in step. Neighboring groups go together, since they begin
alike and an engine finds in its prefix cache what it has read itself. Each engine is driven by a thread; answers are
told, and groups are made, in the thread that asks.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from icl.models.vllm.engine import Done, VLLMEngine
from icl.models.vllm.engine_io import EngineOutput, EngineRequest

if TYPE_CHECKING:
    from icl.models.vllm.model import VLLM

TOGETHER = 16
"""Groups that an engine is given at once."""

Some = list[tuple[int, Sequence[EngineRequest]]]


class Replicas:
    """What `Engine` is, several times."""

    def __init__(self, model: "VLLM") -> None:
        self.engines = []
        for place in range(model.data_parallel_size):
            with _apart(place, model.tensor_parallel_size if model.device_type == "cuda" else 0):
                self.engines.append(VLLMEngine(model))

    @property
    def counts(self) -> dict[str, int]:
        return {name: sum(engine.counts[name] for engine in self.engines) for name in self.engines[0].counts}

    def run(self, groups: Iterable[Sequence[EngineRequest]], done: Done) -> None:
        """As `Engine.run`. Raises what an engine raises."""
        waiting = enumerate(groups)
        events: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        inboxes: list[SimpleQueue[Some]] = [SimpleQueue() for _ in self.engines]
        pool = ThreadPoolExecutor(len(self.engines), thread_name_prefix="engine")
        for place, engine in enumerate(self.engines):
            pool.submit(_drive, engine, place, events, inboxes[place]).add_done_callback(
                lambda ended: events.put(("ended", ended))
            )
        running = len(self.engines)
        try:
            while running:
                what, told = events.get()
                if what == "more":
                    inboxes[told].put(list(islice(waiting, TOGETHER)))
                elif what == "said":
                    done(*told)
                else:
                    told.result()
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


def _drive(engine: VLLMEngine, place: int, events: "SimpleQueue[tuple[str, Any]]", inbox: "SimpleQueue[Some]") -> None:
    """One engine's thread: asks for groups, and tells what they said."""

    def more() -> Iterator[tuple[int, Sequence[EngineRequest]]]:
        while True:
            events.put(("more", place))
            some = inbox.get()
            if not some:
                return
            yield from some

    def done(number: int, said: list[EngineOutput]) -> None:
        events.put(("said", (number, said)))

    engine.run_numbered(more(), done)


@contextmanager
def _apart(place: int, gpus: int) -> Iterator[None]:
    """The environment that the engine of a place starts in: a process of its own, and `gpus` of the GPUs there are."""
    before = dict(os.environ)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    if gpus:
        import torch

        there = before.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(there.split(",")[place * gpus : (place + 1) * gpus])
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
