"""OpenCLIP: the vectors are those of the library's own forward pass, on a small model with random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from icl.errors import ModelError
from icl.registry import build
from icl.testing import check_embedder

open_clip = pytest.importorskip("open_clip")
TEXTS = ["a red circle", "a blue square", "seven"]
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PIXELS = {"size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("open_clip")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**CONFIG)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()},
              path / "open_clip_model.safetensors")  # fmt: skip
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": PIXELS}))
    return path


def test_vectors_are_those_of_the_library(folder: Path) -> None:
    queries = build("task", {"name": "attribute", "queries": 3}).queries
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**CONFIG).eval()
    embedder = build("embedder", {"name": "open_clip", "path": str(folder)})
    with torch.no_grad():
        texts = model.encode_text(open_clip.tokenize(TEXTS, context_length=16), normalize=True).numpy()
        preprocess = open_clip.image_transform(32, is_train=False, mean=(0.5,) * 3, std=(0.5,) * 3)
        pixels = [torch.stack([preprocess(image.open()) for image in query.images]) for query in queries]
        images = [model.encode_image(one, normalize=True).mean(0).numpy() for one in pixels]
    assert np.abs(embedder.embed_texts(TEXTS) - texts).max() < 1e-5
    expected = np.stack([one / np.linalg.norm(one) for one in images])
    assert np.abs(embedder.embed_images(queries) - expected).max() < 1e-5
    check_embedder(embedder)


def test_a_folder_of_another_format_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no open_clip_config\.json\. For transformers, use 'encoder'\."):
        _ = build("embedder", {"name": "open_clip", "path": str(tmp_path)}).digest
