"""Embedders that combine other embedders."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from icl.errors import ConfigError, PlanError
from icl.registry import build
from icl.tasks.base import Pool
from retrievers.base import ALLOW_LEAKS, Resources, normalize_rows
from retrievers.embedders.image_statistics import Histogram, Pixels

Make = Callable[..., Any]


def _built(node: Any) -> Any:
    return build("embedder", node)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_cosine_of_a_mix_is_the_mean_of_both(weight: float, noise: Make, example: Make) -> None:
    items = [example(f"e{i}", noise(i)) for i in range(5)]
    mixed = _built({"name": "mix", "one": "histogram", "other": "pixels", "weight": weight}).embed_images(items)
    one, other = Histogram().embed_images(items), Pixels().embed_images(items)
    assert np.allclose(mixed @ mixed.T, weight * one @ one.T + (1 - weight) * other @ other.T, atol=1e-5)


def test_mixing_costs_no_second_pass(color: Make, example: Make) -> None:
    from retrievers.machinery.embeddings import num_embedded

    pool = Pool(tuple(example(f"e{i}", color("red", i)) for i in range(4)))
    for name in ("histogram", "pixels"):
        build("retriever", {"name": "knn", "embedder": name}).fit(pool, Resources())
    before = num_embedded()
    node = {"name": "mix", "one": "histogram", "other": "pixels"}
    fitted = build("retriever", {"name": "knn", "embedder": node}).fit(pool, Resources())
    assert len(fitted.retrieve([example("q", color("red", 0)).query], 3)[0]) == 3
    assert num_embedded() == before


def test_embedders_that_cannot_be_paired_or_mixed_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"text is Histogram.*does not read texts"):
        _built({"name": "paired", "image": "histogram", "text": "histogram"})
    with pytest.raises(ConfigError, match="cannot embed the same kind of input"):
        _built({"name": "mix", "one": "histogram", "other": "minilm"})


def test_paired_embeds_each_modality_with_its_own_embedder(color: Make, example: Make, number_embedder: Any) -> None:
    pool = Pool(
        (example("red", color("red", 1), question="0 1 0"), example("blue", color("blue", 1), question="1 0 0"))
    )
    query = example("q", color("red", 2), question="1 0 0")
    node = {"name": "paired", "image": "histogram", "text": number_embedder}

    def first(**more: Any) -> str:
        retriever = build("retriever", {"embedder": node, **more})
        return str(retriever.fit(pool, Resources()).retrieve([query.query], 1)[0][0].id)

    assert first(name="knn") == "red"
    assert first(name="knn", by="question") == "blue"
    assert first(name="knn", by="both", weight=0.8) == "red"
    with pytest.raises(ConfigError, match="they are not in one space"):
        first(name="t2i")


@pytest.fixture
def gap(example: Make, pointing: Make) -> Pool:
    """All images have one offset and all answers another; after centering, they match."""
    rows = {"x": ((0.3, 0.0, 0.9), "0.9 0.02 -0.3"), "y": ((0.0, 0.3, 0.9), "0.3 0.05 -0.9")}
    return Pool(tuple(example(n, pointing(p, i), answer) for i, (n, (p, answer)) in enumerate(rows.items())))


def test_centering_subtracts_the_pool_mean_of_each_modality(
    gap: Pool, example: Make, pointing: Make, number_embedder: Any
) -> None:
    node = {"name": "centered", "of": number_embedder, "text": "answer"}
    source = _built(node).open(None, gap)
    images = number_embedder.embed_images(gap.examples)
    assert np.allclose(source.embed_images(gap.examples), normalize_rows(images - images.mean(axis=0)), atol=1e-6)
    texts = number_embedder.embed_texts([e.answer for e in gap.examples])
    assert np.allclose(
        source.embed_texts([gap.examples[1].answer]), normalize_rows(texts[1:] - texts.mean(axis=0)), atol=1e-6
    )
    assert np.allclose(source.embed_images(gap.examples).sum(axis=0), 0, atol=1e-5)


def test_a_retriever_fits_a_centered_embedder(gap: Pool, example: Make, pointing: Make, number_embedder: Any) -> None:
    node = {"name": "centered", "of": number_embedder, "text": "answer"}
    query = example("q", pointing((0.0, 0.3, 0.85), 9))
    (demos,) = build("retriever", {"name": "knn", "embedder": node}).fit(gap, Resources()).retrieve([query.query], 2)
    assert [one.id for one in demos] == ["y", "x"]
    assert demos[1].score < 0 < demos[0].score
    with pytest.raises(PlanError, match="fitted on a pool"):
        _built(node).embed_texts(["1 0 0"])


@pytest.mark.parametrize("inside", [False, True])
def test_centering_subtracts_the_mean_of_the_texts_that_the_retriever_compares(
    gap: Pool, number_embedder: Any, inside: bool
) -> None:
    """All examples of the pool have one question, and `i2t` compares answers."""
    assert len({example.question for example in gap.examples}) == 1
    by_default, explicit = ({"name": "centered", "of": number_embedder, **text} for text in ({}, {"text": "answer"}))
    retrieved = []
    for node in (by_default, explicit):
        embedder = {"name": "mix", "one": node, "other": node} if inside else node
        retriever = build("retriever", {"name": "i2t", "embedder": embedder})
        retriever.prepare([*gap.examples, gap.examples[0].query], Resources())
        (demos,) = retriever.fit(gap, Resources()).retrieve([gap.examples[0].query], 2, ALLOW_LEAKS)
        retrieved.append([(demo.id, demo.score) for demo in demos])
    assert retrieved[0] == retrieved[1]
    assert [name for name, _ in retrieved[0]] == ["x", "y"]


def test_a_single_vector_cannot_be_centered(example: Make, pointing: Make, number_embedder: Any) -> None:
    pool = Pool(tuple(example(f"e{i}", pointing((1, 0, 0), i), question="1 0 0") for i in range(3)))
    for by, what in (("image", "images"), ("question", "questions")):
        retriever = build(
            "retriever", {"name": "knn", "by": by, "embedder": {"name": "centered", "of": number_embedder}}
        )
        with pytest.raises(PlanError, match=f"fewer than two different {what}"):
            retriever.fit(pool, Resources())


def test_episodic_pools_can_be_prepared_through_a_transform(
    gap: Pool, example: Make, pointing: Make, number_embedder: Any
) -> None:
    retriever = build("retriever", {"name": "knn", "embedder": {"name": "centered", "of": number_embedder}})
    retriever.prepare([*gap.examples, example("q", pointing((0, 1, 0), 3)).query], Resources())
