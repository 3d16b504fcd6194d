"""What answers are preferred to: the alternatives of Re-Align from the nearest other image."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image as PILImage

from experiments.config.config import Config, load_config
from experiments.tuning.checkpoint import TrainingFolder
from experiments.tuning.episodes import FIRST, NearestImage, wrong_answer
from experiments.tuning.train import train
from experiments.tuning.tune import episode_stream, training_cell
from icl.errors import DataError
from icl.images import Image
from icl.models.hf.model import HF
from icl.tasks.base import Pool
from icl.types import Context, Demo, Example, RetrievedExample
from prompts.composers.turns import Chat
from retrievers.base import Resources

PIXELS = {"name": "knn", "embedder": "pixels"}
SPEC = SimpleNamespace(cell=SimpleNamespace(seed=0))
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


def test_the_wrong_answer_is_another_option_else_an_answer_of_a_demonstration() -> None:
    def wrong(answers: tuple[str, ...], options: tuple[str, ...], *demos: str, query: str = "q") -> list[str]:
        example = Example(query, (), "?", answers, options=options)
        context = Context(example.query, tuple(Demo(Example(f"d{i}", (), "?", (a,))) for i, a in enumerate(demos)))
        prompt = Chat().compose(context)
        item: Any = SimpleNamespace(example=example, context=context, prompt=prompt, spec=SPEC)
        alternatives = wrong_answer(item)
        assert [one is prompt for one, _ in alternatives] == [True]
        return [answer for _, answer in alternatives]

    assert wrong(("red",), ("red", "blue"), "green") == ["blue"]
    own = {wrong(("red", "crimson"), ("Red.", "Crimson", "blue"), "green", query=f"q{i}")[0] for i in range(9)}
    assert own == {"blue"}
    assert wrong(("red",), (), "red", "green", "green") == ["green"]
    chosen = {wrong(("red",), ("red", "blue", "green"), query=f"q{i}")[0] for i in range(20)}
    assert chosen == {"blue", "green"}, "queries have wrong answers of their own"
    once, often = ([wrong(("red",), (), "blue", *["green"] * n, query=f"q{i}") for i in range(20)] for n in (1, 5))
    assert once == often, "an answer that several demonstrations have is drawn as one"


def nearest(rankings: list[Any], count: int, **context: Any) -> tuple[NearestImage, Any, list[tuple[int, bool]]]:
    """Alternatives from a pool of red members with images with given rankings, and the rankings that are read."""
    stream = stream_of(study())
    alternatives: NearestImage = stream.alternatives
    query = stream.queries[0]
    rankings_read: list[tuple[int, bool]] = []
    images = [Image.from_pil(PILImage.new("RGB", (4, 4), (i, 0, 0)), f"p{i}") for i in range(count)]
    red = [replace(query, id=f"p{i}", images=(image,)) for i, image in enumerate(images)]
    wrong = ("blank", (), ("no",)), ("near", red[0].images, ("near",)), ("far", red[0].images, ("far",))
    others = [replace(query, id=name, images=images, answers=answers) for name, images, answers in wrong]

    class OnePool:
        def pool(self, query_id: str) -> Pool:
            return Pool((*red, *others, replace(query, id="leak")))

    def plan(cells: list[Any], queries: list[Any]) -> dict[str, list[Any]]:
        rankings_read.append(
            (cells[0].shots, cells[0].rerankers == () and cells[0].retriever is alternatives.retriever)
        )
        ranking = rankings.pop(0)
        return {"": [ranking if isinstance(ranking, str) else [RetrievedExample(name) for name in ranking]]}

    alternatives.retrieval = SimpleNamespace(task=OnePool(), plan=plan)  # type: ignore[assignment]
    cell = replace(stream.cell, rerankers=(object(),))
    item: Any = SimpleNamespace(
        example=query, context=Context(query.query, **context), prompt=None, spec=SimpleNamespace(cell=cell)
    )
    return alternatives, item, rankings_read


def test_the_whole_pool_is_ranked_if_the_nearest_have_the_answer() -> None:
    reds = [f"p{i}" for i in range(FIRST)]
    alternatives, item, rankings_read = nearest([reds, [*reds, "blank", "near", "far"]], FIRST)
    other, answer = alternatives._other(item)
    assert (other.id, answer) == ("near", "near"), "the nearest one with an image and another answer"
    assert rankings_read == [(FIRST, True), (FIRST + 3, True)]
    alternatives, item, rankings_read = nearest([["far", "near"]], FIRST)
    assert alternatives._other(item)[0].id == "far"
    assert rankings_read == [(FIRST, True)]
    alternatives, item, rankings_read = nearest([["p0", "blank"]], 1)
    with pytest.raises(DataError, match="none of the 4 other members of its pool has an image and another answer"):
        alternatives._other(item)
    assert rankings_read == [(4, True)], "a small pool is ranked once"
    alternatives, item, rankings_read = nearest(["the server is down"], 1)
    with pytest.raises(DataError, match=r"tune\.nearest: query '.*': the server is down"):
        alternatives._other(item)


def test_answers_have_the_names_of_the_demonstrations_if_the_gold_has_them() -> None:
    names = {"far": "foo", "near": "bar"}
    for relabels, expected in ((True, "foo"), (False, "far")):
        alternatives, item, _ = nearest([["far"]], 1, label_map=names, relabels_gold=relabels)
        assert alternatives._other(item)[1] == expected


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
