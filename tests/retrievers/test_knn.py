"""Nearest neighbors where the right answer is known."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icl.errors import ConfigError, DataError, PlanError
from icl.registry import build
from icl.tasks.base import Pool
from icl.types import Example
from retrievers.base import Resources
from retrievers.embedders.image_statistics import Histogram
from retrievers.machinery.embeddings import num_embedded
from retrievers.machinery.encoder import Encoder
from retrievers.nearest import KNN

Make = Callable[..., Any]
COLORS = ("red", "lime", "blue", "yellow")


@pytest.fixture
def pool(color: Make, example: Make) -> Pool:
    """Six images of each of four colors, interleaved."""
    return Pool(tuple(example(f"{name}-{i}", color(name, i), name) for i in range(6) for name in COLORS))


def _ids(retriever: Any, pool: Pool, query: Example, k: int) -> list[str]:
    (demos,) = retriever.fit(pool, Resources()).retrieve([query.query], k)
    return [one.id for one in demos]


@pytest.mark.parametrize("embedder", ["histogram", "pixels"])
@pytest.mark.parametrize("name", COLORS)
def test_nearest_images_have_the_query_color(pool: Pool, color: Make, example: Make, embedder: str, name: str) -> None:
    retriever = build("retriever", {"name": "knn", "embedder": embedder})
    ids = _ids(retriever, pool, example("q", color(name, 40)), 6)
    assert sorted(ids) == [f"{name}-{i}" for i in range(6)]


def test_equal_scores_are_in_pool_order(pool: Pool, color: Make, example: Make) -> None:
    ids = _ids(KNN(embedder=Histogram()), pool, example("q", color("blue", 40)), 4)
    assert ids == ["blue-0", "blue-1", "blue-2", "blue-3"]


def test_the_query_image_is_never_retrieved_under_any_name(pool: Pool, color: Make, example: Make) -> None:
    """The nearest image is that of the query, under another id, file and size of edit."""
    query = example("q", color("red", 50))
    trap = Pool((example("q", color("red", 51)), example("twin", color("red", 50)), *pool.examples))
    assert _ids(KNN(embedder=Histogram()), trap, query, 6) == [f"red-{i}" for i in range(6)]


def test_exclusion_never_costs_a_demonstration(color: Make, example: Make) -> None:
    """There are more copies than any fixed margin: the search continues until k are left."""
    twins = [example(f"twin-{i}", color("red", 50)) for i in range(200)]
    others = [example(f"other-{i}", color("blue", i)) for i in range(3)]
    pool = Pool((*twins, *others))
    assert _ids(KNN(embedder=Histogram()), pool, example("q", color("red", 50)), 3) == [f"other-{i}" for i in range(3)]


def test_more_shots_than_the_filtered_pool_names_the_counts(pool: Pool, color: Make, example: Make) -> None:
    query = example("red-2", color("lime", 3))
    with pytest.raises(PlanError, match=r"23 demonstrations for query 'red-2' from a pool of 24: 22 are left after"):
        _ids(KNN(embedder=Histogram()), pool, query, 23)
    assert len(_ids(KNN(embedder=Histogram()), pool, query, 22)) == 22


def test_by_question_reads_questions_alone(clip: Path, color: Make, example: Make) -> None:
    words = ["what color is red ?", "count the green shape", "which blue ?"]
    pool = Pool(tuple(example(f"e{i}", color("red", i), question=text) for i, text in enumerate(words)))
    retriever = KNN(by="question", embedder=Encoder(str(clip)))
    (demos,) = retriever.fit(pool, Resources()).retrieve([example("q", None, question=words[1]).query], 1)
    assert demos[0].id == "e1"
    assert demos[0].score == pytest.approx(1, abs=1e-5)


def test_by_both_is_the_weighted_mean_of_the_two_cosines(clip: Path, noise: Make, example: Make) -> None:
    words = ["what color is red ?", "count the green shape", "which blue ?", "count"]
    pool = Pool(tuple(example(f"e{i}", noise(i), question=text) for i, text in enumerate(words)))
    query = example("q", noise(9), question="which red shape ?")
    encoder = Encoder(str(clip))
    images = encoder.embed_images(pool.examples) @ encoder.embed_images([query])[0]
    questions = encoder.embed_texts(words) @ encoder.embed_texts([query.question])[0]
    for weight in (0.0, 0.3, 1.0):
        fitted = KNN(by="both", weight=weight, embedder=encoder).fit(pool, Resources())
        (demos,) = fitted.retrieve([query.query], 4)
        expected = weight * images + (1 - weight) * questions
        assert [one.id for one in demos] == [f"e{i}" for i in np.argsort(-expected, kind="stable")]
        assert [one.score for one in demos] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)


def test_several_images_of_an_example_are_averaged(color: Make, example: Make) -> None:
    both = Example("both", (color("red", 1), color("blue", 1)), "which?", ("a",))
    pool = Pool((example("red", color("red", 2)), example("lime", color("lime", 2)), both))
    query = Example("q", (color("red", 3), color("blue", 3)), "which?", ())
    assert _ids(KNN(embedder=Histogram()), pool, query, 3) == ["both", "red", "lime"]


def test_one_of_several_shared_images_is_a_leak(color: Make, example: Make) -> None:
    shares = Example("shares", (color("red", 1), color("blue", 1)), "which?", ("a",))
    pool = Pool((shares, example("lime", color("lime", 2))))
    assert _ids(KNN(embedder=Histogram()), pool, example("q", color("blue", 1)), 1) == ["lime"]


def test_an_image_embedder_cannot_read_questions() -> None:
    with pytest.raises(ConfigError, match=r"by is 'question', and its embedder Histogram.* reads images only"):
        build("retriever", {"name": "knn", "by": "question", "embedder": "histogram"})


def test_an_example_without_an_image_is_named(color: Make, example: Make) -> None:
    pool = Pool((example("seen", color("red")), example("unseen")))
    with pytest.raises(DataError, match="'unseen' has no image to embed"):
        KNN(embedder=Histogram()).fit(pool, Resources())


def test_a_pool_in_use_is_indexed_once(pool: Pool, color: Make, example: Make) -> None:
    one, two = (KNN(embedder=Histogram()).fit(pool, Resources(seed=seed)) for seed in (0, 1))
    assert one.index is two.index
    assert KNN(embedder=Histogram(bins=4)).fit(pool, Resources()).index is not one.index


def test_prepared_items_are_not_embedded_again(clip: Path, color: Make, example: Make) -> None:
    retriever = KNN(by="both", embedder=Encoder(str(clip)))
    pools = [Pool(tuple(example(f"e{n}-{i}", color("red", 5 * n + i)) for i in range(4))) for n in range(6)]
    queries = [example(f"q{n}", color("red", 5 * n + 4), question=f"which {n} ?").query for n in range(6)]
    retriever.prepare([*queries, *(e for pool in pools for e in pool.examples)], Resources())
    before = num_embedded()
    for pool, query in zip(pools, queries, strict=True):
        assert len(retriever.fit(pool, Resources()).retrieve([query], 2)[0]) == 2
    assert num_embedded() == before


def test_naming_a_retriever_imports_nothing_heavy() -> None:
    code = "import sys; from icl.registry import build; build('retriever', 'knn'); print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "faiss", "PIL.Image"} & set(loaded)
