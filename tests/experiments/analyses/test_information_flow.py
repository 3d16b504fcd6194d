"""Information flow: means by hand, saliency against transformers' own attention, and the effect of a known cut."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from experiments.analyses.information_flow import analyze, flow_means, gold_loss
from experiments.results.run_view import RunView
from icl.errors import ModelError, PlanError
from icl.models.hf import gradients
from icl.models.hf.gradients import attention_saliency
from icl.models.hf.image_features import vision_arguments
from icl.models.hf.memory import DeviceMemory
from icl.types import Example
from tests.decoding.interventions.dev_split import dev, tiny


def test_the_means_are_over_pairs_that_attend_to_earlier_tokens() -> None:
    saliency = np.arange(16.0).reshape(4, 4)  # entry (i, j) is 4 i + j
    collect, read, rest = flow_means(saliency, [1], 3)
    assert (collect, read) == (4.0, 13.0)
    assert rest == np.mean([8.0, 9.0, 12.0, 14.0])


def test_the_saliency_is_that_of_the_attention_that_transformers_returns() -> None:
    prompt = dev(20, 3)[0].prompt
    own = attention_saliency(tiny(), prompt, lambda logits: -logits.log_softmax(-1)[7])
    runner = tiny().engine.runner
    model, before = runner.model, runner.attention
    arguments = runner.padded(tiny().engine.prompt_encoder.read([prompt]))
    weights: list[Any] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        output[1].retain_grad()
        weights.append(output[1])

    layers: list[Any] = list(tiny().sites.layers)
    handles = [layer.self_attn.register_forward_hook(keep) for layer in layers]
    projection = layers[0].self_attn.q_proj.weight
    required = projection.requires_grad
    model.set_attn_implementation("eager")
    try:
        projection.requires_grad_(True)
        with torch.enable_grad():
            output = model(input_ids=arguments["tokens"], **vision_arguments(arguments["images"]))
            (-output.logits[0, -1].log_softmax(-1)[7]).backward()
    finally:
        model.set_attn_implementation(before)
        projection.requires_grad_(required)
        projection.grad = None
        for handle in handles:
            handle.remove()
    assert list(own) == list(range(len(weights)))
    for layer, weight in enumerate(weights):
        expected = (weight * weight.grad)[0].sum(0).abs().detach().fill_diagonal_(0)
        assert torch.allclose(own[layer], expected, atol=1e-5 * float(expected.max()))
    assert all(weight.grad is None for weight in model.parameters())


def test_a_prompt_whose_saliency_does_not_fit_into_memory_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = dev(20, 3)[0].prompt
    memory = DeviceMemory("cuda", 1000.0, 1e9)
    monkeypatch.setattr(gradients, "model_memories", lambda model: [memory])
    with pytest.raises(ModelError, match=r"the saliency of a prompt of \d+ tokens needs .* are free. Use fewer shots"):
        attention_saliency(tiny(), prompt, lambda logits: logits[0])


def test_the_loss_is_over_the_options_if_their_first_tokens_differ() -> None:
    prompt = dev(20, 3)[0].prompt
    logits = torch.randn(tiny().engine.runner.model.config.text_config.vocab_size)
    first = [ids[0] for ids in tiny().option_ids(prompt, ["3", "7"])]
    among = Example("q", (), "?", answers=("7",), options=("3", "7"))
    open_ended = Example("q", (), "?", answers=("7",))
    assert float(gold_loss(tiny(), prompt, among, logits)) == pytest.approx(-float(logits[first].log_softmax(-1)[1]))
    assert float(gold_loss(tiny(), prompt, open_ended, logits)) == pytest.approx(
        -float(logits.log_softmax(-1)[first[1]])
    )
    repeated = Example("q", (), "?", answers=("7",), options=("7", "7", "3"))
    assert torch.equal(gold_loss(tiny(), prompt, repeated, logits), gold_loss(tiny(), prompt, open_ended, logits))


def test_new_names_are_read_from_the_answers_in_one_layer(ran: Callable[..., RunView]) -> None:
    task = {"name": "binding", "queries": 6, "seed": 0}
    view = ran(task=task, model={"name": "hf", "path": "tiny", "device": "cpu"}, shots=8, seeds=[0], max_new_tokens=4)
    table = analyze(view)
    assert list(table["layer"]) == [0, 1, 2, 3]
    assert table["cut"][1] < table["others"][1] == table["uncut"][1]
    assert table["collect"][3] == 0 < table["collect"][1] < table["read"][1]  # nothing is read after the last layer
    assert min(table["read"][1], table["read"][2]) > 1000 > table["read"][0]
    assert table["effect"][1] == pytest.approx(table["cut"][1] - table["others"][1])


def test_a_model_without_attention_is_a_sentence(ran: Callable[..., RunView]) -> None:
    with pytest.raises(PlanError, match="Use a run of the model 'hf'"):
        analyze(ran(model="fake-copy", shots=2))
