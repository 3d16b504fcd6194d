"""What answers are preferred to: the alternatives of Re-Align from the nearest other image."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.config.config import Config, load_config
from experiments.tuning.checkpoint import TrainingFolder
from experiments.tuning.train import train
from experiments.tuning.tune import episode_stream, training_cell
from icl.errors import DataError
from icl.models.hf.model import HF
from icl.tasks.base import Pool
from retrievers.base import Resources

PIXELS = {"name": "knn", "embedder": "pixels"}
TRAIN = {"name": "counting", "queries": 6, "pool_size": 20, "seed": 3}


def study(**changes: Any) -> Config:
    tune = {"task": TRAIN, "objective": "realign", "nearest": PIXELS, "shots": 2, "batch": 2, "steps": 5, "rank": 2}
    return load_config({"task": "counting", "model": {"name": "hf", "path": "tiny"}, "tune": {**tune, **changes}})


def stream_of(config: Config) -> Any:
    assert config.tune is not None
    return episode_stream(config, config.tune, training_cell(config, config.tune, None))


def test_the_alternatives_are_those_of_the_nearest_image_with_another_answer() -> None:
    stream = stream_of(study())
    task, fitted = stream.cell.task, stream.alternatives.retriever
    for episode, place in zip(stream.episodes(0), stream.order, strict=False):
        query = task.queries[place]
        pool = task.pool(query.id)

        [ranking] = fitted.fit(pool, Resources()).retrieve([query.query], len(pool.examples) - 2)
        other = next(pool.by_id[one.id] for one in ranking if pool.by_id[one.id].answer != query.answer)
        (same_prompt, wrong), (elsewhere, right) = episode.alternatives
        assert (same_prompt.digest, wrong, right) == (episode.prompt.digest, other.answer, episode.answer)
        assert [one.digest for one in elsewhere.images[:-1]] == [one.digest for one in episode.prompt.images[:-1]]
        assert elsewhere.images[-1].digest == other.images[0].digest
        assert [part.text for part in elsewhere.parts()] == [part.text for part in episode.prompt.parts()]


def test_training_raises_both_preferences(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    config = study(lr=0.01, sft_weight=0.0)
    assert config.tune is not None
    outcome = train(HF(path="tiny"), config.tune, stream_of(config), TrainingFolder(tmp_path, "x"))
    assert outcome.first_loss == pytest.approx(2 * math.log(2), abs=1e-6)  # the model is the base model
    assert outcome.last_loss < outcome.first_loss


def test_a_pool_without_another_image_is_refused() -> None:
    stream = stream_of(study())
    query = stream.queries[0]
    task = stream.cell.task
    same = tuple(replace(one, answers=query.answers) for one in task.pool(query.id).examples)
    stream.order = [0] * len(stream.queries)
    stream.epoch = 0

    class OnePool:
        queries = task.queries

        def pool(self, query_id: str) -> Pool:
            return Pool(same)

    stream.alternatives.retrieval.task = OnePool()
    with pytest.raises(DataError, match=r"has no other image for realign: none of the \d+ other members of its pool"):
        stream.episodes(0)
    stream.alternatives.queries = {query.id: replace(query, images=())}
    with pytest.raises(DataError, match=r"has no image, which objective: realign replaces"):
        stream.episodes(0)
