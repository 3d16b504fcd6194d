"""Two-tower checkpoints, from tiny random ones."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icl.errors import ModelError
from retrievers.machinery.encoder import Encoder

Make = Callable[..., Any]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_vectors_are_the_model_s_features_normalized(
    kind: str, request: pytest.FixtureRequest, noise: Make, example: Make
) -> None:
    import torch
    from transformers import AutoModel, AutoProcessor

    folder = request.getfixturevalue(kind)
    items, texts = [example(f"e{i}", noise(i, 32 + 8 * i)) for i in range(3)], ["which red ?", "count the shape"]
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    padding = {"padding": "max_length", "max_length": 16} if kind == "siglip" else {"padding": True}
    inputs = processor(text=texts, images=[e.images[0].open() for e in items], return_tensors="pt", **padding)
    with torch.no_grad():
        images = model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
        words = model.get_text_features(inputs["input_ids"], attention_mask=inputs["attention_mask"]).pooler_output
    encoder = Encoder(str(folder))
    for ours, theirs in ((encoder.embed_images(items), images), (encoder.embed_texts(texts), words)):
        assert ours.dtype == np.float32
        assert np.allclose(ours, torch.nn.functional.normalize(theirs, dim=-1).numpy(), atol=1e-5)


def test_a_text_longer_than_the_tower_is_cut_at_its_end(clip: Path) -> None:
    long, longer = Encoder(str(clip)).embed_texts([" ".join(["red"] * 40), " ".join(["red"] * 50)])
    assert np.allclose(long, longer, atol=1e-6)


def test_batches_do_not_change_vectors(clip: Path, noise: Make, example: Make) -> None:
    items = [example(f"e{i}", noise(i)) for i in range(70)]
    encoder = Encoder(str(clip))
    assert np.allclose(
        encoder.embed_images(items), np.vstack([encoder.embed_images([item]) for item in items]), atol=1e-5
    )


def test_the_digest_follows_weights_and_settings(clip: Path, tmp_path: Path, save_towers: Make) -> None:
    copy = shutil.copytree(clip, tmp_path / "copy")
    assert Encoder(str(copy)).digest == Encoder(str(clip)).digest
    settings = copy / "processor_config.json"
    settings.write_text(settings.read_text().replace("0.48145466", "0.5"))
    assert Encoder(str(copy)).digest != Encoder(str(clip)).digest
    assert Encoder(str(save_towers(tmp_path / "other", seed=7))).digest != Encoder(str(clip)).digest


@pytest.mark.parametrize(
    ("gone", "says"), [("model.safetensors", "has no weights"), ("processor_config.json", "has no processor")]
)
def test_an_incomplete_folder_is_an_error(clip: Path, tmp_path: Path, gone: str, says: str) -> None:
    copy = shutil.copytree(clip, tmp_path / "copy")
    (copy / gone).unlink()
    with pytest.raises(ModelError, match=says):
        _ = Encoder(str(copy)).digest


def test_a_checkpoint_without_two_towers_is_an_error(tmp_path: Path, clip: Path) -> None:
    import transformers

    folder = shutil.copytree(clip, tmp_path / "bert")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(folder)
    with pytest.raises(ModelError, match="BertModel, which has no get_image_features"):
        Encoder(str(folder)).embed_texts(["which ?"])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "nobody/has-this",
            r"model 'nobody/has-this' is no folder here and not in \S+\. HF_HUB_OFFLINE=1 forbids downloads",
        ),
        ("not a name/at all", "there is no folder 'not a name/at all', and it is no id of the hub"),
        ("/no/such/folder", "there is no folder '/no/such/folder', and it is no id of the hub"),
    ],
)
def test_a_missing_checkpoint_is_an_error(name: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=f"embedder 'encoder': {says}"):
        _ = Encoder(name).digest
