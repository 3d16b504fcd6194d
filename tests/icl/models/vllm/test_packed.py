"""Checkpoints in the 4-bit formats of GPTQ and AWQ, loaded by their own config, with vLLM's kernels.

They are compared with the same weights in full precision, and with the packed layers of the backend `hf`.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import groups
import packed
from reference import Reference

from icl.models.hf.model import HF
from icl.types import Generation

TOLERANCE = 0.03
"""Tolerance of a logit: the engine multiplies in bfloat16, the reference in float32."""


CASES = [("llava", "gptq"), ("qwen2_5_vl", "awq"), ("llava", "awq"), ("qwen2_5_vl", "gptq")]


@pytest.mark.parametrize(("architecture", "method"), CASES if groups.IS_WHOLE else CASES[:2])
def test_packed_weights_give_the_answers_of_full_precision_and_of_hf(
    architecture: str, method: str, tmp_path: Path
) -> None:
    source = checkpoints.saved(architecture, tmp_path)
    small, full = packed.made(source, tmp_path, method)
    engine = groups.tiny_engine(small)
    requests = groups.decoding_requests(16, 8, arms=["greedy", groups.ARMS[0]])
    answers = groups.run_requests(engine, requests)
    layers = [type(layer.quant_method).__name__ for layer in layers_of(engine) if hasattr(layer, "quant_method")]
    engine.unload()
    assert any("AWQ" in layer or "GPTQ" in layer for layer in layers), layers
    on_hf = Reference(full, TOLERANCE)
    on_hf.model = packed_on_hf(small)
    references = (Reference(full, TOLERANCE), on_hf, Reference(source, TOLERANCE))
    same, here, other = (agreed(reference, requests, answers) for reference in references)
    print(method, same, here, other)
    assert same[1] == same[0] > 0.5 * same[2]
    assert here == same
    assert other[1] < other[0]  # the weights before they were rounded say something else


def packed_on_hf(folder: Path) -> Any:
    """The model that `hf` loads. The transformers of this environment is too old for its sessions, but can run it."""
    hf = HF(path=str(folder))
    model = hf.checkpoint.weights(dtype=torch.float32, **hf.quantization.arguments())
    assert any(type(layer).__name__ == "PackedLinear" for layer in model.modules())
    return model


def layers_of(engine: groups.Watched) -> list[object]:
    return list(engine.engine.llm.apply_model(lambda model: list(model.modules()))[0])


def agreed(reference: Reference, requests: list[groups.DecodingRequest], answers: list[object]) -> tuple[int, int, int]:
    """Numbers of decided steps, of decided steps with the reference's token, and of all steps."""
    total = [0, 0, 0]
    for request, answer in zip(requests, answers, strict=True):
        assert isinstance(answer, Generation), answer
        stops = frozenset(checkpoints.STOPS) if answer.finish == "stop" else frozenset()
        compared = reference.compare(request.prompt, request.arm, answer.tokens, stops)
        total = [a + b for a, b in zip(total, (compared.decided, compared.equal, compared.steps), strict=True)]
    return total[0], total[1], total[2]
