"""Retrievers that choose a set, on pools where the right set is known."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from icl.errors import ConfigError, DataError, PlanError
from icl.registry import build
from icl.tasks.base import Pool
from icl.types import Example
from retrievers import image_and_text
from retrievers import subsets as dpp
from retrievers.base import Resources
from retrievers.machinery.similarity import fit_similarity
from retrievers.subsets import FittedSetCoverage
from retrievers.vote_k import most_voted

Make = Callable[..., Any]


@pytest.fixture
def clusters(example: Make, turned: Make) -> Pool:
    """Four members near the query at 0 degrees, nearly equal, and two a little farther on the other side."""
    angles = {"near-0": 10, "near-1": 11, "near-2": 12, "near-3": 13, "far-0": -20, "far-1": -21}
    return Pool(tuple(example(name, None, question=turned(angle)) for name, angle in angles.items()))


def _retrieve(node: dict[str, Any], pool: Pool, query: Example, k: int) -> Any:
    return build("retriever", node).fit(pool, Resources()).retrieve([query.query], k)[0]


def _ids(node: dict[str, Any], pool: Pool, query: Example, k: int) -> list[str]:
    return [one.id for one in _retrieve(node, pool, query, k)]


@pytest.mark.parametrize(
    "node",
    [{"name": "mmr", "balance": 0.5}, {"name": "dpp", "scale": 1}, {"name": "diverse_subset"}],
    ids=lambda node: str(node["name"]),
)
def test_of_two_clusters_one_of_each_is_chosen(
    node: dict[str, Any], clusters: Pool, example: Make, number_embedder: Any, turned: Make
) -> None:
    query = example("q", None, question=turned(0))
    settings = {"by": "question", "embedder": number_embedder}
    assert _ids({"name": "knn", **settings}, clusters, query, 2) == ["near-0", "near-1"]
    one, other = _ids({**node, **settings}, clusters, query, 2)
    assert {one[:4], other[:4]} == {"near", "far-"}


def test_mmr_at_balance_one_is_knn(clusters: Pool, example: Make, number_embedder: Any, turned: Make) -> None:
    query, settings = example("q", None, question=turned(0)), {"by": "question", "embedder": number_embedder}
    plain = _retrieve({"name": "knn", **settings}, clusters, query, 6)
    assert _retrieve({"name": "mmr", "balance": 1, **settings}, clusters, query, 6) == plain


def test_scores_are_relevance_and_the_first_is_the_nearest(
    clusters: Pool, example: Make, number_embedder: Any, turned: Make
) -> None:
    node = {"name": "mmr", "balance": 0.2, "by": "question", "embedder": number_embedder}
    demos = _retrieve(node, clusters, example("q", None, question=turned(0)), 3)
    assert demos[0].id == "near-0"
    angles = {"near-0": 10, "near-1": 11, "near-3": 13, "far-0": -20, "far-1": -21}
    assert [one.score for one in demos] == pytest.approx([np.cos(np.radians(angles[o.id])) for o in demos], abs=1e-5)


def test_candidates_bound_the_choice_and_the_next_nearest_follow(
    clusters: Pool, example: Make, number_embedder: Any, turned: Make
) -> None:
    node = {"name": "mmr", "balance": 0, "candidates": 2, "by": "question", "embedder": number_embedder}
    ids = _ids(node, clusters, example("q", None, question=turned(0)), 4)
    assert ids == ["near-0", "near-1", "near-2", "near-3"]


def test_dpp_fills_up_by_relevance_with_a_mark(example: Make, number_embedder: Any) -> None:
    pool = Pool(tuple(example(f"e{i}", None, question=text) for i, text in enumerate(["1 0", "1 0", "1 0", "0 1"])))
    node = {"name": "dpp", "by": "question", "embedder": number_embedder}
    demos = _retrieve(node, pool, example("q", None, question="1 0"), 4)
    assert [(one.id, one.mark) for one in demos] == [("e0", ""), ("e3", ""), ("e1", dpp.MARK), ("e2", dpp.MARK)]


def test_mmr_has_no_silent_balance() -> None:
    with pytest.raises(ConfigError, match=r"mmr', balance: .*required"):
        build("retriever", "mmr")


@pytest.fixture
def documents(example: Make, pointing: Make) -> Pool:
    """Members ordered by relevance to '1 0 0' with an equal image: two copies, then two near-duplicates."""
    places = {"copy": (1, 0, 0), "same": (0.9, 0.05, 0), "one": (0.8, 0.6, 0), "one-again": (0.8, 0.6, 0)}
    places |= {"two": (0.8, 0, 0.6), "none": (0, 1, 0)}
    return Pool(
        tuple(
            example(name, pointing(at, i), question=" ".join(map(str, at)))
            for i, (name, at) in enumerate(places.items())
        )
    )


def test_ra_cm3_drops_copies_of_the_query_and_of_the_chosen(
    documents: Pool, example: Make, number_embedder: Any, pointing: Make
) -> None:
    query = example("q", pointing((1, 0, 0), 60), question="1 0 0")
    demos = _retrieve({"name": "ra_cm3", "embedder": number_embedder}, documents, query, 3)
    assert {one.id for one in demos[:2]} == {"one", "two"}
    assert demos[2].id == "none"
    assert not any(one.mark for one in demos)


def test_ra_cm3_returns_fewer_with_a_mark(documents: Pool, example: Make, number_embedder: Any, pointing: Make) -> None:
    query = example("q", pointing((1, 0, 0), 60), question="1 0 0")
    demos = _retrieve({"name": "ra_cm3", "embedder": number_embedder}, documents, query, 5)
    assert [one.mark for one in demos] == [image_and_text.MARK, "", ""]


def test_ra_cm3_takes_documents_with_both_modalities_only(example: Make, number_embedder: Any, pointing: Make) -> None:
    bare = example("bare", None, question="0.8 0.6 0")
    complete = example("seen", pointing((0, 1, 0)), question="0 1 0")
    query = example("q", pointing((1, 0, 0), 9), question="1 0 0")
    assert [
        o.id for o in _retrieve({"name": "ra_cm3", "embedder": number_embedder}, Pool((bare, complete)), query, 2)
    ] == ["seen"]


def test_ra_cm3_reads_a_query_without_an_image_by_its_text(
    documents: Pool, example: Make, number_embedder: Any, pointing: Make
) -> None:
    node = {"name": "ra_cm3", "embedder": number_embedder}
    by_text = _retrieve(node, documents, example("q", None, question="0 1 0"), 3)
    assert [one.id for one in by_text] == ["one", "same", "two"], "`none` is a copy of the query"
    by_both = _retrieve(node, documents, example("q", pointing((0, 0, 1), 60), question="0 1 0"), 3)
    assert by_both[0].id == "none", "with another image it is no copy"
    assert by_text[0].score == pytest.approx(0.6, abs=0.01)


def test_votes_are_discounted_where_a_member_was_chosen() -> None:
    """Rows 0-3 vote for each other, 4 and 5 for each other: after one of the first, the next is of the second."""
    near = np.array([[1, 2], [0, 2], [0, 1], [0, 1], [5, 3], [4, 3]])
    assert most_voted(near, 3, rho=10)[0] == 0  # three votes, and before row 1, which has as many
    assert most_voted(near, 2, rho=1)[1] == 1  # undiscounted: rows 1 and 2 still vote for each other and so on
    assert most_voted(near, 2, rho=10)[1] in (3, 4, 5)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("rho", [1.0, 2.0, 10.0])
def test_vote_k_is_its_formula(seed: int, rho: float) -> None:
    """Selected members neither vote nor are selected again; ties go to more undiscounted votes, then to the first."""
    rng = np.random.default_rng(seed)
    count, votes_each = 14, 3
    near = np.array([rng.choice([j for j in range(count) if j != i], votes_each, replace=False) for i in range(count)])
    selected: list[int] = []
    while len(selected) < 9:
        scores = {
            u: sum(
                rho ** -sum(member in near[v] for member in selected)
                for v in range(count)
                if v not in selected and u in near[v]
            )
            for u in range(count)
            if u not in selected
        }
        plain = {u: int((near == u).sum()) for u in scores}
        selected.append(max(scores, key=lambda u: (round(scores[u], 9), plain[u], -u)))
    assert most_voted(near, 9, rho) == selected


def test_a_member_votes_for_its_copy_and_never_for_itself(
    example: Make, number_embedder: Any, turned: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrievers.vote_k.most_voted", lambda near, size, rho: near.tolist())
    pool = Pool(tuple(example(name, None, question=turned(a)) for name, a in (("one", 0), ("copy", 0), ("far", 90))))
    retriever: Any = build(
        "retriever", {"name": "vote_k", "by": "question", "neighbors": 1, "embedder": number_embedder}
    )
    assert retriever.select_rows(fit_similarity(retriever, pool, Resources()).index, 2) == [[1], [0], [0]]


def test_vote_k_with_the_whole_pool_names_the_pool(example: Make, number_embedder: Any, turned: Make) -> None:
    pool = Pool(tuple(example(f"at-{a}", None, question=turned(a)) for a in (0, 9, 60)))
    node = {"name": "vote_k", "by": "question", "embedder": number_embedder}
    assert _ids(node, pool, example("q", None, question=turned(1)), 3) == ["at-0", "at-9", "at-60"]
    with pytest.raises(PlanError, match="4 demonstrations for query 'q' from a pool of 3"):
        _ids(node, pool, example("q", None, question=turned(1)), 4)


def test_vote_k_gives_the_nearest_of_the_representatives(example: Make, number_embedder: Any, turned: Make) -> None:
    angles = [0, 1, 2, 3, 90, 91, 92, 180, 181, 182]
    pool = Pool(tuple(example(f"at-{a}", None, question=turned(a)) for a in angles))
    node = {"name": "vote_k", "size": 3, "neighbors": 2, "by": "question", "embedder": number_embedder}
    ids = _ids(node, pool, example("q", None, question=turned(95)), 3)
    assert ids[0] in {"at-90", "at-91", "at-92"}
    assert {int(name[3:]) // 60 for name in ids} == {0, 1, 3}
    with pytest.raises(PlanError, match=r"chose 3 of the pool's 10 members, but 4 shots are requested. Increase size"):
        _ids(node, pool, example("q", None, question=turned(95)), 4)


def test_set_coverage_covers_what_knn_repeats(example: Make, number_embedder: Any) -> None:
    """Each of two members has one half of the query; a third one has the first half twice."""
    words = {"left": "1 0 0, 0 0 1", "left-again": "1 0 0, 1 0 0", "right": "0 0 -1, 0 0.99 0.14"}
    pool = Pool(tuple(example(name, None, question=text) for name, text in words.items()))
    query = example("q", None, question="1 0 0, 1 0 0, 0 1 0")
    settings = {"by": "question", "embedder": number_embedder}
    assert _ids({"name": "late_interaction", **settings}, pool, query, 2) == ["left", "left-again"]
    assert _ids({"name": "set_coverage", **settings}, pool, query, 2) == ["left", "right"]


def test_late_interaction_is_the_query_s_mean_of_best_matches(example: Make, number_embedder: Any) -> None:
    pool = Pool((example("one", None, question="0.6 0.8 0"), example("two", None, question="0.6 0.8 0, 0 0 1")))
    node = {"name": "late_interaction", "by": "question", "embedder": number_embedder}
    demos = _retrieve(node, pool, example("q", None, question="1 0 0, 0 0 1"), 2)
    assert [(one.id, one.score) for one in demos] == [("two", pytest.approx(0.8)), ("one", pytest.approx(0.3))]
    (back,) = _retrieve(node, Pool((example("q", None, question="1 0 0, 0 0 1"),)), pool.examples[0], 1)
    assert back.score == pytest.approx(0.6)  # not symmetric


def test_set_coverage_of_patches_finds_both_colors(color: Make, example: Make) -> None:
    from PIL import Image as PILImage

    from icl.images import Image

    def halves(left: str, right: str, mark: int) -> Image:
        image = PILImage.new("RGB", (32, 32), left)
        image.paste(PILImage.new("RGB", (16, 32), right), (16, 0))
        image.putpixel((mark, 0), (128, 128, 128))
        return Image.from_pil(image, f"{left}-{right}-{mark}")

    pool = Pool(
        (
            example("red-lime", halves("red", "lime", 1)),
            example("red-yellow", halves("red", "yellow", 2)),
            example("blue", color("blue", 3)),
        )
    )
    query = example("q", halves("red", "blue", 5))
    ids = _ids({"name": "set_coverage", "embedder": "histogram"}, pool, query, 2)
    assert set(ids) == {"red-lime", "blue"}


def test_without_words_there_is_nothing_to_cover(example: Make, number_embedder: Any) -> None:
    pool = Pool((example("one", None, question="1 0 0"),))
    with pytest.raises(DataError, match="'q' has no words to compare"):
        _ids(
            {"name": "set_coverage", "by": "question", "embedder": number_embedder},
            pool,
            example("q", None, question=" "),
            1,
        )


def test_an_embedder_without_parts_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"embedder Histogram.* gives no vectors of words"):
        build("retriever", {"name": "set_coverage", "by": "question", "embedder": "histogram"})


def test_set_coverage_weighs_words_by_idf(example: Make) -> None:
    """log((N + 1) / (df + 1)) over a pool of three: 0 for `the` in all of them, log(4 / 2) for `red` in one."""
    pool = Pool(
        tuple(example(n, None, question=q) for n, q in (("a", "the red"), ("b", "the blue"), ("c", "the circle")))
    )
    retriever = build("retriever", {"name": "set_coverage", "by": "question", "idf": True})
    fitted = retriever.fit(pool, Resources(0))
    tokens = retriever.embedder.tokens
    query = example("q", None, question="the red blue").query
    ((the,), (red,), (blue,)) = tokens(["the", "red", "blue"])
    assert tokens(["the red blue"]) == [(the, red, blue)]
    assert len(retriever.embedder.embed_words(["the red blue"])[0].any(axis=1).nonzero()[0]) == 3
    weights = fitted.part_weights(query, np.full(3, 1 / 3))
    assert weights == pytest.approx([0, 0.5, 0.5])
    more = example("q", None, question="the red green").query
    rare = np.log([4 / 2, 4 / 1])
    assert fitted.part_weights(more, np.full(3, 1 / 3)) == pytest.approx([0, *(rare / rare.sum())])
    both = build("retriever", {"name": "set_coverage", "by": "both", "weight": 0.25, "idf": True})
    shared = FittedSetCoverage(both, pool, fitted.source, fitted.parts, fitted.document_counts)
    assert shared.part_weights(query, np.full(5, 0.1)) == pytest.approx([0.1, 0.1, 0, 0.375, 0.375])
    assert {one.id for one in fitted.retrieve([query], 2)[0]} == {"a", "b"}


def test_words_that_all_members_have_are_no_weights(example: Make) -> None:
    pool = Pool(tuple(example(n, None, question="the red") for n in "ab"))
    fitted = build("retriever", {"name": "set_coverage", "by": "question", "idf": True}).fit(pool, Resources(0))
    with pytest.raises(DataError, match=r"query 'q': every word of 'the red' is in every member of the pool"):
        fitted.retrieve([example("q", None, question="the red").query], 1)


@pytest.mark.parametrize(
    ("node", "sentence"),
    [({}, "idf weighs words, and by is 'image'"), ({"by": "question", "embedder": None}, "gives no words")],
)
def test_idf_needs_words(node: dict[str, Any], sentence: str, number_embedder: Any) -> None:
    node = {key: value or number_embedder for key, value in node.items()}
    with pytest.raises(ConfigError, match=sentence):
        build("retriever", {"name": "set_coverage", "idf": True, **node})
