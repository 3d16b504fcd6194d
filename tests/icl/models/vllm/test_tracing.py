"""`icl doctor backends` of transformers and vLLM: equal on a tiny checkpoint, and a difference of either is named."""

from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import torch
from reference import Reference

from experiments.diff.comparison import Parting, compare, verdict
from experiments.diff.recording import Side, record
from icl.models.hf.model import HF
from icl.models.tracing import STEPS, Stage, Trace, Tracer, greedy_trace, to_array, top_logprobs
from icl.models.vllm.model import VLLM
from icl.types import Prompt

SMALL = {"cache_gib": 0.1, "max_images": 4, "engine_args": {"max_num_seqs": 4}}


class PlainTransformers(Tracer):
    """Plain forward passes of transformers; sessions of `hf` need a newer release than vLLM pins."""

    hidden: ClassVar[dict[Stage, str]] = {}

    def __init__(self, model: HF) -> None:
        super().__init__(model)
        self.reference = Reference(Path(model.path))

    def load(self) -> None:
        pass

    unload = load

    def tracer(self) -> "PlainTransformers":
        return self

    def trace(self, prompt: Prompt, *, raw_images: bool = False) -> Trace:
        inputs: Any = self.reference._inputs(prompt)
        tokens: list[int] = []
        steps = []
        while len(steps) < STEPS and not (tokens and tokens[-1] in self.model.stop_tokens):
            steps.append(top_logprobs(self.reference.logits(prompt, tokens)[-1]))
            tokens.append(next(iter(steps[-1])))
        pixels = inputs.get("pixel_values", torch.zeros(0))
        sizes = [int(grid.prod()) for grid in inputs.get("image_grid_thw", ())]
        ids = tuple(inputs["input_ids"][0].tolist())
        images = tuple(map(to_array, pixels.split(sizes))) if sizes else ()
        return greedy_trace(self.model, steps, text=self.model.render(prompt), ids=ids, pixels=images)


def traced(model: Any) -> Side:
    prompts = {"few-shot": checkpoints.tiny_models().prompt([1, 2, 3])}
    return record(type(model).__name__, model, prompts, 56)


def parted(a: Side, b: Side) -> Parting:
    return verdict(a, b, compare(a, b)[1])


def test_transformers_and_vllm_agree_and_differences_of_either_are_named(tmp_path: Path) -> None:
    path = str(checkpoints.shared("qwen2_5_vl"))
    plain, engine = traced(PlainTransformers(HF(path))), traced(VLLM(path, **SMALL))
    rows = compare(plain, engine)[1]
    assert parted(plain, engine).stage is None, parted(plain, engine).sentence
    equal = {stage for row in rows for stage, one in row.outcomes.items() if one.status.value == "equal"}
    assert equal == set(Stage) - {Stage.FEATURES}
    assert max(row.outcomes[Stage.FIRST].size for row in rows) < 1e-4
    assert engine.hidden == {Stage.FEATURES: "not visible in vLLM's engine"}

    smaller = parted(plain, traced(VLLM(path, image_processor={"max_pixels": 56 * 56}, **SMALL)))
    assert (smaller.prompt, smaller.stage) == ("'large'", Stage.IMAGES), smaller.sentence
    rounded = parted(engine, traced(VLLM(path, dtype="bfloat16", **SMALL)))
    assert rounded.causes == ("dtype is float32 in A and bfloat16 in B",), rounded.sentence
