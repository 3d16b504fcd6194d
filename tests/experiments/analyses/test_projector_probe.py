"""Probes before and after the projector: known answers, folds, the table of a real run, and its sentences."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from experiments.analyses.projector_probe import AFTER, BEFORE, FOLDS, analyze, assign_folds, labeled_images
from experiments.report.sections.analyses import analysis_section, figure_spec, measured_points
from icl.errors import ConfigError, PlanError
from icl.metrics.normalize import normalize_text
from icl.models.hf import projector
from icl.registry import build

TINY = {"name": "hf", "path": "tiny", "device": "cpu"}
ATTRIBUTE = {"name": "attribute", "queries": 2}


@pytest.fixture
def view(ran: Any) -> Any:
    return ran(task=ATTRIBUTE, model=TINY, shots=0, seeds=[0], max_new_tokens=1)


def test_a_probe_says_what_the_projector_loses(view: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = labeled_images(build("task", ATTRIBUTE), 300)
    labels = sorted({normalize_text(example.class_name) for example in examples})

    def class_means(model: Any, images: Any) -> Any:
        """The encoder has the class, and the projector writes the same for all images."""
        assert [one.digest for one in images] == [example.images[0].digest for example in examples]
        noise = np.random.default_rng(0).normal(0, 0.05, (len(images), len(labels)))
        classes = [labels.index(normalize_text(example.class_name)) for example in examples]
        vectors = torch.eye(len(labels))[classes] + torch.tensor(noise)
        return [(vector.float(), torch.ones(5)) for vector in vectors]

    monkeypatch.setattr(projector, "projector_means", class_means)
    table = analyze(view)
    before, after = table.to_dict("records")
    assert (before["features"], after["features"]) == (BEFORE, AFTER)
    assert before["accuracy"] == 1.0
    assert before["shuffled"] < 0.7
    assert after["accuracy"] <= before["majority"] + 0.1
    assert after["difference"] == pytest.approx(after["accuracy"] - before["accuracy"])
    assert after["difference_high"] < 0
    assert after["difference_p"] < 0.001
    assert np.isnan(before["difference"])
    assert (before["width"], after["width"], before["n"]) == (len(labels), 5, len(examples))


def test_the_table_of_a_real_run_has_a_figure_with_the_control(view: Any) -> None:
    table = analyze(view)
    assert list(table["width"]) == [160, 160]
    points = measured_points(analysis_section(table, "projector_probe").frame, figure_spec(table, "projector_probe"))
    assert list(dict.fromkeys(points["row"])) == [BEFORE, AFTER]
    assert list(dict.fromkeys(points["line"])) == ["accuracy", "shuffled"]
    assert ((points["low"] < points["mean"]) & (points["mean"] < points["high"])).all()
    with pytest.raises(ConfigError, match=r"two labels with 5 images of different groups each\. Probes need a task"):
        analyze(view, queries=6)


def test_a_group_is_in_one_fold_and_each_label_in_all() -> None:
    labels = ["a", "b"] * 30
    groups = [f"group {i // 4}" for i in range(60)]
    order = list(np.random.default_rng(0).permutation(60))
    folds = assign_folds(labels, groups, order)
    assert all(len({fold for fold, own in zip(folds, groups, strict=True) if own == group}) == 1 for group in groups)
    alone = assign_folds(labels, [str(i) for i in range(60)], order)
    for label in "ab":
        counts = np.bincount([fold for fold, own in zip(alone, labels, strict=True) if own == label])
        assert list(counts) == [6] * FOLDS


def test_images_are_distinct_and_labels_have_enough_of_them() -> None:
    examples = labeled_images(build("task", {"name": "easy-vqa", "queries": 1}), 100)
    assert len({example.images[0].digest for example in examples}) == len(examples)
    names = [normalize_text(example.class_name) for example in examples]
    assert min(names.count(name) for name in names) >= FOLDS
    assert len(names) < 100


def test_a_label_whose_images_are_one_group_is_left_out() -> None:
    """Its images are all in one fold, so a probe on the others could not give it."""
    task = build("task", ATTRIBUTE)
    examples = labeled_images(task, 300)
    label = normalize_text(examples[0].class_name)
    members = [replace(one, group="scene") if normalize_text(one.class_name) == label else one for one in examples]
    grouped: Any = SimpleNamespace(queries=task.queries, pool=lambda _: SimpleNamespace(examples=members))
    expected = [one.id for one in examples if normalize_text(one.class_name) != label]
    assert [one.id for one in labeled_images(grouped, 300)] == expected


def test_a_model_whose_features_cannot_be_read_is_a_sentence(ran: Any) -> None:
    with pytest.raises(PlanError, match=r"which '.*' does not give\. Use a run of the model 'hf'"):
        analyze(ran(task=ATTRIBUTE, model="fake-copy", shots=0, seeds=[0]))
