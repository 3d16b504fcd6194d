"""Machine Vision Therapy: corrected labels are exported, and a head tuned on them beats heads tuned on its controls."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from experiments.analyses import corrected_labels, denoised_classifier
from experiments.analyses.denoised_classifier import changed_at_random
from experiments.cli.main import main
from icl.errors import ConfigError, DataError
from icl.registry import build
from retrievers import normalize_rows

CLASSES = ("cat", "cow", "dog")


@pytest.fixture
def task(tmp_path: Path) -> dict[str, Any]:
    """Classes that differ in color, and a classifier that takes four of five dogs for cats."""
    rng = np.random.default_rng(0)
    for c, name in enumerate(CLASSES):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.normal(90, 25, (8, 8, 3))
            pixels[..., c] += 60
            PILImage.fromarray(pixels.clip(0, 255).astype("uint8")).save(tmp_path / "data" / name / f"{i}.png")
    of = {"name": "hub", "path": str(tmp_path / "data"), "split": "train", "question": "what is it?",
          "columns": {"image": "image", "answer": "label"}, "answer_is": "class"}  # fmt: skip
    inner, table = build("task", of), {}
    for i, example in enumerate((*inner.queries, *inner.pool("").examples)):
        predicted = "cat" if example.class_name == "dog" and i % 5 else example.class_name
        table[example.id] = {name: 0.7 if name == predicted else 0.15 for name in CLASSES}
    (tmp_path / "p.json").write_text(json.dumps(table))
    return {"name": "dicl", "of": of, "predictions": str(tmp_path / "p.json"), "exemplars": 1}


def settings(task: dict[str, Any], model: Any = None) -> dict[str, Any]:
    return {"task": task, "model": model or {"name": "fake-gold", "accuracy": 1.0}, "shots": 2, "seeds": [0],
            "retriever": "random", "order": "as_retrieved", "metrics": ["dicl_accuracy", "dicl_broken"]}  # fmt: skip


def test_labels_are_the_classes_that_the_metric_counts(ran: Any, task: dict[str, Any], tmp_path: Path) -> None:
    view = ran(**settings(task))
    true = {query.id: query.class_name for query in build("task", task["of"]).queries}
    table = corrected_labels.analyze(view)
    assert {row["image"]: row["label"] for row in table.to_dict("records")} == true
    assert list(table["changed"]) == [row["prediction"] != row["label"] for row in table.to_dict("records")]
    assert 0 < table["changed"].sum() < len(true)
    out = tmp_path / "labels.jsonl"
    assert main(["analyze", str(view.path), "corrected_labels", "--as", "jsonl", "--out", str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert {line["image"]: line["label"] for line in lines} == true


def test_a_head_on_corrected_labels_beats_the_classifier_and_both_controls(ran: Any, task: dict[str, Any]) -> None:
    view = ran(**settings(task))
    with pytest.raises(ConfigError, match="no embedder whose head is tuned"):
        denoised_classifier.analyze(view)
    rows = {row["labels"]: row for row in denoised_classifier.analyze(view, embedder="pixels").to_dict("records")}
    assert rows["corrected"]["right"] == 1 == rows["true"]["right"]
    assert rows["corrected"]["accuracy"] == rows["true"]["accuracy"] > 0.9
    assert rows["none"]["accuracy"] == rows["none"]["right"] == rows["predicted"]["right"] < 0.9
    assert rows["corrected"]["gain"] == pytest.approx(rows["corrected"]["accuracy"] - rows["none"]["accuracy"])
    assert rows["corrected"]["gain_low"] > 0
    for control in ("predicted", "random"):
        assert rows[control]["below_low"] > 0
        assert rows[control]["below"] == pytest.approx(rows["corrected"]["accuracy"] - rows[control]["accuracy"])


def test_random_changes_are_as_many_as_the_corrections() -> None:
    predicted, corrected = ["a"] * 30 + ["b"] * 30, ["b"] * 10 + ["a"] * 20 + ["b"] * 30
    labels = changed_at_random(predicted, corrected, 0)
    assert sum(one != other for one, other in zip(labels, predicted, strict=True)) == 10
    assert labels != corrected
    assert labels == changed_at_random(predicted, corrected, 0)


def test_a_run_without_questions_of_dicl_is_refused(ran: Any) -> None:
    with pytest.raises(ConfigError, match=r"no metric has P\(yes\)"):
        corrected_labels.analyze(ran(task="counting", model="fake-vote", seeds=[0]))


@pytest.mark.parametrize("classifier", ["texts", "means"])
def test_an_embedder_predicts_as_a_slow_classifier(task: dict[str, Any], classifier: str) -> None:
    node = {key: value for key, value in task.items() if key != "predictions"}
    own = build("task", {**node, "embedder": "encoder", "classifier": classifier, "class_text": "one {name}"})
    encoder, support = build("embedder", "encoder"), own.support
    for example in (*own.of.queries[:4], *support[:4]):
        (image,) = encoder.embed_images([example])
        if classifier == "texts":
            prototypes = encoder.embed_texts([f"one {name}" for name in CLASSES])
        else:
            means = [[e for e in support if e.class_name == name and e.id != example.id] for name in CLASSES]
            prototypes = normalize_rows(np.array([encoder.embed_images(each).mean(axis=0) for each in means]))
        odds = np.exp(100 * (prototypes @ image).astype(float))
        shares = [*own._probabilities[example.id].values()]
        assert shares == pytest.approx(list(odds / odds.sum()), rel=1e-3, abs=1e-9)


def test_predictions_of_another_data_set_are_sentences(task: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    table = json.loads(path.read_text())
    path.write_text(json.dumps({name: {"apple": 0.6, "pear": 0.4} for name in table}))
    with pytest.raises(
        DataError, match=r"p\.json is of another data set: its classes \(apple, pear\) are none of data"
    ):
        _ = build("task", task).queries
    path.write_text(json.dumps({f"other-{name}": row for name, row in table.items()}))
    with pytest.raises(DataError, match=r"is of another data set: it has none of the 60 examples of data"):
        _ = build("task", task).queries
    path.write_text(
        json.dumps({name: row for name, row in table.items() if name != build("task", task["of"]).queries[0].id})
    )
    with pytest.raises(DataError, match=r"has no example '.*', and misses 1 of the 60"):
        _ = build("task", task).queries
    for more in ({"embedder": "pixels"}, {"predictions": ""}):
        with pytest.raises(ConfigError, match="set either `predictions`, a file, or `embedder`"):
            build("task", {**task, **more})
    with pytest.raises(ConfigError, match=r"class_text must contain \{name\} once"):
        build("task", {**task, "class_text": "a thing"})
