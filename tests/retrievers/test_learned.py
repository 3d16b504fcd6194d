"""The retriever `learned`: its file, its scores, its controls, and files that do not fit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icl.errors import ConfigError, DataError, PlanError
from icl.registry import build
from retrievers.base import EXCLUDE_LEAKS, Resources, run_preflight
from retrievers.learned import TRAINED_ON, Learned, LearnedHeads
from retrievers.machinery.bilinear_head import Feedback
from retrievers.machinery.conformance import check_retriever, sample_pool, sample_queries
from retrievers.nearest import KNN

NODE = {"name": "learned", "embedder": "histogram", "text": None, "steps": 20}
Make = Callable[..., Any]


@pytest.fixture
def feedback() -> Feedback:
    """The members of the sample pool as queries: one of the same color helps, itself is not allowed."""
    members = sample_pool().examples[:12]
    allowed = ~np.eye(len(members), dtype=bool)
    colors = np.array([member.answer for member in members])
    logprobs = np.where(colors[:, None] == colors, 0, -3) + 0.01 * np.arange(len(members))
    return Feedback(members, members, np.where(allowed, logprobs, np.nan).astype(np.float32), allowed)


@pytest.fixture
def fitted(feedback: Feedback, tmp_path: Path) -> Path:
    learn(feedback).save(tmp_path / "head.safetensors")
    return tmp_path / "head.safetensors"


def learn(feedback: Feedback, **more: Any) -> LearnedHeads:
    record = {"images": [feedback.queries[0].images[0].source_digest]}
    heads: LearnedHeads = build("retriever", NODE | more).learn(feedback, record, Resources())
    return heads


def retriever(path: Path | str, **more: Any) -> Any:
    return build("retriever", {"name": "learned", "embedder": "histogram", "fitted": str(path), **more})


def test_a_fitted_head_is_a_retriever(fitted: Path) -> None:
    check_retriever(retriever(fitted))


def test_the_ranking_is_the_one_of_the_formula(fitted: Path, feedback: Feedback) -> None:
    learned, pool, queries = retriever(fitted), sample_pool(), sample_queries()
    vectors = build("embedder", "histogram").embed_images
    head = learned.file.heads["none"]
    x, z = (vectors(items) * np.float32(vectors(items).shape[1] ** 0.5) for items in (queries, pool.examples))
    for query, scores, demos in zip(
        queries, head.scores(x, z), learned.fit(pool, Resources()).retrieve(queries, 5), strict=True
    ):
        is_allowed = EXCLUDE_LEAKS.allowed_for(query)
        best = sorted((-score, i) for i, score in enumerate(scores.tolist()) if is_allowed(pool.examples[i]))[:5]
        assert [demo.id for demo in demos] == [pool.examples[i].id for _, i in best]
        assert {pool.by_id[demo.id].answer for demo in demos[:3]} == {query.answer}


def test_a_fit_of_the_same_feedback_is_the_same_file(feedback: Feedback, fitted: Path, tmp_path: Path) -> None:
    learn(feedback).save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == fitted.read_bytes()


def test_the_controls_are_heads_of_the_file_and_neighbors_in_its_vectors(fitted: Path) -> None:
    *heads, nearest = retriever(fitted).controls()
    assert [head.control for head in heads] == ["permuted_queries", "permuted_candidates", "same_answer"]
    assert nearest == KNN(embedder=build("embedder", "histogram"), by="image")
    for head in heads:
        assert head.controls() == ()
        check_retriever(head)
    pool, queries = sample_pool(), sample_queries()
    (same,) = (head for head in heads if head.control == "same_answer")
    demos = same.fit(pool, Resources()).retrieve(queries, 3)
    assert all(pool.by_id[d.id].answer == q.answer for q, own in zip(queries, demos, strict=True) for d in own)


def test_a_query_whose_image_trained_the_head_is_marked(fitted: Path, feedback: Feedback) -> None:
    own = retriever(fitted).fit(sample_pool(), Resources())
    trained, other = own.retrieve([feedback.queries[0].query, sample_queries()[0].query], 2)
    assert {demo.mark for demo in trained} == {TRAINED_ON}
    assert {demo.mark for demo in other} == {""}


def test_a_query_is_never_its_own_candidate_nor_is_a_copy_of_its_image() -> None:
    pool, queries = sample_pool(), sample_queries()
    learned: Learned = build("retriever", NODE | {"candidates": 6})
    for query, ids in zip(queries, learned.feedback_candidates(queries, pool, Resources()), strict=True):
        assert len(set(ids)) == len(ids) == 6
        assert all(EXCLUDE_LEAKS.allowed_for(query)(pool.by_id[name]) for name in ids)
        near = KNN(embedder=learned.embedder).fit(pool, Resources()).retrieve([query], 3)[0]
        assert ids[:3] == tuple(demo.id for demo in near)
    again = learned.feedback_candidates(queries[::-1], pool, Resources())
    assert list(again)[::-1] == list(learned.feedback_candidates(queries, pool, Resources()))


def test_a_pool_smaller_than_the_candidates_is_scored_whole() -> None:
    pool, query = sample_pool(), sample_queries()[0]
    (ids,) = build("retriever", NODE | {"candidates": 99}).feedback_candidates([query], pool, Resources())
    assert sorted(ids) == sorted(e.id for e in pool.examples if EXCLUDE_LEAKS.allowed_for(query)(e))


def test_a_control_of_a_retriever_that_was_not_fitted_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"control: same_answer is a head in the file of a fit, and `fitted` names none"
    ):
        build("retriever", {"name": "learned", "control": "same_answer"})


def test_a_retriever_without_a_file_says_how_to_fit_it() -> None:
    with pytest.raises(ConfigError, match=r"'learned' has no head yet\. `icl fit FILE"):
        run_preflight(build("retriever", NODE))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"fitted": "nowhere.safetensors"}, ConfigError, "there is no file nowhere.safetensors"),
        ({"embedder": {"name": "histogram", "bins": 4}}, PlanError, "was trained with another embedder"),
        ({"loss": "epr"}, ConfigError, "loss: epr, and .* was fitted with list. Remove the key, or fit again"),
        ({"text": "both", "embedder": "encoder"}, ConfigError, "text: both, and .* was fitted with None"),
    ],
)
def test_a_file_that_does_not_fit_is_an_error(change: Any, error: Any, message: str, fitted: Path) -> None:
    with pytest.raises(error, match=message):
        run_preflight(retriever(**{"path": fitted, **change} if "fitted" not in change else {"path": change["fitted"]}))


def test_a_damaged_file_and_one_of_another_kind_are_errors(fitted: Path, feedback: Feedback) -> None:
    learned = retriever(fitted)
    fitted.write_bytes(fitted.read_bytes()[:-1] + b"x")
    with pytest.raises(ConfigError, match="has changed: its digest is"):
        run_preflight(learned)
    with pytest.raises(DataError, match="is damaged: its content does not match its checksum"):
        run_preflight(retriever(fitted))
    fitted.write_text("{}")
    with pytest.raises(DataError, match="is not a file that `icl fit` wrote for the retriever 'learned'"):
        run_preflight(retriever(fitted))


def test_the_settings_of_the_file_decide_and_need_not_be_repeated(feedback: Feedback, tmp_path: Path) -> None:
    learn(feedback, loss="epr", dimensions=3).save(tmp_path / "epr.safetensors")
    for more in ({}, {"loss": "epr", "dimensions": 3}):
        assert retriever(tmp_path / "epr.safetensors", **more).file.settings["dimensions"] == 3
    assert retriever(tmp_path / "epr.safetensors").file.heads["none"].queries.shape[0] == 3


def test_presets_compare_what_the_papers_compare() -> None:
    epr, msier = (build("retriever", {"name": "learned", "preset": name}) for name in ("epr", "msier"))
    assert (epr.by, epr.loss, epr.modalities) == ("question", "epr", frozenset({"text"}))
    assert (msier.by, msier.text, msier.loss) == ("image", "both", "epr")
    assert replace(msier, text=None).modalities == frozenset({"image"})
