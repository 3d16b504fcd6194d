"""States of the vision tower are read and edited at its layers, for the addressed images alone."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch

import icl
from icl.errors import ModelError
from icl.models.hf.model import HF
from icl.models.hf.sites import DecoderSites
from icl.models.interventions import PartEdit, Site, SiteKind, Where, steer
from icl.types import Prompt
from tests.random_models.site_checks import RandomEdit

ModelOf = Callable[[str], HF]
IMAGES = Where("images")
KINDS: tuple[SiteKind, ...] = ("vision", "vision_mlp")


@pytest.fixture(scope="module")
def hf() -> HF:
    model = HF(path="tiny", device="cpu")
    model.load()
    return model


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    task = icl.load_task("binding", ways=2, queries=3)
    return [icl.compose("chat", icl.retrieve("random", task, query, shots=2)) for query in task.queries]


def by_hand(model: HF, prompts: list[Prompt], layer: torch.nn.Module, edit: RandomEdit | None) -> Any:
    """Logits of each prompt alone, and states, by a hook of the test's own, with an empty cache of features."""
    states: list[torch.Tensor] = []

    def hook(module: Any, args: Any, output: Any) -> Any:
        own = output[0] if isinstance(output, tuple) else output
        states.append(own.flatten(0, -2).clone())
        if edit is None:
            return None
        new = edit.edit(edit.sites[0], own.flatten(0, -2), []).view(own.shape)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    logits = []
    with ExitStack() as stack:
        handle = layer.register_forward_hook(hook, prepend=True)
        stack.callback(handle.remove)
        for prompt in prompts:
            encoder = model.engine.prompt_encoder.encoder
            assert encoder is not None
            encoder.cache.clear()
            model.engine.prefiller.cached_prefixes.clear()
            logits.append(model.open([prompt]).logits)
        encoder.cache.clear()
    return torch.cat(logits), states


def test_edits_and_states_are_those_of_hooks_on_the_towers_own_modules(hf: HF, prompts: list[Prompt]) -> None:
    tower = hf.engine.runner.model.model.vision_model.encoder.layers
    base = hf.open(prompts).logits
    assert all(hf.sites.all(kind) == tuple(Site(kind, layer) for layer in range(len(tower))) for kind in KINDS)
    for kind in KINDS:
        for site in hf.sites.all(kind):
            module = tower[site.layer] if kind == "vision" else tower[site.layer].mlp
            edit = RandomEdit((site,), IMAGES)
            expected, _ = by_hand(hf, prompts, module, edit)
            logits = hf.open(prompts, interventions=[edit] * len(prompts)).logits
            assert torch.allclose(logits, expected, atol=1e-4)
            assert float((logits - base).abs().amax(-1).min()) > 1e-2
            _, states = by_hand(hf, prompts[:1], module, None)
            own = hf.observe(prompts[:1], [site], IMAGES)[0][site]
            assert torch.allclose(own, torch.cat(states)[: len(own)], atol=1e-5)
    assert torch.equal(hf.open(prompts).logits, base)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "idefics3"])
def test_towers_are_found_by_structure_and_their_first_layer_moves_the_logits(
    name: str, model_of: ModelOf, prompts: list[Prompt]
) -> None:
    model, some = model_of(name), prompts[:2]
    base = model.open(some).logits
    for kind in KINDS:
        edit = RandomEdit(model.sites.all(kind)[:1], IMAGES)
        neutral = RandomEdit(edit.sites, IMAGES, 0.0)
        assert torch.equal(model.open(some, interventions=[neutral] * 2).logits, base)
        assert float((model.open(some, interventions=[edit] * 2).logits - base).abs().amax(-1).min()) > 1e-3


def test_only_the_addressed_images_and_rows_change(hf: HF, prompts: list[Prompt]) -> None:
    prompt, site = prompts[0], Site("vision", 1)
    names = [part.name for part in prompt.parts() if part.image is not None]
    edited = steer(prompt, RandomEdit((Site("vision", 0),), Where("query_images")))
    for name in names:
        (before,), (after,) = (hf.observe([one], [site], Where(name)) for one in (prompt, edited))
        assert torch.equal(before[site], after[site]) == (not name.startswith("query"))
    rows = hf.open([prompt, edited, prompt]).logits
    assert torch.equal(rows[0], rows[2])
    assert not torch.allclose(rows[0], rows[1])
    assert torch.allclose(rows[1], hf.open([edited]).logits[0], atol=1e-4)
    both = hf.open([steer(edited, RandomEdit((Site("mlp", 1),)))]).logits
    assert not torch.allclose(both[0], rows[1])


def test_an_edit_of_one_part_of_the_output_leaves_images_as_they_are(hf: HF, prompts: list[Prompt]) -> None:
    edit = PartEdit(RandomEdit((Site("vision", 0),), Where("all", "both")), "answer")
    assert torch.equal(hf.open([steer(prompts[0], edit)]).logits, hf.open(prompts[:1]).logits)


def test_sites_that_a_model_lacks_and_spans_without_images_are_one_sentence(hf: HF, prompts: list[Prompt]) -> None:
    vision = Site("vision", 0)
    for sites, where, message in (
        ([Site("vision", 3)], IMAGES, r"has no vision of layer 3: its 3 layers are 0 to 2\."),
        ([vision], Where(), r"belong to images, and 'end' names none of the prompt\. Use images, query_images"),
        ([vision], Where("query_question"), "'query_question' names none"),
        ([vision, Site("mlp", 0)], IMAGES, r"sites of the vision tower and of the decoder \(vision of layer 0, mlp of"),
    ):
        with pytest.raises(ModelError, match=message):
            hf.observe(prompts[:1], sites, where)
    model = hf.engine.runner.model
    with pytest.raises(ModelError, match=r"its vision tower has no layers with a state for each token\. Use a site of"):
        DecoderSites(model, lambda: None, lambda: None).resolve(vision)  # a tower of convolutions runs none of them
    with pytest.raises(ModelError, match="reads text only, or its image cache is off"):
        DecoderSites(model, lambda: None).resolve(vision)


def test_a_pass_of_the_tower_that_fails_is_no_failure_of_the_decoder(hf: HF) -> None:
    def read_image() -> None:
        raise ValueError("images of 64 pixels are too small\nand more")

    sites = DecoderSites(hf.engine.runner.model, hf.sites.run_probe_pass, read_image)
    with pytest.raises(ModelError, match=r"for each token \(a small image cannot be read: images of 64 pixels are too"):
        sites.resolve(Site("vision", 0))
    with pytest.raises(ModelError, match=r"no middle of layer 9: its 4 layers are 0 to 3\.$"):
        sites.resolve(Site("middle", 9))
    with pytest.raises(ModelError, match=r"the nearest layer with input is 0\.$"):
        sites.resolve(Site("input", 1))
