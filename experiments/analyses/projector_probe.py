"""How much of an image's class survives the projection into the language model? Probes before and after the projector

    features    `encoder`: what the projector reads, and `projected`: what the language model reads in its place, as
                means over the tokens of an image
    accuracy    of a linear probe on images that it was not fitted on: 5 folds, and images of one group stay together
    shuffled    the same with the labels in another order: what a probe reaches on noise
    difference  projected - encoder, in pairs of images, with an exact McNemar test
    width       entries of a vector
    majority    share of the most frequent label
    labels      classes that are compared; the label of an example, or its first answer
    n           images, of the pool of the first query

The encoder's own features are the reference: a projector cannot add what they lack, but it can lose it, or give it
another form. A linear probe sees linear form only. It reads at most 300 images (`--queries`), each distinct one once,
with one image per example and at least 5 images of different groups per label.

Cross-modal projection (Verma et al., 2402.16832) compares a model's features before and after its training, with a
multi-layer perceptron. No released code was compared.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np

from experiments import RunView, answered_samples, interval_columns, make_table, paired_columns, prefixed_interval
from experiments.analyses.linear_probe import cross_validated
from experiments.analyses.run_prompts import load_models
from icl import DataFrame, Example, StreamKey, Task, normalize_text
from icl.models.hf.model import HF

IMAGES, FOLDS = 300, 5
"""The largest number of images, and the number of folds, which is the smallest number of groups of a label."""
BEFORE, AFTER = "encoder", "projected"


def analyze(view: RunView, queries: int = IMAGES) -> DataFrame:
    """Two rows per task and model. Raises ConfigError without classes to compare, PlanError or ModelError."""
    table_rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for model, cells in load_models(view, answered_samples(view, with_demos=False), "interventions"):
        for task in {cell.labels["task"]: cell.task for cell in cells}.values():
            examples = labeled_images(task, queries)
            if len({normalize_text(example.class_name) for example in examples}) < 2:
                problems.append(f"{task.title} has fewer than two labels with {FOLDS} images of different groups each")
                continue
            setting = {"task": task.title, "model": str(cells[0].labels["model"])}
            table_rows += [{**setting, **row} for row in _rows(cast("HF", model), task.title, examples)]
    note = "share of images whose label a linear probe gives, on folds that it was not fitted on; shuffled: the control"
    if problems:
        note += f"; left out: {'; '.join(dict.fromkeys(problems))}"
    return make_table(
        table_rows,
        "Classes before and after the projector",
        note=note,
        signed=("difference", "difference_low", "difference_high"),
        missing=f"{view.path}: {'; '.join(dict.fromkeys(problems))}. Probes need a task whose pool has images of "
        "classes.",
        figure={
            "x": "features",
            "y": ("accuracy", "shuffled"),
            "measure": "accuracy of a linear probe",
            "n": "images",
        },
    )


def labeled_images(task: Task, limit: int) -> list[Example]:
    """Examples of the pool of the first query, each with one image of its own, of labels with FOLDS groups."""
    first: dict[str, Example] = {}
    for example in task.pool(task.queries[0].id).examples:
        if len(example.images) == 1:
            first.setdefault(example.images[0].digest, example)
    chosen = list(first.values())[:limit]
    counts = Counter(label for label, _ in {(normalize_text(one.class_name), _group(one)) for one in chosen})
    return [example for example in chosen if counts[normalize_text(example.class_name)] >= FOLDS]


def assign_folds(labels: Sequence[str], groups: Sequence[str], order: Sequence[int]) -> list[int]:
    """The fold of each example. Those of a group are in one fold, and each label is spread over the folds.

    Args:
        labels: The label of each example.
        groups: The group of each example.
        order: A random order of the examples.
    """
    counts: Counter[str] = Counter()
    folds: dict[str, int] = {}
    for i in order:
        if groups[i] not in folds:
            folds[groups[i]] = counts[labels[i]] % FOLDS
            counts[labels[i]] += 1
    return [folds[group] for group in groups]


def _group(example: Example) -> str:
    return example.group or example.id


def _rows(model: HF, title: str, examples: Sequence[Example]) -> Iterator[dict[str, Any]]:
    from icl.models.hf.projector import projector_means

    labels = [normalize_text(example.class_name) for example in examples]
    groups = [_group(example) for example in examples]
    key = StreamKey(0, title)
    ids = [example.id for example in examples]
    folds = assign_folds(labels, groups, key.order("projector_probe/folds", ids))
    shuffled = [labels[i] for i in key.order("projector_probe/shuffled", ids)]
    means = projector_means(model, [example.images[0] for example in examples])
    right: dict[str, Any] = {}
    for place, name in enumerate((BEFORE, AFTER)):
        vectors = np.stack([pair[place].numpy() for pair in means])
        right[name], noise = (_right(vectors, own, folds) for own in (labels, shuffled))
        ends = ("", "_low", "_high", "_p")
        nothing = dict.fromkeys((f"difference{end}" for end in ends), np.nan)
        yield {
            "features": name,
            **interval_columns(right[name], groups, "accuracy"),
            **prefixed_interval(noise, groups, "shuffled"),
            **(nothing if name == BEFORE else paired_columns(right[BEFORE], right[AFTER], groups, "difference")),
            "width": vectors.shape[1],
            "majority": max(Counter(labels).values()) / len(labels),
            "labels": len(set(labels)),
            "n": len(labels),
        }


def _right(vectors: Any, labels: Sequence[str], folds: Sequence[int]) -> Any:
    """1 or 0 for each image."""
    predicted = cross_validated(vectors, labels, folds)
    return np.array([float(one == label) for one, label in zip(predicted, labels, strict=True)])
