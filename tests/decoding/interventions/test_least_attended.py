"""Few tokens to attend to: the choice by hand, what remains of the attention, and CRoPS' negatives under it."""

import math
from dataclasses import replace

import pytest
import torch

from decoding.arms.arm import parse_arm
from decoding.arms.requirements import unsupported_reason
from decoding.engine.engine import DecodingRequest, run_requests
from decoding.strategies.crops import CRoPS, LeastAttended, chosen_keys
from icl.models.interventions import Keys, Site, steer
from icl.types import Prompt
from tests.decoding.interventions.dev_split import dev, tiny
from tests.decoding.interventions.test_attention_edits import prompts, tokens_of

LAST_LAYERS = [Site("scores", layer) for layer in range(4)]


def weights(prompt: Prompt) -> list[torch.Tensor]:
    """Attention of the last token, mean over heads, of each layer [T]."""
    states = tiny().observe([prompt], LAST_LAYERS)[0]
    return [states[site][0].softmax(-1).mean(0) for site in LAST_LAYERS]


def test_the_smallest_candidates_stay() -> None:
    order = torch.tensor([[0.1, 0.4, 0.2, 0.2, 0.9], [5.0, 4.0, 3.0, 2.0, 1.0]])
    keys = torch.tensor([[False, True, True, True, True], [True, True, True, False, False]])
    assert chosen_keys(order, keys, 2, 1.0).tolist() == [
        [False, False, True, True, False],
        [False, True, True, False, False],
    ]
    assert chosen_keys(order, keys, 1, 1.0)[0].tolist() == [False, False, True, False, False], "of equals the earlier"
    assert chosen_keys(order, keys, None, 0.3).sum(1).tolist() == [2, 1], "rounded up: 1.2 of 4, 0.9 of 3"
    assert torch.equal(chosen_keys(order, keys, 9, 1.0), keys)
    assert int(chosen_keys(torch.rand(1, 300), torch.ones(1, 300, dtype=torch.bool), None, 0.09).sum()) == 27


@pytest.mark.parametrize("choice", ["least", "random"])
def test_a_share_of_the_images_tokens_stays_from_a_layer_on(choice: str) -> None:
    prompt = prompts(1)[0]
    edit = LeastAttended(Keys(("demo_images",), own=False), share=0.45, layer=1, choice=choice)
    before, after = weights(prompt), weights(steer(prompt, edit))
    tokens = tokens_of(prompt, "demo_images")
    others = [token for token in range(len(before[0])) if token not in tokens]
    assert torch.equal(after[0], before[0])
    left = [sorted(token for token in tokens if own[token] > 0) for own in after]
    count = math.ceil(0.45 * len(tokens))
    assert [len(own) for own in left] == [len(tokens), count, count, count]
    least = sorted(sorted(tokens, key=lambda token: float(before[1][token]))[:count])
    assert (left[1] == least) == (choice == "least")
    assert all((own[others] > 0).all() for own in after)
    assert (left[1] == left[2] == left[3]) == (choice == "random")


def test_a_batch_and_steps_equal_each_prompt_alone_and_all_tokens_are_off() -> None:
    edits = [LeastAttended(Keys(own=False), count=6, layer=-2), LeastAttended(Keys(("images",)), share=0.5, layer=1)]
    steered = [*(steer(one, edit) for one in (prompts(1)[0], dev(1, 4, 2)[0].prompt) for edit in edits), prompts(2)[1]]
    together, alone = tiny().open(steered), [tiny().open([one]) for one in steered]
    for token in (5, 6):
        assert torch.allclose(together.logits, torch.cat([one.logits for one in alone]), atol=1e-3)
        together.advance(torch.full((len(steered),), token))
        for one in alone:
            one.advance(torch.tensor([token]))
    plain = tiny().open(prompts(1)).logits
    assert float((tiny().open(steered[:1]).logits - plain).abs().max()) > 1e-2
    everything = LeastAttended(Keys(own=False), count=10_000, layer=0)
    assert torch.equal(tiny().open([steer(prompts(1)[0], everything)]).logits, plain)
    assert steer(steered[-1], LeastAttended(Keys())) is steered[-1]


def test_the_masks_of_crops_are_on_its_negatives_and_decode() -> None:
    prompt = dev(1, 4, 2)[0].prompt
    inputs, masks = CRoPS(), CRoPS(negatives="attention", layer=1, text_kept=3)
    reference, language, statistics = masks.branches(prompt)
    assert reference is prompt
    assert replace(language, interventions=()) == inputs.branches(prompt)[1]
    assert replace(statistics, interventions=()) == prompt
    arms = [parse_arm({"name": "crops", "negatives": how, "layer": 1, "confident": 1.0}) for how in (
        "attention", "random_attention", "inputs")]  # fmt: skip
    results = run_requests(tiny(), [DecodingRequest(prompt, arm, max_new_tokens=3) for arm in arms])
    assert all(result.text for result in results)  # type: ignore[union-attr]
    least, random = (masks, replace(masks, negatives="random_attention"))
    logits = [tiny().open(list(one.branches(prompt))).logits for one in (inputs, least, random)]
    assert torch.allclose(logits[0][0], logits[1][0], atol=1e-4)
    for one, other in ((0, 1), (1, 2)):
        assert float((logits[one][1] - logits[other][1]).abs().max()) > 1e-2
    assert len(tokens_of(prompt, "query_images")) == 1, "an image of this model has one token, which stays"
    assert torch.allclose(logits[1][2], logits[1][0], atol=1e-4)


def test_a_model_without_attention_is_refused_with_the_masks_alone() -> None:
    assert unsupported_reason(CRoPS(), frozenset({"logits"})) is None
    reason = unsupported_reason(CRoPS(negatives="attention"), frozenset({"logits"}))
    assert "needs edits of attention or hidden states" in str(reason)
    assert "runs with model hf" in str(reason)
