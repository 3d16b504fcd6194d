"""Greedy answers through the toolkit against `LLM.chat` of vLLM, on one engine."""

from collections.abc import Iterator
from typing import Any

from lab.gpu.check import Bench, BenchCheck, Figure, judge
from tests.random_models.conversations import conversation

PROMPTS = {"cuda": 256, "cpu": 24}
LENGTH = {"cuda": 32, "cpu": 8}
ROUNDS = 3
GOAL = 0.95


def run(bench: Bench) -> Iterator[Figure]:
    """Time from prompts to answers, with empty caches in every round."""
    from decoding.arms.arm import parse_arm
    from lab.gpu.vllm_workload import decode_in_engine, engine, forget
    from lab.gpu.workload import make_prompts, median_seconds

    on_gpu = bench.device == "cuda"
    model = engine(bench, bench.model("full"), dtype=bench.dtype if on_gpu else "float32", trace=False)
    count, length = PROMPTS[bench.device], LENGTH[bench.device]
    prompts, arm = make_prompts(count, (2, 3, 4)), parse_arm("greedy")

    def ours() -> None:
        forget(model)
        decode_in_engine(model, prompts, [arm], length)

    def theirs() -> None:
        from vllm import SamplingParams

        forget(model)
        llm: Any = model.engine.llm  # type: ignore[union-attr]  # one engine
        stops = list(model.stop_tokens)
        parameters = SamplingParams(temperature=0, max_tokens=length, stop_token_ids=stops)
        llm.chat([conversation(prompt, "image_pil") for prompt in prompts], parameters, use_tqdm=False)

    mine, chat = median_seconds(bench, [ours, theirs], ROUNDS)
    ratio = chat / mine
    measured = f"{ratio:.2f} ({mine:.1f} s against {chat:.1f} s)"
    yield Figure(f"{count} prompts, samples a second", measured, *judge(bench, ratio, GOAL))
    model.unload()


CHECK = BenchCheck(11, "vllm against LLM.chat, 256 prompts", "at least .95", 3.0, run, needs=("vllm",), in_quick=False)
