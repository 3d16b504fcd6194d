"""The driver, the card and the versions. They are recorded, and torch must be built for the card."""

from collections.abc import Iterator

from lab.gpu.check import Bench, BenchCheck, Figure

RECORDED = ("python", "torch", "transformers", "vllm", "bitsandbytes", "flash-attn", "torch build", "driver")


def run(bench: Bench) -> Iterator[Figure]:
    """The findings of `icl doctor` that decide what runs, and whether NVML answers."""
    from experiments.cli.doctor import findings, inspect_machine

    for finding in findings(inspect_machine()):
        if finding.name in RECORDED or finding.name.startswith(("gpu", "visible", "quantize")):
            passes = finding.status != "red" if finding.status != "not here" else None
            yield Figure(finding.name, finding.text, passes=passes)
    if bench.device == "cuda":
        import torch

        count = torch.cuda._device_count_nvml()  # -1: NVML does not answer
        yield Figure("GPUs that NVML counts", str(count), "at least 1", count > 0)


CHECK = BenchCheck(
    1, "driver, card, versions, NVML", "recorded; torch is built for the card", 0.5, run, uses_models=False
)
