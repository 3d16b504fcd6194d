"""Scores of the encoders of a run beside the precision of their retrieval."""

from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from experiments.analyses import encoder_scores, retrieval
from experiments.analyses.encoder_scores import (
    WARPS,
    correspondence,
    crop,
    linear_cka,
    mirror,
    mutual_neighbors,
    rotation,
)
from experiments.report.sections.analyses import analysis_section, figure_spec, measured_points
from icl.errors import ConfigError, PlanError
from icl.images import Image
from icl.registry import build, class_name
from retrievers.base import normalize_rows
from retrievers.embedders.sentence_encoders import MiniLM
from retrievers.machinery.embeddings import demo_text

TASK = {"name": "counting", "queries": 4, "pool_size": 14}


def test_each_encoder_has_its_scores_and_its_precision(ran: Any) -> None:
    axes = {
        "retriever": ["random", *({"name": "knn", "embedder": name} for name in ("encoder", "histogram", "pixels"))]
    }
    view = ran(task=TASK, model="fake-vote", seeds=[0], shots=3, grid=axes)
    table = encoder_scores.analyze(view)
    rows = {row["encoder"]: row for row in table.to_dict("records")}
    assert list(rows) == ["encoder", "histogram", "pixels"]
    examples = build("task", TASK).pool("").examples
    encoder, histogram = build("embedder", "encoder"), build("embedder", "histogram")
    texts = encoder.embed_texts([demo_text(example, "both") for example in examples])
    for name, embedder in (("encoder", encoder), ("histogram", histogram)):
        assert rows[name]["mutual"] == pytest.approx(mutual_neighbors(embedder.embed_images(examples), texts))
    shares = correspondence(histogram, [example.images[0] for example in examples])
    assert rows["histogram"]["pck"] == pytest.approx(np.mean(list(shares.values())))
    assert np.isnan(rows["pixels"]["pck"])
    assert "without vectors of patches: pixels" in table.attrs["note"]
    points = measured_points(analysis_section(table, "encoder_scores").frame, figure_spec(table, "encoder_scores"))
    assert set(points["row"]) == {*rows}
    assert list(dict.fromkeys(points["line"])) == ["precision", "mutual", "cka", "pck"]
    assert set(table["n"]) == {4}
    precision = retrieval.analyze(view).set_index("retriever")["precision"]
    assert sorted(row["precision"] for row in rows.values()) == sorted(precision.drop("random"))


def test_only_cells_that_retrieve_by_image_count_for_an_encoder() -> None:
    def cell(retriever: str, embedder: str, **parameters: str) -> dict[str, Any]:
        return {"task": TASK, "retriever": {"name": retriever, "embedder": embedder, **parameters}}

    cells = {
        "question": cell("knn", "encoder", by="question"),
        "image": cell("knn", "encoder", by="image"),
        "default": cell("knn", "encoder"),
        "both": cell("knn", "encoder", by="both"),
        "pixels": cell("knn", "pixels"),
        "text": cell("knn", "minilm", by="question"),
        "own": {"task": TASK, "retriever": {"name": "mine.py:Mine"}},
        "random": {"task": TASK, "retriever": {"name": "random"}},
    }
    arms = encoder_scores._arms(cells)
    encoders = [(class_name(type(one.embedder)), one.cells) for one in arms]
    assert encoders == [("encoder", ["image", "default"]), ("pixels", ["pixels"])]


def test_correlations_are_over_the_encoders_that_have_a_score() -> None:
    rows = [{"mutual": m, "cka": c, "pck": p, "precision": q}
            for m, c, p, q in ((0.1, 0.3, 0.5, 0.2), (0.2, 0.2, np.nan, 0.3), (0.3, 0.1, 0.5, 0.4))]  # fmt: skip
    assert encoder_scores.correlations(rows).endswith("mutual +1.00 over 3, cka -1.00 over 3")
    assert encoder_scores.correlations(rows[:2]).endswith("needs 3 different encoders")


def test_a_run_that_compares_no_images_is_refused(ran: Any) -> None:
    with pytest.raises(ConfigError, match="no retriever of the run compares vectors of images"):
        encoder_scores.analyze(ran(task=TASK, model="fake-vote", shots=2, seeds=[0]))


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
