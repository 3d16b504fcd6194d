"""A run of two arms of which one writes prose that the reader cannot read, and a person who can."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from experiments.config.keys import AXES
from experiments.results.labeling import Output
from experiments.results.loaded_run import Run, load_run
from experiments.store.labels import Label
from experiments.store.store import SampleWriter, Store
from icl.types import Sample

GREEDY = {"strategy": {"name": "greedy"}, "sampler": {"name": "greedy"}}


def write_unread_run(
    folder: Path,
    *,
    queries: int = 200,
    prose: float = 0.57,
    gain: float = 0.0,
    seed: int = 0,
    shots: Iterable[int] = (0, 4),
) -> Run:
    """Arms with equal truth, or a gain from demonstrations. At 0 shots a share of the outputs is prose.

    The rules refuse 60 % of right prose and accept 3 % of wrong prose, so they see a gain that does not exist.
    """
    store, draw = Store(folder), np.random.default_rng(seed)
    shared, cells = draw.random(queries) < 0.6, []
    with SampleWriter(store) as writer:
        for k in shots:
            right = np.where(draw.random(queries) < 0.25, draw.random(queries) < 0.6, shared)
            right = right | ((draw.random(queries) < gain / 0.4) & (k > 0))
            cell = {
                "task": "count",
                "model": "tiny",
                "seed": 0,
                "shots": k,
                "retriever": "random" * (k > 0),
                "decoding": GREEDY,
            }
            labels = {
                **dict.fromkeys(AXES, "none"),
                **cell,
                "retriever": "random" if k else "none",
                "decoding": "greedy",
            }
            cells.append(f"{k:016x}")
            store.write_cell(cells[-1], {**cell, "labels": labels})
            wordy = (draw.random(queries) < prose) & (k == 0)
            luck = draw.random(queries)
            samples = [_sample(cells[-1], i, bool(right[i]), bool(wordy[i]), float(luck[i])) for i in range(queries)]
            writer.append(cells[-1], samples)
    config = {"compare": {"to": {"shots": 0}, "metric": "lenient", "correction": "holm"}}
    session = {"start": "2026-01-02T03:04:05", "end": "2026-01-02T03:06:15"}
    info = {"name": folder.name, "config": config, "cells": cells, "sessions": [session], "metrics": {"lenient": {}}}
    store.write_run(info)
    return load_run(folder)


def _sample(cell: str, i: int, right: bool, wordy: bool, luck: float) -> Sample:
    gold, other = str(3 + i % 5), str(3 + (i + 1) % 5)
    number = gold if right else other
    output = f"Image {1 + i % 4} shows {number} of them, unlike the others." if wordy else number
    rules = (luck >= 0.6 if right else luck < 0.03) if wordy else right
    return Sample(
        cell=cell,
        query=f"q{i:04d}",
        seed=0,
        question=f"How many shapes are in image {i}?",
        gold=(gold,),
        prompt="p",
        output=output,
        finish="stop",
        scores={"lenient": float(rules)},
        unread=("lenient",) if wordy else (),
    )


def says(gold: str, output: str) -> bool:
    """What a careful person says of an output."""
    number = re.search(r"shows (\d+)", output)
    return (number[1] if number else output.strip()) == gold


def labels_of(outputs: Iterable[Output], by: str = "ana", look: int = 60) -> list[Label]:
    """The labels of a careful person."""
    return [Label(one.key, says(one.gold[0], one.text), by, look=look) for one in outputs]
