"""Decoding steps as CUDA graphs (`icl.models.hf.step_graphs`), counted without a GPU: operations a step, and equality.

A launch of a graph counts as one operation. The model is the shipped one, and one with 28 layers of random weights.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from decoding.arms.arm import Arm
from icl.models.hf.checkpoint import SHIPPED
from icl.models.hf.model import HF
from icl.types import Generation
from lab.bench import Row, one_thread
from lab.bench.decoding import Endless, prompts_of
from lab.bench.device_traffic import PROMPTS, four_arms, traffic_of_generate, traffic_per_step, twelve_arms
from lab.bench.equal_answers import answers

LAYERS = 28


def rows(layers: int = LAYERS) -> Iterator[Row]:
    """Operations a step with and without graphs, of the shipped model and of one with more layers, and equality."""
    plain = HF(path="tiny", dtype="float32", device="cpu")
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        deep = replace(plain, path=str(with_layers(Path(folder), layers)))
        for model, name in ((plain, "tiny"), (deep, f"{layers} layers")):
            yield f"{name}: operations a step of generate", f"{_of_generate(model):,.0f}", ""
            for arms in (four_arms()[:1], four_arms(), twelve_arms()):
                counts = [_operations(one, arms) for one in (model, replace(model, cuda_graphs=True))]
                figure = "{:,.0f}, with graphs {:,.0f}".format(*counts)
                yield f"{name}: operations a step, {len(arms)} arm{'s' * (len(arms) > 1)}", figure, ""
    yield from _equality(plain)


def with_layers(folder: Path, layers: int) -> Path:
    """The shipped model with so many decoder layers and random weights, in a folder."""
    shutil.copytree(SHIPPED["tiny"](), folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors*"))
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["text_config"]["num_hidden_layers"] = layers
    file.write_text(json.dumps(config))
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


def _of_generate(model: HF) -> float:
    model.load()
    return traffic_of_generate(model, prompts_of(0)[:PROMPTS])["operations"]


def _operations(model: HF, arms: list[Arm]) -> float:
    model.load()
    return traffic_per_step(Endless(model), prompts_of(0)[:PROMPTS], arms)["operations"]


def _equality(plain: HF) -> Iterator[Row]:
    """Answers and traces of all arms of `equal_answers`, with and without graphs."""
    graphed = replace(plain, cuda_graphs=True)
    before, after = list(answers(plain)), list(answers(graphed))
    steps, forwards = graphed.engine.counters.graph_steps, graphed.engine.counters.forwards
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if isinstance(a, Generation)]
    yield "forward passes by graphs", f"{steps:,} of {forwards:,}", ""
    equal = sum(isinstance(b, Generation) and a.tokens == b.tokens for a, b in pairs)
    yield "answers with equal tokens", f"{equal:,} of {len(pairs):,}", "all"
    numbers = [
        abs(one - other)
        for a, b in pairs
        if isinstance(b, Generation)
        for name in a.trace
        for one, other in zip(a.trace[name], b.trace[name], strict=False)
    ]
    differing = [gap for gap in numbers if gap]
    figure = f"{len(differing):,} of {len(numbers):,}, by at most {max(differing, default=0):.0e}"
    yield "differing numbers of traces", figure, "0.0001"
