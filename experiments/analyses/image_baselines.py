"""What do the images of the demonstrations answer without the language model? Compare with `vote` and `copying`

    vote        the answer of most demonstrations of the prompt
    histogram   the answer of the demonstration with the nearest color histogram
    tower       the answer of the nearest demonstration in the model's own image features, before the projector
    cache       the answer y with the largest sum of exp(-5.5 (1 - cos)) over demonstrations with y, by the tower
    probe       a linear probe on the demonstrations alone, by the tower (`experiments.analyses.linear_probe`)
    with_model  accuracy of the model on the same samples
    beyond      with_model minus the accuracy of the baseline, in pairs of samples, without correction

Each baseline reads the images and answers of the demonstrations in each prompt. The language model adds its accuracy
above the best baseline. `cache` is Tip-Adapter (Zhang et al., ECCV 2022) without training or its zero-shot term.
Prompts without demonstrations or images are left out. No released code was compared.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from experiments import RunView, interval_columns, make_table, paired_columns
from experiments.analyses.linear_probe import fit_probe
from experiments.analyses.run_prompts import QUERIES, RunPrompt, run_prompts
from icl import DataFrame, Image, Query, build, normalize_text
from icl.metrics import vote
from icl.models.hf.model import HF
from retrievers import Vectors, normalize_rows

SHARPNESS = 5.5
"""beta of Tip-Adapter."""
BASELINES = ("vote", "histogram", "tower", "cache", "probe")


def analyze(view: RunView, queries: int = QUERIES) -> DataFrame:
    """One row per setting and baseline. Raises PlanError or ModelError without the model's image features."""
    from icl.models.hf.projector import projector_means

    scores = view.frame.set_index(["cell", "query"])[view.metric]
    table_rows: list[dict[str, Any]] = []
    for setting, prompts in run_prompts(view, "interventions", queries):
        usable = [one for one in prompts if all(item.images for item in _items(one))]
        images = {image.digest: image for one in usable for item in _items(one) for image in item.images}
        means = projector_means(cast("HF", usable[0].cell.model), [*images.values()]) if usable else []
        tower = {digest: pair[0].numpy() for digest, pair in zip(images, means, strict=True)}
        histogram = dict(zip(images, _histograms([*images.values()]), strict=True)) if usable else {}
        answers = [_answers(one, _vectors(one, histogram), _vectors(one, tower)) for one in usable]
        model = [float(scores[one.cell.digest, one.item.example.id]) for one in usable]
        units = [one.unit for one in usable]
        for name in BASELINES if usable else ():
            right = [
                float(own[name] in map(normalize_text, one.item.example.answers))
                for one, own in zip(usable, answers, strict=True)
            ]
            beyond = paired_columns(right, model, units, "beyond")
            row = {"baseline": name, **interval_columns(right, units, "accuracy"), "with_model": float(np.mean(model))}
            table_rows.append({**setting, **row, **beyond, "n": len(right)})
    return make_table(
        table_rows,
        "The images of the demonstrations without the language model",
        note="the demonstrations of each prompt; beyond: the model minus the baseline",
        signed=("beyond", "beyond_low", "beyond_high"),
        missing=f"{view.path}: no prompt has demonstrations with images.",
    )


def cache_answer(cosines: Sequence[float], labels: Sequence[str]) -> str:
    """The label with the largest sum of exp(-SHARPNESS (1 - cosine)); of equals, the first."""
    sums: dict[str, float] = {}
    for cosine, label in zip(cosines, labels, strict=True):
        sums[label] = sums.get(label, 0.0) + float(np.exp(-SHARPNESS * (1 - cosine)))
    return max(sums, key=lambda label: sums[label])


def _answers(one: RunPrompt, histogram: Vectors, tower: Vectors) -> dict[str, str]:
    """Baseline -> its normalized answer. Vectors: [1 + n, D], unit rows of the query and of each demonstration."""
    context = one.item.context
    labels = [normalize_text(demo.example.answer) for demo in context.demos]
    near, cosines = (rows[1:] @ rows[0] for rows in (histogram, tower))
    several = len(set(labels)) > 1
    return {
        "vote": normalize_text(vote(context.demos, context.query) or ""),
        "histogram": labels[int(np.argmax(near))],
        "tower": labels[int(np.argmax(cosines))],
        "cache": cache_answer(cosines.tolist(), labels),
        "probe": fit_probe(tower[1:], labels).predict(tower[:1])[0] if several else labels[0],
    }


def _items(one: RunPrompt) -> list[Any]:
    """The query, then the demonstrations."""
    return [one.item.context.query, *(demo.example for demo in one.item.context.demos)]


def _vectors(one: RunPrompt, by_digest: dict[str, Any]) -> Vectors:
    means = [np.mean([by_digest[image.digest] for image in item.images], axis=0) for item in _items(one)]
    return normalize_rows(np.array(means))


def _histograms(images: Sequence[Image]) -> Vectors:
    rows: Vectors = build("embedder", "histogram").embed_images([Query(one.digest, (one,), "") for one in images])
    return rows
