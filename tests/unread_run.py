"""A run of two arms of which one writes prose that the reader cannot read, and a person who can."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.config.keys import AXES
from experiments.results.labeling import Output
from experiments.results.loaded_run import Run, load_run
from experiments.store.labels import Label
from experiments.store.store import SampleWriter, Store
from icl.metrics.accuracy import Lenient
from icl.metrics.reading import folded_answers, unread_metrics
from icl.types import Example, Generation, Sample

GREEDY = {"strategy": {"name": "greedy"}, "sampler": {"name": "greedy"}}


@dataclass(frozen=True)
class Wording:
    """How an arm writes its answers: a text with {answer}, {other} and {number}."""

    text: str
    question: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()

    def write(self, answer: str, other: str, number: int) -> str:
        return self.text.format(answer=answer, other=other, number=number)


COLORS = ("red", "green", "blue", "gold")
WORDINGS = {
    "numbers of images": Wording(
        "The examples have 2 and 4; for image {number}, {answer}.", "How many shapes?", ("3", "5", "6", "7")
    ),
    "options": Wording(
        "Of red, green, blue and gold, it looks {answer} rather than {other}.", "Which color?", COLORS, COLORS
    ),
    "refusals": Wording("I'm sorry, I cannot be certain, but it might be {answer}.", "Which color?", COLORS, COLORS),
}
"""Prose whose right answers the rules of `lenient` refuse."""


def write_unread_run(
    folder: Path,
    *,
    queries: int = 200,
    prose: float = 0.57,
    gain: float = 0.0,
    seed: int = 0,
    shots: Iterable[int] = (0, 4),
    wording: Wording | None = None,
) -> Run:
    """Arms with equal truth, or a gain from demonstrations. At 0 shots a share of the outputs is prose.

    The rules refuse 60 % of right prose and accept 3 % of wrong prose, so they see a gain that does not exist. With a
    wording, it is the rules of `lenient` that score the prose, and its reader that cannot read it.
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
            samples = [
                _sample(cells[-1], i, bool(right[i]), bool(wordy[i]), float(luck[i]))
                if wording is None
                else _worded_sample(cells[-1], i, bool(right[i]), wording, is_prose=bool(wordy[i]))
                for i in range(queries)
            ]
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


def _worded_sample(cell: str, i: int, right: bool, wording: Wording, *, is_prose: bool) -> Sample:
    gold, other = (wording.answers[(i + place) % len(wording.answers)] for place in (0, 1))
    answer, unsaid = (gold, other) if right else (other, gold)
    output = wording.write(answer, unsaid, 1 + i % 4) if is_prose else answer
    example = Example(f"q{i:04d}", (), f"{wording.question} ({i})", (gold,), wording.options)
    everyone = [Example(f"of {text}", (), wording.question, (text,), wording.options) for text in wording.answers]
    score = Lenient().score(Generation(output), example)
    unread = unread_metrics(
        {"lenient": Lenient()}, {"lenient": score}, Generation(output), example, folded_answers(everyone)
    )
    return Sample(
        cell=cell,
        query=example.id,
        seed=0,
        question=example.question,
        gold=example.answers,
        options=example.options,
        prompt="p",
        output=output,
        finish="stop",
        scores={"lenient": score},
        unread=unread,
    )


def says(gold: str, output: str) -> bool:
    """What a careful person says of an output."""
    answer = re.search(r"(?:shows|for image \d+,|looks|might be) (\w+)", output)
    return (answer[1] if answer else output.strip()) == gold


def labels_of(outputs: Iterable[Output], by: str = "ana", look: int = 60) -> list[Label]:
    """The labels of a careful person."""
    return [Label(one.key, says(one.gold[0], one.text), by, look=look) for one in outputs]
