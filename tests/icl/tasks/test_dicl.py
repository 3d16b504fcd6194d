"""DICL repairs a classifier that swaps two classes, and changes nothing with one candidate."""

import json

import numpy as np
import pytest
from PIL import Image as PILImage

from icl.errors import ConfigError, DataError
from icl.metrics.base import ScoredSample
from icl.metrics.dicl import corrected_class
from icl.registry import build
from icl.tasks.dicl import candidate_classes, transition_matrix
from icl.testing import check_task

CLASSES = ("cat", "cow", "dog")


@pytest.fixture
def parts(tmp_path):
    """A task of 3 classes as image folders, and a classifier that takes cats for dogs and dogs for cats."""
    for c, name in enumerate(CLASSES):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for i in range(6):
            PILImage.new("RGB", (8, 8), (60 * c, 9 * i, 9)).save(folder / f"{i}.png")
    of = {"name": "hub", "path": str(tmp_path / "data"), "split": "train", "question": "what is it?",
          "columns": {"image": "image", "answer": "label"}, "answer_is": "class"}  # fmt: skip
    inner = build("task", of)
    table = {}
    for example in (*inner.queries, *inner.pool("").examples):
        predicted = {"cat": "dog", "dog": "cat", "cow": "cow"}[example.class_name]
        table[example.id] = {name: 0.7 if name == predicted else 0.15 for name in CLASSES}
    (tmp_path / "p.json").write_text(json.dumps(table))
    return inner, {"name": "dicl", "of": of, "predictions": str(tmp_path / "p.json")}


def scores_of(task, metric: str, yes) -> float:
    samples = [ScoredSample(q.id, float(yes(q)), q.group, None, q.answers, q.options, q.meta) for q in task.queries]
    statistic: float = build("metric", metric).run_level(samples).statistic
    return statistic


def test_an_oracle_repairs_swapped_classes_and_one_candidate_changes_nothing(parts) -> None:
    inner, node = parts
    task = build("task", node)
    share = np.mean([q.class_name != "cow" for q in inner.queries])
    assert 0 < share < 1
    assert scores_of(task, "dicl_accuracy", lambda q: q.answer == "yes") == 1
    assert scores_of(task, "dicl_corrected", lambda q: q.answer == "yes") == pytest.approx(share)
    assert scores_of(task, "dicl_broken", lambda q: q.answer == "yes") == 0
    assert scores_of(task, "dicl_broken", lambda q: q.meta["candidate"] == "cat") == pytest.approx(1 - share)
    alone = build("task", {**node, "candidates": 1})
    for answers in (True, False):
        assert scores_of(alone, "dicl_accuracy", lambda q, a=answers: a) == pytest.approx(1 - share)
        assert scores_of(alone, "dicl_corrected", lambda q, a=answers: a) == 0


def test_an_exemplar_is_denied_the_prediction_and_confirmed_as_its_class(parts) -> None:
    task = build("task", node := parts[1])
    check_task(task)
    assert node["name"] == "dicl"
    for query in task.queries:
        wrong, right = task.pool(query.id).examples
        assert (wrong.answer, right.answer) == ("no", "yes")
        assert wrong.images == right.images != query.images
        assert right.question == f"is this a photo of {query.meta['candidate']}?" == query.question
        assert right.secret["class"] == query.meta["candidate"]
        if query.meta["candidate"] != query.meta["prediction"]:
            assert query.meta["prediction"] in wrong.question
    classes = [e.class_name for e in parts[0].pool("").examples]
    each = sum(min(3, classes.count(name)) for name in CLASSES)
    assert len(task.queries) == len({query.group for query in task.queries}) * each


def test_a_pool_is_there_before_the_queries_are_read(parts) -> None:
    first = build("task", parts[1]).queries[0]
    assert len(build("task", parts[1]).pool(first.id)) == 2


def test_the_transition_matrix_and_the_candidates_by_hand() -> None:
    rows = [{"a": 0.6, "b": 0.4}, {"a": 0.2, "b": 0.8}, {"a": 0.5, "b": 0.3, "c": 0.2}]
    matrix = transition_matrix(rows, ["a", "a", "b"], ["a", "b", "c"])
    assert matrix[0] == pytest.approx([0.4 / 0.6, 1, 0])
    assert matrix[1] == pytest.approx([1, (0.3 - 0.2) / 0.3, 0])
    assert matrix[2].tolist() == [0, 0, 0]
    assert candidate_classes("a", matrix, ["a", "b", "c"], 2) == ["a", "b"]
    assert corrected_class({"a": 0.5, "b": 0.9}, "a", 0.7, 0.6) == "a"
    assert corrected_class({"a": 0.5, "b": 0.9}, "a", 0.69, 0.6) == "b"


def test_predictions_that_are_missing_are_sentences(parts, tmp_path) -> None:
    node = parts[1]
    with pytest.raises(ConfigError, match="there is no"):
        build("task", {**node, "predictions": str(tmp_path / "none.json")})
    (tmp_path / "p.json").write_text("{}")
    with pytest.raises(DataError, match="has none of the"):
        _ = build("task", node).queries
    (tmp_path / "p.json").write_text("[")
    with pytest.raises(ConfigError, match="is not JSON"):
        _ = build("task", node).queries


def test_predictions_for_a_part_and_of_other_classes_are_sentences(parts, tmp_path) -> None:
    inner, node = parts
    table = json.loads((tmp_path / "p.json").read_text())
    first = inner.queries[0].id
    (tmp_path / "p.json").write_text(json.dumps({name: row for name, row in table.items() if name != first}))
    with pytest.raises(DataError, match=rf"p\.json has no example '{first}', and misses 1 of the 18 .* Add their prob"):
        _ = build("task", node).queries
    (tmp_path / "p.json").write_text(json.dumps({name: {"rose": 0.9, "lily": 0.1} for name in table}))
    sentence = r"p\.json is of another data set: its classes \(rose, lily\) are none of .* \(cat, cow, dog\)\."
    with pytest.raises(DataError, match=sentence):
        _ = build("task", node).queries


@pytest.mark.parametrize("share", ["0.5", None, float("nan"), -1.0, 20.0, True])
def test_a_probability_that_is_none_is_a_sentence(parts, tmp_path, share) -> None:
    inner, node = parts
    table = json.loads((tmp_path / "p.json").read_text())
    table[inner.queries[0].id]["cat"] = share
    (tmp_path / "p.json").write_text(json.dumps(table))
    with pytest.raises(DataError, match=r"the probability of 'cat' for example .* must be a number from 0 to 1, not"):
        _ = build("task", node).queries


def test_a_predicted_class_without_images_is_a_sentence(parts, tmp_path) -> None:
    """No exemplar can be asked about, so the image would have no score and the accuracy would be of the others."""
    table = json.loads((tmp_path / "p.json").read_text())
    (tmp_path / "p.json").write_text(json.dumps({name: {**row, "horse": 0.9} for name, row in table.items()}))
    with pytest.raises(DataError, match=r"'horse' is predicted for query .* has no image in the pool"):
        _ = build("task", parts[1]).queries
