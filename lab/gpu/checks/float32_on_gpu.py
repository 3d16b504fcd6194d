"""The shipped model in float32 gives the same logits on the GPU as on the CPU."""

from collections.abc import Iterator

from lab.gpu.check import Bench, BenchCheck, Figure

MAX_DIFFERENCE = 1e-3
LENGTH = 12


def run(bench: Bench) -> Iterator[Figure]:
    """Compares each step along the CPU's tokens. TF32 is off, as it is by default."""
    import torch

    from lab.gpu.workload import (
        EXACT_GAP,
        agreement,
        forced_logits,
        greedy_tokens,
        load_model,
        make_prompts,
    )

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    prompts = make_prompts(8)
    on_cpu, on_gpu = (load_model(bench, "tiny", device=device, dtype="float32") for device in ("cpu", "cuda"))
    tokens = greedy_tokens(on_cpu, prompts, LENGTH)
    expected, logits = (forced_logits(model, prompts, tokens, 8) for model in (on_cpu, on_gpu))
    both = agreement(expected, logits, EXACT_GAP)
    passes = both.equal == both.decided and both.largest_difference < MAX_DIFFERENCE
    yield Figure("shipped model, 8 prompts", both.describe(), f"all equal, logits within {MAX_DIFFERENCE}", passes)
    yield Figure("notes of the model", "; ".join(on_gpu.notes) or "none")


CHECK = BenchCheck(
    3, "float32, CPU against GPU, TF32 off", "logits within 1e-3, tokens equal where the gap is over 1e-3", 1.0, run,
    needs=("gpu", "hf"), uses_models=False,
)  # fmt: skip
