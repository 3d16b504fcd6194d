"""The tokens of named parts on architectures with marker tokens, without the image cache, and with cross-attention."""

from pathlib import Path

import pytest
import torch

from decoding.arms.arm import parse_arm
from decoding.arms.requirements import branch_edit_refusal
from decoding.engine.engine import run_requests
from decoding.engine.requests import DecodingRequest
from decoding.interventions.attention_scaling import AttentionScaling
from decoding.interventions.knock_out import KnockOut
from icl.errors import ModelError
from icl.models.hf.model import HF
from icl.types import Generation, Part, Prompt, Turn
from lab.architectures.checks import check_gradients, check_named
from lab.architectures.inputs import checkpoint, prompts


def loaded(name: str, folder: Path) -> HF:
    model = HF(path=str(checkpoint(name, folder)), dtype="float32", device="cpu")
    model.load()
    return model


@pytest.mark.parametrize("name", ["cohere2_vision", "pixtral"])
def test_the_tokens_of_an_image_are_its_patches(name: str, tmp_path: Path) -> None:
    """Two patches a row by the size of the features, and no token that ends a row or an image."""
    model = loaded(name, tmp_path)
    assert check_named(model, prompts()[0]).word == "yes"
    (read,) = model.engine.prompt_encoder.read([prompts()[0]])
    ids, config = read.ids.tolist(), model.engine.runner.model.config
    [spans] = model.span_tokens([prompts()[0]], ["images"])
    tokens = [token for begin, end in spans["images"] for token in range(begin, end)]
    patch = getattr(config, "image_token_id", None) or config.image_token_index
    assert tokens == [i for i, token in enumerate(ids) if token == patch]
    assert len(tokens) < sum(end - start for start, end in zip(read.starts, read.ends, strict=True))


@pytest.mark.parametrize("name", ["paligemma", "ovis2", "minicpmv4_6"])
def test_parts_have_tokens_and_losses_gradients_without_the_image_cache(name: str, tmp_path: Path) -> None:
    model = loaded(name, tmp_path)
    assert model.engine.prompt_encoder.encoder is None
    assert check_named(model, prompts()[0]).word == "yes"
    assert check_gradients(model, prompts()[1]).word == "yes"


def test_attention_of_named_parts_is_edited_without_the_image_cache(tmp_path: Path) -> None:
    model, prompt = loaded("ovis2", tmp_path), prompts()[0]
    methods = [None, AttentionScaling(alpha=0.5), KnockOut(tokens="end", keys=("images",))]
    arms = [parse_arm("greedy")] * 3 + [parse_arm({"name": "crops", "negatives": "attention", "layer": 1})]
    requests = [
        DecodingRequest(prompt, arm, max_new_tokens=3, intervene=method)
        for arm, method in zip(arms, [*methods, None], strict=True)
    ]
    results = run_requests(model, requests)
    assert all(isinstance(one, Generation) for one in results), results
    logprobs = torch.tensor([one.trace["logprob"][0] for one in results])  # type: ignore[union-attr]
    assert float((logprobs[1:3] - logprobs[0]).abs().min()) > 1e-3


def test_images_whose_tokens_depend_on_others_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = loaded("paligemma", tmp_path), prompts()[0]
    monkeypatch.setattr(type(model.engine.prompt_encoder), "_patches_alone", lambda self, image: 7)
    with pytest.raises(ModelError, match=r"has 48 image tokens, but its 3 images have 21 if each is alone"):
        model.span_tokens([prompt], ["images"])


def test_images_that_are_read_by_cross_attention_have_no_tokens(tmp_path: Path) -> None:
    model = loaded("mllama", tmp_path)
    assert check_named(model, prompts()[0]).word == "off"
    with pytest.raises(ModelError, match="this model reads images by cross-attention"):
        model.span_tokens([prompts()[0]], ["query_images"])
    assert model.span_tokens([Prompt((Turn("user", (Part("red?", "query.question"),)),))], ["query_question"])
    refusal = AttentionScaling().model_problem(model)
    assert refusal is not None
    assert (
        refusal
        == KnockOut(tokens="query_images").model_problem(model)
        == KnockOut(keys=("images",)).model_problem(model)
    )
    assert KnockOut().model_problem(model) is None
    crops = {"name": "crops", "layer": 1}
    assert branch_edit_refusal(parse_arm({**crops, "negatives": "attention"}), model) == refusal
    assert branch_edit_refusal(parse_arm(crops), model) is None
