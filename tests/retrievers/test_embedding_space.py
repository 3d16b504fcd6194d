"""Diagnostics on spaces with known values."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from experiments.analyses import embedding_space as diagnostics
from experiments.analyses.embedding_space import alignment, diagnose, hubness, modality_gap, near_duplicates, uniformity
from experiments.cli.data import blind_pairs
from icl.errors import ConfigError, PlanError
from icl.tasks.base import Pool
from retrievers.base import normalize_rows

Make = Callable[..., Any]
AXES = np.eye(4, dtype=np.float32)


def test_the_gap_is_between_centroids_and_alignment_between_pairs() -> None:
    images, texts = AXES[[0, 1]], AXES[[2, 1]]
    assert modality_gap(images, texts) == pytest.approx(0.5**0.5)  # (1, 0, -1, 0) / 2
    assert alignment(images, texts) == pytest.approx(1.0)  # 2 and 0
    with pytest.raises(PlanError, match="2 and 1 rows"):
        alignment(images, texts[:1])
    with pytest.raises(PlanError, match="not in one space"):
        modality_gap(images, texts[:, :3])


def test_uniformity_is_over_pairs_and_smaller_when_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    assert uniformity(AXES) == pytest.approx(-4)  # every pair at a squared distance of 2
    assert uniformity(AXES[[0, 0, 0]]) == pytest.approx(0)
    rows = normalize_rows(np.random.default_rng(0).normal(size=(50, 5)))
    whole = uniformity(rows)
    monkeypatch.setattr(diagnostics, "BLOCK", 7)
    assert uniformity(rows) == pytest.approx(whole)
    pairs = [((rows[i] - rows[j]) ** 2).sum() for i in range(50) for j in range(i)]
    assert whole == pytest.approx(np.log(np.mean(np.exp(-2 * np.array(pairs)))), abs=1e-5)


def test_a_hub_has_large_hubness() -> None:
    """One row in the middle of eleven others is the nearest neighbor of all of them."""
    corners = np.hstack([np.eye(11) * 1.2, np.ones((11, 1))])
    rows = normalize_rows(np.vstack([corners, [0.0] * 11 + [1.0]]))
    counts = np.array([1.0] + [0.0] * 10 + [11.0])  # of equals, the first row is the nearest neighbor of the hub
    spread = counts - counts.mean()
    assert hubness(rows, k=1) == pytest.approx((spread**3).mean() / (spread**2).mean() ** 1.5)
    assert hubness(np.repeat(AXES, 2, axis=0), k=1) == 0
    with pytest.raises(PlanError, match="needs more than 10 rows"):
        hubness(AXES)


def test_near_duplicates_are_strict_and_sorted() -> None:
    rows = normalize_rows(np.array([[1, 0], [1, 0.1], [0, 1], [1, 0.02]]))
    assert [(i, j) for i, j, _ in near_duplicates(rows, 0.99)] == [(0, 3), (1, 3), (0, 1)]
    assert near_duplicates(AXES[[0, 0]], 1.0) == []


def test_diagnose_measures_a_pool(example: Make, pointing: Make, number_embedder: Any) -> None:
    pool = Pool(
        (
            example("x", pointing((1, 0, 0), 1), "1 0 0"),
            example("again", pointing((1, 0, 0), 2), "0 1 0"),
            example("bare", None, "0 0 1"),
        )
    )
    diagnosis = diagnose(pool, number_embedder, text="answer")
    assert (diagnosis["images"], diagnosis["texts"]) == (2, 2)
    assert diagnosis["alignment"] == pytest.approx(1, abs=0.02)
    assert diagnosis["duplicates"] == 1
    assert diagnosis["hubness"] is None
    from retrievers.embedders.image_statistics import Histogram

    assert diagnose(pool, Histogram())["gap"] is None


def test_blind_pairs_are_similar_for_one_encoder_only(example: Make, color: Make) -> None:
    """The histogram does not depend on the position of a color; the pixels do."""
    from PIL import Image as PILImage

    from icl.images import Image
    from retrievers.embedders.image_statistics import Histogram, Pixels

    def halves(left: str, right: str, mark: int) -> Image:
        image = PILImage.new("RGB", (32, 32), left)
        image.paste(PILImage.new("RGB", (16, 32), right), (16, 0))
        image.putpixel((mark, 0), (128, 128, 128))
        return Image.from_pil(image, f"{left}-{right}")

    items = [
        example("red-blue", halves("red", "blue", 1)),
        example("blue-red", halves("blue", "red", 2)),
        example("red-blue-2", halves("red", "blue", 3)),
        example("lime", color("lime", 4)),
    ]
    pairs = blind_pairs(items, Histogram(), Pixels())
    assert {(pair.one.id, pair.other.id) for pair in pairs} == {("red-blue", "blue-red"), ("blue-red", "red-blue-2")}
    assert all(pair.blind > 0.95 and pair.reference < 0.6 for pair in pairs)
    assert len(blind_pairs(items, Histogram(), Pixels(), disjoint=True)) == 1
    assert blind_pairs(items, Pixels(), Histogram()) == []
    with pytest.raises(ConfigError, match="high is below low"):
        blind_pairs(items, Histogram(), Pixels(), high=0.5)
