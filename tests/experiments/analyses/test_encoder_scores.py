"""Scores of the encoders of a run beside the precision of their retrieval."""

from typing import Any

import numpy as np
import pytest

from experiments.analyses import encoder_scores, retrieval
from experiments.report.analysis_panels import analysis_panels, figure_spec
from icl.errors import ConfigError
from icl.registry import build
from retrievers.diagnostics.encoder_scores import correspondence, mutual_neighbors
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
    (panel,) = analysis_panels(table, figure_spec(table, "encoder_scores"))
    assert (panel.rows, [one.name for one in panel.measures]) == (tuple(rows), ["precision", "mutual", "cka", "pck"])
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
    assert [(one.name, one.cells) for one in arms] == [("encoder", ["image", "default"]), ("pixels", ["pixels"])]


def test_correlations_are_over_the_encoders_that_have_a_score() -> None:
    rows = [{"mutual": m, "cka": c, "pck": p, "precision": q}
            for m, c, p, q in ((0.1, 0.3, 0.5, 0.2), (0.2, 0.2, np.nan, 0.3), (0.3, 0.1, 0.5, 0.4))]  # fmt: skip
    assert encoder_scores.correlations(rows).endswith("mutual +1.00 over 3, cka -1.00 over 3")
    assert encoder_scores.correlations(rows[:2]).endswith("needs 3 different encoders")


def test_a_run_that_compares_no_images_is_refused(ran: Any) -> None:
    with pytest.raises(ConfigError, match="no retriever of the run compares vectors of images"):
        encoder_scores.analyze(ran(task=TASK, model="fake-vote", shots=2, seeds=[0]))
