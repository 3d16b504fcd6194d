"""CLOSE: the shift moves the centroid of texts to that of images, noise depends on the text, and 0 changes nothing."""

from dataclasses import dataclass

import numpy as np
import pytest

from icl.errors import PlanError
from icl.images import Image
from icl.registry import build
from icl.tasks.base import Pool
from icl.types import Example
from retrievers.embedders.combined import shifted_texts

TEXTS = ["red", "a green one", "blue"]


@dataclass(frozen=True)
class Plane:
    """Images near the first axis, texts near the second."""

    digest = "plane"

    def embed_images(self, items):
        rows = np.array([[1, 0, 0.1 * int(item.id)] for item in items], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def embed_texts(self, texts):
        rows = np.array([[0, 1, 0.1 * len(text)] for text in texts], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def open(self, cache, pool):
        return self


def source(**parameters):
    image = Image.from_source(lambda: None, "x")
    pool = Pool(tuple(Example(str(i), (image,), "?", (text,)) for i, text in enumerate(TEXTS)))
    return build("embedder", {"name": "close", "of": Plane(), **parameters}).open(None, pool), pool


def test_without_shift_and_noise_it_is_the_embedder_inside() -> None:
    opened, pool = source(scale=0)
    assert np.allclose(opened.embed_texts(TEXTS), Plane().embed_texts(TEXTS), atol=1e-6)
    assert np.array_equal(opened.embed_images(pool.examples), Plane().embed_images(pool.examples))


def test_the_shift_adds_the_difference_of_the_centroids() -> None:
    opened, pool = source(scale=0.5)
    images, texts = Plane().embed_images(pool.examples), Plane().embed_texts(TEXTS)
    by_hand = shifted_texts(texts, 0.5 * (images.mean(0) - texts.mean(0)), 0)
    assert np.allclose(opened.embed_texts(TEXTS), by_hand, atol=1e-6)
    whole = source(scale=1)[0].embed_texts(TEXTS)
    gap = np.linalg.norm(whole.mean(0) - images.mean(0))
    assert gap < 0.05 < np.linalg.norm(texts.mean(0) - images.mean(0))


def test_noise_has_its_standard_deviation_and_belongs_to_the_text() -> None:
    opened = source(scale=0, sd=0.1)[0]
    alone, together = opened.embed_texts(["red"]), opened.embed_texts(TEXTS)
    assert np.allclose(alone[0], together[0])
    assert not np.allclose(together, source(scale=0, sd=0.1, seed=1)[0].embed_texts(TEXTS))
    many = opened.embed_texts([f"{i:05d}" for i in range(2000)])
    assert many[:, 0].std() == pytest.approx(0.1, rel=0.15)
    with pytest.raises(PlanError, match="fitted on a pool"):
        build("embedder", {"name": "close", "of": Plane()}).embed_texts(TEXTS)
