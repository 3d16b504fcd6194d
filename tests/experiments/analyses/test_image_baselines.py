"""Baselines on the images of each prompt's demonstrations: their answers, and the table of a real run."""

from typing import Any

import numpy as np
import pytest
import torch

from experiments.analyses.image_baselines import BASELINES, analyze, cache_answer
from icl.errors import ConfigError, ICLError
from icl.models.hf import projector
from icl.tasks.generated.binding import BindingTask

TINY = {"name": "hf", "path": "tiny", "device": "cpu"}
BINDING = {"name": "binding", "ways": 2, "queries": 4}


def test_the_cache_sums_over_demonstrations_of_a_label() -> None:
    assert cache_answer([0.9, 0.8, 0.8], ["a", "b", "b"]) == "b"
    assert cache_answer([0.9, 0.5, 0.5], ["a", "b", "b"]) == "a"  # exp(-.55) is above 2 exp(-2.75)
    assert cache_answer([0.5, 0.5], ["b", "a"]) == "b"


def test_each_baseline_reads_the_demonstrations_of_each_prompt(ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task = BindingTask(ways=2, query_limit=4)
    answer_of = {
        image.digest: example.answer
        for query in task.queries
        for example in (query, *task.pool(query.id).examples)
        for image in example.images
    }
    names = sorted(set(answer_of.values()))

    def perfect(model: Any, images: Any) -> Any:
        """A tower that has one direction for each answer."""
        return [(torch.eye(len(names))[names.index(answer_of[image.digest])], torch.ones(2)) for image in images]

    monkeypatch.setattr(projector, "projector_means", perfect)
    view = ran(task=BINDING, model=TINY, shots=4, retriever="balanced", seeds=[0], max_new_tokens=4)
    rows = {row["baseline"]: row for row in analyze(view).to_dict("records")}
    assert tuple(rows) == BASELINES
    for name in ("tower", "cache", "probe"):
        assert rows[name]["accuracy"] == 1.0
    for name, row in rows.items():
        assert row["n"] == 4, name
        assert row["with_model"] == view.frame[view.metric].mean()
        assert row["beyond"] == pytest.approx(row["with_model"] - row["accuracy"])
    assert rows["vote"]["accuracy"] == view.frame["vote"].mean()


def test_the_towers_of_a_model_are_read(ran: Any) -> None:
    view = ran(task=BINDING, model=TINY, shots=2, retriever="balanced", seeds=[0], max_new_tokens=4)
    table = analyze(view, queries=2)
    assert table["n"].tolist() == [2] * len(BASELINES)
    assert np.isfinite(table["accuracy"]).all()


def test_a_run_without_demonstrations_is_an_error(ran: Any) -> None:
    with pytest.raises((ConfigError, ICLError)):
        analyze(ran(task=BINDING, model=TINY, shots=0, seeds=[0], max_new_tokens=1))
