"""The plan predicts to the token how much of some prompts the prefix cache will have."""

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import groups

from decoding.arms.arm import parse_arm
from decoding.engine.requests import DecodingRequest
from experiments.planning.prompt_counts import PrefixBlocks


@pytest.mark.parametrize("architecture", ["llava", "qwen2_5_vl"] if groups.IS_WHOLE else ["qwen2_5_vl"])
def test_the_prefix_cache_has_the_blocks_of_the_plan(architecture: str) -> None:
    tiny = checkpoints.tiny_models()
    model = groups.tiny_engine(checkpoints.shared(architecture))
    prompts = [tiny.prompt([1, 2, 3, 4 + i % 3], f"question {i % 5}?", f"q{i}") for i in range(12)]
    prompts += [tiny.prompt([2, 1, 3], "question 0?", "other")]  # other images behind the same words
    planned = PrefixBlocks()
    distinct = {prompt.digest: prompt for prompt in prompts}.values()
    for place, prompt in enumerate(distinct):
        planned.add(model, prompt, model.count_tokens(prompt), 1, place)
    groups.run_requests(
        model, [DecodingRequest(p, parse_arm("greedy"), max_new_tokens=1) for p in distinct], trace=False
    )
    counts = model.counters()
    model.unload()
    expected = planned.scaled(1, 1)
    assert (counts["prompt_tokens"], counts["cached_tokens"]) == (expected.tokens, expected.cached)
    assert expected.cached > 0.4 * expected.tokens
