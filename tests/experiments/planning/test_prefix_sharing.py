"""The estimate of an engine's prefix cache: shared prefixes of prompts, in whole blocks."""

import dataclasses
from typing import Any

import pytest
import tiny_models

import experiments.planning.plan
from experiments.config.config import load_config
from experiments.grid.grid import expand
from experiments.planning.plan import make_plan
from experiments.planning.plan_text import format_plan
from experiments.planning.prefix_sharing import PrefixBlocks, PrefixReuse
from icl.models.vllm.model import VLLM


def reuse(model: Any, prompts: Any) -> PrefixReuse:
    blocks = PrefixBlocks()
    for index, prompt in enumerate(prompts):
        blocks.add(model, prompt, model.count_tokens(prompt), 1, index)
    return blocks.scaled(1, 1)


def test_blocks_are_equal_up_to_the_first_different_token_or_image() -> None:
    model = VLLM(engine_args={"block_size": 4})
    one, words, image = (
        tiny_models.prompt(images, text, "q")
        for images, text in (([1, 2], "what is it?"), ([1, 2], "what is that?"), ([1, 3], "what is it?"))
    )
    size, own = model.prefix_blocks(one)
    assert len(own) == (model.count_tokens(one) - 1) // 4
    assert (size, own) == model.prefix_blocks(one)
    same = {name: sum(a == b for a, b in zip(own, model.prefix_blocks(other)[1], strict=False)) for name, other in
            (("words", words), ("image", image))}  # fmt: skip
    assert 0 < same["image"] < same["words"] < len(own)
    assert len(model.hf.renderer.text(one)) == len(model.hf.renderer.text(image))


def test_repeated_blocks_are_cached() -> None:
    model = VLLM(engine_args={"block_size": 4})
    prompt = tiny_models.prompt([1, 2], "what is it?", "q")
    assert reuse(model, [prompt]).cached == 0
    assert reuse(model, [prompt] * 3).cached == 2 * 4 * len(model.prefix_blocks(prompt)[1])
    assert reuse(dataclasses.replace(model, enable_prefix_caching=False), [prompt] * 3).cached == 0
    assert reuse(object(), []).fraction is None


@pytest.mark.parametrize("retriever", ["lab.bench.grid:Fixed", "random"])
def test_a_plan_that_counts_some_queries_estimates_the_reuse_of_all(
    retriever: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = {"name": "x", "task": {"name": "easy-vqa", "queries": 60}, "retriever": retriever, "shots": 4}
    some = make_plan(expand(load_config({**file, "model": "vllm"})))
    assert some.counted["easy-vqa"] == (24, 60)
    monkeypatch.setattr(experiments.planning.plan, "SAMPLED_QUERIES", 60)
    every = make_plan(expand(load_config({**file, "model": "vllm"})))
    assert some.cached_fraction is not None
    assert some.cached_fraction == pytest.approx(every.cached_fraction, abs=0.03)
    assert (some.cached_fraction > 0.4) == (retriever != "random")
    assert any(line.startswith("prefix cache") and f"{some.cached_fraction:.0%}" in line for line in format_plan(some))
    assert make_plan(expand(load_config({**file, "model": "hf"}))).cached_fraction is None
