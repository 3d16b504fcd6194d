"""The memory plan against what is allocated: weights, KV cache, and the peak of a prefill."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lab.gpu.check import Bench, BenchCheck, Figure

if TYPE_CHECKING:
    from icl.models.hf.model import HF

REQUESTS = ((16, 128), (8, 512), (2, 1500))
"""Rows and tokens of a row of each prefill."""

MAX_WEIGHTS_ERROR, MAX_PEAK_ERROR = 0.02, 0.10


def run(bench: Bench) -> Iterator[Figure]:
    """Prefills three shapes. The peak is that of CUDA's allocator, which a CPU does not have."""
    import torch

    from icl.models.hf.memory import GIB, kv_bytes_per_token, model_shape, prefill_bytes, weights_bytes
    from lab.gpu.workload import load_model

    before = allocated(bench)
    model = load_model(bench, bench.model("full"), dtype=bench.dtype, attn_implementation="sdpa")
    shape, size = model_shape(model.checkpoint.config), torch.bfloat16.itemsize
    planned = weights_bytes(shape, element_bytes=size)
    measured = allocated(bench) - before or model.weights_bytes
    yield Figure(
        "weights", f"{measured / GIB:.3f} GiB", f"{planned / GIB:.3f} GiB within {MAX_WEIGHTS_ERROR:.0%}",
        abs(measured / planned - 1) <= MAX_WEIGHTS_ERROR,
    )  # fmt: skip
    for rows, width in REQUESTS:
        start = reset_peak(bench)
        session = prefilled(model, rows, width)
        cache = rows * width * kv_bytes_per_token(shape, size)
        taken = sum(t.nbytes for layer in session.cache.layers for t in (layer.keys, layer.values))
        name = f"{rows} x {width} tokens"
        yield Figure(f"{name}: KV cache", f"{taken / 2**20:.1f} MiB", f"{cache / 2**20:.1f} MiB", taken == cache)
        if bench.device == "cuda":
            peak = torch.cuda.max_memory_allocated() - start
            expected = prefill_bytes(shape, rows, width, size, padded=False) + cache
            yield Figure(
                f"{name}: peak", f"{peak / GIB:.3f} GiB", f"{expected / GIB:.3f} GiB within {MAX_PEAK_ERROR:.0%}",
                abs(peak / expected - 1) <= MAX_PEAK_ERROR,
            )  # fmt: skip
        del session
    if bench.device == "cpu":
        yield Figure("peak of a prefill", "not here: needs the allocator of a GPU")


def allocated(bench: Bench) -> int:
    """Bytes that tensors take on the GPU; 0 without one."""
    import torch

    return torch.cuda.memory_allocated() if bench.device == "cuda" else 0


def reset_peak(bench: Bench) -> int:
    """Forgets the peak. Returns the bytes that are allocated now."""
    import torch

    if bench.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return allocated(bench)


def prefilled(model: "HF", rows: int, width: int) -> Any:
    """A session of rows of random text tokens, computed in one forward pass."""
    import torch

    from icl.models.hf.layers import new_cache

    runner = model.engine.runner
    tokens = torch.randint(10, 400, (rows, width), generator=torch.Generator().manual_seed(0)).to(runner.device)
    positions = torch.arange(width, device=runner.device).expand(rows, width)
    cache = new_cache(runner.model.config)
    with torch.inference_mode():
        logits = runner.forward(tokens, torch.ones_like(tokens), positions, cache)

    class Rows:
        """The cache and the logits of the prefill, which live as long as those of a session."""

    made = Rows()
    vars(made).update(cache=cache, logits=logits.float())
    return made


CHECK = BenchCheck(
    7,
    "memory plan, 3 shapes",
    "weights within 2 %, KV cache exact, peak within 10 %",
    2.5,
    run,
    needs=("hf",),
)
