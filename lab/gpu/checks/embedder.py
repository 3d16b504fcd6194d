"""An embedder beside the model: both fit, and it finds the neighbors that it finds on a CPU."""

from collections.abc import Iterator
from typing import Any

from lab.gpu.check import Bench, BenchCheck, Figure

QUERIES, POOL, NEIGHBORS = 100, 400, 4
MAX_DIFFERENT = 0.01
PROMPTS, LENGTH = 16, 4


def run(bench: Bench) -> Iterator[Figure]:
    """Embeds images of the shipped encoder on both devices while the large model is loaded."""
    import torch

    from decoding.arms.arm import parse_arm
    from decoding.engine.requests import Counters
    from lab.gpu.workload import decode, load_model, make_prompts

    model = load_model(bench, bench.model("full"), dtype=bench.dtype)
    before = torch.cuda.memory_allocated()
    encoder = load_encoder("cuda")
    images = [image for prompt in make_prompts(QUERIES + POOL, (0,)) for image in prompt.images]
    on_gpu = neighbors(encoder.embed_images(images))
    embedder_bytes = torch.cuda.memory_allocated() - before
    counters = Counters()
    decode(model, make_prompts(PROMPTS, (4,)), [parse_arm("greedy")], LENGTH, counters)
    yield Figure("the embedder's memory", f"{embedder_bytes / 2**20:.0f} MiB")
    yield Figure("batches halved beside it", str(counters.batches_halved), "0", counters.batches_halved == 0)
    on_cpu = neighbors(load_encoder("cpu").embed_images(images))
    different = sum(set(one) != set(other) for one, other in zip(on_gpu.tolist(), on_cpu.tolist(), strict=True))
    yield Figure(
        f"queries with other {NEIGHBORS} neighbors than on the CPU", f"{different} of {QUERIES}",
        f"below {MAX_DIFFERENT:.0%}", different < MAX_DIFFERENT * QUERIES,
    )  # fmt: skip


def load_encoder(device: str) -> Any:
    """The shipped encoder on a device."""
    from retrievers.machinery.embedding_models import EmbedderPlacement, find_checkpoint
    from retrievers.machinery.encoder import DualEncoder, Encoder

    return DualEncoder(find_checkpoint(Encoder().path), EmbedderPlacement(device, "float32"))


def neighbors(vectors: Any) -> Any:
    """The nearest images of the pool for each query, [QUERIES, NEIGHBORS]."""
    similarity = vectors[:QUERIES] @ vectors[QUERIES:].T
    return (-similarity).argsort(1)[:, :NEIGHBORS]


CHECK = BenchCheck(
    14, "an embedder beside the model", "no batch is halved; neighbors differ for fewer than 1 % of queries", 1.0, run,
    needs=("gpu", "hf"),
)  # fmt: skip
