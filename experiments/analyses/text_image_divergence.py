"""Does the same item have another answer as text than as an image? Math-PUMA's divergence (2408.08640)

    kl       KL(p || q) of p, the next token after the item as text, from q, after the same item as an image
    reverse  KL(q || p)
    other    the control: KL(p || q'), the mean over the images q' of the other items with another gold answer
    gap      other - kl, in pairs: above 0 if the two forms agree on the item, and not only on how answers look
    same     share of items whose most probable token is the same in both forms
    n        items

In nats, over the whole vocabulary, after the prompt and before any token of the answer. A run has both forms if its
tasks differ in `form` only, as those of `as_text` do; items are paired by query and seed. The model reads the prompts
of the first 50 queries of each cell (`--queries`).

Math-PUMA trains on the mean of both directions over all answer tokens. Here it is a measure, of the first token.

No released code was compared.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from decoding import kl_divergence
from experiments import RunView, interval_columns, make_table, prefixed_interval
from experiments.analyses.run_prompts import QUERIES, RunPrompt, run_prompts
from icl import DataFrame, Tensor, normalize_text, torch

BATCH = 8
"""Prompts that the model reads in one call."""


@dataclass(frozen=True)
class _Item:
    """A query in one form; logits: [V] float32, of the first token of its answer."""

    seed: int
    answer: str
    unit: Any
    logits: Tensor


Items = Mapping[tuple[int, str], _Item]
"""(seed, query) -> item."""


def analyze(view: RunView, queries: int = QUERIES) -> DataFrame:
    """One row per setting with both forms. Raises ConfigError without any, PlanError without logits."""
    arms: dict[str, dict[str, tuple[dict[str, Any], Items]]] = {}
    for setting, prompts in run_prompts(view, "logits", queries, with_demos=False):
        node = dict(prompts[0].cell.config["task"])
        if form := node.pop("form", None):
            key = json.dumps([{**setting, "task": node}], sort_keys=True, default=str)
            arms.setdefault(key, {})[form] = (setting, dict(_items(prompts)))
    rows = [
        {**forms["image"][0], **divergences(forms["text"][1], forms["image"][1])}
        for forms in arms.values()
        if {"text", "image"} <= forms.keys()
    ]
    return make_table(
        rows,
        "Divergence of answers from text and from images",
        note="in nats, of the answer's first token; other: from the images of items with another answer",
        signed=("gap", "gap_low", "gap_high"),
        missing=f"{view.path}: no task was run in both forms. In grid, task: "
        "[{name: as_text, of: {name: operators}, form: text}, {name: as_text, of: {name: operators}, form: image}].",
        figure={"x": "shots", "y": ("kl", "other"), "measure": "KL divergence, nats", "n": "items"},
    )


def divergences(text: Items, image: Items) -> dict[str, Any]:
    """The columns of the items that both forms have."""
    both = [(text[key], image[key]) for key in text if key in image]
    p, q = (torch.stack([pair[i].logits for pair in both]) for i in range(2))
    kl = kl_divergence(p, q)[:, 0].tolist()
    units = [own.unit for own, _ in both]
    other = [_mean_divergence(own, image.values()) for own, _ in both]
    compared = [i for i, value in enumerate(other) if not np.isnan(value)]
    controls = {"other": [other[i] for i in compared], "gap": [other[i] - kl[i] for i in compared]}
    compared_units = [units[i] for i in compared]
    columns = interval_columns(kl, units, "kl", bounded=False)
    for name, values in controls.items():
        columns |= prefixed_interval(values, compared_units, name, bounded=False)
    return {
        **columns,
        "reverse": float(kl_divergence(q, p).mean()),
        "same": float((p.argmax(-1) == q.argmax(-1)).double().mean()),
        "n": len(both),
    }


def _mean_divergence(own: _Item, images: Any) -> float:
    """The mean divergence of an item from the images with another answer, under its seed; NaN without any."""
    others = [image.logits for image in images if image.seed == own.seed and image.answer != own.answer]
    return float(kl_divergence(own.logits[None], torch.stack(others)).mean()) if others else np.nan


def _items(prompts: Sequence[RunPrompt]) -> Iterator[tuple[tuple[int, str], _Item]]:
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        model: Any = batch[0].cell.model
        rows = model.open([one.prompt for one in batch]).logits.cpu()
        for one, logits in zip(batch, rows, strict=True):
            example, seed = one.item.example, one.cell.seed
            yield (seed, example.id), _Item(seed, normalize_text(example.answer), one.unit, logits)
