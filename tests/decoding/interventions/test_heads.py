"""Function vectors and multimodal task vectors: effects of heads, known gains on the shipped model, and controls."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from decoding.interventions.edits import HeadEdit, VectorEdit, with_heads
from decoding.interventions.fit_data import FitData
from decoding.interventions.function_vector import FunctionVector
from decoding.interventions.head_effects import (
    head_contributions,
    head_effects,
    head_sites,
    mean_head_inputs,
    random_heads,
    strongest,
)
from decoding.interventions.mtv import MTV, sampled_masks
from icl.models.interventions import Site, steer
from tests.decoding.interventions.dev_split import accuracy, dev, tiny, write


@pytest.fixture(scope="module")
def data() -> FitData:
    return FitData(tiny(), dev(10, 1), dev(10, 2), max_new_tokens=4)


@pytest.fixture(scope="module")
def means(data: FitData) -> dict[str, torch.Tensor]:
    return mean_head_inputs(data)


def test_heads_are_replaced_by_hand() -> None:
    x = torch.zeros(2, 3, 2)
    edited = with_heads(x, [0, 2], torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 1)
    assert edited[0].tolist() == [[1, 2], [0, 0], [3, 4]]
    assert not x.any()


def test_the_contributions_of_all_heads_are_what_attention_adds(data: FitData) -> None:
    """The sum over heads, and the bias once, is the output of the attention block."""
    prompt = data.sources[0].prompt
    model = tiny()
    inputs = data.states([prompt], head_sites(model))[0]
    added = data.states([prompt], model.sites.all("attention"))[0]
    projection = model.sites.projection(0)
    bias = 0 if projection.bias is None else projection.bias.detach()  # type: ignore[union-attr]
    assert torch.allclose(head_contributions(model, inputs)[0].sum(0) + bias, added[0], atol=1e-4)


def test_effects_in_one_batch_are_those_of_single_rows(data: FitData, means: dict[str, torch.Tensor]) -> None:
    prompts = data.choice[:2]
    effects = head_effects(data, means["few_shot"], prompts)
    assert effects.shape == (4, 5)
    layer, head = 2, 1
    edit = HeadEdit({layer: (head,)}, {layer: means["few_shot"][layer, head : head + 1]})
    by_hand = []
    for one in prompts:
        base = one.with_shuffled_answers
        token = tiny().option_ids(base, [one.answers[0]])[0][0]
        before, after = (tiny().open([p]).logits[0].softmax(-1)[token] for p in (base, steer(base, edit)))
        by_hand.append(float(after - before))
    assert abs(float(effects[layer, head]) - sum(by_hand) / 2) < 1e-4
    assert strongest(torch.tensor([[0.1, 0.5], [0.4, 0.2]]), 3) == [(0, 1), (1, 0), (1, 1)]
    assert len(set(random_heads((4, 5), 7, 0))) == 7


def test_a_function_vector_recovers_the_task_and_random_heads_do_not(data: FitData, tmp_path: Path) -> None:
    """Known answer: a few heads are enough, most of them in layer 2."""
    method = write(tmp_path / "fv.safetensors", FunctionVector(), FunctionVector().fit(data))
    test = dev(20, 3)
    off = accuracy(replace(method, strength=0.0), test)
    assert accuracy(method, test) > off + 0.3
    assert accuracy(replace(method, control="random"), test) < off + 0.1
    assert [one.control for one in method.controls()] == ["random", "random_heads", "shuffled", "zero_shot"]  # type: ignore[attr-defined]
    edit = method.intervention()
    assert isinstance(edit, VectorEdit)
    one = replace(method, num_heads=1, layer=1).intervention()
    (i, head), *_ = strongest(method.file.tensors["effects"], 1)
    assert torch.equal(one.vectors[Site("residual", 1)], method.file.tensors["contributions"][i, head])  # type: ignore[attr-defined]


def test_few_heads_replaced_recover_the_task_and_all_heads_fail(data: FitData, tmp_path: Path) -> None:
    method = write(tmp_path / "mtv.safetensors", MTV(), MTV().fit(data))
    test = dev(20, 3)
    off = accuracy(replace(method, strength=0.0), test)
    assert accuracy(method, test) > off + 0.3
    assert accuracy(replace(method, num_heads=20), test) < 0.35
    assert accuracy(replace(method, control="random_heads"), test) < accuracy(method, test)


def test_the_order_of_heads_changes_nothing(means: dict[str, torch.Tensor]) -> None:
    from decoding.interventions.head_effects import head_edit

    layers = [0, 1, 2, 3]
    one = head_edit(layers, means["few_shot"], [(2, 1), (0, 3), (2, 0)])
    assert one.digest == head_edit(layers, means["few_shot"], [(0, 3), (2, 0), (2, 1)]).digest


def test_reinforce_depends_on_its_seed_alone_and_is_read_back(data: FitData, means: dict[str, torch.Tensor]) -> None:
    layers = [site.layer for site in head_sites(tiny())]
    first = sampled_masks(data, layers, means["few_shot"], steps=2)
    assert first == sampled_masks(data, layers, means["few_shot"], steps=2)
    assert first != sampled_masks(replace(data, seed=1), layers, means["few_shot"], steps=2)


def test_the_mask_of_reinforce_is_the_one_that_acts(data: FitData, tmp_path: Path) -> None:
    small = replace(data, choice=data.choice[:4])
    method = write(tmp_path / "r.safetensors", MTV(), MTV(search="reinforce", steps=1).fit(small))
    assert method.file.parameters["search"] == "reinforce"
    edit = method.intervention()
    assert isinstance(edit, HeadEdit)
    assert sum(map(len, edit.heads.values())) == method.file.parameters["num_heads"]
