"""Probabilistic embeddings: uncertain items rank lower, certain ones as by cosine, ambiguous ones become uncertain."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icl.component_json import describe
from icl.errors import ConfigError, DataError, PlanError
from icl.registry import build
from icl.tasks.base import Pool
from retrievers.base import Resources, normalize_rows
from retrievers.machinery.conformance import check_retriever
from retrievers.machinery.embedding_models import SHIPPED
from retrievers.machinery.embeddings import num_embedded
from retrievers.machinery.variance_heads import (
    GaussianEmbedding,
    GaussianEmbeddings,
    VarianceHead,
    VarianceHeads,
    VarianceTraining,
    fit_variance_heads,
    match_probabilities,
    soft_contrastive,
)

Make = Callable[..., Any]


def _at(name: str, where: float, deviation: float = -20.0) -> GaussianEmbedding:
    return GaussianEmbedding(name, np.array([where, 0], np.float32), np.full(2, deviation, np.float32))


def match_probability(
    query: GaussianEmbedding, document: GaussianEmbedding, a: float, b: float, *, released: bool = True
) -> float:
    """The match probability of two items, by its definition in float64."""
    distances = np.sqrt(((query.samples()[:, None] - document.samples()) ** 2).sum(axis=2) + 1e-6)
    return float((1 / (1 + np.exp(-(b - a * distances) * (2 if released else 1)))).mean())


def test_a_match_probability_falls_with_distance_and_is_an_item_s_own() -> None:
    certain = match_probability(_at("q", 0), _at("d", 3), a=1.0, b=2.0, released=False)
    assert certain == pytest.approx(1 / (1 + np.exp(1)), abs=1e-5)  # no deviation: sigmoid(b - a distance)
    assert match_probability(_at("q", 0), _at("d", 3), a=1.0, b=2.0) == pytest.approx(1 / (1 + np.exp(2)), abs=1e-5)
    wide = [match_probability(_at("q", 0, 0.0), _at("d", 3, 0.0), a=1.0, b=2.0) for _ in range(2)]
    assert wide[0] == wide[1] != pytest.approx(certain, abs=1e-3)
    assert not np.array_equal(_at("q", 0, 0.0).samples(), _at("d", 0, 0.0).samples())


@pytest.mark.parametrize("released", [True, False])
def test_batched_match_probabilities_equal_single_ones(released: bool) -> None:
    rng = np.random.default_rng(0)
    rows, log_deviations = normalize_rows(rng.normal(size=(6, 5))), rng.normal(-1, 1, (6, 5)).astype(np.float32)
    names = [f"d{i}" for i in range(6)]
    query = GaussianEmbedding("q", rows[0], log_deviations[0])
    alone = [
        match_probability(query, GaussianEmbedding(*one), 3.0, 2.0, released=released)
        for one in zip(names, rows, log_deviations, strict=True)
    ]
    samples = GaussianEmbeddings(rows, log_deviations).samples(names)
    together = match_probabilities(query.samples().astype(np.float32), samples, 3.0, 2.0, released=released)
    assert np.allclose(together, alone, atol=1e-5)


def _heads(path: Path, embedder: Any, weights: Any, start: float, b: float = 3.0) -> str:
    """A file of heads for images: log deviation = weights x + start."""
    bias = np.full(3, start, np.float32)
    head = VarianceHead(np.asarray(weights, np.float32), bias)
    VarianceHeads(head, None, a=2.0, b=b, released=True, embedder=embedder.digest).save(path)
    return str(path)


@pytest.fixture
def pool(example: Make, pointing: Make) -> Pool:
    """By cosine to (1, 0, 0): near, tilted to the third axis, tilted as far to the second, far."""
    places = {"near": (0.98, 0, 0.2), "third": (0.8, 0, 0.6), "second": (0.8, 0.6, 0), "far": (0, 1, 0)}
    return Pool(tuple(example(name, pointing(at, i), name) for i, (name, at) in enumerate(places.items())))


def _retrieve(pool: Pool, query: Any, embedder: Any, heads: str | None = None, **more: Any) -> list[Any]:
    node = {"name": "probabilistic", "of": embedder, "pairs": "label", "heads": heads, **more}
    retriever = build("retriever", {"name": "pcme", "embedder": node})
    return list(retriever.fit(pool, Resources()).retrieve([query.query], len(pool))[0])


def test_of_two_members_equally_near_the_uncertain_one_is_later(
    pool: Pool, example: Make, pointing: Make, number_embedder: Any, tmp_path: Path
) -> None:
    """Vectors near the third axis are uncertain: exp(s) is about e^-1 for `third`, e^-4 for `second`."""
    query = example("q", pointing((1, 0, 0), 9))
    lean = np.zeros((3, 3))
    lean[:, 2] = 5.0
    demos = _retrieve(pool, query, number_embedder, _heads(tmp_path / "lean", number_embedder, lean, -4.0))
    assert [one.id for one in demos].index("second") < [one.id for one in demos].index("third")
    lean[:, 2], lean[:, 1] = 0.0, 5.0
    demos = _retrieve(pool, query, number_embedder, _heads(tmp_path / "other", number_embedder, lean, -4.0))
    assert [one.id for one in demos].index("third") < [one.id for one in demos].index("second")


def test_without_uncertainty_the_order_is_that_of_the_cosine(example: Make, noise: Make, tmp_path: Path) -> None:
    """Nine patterns: the ranking is that of knn, and each score is the sigmoid of the distance."""
    pool = Pool(tuple(example(f"e{i}", noise(i), f"{i % 2}", label=f"{i % 2}") for i in range(9)))
    query = example("q", noise(77))
    pixels = build("embedder", "pixels")
    dim = len(pixels.embed_images([query.query])[0])
    head = VarianceHead(np.zeros((dim, dim), np.float32), np.full(dim, -20, np.float32))
    VarianceHeads(head, None, 2.0, 3.0, True, pixels.digest).save(tmp_path / "flat")
    demos = _retrieve(pool, query, "pixels", str(tmp_path / "flat"))
    near = (
        build("retriever", {"name": "knn", "embedder": "pixels"}).fit(pool, Resources()).retrieve([query.query], 9)[0]
    )
    assert [one.id for one in demos] == [one.id for one in near]
    for one, other in zip(demos, near, strict=True):
        distance = np.sqrt(2 - 2 * other.score + 1e-6)
        assert one.score == pytest.approx(1 / (1 + np.exp(-2 * (3 - 2 * distance))), abs=1e-4)


def _clear_and_ambiguous(dim: int = 8) -> tuple[Any, list[str]]:
    """Two classes far apart along the first axis, and a third of their members in one place between them."""
    rng = np.random.default_rng(0)
    rows, names = [], []
    for i in range(60):
        side = 1.0 if i % 2 else -1.0
        mean = np.zeros(dim)
        mean[0 if i % 3 else 1] = side if i % 3 else 1.0
        rows.append(mean + 0.15 * rng.normal(size=dim))
        names.append(f"class {i % 2}")
    return normalize_rows(np.array(rows)), names


def test_items_among_others_become_uncertain() -> None:
    rows, names = _clear_and_ambiguous()
    heads = fit_variance_heads(rows, names, None, "x", VarianceTraining(steps=150, rate=0.02))
    uncertainty = heads.images(rows).uncertainty
    among = np.arange(60) % 3 == 0
    assert np.median(uncertainty[among]) > 1.5 * np.median(uncertainty[~among])
    plain = fit_variance_heads(rows, names, None, "x", VarianceTraining(steps=0, start=-3.0))
    assert np.allclose(plain.images(rows).uncertainty, np.exp(-3), atol=1e-6)


def test_learning_lowers_the_loss_and_is_the_same_twice() -> None:
    rows, names = _clear_and_ambiguous()
    texts = normalize_rows(np.array([[1.0] + [0.0] * 7 if n.endswith("1") else [-1.0] + [0.0] * 7 for n in names]))
    classes = torch.tensor([int(name[-1]) for name in names])

    def loss(heads: VarianceHeads) -> float:
        assert heads.texts is not None
        sides = [
            torch.from_numpy(head(part).samples([f"{n}{i}" for i in range(60)]))
            for n, (head, part) in enumerate(((heads.images, rows), (heads.texts, texts)))
        ]
        scale = [torch.tensor(heads.a), torch.tensor(heads.b)]
        return float(soft_contrastive(sides[0], sides[1], classes, scale, True, alone=False))

    before, after, again = (fit_variance_heads(rows, names, texts, "x", VarianceTraining(steps=n)) for n in (0, 60, 60))
    assert loss(after) < 0.8 * loss(before)
    assert np.array_equal(after.images.weights, again.images.weights)
    assert (after.a, after.b) == (again.a, again.b) != (before.a, before.b)
    fixed_scale = fit_variance_heads(rows, names, texts, "x", VarianceTraining(steps=5, a=4.0, b=2.0))
    assert (fixed_scale.a, fixed_scale.b) == (4.0, 2.0)


def test_a_deviation_stays_within_bounds_for_any_rate() -> None:
    rows, names = _clear_and_ambiguous()
    heads = fit_variance_heads(rows, names, None, "x", VarianceTraining(steps=5, rate=100.0))
    uncertainty = heads.images(rows).uncertainty
    assert np.isfinite(uncertainty).all()
    assert uncertainty.max() <= np.exp(5) * 1.001
    assert heads.a > 0


@pytest.mark.parametrize("released", [False, True])
def test_the_loss_counts_pairs_as_written(released: bool) -> None:
    """Points without deviation at 0 and 1, in two classes: matches at distance 0, the rest at 1; a = b = 1."""
    points = torch.tensor([[[0.0]], [[1.0]]]).repeat(1, 7, 1)
    scale, steep = [torch.tensor(1.0), torch.tensor(1.0)], 2 if released else 1
    loss = float(soft_contrastive(points, points, torch.tensor([0, 1]), scale, released, alone=False))
    match = np.log1p(np.exp(-steep * (1 - 1e-3)))
    rest = np.log1p(np.exp(steep * (1 - np.sqrt(1 + 1e-6))))
    assert loss == pytest.approx((match + rest) / 2, abs=1e-5)
    alone = float(soft_contrastive(points, points, torch.tensor([0, 0]), scale, released, alone=True))
    distinct = np.log1p(np.exp(-steep * (1 - np.sqrt(1 + 1e-6))))
    assert alone == pytest.approx(distinct / 2, abs=1e-5)  # no pair with itself


def test_saved_heads_equal_the_originals_and_belong_to_one_embedder(
    pool: Pool, example: Make, pointing: Make, number_embedder: Any, tmp_path: Path
) -> None:
    query, path = example("q", pointing((1, 0, 0), 9)), tmp_path / "heads.safetensors"
    node = {"name": "probabilistic", "of": number_embedder, "pairs": "question", "steps": 15}
    pool = Pool(tuple(example(e.id, e.images[0], question=f"{i} 1 0") for i, e in enumerate(pool.examples)))
    fitted = build("retriever", {"name": "pcme", "embedder": node}).fit(pool, Resources())
    fitted.source.heads.save(path)
    made, read = fitted.source.heads, VarianceHeads.load(path)
    assert made.texts is not None
    assert read.texts is not None
    assert np.array_equal(read.texts.weights, made.texts.weights)
    assert not np.array_equal(read.texts.weights, read.images.weights)
    assert set(fitted.uncertainty) == {e.id for e in pool.examples}
    again = build("retriever", {"name": "pcme", "embedder": {**node, "heads": str(path)}}).fit(
        Pool(pool.examples), Resources()
    )
    assert again.uncertainty == fitted.uncertainty
    assert again.retrieve([query.query], 4) == fitted.retrieve([query.query], 4)
    other = build("embedder", {"name": "probabilistic", "of": type(number_embedder)("other"), "heads": str(path)})
    with pytest.raises(PlanError, match="trained with another embedder"):
        other.preflight()
    (tmp_path / "nothing").write_bytes(b"nothing")
    for name in ("nothing", "none"):
        with pytest.raises(DataError, match="is not a file of variance heads"):
            build(
                "embedder", {"name": "probabilistic", "of": number_embedder, "heads": str(tmp_path / name)}
            ).preflight()


def test_a_question_is_compared_with_images_and_texts(
    example: Make, pointing: Make, number_embedder: Any, tmp_path: Path
) -> None:
    """All texts are certain, so the score depends only on the distance."""
    rows = {"x": ((1, 0, 0), "0 1 0"), "y": ((0, 1, 0), "1 0 0")}
    pool = Pool(tuple(example(n, pointing(at, i), text) for i, (n, (at, text)) in enumerate(rows.items())))
    query = example("q", pointing((0.9, 0.1, 0), 9), question="0.9 0.1 0")
    node = {"name": "probabilistic", "of": number_embedder, "steps": 0, "start": -20.0}

    def first(**more: str) -> str:
        retriever = build("retriever", {"name": "pcme", "embedder": node, **more})
        return str(retriever.fit(pool, Resources()).retrieve([query.query], 1)[0][0].id)

    assert first() == "x"
    assert first(member="text") == "y"
    assert first(query="question") == "x"
    assert first(query="question", member="text") == "y"


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ({"embedder": "histogram"}, r"the uncertainty of an item, and Histogram\(.* does not estimate"),
        ({"embedder": {"name": "probabilistic", "of": "histogram"}}, r"pairs is 'answer', and Histogram.*no texts"),
        ({"embedder": {"name": "probabilistic", "of": "encoder", "start": 1000.0}}, "start: input should be less"),
        (
            {"embedder": {"name": "probabilistic", "of": "pixels", "pairs": "label"}, "member": "text"},
            "query or member is a text, and its embedder learns from images alone",
        ),
    ],
)
def test_missing_requirements_are_an_error_before_embedding(node: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build("retriever", {"name": "pcme", **node})


def test_a_pool_without_training_pairs_is_an_error(example: Make, noise: Make) -> None:
    query = example("q", noise(9))
    one_answer = Pool(tuple(example(f"e{i}", noise(i), "a", label="a") for i in range(3)))
    with pytest.raises(PlanError, match="all 3 examples with an image say the same"):
        _retrieve(one_answer, query, "histogram")
    alone = Pool(tuple(example(f"e{i}", noise(i), f"{i}", label=f"{i}") for i in range(3)))
    with pytest.raises(PlanError, match="labels with two examples or more; each of the 3 has its own"):
        _retrieve(alone, query, "histogram")


def test_retriever_conformance(clip: Any, cache: Any) -> None:
    embedder = {"name": "probabilistic", "of": {"name": "encoder", "path": str(clip)}, "steps": 5}
    labels = {"name": "probabilistic", "of": "histogram", "pairs": "label", "steps": 5}
    for node in (
        {"embedder": labels},
        {"embedder": embedder, "query": "question"},
        {"embedder": embedder, "member": "text"},
    ):
        check_retriever(build("retriever", {"name": "pcme", **node}), resources=Resources(cache=str(cache)))


@pytest.mark.parametrize("more", [{}, {"query": "question", "member": "text"}])
def test_prepared_items_are_not_embedded_again(clip: Path, color: Make, example: Make, more: dict[str, str]) -> None:
    embedder = {"name": "probabilistic", "of": {"name": "encoder", "path": str(clip)}, "steps": 1}
    retriever = build("retriever", {"name": "pcme", "embedder": embedder, **more})
    pools = [Pool(tuple(example(f"e{n}-{i}", color("red", 5 * n + i), f"{n} {i}") for i in range(4))) for n in (0, 1)]
    queries = [example(f"q{n}", color("red", 5 * n + 4), question=f"which {n} ?").query for n in (0, 1)]
    before = num_embedded()
    retriever.prepare([*queries, *(e for pool in pools for e in pool.examples)], Resources())
    between = num_embedded()
    for pool, query in zip(pools, queries, strict=True):
        assert len(retriever.fit(pool, Resources()).retrieve([query], 2)[0]) == 2
    assert num_embedded() == between != before


def test_the_default_uses_the_shipped_encoder(cache: Any) -> None:
    if not (SHIPPED["tiny"] / "config.json").is_file():
        pytest.skip("the shipped encoder is not in the tree")
    check_retriever(build("retriever", "pcme"), resources=Resources(cache=str(cache)))


def test_damaged_heads_are_an_error_and_edited_heads_another_component(number_embedder: Any, tmp_path: Path) -> None:
    path = _heads(tmp_path / "heads", number_embedder, np.eye(3), -4.0)
    node = {"name": "probabilistic", "of": number_embedder, "pairs": "label", "heads": path}
    before = build("embedder", node)
    _heads(tmp_path / "heads", number_embedder, 2 * np.eye(3), -4.0)
    after = build("embedder", node)
    assert describe(after) != describe(before)
    assert after.digest != before.digest
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[:-48] + bytes(48))
    with pytest.raises(DataError, match="does not match its checksum"):
        build("embedder", node).preflight()
