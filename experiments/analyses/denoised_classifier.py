"""Is a classifier better after its head is tuned on the labels that a model corrected? Step 3 of Machine Vision Therapy

    labels    what the head is tuned on: corrected (by task `dicl`), predicted (by the classifier, uncorrected), random
              (as many labels changed, at random images to random classes), true; `none` is the classifier itself
    right     share of these labels that are the true class; for `none`, that of the predictions
    accuracy  of the head on held-out images, or of the classifier, on the same images
    gain      accuracy minus that of the classifier, in pairs of images
    below     accuracy of the head on corrected labels minus this accuracy, in pairs; the correction helps only if
              this is positive for predicted and for random
    n         images

The head is a regularized linear probe on the embedder's vectors (`experiments.analyses.linear_probe`), tuned on four
fifths of the queries' images and judged on the rest, in turn. Accuracy is measured against the true class, which
only the labels `true` use. The embedder is that of the task, or the parameter `embedder`. Differs from the paper in
what is tuned: the head, not the vision model. No released code was compared.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import RunView, answered_samples, interval_columns, make_table, paired_columns, run_tasks
from experiments.analyses.corrected_labels import corrections
from experiments.analyses.linear_probe import cross_validated
from icl import ConfigError, DataFrame, StreamKey, build
from retrievers import open_source

FOLDS = 5


def analyze(view: RunView, embedder: str = "") -> DataFrame:
    """Rows of each setting and seed. Raises ConfigError without questions of `dicl` or an embedder."""
    tasks, sets = run_tasks(view, answered_samples(view)), dict[Any, list[tuple[str, str, str]]]()
    for setting, seed, image, meta, label in corrections(view):
        sets.setdefault((*setting.items(), ("seed", seed)), []).append((image, str(meta["prediction"]), label))
    rows: list[dict[str, Any]] = []
    for key, images in sets.items():
        task: Any = tasks[str(dict(key)["task"])]
        encoder = build("embedder", embedder) if embedder else task.embedder
        if encoder is None:
            raise ConfigError(f"{view.path}: the task has no embedder whose head is tuned. Name one: embedder=encoder.")
        by_id = {query.id: query for query in task.of.queries}
        queries = [by_id[image] for image, _, _ in images]
        vectors = open_source(encoder, None, task.of.pool(queries[0].id)).embed_images(queries)
        folds = [StreamKey(0, query.id).number("denoised_classifier") % FOLDS for query in queries]
        predicted, corrected = [one for _, one, _ in images], [one for _, _, one in images]
        chance = changed_at_random(predicted, corrected, int(dict(key)["seed"]))
        true = [query.class_name for query in queries]
        labels = {"none": predicted, "corrected": corrected, "predicted": predicted, "random": chance, "true": true}
        right = {
            name: _right(own if name == "none" else cross_validated(vectors, own, folds), true)
            for name, own in labels.items()
        }
        units = np.arange(len(true))
        rows += [
            {
                **dict(key),
                "labels": name,
                "right": float(_right(labels[name], true).mean()),
                **interval_columns(scores, units, "accuracy"),
                **paired_columns(right["none"], scores, units, "gain"),
                **paired_columns(scores, right["corrected"], units, "below"),
                "n": len(true),
            }
            for name, scores in right.items()
        ]
    return make_table(
        rows,
        "A head tuned on corrected labels",
        note="held-out images; gain: over the classifier; below: under the head on corrected labels",
        signed=("gain", "below"),
    )


def _right(labels: Sequence[str], true: Sequence[str]) -> Any:
    return np.array([float(one == other) for one, other in zip(labels, true, strict=True)])


def changed_at_random(predicted: Sequence[str], corrected: Sequence[str], seed: int) -> list[str]:
    """The predictions with as many labels changed as the correction changes, at random images to random classes."""
    rng, classes = StreamKey(seed, "denoised_classifier").numpy("random"), sorted({*predicted, *corrected})
    labels, count = list(predicted), sum(a != b for a, b in zip(predicted, corrected, strict=True))
    for place in rng.permutation(len(labels))[:count]:
        labels[place] = str(rng.choice([name for name in classes if name != labels[place]]))
    return labels
