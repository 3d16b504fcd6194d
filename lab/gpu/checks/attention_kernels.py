"""The attention kernels agree, with and without padding."""

from collections.abc import Iterator
from importlib.util import find_spec

from experiments.cli.doctor import FLASH_ATTENTION_CAPABILITY
from lab.gpu.check import Bench, BenchCheck, Figure

LENGTH = 8
DEMOS = {"padded": (0, 1, 2, 3), "not padded": (2,)}


def run(bench: Bench) -> Iterator[Figure]:
    """Compares eager and flash_attention_2 with sdpa, along the tokens of sdpa."""
    from lab.gpu.workload import agreement, forced_logits, greedy_tokens, load_model, make_prompts

    path = bench.model("narrow")  # it is loaded three times
    prompts = {name: make_prompts(4, demos) for name, demos in DEMOS.items()}
    model = load_model(bench, path, dtype=bench.dtype, attn_implementation="sdpa")
    tokens = {name: greedy_tokens(model, own, LENGTH) for name, own in prompts.items()}
    expected = {name: forced_logits(model, own, tokens[name], 4) for name, own in prompts.items()}
    for kernel in ("eager", "flash_attention_2"):
        if kernel == "flash_attention_2" and (problem := flash_problem(bench.device)):
            yield Figure(kernel, f"not here: {problem}")
            continue
        model.unload()
        model = load_model(bench, path, dtype=bench.dtype, attn_implementation=kernel)
        for name, own in prompts.items():
            both = agreement(expected[name], forced_logits(model, own, tokens[name], 4))
            yield Figure(f"{kernel}, {name}", both.describe(), "all equal, over 90 % decided", both.holds())


def flash_problem(device: str) -> str:
    """Why flash_attention_2 cannot run here, or ''."""
    if device == "cpu":
        return "needs a GPU"
    if find_spec("flash_attn") is None:
        return "flash-attn is not installed"
    import torch

    capability = torch.cuda.get_device_capability()
    return "" if capability >= FLASH_ATTENTION_CAPABILITY else f"the GPU has capability {capability}"


CHECK = BenchCheck(
    5,
    "sdpa, eager, flash_attention_2",
    "equal where the gap is over .05, with and without padding",
    1.5,
    run,
    needs=("hf",),
)
