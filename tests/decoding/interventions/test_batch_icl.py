"""Batch-ICL: a known gain on the shipped model, invariance under permuted demonstrations, and its sentences."""

from dataclasses import replace

import pytest
import torch

from decoding.arms.arm import parse_arm
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest, Failure
from decoding.interventions.batch_icl import BatchICL
from decoding.prompt_edits import keep_demonstrations, remove_demonstrations
from icl.models.interventions import Site, Where
from icl.types import Generation, Prompt
from tests.decoding.interventions.dev_split import dev, tiny


def texts(prompts: list[Prompt], method: BatchICL | None) -> list[str]:
    requests = [DecodingRequest(p, parse_arm("greedy"), max_new_tokens=4, intervene=method) for p in prompts]
    return [one.text for one in run_requests(tiny(), requests) if isinstance(one, Generation)]


def accuracy(method: BatchICL | None, prompts: list[Prompt]) -> float:
    answers = [one.answers for one in dev(20, 3)]
    return sum(text in own for text, own in zip(texts(prompts, method), answers, strict=True)) / len(answers)


def test_averaged_one_shot_states_recover_the_task_and_controls_do_not() -> None:
    prompts = [one.prompt for one in dev(20, 3)]
    off = accuracy(None, [remove_demonstrations(prompt) for prompt in prompts])
    assert accuracy(BatchICL(layer=2), prompts) > off + 0.3
    assert accuracy(BatchICL(layer=2, control="random"), prompts) < off
    assert [one.control for one in BatchICL(layer=2).controls()] == ["random", "shuffled"]  # type: ignore[attr-defined]


def test_the_order_of_demonstrations_changes_no_bit() -> None:
    prompt = dev(20, 3)[0].prompt
    turns = prompt.turns
    pairs = [turns[i : i + 2] for i in range(0, 16, 2)]
    permuted = replace(prompt, turns=(*(turn for pair in pairs[::-1] for turn in pair), *turns[16:]))
    one, other = (BatchICL(layer=2).steered([p], tiny())[0] for p in (prompt, permuted))
    assert one.turns == other.turns
    assert [edit.digest for edit in one.interventions] == [edit.digest for edit in other.interventions]


def test_the_state_is_the_mean_of_the_one_shot_states_at_the_last_two_tokens() -> None:
    prompt = dev(20, 3)[1].prompt
    site = Site("middle", 2)
    steered = BatchICL(layer=2).steered([prompt], tiny())[0]
    single = [keep_demonstrations(prompt, [i]) for i in range(8)]
    mean = torch.stack([own[site] for own in tiny().observe(single, [site], Where(count=2))]).mean(0)
    written = tiny().observe([steered], [site], Where(count=2))[0][site]
    assert torch.allclose(written, mean, atol=1e-4)
    assert steered.digest != remove_demonstrations(prompt).digest


def test_a_random_state_belongs_to_the_prompt_and_the_draw() -> None:
    first, second = (one.prompt for one in dev(20, 3)[:2])
    method = BatchICL(layer=2, control="random")

    def unit(method: BatchICL, prompt: Prompt) -> torch.Tensor:
        edit = method.steered([prompt], tiny())[0].interventions[0]
        return torch.nn.functional.normalize(edit.vectors[Site("middle", 2)], dim=-1)  # type: ignore[attr-defined]

    one = unit(method, first)
    assert torch.equal(one, unit(method, first))
    assert not torch.allclose(one, unit(replace(method, draw=1), first))
    assert not torch.allclose(one, unit(method, second))
    assert method.config["draw"] == 0
    assert "draw" not in BatchICL(layer=2).config


def test_no_demonstrations_leave_the_prompt_alone_and_a_missing_layer_is_a_sentence() -> None:
    bare = dev(20, 3)[0].without_demonstrations
    assert BatchICL(layer=2).steered([bare], tiny())[0] is bare
    assert "needs a layer, chosen on a dev split" in str(BatchICL().problem())
    failed = run_requests(
        tiny(), [DecodingRequest(dev(20, 3)[0].prompt, parse_arm("greedy"), intervene=BatchICL(layer=9))]
    )
    assert isinstance(failed[0], Failure)
    assert "has no middle of layer 9" in failed[0].reason


@pytest.mark.parametrize("layer", [1, -1])
def test_a_mixed_batch_equals_each_prompt_alone(layer: int) -> None:
    prompts = [one.prompt for one in dev(20, 3)[:4]]
    method = BatchICL(layer=layer)
    assert texts(prompts, method) == [texts([prompt], method)[0] for prompt in prompts]


@pytest.mark.parametrize("layer", [2, 3])
def test_one_group_writes_the_state_of_the_prompt_itself(layer: int) -> None:
    """At the last layer that state alone decides the next token."""
    prompt, site = dev(20, 3)[1].prompt, Site("residual", layer)
    steered = BatchICL(layer=layer, tokens=1, groups=1, state="residual").steered([prompt], tiny())[0]
    own, written = tiny().observe([prompt, steered], [site])
    assert torch.allclose(own[site], written[site], atol=1e-4)
    if layer == 3:
        assert torch.allclose(tiny().open([steered]).logits, tiny().open([prompt]).logits, atol=1e-3)


def test_groups_and_state_leave_the_digests_of_cells_alone() -> None:
    assert BatchICL(layer=2).config == {
        "name": "batch_icl",
        "layer": 2,
        "tokens": 2,
        "strength": 1.0,
        "control": "none",
    }
    assert BatchICL(layer=2, groups=1).config["groups"] == 1
