"""Attention of the last token by span: against transformers' own attention, known answers, and its sentences."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from decoding.interventions.attention_scaling import AttentionScaling
from experiments.analyses.attention import OTHER, SPANS, analyze, attention_mass, layer_masses, token_owners
from experiments.cli.main import main
from experiments.results.run_view import RunView
from icl.errors import ConfigError, PlanError
from icl.models.hf.image_features import vision_arguments
from icl.types import Prompt
from tests.decoding.interventions.dev_split import dev, tiny
from tests.live_storages import LiveStorages

TINY = {"name": "hf", "path": "tiny", "device": "cpu"}
OPERATORS = {"name": "operators", "operator": "minus", "queries": 6}


def prompts(count: int = 3) -> tuple[Prompt, ...]:
    return tuple(one.prompt for one in dev(20, 3)[:count])


def masses(*own: Prompt) -> list[Any]:
    return list(layer_masses(tiny(), own))


@pytest.fixture
def zeroed_queries() -> Iterator[None]:
    """The shipped model with projections of queries that are zero, so that all scores are equal."""
    layers: list[Any] = list(tiny().sites.layers)
    weights = [layer.self_attn.q_proj.weight.data for layer in layers]
    copies = [weight.clone() for weight in weights]
    for weight in weights:
        weight.zero_()
    yield
    for weight, own in zip(weights, copies, strict=True):
        weight.copy_(own)


def test_the_mass_is_that_of_the_attention_that_transformers_returns() -> None:
    prompt = prompts(1)[0]
    own, shares = masses(prompt)[0]
    runner = tiny().engine.runner
    model, before = runner.model, runner.attention
    arguments = runner.padded(tiny().engine.prompt_encoder.read([prompt]))
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            images = vision_arguments(arguments["images"])
            output = model(input_ids=arguments["tokens"], output_attentions=True, **images)
    finally:
        model.set_attn_implementation(before)
    owners = token_owners(tiny().span_tokens([prompt], SPANS)[0], arguments["tokens"].shape[1])
    for layer, weights in enumerate(output.attentions):
        assert np.allclose(own[layer], attention_mass(weights[0, :, -1].double().numpy(), owners), atol=1e-4)
    assert np.isclose(shares.sum(), 1)


def test_equal_scores_give_each_span_its_share_of_the_tokens(zeroed_queries: None) -> None:
    for own, shares in masses(*prompts()):
        assert all(np.allclose(one, shares, atol=1e-5) for one in own.values())
        assert shares[SPANS.index("demo_images")] > 0.05


def test_a_prompt_has_its_own_shares_beside_a_longer_one() -> None:
    longer = prompts(1)[0]
    shorter = replace(longer, turns=longer.turns[4:])
    for (own, shares), alone in zip(masses(longer, shorter), (masses(longer)[0], masses(shorter)[0]), strict=True):
        assert np.array_equal(shares, alone[1])
        assert all(np.allclose(own[layer], alone[0][layer], atol=1e-5) for layer in own)


def test_the_spans_of_a_layer_sum_to_one_and_follow_an_intervention() -> None:
    prompt = prompts(1)[0]
    (own, _), (raised, _) = masses(prompt, AttentionScaling(alpha=0, factor=4.0).steered([prompt], tiny())[0])
    images = [SPANS.index("demo_images"), SPANS.index("query_images")]
    assert all(np.allclose(one.sum(1), 1, atol=1e-5) for one in (*own.values(), *raised.values()))
    assert raised[0][4, images].sum() > 3 * own[0][4, images].sum() > 0  # head 4 looks elsewhere


def test_the_table_has_each_layer_and_span_of_the_first_queries(ran: Callable[..., RunView], tmp_path: Path) -> None:
    view = ran(task=OPERATORS, model=TINY, shots=2, seeds=[0], max_new_tokens=2)
    table = analyze(view)
    assert list(table["span"][:6]) == [*SPANS, OTHER]
    assert np.allclose(table.groupby("layer")[["attention", "tokens"]].sum(), 1, atol=1e-4)
    assert set(table["n"]) == {6}
    figure = tmp_path / "x.svg"
    assert main(["analyze", str(view.path), "attention", "--queries", "2", "--as", "svg", "--out", str(figure)]) == 0
    assert "query images" in figure.read_text()


def test_reading_attention_needs_the_scores_of_the_last_tokens_alone() -> None:
    def peak(run: Callable[[], object]) -> int:
        tiny().engine.prefiller.cached_prefixes.clear()
        with LiveStorages() as live:
            run()
        return live.peak

    own = prompts(3)
    masses(*own)
    tokens = max(map(len, tiny().engine.prompt_encoder.read(own)))
    scores = 4 * 5 * tokens * 4 * len(own)  # layers x heads x tokens x 4 bytes
    assert scores / 2 < peak(lambda: masses(*own)) - peak(lambda: tiny().open(own)) < 1.2 * scores < 5 * tokens**2 * 4


def test_models_without_attention_are_sentences(ran: Callable[..., RunView]) -> None:
    with pytest.raises(PlanError, match=r"reads interventions, which '.*' does not give. Use a run of the model 'hf'"):
        analyze(ran(model="fake-copy", shots=2))
    flash = replace(tiny(), attn_implementation="flash_attention_2")
    with pytest.raises(ConfigError, match=r"computes no scores that could be edited\. Use sdpa or eager"):
        list(layer_masses(flash, prompts(1)))
