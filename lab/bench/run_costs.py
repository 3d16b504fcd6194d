"""What a run costs beside its model: CPU seconds of its start, of a sample, and of the commands that compute nothing.

    fixed cost        a run of 8 questions minus a plain script that answers them; weights are loaded, images are new
    Python a sample   a grid of twelve arms, 4 and 8 shots: a run without the forward passes of the language model, the
                      vision tower and the embedder, the difference of two sizes over their samples
    KV cache          bytes that selecting rows and growing buffers copy in decoding, over those that attention reads

A decoding step of a 7B on a GPU takes about 15 ms, a context of 8 shots and twelve arms .45 s.
"""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from torch import Tensor

from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest
from experiments.config.config import load_config
from experiments.running.run import run
from icl.models.hf import shared_prefix
from icl.models.hf.image_encoder import ImageEncoder
from icl.models.hf.language_model import LanguageModel
from icl.models.hf.model import HF
from icl.models.hf.shared_prefix import SharedPrefixLayer
from lab.bench import Row, one_thread, rounds
from lab.bench.decoding import Endless, prompts_of
from lab.bench.device_traffic import twelve_arms
from lab.bench.plain_script import MODEL, OTHER_IMAGES, _run, _script
from lab.bench.timing import children_cpu_seconds, cpu_rounds, with_spread
from retrievers.machinery.encoder import DualEncoder

FEW, FEW_QUERIES, QUERIES, SEEDS = 8, 4, 16, 3
FORWARDS = (LanguageModel, "call_model"), (ImageEncoder, "_tower"), (DualEncoder, "_batched")
VARIANTS = ({"alpha": 0.5}, {"beta": 0.3}, {"alpha": 0.5, "beta": 0.3}, {"alpha": 2.0})
CONTROLS = ("mask_only", "temperature_matched", "no_image", "entropy_matched")


def rows() -> Iterator[Row]:
    """All figures of this file."""
    with one_thread(), TemporaryDirectory() as folder:
        model = HF(path="tiny", dtype="float32", device="cpu")
        model.load()
        seeds = iter(range(OTHER_IMAGES))
        ours, script = cpu_rounds(
            [
                lambda: _run(Path(folder), FEW, next(seeds)),
                lambda: _script(model, FEW, OTHER_IMAGES + next(seeds)),
            ],
        )
        yield "fixed cost of a run", with_spread([a - b for a, b in zip(ours, script, strict=True)], " s"), "<= .35 s"
        yield "Python a sample, twelve arms, 4 and 8 shots", with_spread(_python_ms(folder), " ms"), "<= .5 ms"
        yield "KV bytes copied in decoding over bytes read, twelve arms, 24 tokens", f"{_copied(model):.2f}", "<= .30"
    yield from _commands()


def _python_ms(folder: str) -> list[float]:
    figures = []
    for number in range(rounds(3) + 1):
        small, large = (_python_seconds(folder, queries, number) for queries in (FEW_QUERIES, QUERIES))
        figures.append(1000 * (large[0] - small[0]) / (large[1] - small[1]))
    return figures[1:] or figures


def _python_seconds(folder: str, queries: int, seed: int) -> tuple[float, int]:
    """CPU seconds of a run outside forward passes, and its samples."""
    within = [0.0]

    def timed(method: Any) -> Any:
        def call(*args: Any, **arguments: Any) -> Any:
            start = time.thread_time()
            try:
                return method(*args, **arguments)
            finally:
                within[0] += time.thread_time() - start

        return call

    task = {"name": "binding", "ways": 4, "queries": queries, "seed": seed}
    strategies: list[Any] = ["greedy", "cad", "vcd", "m3id", *({"name": "vcd", **one} for one in VARIANTS)]
    config: dict[str, Any] = {
        "name": f"python-{queries}-{seed}",
        "task": task,
        "model": MODEL,
        "seeds": list(range(SEEDS)),
        "grid": {
            "shots": [4, 8],
            "decoding": [*strategies, *({"name": name, "of": "vcd"} for name in CONTROLS)],
        },
        "max_new_tokens": 8,
    }
    with ExitStack() as stack:
        for owner, name in FORWARDS:
            stack.enter_context(patch.object(owner, name, timed(getattr(owner, name))))
        stack.callback(gc.set_threshold, *gc.get_threshold())
        gc.set_threshold(50_000)  # as in `icl run`: a full collection takes .3 s, and few of them hit some rounds only
        start = time.process_time()
        samples = run(load_config(config), Path(folder)).computed
        return time.process_time() - start - within[0], samples


def _copied(model: HF) -> float:
    """Bytes that decoding copies over those that attention reads, of four prompts with twelve arms."""
    endless: Any = Endless(model)
    read = copied = 0
    update, select, grow = SharedPrefixLayer.update, SharedPrefixLayer.select, shared_prefix._with_spare_slots

    def counted_update(layer: Any, keys: Tensor, *args: Any, **arguments: Any) -> tuple[Tensor, Tensor]:
        nonlocal read
        whole = update(layer, keys, *args, **arguments)
        read += sum(one.nbytes for one in whole) if keys.shape[2] == 1 else 0
        return whole

    def counted_select(layer: Any, rows: Any) -> None:
        nonlocal copied
        select(layer, rows)
        copied += layer.keys.nbytes + layer.values.nbytes

    def counted_grow(old: Tensor, like: Tensor, slots: int) -> Tensor:
        nonlocal copied
        copied += old.nbytes
        return grow(old, like, slots)

    requests = [DecodingRequest(one, arm, max_new_tokens=24) for one in prompts_of(0)[:4] for arm in twelve_arms()]
    with (
        patch.object(SharedPrefixLayer, "update", counted_update),
        patch.object(SharedPrefixLayer, "select", counted_select),
        patch.object(shared_prefix, "_with_spare_slots", counted_grow),
    ):
        run_requests(endless, requests, lazy_branches="never")
    return copied / read


def _commands() -> Iterator[Row]:
    """`icl ls`, and `icl plan quickstart` with an empty cache folder and with stored token counts."""
    with TemporaryDirectory() as cache, TemporaryDirectory() as other:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled once, not in each process

        def icl(*words: str, stored: str = cache) -> float:
            command, env = [sys.executable, "-m", "icl", *words], environment | {"ICL_CACHE": stored}
            return children_cpu_seconds(
                lambda: subprocess.run(command, env=env, cwd=cache, capture_output=True, check=True)
            )

        icl("plan", "quickstart", stored=other)  # compiles the modules
        yield "icl plan quickstart, the first", with_spread([icl("plan", "quickstart")], " s"), "<= 1.5 s"
        for words, goal in ((("plan", "quickstart"), "<= 1.5 s"), (("ls",), "<= .3 s")):
            yield f"icl {' '.join(words)}", with_spread([icl(*words) for _ in range(rounds(5))], " s"), goal
