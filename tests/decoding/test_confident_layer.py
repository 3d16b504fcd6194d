"""Confident Decoding: the search by hand, and the logits of layers against the model's own states, norm and output."""

from pathlib import Path

import pytest
import tiny_models
import torch

from decoding.arms.arm import parse_arm
from decoding.arms.requirements import branch_edit_refusal
from decoding.strategies.confident import ConfidentLayer, valley
from icl.models.hf.model import HF
from tests.decoding.test_attention_negatives import Slow, question


def test_the_search_stops_where_the_layer_before_is_not_more_confident() -> None:
    columns = [[3.0, 2.0, 1.0, 0.5], [3.0, 2.0, 2.0, 0.5], [1.0, 2.0, 0.1, 0.1], [3.0, 1.0, 2.0, 0.1]]
    assert valley(torch.tensor(columns).T).tolist() == [3, 1, 0, 1]


def test_each_row_has_the_logits_of_its_own_layer() -> None:
    sharp, flat = torch.tensor([5.0, 0.0, 0.0]), torch.tensor([0.3, 0.2, 0.0])
    logits = torch.stack([torch.stack([flat, sharp]), torch.stack([sharp, flat]), torch.stack([flat, sharp * 2])])
    scores = ConfidentLayer(depth=2).combine(logits, 0)
    assert torch.equal(scores, torch.stack([sharp, sharp]))


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_the_branches_are_the_layers_through_the_models_norm_and_output(name: str, tmp_path: Path) -> None:
    model = HF(path=str(tiny_models.save(name, tmp_path)), dtype="float32", device="cpu")
    model.load()
    prompt, tokens, method = question(1), [5, 9], ConfidentLayer(depth=1)
    slow = Slow(model, prompt)
    branches = method.branches(prompt)
    rows = model.open([*branches, question(4)])
    for number in range(len(tokens) + 1):
        with torch.no_grad():
            output = slow.model(**slow.with_output(tokens[:number]), use_cache=False, output_hidden_states=True)
            state = slow.model.get_decoder().norm(output.hidden_states[-2][0, -1])
            expected = slow.model.get_output_embeddings()(state)
        own = rows.logits[1].float()
        assert torch.allclose(own, expected, atol=1e-4), float((own - expected).abs().max())
        assert torch.allclose(rows.logits[0].float(), output.logits[0, -1], atol=1e-4)
        assert float((own - output.logits[0, -1]).abs().max()) > 1e-2
        if number < len(tokens):
            rows.advance(torch.tensor([tokens[number]] * 3))


def test_more_layers_than_the_model_has_are_refused_before_it_loads() -> None:
    model = HF(path="tiny", device="cpu")
    refusal = branch_edit_refusal(parse_arm({"name": "confident_layer", "depth": 4}), model)
    assert refusal == "the model has no layer -5. Its 4 layers are 0 to 3; -1 is the last."
    assert branch_edit_refusal(parse_arm("confident_layer"), model) is None
