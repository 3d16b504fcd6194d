"""Retrieval under a distribution shift: source domains, and the head that removes the domain."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icl.component_json import describe
from icl.errors import ConfigError, DataError, PlanError
from icl.registry import build
from icl.tasks.base import Pool
from icl.types import Example
from retrievers import invariant_select
from retrievers.base import Resources, normalize_rows
from retrievers.machinery.trained_heads import ContrastiveHead, HeadTraining, contrastive_loss, train_head

Make = Callable[..., Any]


def _loss(rows: list[list[float]], classes: list[int], domains: list[int], **more: Any) -> float:
    training = HeadTraining(temperature=1.0, **more)
    return float(contrastive_loss(torch.tensor(rows), torch.tensor(classes), torch.tensor(domains), training))


def test_the_loss_leaves_the_own_domain_s_class_out_of_the_sum() -> None:
    """Three of a class, one in another domain, and one of another class at a right angle to all.

    Anchors 0 and 1 have the positive 2 and the other class: log(1 + 1/e). Anchor 2 has two positives, each of
    log((2e + 1) / e); the other class's row has no positive. Counting all rows, an anchor's own-domain neighbor, which
    is as near as the positive, is pushed away: log(2 + 1/e).
    """
    rows, classes, domains = [[1.0, 0.0]] * 3 + [[0.0, 1.0]], [0, 0, 0, 1], [0, 0, 1, 0]
    pushed = log(2 + 1 / np.e)
    assert _loss(rows, classes, domains) == pytest.approx((2 * log(1 + 1 / np.e) + pushed) / 3)
    assert _loss(rows, classes, domains, sum_over="all_rows") == pytest.approx(pushed)
    assert _loss(rows, classes, domains, positives="class") == pytest.approx(pushed)


def test_one_domain_falls_back_to_the_class() -> None:
    rows, classes = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [0, 0, 1]
    assert _loss(rows, classes, [0, 0, 0]) == pytest.approx(log(1 + 1 / np.e))
    assert _loss(rows, [0, 1, 2], [0, 0, 0]) == 0


CLASSES, DOMAINS, EACH = 6, ("ink", "oil", "photo"), 6


def _shifted(seed: int = 0, dim: int = 16) -> list[tuple[str, str, Any]]:
    """(label, domain, vector): a class direction plus a domain direction that exchanges the classes."""
    rng = np.random.default_rng(seed)
    centers = normalize_rows(rng.normal(size=(CLASSES, dim // 2)))
    out = []
    for d, domain in enumerate(DOMAINS):
        confusing = normalize_rows(rng.normal(size=(CLASSES, dim // 2)))
        for c in range(CLASSES):
            for _ in range(EACH):
                noise = 0.25 * rng.normal(size=dim)
                style = confusing[(c + d) % CLASSES] + 1.5 * rng.normal(size=dim // 2)
                out.append((f"class-{c}", domain, np.concatenate([centers[c], style]) + noise))
    return out


@pytest.fixture
def shifted(example: Make) -> tuple[Pool, list[Example]]:
    """A pool of two domains, and queries of a third one. The questions contain the image vectors."""
    made = [
        example(f"e{i}", None, label, label=label, domain=domain, question=" ".join(f"{x:.6f}" for x in vector))
        for i, (label, domain, vector) in enumerate(_shifted())
    ]
    return Pool(tuple(e for e in made if e.domain != "photo")), [e for e in made if e.domain == "photo"]


def _precision(node: dict[str, Any], pool: Pool, queries: list[Example], k: int = 5) -> float:
    results = build("retriever", node).fit(pool, Resources()).retrieve([q.query for q in queries], k)
    right = [pool.by_id[one.id].label == q.label for q, demos in zip(queries, results, strict=True) for one in demos]
    return float(np.mean(right))


def test_the_head_raises_precision_in_an_unseen_domain(shifted: Any, number_embedder: Any) -> None:
    pool, queries = shifted
    settings = {"by": "question", "embedder": number_embedder}
    frozen = _precision({"name": "topk_nearest", **settings}, pool, queries)
    head = _precision({"name": "invariant_select", "steps": 100, "rate": 0.01, **settings}, pool, queries)
    assert frozen < 0.6
    assert head > frozen + 0.2


def test_an_untrained_head_is_topk_nearest(shifted: Any, number_embedder: Any) -> None:
    pool, queries = shifted
    settings = {"by": "question", "embedder": number_embedder}
    plain_queries = [query.query for query in queries]
    plain = build("retriever", {"name": "topk_nearest", **settings}).fit(pool, Resources()).retrieve(plain_queries, 7)
    untrained = build("retriever", {"name": "invariant_select", "steps": 0, **settings}).fit(pool, Resources())
    assert untrained.retrieve(plain_queries, 7) == plain


def test_a_saved_head_is_unchanged_on_another_pool(shifted: Any, number_embedder: Any, tmp_path: Path) -> None:
    pool, queries = shifted
    node = {"name": "invariant_select", "by": "question", "embedder": number_embedder}
    fitted = build("retriever", {**node, "steps": 20, "rate": 0.01}).fit(pool, Resources())
    fitted.head.save(tmp_path / "head.safetensors")
    head = ContrastiveHead.load(tmp_path / "head.safetensors")
    assert np.array_equal(head.weights, fitted.head.weights)
    assert head.domains == ("ink", "oil")
    plain_queries = [query.query for query in queries]
    again = build("retriever", {**node, "head": str(tmp_path / "head.safetensors")}).fit(
        Pool(pool.examples), Resources()
    )
    assert again.retrieve(plain_queries, 5) == fitted.retrieve(plain_queries, 5)
    other = build(
        "retriever", {**node, "embedder": type(number_embedder)("other"), "head": str(tmp_path / "head.safetensors")}
    )
    with pytest.raises(PlanError, match="trained with another embedder"):
        other.fit(pool, Resources())


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """A task whose pool trains a head for another."""

    examples: tuple[Example, ...]
    title: str = "elsewhere"

    @property
    def queries(self) -> tuple[Example, ...]:
        return self.examples[:1]

    @cached_property
    def whole(self) -> Pool:
        return Pool(self.examples)

    def pool(self, query_id: str) -> Pool:
        return self.whole

    @property
    def pool_size(self) -> int:
        return len(self.examples)


def test_a_head_of_another_task_serves_unseen_classes(shifted: Any, number_embedder: Any, tmp_path: Path) -> None:
    """`trained_on` and a saved head of the same examples are equal for any pool."""
    pool, queries = shifted
    node = {"name": "invariant_select", "by": "question", "embedder": number_embedder, "steps": 20, "rate": 0.01}
    training, unseen = (tuple(e for e in pool.examples if (e.label < "class-3") == first) for first in (True, False))
    plain_queries = [query.query for query in queries]
    trained = build("retriever", {**node, "trained_on": Elsewhere(training)}).fit(Pool(unseen), Resources())
    build("retriever", node).fit(Pool(training), Resources()).head.save(tmp_path / "seen.safetensors")
    saved = build("retriever", {**node, "head": str(tmp_path / "seen.safetensors")}).fit(Pool(unseen), Resources())
    own = build("retriever", node).fit(Pool(unseen), Resources())
    assert np.array_equal(trained.head.weights, saved.head.weights)
    assert trained.retrieve(plain_queries, 5) == saved.retrieve(plain_queries, 5)
    assert not np.array_equal(trained.head.weights, own.head.weights)
    with pytest.raises(ConfigError, match="Remove one of them"):
        build("retriever", {**node, "trained_on": Elsewhere(training), "head": "some.safetensors"})


def test_a_query_of_a_trained_domain_is_refused(shifted: Any, number_embedder: Any) -> None:
    pool, queries = shifted
    node = {"name": "invariant_select", "steps": 5, "by": "question", "embedder": number_embedder}
    whole = Pool((*pool.examples, *queries))
    with pytest.raises(PlanError, match=r"'photo', on which the head was trained \(ink, oil, photo\)"):
        build("retriever", node).fit(whole, Resources()).retrieve([queries[0].query], 3)
    fitted = build("retriever", {**node, "sources": ["ink", "oil"]}).fit(whole, Resources())
    assert fitted.head.domains == ("ink", "oil")
    assert {whole.by_id[one.id].domain for one in fitted.retrieve([queries[0].query], 20)[0]} == {"ink", "oil"}


def test_one_source_domain_is_marked(shifted: Any, number_embedder: Any) -> None:
    pool, queries = shifted
    node = {"name": "invariant_select", "steps": 5, "by": "question", "embedder": number_embedder, "sources": ["ink"]}
    (demos,) = build("retriever", node).fit(pool, Resources()).retrieve([queries[0].query], 2)
    assert [one.mark for one in demos] == [invariant_select.MARK] * 2
    assert {pool.by_id[one.id].domain for one in demos} == {"ink"}


def test_topk_nearest_gives_source_domains_only(shifted: Any, number_embedder: Any) -> None:
    pool, queries = shifted
    whole, node = (
        Pool((*queries, *pool.examples)),
        {"name": "topk_nearest", "by": "question", "embedder": number_embedder},
    )
    results = build("retriever", node).fit(whole, Resources()).retrieve([q.query for q in queries], 5)
    assert {whole.by_id[one.id].domain for demos in results for one in demos} == {"ink", "oil"}
    ink = build("retriever", {**node, "sources": ["ink"]}).fit(whole, Resources())
    message = r"37 demonstrations .*: 36 are left .* \(72 of the pool's 108 are of no source domain.\)"
    with pytest.raises(PlanError, match=message):
        ink.retrieve([queries[0].query], 37)
    with pytest.raises(PlanError, match=r"73 demonstrations .*: 72 are left .* give the task a larger pool\.$"):
        build("retriever", node).fit(pool, Resources()).retrieve([queries[0].query], 73)


def test_a_query_of_a_listed_source_gets_the_other_sources_only(shifted: Any, number_embedder: Any) -> None:
    pool, queries = shifted
    whole = Pool((*queries, *pool.examples))
    node = {"name": "topk_nearest", "by": "question", "embedder": number_embedder, "sources": ["ink", "oil"]}
    fitted = build("retriever", node).fit(whole, Resources())
    for domain, others in (("ink", {"oil"}), ("oil", {"ink"}), ("photo", {"ink", "oil"})):
        query = replace(queries[0].query, id="new", domain=domain)
        (demos,) = fitted.retrieve([query], 20)
        assert {whole.by_id[one.id].domain for one in demos} <= others, domain


def test_members_without_a_domain_are_of_every_source(example: Make, number_embedder: Any) -> None:
    pool = Pool(tuple(example(f"e{i}", None, question=f"{i} 1") for i in range(3)))
    node = {"name": "topk_nearest", "by": "question", "embedder": number_embedder}
    query = replace(example("q", None, question="1 1").query, domain="ink")
    (demos,) = build("retriever", node).fit(pool, Resources()).retrieve([query], 3)
    assert len(demos) == 3
    assert build("retriever", node).is_eligible(pool.examples[0], replace(query, domain=None))


def test_a_pool_of_one_class_is_nothing_to_learn_from(example: Make, number_embedder: Any) -> None:
    pool = Pool(tuple(example(f"e{i}", None, label="a", domain=f"{i}", question=f"{i} 1") for i in range(4)))
    retriever = build("retriever", {"name": "invariant_select", "by": "question", "embedder": number_embedder})
    with pytest.raises(PlanError, match="a head needs two labels or more to tell apart, and its 4 examples have one"):
        retriever.fit(pool, Resources())


@pytest.mark.parametrize(
    ("labels", "says"), [(["a"] * 4, "two labels or more"), (list("abcd"), "each of the 4 has its")]
)
def test_a_head_needs_something_to_learn(labels: list[str], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        train_head(normalize_rows(np.eye(4)), labels, ["x", "y", "x", "y"])


def test_a_file_without_a_head_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "head.safetensors").write_bytes(b"nothing")
    for name in ("head.safetensors", "none.safetensors"):
        with pytest.raises(DataError, match="is not a saved head"):
            ContrastiveHead.load(tmp_path / name)


def test_training_twice_gives_the_same_head() -> None:
    rng = np.random.default_rng(0)
    rows, labels, domains = (
        normalize_rows(rng.normal(size=(40, 8))),
        [f"{i % 4}" for i in range(40)],
        [f"{i % 3}" for i in range(40)],
    )
    one, two = (train_head(rows, labels, domains, training=HeadTraining(steps=15, batch=16)) for _ in range(2))
    assert np.array_equal(one.weights, two.weights)
    assert not np.allclose(one.weights, np.eye(8))


def test_a_head_does_not_depend_on_the_order_of_the_pool(shifted: Any, number_embedder: Any) -> None:
    pool, _ = shifted
    node = {"name": "invariant_select", "by": "question", "embedder": number_embedder, "steps": 9}
    one, other = (
        build("retriever", node).fit(Pool(examples), Resources()).head
        for examples in (pool.examples, pool.examples[::-1])
    )
    assert np.array_equal(one.weights, other.weights)


def test_a_damaged_head_is_an_error_and_not_another_head(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    ContrastiveHead(np.full((3, 3), 0.5, np.float32), "an embedder", ("x", "y")).save(path)
    content = path.read_bytes()
    assert content.endswith(np.full(9, 0.5, np.float32).tobytes())
    for damaged in (content[:-36] + bytes(36), content[:-1] + b"\1", content.replace(b"an embedder", b"no embedder")):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="does not match its checksum"):
            ContrastiveHead.load(path)
    for damaged in (content[:-4], b"", bytes(len(content))):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="is not a saved head"):
            ContrastiveHead.load(path)


def test_an_edited_head_is_another_component_and_a_change_in_a_run_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    embedder = build("embedder", "pixels")
    ContrastiveHead(np.eye(3, dtype=np.float32), embedder.digest).save(path)
    node = {"name": "invariant_select", "embedder": embedder, "head": str(path)}
    before = build("retriever", node)
    ContrastiveHead(2 * np.eye(3, dtype=np.float32), embedder.digest).save(path)
    assert describe(build("retriever", node)) != describe(before)
    with pytest.raises(ConfigError, match="has changed: its digest is"):
        before.preflight()
