"""What the projector reads and writes, as means over tokens, on the shipped model."""

from typing import Any

import pytest
import torch
from torch import nn

from icl.errors import ModelError
from icl.models.hf import projector
from icl.models.hf.image_encoder import on_model
from icl.models.hf.model import HF
from icl.models.hf.projector import projector_means
from tests.tiny_models import image

IMAGES = [image(seed) for seed in (1, 2, 1)]


@pytest.fixture(scope="module")
def model() -> HF:
    return HF(path="tiny", device="cpu")


def test_the_means_are_those_of_the_tower_and_of_what_the_decoder_reads(model: HF) -> None:
    means = projector_means(model, IMAGES)
    encoder, base = model.engine.prompt_encoder.encoder, model.engine.runner.model.base_model
    assert encoder is not None
    for one, (before, after) in zip(IMAGES, means, strict=True):
        pixels = on_model(encoder.pixels.process(one.open(), 1)[0]["pixel_values"], base)
        with torch.no_grad():
            tower = base.vision_model(pixels.flatten(0, 1)).last_hidden_state
            features = base.connector(tower)
        torch.testing.assert_close(before, tower.flatten(0, 1).mean(0), atol=1e-5, rtol=0)
        torch.testing.assert_close(after, features.flatten(0, -2).mean(0), atol=1e-5, rtol=0)
    assert torch.equal(means[0][0], means[2][0])
    assert not torch.allclose(means[0][1], means[1][1])


def test_nothing_stays_in_the_model_and_its_image_cache_is_not_needed(
    model: HF, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count_hooks() -> int:
        return sum(len(module._forward_hooks) for module in model.engine.runner.model.modules())

    (before, after), hooks = projector_means(model, IMAGES[:1])[0], count_hooks()
    monkeypatch.setattr(model.engine.prompt_encoder, "encoder", None)
    again = projector_means(model, IMAGES[:1])[0]
    assert torch.equal(before, again[0])
    assert torch.equal(after, again[1])
    assert count_hooks() == hooks


def test_a_projector_that_reads_ids_is_a_sentence(model: HF, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ids(projector.CallRecorder):
        def _record(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            ids = tuple(one.long() if isinstance(one, torch.Tensor) else one for one in args)
            super()._record(module, ids, {}, output)

    monkeypatch.setattr(projector, "CallRecorder", Ids)
    with pytest.raises(ModelError, match="the projector of tiny reads ids of a codebook and no vectors"):
        projector_means(model, IMAGES[:1])


def test_a_model_without_features_of_images_is_a_sentence(model: HF, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.engine.runner, "model", nn.Linear(1, 1))
    monkeypatch.setattr(nn.Linear, "base_model", nn.Linear(1, 1), raising=False)
    with pytest.raises(ModelError, match=r"model\.path: tiny has no `get_image_features`"):
        projector_means(model, IMAGES[:1])
