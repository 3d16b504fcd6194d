"""Alignment and correspondence of encoders with known values."""

from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from icl.errors import ConfigError, PlanError
from icl.images import Image
from retrievers.diagnostics.encoder_scores import (
    WARPS,
    correspondence,
    crop,
    linear_cka,
    mirror,
    mutual_neighbors,
    rotation,
)
from retrievers.embedders.minilm import MiniLM
from retrievers.machinery.vector_math import normalize_rows

ROWS = normalize_rows(np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32))
OTHERS = normalize_rows(np.random.default_rng(1).normal(size=(200, 5)).astype(np.float32))


def test_equal_spaces_score_one_also_when_turned() -> None:
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(8, 8)))[0]
    for one in (ROWS, ROWS @ turn):
        assert mutual_neighbors(ROWS, one) == pytest.approx(1)
        assert linear_cka(ROWS, one) == pytest.approx(1)
    assert linear_cka(ROWS, 3 * ROWS) == pytest.approx(1)


def test_spaces_without_a_relation_score_as_chance() -> None:
    assert mutual_neighbors(ROWS, OTHERS) == pytest.approx(10 / 199, abs=0.02)
    assert linear_cka(ROWS, OTHERS) < 0.1
    assert linear_cka(ROWS, np.ones((200, 3))) == 0


def test_ties_are_shared_and_not_decided_by_the_order_of_rows() -> None:
    """Four texts, each of fifty rows: a random space has its share of the neighbors, whatever the order."""
    texts = np.repeat(np.eye(4, dtype=np.float32), 50, axis=0)
    assert mutual_neighbors(texts, texts) == pytest.approx(1)
    order = np.random.default_rng(3).permutation(200)
    assert mutual_neighbors(texts, OTHERS) == pytest.approx(mutual_neighbors(texts[order], OTHERS[order]))
    assert mutual_neighbors(texts, OTHERS) == pytest.approx(10 / 199, abs=0.02)


def test_few_rows_are_refused() -> None:
    with pytest.raises(PlanError, match="10 neighbors in common need more than 11 pairs"):
        mutual_neighbors(ROWS[:11], ROWS[:11])


class Pixels:
    """An encoder whose patches are the mean colors of a grid."""

    def __init__(self, cells: int) -> None:
        self.cells = cells

    def embed_patches(self, images: Any) -> Any:
        small = [image.open().resize((self.cells, self.cells), PILImage.Resampling.BOX) for image in images]
        return np.stack([np.asarray(one, dtype=float).reshape(-1, 3) - 128 for one in small])


class Noise(Pixels):
    """Patches that say nothing about the image."""

    def embed_patches(self, images: Any) -> Any:
        return np.stack([np.random.default_rng(int(i.digest[:8], 16)).normal(size=(self.cells**2, 8)) for i in images])


def smooth() -> list[Image]:
    """Images of which every place has its own color."""
    grids = [np.random.default_rng(i).integers(0, 256, (6, 6, 3), dtype=np.uint8) for i in range(4)]
    drawings = [PILImage.fromarray(grid).resize((96, 96), PILImage.Resampling.BILINEAR) for grid in grids]
    return [Image.from_pil(one, str(i)) for i, one in enumerate(drawings)]


def test_the_identity_is_matched_everywhere_and_noise_as_by_chance() -> None:
    same = {"same": crop(0, 0, 1, 1)}
    assert correspondence(Pixels(12), smooth(), same) == {"same": 1.0}
    noise = correspondence(Noise(12), smooth())
    assert max(noise.values()) < 0.12  # a match reaches 3 by 3 of 144 patches: .06


def test_an_encoder_of_colors_finds_its_patches_after_each_warp() -> None:
    assert min(correspondence(Pixels(12), smooth()).values()) > 0.4  # by chance .06
    assert min(correspondence(Pixels(12), smooth(), {"a": rotation(90), "b": mirror()}).values()) > 0.99


@pytest.mark.parametrize("name", WARPS)
def test_a_point_moves_to_where_the_edit_puts_it(name: str) -> None:
    image = PILImage.new("RGB", (80, 60))
    image.paste((255, 255, 255), (30, 20, 34, 24))
    warp = WARPS[name]
    after = np.asarray(warp.edit.apply_to_image(image), dtype=float)[..., 0]
    after[np.abs(after - 128) < 40] = 0  # the gray corners of a rotation
    y, x = np.argwhere(after > 200).mean(axis=0) + 0.5
    assert (x, y) == pytest.approx(tuple(warp.move(np.array([[32.0, 22.0]]), (80, 60))[0]), abs=1)


def test_equal_patches_of_one_image_are_left_out() -> None:
    plain = Image.from_pil(PILImage.new("RGB", (32, 32), (200, 10, 10)), "plain")
    assert np.isnan(correspondence(Pixels(4), [plain], {"same": crop(0, 0, 1, 1)})["same"])


def test_an_encoder_without_patches_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"has no vectors of patches. Use encoder, efficientnet or histogram"):
        correspondence(MiniLM(), smooth())
